//! Every implementation against plain loops in f64, on random rules and on the rules that models are made of.

use half::{bf16, f16};
use partita_ir::dtype::DType;
use partita_ir::formula::{Formula, index, lit, random, x};
use partita_ir::id::AxisId;
use partita_ir::random::{DrawContext, stream, uniform};
use partita_ir::rule::{Access, DimAccess, Reduce, Rule, Term};
use partita_ir::scalar::{Expr, Unary};

use super::vector::Routines;
use super::{Extent, Kernel, LaunchSpec};
use crate::pool::Pool;

/// Draws for the tests' own choices.
struct Dice {
    stream: u64,
    drawn: u64,
}

impl Dice {
    fn new(seed: u64) -> Self {
        Self { stream: stream(DrawContext { seed, ..DrawContext::default() }, 7), drawn: 0 }
    }
    fn below(&mut self, n: u64) -> u64 {
        self.drawn += 1;
        (uniform(self.stream, self.drawn) * n as f64) as u64
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    fn shuffled(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for last in (1..n).rev() {
            order.swap(last, self.below(last as u64 + 1) as usize);
        }
        order
    }
}

/// A rule with shapes, a rank's part of it, and data.
#[derive(Debug)]
struct Case {
    rule: Rule,
    extents: Vec<Extent>,
    shapes: Vec<Vec<u64>>,
    dtypes: Vec<DType>,
    data: Vec<Vec<f64>>,
}

const CTX: DrawContext = DrawContext { seed: 3, step: 5, iteration: 2 };

impl Case {
    fn spec(&self, result: DType) -> LaunchSpec<'_> {
        LaunchSpec {
            rule: &self.rule,
            extents: self.extents.clone(),
            operand_dtypes: &self.dtypes,
            operand_shapes: self.shapes.clone(),
            result,
        }
    }

    /// A case with dense operands of multiples of 1/8 (integers below 6 where the type is i32).
    fn new(rule: Rule, extents: Vec<Extent>, shapes: Vec<Vec<u64>>, integers: &[usize], dice: &mut Dice) -> Self {
        let dtypes: Vec<DType> = (0..shapes.len()).map(|n| if integers.contains(&n) { DType::I32 } else { DType::F32 }).collect();
        let mut case = Self { rule, extents, shapes, dtypes, data: Vec::new() };
        let spec = case.spec(DType::F64);
        let lengths: Vec<u64> = (0..case.shapes.len()).map(|n| spec.local_shape(n).iter().product()).collect();
        case.data = (0..case.shapes.len())
            .map(|n| {
                let value = |dice: &mut Dice| {
                    if integers.contains(&n) { dice.below(8) as f64 - 1.0 } else { (dice.below(33) as f64 - 16.0) / 8.0 }
                };
                (0..lengths[n]).map(|_| value(dice)).collect()
            })
            .collect();
        case
    }

    fn locals(&self, factor: usize) -> Vec<u64> {
        self.extents[factor].intervals.iter().flat_map(|(start, end)| *start..*end).collect()
    }

    /// The address of an access at these local positions and global indices, if it is within the tensor.
    fn address(&self, access: &Access, shape: &[u64], positions: &[u64], globals: &[u64]) -> Option<usize> {
        let size = |factor: usize| self.extents[factor].size;
        let mut address = 0;
        for (dim, whole) in access.iter().zip(shape) {
            let (first, end) = dim.reached(*whole, &|factor| (self.extents[factor].size, &self.extents[factor].intervals[..]));
            let (mut at, mut length) = (dim.index(globals) - first as i64, end - first);
            if dim.is_exact(*whole, &size) {
                (at, length) = (0, 1);
                for term in &dim.terms {
                    let count = self.extents[term.factor].count();
                    at = at * count as i64 + positions[term.factor] as i64;
                    length *= count;
                }
            }
            if at < 0 || at >= length as i64 {
                return None;
            }
            address = address * length as usize + at as usize;
        }
        Some(address)
    }

