//! Exchanges as data: which boxes a rank pulls from whom.

use partita_ir::dtype::DType;
use partita_ir::rule::Reduce;
use serde::{Deserialize, Serialize};

use super::{CommError, merge};

/// What is done with elements that are pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullOp {
    /// They replace the target's.
    Copy,
    /// They are folded into the target's.
    Merge(Reduce),
}

/// A box of elements of a source and where it lands in the target. Offsets and strides count elements; the three lists
/// have one entry a dimension, outermost first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CopyBox {
    /// First element in the source.
    pub source_offset: u64,
    /// First element in the target.
    pub target_offset: u64,
    /// Elements along each dimension.
    pub sizes: Vec<u64>,
    /// Elements from one to the next along each dimension of the source.
    pub source_strides: Vec<u64>,
    /// The same of the target.
    pub target_strides: Vec<u64>,
}

/// What a rank pulls from one member of the group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pull {
    /// Position of that member in the group; the rank's own for what it keeps.
    pub from: usize,
    /// What is done with the elements.
    pub op: PullOp,
    /// The elements.
    pub boxes: Vec<CopyBox>,
}

/// One rank's part of an exchange: fill the whole target first if asked to, then every pull in the order of the list.
/// List merges in rank order, so that all ranks that hold the same sum hold the same bits.
///
/// Made once and used every step: [`ExchangePlan::new`] checks it and finds the longest runs that are contiguous on
/// both sides.
#[derive(Clone, Debug)]
pub struct ExchangePlan {
    fill: Option<(Reduce, DType, usize)>,
    dtype: DType,
    row: usize,
    pulls: Vec<Runs>,
    /// Bytes that the target needs.
    target_bytes: usize,
    /// Bytes copied or merged, the rank's own among them, fill excluded.
    moved: usize,
}

#[derive(Clone, Debug)]
struct Runs {
    from: usize,
    op: PullOp,
    source_bytes: usize,
    moved: usize,
    blocks: Vec<Block>,
}

/// A box in bytes: nested loops around runs that are contiguous in source and target.
#[derive(Clone, Debug, PartialEq)]
struct Block {
    source: usize,
    target: usize,
    run: usize,
    /// Outermost first.
    loops: Vec<Loop>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Loop {
    count: usize,
    source: usize,
    target: usize,
}

impl ExchangePlan {
    /// A plan over elements of `dtype`, `row` of which are filled and merged together (1 but for tuples). `fill` is
    /// the reduction whose identity is written over the whole target first; `sum` gives zeros.
    pub fn new(dtype: DType, row: usize, fill: Option<Reduce>, pulls: &[Pull]) -> Result<ExchangePlan, CommError> {
        let width = merge::width(dtype)?;
        if let Some(op) = fill {
            merge::check(op, dtype, row)?;
        }
        let mut plan = ExchangePlan { fill: fill.map(|op| (op, dtype, row)), dtype, row, pulls: Vec::new(), target_bytes: 0, moved: 0 };
        for pull in pulls {
            let mut runs = Runs { from: pull.from, op: pull.op, source_bytes: 0, moved: 0, blocks: Vec::new() };
            if let PullOp::Merge(op) = pull.op {
                merge::check(op, dtype, row)?;
            }
            for each in &pull.boxes {
                let too_large = || CommError::DoesNotFit(format!("the box {each:?} of {dtype} spans more than the address space"));
                if each.source_strides.len() != each.sizes.len() || each.target_strides.len() != each.sizes.len() {
                    return Err(CommError::DoesNotFit(format!("the box {each:?} lacks a stride or a size")));
                }
                if each.sizes.contains(&0) {
                    continue;
                }
                let source_end = end(each.source_offset, &each.sizes, &each.source_strides, width).ok_or_else(too_large)?;
                let target_end = end(each.target_offset, &each.sizes, &each.target_strides, width).ok_or_else(too_large)?;
                runs.source_bytes = runs.source_bytes.max(source_end);
                plan.target_bytes = plan.target_bytes.max(target_end);
                // a stride of 0 visits an element more than once, so the count is bounded on its own
                let elements = each.sizes.iter().try_fold(1u64, |all, size| all.checked_mul(*size)).ok_or_else(too_large)?;
                let bytes = usize::try_from(elements).ok().and_then(|count| count.checked_mul(width)).ok_or_else(too_large)?;
                runs.moved = runs.moved.checked_add(bytes).ok_or_else(too_large)?;
                let block = Block::new(each, width);
                if matches!(pull.op, PullOp::Merge(op) if op.is_tuple()) && !block.run.is_multiple_of(row * width) {
                    return Err(CommError::DoesNotFit(format!("the box {each:?} cuts rows of {row} {dtype} that are merged together")));
                }
                runs.blocks.push(block);
            }
            plan.moved = plan.moved.saturating_add(runs.moved);
            if !runs.blocks.is_empty() {
                plan.pulls.push(runs);
            }
        }
        Ok(plan)
    }

