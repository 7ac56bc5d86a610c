//! A rule on one rank as a nest of loops with affine counters.
//!
//! Everything that moves with the loops is a *counter*: the address of each operand and of the result (in elements),
//! the index of a dimension that may be read outside its bounds, the element that a draw is for. A counter is affine in
//! the loops' positions, so a walk only adds. Loops merge wherever all counters agree that they are one longer loop:
//! an elementwise operator on dense tensors becomes a single loop, whatever its rank.

use partita_ir::dtype::DType;
use partita_ir::rule::DimAccess;
use partita_ir::scalar::Node;

use super::LaunchSpec;

/// What a loop walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A factor that the result keeps.
    Kept,
    /// A factor of the last dimension of a result whose rows are tuples.
    Row,
    /// A factor that is folded.
    Reduced,
}

/// Consecutive positions with consecutive global indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First position.
    pub start: usize,
    /// Number of positions.
    pub count: usize,
    /// Global index of the first.
    pub first: i64,
}

/// One loop.
#[derive(Clone, Debug)]
pub struct Loop {
    /// Iterations, 2 or more.
    pub count: usize,
    /// What it walks.
    pub class: Class,
    /// Whether the expression reads its factor's index.
    pub indexed: bool,
    /// Its positions as runs of global indices; a single run unless some counter or the expression needs to know.
    pub runs: Vec<Run>,
    /// What each counter gains per position.
    pub steps: Vec<i64>,
    /// What each counter gains per global index: 0 for a loop of one run, whose `steps` have it.
    pub index_steps: Vec<i64>,
}

impl Loop {
    /// A loop over nothing that is walked once: the lane loop where there is none.
    pub fn unit(counters: usize) -> Self {
        Self {
            count: 1,
            class: Class::Kept,
            indexed: false,
            runs: vec![Run { start: 0, count: 1, first: 0 }],
            steps: vec![0; counters],
            index_steps: vec![0; counters],
        }
    }

    /// The global index at a position.
    pub fn global(&self, position: usize) -> i64 {
        let run = self.runs.iter().rev().find(|run| run.start <= position).expect("the runs begin at position 0");
        run.first + (position - run.start) as i64
    }

    /// The position of a global index, if it is here.
    pub fn position(&self, global: i64) -> Option<usize> {
        let run = self.runs.iter().find(|run| run.first <= global && global < run.first + run.count as i64)?;
        Some(run.start + (global - run.first) as usize)
    }

    /// What a counter gains from one position to the next of the same run.
    pub fn step(&self, counter: usize) -> i64 {
        self.steps[counter].wrapping_add(self.index_steps[counter])
    }
}

/// A dimension that may be read outside: its index is within `0..size` or the element is 0.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    /// The counter of the index.
    pub counter: usize,
    /// Size of the dimension.
    pub size: i64,
}

/// An operand.
#[derive(Clone, Debug)]
pub struct View {
    /// How it is stored.
    pub dtype: DType,
    /// Dimensions to check.
    pub guards: Vec<Guard>,
}

/// A draw.
#[derive(Clone, Debug)]
pub struct Draw {
    /// Its salt.
    pub salt: u64,
    /// The factors that name its element.
    pub factors: Vec<usize>,
    /// The counter of its element.
    pub counter: usize,
}

/// Where the index of a factor is.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// The factor has one local index.
    Fixed(i64),
    /// It is the index of this loop.
    Loop(usize),
    /// Nobody asks.
    Merged,
}

/// A nest of loops. Counter 0 is the address of the result, counter 1 + n that of operand n.
#[derive(Clone, Debug)]
pub struct Nest {
    /// The loops: kept ones in the result's order, then rows, then reduced ones, each major first.
    pub loops: Vec<Loop>,
    /// Values of the counters at the first iteration.
    pub base: Vec<i64>,
    /// The operands.
    pub operands: Vec<View>,
    /// The draws.
    pub draws: Vec<Draw>,
    /// Where each factor's index is.
    pub places: Vec<Place>,
}

/// A counter as the factors move it.
struct Form {
    base: i64,
    by_position: Vec<i64>,
    by_index: Vec<i64>,
}

impl Form {
    fn zero(factors: usize) -> Self {
        Self { base: 0, by_position: vec![0; factors], by_index: vec![0; factors] }
    }
}

