//! The composites of the language: named bodies of primitives.
//!
//! None of them has a sharding rule of its own: whatever their bodies admit is legal.

mod order;
mod windows;

use crate::axis::Role;
use crate::build::Builder;
use crate::formula::{Formula, index, lit, random, x};
use crate::graph::Class;
use crate::id::{AxisId, Id, ValueId};
use crate::rule::{Access, DimAccess, Reduce, Rule};
use crate::scalar::{Binary, Expr, Node, Unary};

pub use windows::Window;

/// `x · Φ(x)` by tanh: `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))` (Hendrycks and Gimpel, 2016).
pub fn gelu(a: Formula) -> Formula {
    let cube = a.clone() * a.clone() * a.clone();
    let inner = lit((2.0 / std::f64::consts::PI).sqrt()) * (a.clone() + lit(0.044_715) * cube);
    lit(0.5) * a * (lit(1.0) + inner.tanh())
}

/// `x · sigmoid(x)`.
pub fn silu(a: Formula) -> Formula {
    a.clone() * a.sigmoid()
}

/// `e^(x - lse)`, 0 where `lse` is −∞: one weight of a softmax, none of an empty one.
fn softmax_weight(value: Formula, lse: Formula) -> Formula {
    lse.clone().equal(lit(f64::NEG_INFINITY)).select(lit(0.0), (value - lse).exp())
}

/// An expression that is not an operator yet, over operands that are read along these axes: their own, or others of the
/// same sizes. Its indices name axes by their ids, since the factors are known only where it is used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pointwise {
    /// What is computed.
    pub expr: Expr,
    /// The operands, each with the axes that it is read along.
    pub operands: Vec<(ValueId, Vec<AxisId>)>,
}

/// What attention does with its scores besides scaling them, in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// What they are multiplied by; without it `1 / sqrt(dim)`.
    pub scale: Option<f64>,
    /// They become `cap · tanh(score / cap)` (Gemma 2, 2024).
    pub softcap: Option<f64>,
    /// Is added to them.
    pub bias: Option<Pointwise>,
    /// Where it is 0 they are −∞.
    pub mask: Option<Pointwise>,
    /// The query's own position axis, from which no later position is seen.
    pub causal: Option<AxisId>,
    /// Rate and draw of the dropout of their softmax.
    pub dropout: Option<(f64, u64)>,
}

/// The operands of an operator under construction.
struct Reads {
    factors: Vec<AxisId>,
    operands: Vec<(ValueId, Vec<AxisId>)>,
}

impl Reads {
    /// An expression in words of the operator's operands and factors.
    fn formula(&mut self, part: &Pointwise) -> Formula {
        let factor = |axis| self.factors.iter().position(|known| known.index() == axis).expect("the operator walks the axes of its parts");
        let mut placed = Expr::default();
        placed.root = placed.graft(&part.expr, &mut |expr, n| expr.push(Node::Operand(n)), &factor);
        let operands = part.operands.iter().map(|read| {
            let known = self.operands.iter().position(|known| known == read);
            x(known.unwrap_or_else(|| {
                self.operands.push(read.clone());
                self.operands.len() - 1
            }))
        });
        Formula::graft(&placed, operands.collect())
    }

    /// The operands and where each is read.
    fn finish(self) -> (Vec<ValueId>, Vec<Access>) {
        let factor = |axis: &AxisId| self.factors.iter().position(|known| known == axis).expect("the operator walks every axis it reads");
        let access = |axes: &Vec<AxisId>| axes.iter().map(|axis| DimAccess::factor(factor(axis))).collect();
        (self.operands.iter().map(|(value, _)| *value).collect(), self.operands.iter().map(|(_, axes)| access(axes)).collect())
    }
}

impl Builder {
    /// Softmax over `axis`; a row that is −∞ everywhere gives 0.
    pub fn softmax(&mut self, value: ValueId, axis: AxisId) -> ValueId {
        self.composite("softmax", Class::Other, false, |b| {
            let lse = b.fold("logsumexp", Reduce::LogSumExp, value, &[axis]);
            b.elementwise("softmax", &[value, lse], softmax_weight(x(0), x(1)).expr())
        })
    }