    /// Bytes that the rank at `position` of the group pulls from others.
    pub fn received(&self, position: usize) -> u64 {
        self.pulls.iter().filter(|pull| pull.from != position).map(|pull| pull.moved as u64).sum()
    }

    /// Bytes that the target needs at least.
    pub fn target_bytes(&self) -> usize {
        self.target_bytes
    }

    /// Bytes read and written to fill a target of `target` bytes.
    pub(crate) fn work(&self, target: usize) -> usize {
        self.moved.saturating_mul(2).saturating_add(if self.fill.is_some() { target } else { 0 })
    }

    /// Whether the plan can fill a target of this many bytes in a group of `members`.
    pub(super) fn check(&self, target: usize, members: usize) -> Result<(), CommError> {
        if target < self.target_bytes {
            let needs = self.target_bytes;
            return Err(CommError::DoesNotFit(format!("an exchange writes up to byte {needs} of a target of {target} bytes")));
        }
        if let Some(pull) = self.pulls.iter().find(|pull| pull.from >= members) {
            let from = pull.from;
            return Err(CommError::DoesNotFit(format!("an exchange pulls from member {from} of a group of {members}")));
        }
        match self.fill {
            Some((_, dtype, row)) if !target.is_multiple_of(row * merge::width(dtype)?) => {
                Err(CommError::DoesNotFit(format!("a target of {target} bytes does not hold whole rows of {row} {dtype}")))
            }
            _ => Ok(()),
        }
    }

    /// Fills `target`; `source` gives the bytes that a member exposes.
    pub(super) fn run<'a>(&self, target: &mut [u8], source: impl Fn(usize) -> &'a [u8]) -> Result<(), CommError> {
        let merges = self.pulls.iter().any(|pull| matches!(pull.op, PullOp::Merge(_)));
        if merges && merge::wide(self.dtype) != self.dtype {
            return self.run_wide(target, source);
        }
        if let Some((op, dtype, row)) = self.fill {
            merge::fill(op, dtype, row, target);
        }
        for pull in &self.pulls {
            let bytes = self.exposed(pull, &source)?;
            for block in &pull.blocks {
                match pull.op {
                    PullOp::Copy => block.copy(target, bytes),
                    PullOp::Merge(op) => block.visit(|from, to| {
                        merge::merge(op, self.dtype, self.row, &mut target[to..to + block.run], &bytes[from..from + block.run]);
                    }),
                }
            }
        }
        Ok(())
    }

    /// The same for elements of 16 bits that are merged: in f32 beside the target, which is rounded into at the end.
    fn run_wide<'a>(&self, target: &mut [u8], source: impl Fn(usize) -> &'a [u8]) -> Result<(), CommError> {
        let mut wide = vec![0; 2 * target.len()];
        match self.fill {
            Some((op, _, row)) => merge::fill(op, DType::F32, row, &mut wide),
            None => merge::widen(self.dtype, target, &mut wide),
        }
        let mut run = Vec::new();
        for pull in &self.pulls {
            let bytes = self.exposed(pull, &source)?;
            for block in &pull.blocks {
                run.resize(2 * block.run, 0);
                block.visit(|from, to| {
                    merge::widen(self.dtype, &bytes[from..from + block.run], &mut run);
                    let into = &mut wide[2 * to..2 * (to + block.run)];
                    match pull.op {
                        PullOp::Copy => into.copy_from_slice(&run),
                        PullOp::Merge(op) => merge::merge(op, DType::F32, self.row, into, &run),
                    }
                });
            }
        }
        merge::narrow(self.dtype, &wide, target);
        Ok(())
    }

    /// The bytes that a member exposes to a pull.
    fn exposed<'a>(&self, pull: &Runs, source: impl Fn(usize) -> &'a [u8]) -> Result<&'a [u8], CommError> {
        let bytes = source(pull.from);
        if bytes.len() < pull.source_bytes {
            let (from, needs, has) = (pull.from, pull.source_bytes, bytes.len());
            return Err(CommError::DoesNotFit(format!("an exchange reads up to byte {needs} of member {from}, which exposes {has}")));
        }
        Ok(bytes)
    }
}