    /// Plain loops.
    fn reference(&self) -> Vec<f64> {
        let locals: Vec<Vec<u64>> = (0..self.extents.len()).map(|factor| self.locals(factor)).collect();
        let result_shape: Vec<u64> =
            self.rule.result.iter().map(|dim| dim.terms.iter().map(|term| self.extents[term.factor].size).product()).collect();
        let local_shape = self.spec(DType::F64).local_result_shape();
        let reduce = self.rule.reduce.unwrap_or(Reduce::Sum);
        let row = if reduce.is_tuple() { *local_shape.last().unwrap() as usize } else { 1 };
        let elements: u64 = local_shape.iter().product();
        let mut result = vec![0.0; elements as usize];
        result.chunks_mut(row.max(1)).for_each(|row| reduce.identity(row));
        if locals.iter().any(Vec::is_empty) {
            return result;
        }
        let mut points: Vec<(usize, f64)> = Vec::new();
        let mut positions = vec![0u64; locals.len()];
        let mut scratch = Vec::new();
        loop {
            let globals: Vec<u64> = positions.iter().zip(&locals).map(|(position, local)| local[*position as usize]).collect();
            let operands: Vec<f64> = (0..self.data.len())
                .map(|n| {
                    let at = self.address(&self.rule.operands[n], &self.shapes[n], &positions, &globals);
                    at.map_or(0.0, |at| self.data[n][at])
                })
                .collect();
            let draw = |salt: u64, factors: &[usize]| {
                let element = factors.iter().fold(0, |element, factor| element * self.extents[*factor].size + globals[*factor]);
                uniform(stream(CTX, salt), element)
            };
            let value = self.rule.expr.eval(&operands, &globals, &draw, &mut scratch);
            let at = self.address(&self.rule.result, &result_shape, &positions, &globals).expect("a result is exact");
            points.push((at, value));
            let Some(factor) = (0..positions.len()).rev().find(|factor| positions[*factor] + 1 < locals[*factor].len() as u64) else {
                break;
            };
            positions[factor] += 1;
            positions[factor + 1..].fill(0);
        }
        if reduce.is_tuple() {
            // rows in the order of the reduced factors: the points of a row come one reduced index after the other
            let mut rows: Vec<Vec<(usize, f64)>> = vec![Vec::new(); result.len() / row];
            points.into_iter().for_each(|(at, value)| rows[at / row].push((at % row, value)));
            for (number, points) in rows.into_iter().enumerate() {
                let mut columns: Vec<Vec<f64>> = vec![Vec::new(); row];
                points.into_iter().for_each(|(column, value)| columns[column].push(value));
                for term in 0..columns[0].len() {
                    let other: Vec<f64> = columns.iter().map(|column| column[term]).collect();
                    reduce.merge(&mut result[number * row..(number + 1) * row], &other);
                }
            }
        } else {
            points.into_iter().for_each(|(at, value)| reduce.merge(&mut result[at..=at], &[value]));
        }
        result
    }

    /// What the kernel computes in a type with the fastest routines, on top of `before` if given.
    fn run(&self, compute: DType, pool: &Pool, before: Option<&[f64]>) -> (Vec<f64>, &'static str) {
        self.run_with((compute, compute), pool, before, usize::MAX)
    }

