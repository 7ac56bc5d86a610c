//! What prepared kernels do, as sizes.

use partita_ir::rule::Reduce;
use partita_ir::scalar::{Binary, Unary};
use partita_ir::work::{KernelWork, LaneStep};

use super::gemm::Gemm;
use super::nest::Nest;
use super::tape::{Tape, Tile, VectorOp};
use super::{Kernel, Plan};

/// Elements apart from which on a read is of a line of its own.
const FAR: i64 = 16;

impl Kernel {
    /// What one run does.
    pub fn work(&self) -> KernelWork {
        match &self.plan {
            Plan::Nothing => KernelWork { serial: true, ..KernelWork::default() },
            Plan::Identity { elements, .. } => {
                KernelWork { bytes: self.result.bytes(*elements as u64), serial: true, ..KernelWork::default() }
            }
            Plan::Copy(copy) => copy.work(self.result.bytes(8) / 8),
            Plan::Gemm(gemm) => product(gemm),
            Plan::Product16(blocks) => product(blocks.gemm()),
            Plan::Walk(walk) | Plan::WideWalk(walk) => walk.work(self.result.bytes(8) / 8),
            Plan::Tuple(fold) => fold.work(self.result.bytes(8) / 8),
        }
    }
}

fn product(gemm: &Gemm) -> KernelWork {
    let (matmul, serial) = gemm.work_shape();
    KernelWork { matmul: Some(matmul), serial, ..KernelWork::default() }
}

/// Bytes of the elements of the result and of the operands that a walk over all loops but `without` touches.
pub(super) fn touched(nest: &Nest, without: Option<usize>, result_bytes: u64) -> u64 {
    let elements = |counter: usize| -> u64 {
        let moved = |index: &usize| Some(*index) != without && nest.loops[*index].step(counter) != 0;
        (0..nest.loops.len()).filter(moved).map(|index| nest.loops[index].count as u64).product()
    };
    let operands = nest.operands.iter().enumerate().map(|(n, view)| view.dtype.bytes(elements(1 + n)));
    elements(0) * result_bytes + operands.sum::<u64>()
}

/// The steps of a tape on `points` lanes.
pub(super) fn steps(tape: &Tape, nest: &Nest, tile: &Tile, points: u64) -> Vec<(LaneStep, u64)> {
    let lane = &nest.loops[tile.lane];
    let kind = |op: &VectorOp| match op {
        VectorOp::Borrow(_) => None,
        VectorOp::Read(n) => Some(if lane.step(1 + n).abs() < FAR { LaneStep::Read } else { LaneStep::ReadFar }),
        VectorOp::Draw(_) => Some(LaneStep::Draw),
        VectorOp::Unary(op, _) => Some(match op {
            Unary::Exp => LaneStep::Exp,
            Unary::Sigmoid => LaneStep::Sigmoid,
            Unary::Log => LaneStep::Log,
            Unary::Tanh => LaneStep::Tanh,
            Unary::Erf => LaneStep::Erf,
            Unary::Sin | Unary::Cos => LaneStep::Sine,
            Unary::Sqrt | Unary::Rsqrt => LaneStep::Divide,
            _ => LaneStep::Arithmetic,
        }),
        VectorOp::Binary(Binary::Div, ..) => Some(LaneStep::Divide),
        VectorOp::Binary(Binary::Pow, ..) => Some(LaneStep::Power),
        VectorOp::Binary(Binary::Max | Binary::Min | Binary::Lt | Binary::Le | Binary::Eq | Binary::Ne, ..) | VectorOp::Select(..) => {
            Some(LaneStep::Choose)
        }
        VectorOp::Row | VectorOp::Column => Some(LaneStep::Index),
        _ => Some(LaneStep::Arithmetic),
    };
    tape.vectors.iter().filter_map(|step| kind(&step.op)).map(|kind| (kind, points)).collect()
}

/// What folding `points` lanes takes, lane by lane or (`rows`) to one number.
pub(super) fn folding(reduce: Reduce, rows: bool, points: u64) -> Vec<(LaneStep, u64)> {
    let fold = if rows { LaneStep::Fold } else { LaneStep::Arithmetic };
    match reduce {
        Reduce::LogSumExp if rows => vec![(fold, 2 * points), (LaneStep::Exp, points)],
        Reduce::LogSumExp => vec![(fold, 2 * points), (LaneStep::Exp, 2 * points)],
        _ => vec![(fold, points)],
    }
}
