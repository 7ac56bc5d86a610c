//! What is measured, as acts of a rank.

use std::sync::Arc;

use partita_ir::boxing::StepKind;
use partita_ir::dtype::DType;
use partita_ir::formula::{Formula, lit, x};
use partita_ir::id::{AxisId, Id};
use partita_ir::rule::{Access, DimAccess, Reduce, Rule};

use crate::comm::{Communicator, CopyBox, ExchangePlan, Pull, PullOp};
use crate::kernel::{Extent, Kernel, LaunchSpec};
use crate::run::prepare::{Act, Place};

/// Bytes of a rank's arena: more than a last-level cache has for it.
pub(super) const ARENA: usize = 128 << 20;
/// Multiply-adds of a measured product at least; smaller ones are measured in batches,
const MACS: u64 = 1 << 25;
/// as far as their matrices stay in a second-level cache.
const HOT: u64 = 1 << 19;
/// Bytes that collectives of one size walk over: in a step they come from other places each time.
const WALKED: usize = 16 << 20;
/// Bytes of a kernel that tells what memory takes, at most.
const SWEPT: u64 = 1 << 20;
/// Where the second and the third buffer of a kernel begin.
const SECOND: usize = ARENA / 4;
const THIRD: usize = ARENA / 2;

/// How the matrices of a product lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lies {
    Plain,
    LeftTurned,
    RightTurned,
}

impl Lies {
    pub const ALL: [Lies; 3] = [Lies::Plain, Lies::LeftTurned, Lies::RightTurned];
}

/// Products of a shape that are measured together.
pub(super) fn batch([m, n, k]: [u64; 3]) -> u64 {
    let bytes = 4 * (m * k + k * n + m * n);
    (MACS / (m * n * k)).min(HOT / bytes).clamp(1, 1 << 13)
}

/// Bytes that each kernel of a sweep reads and writes.
pub(super) fn swept(distance: u64) -> u64 {
    SWEPT.min(distance)
}

/// A kernel, or what passes between ranks.
pub(super) enum Case {
    Kernel {
        rule: Rule,
        sizes: Vec<u64>,
        dtypes: Vec<DType>,
        /// Runs over so many bytes before it comes back to some; 0 runs in one place.
        sweep: u64,
    },
    Collective {
        kind: StepKind,
        bytes: u64,
    },
    Send {
        bytes: u64,
    },
}

impl Case {
    fn kernel(sizes: &[u64], operands: &[&[usize]], result: &[usize], reduce: Option<Reduce>, formula: &Formula) -> Case {
        let access = |factors: &[usize]| -> Access { factors.iter().map(|factor| DimAccess::factor(*factor)).collect() };
        let rule = Rule {
            factors: (0..sizes.len()).map(AxisId::new).collect(),
            operands: operands.iter().map(|factors| access(factors)).collect(),
            result: access(result),
            reduce,
            expr: formula.expr(),
        };
        Case::Kernel { dtypes: vec![DType::F32; operands.len()], rule, sizes: sizes.to_vec(), sweep: 0 }
    }

    /// An elementwise kernel of one operand.
    pub fn map(n: u64, formula: Formula) -> Case {
        Self::kernel(&[n], &[&[0]], &[0], None, &formula)
    }

    /// One whose lanes come in rows: of `x[r, c]` and `y[r]`.
    pub fn rows(rows: u64, columns: u64, formula: Formula) -> Case {
        Self::kernel(&[rows, columns], &[&[0, 1], &[0]], &[0, 1], None, &formula)
    }

    /// One that reads whole numbers.
    pub fn whole_numbers(n: u64) -> Case {
        let mut case = Self::map(n, x(0) * lit(0.5));
        if let Case::Kernel { dtypes, .. } = &mut case {
            dtypes[0] = DType::I32;
        }
        case
    }

    /// A fold of rows.
    pub fn fold(rows: u64, columns: u64, reduce: Reduce) -> Case {
        Self::kernel(&[rows, columns], &[&[0, 1]], &[0], Some(reduce), &x(0))
    }

    /// One that reads an operand across its lines.
    pub fn across(rows: u64, columns: u64) -> Case {
        Self::kernel(&[rows, columns], &[&[1, 0], &[0, 1]], &[0, 1], None, &(x(0) + x(1)))
    }

    /// A transposition.
    pub fn turn(rows: u64, columns: u64) -> Case {
        Self::kernel(&[rows, columns], &[&[1, 0]], &[0, 1], None, &x(0))
    }

    /// Elementwise kernels that come back to the same memory after `distance` bytes, as [`swept`] bytes each.
    pub fn sweep(distance: u64) -> Case {
        let mut case = Self::map(swept(distance) / 8, x(0) * lit(1.0000001));
        if let Case::Kernel { sweep, .. } = &mut case {
            *sweep = distance;
        }
        case
    }