    /// The same of operands and a result of these types, with routines `set` of those that this machine has, or the last.
    fn run_with(&self, (stored, compute): (DType, DType), pool: &Pool, before: Option<&[f64]>, set: usize) -> (Vec<f64>, &'static str) {
        let bytes = |values: &[f64], dtype: DType| -> Vec<u64> {
            // whole u64s, so that every type is aligned
            let bytes: Vec<u8> = match dtype {
                DType::F64 => values.iter().flat_map(|value| value.to_ne_bytes()).collect(),
                DType::F32 => values.iter().flat_map(|value| (*value as f32).to_ne_bytes()).collect(),
                DType::Bf16 => values.iter().flat_map(|value| bf16::from_f64(*value).to_ne_bytes()).collect(),
                DType::Fp16 => values.iter().flat_map(|value| f16::from_f64(*value).to_ne_bytes()).collect(),
                _ => values.iter().flat_map(|value| (*value as i32).to_ne_bytes()).collect(),
            };
            bytes.chunks(8).map(|chunk| u64::from_ne_bytes(std::array::from_fn(|n| *chunk.get(n).unwrap_or(&0)))).collect()
        };
        let dtypes: Vec<DType> = self.dtypes.iter().map(|dtype| if *dtype == DType::F32 { stored } else { *dtype }).collect();
        let spec = LaunchSpec { operand_dtypes: &dtypes, ..self.spec(compute) };
        let mut kernel = Kernel::prepare(&spec);
        let (mut narrow, mut wide) = (Routines::supported(), Routines::supported());
        narrow.truncate(set.saturating_add(1));
        wide.truncate(set.saturating_add(1));
        (kernel.f32, kernel.f64) = (narrow.pop().unwrap(), wide.pop().unwrap());
        let elements = spec.local_result_shape().iter().product::<u64>() as usize;
        let operands: Vec<Vec<u64>> = self.data.iter().zip(&dtypes).map(|(values, dtype)| bytes(values, *dtype)).collect();
        let pointers: Vec<*const u8> = operands.iter().map(|operand| operand.as_ptr().cast()).collect();
        let poison = vec![f64::NAN; elements];
        let mut result = bytes(before.unwrap_or(&poison), compute);
        let mut scratch = vec![[u64::MAX; 8]; (kernel.scratch_bytes() as usize).div_ceil(64) + 1];
        let start = scratch.as_mut_ptr().cast::<u8>();
        let aligned = start.wrapping_add(start.align_offset(64));
        // SAFETY: the buffers have the shapes that the spec gives, and the scratch has one line more than it needs.
        unsafe { kernel.run(&pointers, result.as_mut_ptr().cast(), aligned, before.is_some(), CTX, pool) };
        let pair = |n: usize| -> [u8; 2] { std::array::from_fn(|byte| result[n / 4].to_ne_bytes()[n % 4 * 2 + byte]) };
        let element = |n: usize| match compute {
            DType::F64 => f64::from_bits(result[n]),
            DType::Bf16 => bf16::from_ne_bytes(pair(n)).to_f64(),
            DType::Fp16 => f16::from_ne_bytes(pair(n)).to_f64(),
            _ => f64::from(f32::from_ne_bytes(std::array::from_fn(|byte| result[n / 2].to_ne_bytes()[n % 2 * 4 + byte]))),
        };
        ((0..elements).map(element).collect(), kernel.kind())
    }

    /// Checks both types and two pools against plain loops, and gives the implementation's name in f32.
    fn check(&self, pools: &[Pool]) -> &'static str {
        let want = self.reference();
        let mut kind = "";
        for (compute, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-4)] {
            for (set, pool) in pools.iter().enumerate() {
                let (got, name) = self.run(compute, pool, None);
                kind = name;
                self.compare(&got, &want, tolerance, kind);
                let (got, _) = self.run_with((compute, compute), pool, None, set);
                self.compare(&got, &want, tolerance, kind);
                if matches!(self.rule.reduce, None | Some(Reduce::Sum)) {
                    let before: Vec<f64> = (0..want.len()).map(|n| (n % 7) as f64).collect();
                    let sum: Vec<f64> = before.iter().zip(&want).map(|(a, b)| a + b).collect();
                    let (got, kind) = self.run(compute, pool, Some(&before));
                    self.compare(&got, &sum, tolerance, kind);
                }
            }
        }
        // the data is exact in every type, so what 16 bits add is one rounding of each element
        for stored in [DType::F32, DType::Bf16, DType::Fp16] {
            for result in [DType::F32, DType::Bf16, DType::Fp16] {
                if (stored, result) != (DType::F32, DType::F32) {
                    self.check_rounded((stored, result), &pools[pools.len() - 1], &want);
                }
            }
        }
        kind
    }

    /// Checks operands and a result of these types against plain loops.
    fn check_rounded(&self, types: (DType, DType), pool: &Pool, want: &[f64]) {
        let near = |got: &[f64], want: &[f64], kind: &str| {
            let rounded: Vec<f64> = want.iter().map(|want| types.1.round(*want)).collect();
            let magnitude = rounded.iter().filter(|value| value.is_finite()).fold(1.0f64, |most, value| most.max(value.abs()));
            let unit = match types.1 {
                DType::Bf16 => 1.0 / 256.0,
                DType::Fp16 => 1.0 / 2048.0,
                _ => 0.0,
            };
            for (n, ((got, rounded), want)) in got.iter().zip(&rounded).zip(want).enumerate() {
                let bound = unit * want.abs() + 1e-4 * magnitude;
                let same = got == rounded || (got.is_nan() && want.is_nan()) || (got - want).abs() <= bound;
                assert!(same, "{kind} {types:?}: element {n} is {got}, not {rounded}\n{:#?}\nextents {:?}", self.rule, self.extents);
            }
        };
        let (got, kind) = self.run_with(types, pool, None, usize::MAX);
        near(&got, want, kind);
        if matches!(self.rule.reduce, None | Some(Reduce::Sum)) {
            let before: Vec<f64> = (0..want.len()).map(|n| (n % 7) as f64).collect();
            let sum: Vec<f64> = before.iter().zip(want).map(|(a, b)| a + b).collect();
            near(&self.run_with(types, pool, Some(&before), usize::MAX).0, &sum, kind);
        }
    }

    fn compare(&self, got: &[f64], want: &[f64], tolerance: f64, kind: &str) {
        assert_eq!(got.len(), want.len());
        let magnitude = want.iter().filter(|value| value.is_finite()).fold(1.0f64, |most, value| most.max(value.abs()));
        for (n, (got, want)) in got.iter().zip(want).enumerate() {
            let same = got == want || (got.is_nan() && want.is_nan()) || (got - want).abs() <= tolerance * magnitude;
            assert!(same, "{kind}: element {n} is {got}, not {want}\n{:#?}\nextents {:?}", self.rule, self.extents);
        }
    }
}