    /// `(x - mean) / sqrt(variance + eps)` over `axis` (Ba, Kiros, Hinton, 2016), without gain and bias.
    pub fn layer_norm(&mut self, value: ValueId, axis: AxisId, eps: f64) -> ValueId {
        let n = self.graph.size(axis) as f64;
        self.composite("layer_norm", Class::Norm, false, |b| {
            let dims: Vec<AxisId> = b.dims(value).into_iter().filter(|dim| *dim != axis).collect();
            let sum = b.fold("sum", Reduce::Sum, value, &[axis]);
            let mean = b.elementwise("mean", &[sum], (x(0) * lit(1.0 / n)).expr());
            let square = (x(0) - x(1)) * (x(0) - x(1));
            let squares = b.map("squares", &[value, mean], &dims, Some(Reduce::Sum), square.expr());
            let scale = b.elementwise("scale", &[squares], (x(0) * lit(1.0 / n) + lit(eps)).rsqrt().expr());
            b.elementwise("layer_norm", &[value, mean, scale], ((x(0) - x(1)) * x(2)).expr())
        })
    }

    /// `x / sqrt(mean(x²) + eps)` over `axis` (Zhang and Sennrich, 2019), without gain.
    pub fn rms_norm(&mut self, value: ValueId, axis: AxisId, eps: f64) -> ValueId {
        let n = self.graph.size(axis) as f64;
        self.composite("rms_norm", Class::Norm, false, |b| {
            let dims: Vec<AxisId> = b.dims(value).into_iter().filter(|dim| *dim != axis).collect();
            let squares = b.map("squares", &[value], &dims, Some(Reduce::Sum), (x(0) * x(0)).expr());
            let scale = b.elementwise("scale", &[squares], (x(0) * lit(1.0 / n) + lit(eps)).rsqrt().expr());
            b.elementwise("rms_norm", &[value, scale], (x(0) * x(1)).expr())
        })
    }

    /// Each element kept with probability `1 - rate` and scaled by its inverse, else 0. `salt` names the draw.
    pub fn dropout(&mut self, value: ValueId, rate: f64, salt: u64) -> ValueId {
        if rate == 0.0 {
            return value;
        }
        self.composite("dropout", Class::Dropout, false, |b| {
            let rank = b.dims(value).len();
            let kept = random(salt, (0..rank).collect()).binary(Binary::Le, lit(rate));
            let expr = kept.select(lit(0.0), x(0) * lit(1.0 / (1.0 - rate)));
            b.elementwise("dropout", &[value], expr.expr())
        })
    }

    /// Each element times a uniform draw from `1 - width` to `1 + width`. `salt` names the draw.
    pub fn jitter(&mut self, value: ValueId, width: f64, salt: u64) -> ValueId {
        if width == 0.0 {
            return value;
        }
        let rank = self.dims(value).len();
        let factor = lit(1.0 - width) + lit(2.0 * width) * random(salt, (0..rank).collect());
        self.composite("jitter", Class::Dropout, false, |b| b.elementwise("jitter", &[value], (x(0) * factor).expr()))
    }

    /// The rows of `table` along `axis` that `indices` name: a one-hot contraction. Axes: the indices', then the
    /// table's others; those that both have are matched. An index outside gives zeros.
    pub fn gather(&mut self, name: &str, table: ValueId, indices: ValueId, axis: AxisId) -> ValueId {
        let mut dims = self.dims(indices);
        let others: Vec<AxisId> = self.dims(table).into_iter().filter(|dim| *dim != axis && !dims.contains(dim)).collect();
        dims.extend(others);
        let (factors, _) = self.matched(&[table, indices], &dims);
        let row = factors.iter().position(|factor| *factor == axis).expect("the table has the axis");
        let class = if self.class == Class::Other { Class::Contraction } else { self.class };
        let expr = x(1).equal(index(row)).select(x(0), lit(0.0));
        self.classed(class, |b| b.map(name, &[table, indices], &dims, Some(Reduce::Sum), expr.expr()))
    }

