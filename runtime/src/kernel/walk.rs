//! Maps and folds over the lanes of a tape, gathers and scatters among them.
//!
//! One loop is the lanes'; the others are walked around it. Where it is kept, a map stores each block, and a fold keeps
//! a partial result per lane while the reduced loops go by (*columns*). Where it is reduced, each row is folded to a
//! number (*rows*). Which loop, is estimated from the operands' strides.

use partita_ir::dtype::DType;
use partita_ir::rule::{Reduce, Rule};
use partita_ir::work::{KernelWork, LaneStep};

use super::choose::Choice;
use super::evaluate::{Evaluator, Memory, Program};
use super::lanes::{best_lane, best_tall};
use super::nest::{Class, Nest};
use super::stored::Stored;
use super::vector::{Lane, Routines};
use super::work::{folding, touched};
use super::{Launch, range_of};

/// Terms that a lane adds up in its own type before it goes on in f64.
const TERMS: usize = 64;
/// Iterations below which one thread is quicker than waking another; few in tests, so that small rules take every path.
const SERIAL: usize = if cfg!(test) { 1 << 6 } else { 1 << 15 };
/// A fold with fewer units of work than this splits its reduced loops, if they are long.
const FEW_UNITS: usize = 16;
/// Iterations of a part of a split fold.
const SPLIT: usize = SERIAL;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Map,
    Rows,
    Columns,
    Scatter,
}

/// A prepared walk.
pub struct Walk {
    program: Program,
    mode: Mode,
    reduce: Reduce,
    /// The kept loops around the lanes.
    outer: Vec<usize>,
    /// The reduced loops around the lanes.
    inner: Vec<usize>,
    /// Parts that the reduced loops are cut into: by the sizes alone, so that threads change no sum.
    splits: usize,
    /// Iterations of all loops that are walked.
    points: usize,
    /// Elements of the result.
    elements: usize,
    /// Whether a scatter adds up in f32 before it rounds into the result.
    apart: bool,
}

/// A partial fold: the value, or for a logsumexp (largest, Σ e^(x − largest)).
type Partial = (f64, f64);

fn partial_identity(reduce: Reduce) -> Partial {
    match reduce {
        Reduce::Max | Reduce::LogSumExp => (f64::NEG_INFINITY, 0.0),
        Reduce::Min => (f64::INFINITY, 0.0),
        _ => (0.0, 0.0),
    }
}

fn partial_merge(reduce: Reduce, a: Partial, b: Partial) -> Partial {
    match reduce {
        Reduce::Max => (a.0.max(b.0), 0.0),
        Reduce::Min => (a.0.min(b.0), 0.0),
        Reduce::LogSumExp => {
            let high = a.0.max(b.0);
            let shift = if high > f64::NEG_INFINITY { high } else { 0.0 };
            (high, a.1 * (a.0 - shift).exp() + b.1 * (b.0 - shift).exp())
        }
        _ => (a.0 + b.0, 0.0),
    }
}

fn partial_value(reduce: Reduce, (value, sum): Partial) -> f64 {
    match reduce {
        Reduce::LogSumExp if value.is_finite() => value + sum.ln(),
        _ => value,
    }
}

impl Walk {
    /// Prepares a rule for lanes of type `T` and a result of type `result`.
    pub fn new<T: Lane>(rule: &Rule, nest: Nest, result: DType) -> Self {
        let choice = Choice::of(rule, &nest);
        let chosen = choice.as_ref().map(|choice| choice.loop_index);
        let scatters = chosen.is_some_and(|index| nest.loops[index].class == Class::Kept);
        let lane = best_lane(rule, &nest, choice.as_ref(), scatters);
        let tall = lane.and_then(|lane| best_tall(rule, &nest, choice.as_ref(), lane));
        let without: Vec<usize> = lane.into_iter().chain(chosen).chain(tall.map(|(index, _)| index)).collect();
        let outer = nest.of_class(Class::Kept, &without);
        let inner = nest.of_class(Class::Reduced, &without);
        let mode = match lane {
            _ if scatters => Mode::Scatter,
            Some(lane) if nest.loops[lane].class == Class::Reduced => Mode::Rows,
            _ if inner.is_empty() => Mode::Map,
            _ => Mode::Columns,
        };
        let elements = nest.count(&nest.of_class(Class::Kept, &[]));
        let walked: Vec<usize> = (0..nest.loops.len()).filter(|index| Some(*index) != chosen).collect();
        let points = nest.count(&walked);
        let value = choice.as_ref().map_or(&rule.expr, |choice| &choice.value);
        let program = Program::new::<T>(nest, lane, tall, value, choice.as_ref().map(|choice| (choice.loop_index, &choice.index)));
        let reduce = rule.reduce.unwrap_or(Reduce::Sum);
        let mut walk = Self { program, mode, reduce, outer, inner, splits: 1, points, elements, apart: false };
        walk.apart = mode == Mode::Scatter && result.bytes(1) < T::DTYPE.bytes(1);
        let (units, terms) = (walk.units(), walk.terms());
        if matches!(mode, Mode::Rows | Mode::Columns) && units < FEW_UNITS {
            walk.splits = (points / SPLIT).min(FEW_UNITS.div_ceil(units)).clamp(1, terms);
        }
        walk
    }