impl Nest {
    /// The nest of a launch in which no factor is locally empty.
    pub fn new(spec: &LaunchSpec<'_>) -> Self {
        let rule = spec.rule;
        let n_factors = rule.factors.len();
        let mut forms = Vec::new();
        let mut guards: Vec<(usize, Form, i64)> = Vec::new();
        forms.push(address(spec, &rule.result, &spec.result_shape(), &mut |_, _| unreachable!("a result is exact in every dimension")));
        for (operand, access) in rule.operands.iter().enumerate() {
            // an operand that the expression does not read gives a shape alone and must not keep loops from merging
            let form = if rule.expr.reads(operand) {
                address(spec, access, &spec.operand_shapes[operand], &mut |form, size| guards.push((operand, form, size)))
            } else {
                Form::zero(n_factors)
            };
            forms.push(form);
        }
        let mut operands: Vec<View> = spec.operand_dtypes.iter().map(|dtype| View { dtype: *dtype, guards: Vec::new() }).collect();
        for (operand, form, size) in guards {
            operands[operand].guards.push(Guard { counter: forms.len(), size });
            forms.push(form);
        }
        let mut draws = Vec::new();
        for node in &rule.expr.nodes {
            if let Node::Random { salt, factors } = node {
                let mut form = Form::zero(n_factors);
                let mut weight = 1i64;
                for factor in factors.iter().rev() {
                    form.by_index[*factor] = form.by_index[*factor].wrapping_add(weight);
                    weight = weight.wrapping_mul(spec.extents[*factor].size as i64);
                }
                draws.push(Draw { salt: *salt, factors: factors.clone(), counter: forms.len() });
                forms.push(form);
            }
        }
        Self::assemble(spec, forms, operands, draws)
    }

    /// Turns factors into loops and merges them.
    fn assemble(spec: &LaunchSpec<'_>, forms: Vec<Form>, operands: Vec<View>, draws: Vec<Draw>) -> Self {
        let rule = spec.rule;
        let is_tuple = rule.reduce.is_some_and(|reduce| reduce.is_tuple());
        let row: Vec<usize> = match rule.result.last() {
            Some(last) if is_tuple => last.terms.iter().map(|term| term.factor).collect(),
            _ => Vec::new(),
        };
        let mut base: Vec<i64> = forms.iter().map(|form| form.base).collect();
        let mut loops: Vec<(usize, Loop)> = Vec::new();
        let mut places = vec![Place::Merged; rule.factors.len()];
        for (factor, place) in places.iter_mut().enumerate() {
            let extent = &spec.extents[factor];
            let count = extent.count() as usize;
            let indexed = rule.expr.nodes.contains(&Node::Index(factor));
            let observed = indexed || forms.iter().any(|form| form.by_index[factor] != 0);
            let intervals = extent.intervals.iter().filter(|(start, end)| start < end);
            let mut runs: Vec<Run> = Vec::new();
            for (start, end) in intervals {
                match runs.last_mut() {
                    Some(run) if !observed || run.first + run.count as i64 == *start as i64 => run.count += (end - start) as usize,
                    last => {
                        let position = last.map_or(0, |run| run.start + run.count);
                        runs.push(Run { start: position, count: (end - start) as usize, first: *start as i64 });
                    }
                }
            }
            let first = runs.first().expect("the factor is not empty").first;
            for (value, form) in base.iter_mut().zip(&forms) {
                *value = value.wrapping_add(form.by_index[factor].wrapping_mul(first));
            }
            if count == 1 {
                *place = Place::Fixed(first);
                continue;
            }
            let mut steps: Vec<i64> = forms.iter().map(|form| form.by_position[factor]).collect();
            let mut index_steps: Vec<i64> = forms.iter().map(|form| form.by_index[factor]).collect();
            if runs.len() == 1 {
                for (step, index_step) in steps.iter_mut().zip(&mut index_steps) {
                    *step = step.wrapping_add(std::mem::take(index_step));
                }
            }
            let class = match (row.contains(&factor), rule.keeps(factor)) {
                (true, _) => Class::Row,
                (_, true) => Class::Kept,
                _ => Class::Reduced,
            };
            loops.push((factor, Loop { count, class, indexed, runs, steps, index_steps }));
        }
        while let Some((outer, inner)) = mergeable(&loops) {
            let count = loops[outer].1.count;
            loops[inner].1.count *= count;
            let merged = &mut loops[inner].1;
            merged.runs[0].count = merged.count;
            loops.remove(outer);
        }
        // the order of walks: as the result lies in memory, then as the operands do
        loops.sort_by_key(|(_, l)| {
            let largest = l.steps[1..=operands.len()].iter().map(|step| step.abs()).max().unwrap_or(0);
            (l.class, std::cmp::Reverse(l.steps[0].abs()), std::cmp::Reverse(largest))
        });
        for (position, (factor, _)) in loops.iter().enumerate().filter(|(_, (_, l))| l.indexed) {
            places[*factor] = Place::Loop(position);
        }
        Self { loops: loops.into_iter().map(|(_, l)| l).collect(), base, operands, draws, places }
    }

    /// The loops of a class, in order, without some.
    pub fn of_class(&self, class: Class, without: &[usize]) -> Vec<usize> {
        (0..self.loops.len()).filter(|index| self.loops[*index].class == class && !without.contains(index)).collect()
    }

    /// Iterations of some loops together.
    pub fn count(&self, loops: &[usize]) -> usize {
        loops.iter().map(|index| self.loops[*index].count).product()
    }

    /// Whether operand `n`, its bounds included, stays the same along a loop.
    pub fn is_uniform(&self, operand: usize, along: &Loop) -> bool {
        along.step(1 + operand) == 0 && self.operands[operand].guards.iter().all(|guard| along.step(guard.counter) == 0)
    }
}