    /// [`Builder::gather`] by indices that are computed where the table is read: an expression that varies over `dims`.
    pub fn gather_at(&mut self, name: &str, table: ValueId, place: &Pointwise, dims: &[AxisId], axis: AxisId) -> ValueId {
        let table_dims = self.dims(table);
        let others = table_dims.iter().filter(|dim| **dim != axis && !dims.contains(dim));
        let dims: Vec<AxisId> = dims.iter().chain(others).copied().collect();
        let factors = [&dims[..], &[axis]].concat();
        let mut reads = Reads { factors: factors.clone(), operands: vec![(table, table_dims)] };
        let expr = reads.formula(place).equal(index(dims.len())).select(x(0), lit(0.0)).expr();
        let (operands, accesses) = reads.finish();
        let result = (0..dims.len()).map(DimAccess::factor).collect();
        let rule = Rule { factors, operands: accesses, result, reduce: Some(Reduce::Sum), expr };
        let class = if self.class == Class::Other { Class::Contraction } else { self.class };
        self.classed(class, |b| b.rule(name, rule, &operands, &dims))
    }

    /// 1 where `axis` is at the place that an expression over `dims` names, else 0.
    pub fn one_hot(&mut self, name: &str, place: &Pointwise, dims: &[AxisId], axis: AxisId) -> ValueId {
        let dims: Vec<AxisId> = dims.iter().copied().chain([axis]).collect();
        let mut reads = Reads { factors: dims.clone(), operands: Vec::new() };
        let expr = reads.formula(place).equal(index(dims.len() - 1)).expr();
        let (operands, accesses) = reads.finish();
        let result = (0..dims.len()).map(DimAccess::factor).collect();
        let rule = Rule { factors: dims.clone(), operands: accesses, result, reduce: None, expr };
        self.rule(name, rule, &operands, &dims)
    }

    /// Rotary position embedding (Su et al., 2021) of `value` along `axis`, in halves as Llama has it: element `i`
    /// pairs with `i + half`; angle = position of `seq` · base^(−2i/turned) where 2i is below `turned`, and other pairs
    /// stay as they are. `pair` and `half` are axes of size 2 and size/2 with `other` of size 2 a second name for `pair`.
    pub fn rotary(&mut self, value: ValueId, seq: AxisId, axis: AxisId, base: f64, turned: u64) -> ValueId {
        let size = self.graph.size(axis);
        let half_size = size / 2;
        let (pair, other, half) = self.rotary_axes(axis, half_size);
        self.composite("rotary", Class::Other, false, |b| {
            let mut frequency = lit(base).pow(index(1) * lit(-2.0 / turned as f64));
            if turned < size {
                frequency = index(1).below(lit((turned / 2) as f64)).select(frequency, lit(0.0));
            }
            let angle = index(0) * frequency;
            let cos = b.map("cos", &[], &[seq, half], None, angle.clone().unary(Unary::Cos).expr());
            let sin = b.map("sin", &[], &[seq, half], None, angle.unary(Unary::Sin).expr());
            // out[.., pair, half] = sum over other: x[.., other, half] * (cos if equal, -sin if pair < other, else sin)
            let dims = b.dims(value);
            let mut factors: Vec<AxisId> = Vec::new();
            let mut result = Vec::new();
            let sizes = |b: &Builder, factors: &[AxisId]| -> Vec<u64> { factors.iter().map(|f| b.graph.size(*f)).collect() };
            for dim in &dims {
                if *dim == axis {
                    factors.extend([pair, half]);
                } else {
                    factors.push(*dim);
                }
            }
            let at = |wanted: AxisId, factors: &[AxisId]| factors.iter().position(|f| *f == wanted).expect("factor is there");
            factors.push(other);
            let (pair_at, half_at, other_at, seq_at) = (at(pair, &factors), at(half, &factors), at(other, &factors), at(seq, &factors));
            let sizes = sizes(b, &factors);
            let mut access = Vec::new();
            for dim in &dims {
                if *dim == axis {
                    access.push(DimAccess::merged(&[other_at, half_at], &|f| sizes[f]));
                    result.push(DimAccess::merged(&[pair_at, half_at], &|f| sizes[f]));
                } else {
                    access.push(DimAccess::factor(at(*dim, &factors)));
                    result.push(DimAccess::factor(at(*dim, &factors)));
                }
            }
            let table = vec![DimAccess::factor(seq_at), DimAccess::factor(half_at)];
            let turn = index(pair_at).equal(index(other_at)).select(x(1), index(pair_at).below(index(other_at)).select(-x(2), x(2)));
            let rule = Rule {
                factors,
                operands: vec![access, table.clone(), table],
                result,
                reduce: Some(Reduce::Sum),
                expr: (x(0) * turn).expr(),
            };
            b.rule("rotary", rule, &[value, cos, sin], &dims)
        })
    }

