//! Folds of rows: (largest, index) and (weighted mean, logsumexp) along the last dimension of the result.

use partita_ir::rule::{Reduce, Rule};
use partita_ir::work::{KernelWork, LaneStep};

use super::evaluate::{Evaluator, Program};
use super::nest::{Class, Nest};
use super::stored::Stored;
use super::vector::{Lane, Routines};
use super::work::touched;
use super::{Launch, range_of};

/// Parts that the rows are cut into; each has a row of its own in the scratch.
const PARTS: usize = 16;

/// A prepared fold of rows.
pub struct TupleFold {
    program: Program,
    reduce: Reduce,
    outer: Vec<usize>,
    inner: Vec<usize>,
    /// Loops within a row around the lanes.
    around: Vec<usize>,
    row: usize,
}

impl TupleFold {
    /// Prepares a rule whose reduction is a tuple.
    pub fn new<T: Lane>(rule: &Rule, nest: Nest) -> Self {
        let rows = nest.of_class(Class::Row, &[]);
        let lane = rows.iter().copied().max_by_key(|index| nest.loops[*index].count);
        let around = rows.iter().copied().filter(|index| Some(*index) != lane).collect();
        let row = nest.count(&rows);
        let (outer, inner) = (nest.of_class(Class::Kept, &[]), nest.of_class(Class::Reduced, &[]));
        let reduce = rule.reduce.expect("a tuple fold reduces");
        Self { program: Program::new::<T>(nest, lane, None, &rule.expr, None), reduce, outer, inner, around, row }
    }

    /// Numbers of a row, rounded up to cache lines.
    fn stride(&self) -> usize {
        self.row.next_multiple_of(8)
    }

    /// Bytes for three rows of f64 a part.
    pub fn scratch_bytes(&self) -> u64 {
        (PARTS * 3 * self.stride() * size_of::<f64>()) as u64
    }

    /// What one run does, the result of elements of `width` bytes.
    pub fn work(&self, width: u64) -> KernelWork {
        let nest = &self.program.nest;
        let rows = (nest.count(&self.outer) * nest.count(&self.inner)) as u64;
        let points = rows * self.row as u64;
        let starts = rows * nest.count(&self.around) as u64;
        let mut lanes = self.program.steps(points);
        // each element is put in its place, made f64 and merged
        lanes.extend([(LaneStep::ReadFar, points), (LaneStep::Fold, 2 * points), (LaneStep::Exp, 2 * rows)]);
        let blocks = starts * self.program.n_blocks() as u64;
        let steps = blocks * lanes.len() as u64;
        KernelWork { bytes: touched(nest, None, width), rows: starts, blocks, steps, lanes, ..KernelWork::default() }
    }

    /// Folds all rows.
    ///
    /// # Safety
    /// That of [`super::Kernel::run`].
    pub unsafe fn run<T: Lane, R: Stored>(&self, launch: &Launch<'_>, routines: &Routines<T>) {
        let units = self.program.nest.count(&self.outer);
        let n_parts = units.min(PARTS);
        launch.pool.run(n_parts, &|part| {
            self.program.with_memory(|memory| {
                let mut evaluator = Evaluator::new(&self.program, launch, routines, memory);
                let stride = self.stride();
                // SAFETY: the scratch has three rows for each part; they are zeroed before they are read.
                let (folded, wide, row) = unsafe {
                    let start = launch.scratch.cast::<f64>().add(part * 3 * stride);
                    start.write_bytes(0, 3 * stride);
                    let slice = |n: usize| std::slice::from_raw_parts_mut(start.add(n * stride), self.row);
                    (slice(0), slice(1), std::slice::from_raw_parts_mut(start.add(2 * stride).cast::<T>(), self.row))
                };
                for unit in range_of(part, n_parts, units) {
                    evaluator.cursor.seek(&self.outer, unit);
                    // SAFETY: the contract; units are of one part each.
                    unsafe {
                        let base = evaluator.result();
                        match self.reduce {
                            Reduce::Softmax => self.softmax(&mut evaluator, routines, folded, row, base),
                            _ => {
                                self.reduce.identity(folded);
                                self.each_row(&mut evaluator, row, base, &mut |row| {
                                    wide.iter_mut().zip(row).for_each(|(wide, value)| *wide = value.to_f64());
                                    self.reduce.merge(folded, wide);
                                });
                            }
                        }
                        let to = launch.result.cast::<R>().offset(base);
                        folded.iter().enumerate().for_each(|(n, value)| to.add(n).write(R::from_f64(*value)));
                    }
                }
            });
        });
    }

    /// Attention's fold: weights relative to the largest score so far, divided at the end.
    ///
    /// # Safety
    /// That of [`TupleFold::run`].
    unsafe fn softmax<T: Lane>(
        &self,
        evaluator: &mut Evaluator<'_, T>,
        routines: &Routines<T>,
        folded: &mut [f64],
        row: &mut [T],
        base: isize,
    ) {
        let last = self.row - 1;
        let (mut largest, mut total) = (f64::NEG_INFINITY, 0.0);
        folded.fill(0.0);
        // SAFETY: the contract.
        unsafe {
            self.each_row(evaluator, row, base, &mut |row| {
                let score = row[last].to_f64();
                if score == f64::NEG_INFINITY {
                    // weight 0, whatever the values are
                    return;
                }
                if score > largest {
                    let keep = (largest - score).exp();
                    folded.iter_mut().for_each(|sum| *sum *= keep);
                    (largest, total) = (score, total * keep);
                }
                let weight = (score - largest).exp();
                total += weight;
                (routines.add_weighted)(&mut folded[..last], &row[..last], weight);
            });
        }
        if total > 0.0 {
            folded[..last].iter_mut().for_each(|sum| *sum /= total);
        }
        folded[last] = if total > 0.0 { largest + total.ln() } else { f64::NEG_INFINITY };
    }

    /// Calls `take` with every row that is folded here, in order.
    ///
    /// # Safety
    /// That of [`TupleFold::run`].
    unsafe fn each_row<T: Lane>(&self, evaluator: &mut Evaluator<'_, T>, row: &mut [T], base: isize, take: &mut dyn FnMut(&[T])) {
        for _ in 0..self.program.nest.count(&self.inner) {
            for _ in 0..self.program.nest.count(&self.around) {
                // SAFETY: the contract.
                unsafe { evaluator.start_row() };
                for block in 0..self.program.n_blocks() {
                    let block = evaluator.seek_block(block);
                    // SAFETY: the contract.
                    let values = unsafe { std::slice::from_raw_parts(evaluator.evaluate(block, std::ptr::null_mut()), block.n()) };
                    // the result's row is dense, so an element's place in it is its distance from the row's start
                    let place = evaluator.result() - base;
                    for (lane, value) in values.iter().enumerate() {
                        row[(place + self.program.result_offset(block, lane)) as usize] = *value;
                    }
                }
                evaluator.seek_block(0);
                evaluator.cursor.advance(&self.around);
            }
            take(row);
            evaluator.cursor.advance(&self.inner);
        }
    }
}
