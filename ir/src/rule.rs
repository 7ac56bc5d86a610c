//! The one primitive operator: a loop over named factors, a scalar expression, a reduction.
//!
//! A [`Rule`] *is* the operator's sharding rule: which dimension of which operand each factor walks is all that the
//! planner, the lowering and the self-test know of it. A matrix product is
//! `(m k), (k n) -> (m n), k: sum = %0 * %1`; a gather is a one-hot contraction over the table's axis; a reshape is
//! the identity whose dimensions have several factors; a slice is an access with an offset.

use serde::{Deserialize, Serialize};

use crate::id::AxisId;
use crate::scalar::Expr;

/// How the factors that the result lacks are folded. Each has an identity and is associative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduce {
    /// The sum; identity 0.
    Sum,
    /// The largest; identity −∞.
    Max,
    /// The smallest; identity +∞.
    Min,
    /// `log Σ e^x`; identity −∞.
    LogSumExp,
    /// A tuple along the last dimension of the result: (largest, its index ...), the first in lexicographic order of
    /// indices on ties; identity (−∞, 0 ...). A fold over several factors has one index for each.
    ArgMax,
    /// A tuple along the last dimension: (mean of `v` weighted by `e^s` ..., log Σ `e^s`), as attention folds its
    /// values over keys; identity (0 ..., −∞).
    Softmax,
}

impl Reduce {
    /// Every reduction with its word.
    pub const ALL: [(Reduce, &'static str); 6] = [
        (Reduce::Sum, "sum"),
        (Reduce::Max, "max"),
        (Reduce::Min, "min"),
        (Reduce::LogSumExp, "logsumexp"),
        (Reduce::ArgMax, "argmax"),
        (Reduce::Softmax, "softmax"),
    ];

    /// The word of this reduction.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }

    /// The reduction that `word` names.
    pub fn from_word(word: &str) -> Option<Reduce> {
        Self::ALL.iter().find(|row| row.1 == word).map(|row| row.0)
    }

    /// Whether it folds rows along the last dimension of the result (a tuple) instead of single numbers.
    pub fn is_tuple(self) -> bool {
        matches!(self, Reduce::ArgMax | Reduce::Softmax)
    }

    /// Writes the identity into a row of the result (one number unless a tuple).
    pub fn identity(self, row: &mut [f64]) {
        match self {
            Reduce::Sum => row.fill(0.0),
            Reduce::Max | Reduce::LogSumExp => row.fill(f64::NEG_INFINITY),
            Reduce::Min => row.fill(f64::INFINITY),
            Reduce::ArgMax => {
                row.fill(0.0);
                row[0] = f64::NEG_INFINITY;
            }
            Reduce::Softmax => {
                row.fill(0.0);
                row[row.len() - 1] = f64::NEG_INFINITY;
            }
        }
    }

    /// Folds `other` into `row`.
    pub fn merge(self, row: &mut [f64], other: &[f64]) {
        match self {
            Reduce::Sum => row.iter_mut().zip(other).for_each(|(a, b)| *a += b),
            Reduce::Max => row.iter_mut().zip(other).for_each(|(a, b)| *a = a.max(*b)),
            Reduce::Min => row.iter_mut().zip(other).for_each(|(a, b)| *a = a.min(*b)),
            Reduce::LogSumExp => row.iter_mut().zip(other).for_each(|(a, b)| *a = log_add_exp(*a, *b)),
            Reduce::ArgMax => {
                if other[0] > row[0] || (other[0] == row[0] && other[1..] < row[1..]) {
                    row.copy_from_slice(other);
                }
            }
            Reduce::Softmax => {
                let last = row.len() - 1;
                let total = log_add_exp(row[last], other[last]);
                if total > f64::NEG_INFINITY {
                    let (keep, take) = ((row[last] - total).exp(), (other[last] - total).exp());
                    for (a, b) in row[..last].iter_mut().zip(other) {
                        // an empty side has weight 0 and must not spread a NaN
                        *a = if keep == 0.0 { 0.0 } else { *a * keep } + if take == 0.0 { 0.0 } else { b * take };
                    }
                }
                row[last] = total;
            }
        }
    }
}

/// `log(e^a + e^b)` without overflow.
pub fn log_add_exp(a: f64, b: f64) -> f64 {
    let high = a.max(b);
    if high.is_infinite() { high } else { high + ((a - high).exp() + (b - high).exp()).ln() }
}

/// One step of an access: `stride` elements for each index of `factor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Term {
    /// The factor of the rule.
    pub factor: usize,
    /// Elements of the dimension per index of the factor.
    pub stride: i64,
}