    fn rotary_axes(&mut self, axis: AxisId, half: u64) -> (AxisId, AxisId, AxisId) {
        let name = self.graph.axis(axis).name.clone();
        let role = Role::None;
        let mut named = |suffix: &str, size: u64| {
            let full = format!("{name}.{suffix}");
            let known = self.graph.axes.iter().position(|known| known.name == full && known.size == size);
            known.map_or_else(|| self.axis(&full, size, role), Id::new)
        };
        (named("pair", 2), named("other", 2), named("half", half))
    }

    /// Scaled dot-product attention. `query` and `key` share `dim`, `key` and `value` share `past`; every other axis
    /// that two operands share is matched (heads, batch), so grouped queries need nothing more. With `causal` =
    /// the query's own position axis, position `past` is seen from positions not before it.
    #[expect(clippy::too_many_arguments, reason = "the operator has these arguments")]
    pub fn attention(
        &mut self,
        query: ValueId,
        key: ValueId,
        value: ValueId,
        past: AxisId,
        dim: AxisId,
        causal: Option<AxisId>,
        dropout: Option<(f64, u64)>,
    ) -> ValueId {
        self.attention_by(query, key, value, past, dim, &Scores { causal, dropout, ..Scores::default() })
    }

    /// [`Builder::attention`] with more done to its scores. What they become is one operator, so neither a bias nor a
    /// mask is a tensor of its own. A row that is hidden whole gives 0.
    pub fn attention_by(&mut self, query: ValueId, key: ValueId, value: ValueId, past: AxisId, dim: AxisId, how: &Scores) -> ValueId {
        let scale = how.scale.unwrap_or(1.0 / (self.graph.size(dim) as f64).sqrt());
        self.composite("attention", Class::Attention, true, |b| {
            let q_dims = b.dims(query);
            let mut score_dims: Vec<AxisId> = q_dims.iter().copied().filter(|axis| *axis != dim).collect();
            // positions of the query last but one, so that scores are matrices of (query, key)
            let positions = |axis: &AxisId| how.causal.map_or(b.graph.axis(*axis).role == Role::Seq, |seq| seq == *axis);
            if let Some(position) = score_dims.iter().position(positions) {
                let seq = score_dims.remove(position);
                score_dims.push(seq);
            }
            score_dims.push(past);
            let scores = b.einsum("scores", &[query, key], &score_dims);
            let masked = b.masked_scores(scores, scale, &score_dims, how);
            let lse = b.fold("logsumexp", Reduce::LogSumExp, masked, &[past]);
            let mut weights = b.elementwise("weights", &[masked, lse], softmax_weight(x(0), x(1)).expr());
            if let Some((rate, salt)) = how.dropout {
                weights = b.dropout(weights, rate, salt);
            }
            let value_dim: Vec<AxisId> = b.dims(value).into_iter().filter(|axis| !score_dims.contains(axis)).collect();
            let out_dims: Vec<AxisId> =
                q_dims.into_iter().flat_map(|axis| if axis == dim { value_dim.clone() } else { vec![axis] }).collect();
            b.einsum("attention", &[weights, value], &out_dims)
        })
    }

    /// Scores of these axes, the last that of the past: scaled, capped, biased, and −∞ where they are hidden.
    fn masked_scores(&mut self, scores: ValueId, scale: f64, dims: &[AxisId], how: &Scores) -> ValueId {
        let mut reads = Reads { factors: dims.to_vec(), operands: vec![(scores, dims.to_vec())] };
        let mut value = x(0) * lit(scale);
        if let Some(cap) = how.softcap {
            value = lit(cap) * (value * lit(1.0 / cap)).tanh();
        }
        if let Some(bias) = &how.bias {
            value = value + reads.formula(bias);
        }
        if let Some(mask) = &how.mask {
            value = reads.formula(mask).select(value, lit(f64::NEG_INFINITY));
        }
        if let Some(seq) = how.causal.and_then(|seq| dims.iter().position(|axis| *axis == seq)) {
            value = index(dims.len() - 1).at_most(index(seq)).select(value, lit(f64::NEG_INFINITY));
        }
        let (operands, accesses) = reads.finish();
        let result = (0..dims.len()).map(DimAccess::factor).collect();
        let rule = Rule { factors: dims.to_vec(), operands: accesses, result, reduce: None, expr: value.expr() };
        self.rule("masked", rule, &operands, dims)
    }