fn pools() -> Vec<Pool> {
    vec![Pool::new(1), Pool::new(3)]
}

/// A random local part of a factor.
fn extent(dice: &mut Dice, size: u64) -> Extent {
    let cut = |dice: &mut Dice| dice.below(size + 1);
    let mut cuts: Vec<u64> = match dice.below(10) {
        0..5 => vec![0, size],
        5..7 => vec![cut(dice), cut(dice)],
        _ => vec![cut(dice), cut(dice), cut(dice), cut(dice)],
    };
    cuts.sort_unstable();
    if !dice.chance(10) && cuts.chunks(2).all(|pair| pair[0] == pair[1]) {
        cuts = vec![0, size];
    }
    Extent { size, intervals: cuts.chunks(2).map(|pair| (pair[0], pair[1])).collect() }
}

/// Factors in a random order, grouped into dimensions.
fn dims(dice: &mut Dice, factors: &[usize], sizes: &[u64]) -> Access {
    let mut access = Vec::new();
    let mut rest: Vec<usize> = dice.shuffled(factors.len()).into_iter().map(|n| factors[n]).collect();
    while !rest.is_empty() {
        let take = if dice.chance(30) { 1 + dice.below(rest.len() as u64) as usize } else { 1 };
        let group: Vec<usize> = rest.drain(..take).collect();
        access.push(DimAccess::merged(&group, &|factor| sizes[factor]));
    }
    access
}

fn subset(dice: &mut Dice, n: usize, percent: u64) -> Vec<usize> {
    (0..n).filter(|_| dice.chance(percent)).collect()
}

fn shape_of(access: &Access, sizes: &[u64]) -> Vec<u64> {
    access.iter().map(|dim| dim.terms.iter().map(|term| sizes[term.factor]).product()).collect()
}

