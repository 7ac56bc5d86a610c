//! One rule on one rank's shard, computed on the CPU.
//!
//! [`Kernel::prepare`] reads a rule and the rank's part of its factors and picks an implementation by what the loops
//! and the expression are, never by an operator's name. In this order:
//!
//! - `tuple`: a fold of rows (argmax, softmax).
//! - `copy`: the expression is its operand, every element is only moved.
//! - `gemm`: a sum of products of two operands, where the matrix product is estimated faster than the loops.
//! - `choose` finds sums over a factor of which one index counts, `select(x == index(v), e, 0)`: a gather if `v` is
//!   summed, a scatter if `v` is kept. They are walks whose loop over `v` is one step.
//! - `walk`: everything else, a map or a fold over the lanes of a `tape`; `lanes` picks the loops that they run over.
//!
//! `nest` is the common ground: the rule's loops with affine addresses, merged as far as they go. `vector` has the
//! loops over lanes, compiled for each instruction set. Lanes are f32 or f64; `stored` has the types of 16 bits, which are
//! read as f32 and rounded where they are written; `product16` multiplies matrices of them, block by block as f32.
//!
//! **Invariant:** what a launch writes does not depend on timing; sums are taken in an order that only the rule, the
//! shard and, for matrix products, the number of threads decide.
#![allow(unsafe_code, reason = "kernels work on raw buffers that the program's verifier laid out")]

mod choose;
mod copy;
mod evaluate;
mod gemm;
mod lanes;
mod nest;
mod product16;
mod stored;
mod tape;
#[cfg(test)]
mod tests;
mod tuple;
mod vector;
mod walk;
mod work;

use half::{bf16, f16};
use partita_ir::dtype::DType;
use partita_ir::random::{DrawContext, stream};
use partita_ir::rule::{Access, DimAccess, Reduce, Rule};

use crate::pool::Pool;
use nest::Nest;
use stored::Stored;
use vector::Lane;

/// The local part of one factor: which of its indices this rank walks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Global size of the factor.
    pub size: u64,
    /// Ascending disjoint half-open intervals of global indices; none where the rank has no part.
    pub intervals: Vec<(u64, u64)>,
}

impl Extent {
    /// All of a factor.
    pub fn whole(size: u64) -> Self {
        Self { size, intervals: vec![(0, size)] }
    }

    /// The number of local indices.
    pub fn count(&self) -> u64 {
        self.intervals.iter().map(|(start, end)| end - start).sum()
    }

    /// The first and the last local index, of a factor that is not empty here.
    fn bounds(&self) -> (u64, u64) {
        let mut filled = self.intervals.iter().filter(|(start, end)| start < end);
        let first = filled.next().expect("the factor is not empty here");
        (first.0, filled.next_back().unwrap_or(first).1 - 1)
    }
}

/// A rule on one rank's shard.
#[derive(Clone, Debug)]
pub struct LaunchSpec<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// The local part of each factor of the rule.
    pub extents: Vec<Extent>,
    /// How each operand is stored: f32, f64, bf16, fp16 or i32.
    pub operand_dtypes: &'a [DType],
    /// The *global* shape of each operand; [`LaunchSpec::local_shape`] gives the local one.
    pub operand_shapes: Vec<Vec<u64>>,
    /// How the result is stored: f32, f64, bf16 or fp16. It is computed in [`DType::arithmetic`] of this.
    pub result: DType,
}

impl LaunchSpec<'_> {
    /// The shape that operand `n` has on this rank, dense and row-major: a dimension that is accessed exactly is as
    /// long as its factors are here (their product), of any other there is what they reach ([`DimAccess::reached`]).
    pub fn local_shape(&self, n: usize) -> Vec<u64> {
        nest::local_shape(&self.rule.operands[n], &self.operand_shapes[n], self)
    }

    /// The shape that the result has on this rank.
    pub fn local_result_shape(&self) -> Vec<u64> {
        nest::local_shape(&self.rule.result, &self.result_shape(), self)
    }

    /// From where to where a dimension of `size` elements that is not accessed exactly is here.
    fn reached(&self, dim: &DimAccess, size: u64) -> (u64, u64) {
        dim.reached(size, &|factor| (self.extents[factor].size, &self.extents[factor].intervals[..]))
    }

    /// The global shape of the result.
    fn result_shape(&self) -> Vec<u64> {
        let sizes = |access: &Access| -> Vec<u64> {
            access.iter().map(|dim| dim.terms.iter().map(|term| self.extents[term.factor].size).product()).collect()
        };
        sizes(&self.rule.result)
    }
}