/// An outer and an inner loop that are one.
fn mergeable(loops: &[(usize, Loop)]) -> Option<(usize, usize)> {
    let plain = |l: &Loop| !l.indexed && l.runs.len() == 1;
    for (outer, (_, a)) in loops.iter().enumerate() {
        for (inner, (_, b)) in loops.iter().enumerate() {
            let agree = |(x, y): (&i64, &i64)| *x == y.wrapping_mul(b.count as i64);
            if outer != inner && a.class == b.class && plain(a) && plain(b) && a.steps.iter().zip(&b.steps).all(agree) {
                return Some((outer, inner));
            }
        }
    }
    None
}

/// The local sizes of a tensor's dimensions: of an exact one, the local counts of its factors; of any other, what they
/// reach.
pub fn local_shape(access: &[DimAccess], shape: &[u64], spec: &LaunchSpec<'_>) -> Vec<u64> {
    let size = |factor: usize| spec.extents[factor].size;
    let local = |dim: &DimAccess| dim.terms.iter().map(|term| spec.extents[term.factor].count()).product();
    let reached = |dim: &DimAccess, size: u64| {
        let (first, end) = spec.reached(dim, size);
        end - first
    };
    access.iter().zip(shape).map(|(dim, whole)| if dim.is_exact(*whole, &size) { local(dim) } else { reached(dim, *whole) }).collect()
}

/// The address of an access; `guard` takes the index of every dimension that is not within its size for sure.
fn address(spec: &LaunchSpec<'_>, access: &[DimAccess], shape: &[u64], guard: &mut dyn FnMut(Form, i64)) -> Form {
    let n_factors = spec.extents.len();
    let size = |factor: usize| spec.extents[factor].size;
    let local = local_shape(access, shape, spec);
    let mut form = Form::zero(n_factors);
    let mut stride = 1i64;
    for (position, dim) in access.iter().enumerate().rev() {
        if dim.is_exact(shape[position], &size) {
            let mut within = stride;
            for term in dim.terms.iter().rev() {
                form.by_position[term.factor] += within;
                within *= spec.extents[term.factor].count() as i64;
            }
        } else {
            let mut index = Form { base: dim.offset, ..Form::zero(n_factors) };
            let (mut least, mut most) = (dim.offset, dim.offset);
            for term in &dim.terms {
                index.by_index[term.factor] += term.stride;
                let (first, last) = spec.extents[term.factor].bounds();
                least += (term.stride * first as i64).min(term.stride * last as i64);
                most += (term.stride * first as i64).max(term.stride * last as i64);
            }
            form.base += stride * (index.base - spec.reached(dim, shape[position]).0 as i64);
            for factor in 0..n_factors {
                form.by_index[factor] += stride * index.by_index[factor];
            }
            if least < 0 || most >= shape[position] as i64 {
                guard(index, shape[position] as i64);
            }
        }
        stride *= local[position] as i64;
    }
    form
}

/// A place in a nest with the values of all counters there.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    nest: &'a Nest,
    /// Position of each loop.
    at: Vec<usize>,
    /// The counters.
    pub counters: Vec<i64>,
}

impl<'a> Cursor<'a> {
    /// At the first iteration.
    pub fn new(nest: &'a Nest) -> Self {
        Self { nest, at: vec![0; nest.loops.len()], counters: nest.base.clone() }
    }

    /// Moves one loop.
    #[inline]
    pub fn place(&mut self, index: usize, position: usize) {
        let l = &self.nest.loops[index];
        let from = std::mem::replace(&mut self.at[index], position);
        if from == position {
            return;
        }
        let moved = (position as i64).wrapping_sub(from as i64);
        for (counter, step) in self.counters.iter_mut().zip(&l.steps) {
            *counter = counter.wrapping_add(step.wrapping_mul(moved));
        }
        if l.runs.len() > 1 {
            let moved = l.global(position) - l.global(from);
            for (counter, step) in self.counters.iter_mut().zip(&l.index_steps) {
                *counter = counter.wrapping_add(step.wrapping_mul(moved));
            }
        }
    }

    /// Moves some loops, major first, to their iteration `flat` counted row-major.
    pub fn seek(&mut self, loops: &[usize], mut flat: usize) {
        for index in loops.iter().rev() {
            let count = self.nest.loops[*index].count;
            self.place(*index, flat % count);
            flat /= count;
        }
    }

    /// Moves some loops, major first, to their next iteration, from the last to the first.
    #[inline]
    pub fn advance(&mut self, loops: &[usize]) {
        for index in loops.iter().rev() {
            let next = self.at[*index] + 1;
            if next < self.nest.loops[*index].count {
                return self.place(*index, next);
            }
            self.place(*index, 0);
        }
    }

    /// The global index of a loop.
    #[inline]
    pub fn global(&self, index: usize) -> i64 {
        self.nest.loops[index].global(self.at[index])
    }
}