/// A random expression. Comparisons are of exact numbers, so that f32 and f64 agree on them.
fn formula(dice: &mut Dice, operands: usize, factors: usize, depth: u64) -> Formula {
    let leaf = |dice: &mut Dice| match dice.below(8) {
        0 if factors > 0 => index(dice.below(factors as u64) as usize),
        1 => lit(dice.below(9) as f64 / 4.0 - 1.0),
        2 if factors > 0 => random(dice.below(3), subset(dice, factors, 60)),
        _ if operands > 0 => x(dice.below(operands as u64) as usize),
        _ => lit(0.5),
    };
    if depth == 0 || dice.chance(15) {
        return leaf(dice);
    }
    let inner = |dice: &mut Dice| formula(dice, operands, factors, depth - 1);
    match dice.below(14) {
        0 | 1 => inner(dice) + inner(dice),
        2 => inner(dice) - inner(dice),
        3 | 4 => inner(dice).tanh() * inner(dice),
        5 => inner(dice).max(inner(dice)),
        6 => inner(dice).min(inner(dice)),
        7 => leaf(dice).below(leaf(dice)).select(inner(dice), inner(dice)),
        8 => leaf(dice).equal(leaf(dice)).select(inner(dice), inner(dice)),
        9 => leaf(dice).at_most(leaf(dice)) * inner(dice),
        10 => inner(dice).min(lit(3.0)).exp(),
        11 => {
            let ops = [Unary::Neg, Unary::Sin, Unary::Cos, Unary::Sigmoid, Unary::Erf, Unary::Abs];
            inner(dice).unary(ops[dice.below(6) as usize])
        }
        12 => (inner(dice).unary(Unary::Abs) + lit(0.5)).log(),
        _ => inner(dice) / (inner(dice).unary(Unary::Abs) + lit(1.0)).sqrt(),
    }
}

fn random_case(seed: u64) -> Case {
    let mut dice = Dice::new(seed);
    let dice = &mut dice;
    let n_factors = dice.below(7) as usize;
    let mut sizes: Vec<u64> = (0..n_factors).map(|_| 1 + dice.below(4)).collect();
    if n_factors > 0 && dice.chance(50) {
        let long = dice.below(n_factors as u64) as usize;
        sizes[long] = 5 + dice.below(90);
    }
    let extents: Vec<Extent> = sizes.iter().map(|size| extent(dice, *size)).collect();
    let kept = if dice.chance(40) { (0..n_factors).collect() } else { subset(dice, n_factors, 60) };
    let result = dims(dice, &kept, &sizes);
    let n_operands = dice.below(4) as usize;
    let (mut operands, mut shapes) = (Vec::new(), Vec::new());
    for _ in 0..n_operands {
        let factors = subset(dice, n_factors, 70);
        let mut access = dims(dice, &factors, &sizes);
        let mut shape = shape_of(&access, &sizes);
        if dice.chance(25) && n_factors > 0 {
            // a window, a shift, a reversal, or a factor longer than the dimension
            let terms: Vec<Term> = (0..1 + dice.below(2))
                .map(|_| Term { factor: dice.below(n_factors as u64) as usize, stride: [1, 1, 2, -1][dice.below(4) as usize] })
                .collect();
            let at = dice.below(access.len() as u64 + 1) as usize;
            access.insert(at, DimAccess { terms, offset: dice.below(9) as i64 - 4 });
            shape.insert(at, 1 + dice.below(8));
        }
        operands.push(access);
        shapes.push(shape);
    }
    let integers = subset(dice, n_operands, 20);
    let reduce = (kept.len() < n_factors || dice.chance(10))
        .then(|| [Reduce::Sum, Reduce::Sum, Reduce::Max, Reduce::Min, Reduce::LogSumExp][dice.below(5) as usize]);
    let expr = match dice.below(4) {
        0 if n_operands >= 2 => (x(0) * x(1) * lit(0.25)).expr(),
        1 if n_operands >= 1 => x(n_operands - 1).expr(),
        2 if n_operands >= 1 && n_factors >= 1 => {
            let value = formula(dice, n_operands, n_factors, 2);
            x(0).equal(index(dice.below(n_factors as u64) as usize)).select(value, lit(0.0)).expr()
        }
        _ => formula(dice, n_operands, n_factors, 3).expr(),
    };
    let factors = (0..n_factors as u32).map(AxisId).collect();
    Case::new(Rule { factors, operands, result, reduce, expr }, extents, shapes, &integers, dice)
}