/// One past the last byte that a box touches.
fn end(offset: u64, sizes: &[u64], strides: &[u64], width: usize) -> Option<usize> {
    let mut last = offset;
    for (size, stride) in sizes.iter().zip(strides) {
        last = last.checked_add((size - 1).checked_mul(*stride)?)?;
    }
    let bytes = usize::try_from(last.checked_add(1)?).ok()?.checked_mul(width)?;
    (bytes <= isize::MAX as usize).then_some(bytes)
}

impl Block {
    /// The box in bytes, neighbouring dimensions merged where they are contiguous. Its sizes are not 0, its extent was
    /// checked.
    fn new(each: &CopyBox, width: usize) -> Block {
        let bytes = |elements: u64| elements as usize * width;
        let mut loops: Vec<Loop> = Vec::new();
        for dim in (0..each.sizes.len()).rev() {
            let count = each.sizes[dim] as usize;
            if count == 1 {
                continue; // its strides mean nothing
            }
            let next = Loop { count, source: bytes(each.source_strides[dim]), target: bytes(each.target_strides[dim]) };
            match loops.last_mut() {
                // `loops` is innermost first here: the dimension outside continues where the one inside ends
                Some(inner) if next.source == inner.count * inner.source && next.target == inner.count * inner.target => {
                    inner.count *= next.count;
                }
                _ => loops.push(next),
            }
        }
        let mut run = width;
        if loops.first().is_some_and(|inner| inner.source == width && inner.target == width) {
            run = loops.remove(0).count * width;
        }
        loops.reverse();
        Block { source: bytes(each.source_offset), target: bytes(each.target_offset), run, loops }
    }

    /// Calls `visit` with the first byte of every run in source and target.
    #[inline]
    fn visit(&self, mut visit: impl FnMut(usize, usize)) {
        walk(&self.loops, self.source, self.target, &mut visit);
    }

    fn copy(&self, target: &mut [u8], source: &[u8]) {
        // a run of a known size is one move instead of a call
        match self.run {
            4 => self.visit(|from, to| target[to..to + 4].copy_from_slice(&source[from..from + 4])),
            8 => self.visit(|from, to| target[to..to + 8].copy_from_slice(&source[from..from + 8])),
            run => self.visit(|from, to| target[to..to + run].copy_from_slice(&source[from..from + run])),
        }
    }
}

fn walk(loops: &[Loop], source: usize, target: usize, visit: &mut impl FnMut(usize, usize)) {
    match loops {
        [] => visit(source, target),
        [inner] => (0..inner.count).for_each(|n| visit(source + n * inner.source, target + n * inner.target)),
        [outer, rest @ ..] => (0..outer.count).for_each(|n| walk(rest, source + n * outer.source, target + n * outer.target, visit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_box(sizes: &[u64], source_strides: &[u64], target_strides: &[u64]) -> CopyBox {
        CopyBox {
            source_offset: 0,
            target_offset: 0,
            sizes: sizes.to_vec(),
            source_strides: source_strides.to_vec(),
            target_strides: target_strides.to_vec(),
        }
    }

    #[test]
    fn contiguous_dimensions_become_one_run() {
        let block = Block::new(&a_box(&[2, 1, 3, 4], &[12, 7, 4, 1], &[12, 9, 4, 1]), 4);
        assert_eq!((block.run, block.loops.len()), (96, 0));
        let block = Block::new(&a_box(&[2, 3, 4], &[24, 4, 1], &[12, 4, 1]), 4);
        assert_eq!((block.run, block.loops.len()), (48, 1));
        let transposed = Block::new(&a_box(&[2, 3], &[1, 2], &[3, 1]), 8);
        assert_eq!((transposed.run, transposed.loops.len()), (8, 2));
        assert_eq!(Block::new(&a_box(&[], &[], &[]), 4).run, 4);
    }

    #[test]
    fn bad_boxes_are_errors() {
        let pull = |each| [Pull { from: 0, op: PullOp::Copy, boxes: vec![each] }];
        let new = |each| ExchangePlan::new(DType::F32, 1, None, &pull(each));
        assert!(new(a_box(&[2], &[], &[1])).is_err());
        assert!(new(a_box(&[u64::MAX], &[1], &[1])).is_err());
        assert!(new(a_box(&[u64::MAX, u64::MAX], &[0, 0], &[0, 0])).is_err());
        assert!(new(a_box(&[3, 0], &[u64::MAX, 1], &[1, 1])).is_ok(), "an empty box touches nothing");
        let tuple = [Pull { from: 0, op: PullOp::Merge(Reduce::ArgMax), boxes: vec![a_box(&[3], &[1], &[1])] }];
        assert!(ExchangePlan::new(DType::F32, 2, None, &tuple).is_err(), "a row of two is cut");
    }
}