    /// Cross-entropy of `logits` over `vocab` against integer `targets`, as (sum, count) over targets that are not
    /// `ignore`. Also right when the vocabulary is split: its reductions are P(logsumexp) and P(sum).
    pub fn cross_entropy(&mut self, logits: ValueId, targets: ValueId, vocab: AxisId, ignore: f64) -> (ValueId, ValueId) {
        self.composite("cross_entropy", Class::Loss, false, |b| {
            let dims: Vec<AxisId> = b.dims(logits).into_iter().filter(|dim| *dim != vocab).collect();
            let lse = b.fold("logsumexp", Reduce::LogSumExp, logits, &[vocab]);
            let one_hot = x(1).equal(index(dims.len())).select(x(0), lit(0.0));
            let chosen = b.map("chosen", &[logits, targets], &dims, Some(Reduce::Sum), one_hot.expr());
            let valid = x(0).binary(Binary::Ne, lit(ignore));
            let term = x(2).binary(Binary::Ne, lit(ignore)).select(x(0) - x(1), lit(0.0));
            let sum = b.map("loss_sum", &[lse, chosen, targets], &[], Some(Reduce::Sum), term.expr());
            let count = b.map("loss_count", &[targets], &[], Some(Reduce::Sum), valid.expr());
            (sum, count)
        })
    }

    /// The index of the largest element along `axis` and that element, along a new last axis of size 2.
    pub fn argmax(&mut self, value: ValueId, axis: AxisId, pair: AxisId) -> ValueId {
        let mut dims: Vec<AxisId> = self.dims(value).into_iter().filter(|dim| *dim != axis).collect();
        dims.push(pair);
        let (factors, accesses) = self.matched(&[value], &dims);
        let along = factors.iter().position(|factor| *factor == axis).expect("the value has the axis");
        let expr = index(dims.len() - 1).equal(lit(0.0)).select(x(0), index(along)).expr();
        let result = (0..dims.len()).map(DimAccess::factor).collect();
        self.rule("argmax", Rule { factors, operands: accesses, result, reduce: Some(Reduce::ArgMax), expr }, &[value], &dims)
    }

    /// Attention's fold of `value` by `score` over `past` in one pass: (weighted mean of values, logsumexp of scores)
    /// along `packed`, which is one longer than the values' axis `dim`. Its partial results merge.
    pub fn softmax_fold(&mut self, score: ValueId, value: ValueId, past: AxisId, dim: AxisId, packed: AxisId) -> ValueId {
        let mut dims: Vec<AxisId> = self.dims(score).into_iter().filter(|axis| *axis != past).collect();
        dims.push(packed);
        let (mut factors, score_access) = self.matched(&[score], &dims);
        let value_access = self
            .dims(value)
            .into_iter()
            .map(|axis| {
                // the packed axis walks the values and, one further, the score: reading past the values gives 0
                let wanted = if axis == dim { packed } else { axis };
                let factor = factors.iter().position(|factor| *factor == wanted).unwrap_or_else(|| {
                    factors.push(wanted);
                    factors.len() - 1
                });
                DimAccess::factor(factor)
            })
            .collect();
        let size = self.graph.size(dim) as f64;
        let expr: Expr = index(dims.len() - 1).equal(lit(size)).select(x(0), x(1)).expr();
        let result = (0..dims.len()).map(DimAccess::factor).collect();
        let operands = vec![score_access.into_iter().next().expect("one operand was matched"), value_access];
        self.rule("softmax_fold", Rule { factors, operands, result, reduce: Some(Reduce::Softmax), expr }, &[score, value], &dims)
    }
}