#[test]
fn random_rules_agree_with_plain_loops() {
    let pools = pools();
    let mut kinds: Vec<&str> = Vec::new();
    let rounds = std::env::var("KERNEL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4000);
    for seed in 0..rounds {
        let kind = random_case(seed).check(&pools);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    for kind in ["none", "identity", "copy", "map", "fold rows", "fold columns", "gather", "scatter"] {
        assert!(kinds.contains(&kind), "no rule became a {kind}, only {kinds:?}");
    }
}

/// A rule of whole factors from dimension lists such as `["mk", "kn"]`, `"mn"`.
fn simple(names: &str, sizes: &[u64], operands: &[&str], result: &str, reduce: Option<Reduce>, expr: Expr, integers: &[usize]) -> Case {
    let of = |word: &str| -> Access { word.chars().map(|c| DimAccess::factor(names.find(c).expect("a name of a factor"))).collect() };
    let factors = (0..names.len() as u32).map(AxisId).collect();
    let accesses: Vec<Access> = operands.iter().map(|word| of(word)).collect();
    let shapes = accesses.iter().map(|access| shape_of(access, sizes)).collect();
    let extents = sizes.iter().map(|size| Extent::whole(*size)).collect();
    Case::new(Rule { factors, operands: accesses, result: of(result), reduce, expr }, extents, shapes, integers, &mut Dice::new(1))
}

#[test]
fn rules_of_models_get_the_implementation_meant_for_them() {
    let pools = pools();
    let sum = Some(Reduce::Sum);
    let one_hot = |value: Formula, factor: usize| x(0).equal(index(factor)).select(value, lit(0.0)).expr();
    let cases = [
        ("gemm", simple("mnk", &[40, 50, 30], &["mk", "kn"], "mn", sum, Expr::product(2), &[])),
        ("gemm", simple("mnk", &[40, 50, 30], &["km", "nk"], "nm", sum, (x(0) * x(1) / lit(3.0)).expr(), &[])),
        ("gemm", simple("bshtd", &[2, 20, 3, 25, 16], &["bshd", "bthd"], "bhst", sum, Expr::product(2), &[])),
        ("gemm", simple("bshdt", &[2, 20, 3, 16, 25], &["bhst", "bthd"], "bshd", sum, Expr::product(2), &[])),
        ("gemm", simple("bsehd", &[2, 30, 40, 3, 8], &["bse", "bshd"], "ehd", sum, Expr::product(2), &[])),
        ("fold rows", simple("mk", &[40, 500], &["mk", "k"], "m", sum, Expr::product(2), &[])),
        ("copy", simple("abcd", &[4, 5, 6, 20], &["abcd"], "acbd", None, Expr::operand(0), &[])),
        ("copy", simple("ab", &[70, 45], &["ab"], "ba", None, Expr::operand(0), &[])),
        ("map", simple("abc", &[7, 80, 90], &["abc", "c", "a"], "abc", None, (x(0) * x(1) + x(2)).expr(), &[])),
        ("fold columns", simple("ts", &[300, 256], &["ts"], "s", sum, Expr::operand(0), &[])),
        ("fold rows", simple("ts", &[300, 300], &["ts"], "", sum, (x(0) * x(0)).expr(), &[])),
        ("fold rows", simple("tv", &[20, 3000], &["tv"], "t", Some(Reduce::LogSumExp), Expr::operand(0), &[])),
        ("fold columns", simple("tv", &[200, 300], &["tv"], "v", Some(Reduce::LogSumExp), Expr::operand(0), &[])),
        ("fold rows", simple("ts", &[400, 300], &["ts"], "", Some(Reduce::LogSumExp), Expr::operand(0), &[])),
        ("fold rows", simple("ts", &[400, 300], &["ts"], "", Some(Reduce::Max), Expr::operand(0), &[])),
        ("fold rows", simple("ts", &[9, 5000], &["ts"], "t", Some(Reduce::Min), Expr::operand(0), &[])),
        ("gather", simple("bsev", &[3, 40, 24, 6], &["bs", "ve"], "bse", sum, one_hot(x(1), 3), &[0])),
        ("gather", simple("bsv", &[3, 40, 6], &["bs", "bsv"], "bs", sum, one_hot(x(1), 2), &[0])),
        ("scatter", simple("bsev", &[3, 400, 24, 6], &["bs", "bse"], "ve", sum, one_hot(x(1), 3), &[0])),
        ("scatter", simple("tv", &[300, 6], &["t"], "v", sum, one_hot(lit(1.0), 1), &[0])),
        ("map", simple("tv", &[30, 6], &["t", "t"], "tv", None, one_hot(x(1), 1), &[0])),
        ("map", simple("sh", &[30, 8], &[], "sh", None, (index(0) * lit(1e4).pow(index(1) * lit(-0.25))).unary(Unary::Cos).expr(), &[])),
    ];
    for (kind, case) in cases {
        assert_eq!(case.check(&pools), kind, "{:?}", case.rule);
    }
}

#[test]
fn a_split_fold_does_not_depend_on_the_threads() {
    let case = simple("ts", &[700, 500], &["ts"], "", Some(Reduce::Sum), (x(0).exp() * x(0)).expr(), &[]);
    let runs: Vec<Vec<f64>> = [1, 2, 3].iter().map(|threads| case.run(DType::F32, &Pool::new(*threads), None).0).collect();
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:?}");
}

#[test]
fn tuples_fold_rows() {
    let pools = pools();
    for reduce in [Reduce::ArgMax, Reduce::Softmax] {
        // argmax: (value, index of t) along p; softmax: values read one past their end, where the score stands
        let expr = match reduce {
            Reduce::ArgMax => index(2).equal(lit(0.0)).select(x(0), index(1)).expr(),
            _ => index(2).equal(lit(5.0)).select(x(0), x(1)).expr(),
        };
        let packed = if reduce == Reduce::ArgMax { 2 } else { 6 };
        let mut case = simple("qtp", &[9, 30, packed], &["qt", "tp"], "qp", Some(reduce), expr, &[]);
        case.shapes[1] = vec![30, 5];
        for intervals in [vec![(0, 30)], vec![(3, 7), (20, 29)], vec![(4, 5)], vec![]] {
            let local = Extent { size: 30, intervals };
            let spec = Case::new(
                case.rule.clone(),
                vec![Extent::whole(9), local, Extent::whole(packed)],
                case.shapes.clone(),
                &[],
                &mut Dice::new(5),
            );
            let kind = spec.check(&pools);
            assert!(matches!(kind, "tuple" | "identity"));
        }
    }
}

#[test]
fn a_softmax_row_of_minus_infinity_is_empty() {
    let mut case =
        simple("qtp", &[2, 3, 3], &["qt", "tp"], "qp", Some(Reduce::Softmax), index(2).equal(lit(2.0)).select(x(0), x(1)).expr(), &[]);
    case.shapes[1] = vec![3, 2];
    case.data[0] = vec![f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY, 1.0, f64::NEG_INFINITY, 2.0];
    case.data[1].truncate(6);
    case.check(&pools());
}

#[test]
fn a_map_may_run_in_place() {
    let case = simple("ab", &[300, 400], &["ab", "b"], "ab", None, (x(0) * lit(2.0) + x(1)).expr(), &[]);
    let spec = LaunchSpec { operand_dtypes: &[DType::F32, DType::F32], ..case.spec(DType::F32) };
    let kernel = Kernel::prepare(&spec);
    let mut values: Vec<f32> = case.data[0].iter().map(|value| *value as f32).collect();
    let bias: Vec<f32> = case.data[1].iter().map(|value| *value as f32).collect();
    let result = values.as_mut_ptr();
    // SAFETY: the shapes are the spec's, and every point reads operand 0 where it writes.
    unsafe { kernel.run(&[result.cast(), bias.as_ptr().cast()], result.cast(), std::ptr::null_mut(), false, CTX, &Pool::new(2)) };
    let want = case.reference();
    assert!(values.iter().zip(&want).all(|(got, want)| f64::from(*got) == *want));
}

#[test]
fn long_sums_in_f32_keep_their_digits() {
    for (operands, result) in [("ts", "s"), ("ts", "t"), ("ts", "")] {
        let mut case = simple("ts", &[3000, 700], &[operands], result, Some(Reduce::Sum), Expr::operand(0), &[]);
        case.data[0].iter_mut().enumerate().for_each(|(n, value)| *value = f64::from(1.0 + (n % 1000) as f32 * 1e-3));
        let (got, _) = case.run(DType::F32, &Pool::new(1), None);
        let want = case.reference();
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= 3e-7 * want.abs(), "{got} not {want}");
        }
    }
}