/// The operands and the rest of one launch, for the threads of a pool.
struct Launch<'a> {
    operands: &'a [*const u8],
    result: *mut u8,
    scratch: *mut u8,
    accumulate: bool,
    /// Stream of each draw of the nest.
    streams: Vec<u64>,
    pool: &'a Pool,
}

// SAFETY: parts of a launch write disjoint elements of the result and of the scratch, by each implementation's
// partition; operands are only read.
unsafe impl Sync for Launch<'_> {}

impl Launch<'_> {
    /// Whether the result lies where an operand does.
    fn in_place(&self) -> bool {
        self.operands.iter().any(|operand| operand.cast_mut() == self.result)
    }
}

/// What `Kernel::prepare` chose.
enum Plan {
    /// The result has no elements here.
    Nothing,
    /// Nothing is folded here: rows of the reduction's identity.
    Identity {
        reduce: Reduce,
        row: usize,
        elements: usize,
    },
    Copy(copy::Copy),
    Gemm(gemm::Gemm),
    /// One of which a side is stored in 16 bits.
    Product16(product16::Product16),
    Walk(walk::Walk),
    /// A walk in f64 whose results are f32: an expression of indices alone, whose angles and powers need the digits.
    WideWalk(walk::Walk),
    Tuple(tuple::TupleFold),
}

/// A prepared rule: prepare once, run many times.
pub struct Kernel {
    plan: Plan,
    draws: Vec<u64>,
    n_operands: usize,
    result: DType,
    f32: vector::Routines<f32>,
    f64: vector::Routines<f64>,
}

impl Kernel {
    /// Chooses an implementation; see the module's text.
    ///
    /// # Panics
    /// When the result's or an operand's type is not one that the CPU stores, or the spec's lists do not match the rule:
    /// such a launch should not have passed the verifier.
    pub fn prepare(spec: &LaunchSpec<'_>) -> Self {
        let rule = spec.rule;
        let float = |dtype: &DType| matches!(dtype, DType::F32 | DType::F64 | DType::Bf16 | DType::Fp16);
        let stored = |dtype: &DType| float(dtype) || *dtype == DType::I32;
        assert!(
            float(&spec.result) && spec.operand_dtypes.iter().all(stored),
            "the CPU stores no {:?}, {}",
            spec.operand_dtypes,
            spec.result
        );
        assert_eq!(spec.extents.len(), rule.factors.len(), "one extent a factor");
        assert_eq!(spec.operand_dtypes.len(), rule.operands.len(), "one type an operand");
        assert_eq!(spec.operand_shapes.len(), rule.operands.len(), "one shape an operand");
        let (plan, draws) = match spec.result.arithmetic() {
            DType::F32 => choose_plan::<f32>(spec),
            _ => choose_plan::<f64>(spec),
        };
        Self {
            plan,
            draws,
            n_operands: rule.operands.len(),
            result: spec.result,
            f32: vector::Routines::best(),
            f64: vector::Routines::best(),
        }
    }