    /// The implementation's name.
    pub fn kind(&self) -> &'static str {
        match self.mode {
            Mode::Scatter => "scatter",
            _ if self.program.choice().is_some() => "gather",
            Mode::Map => "map",
            Mode::Rows => "fold rows",
            Mode::Columns => "fold columns",
        }
    }

    /// What one run does, the result of elements of `width` bytes.
    pub fn work(&self, width: u64) -> KernelWork {
        let (outer, inner) = (self.program.nest.count(&self.outer) as u64, self.program.nest.count(&self.inner) as u64);
        let (n_blocks, points) = (self.program.n_blocks() as u64, self.points as u64);
        let (rows, blocks) = match self.mode {
            Mode::Columns => (outer * n_blocks * inner, outer * n_blocks * inner),
            _ => (outer * inner, outer * inner * n_blocks),
        };
        let mut lanes = self.program.steps(points);
        match self.mode {
            Mode::Rows => lanes.extend(folding(self.reduce, true, points)),
            Mode::Columns => lanes.extend(folding(self.reduce, false, points)),
            _ if self.program.is_result_dense() => {}
            _ => lanes.push((LaneStep::ReadFar, points)),
        }
        let bytes = touched(&self.program.nest, self.program.choice(), width);
        let steps = blocks * lanes.len() as u64;
        KernelWork { bytes, rows, blocks, steps, lanes, serial: self.points < SERIAL, ..KernelWork::default() }
    }

    /// Units of work that write different elements of the result.
    fn units(&self) -> usize {
        let outer = self.program.nest.count(&self.outer);
        if self.mode == Mode::Rows { outer } else { outer * self.program.n_blocks() }
    }

    /// Blocks (of rows) or iterations (of columns) that a unit folds.
    fn terms(&self) -> usize {
        let inner = self.program.nest.count(&self.inner);
        if self.mode == Mode::Rows { inner * self.program.n_blocks() } else { inner }
    }

    /// Partial results of a unit.
    fn partials(&self) -> usize {
        if self.mode == Mode::Rows { 1 } else { self.program.width() }
    }

    /// Bytes for the partial results of a split fold.
    pub fn scratch_bytes(&self) -> u64 {
        if self.apart {
            return (self.elements * size_of::<f32>()) as u64;
        }
        if self.splits == 1 { 0 } else { (self.units() * self.splits * self.partials() * size_of::<Partial>()) as u64 }
    }

    /// Runs the walk over lanes of type `T` into a result of type `R`.
    ///
    /// # Safety
    /// That of [`super::Kernel::run`].
    pub unsafe fn run<T: Lane, R: Stored>(&self, launch: &Launch<'_>, routines: &Routines<T>) {
        let threads = if self.points < SERIAL { 1 } else { launch.pool.threads() };
        let several = |units: usize| if threads == 1 { 1 } else { units.min(4 * threads) };
        let part = |job: &(dyn Fn(&mut Evaluator<'_, T>, Memory<T>) + Sync)| {
            self.program.with_memory(|memory| job(&mut Evaluator::new(&self.program, launch, routines, memory), memory));
        };
        let part = &part;
        // SAFETY (of the blocks below): the contract; each part has its own evaluator and memory, and the ranges of
        // units, and with them the elements written, are disjoint.
        match self.mode {
            Mode::Map => {
                let (units, n_parts) = (self.units(), several(self.units()));
                launch.pool.run(n_parts, &|index| {
                    part(&|evaluator, memory| unsafe {
                        self.map::<T, R>(evaluator, memory, launch, routines, range_of(index, n_parts, units))
                    });
                });
            }
            Mode::Scatter if self.apart => {
                // SAFETY: the scratch has room for the result as f32, and nothing else is there.
                unsafe {
                    let wide = launch.scratch.cast::<f32>();
                    let elements = std::slice::from_raw_parts_mut(launch.result.cast::<R>(), self.elements);
                    wide.write_bytes(0, self.elements);
                    let sums = std::slice::from_raw_parts_mut(wide, self.elements);
                    if launch.accumulate {
                        R::widen(sums, elements);
                    }
                    let apart = Launch { result: wide.cast(), accumulate: true, streams: launch.streams.clone(), ..*launch };
                    self.scatter_all::<T, f32>(&apart, routines, threads);
                    R::narrow(elements, sums);
                }
            }
            Mode::Scatter => unsafe { self.scatter_all::<T, R>(launch, routines, threads) },
            Mode::Rows | Mode::Columns => {
                let units = self.units() * self.splits;
                let n_parts = several(units);
                launch.pool.run(n_parts, &|index| {
                    part(&|evaluator, memory| {
                        let range = range_of(index, n_parts, units);
                        // units of one place around the lanes
                        let blocks = if self.mode == Mode::Rows { 1 } else { self.program.n_blocks() };
                        let together = self.splits * blocks;
                        evaluator.cursor.seek(&self.outer, range.start / together);
                        for unit in range.clone() {
                            if unit % together == 0 && unit > range.start {
                                evaluator.cursor.advance(&self.outer);
                            }
                            let (split, block) = (unit % self.splits, unit / self.splits % blocks);
                            let terms = range_of(split, self.splits, self.terms());
                            unsafe {
                                match self.mode {
                                    Mode::Rows => self.row::<T, R>(evaluator, launch, routines, unit, terms),
                                    _ => self.column::<T, R>(evaluator, memory, launch, routines, unit, block, terms),
                                }
                            }
                        }
                    });
                });
                if self.splits > 1 {
                    part(&|evaluator, _| unsafe { self.join::<T, R>(evaluator, launch) });
                }
            }
        }
    }

    /// Scatters into a result of type `R`.
    ///
    /// # Safety
    /// That of [`Walk::run`].
    unsafe fn scatter_all<T: Lane, R: Stored>(&self, launch: &Launch<'_>, routines: &Routines<T>, threads: usize) {
        let rows = self.program.nest.loops[self.program.choice().expect("a scatter chooses")].count;
        let n_parts = if threads == 1 { 1 } else { rows.min(threads) };
        // SAFETY (of both blocks): the contract; parts have disjoint ranges of elements and of rows.
        if !launch.accumulate {
            let n_clears = if threads == 1 { 1 } else { self.elements.div_ceil(SERIAL).min(4 * threads) };
            launch.pool.run(n_clears, &|index| {
                let range = range_of(index, n_clears, self.elements);
                unsafe { launch.result.cast::<R>().add(range.start).write_bytes(0, range.len()) };
            });
        }
        launch.pool.run(n_parts, &|index| {
            self.program.with_memory(|memory| {
                let mut evaluator = Evaluator::new(&self.program, launch, routines, memory);
                unsafe { self.scatter::<T, R>(&mut evaluator, launch, range_of(index, n_parts, rows)) };
            });
        });
    }

    /// # Safety
    /// That of [`Walk::run`], for units that no other part has.
    unsafe fn map<T: Lane, R: Stored>(
        &self,
        evaluator: &mut Evaluator<'_, T>,
        memory: Memory<T>,
        launch: &Launch<'_>,
        routines: &Routines<T>,
        units: std::ops::Range<usize>,
    ) {
        let n_blocks = self.program.n_blocks();
        let same = T::DTYPE == R::DTYPE && self.program.is_result_dense();
        // storing right into the result needs that no operand is there
        let direct = same && !launch.accumulate && !launch.in_place();
        evaluator.cursor.seek(&self.outer, units.start / n_blocks);
        let mut block = units.start % n_blocks;
        let mut found = false;
        for unit in units.clone() {
            // SAFETY: the contract; the block is within the loops, so the result's address is within the result.
            unsafe {
                if unit == units.start || block == 0 {
                    found = evaluator.start_row();
                }
                let block = evaluator.seek_block(block);
                let to = launch.result.cast::<R>().offset(evaluator.result());
                if !found {
                    let (zeros, ..) = memory.lanes(block.n());
                    zeros.fill(T::ZERO);
                    self.program.store(zeros.as_ptr(), block, to, launch.accumulate);
                } else if direct {
                    evaluator.evaluate(block, to.cast());
                } else {
                    let values = evaluator.evaluate(block, std::ptr::null_mut());
                    if same && launch.accumulate {
                        let values = std::slice::from_raw_parts(values, block.n());
                        (routines.add)(std::slice::from_raw_parts_mut(to.cast(), block.n()), values);
                    } else {
                        self.program.store(values, block, to, launch.accumulate);
                    }
                }
            }
            block += 1;
            if block == n_blocks {
                block = 0;
                evaluator.cursor.advance(&self.outer);
            }
        }
    }

    /// # Safety
    /// That of [`Walk::run`], for rows that no other part has.
    unsafe fn scatter<T: Lane, R: Stored>(&self, evaluator: &mut Evaluator<'_, T>, launch: &Launch<'_>, rows: std::ops::Range<usize>) {
        let loops: Vec<usize> = self.outer.iter().chain(&self.inner).copied().collect();
        let along = self.program.choice().expect("a scatter chooses");
        for _ in 0..self.program.nest.count(&loops) {
            // SAFETY: the contract.
            unsafe {
                if evaluator.choose().is_some_and(|row| rows.contains(&row)) && evaluator.start_row() {
                    for block in 0..self.program.n_blocks() {
                        let block = evaluator.seek_block(block);
                        let values = evaluator.evaluate(block, std::ptr::null_mut());
                        self.program.store(values, block, launch.result.cast::<R>().offset(evaluator.result()), true);
                    }
                    evaluator.cursor.place(along, 0);
                }
            }
            evaluator.cursor.advance(&loops);
        }
    }

    /// Folds a range of the blocks of a unit to one number.
    ///
    /// # Safety
    /// That of [`Walk::run`], for a unit that no other part has.
    unsafe fn row<T: Lane, R: Stored>(
        &self,
        evaluator: &mut Evaluator<'_, T>,
        launch: &Launch<'_>,
        routines: &Routines<T>,
        unit: usize,
        range: std::ops::Range<usize>,
    ) {
        let n_blocks = self.program.n_blocks();
        evaluator.cursor.seek(&self.inner, range.start / n_blocks);
        let mut block = range.start % n_blocks;
        let mut partial = partial_identity(self.reduce);
        let mut found = false;
        for term in range.clone() {
            // SAFETY: the contract.
            unsafe {
                if term == range.start || block == 0 {
                    found = evaluator.start_row();
                }
                if found {
                    let block = evaluator.seek_block(block);
                    let values = std::slice::from_raw_parts(evaluator.evaluate(block, std::ptr::null_mut()), block.n());
                    partial = match self.reduce {
                        Reduce::Max => (partial.0.max((routines.largest)(values).to_f64()), 0.0),
                        Reduce::Min => (partial.0.min((routines.smallest)(values).to_f64()), 0.0),
                        Reduce::LogSumExp => {
                            let largest = (routines.largest)(values);
                            let sum = if largest.to_f64().is_finite() { (routines.sum_exp)(values, largest) } else { 0.0 };
                            partial_merge(self.reduce, partial, (largest.to_f64(), sum))
                        }
                        _ => (partial.0 + (routines.sum)(values), 0.0),
                    };
                }
            }
            block += 1;
            if block == n_blocks {
                block = 0;
                evaluator.cursor.advance(&self.inner);
            }
        }
        // SAFETY: the contract; the scratch has a partial for each unit.
        unsafe {
            if self.splits > 1 {
                launch.scratch.cast::<Partial>().add(unit).write(partial);
            } else {
                put(launch.result.cast::<R>().offset(evaluator.result()), partial_value(self.reduce, partial), launch.accumulate);
            }
        }
    }

    /// Folds a range of the iterations of a unit, lane by lane.
    ///
    /// # Safety
    /// That of [`Walk::run`], for a unit that no other part has.
    #[expect(clippy::too_many_arguments, reason = "what a unit is and where it goes")]
    unsafe fn column<T: Lane, R: Stored>(
        &self,
        evaluator: &mut Evaluator<'_, T>,
        memory: Memory<T>,
        launch: &Launch<'_>,
        routines: &Routines<T>,
        unit: usize,
        block: usize,
        range: std::ops::Range<usize>,
    ) {
        evaluator.cursor.seek(&self.inner, range.start);
        let block = evaluator.seek_block(block);
        let n = block.n();
        // SAFETY: a block is at most as wide as the memory, and no other lanes of it are alive.
        let (first, second, wide) = unsafe { memory.lanes(n) };
        first.fill(T::from_f64(partial_identity(self.reduce).0));
        second.fill(T::ZERO);
        wide.fill(0.0);
        let short = range.len() <= TERMS;
        // SAFETY: the contract.
        unsafe {
            for (term, _) in range.clone().enumerate() {
                if evaluator.start_row() {
                    let values = std::slice::from_raw_parts(evaluator.evaluate(block, std::ptr::null_mut()), n);
                    match self.reduce {
                        Reduce::Max => (routines.raise)(first, values),
                        Reduce::Min => (routines.lower)(first, values),
                        Reduce::LogSumExp => (routines.log_add)(first, second, values),
                        _ => (routines.add)(first, values),
                    }
                }
                if self.reduce == Reduce::Sum && !short && (term % TERMS == TERMS - 1 || term == range.len() - 1) {
                    (routines.widen)(wide, first);
                    first.fill(T::ZERO);
                }
                evaluator.cursor.advance(&self.inner);
            }
            evaluator.cursor.seek(&self.inner, 0);
            let partial = |lane: usize| match self.reduce {
                Reduce::Sum if !short => (wide[lane], 0.0),
                _ => (first[lane].to_f64(), second[lane].to_f64()),
            };
            if self.splits > 1 {
                let partials = launch.scratch.cast::<Partial>().add(unit * self.program.width());
                (0..n).for_each(|lane| partials.add(lane).write(partial(lane)));
                return;
            }
            let to = launch.result.cast::<R>().offset(evaluator.result());
            if short && self.reduce != Reduce::LogSumExp {
                self.program.store(first.as_ptr(), block, to, launch.accumulate);
            } else {
                for lane in 0..n {
                    let to = to.offset(self.program.result_offset(block, lane));
                    put(to, partial_value(self.reduce, partial(lane)), launch.accumulate);
                }
            }
        }
    }

    /// Joins the partial results of a split fold, in order.
    ///
    /// # Safety
    /// That of [`Walk::run`], once all parts are done.
    unsafe fn join<T: Lane, R: Stored>(&self, evaluator: &mut Evaluator<'_, T>, launch: &Launch<'_>) {
        let (n_blocks, width) = (self.program.n_blocks(), self.partials());
        let rows = self.mode == Mode::Rows;
        for unit in 0..self.units() {
            evaluator.cursor.seek(&self.outer, if rows { unit } else { unit / n_blocks });
            let block = evaluator.seek_block(if rows { 0 } else { unit % n_blocks });
            let n = if rows { 1 } else { block.n() };
            // SAFETY: the parts wrote all partials of the unit.
            unsafe {
                let partials = launch.scratch.cast::<Partial>().add(unit * self.splits * width);
                let to = launch.result.cast::<R>().offset(evaluator.result());
                for lane in 0..n {
                    let start = partial_identity(self.reduce);
                    let of = |split: usize| *partials.add(split * width + lane);
                    let partial = (0..self.splits).fold(start, |sum, split| partial_merge(self.reduce, sum, of(split)));
                    let to = to.offset(self.program.result_offset(block, lane));
                    put(to, partial_value(self.reduce, partial), launch.accumulate);
                }
            }
        }
    }
}

/// Stores a number, or adds it.
///
/// # Safety
/// `to` is valid for a write and, if it accumulates, for a read.
unsafe fn put<R: Stored>(to: *mut R, value: f64, accumulate: bool) {
    // SAFETY: the contract.
    unsafe { *to = R::from_f64(if accumulate { (*to).to_f64() + value } else { value }) };
}

#[cfg(test)]
mod tests {
    use partita_ir::rule::log_add_exp;

    use super::*;

    #[test]
    fn partial_merges_agree_with_the_reductions() {
        for (a, b) in [(1.0, 2.0), (f64::NEG_INFINITY, 3.0), (f64::NEG_INFINITY, f64::NEG_INFINITY), (-700.0, 700.0)] {
            let one = |x: f64| if x.is_finite() { (x, 1.0) } else { (x, 0.0) };
            let got = partial_value(Reduce::LogSumExp, partial_merge(Reduce::LogSumExp, one(a), one(b)));
            let want = log_add_exp(a, b);
            assert!(got == want || (got - want).abs() < 1e-12, "{a} {b}: {got} not {want}");
        }
    }
}