/// Where a dimension is read or written: `Σ stride · factor + offset`. A read outside the dimension gives 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct DimAccess {
    /// The terms, major first.
    pub terms: Vec<Term>,
    /// The constant part.
    pub offset: i64,
}

impl DimAccess {
    /// The dimension walks one factor.
    pub fn factor(factor: usize) -> Self {
        Self { terms: vec![Term { factor, stride: 1 }], offset: 0 }
    }

    /// The dimension walks several factors, major first: a merged axis.
    pub fn merged(factors: &[usize], sizes: &dyn Fn(usize) -> u64) -> Self {
        let mut stride = 1;
        let mut terms: Vec<Term> = factors
            .iter()
            .rev()
            .map(|&factor| {
                let term = Term { factor, stride };
                stride *= sizes(factor) as i64;
                term
            })
            .collect();
        terms.reverse();
        Self { terms, offset: 0 }
    }

    /// Whether the factors walk the dimension exactly once, in row-major order.
    pub fn is_exact(&self, dim: u64, sizes: &dyn Fn(usize) -> u64) -> bool {
        let mut stride = 1;
        for term in self.terms.iter().rev() {
            if term.stride != stride {
                return false;
            }
            stride *= sizes(term.factor) as i64;
        }
        self.offset == 0 && stride == dim as i64
    }

    /// The indices of a dimension of `dim` elements that a part of the factors reads, from the first to behind the last:
    /// all of it where every factor is walked whole, none where one is not walked at all. `extents` has (size, intervals)
    /// of each factor. For a dimension that is not exact.
    pub fn reached<'a>(&self, dim: u64, extents: &dyn Fn(usize) -> (u64, &'a [(u64, u64)])) -> (u64, u64) {
        let (mut least, mut end) = (self.offset, self.offset + 1);
        let mut whole = true;
        for term in &self.terms {
            let (size, intervals) = extents(term.factor);
            let mut filled = intervals.iter().filter(|(start, end)| start < end);
            let Some(first) = filled.next() else { return (0, 0) };
            let last = filled.next_back().unwrap_or(first);
            whole &= crate::layout::count(intervals) == size;
            let ends = [first.0 as i64, last.1 as i64 - 1].map(|index| term.stride * index);
            least += ends[0].min(ends[1]);
            end += ends[0].max(ends[1]);
        }
        if whole { (0, dim) } else { (least.clamp(0, dim as i64) as u64, end.clamp(least.clamp(0, dim as i64), dim as i64) as u64) }
    }

    /// The index for these factor indices.
    pub fn index(&self, indices: &[u64]) -> i64 {
        self.offset + self.terms.iter().map(|term| term.stride * indices[term.factor] as i64).sum::<i64>()
    }
}

/// An access of a whole tensor, one entry a dimension.
pub type Access = Vec<DimAccess>;

/// A primitive operator. See the module's text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// The axes that the loop walks. Their roles are what pins speak of.
    pub factors: Vec<AxisId>,
    /// Where each operand is read.
    pub operands: Vec<Access>,
    /// Where the result is written: exact in every dimension, each factor at most once.
    pub result: Access,
    /// How the factors that the result lacks are folded; `None` if it lacks none.
    pub reduce: Option<Reduce>,
    /// What is computed at each point.
    pub expr: Expr,
}

impl Rule {
    /// The factors that an access walks, in order of appearance.
    pub fn factors_of(access: &[DimAccess]) -> impl Iterator<Item = usize> + '_ {
        access.iter().flat_map(|dim| dim.terms.iter().map(|term| term.factor))
    }

    /// Whether the result keeps factor `factor`.
    pub fn keeps(&self, factor: usize) -> bool {
        Self::factors_of(&self.result).any(|kept| kept == factor)
    }

    /// The factors that are folded.
    pub fn reduced(&self) -> Vec<usize> {
        (0..self.factors.len()).filter(|factor| !self.keeps(*factor)).collect()
    }

    /// The factors that neither the result, an operand nor the expression walks. A legal rule has none.
    pub fn unwalked(&self) -> Vec<usize> {
        let accessed = |factor: usize| {
            let accesses = self.operands.iter().chain([&self.result]);
            accesses.flat_map(|access| Self::factors_of(access)).any(|known| known == factor)
        };
        (0..self.factors.len()).filter(|factor| !accessed(*factor) && !self.expr.walks(*factor)).collect()
    }

    /// Whether every element is only moved: no arithmetic, no fold.
    pub fn is_move(&self) -> bool {
        self.operands.len() == 1 && self.expr == Expr::operand(0) && self.reduced().is_empty()
    }
}