    /// The implementation's name, for profiles: `none`, `identity`, `copy`, `gemm`, `map`, `fold rows`,
    /// `fold columns`, `gather`, `scatter` or `tuple`.
    pub fn kind(&self) -> &'static str {
        match &self.plan {
            Plan::Nothing => "none",
            Plan::Identity { .. } => "identity",
            Plan::Copy(_) => "copy",
            Plan::Gemm(_) | Plan::Product16(_) => "gemm",
            Plan::Walk(walk) | Plan::WideWalk(walk) => walk.kind(),
            Plan::Tuple(_) => "tuple",
        }
    }

    /// Floating-point operations of a matrix product, a multiplication and an addition each counted; 0 for others.
    pub fn flops(&self) -> u64 {
        match &self.plan {
            Plan::Gemm(gemm) => gemm.flops(),
            Plan::Product16(product) => product.gemm().flops(),
            _ => 0,
        }
    }

    /// Temporary memory that [`Kernel::run`] needs from the caller, aligned to 64 bytes.
    pub fn scratch_bytes(&self) -> u64 {
        match &self.plan {
            Plan::Walk(walk) | Plan::WideWalk(walk) => walk.scratch_bytes(),
            Plan::Tuple(fold) => fold.scratch_bytes(),
            Plan::Product16(product) => product.scratch_bytes(),
            _ => 0,
        }
    }

    /// Computes the result, or with `accumulate` adds it to what is there (a sum or no reduction only).
    ///
    /// # Panics
    /// When the number of operands is wrong.
    ///
    /// # Safety
    /// Operands are valid for reads and the result for writes (with `accumulate`, reads too) of dense row-major
    /// tensors of the shapes that [`LaunchSpec::local_shape`] and [`LaunchSpec::local_result_shape`] give, each aligned
    /// to its type; an operand that the expression does not read may be anything. The scratch is valid for
    /// [`Kernel::scratch_bytes`] bytes, aligned to 64. The result does not overlap the scratch or an operand, except
    /// that it may be an operand that every point reads where it writes (an elementwise map in place).
    pub unsafe fn run(&self, operands: &[*const u8], result: *mut u8, scratch: *mut u8, accumulate: bool, ctx: DrawContext, pool: &Pool) {
        assert_eq!(operands.len(), self.n_operands, "a pointer for each operand");
        let streams = self.draws.iter().map(|salt| stream(ctx, *salt)).collect();
        let launch = Launch { operands, result, scratch, accumulate, streams, pool };
        // SAFETY: the caller's contract is that of each implementation.
        unsafe {
            match self.result {
                DType::F64 => self.execute::<f64, f64>(&launch, &self.f64),
                DType::Bf16 => self.execute::<f32, bf16>(&launch, &self.f32),
                DType::Fp16 => self.execute::<f32, f16>(&launch, &self.f32),
                _ => self.execute::<f32, f32>(&launch, &self.f32),
            }
        }
    }

    /// # Safety
    /// That of [`Kernel::run`].
    unsafe fn execute<T: Lane, R: Stored>(&self, launch: &Launch<'_>, routines: &vector::Routines<T>) {
        // SAFETY: the caller's contract.
        unsafe {
            match &self.plan {
                Plan::Nothing => {}
                Plan::Identity { reduce, row, elements } => identity::<R>(*reduce, *row, *elements, launch),
                Plan::Copy(copy) => copy.run::<R>(launch),
                Plan::Gemm(gemm) => gemm.run::<T>(launch),
                Plan::Product16(product) => product.run::<R>(launch),
                Plan::Walk(walk) => walk.run::<T, R>(launch, routines),
                Plan::WideWalk(walk) => walk.run::<f64, R>(launch, &self.f64),
                Plan::Tuple(fold) => fold.run::<T, R>(launch, routines),
            }
        }
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("kind", &self.kind()).field("result", &self.result).finish_non_exhaustive()
    }
}

fn choose_plan<T: Lane>(spec: &LaunchSpec<'_>) -> (Plan, Vec<u64>) {
    let rule = spec.rule;
    let empty = |kept: bool| (0..rule.factors.len()).any(|factor| rule.keeps(factor) == kept && spec.extents[factor].count() == 0);
    if empty(true) {
        return (Plan::Nothing, Vec::new());
    }
    if empty(false) {
        let shape = spec.local_result_shape();
        let row = shape.last().map_or(1, |last| *last as usize);
        let reduce = rule.reduce.unwrap_or(Reduce::Sum);
        return (Plan::Identity { reduce, row, elements: shape.iter().product::<u64>() as usize }, Vec::new());
    }
    let nest = Nest::new(spec);
    let draws = nest.draws.iter().map(|draw| draw.salt).collect();
    if rule.reduce.is_some_and(Reduce::is_tuple) {
        return (Plan::Tuple(tuple::TupleFold::new::<T>(rule, nest)), draws);
    }
    let plan = if let Some(copy) = copy::Copy::new(rule, &nest, spec.result) {
        Plan::Copy(copy)
    } else if let Some(gemm) = gemm::Gemm::new::<T>(rule, &nest) {
        if gemm.is_all::<T>() && spec.result == T::DTYPE { Plan::Gemm(gemm) } else { Plan::Product16(product16::Product16::new(gemm)) }
    } else if rule.reduce.is_none() && (0..rule.operands.len()).all(|operand| !rule.expr.reads(operand)) {
        Plan::WideWalk(walk::Walk::new::<f64>(rule, nest, spec.result))
    } else {
        Plan::Walk(walk::Walk::new::<T>(rule, nest, spec.result))
    };
    (plan, draws)
}

/// Fills the result with the identity of a reduction.
///
/// # Safety
/// The result is valid for writes of `elements` numbers.
unsafe fn identity<R: Stored>(reduce: Reduce, row: usize, elements: usize, launch: &Launch<'_>) {
    if launch.accumulate {
        // adding nothing changes nothing
        return;
    }
    // SAFETY: the contract.
    let result = unsafe { std::slice::from_raw_parts_mut(launch.result.cast::<R>(), elements) };
    let mut values = vec![0.0; if reduce.is_tuple() { row } else { 1 }];
    reduce.identity(&mut values);
    for chunk in result.chunks_mut(values.len()) {
        for (element, value) in chunk.iter_mut().zip(&values) {
            *element = R::from_f64(*value);
        }
    }
}

/// The range of part `part` of `0..units` cut into `n_parts` nearly equal ones.
fn range_of(part: usize, n_parts: usize, units: usize) -> std::ops::Range<usize> {
    part * units / n_parts..(part + 1) * units / n_parts
}
