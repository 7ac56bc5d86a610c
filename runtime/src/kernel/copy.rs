//! Moves: reshapes, permutations and slices of one operand.

use partita_ir::dtype::DType;
use partita_ir::rule::Rule;
use partita_ir::work::{KernelWork, LaneStep};

use super::nest::{Class, Cursor, Nest};
use super::stored::Stored;
use super::{Launch, range_of};

/// Bytes that one thread moves quicker than it wakes another; few in tests.
const SERIAL: usize = if cfg!(test) { 1 << 8 } else { 1 << 17 };
/// Side of a transposed tile: two of its lines in every cache line of 64 bytes.
const TILE: usize = 16;
/// Elements of a long row that are one unit of work.
const PIECE: usize = 1 << 14;

/// A prepared move.
pub struct Copy {
    nest: Nest,
    /// The loops around.
    outer: Vec<usize>,
    /// Iterations of the loop that is contiguous in the result, and its step in the operand.
    row: Line,
    /// The loop around it that is walked here: the operand's contiguous one if `row` is not that too.
    around: Line,
}

/// A loop of a move.
#[derive(Clone, Copy)]
struct Line {
    count: usize,
    result: isize,
    operand: isize,
}

impl Copy {
    /// A move, if the rule is one of elements of the result's type and both sides have a contiguous loop.
    pub fn new(rule: &Rule, nest: &Nest, result: DType) -> Option<Self> {
        let kept = nest.loops.iter().all(|l| l.class == Class::Kept && l.runs.len() == 1);
        let [view] = nest.operands.as_slice() else { return None };
        if !rule.is_move() || !kept || view.dtype != result || !view.guards.is_empty() {
            return None;
        }
        let line = |index: usize| {
            let l = &nest.loops[index];
            Line { count: l.count, result: l.step(0) as isize, operand: l.step(1) as isize }
        };
        let find = |wanted: &dyn Fn(Line) -> bool| (0..nest.loops.len()).find(|index| wanted(line(*index)));
        let single = Line { count: 1, result: 1, operand: 1 };
        let Some(row) = find(&|line| line.result == 1) else {
            // one element, or a result of which every dimension is merged away
            return nest.loops.is_empty().then(|| Self { nest: nest.clone(), outer: Vec::new(), row: single, around: single });
        };
        let around = if line(row).operand == 1 {
            // the longest loop around the rows
            (0..nest.loops.len()).filter(|index| *index != row).max_by_key(|index| line(*index).count)
        } else {
            Some(find(&|line| line.operand == 1)?)
        };
        let outer = (0..nest.loops.len()).filter(|index| *index != row && Some(*index) != around).collect();
        Some(Self { nest: nest.clone(), outer, row: line(row), around: around.map_or(single, line) })
    }

    /// What one run does, of elements of `width` bytes.
    pub fn work(&self, width: u64) -> KernelWork {
        let elements = (self.nest.count(&self.outer) * self.row.count * self.around.count) as u64;
        let lanes = if self.row.operand == 1 { Vec::new() } else { vec![(LaneStep::Turn, elements)] };
        let serial = elements * width < SERIAL as u64;
        KernelWork { bytes: 2 * elements * width, lanes, serial, ..KernelWork::default() }
    }

    /// Moves all elements.
    ///
    /// # Safety
    /// That of [`super::Kernel::run`].
    pub unsafe fn run<T: Stored>(&self, launch: &Launch<'_>) {
        let tiled = self.row.operand != 1;
        // a unit is some lines of `around`, all of `row`; a single row is cut itself
        let long = self.around.count == 1 && !tiled;
        let pieces = if long { self.row.count.div_ceil(PIECE) } else { self.around.count.div_ceil(TILE) };
        let outer = self.nest.count(&self.outer);
        let units = outer * pieces;
        let bytes = outer * self.row.count * self.around.count * size_of::<T>();
        let threads = if bytes < SERIAL { 1 } else { launch.pool.threads() };
        let n_parts = if threads == 1 { 1 } else { units.min(4 * threads) };
        launch.pool.run(n_parts, &|part| {
            let range = range_of(part, n_parts, units);
            let mut cursor = Cursor::new(&self.nest);
            cursor.seek(&self.outer, range.start / pieces);
            let mut piece = range.start % pieces;
            for _ in range {
                // SAFETY: the contract; the counters are addresses within the tensors, and units are disjoint.
                unsafe {
                    let from = launch.operands[0].cast::<T>().offset(cursor.counters[1] as isize);
                    let to = launch.result.cast::<T>().offset(cursor.counters[0] as isize);
                    if long {
                        let start = piece * PIECE;
                        let n = PIECE.min(self.row.count - start);
                        line(from.add(start), to.add(start), n, launch.accumulate);
                    } else {
                        let start = piece * TILE;
                        let n = TILE.min(self.around.count - start);
                        let from = from.offset(self.around.operand * start as isize);
                        let to = to.offset(self.around.result * start as isize);
                        if tiled { self.tiles(from, to, n, launch.accumulate) } else { self.lines(from, to, n, launch.accumulate) }
                    }
                }
                piece += 1;
                if piece == pieces {
                    piece = 0;
                    cursor.advance(&self.outer);
                }
            }
        });
    }

    /// Moves `n` rows.
    ///
    /// # Safety
    /// The rows are within the tensors.
    unsafe fn lines<T: Stored>(&self, from: *const T, to: *mut T, n: usize, accumulate: bool) {
        for index in 0..n as isize {
            // SAFETY: the contract.
            unsafe { line(from.offset(self.around.operand * index), to.offset(self.around.result * index), self.row.count, accumulate) };
        }
    }

    /// Moves `n` lines of `around`, at most a tile's side, and all of `row`, tile by tile.
    ///
    /// # Safety
    /// The elements are within the tensors.
    unsafe fn tiles<T: Stored>(&self, from: *const T, to: *mut T, n: usize, accumulate: bool) {
        let (row, around) = (self.row, self.around);
        for start in (0..row.count).step_by(TILE) {
            let length = TILE.min(row.count - start);
            let zero = T::from_f64(0.0);
            let mut tile = [[zero; TILE]; TILE];
            // SAFETY: the contract. A tile is read along the operand's lines and written along the result's.
            unsafe {
                // all lines are asked for before the first is waited for
                for index in start..start + length {
                    let from = from.offset(row.operand * index as isize);
                    from.read_volatile();
                    from.add(n - 1).read_volatile();
                }
                for (index, line) in tile[..length].iter_mut().enumerate() {
                    let from = from.offset(row.operand * (start + index) as isize);
                    if n == TILE {
                        *line = from.cast::<[T; TILE]>().read_unaligned();
                    } else {
                        (0..n).for_each(|lane| line[lane] = *from.add(lane));
                    }
                }
                for lane in 0..n {
                    let to = to.offset(around.result * lane as isize).add(start);
                    for (index, line) in tile[..length].iter().enumerate() {
                        let before = if accumulate { *to.add(index) } else { zero };
                        to.add(index).write(before.plus(line[lane]));
                    }
                }
            }
        }
    }
}

/// Moves `n` contiguous elements; to their own place at no cost.
///
/// # Safety
/// Valid for `n` reads and writes.
unsafe fn line<T: Stored>(from: *const T, to: *mut T, n: usize, accumulate: bool) {
    // SAFETY: the contract; `copy` allows the two to be the same.
    unsafe {
        if accumulate {
            (0..n).for_each(|index| *to.add(index) = (*to.add(index)).plus(*from.add(index)));
        } else if !std::ptr::eq(from, to) {
            std::ptr::copy(from, to, n);
        }
    }
}