    /// Matrix products of one shape.
    pub fn matmul(lies: Lies, [m, n, k]: [u64; 3]) -> Case {
        let left: &[usize] = if lies == Lies::LeftTurned { &[0, 3, 1] } else { &[0, 1, 3] };
        let right: &[usize] = if lies == Lies::RightTurned { &[0, 2, 3] } else { &[0, 3, 2] };
        Self::kernel(&[batch([m, n, k]), m, n, k], &[left, right], &[0, 1, 2], Some(Reduce::Sum), &(x(0) * x(1)))
    }

    /// The acts of one go.
    pub fn acts(&self, communicator: &dyn Communicator) -> Vec<Act> {
        match self {
            Case::Kernel { rule, sizes, dtypes, sweep } => kernel(rule, sizes, dtypes, *sweep as usize),
            Case::Collective { kind, bytes } => {
                let bytes = (*bytes as usize).max(64);
                (0..(WALKED / bytes).clamp(1, 16)).map(|nth| collective(communicator, *kind, bytes, nth)).collect()
            }
            Case::Send { bytes } => {
                let place = Place { offset: 0, bytes: *bytes as usize };
                if communicator.rank() == 0 {
                    vec![Act::Send { to: 1, channel: 0, place }, Act::Receive { from: 1, channel: 1, place }]
                } else {
                    vec![Act::Receive { from: 0, channel: 0, place }, Act::Send { to: 0, channel: 1, place }]
                }
            }
        }
    }
}

fn kernel(rule: &Rule, sizes: &[u64], dtypes: &[DType], sweep: usize) -> Vec<Act> {
    let shape = |access: &Access| -> Vec<u64> { access.iter().map(|dim| sizes[dim.terms[0].factor]).collect() };
    let bytes = |access: &Access| 4 * shape(access).iter().product::<u64>() as usize;
    let kernel = Arc::new(Kernel::prepare(&LaunchSpec {
        rule,
        extents: sizes.iter().map(|size| Extent::whole(*size)).collect(),
        operand_dtypes: dtypes,
        operand_shapes: rule.operands.iter().map(shape).collect(),
        result: DType::F32,
    }));
    let act = |operands: Vec<Place>, result: Place| Act::Kernel {
        kernel: Arc::clone(&kernel),
        operands,
        result,
        iteration: 0,
        accumulate: false,
    };
    let result = bytes(&rule.result);
    if sweep > 0 {
        // what is written is as far from its last use as what is read
        let n = sweep / result;
        let place = |at: usize| Place { offset: at % n * result, bytes: result };
        return (0..n).map(|at| act(vec![place(at)], place(at + n / 2))).collect();
    }
    let operands = rule.operands.iter().zip([0, SECOND]).map(|(access, offset)| Place { offset, bytes: bytes(access) });
    vec![act(operands.collect(), Place { offset: THIRD, bytes: result })]
}

/// A collective of all ranks whose buffers before it have `bytes` bytes, rounded up to a number for each rank, the `nth` that lie behind
/// each other.
fn collective(communicator: &dyn Communicator, kind: StepKind, bytes: usize, nth: usize) -> Act {
    let n = communicator.size();
    let group = communicator.group(&(0..n).collect::<Vec<_>>()).expect("all ranks are a group");
    let part = (bytes / 4).div_ceil(n);
    let size = 4 * part * n;
    let whole = Place { offset: nth * size.next_multiple_of(64), bytes: size };
    if kind == StepKind::AllReduce {
        return Act::AllReduce { group, op: Reduce::Sum, dtype: DType::F32, row: 1, place: whole, kind };
    }
    let rank = communicator.rank();
    let pull = |from: usize| {
        let (source, target) = match kind {
            StepKind::AllGather => (0, from),
            StepKind::ReduceScatter => (rank, 0),
            _ => (rank, from),
        };
        let each = CopyBox {
            source_offset: (source * part) as u64,
            target_offset: (target * part) as u64,
            sizes: vec![part as u64],
            source_strides: vec![1],
            target_strides: vec![1],
        };
        let op = if kind == StepKind::ReduceScatter { PullOp::Merge(Reduce::Sum) } else { PullOp::Copy };
        Pull { from, op, boxes: vec![each] }
    };
    let pulls: Vec<Pull> = (0..n).map(pull).collect();
    let fill = (kind == StepKind::ReduceScatter).then_some(Reduce::Sum);
    let plan = ExchangePlan::new(DType::F32, 1, fill, &pulls).expect("the boxes fit");
    let single = 4 * part;
    let (from, to) = match kind {
        StepKind::AllGather => (single, whole.bytes),
        StepKind::ReduceScatter => (whole.bytes, single),
        _ => (whole.bytes, whole.bytes),
    };
    let place = |first: usize, bytes: usize| Place { offset: first + nth * bytes.next_multiple_of(64), bytes };
    Act::Exchange { group, plan, from: place(0, from), to: place(THIRD, to), kind }
}
