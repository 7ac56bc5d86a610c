//! Reverse-mode differentiation as a graph transformation: a forward phase gains a backward phase.
//!
//! The cotangent of an operand of a primitive is a primitive over the same loop: its result is written where the
//! operand is read, its expression is the result's cotangent times the derivative, and the factors that the operand
//! lacks are summed. So sharding rules of gradients need no thought of their own. Every rule has a gradient; `operand` says
//! what becomes of operands that are read through windows.
//!
//! A repeat gets a reversed repeat over the same loop, whose body reads the forward body's values of the same
//! iteration, takes the cotangents of what that collects, and collects those of what it takes. What is computed again instead of read is decided by [`Recompute`] and by composites that ask for it.

mod operand;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::axis::Role;
use crate::build::Builder;
use crate::formula::{Formula, index, lit, x};
use crate::graph::{Class, Composite, Def, Kind, Leaf, Op, PhaseKind, Repeat, Slice};
use crate::id::{AxisId, CompositeId, Id, OpId, ValueId};
use crate::rule::{DimAccess, Reduce, Rule};
use crate::scalar::{Expr, Node};

/// What backward computes again instead of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Only what composites ask for (attention's weights).
    #[default]
    None,
    /// The same: attention's inner values are never saved.
    Selective,
    /// Everything inside a repeat but what it carries.
    Full,
}

impl Recompute {
    /// Every setting with its word.
    pub const ALL: [(Recompute, &'static str); 3] =
        [(Recompute::None, "none"), (Recompute::Selective, "selective"), (Recompute::Full, "full")];

    /// The word of this setting.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }

    /// The setting that `word` names.
    pub fn from_word(word: &str) -> Option<Recompute> {
        Self::ALL.iter().find(|row| row.1 == word).map(|row| row.0)
    }
}

/// Appends the backward phase to the forward phase of `builder`'s graph. `seeds` are values with their cotangents.
/// Gives the cotangents of every parameter that is not `frozen`: one value, or several if its uses are not to be summed.
pub fn differentiate(
    builder: &mut Builder,
    seeds: &[(ValueId, ValueId)],
    frozen: &BTreeSet<ValueId>,
    recompute: Recompute,
    sum_shared: bool,
) -> BTreeMap<ValueId, Vec<ValueId>> {
    let forward = builder.graph.phase(PhaseKind::Forward).to_vec();
    let needs = needs_gradient(builder, &forward, frozen);
    let mut pass = Pass { b: builder, needs, cotangents: BTreeMap::new(), recompute, again: BTreeMap::new(), composites: BTreeMap::new() };
    for (value, seed) in seeds {
        pass.cotangents.entry(*value).or_default().push(*seed);
    }
    for op in forward.iter().rev() {
        pass.op(*op);
    }
    let params: Vec<ValueId> = pass.b.graph.params().filter(|param| !frozen.contains(param)).collect();
    let mut gradients = BTreeMap::new();
    for param in params {
        let parts = pass.cotangents.remove(&param).unwrap_or_default();
        let within = pass.b.graph.value(param).within;
        if parts.len() > 1 && sum_shared && within.is_none() {
            let total = pass.sum(param, parts);
            gradients.insert(param, vec![total]);
        } else if !parts.is_empty() {
            gradients.insert(param, parts);
        }
    }
    pass.b.end_phase(PhaseKind::Backward);
    gradients
}

/// The floating-point values that some parameter which is not `frozen` flows into.
fn needs_gradient(builder: &Builder, ops: &[OpId], frozen: &BTreeSet<ValueId>) -> BTreeSet<ValueId> {
    let graph = &builder.graph;
    let mut needs: BTreeSet<ValueId> = graph.params().filter(|param| !frozen.contains(param)).collect();
    let visit = |op: &Op, needs: &mut BTreeSet<ValueId>| {
        let differentiable = |n: usize| op.rule().is_some_and(|rule| rule.expr.reads(n));
        if op.operands.iter().enumerate().any(|(n, operand)| differentiable(n) && needs.contains(operand)) {
            needs.insert(op.result());
        }
    };
    for op in ops.iter().map(|op| graph.op(*op)) {
        match &op.kind {
            Kind::Map(_) => visit(op, &mut needs),
            Kind::Repeat(repeat) => {
                // what one iteration makes active the next one carries: at most one round per carried value
                for _ in 0..=repeat.carried.len() {
                    for carried in &repeat.carried {
                        if needs.contains(&carried.init) || needs.contains(&carried.next) {
                            needs.insert(carried.arg);
                        }
                    }
                    needs.extend(
                        repeat.taken.iter().filter(|slice| needs.contains(&slice.whole)).map(|slice| slice.each).collect::<Vec<_>>(),
                    );
                    repeat.body.iter().for_each(|inner| visit(graph.op(*inner), &mut needs));
                }
                needs.extend(
                    repeat.collected.iter().filter(|slice| needs.contains(&slice.each)).map(|slice| slice.whole).collect::<Vec<_>>(),
                );
                for (carried, result) in repeat.carried.iter().zip(&op.results) {
                    if needs.contains(&carried.arg) {
                        needs.insert(*result);
                    }
                }
            }
        }
    }
    needs
}

struct Pass<'a> {
    b: &'a mut Builder,
    needs: BTreeSet<ValueId>,
    cotangents: BTreeMap<ValueId, Vec<ValueId>>,
    recompute: Recompute,
    /// Values computed again in the open scope.
    again: BTreeMap<ValueId, ValueId>,
    composites: BTreeMap<CompositeId, CompositeId>,
}

impl Pass<'_> {
    /// The sum of several cotangents of `of`.
    fn sum(&mut self, of: ValueId, parts: Vec<ValueId>) -> ValueId {
        if let [only] = parts[..] {
            return only;
        }
        let dims = self.b.dims(of);
        let joins_residual = self.b.graph.ops.iter().any(|op| op.class == Class::Residual && op.operands.contains(&of));
        let class = if joins_residual { Class::Residual } else { Class::Other };
        self.b.composite = None;
        self.b.classed(class, |b| b.map("sum", &parts, &dims, None, Expr::sum(parts.len())))
    }

    fn take(&mut self, value: ValueId) -> Option<ValueId> {
        let parts = self.cotangents.remove(&value)?;
        Some(self.sum(value, parts))
    }

    fn op(&mut self, id: OpId) {
        let op = self.b.graph.op(id).clone();
        self.b.span = op.span;
        match &op.kind {
            Kind::Map(rule) => {
                let Some(cotangent) = self.take(op.result()) else { return };
                if !self.needs.contains(&op.result()) {
                    return;
                }
                let before = (self.b.class, self.b.composite);
                self.b.class = op.class;
                self.b.composite = op.composite.map(|composite| self.backward_composite(composite));
                self.map(&op, rule, cotangent);
                (self.b.class, self.b.composite) = before;
            }
            Kind::Repeat(repeat) => self.repeat(&op, repeat),
        }
    }

    fn backward_composite(&mut self, forward: CompositeId) -> CompositeId {
        if let Some(known) = self.composites.get(&forward) {
            return *known;
        }
        let name = format!("{}_grad", self.b.graph.composites[forward.index()].name);
        self.b.graph.composites.push(Composite { name, recompute: false });
        let id = CompositeId::new(self.b.graph.composites.len() - 1);
        self.composites.insert(forward, id);
        id
    }

    /// A value of the forward pass as backward reads it: itself, or computed again.
    fn read(&mut self, value: ValueId) -> ValueId {
        if let Some(again) = self.again.get(&value) {
            return *again;
        }
        let Def::Result(op, _) = self.b.graph.value(value).def else { return value };
        if !self.is_recomputed(op) {
            return value;
        }
        let op = self.b.graph.op(op).clone();
        let rule = op.rule().expect("only primitives are computed again").clone();
        let operands: Vec<ValueId> = op.operands.iter().map(|operand| self.read(*operand)).collect();
        let before = (self.b.class, self.b.composite);
        self.b.class = op.class;
        self.b.composite = op.composite.map(|composite| self.backward_composite(composite));
        let (name, dims) = (self.b.graph.value(value).name.clone(), self.b.dims(value));
        let again = self.b.rule(&name, rule, &operands, &dims);
        (self.b.class, self.b.composite) = before;
        self.again.insert(value, again);
        again
    }

    fn is_recomputed(&self, id: OpId) -> bool {
        let graph = &self.b.graph;
        let op = graph.op(id);
        if op.rule().is_none() || graph.value(op.result()).within != self.b.within() {
            return false;
        }
        if self.recompute == Recompute::Full && graph.value(op.result()).within.is_some() {
            return true;
        }
        // a composite that asks for it saves no inner value that is larger than all that enters the composite
        let Some(composite) = op.composite.filter(|id| graph.composites[id.index()].recompute) else { return false };
        let inside = |value: &ValueId| graph.def_op(*value).is_some_and(|def| graph.op(def).composite == Some(composite));
        let entering = graph.ops.iter().filter(|op| op.composite == Some(composite)).flat_map(|op| &op.operands);
        let largest = entering.filter(|value| !inside(value)).map(|value| graph.elements(*value)).max().unwrap_or(0);
        graph.elements(op.result()) > largest
    }

    fn map(&mut self, op: &Op, rule: &Rule, cotangent: ValueId) {
        let wanted: Vec<usize> = (0..op.operands.len())
            .filter(|n| self.needs.contains(&op.operands[*n]) && rule.expr.reads(*n))
            .filter(|n| {
                let mut expr = rule.expr.clone();
                let derivative = expr.derivative(*n);
                !matches!(expr.nodes[derivative as usize], Node::Const(zero) if zero.0 == 0.0)
            })
            .collect();
        if wanted.is_empty() {
            return;
        }
        let operands: Vec<ValueId> = op.operands.iter().map(|operand| self.read(*operand)).collect();
        let result = |pass: &mut Self| pass.read(op.result());
        // the loop with the cotangent (and what the fold needs) as further operands, and a factor by which the
        // derivative of the expression is multiplied
        let mut wide = rule.clone();
        let mut values = operands.clone();
        let mut add = |wide: &mut Rule, value: ValueId, access: &[DimAccess]| {
            values.push(value);
            wide.operands.push(access.to_vec());
            x(values.len() - 1)
        };
        let inner = Formula::graft(&rule.expr, (0..operands.len()).map(x).collect());
        let weight = match rule.reduce {
            None | Some(Reduce::Sum) => add(&mut wide, cotangent, &rule.result),
            Some(Reduce::LogSumExp) => {
                let out = result(self);
                let g = add(&mut wide, cotangent, &rule.result);
                let lse = add(&mut wide, out, &rule.result);
                lse.clone().equal(lit(f64::NEG_INFINITY)).select(lit(0.0), g * (inner - lse).exp())
            }
            Some(Reduce::Max | Reduce::Min) => {
                // the first of equal extremes gets the cotangent. Which one is told by its indices: its value may have
                // been rounded otherwise where it is computed again
                let place = self.extreme_place(op, rule, inner, &operands);
                let g = add(&mut wide, cotangent, &rule.result);
                rule.reduced().iter().enumerate().fold(g, |chosen, (n, factor)| {
                    let found = add(&mut wide, place, &[&rule.result[..], &[at_entry(n + 1)]].concat());
                    index(*factor).equal(found).select(chosen, lit(0.0))
                })
            }
            Some(Reduce::ArgMax) => {
                let out = result(self);
                let kept = &rule.result[..rule.result.len() - 1];
                let g = add(&mut wide, cotangent, &[kept, &[at_entry(0)]].concat());
                let at_place = rule.reduced().iter().enumerate().fold(g, |chosen, (n, factor)| {
                    let found = add(&mut wide, out, &[kept, &[at_entry(n + 1)]].concat());
                    index(*factor).equal(found).select(chosen, lit(0.0))
                });
                // only the first component, the maximum, varies
                index(self.component(rule)).equal(lit(0.0)).select(at_place, lit(0.0))
            }
            Some(Reduce::Softmax) => self.softmax_weight(rule, op, &operands, cotangent, &mut wide, &mut values),
        };
        // operands that walk every factor first: where another operand's cotangent is the sum of the same terms, it is
        // a fold of theirs
        let mut order = wanted;
        order.sort_by_key(|n| (std::cmp::Reverse(Rule::factors_of(&rule.operands[*n]).count()), *n));
        let mut whole: Vec<(Expr, usize, ValueId)> = Vec::new();
        for n in order {
            let terms = {
                let mut slope = rule.expr.clone();
                slope.root = slope.derivative(n);
                let slope = Formula::graft(&slope.pruned(), (0..values.len()).map(x).collect());
                (weight.clone() * slope).expr()
            };
            let known = whole.iter().find(|(expr, ..)| *expr == terms).map(|(_, of, value)| (*of, *value));
            let plain = self.is_plain(&wide.operands[n], values[n], &wide);
            let gradient = match known {
                Some((of, value)) if plain && !self.is_plain_copy(&terms) => self.fold_of(&wide, of, value, n),
                _ => self.operand_gradient(&wide, &values, n, &terms),
            };
            if plain && (0..wide.factors.len()).all(|f| Rule::factors_of(&wide.operands[n]).any(|known| known == f)) {
                whole.push((terms, n, gradient));
            }
            self.cotangents.entry(op.operands[n]).or_default().push(gradient);
        }
    }

    /// Whether each dimension of a value is walked whole by one factor.
    fn is_plain(&self, access: &[DimAccess], value: ValueId, rule: &Rule) -> bool {
        let size = |factor: usize| self.b.graph.size(rule.factors[factor]);
        access.iter().zip(self.b.graph.shape(value)).all(|(dim, whole)| dim.terms.len() == 1 && dim.is_exact(whole, &size))
    }

    /// Whether terms are a value as it stands, which a fold may as well read itself.
    fn is_plain_copy(&self, terms: &Expr) -> bool {
        terms.nodes.len() == 1
    }

    /// The cotangent of operand `n` as the sum of the cotangent `value` of operand `of`, which walks every factor.
    fn fold_of(&mut self, wide: &Rule, of: usize, value: ValueId, n: usize) -> ValueId {
        let dims: Vec<AxisId> = wide.operands[n].iter().map(|dim| wide.factors[dim.terms[0].factor]).collect();
        let mut rule = Rule {
            factors: wide.factors.clone(),
            operands: vec![wide.operands[of].clone()],
            result: wide.operands[n].clone(),
            reduce: None,
            expr: Expr::operand(0),
        };
        rule.reduce = if rule.reduced().is_empty() { None } else { Some(Reduce::Sum) };
        self.b.rule("grad", rule, &[value], &dims)
    }

    /// Where the extreme of a fold by max or min is: a tuple (extreme, index of each folded factor).
    fn extreme_place(&mut self, op: &Op, rule: &Rule, inner: Formula, operands: &[ValueId]) -> ValueId {
        let along = rule.reduced();
        let place = self.b.axis("place", along.len() as u64 + 1, Role::None);
        let component = rule.factors.len();
        let largest = if rule.reduce == Some(Reduce::Min) { -inner } else { inner };
        let indices = along.iter().enumerate().skip(1).rev().fold(index(along[along.len() - 1]), |others, (n, _)| {
            index(component).equal(lit(n as f64)).select(index(along[n - 1]), others)
        });
        let mut found = rule.clone();
        found.factors.push(place);
        found.result.push(DimAccess::factor(component));
        found.reduce = Some(Reduce::ArgMax);
        found.expr = index(component).equal(lit(0.0)).select(largest, indices).expr();
        let dims = [self.b.dims(op.result()), vec![place]].concat();
        self.b.rule("place", found, operands, &dims)
    }

    fn component(&self, rule: &Rule) -> usize {
        rule.result.last().and_then(|dim| dim.terms.first()).map_or(0, |term| term.factor)
    }

    /// The cotangent of each row entry of a softmax fold: with weights `w = e^(s − lse)`, values get `w g`, and the
    /// score gets `w (g_lse + Σ_c g_c (v_c − mean_c))`.
    fn softmax_weight(
        &mut self,
        rule: &Rule,
        op: &Op,
        operands: &[ValueId],
        cotangent: ValueId,
        wide: &mut Rule,
        values: &mut Vec<ValueId>,
    ) -> Formula {
        let out = self.read(op.result());
        let component = self.component(rule);
        let score_at = self.b.graph.size(rule.factors[component]) - 1;
        let kept: Vec<usize> = (0..rule.factors.len()).filter(|factor| *factor != component).collect();
        let kept_dims: Vec<AxisId> = kept.iter().map(|factor| rule.factors[*factor]).collect();
        let kept_access: Vec<DimAccess> = kept.iter().map(|factor| DimAccess::factor(*factor)).collect();
        // the score, by the loop in which the component is the last one
        let mut scores = fix_factor(rule, component, score_at);
        let position = |factor: usize| kept.iter().position(|known| *known == factor).expect("kept factors are kept");
        scores.result = kept.iter().map(|factor| DimAccess::factor(position(*factor))).collect();
        scores.reduce = None;
        let score = self.b.rule("score", scores, operands, &kept_dims);
        let lse_access: Vec<DimAccess> = {
            let mut access = rule.result.clone();
            let last = access.len() - 1;
            access[last] = DimAccess { terms: Vec::new(), offset: score_at as i64 };
            access
        };
        let inner = Formula::graft(&rule.expr, (0..operands.len()).map(x).collect());
        // Σ_c g_c (v_c − mean_c)
        let mut spread = rule.clone();
        spread.operands.extend([rule.result.clone(), rule.result.clone()]);
        spread.result = kept_access.clone();
        spread.reduce = Some(Reduce::Sum);
        let n = operands.len();
        spread.expr = index(component).below(lit(score_at as f64)).select(x(n) * (inner - x(n + 1)), lit(0.0)).expr();
        let mut read = operands.to_vec();
        read.extend([cotangent, out]);
        let spread = self.b.rule("spread", spread, &read, &kept_dims);
        let mut add = |value: ValueId, access: Vec<DimAccess>| {
            values.push(value);
            wide.operands.push(access);
            x(values.len() - 1)
        };
        let g = add(cotangent, rule.result.clone());
        let lse = add(out, lse_access.clone());
        let g_lse = add(cotangent, lse_access);
        let score = add(score, kept_access.clone());
        let spread = add(spread, kept_access);
        let w = lse.clone().equal(lit(f64::NEG_INFINITY)).select(lit(0.0), (score - lse).exp());
        w * index(component).below(lit(score_at as f64)).select(g, g_lse + spread)
    }

    fn repeat(&mut self, op: &Op, repeat: &Repeat) {
        let active: Vec<usize> = (0..repeat.carried.len()).filter(|n| self.needs.contains(&repeat.carried[*n].arg)).collect();
        let collected: Vec<Slice> = repeat.collected.iter().copied().filter(|slice| self.needs.contains(&slice.whole)).collect();
        let wanted = |value: ValueId| self.cotangents.contains_key(&value);
        if !active.iter().any(|n| wanted(op.results[*n])) && !collected.iter().any(|slice| wanted(slice.whole)) {
            return;
        }
        let collected: Vec<(ValueId, ValueId)> =
            collected.into_iter().filter_map(|slice| Some((slice.each, self.take(slice.whole)?))).collect();
        let inits: Vec<ValueId> =
            active.iter().map(|n| self.take(op.results[*n]).unwrap_or_else(|| zeros(self.b, repeat.carried[*n].init))).collect();
        let outside = std::mem::take(&mut self.cotangents);
        let args = self.b.begin_repeat_over(repeat.over, &inits);
        for (n, arg) in active.iter().zip(args) {
            self.cotangents.entry(repeat.carried[*n].next).or_default().push(arg);
        }
        // the cotangent of what is collected is taken, and that of what is taken is collected
        for (each, whole) in collected {
            let cotangent = self.b.take(whole);
            self.cotangents.entry(each).or_default().push(cotangent);
        }
        for inner in repeat.body.iter().rev() {
            self.op(*inner);
        }
        let mut nexts = Vec::new();
        for n in &active {
            let arg = repeat.carried[*n].arg;
            let next = self.take(arg).unwrap_or_else(|| zeros(self.b, arg));
            nexts.push(next);
        }
        let mut taken = Vec::new();
        for slice in &repeat.taken {
            if let Some(cotangent) = self.take(slice.each) {
                let axis = self.b.dims(slice.whole)[0];
                self.b.collect(cotangent, axis);
                taken.push(slice.whole);
            }
        }
        // parameters of the loop keep a cotangent per iteration; what came from outside collects over iterations
        let rest = std::mem::replace(&mut self.cotangents, outside);
        let mut collected = Vec::new();
        for (value, parts) in rest {
            let inner_total = self.sum(value, parts);
            if self.b.graph.value(value).within == Some(repeat.over) {
                if matches!(self.b.graph.leaf(value), Some(Leaf::Param(_))) {
                    self.cotangents.entry(value).or_default().push(inner_total);
                }
            } else {
                collected.push((value, inner_total));
            }
        }
        let mut outer_values = Vec::new();
        for (value, inner_total) in collected {
            let zero = zeros_outside(self.b, value);
            let so_far = self.b.carry(zero);
            let dims = self.b.dims(value);
            let next = self.b.map("sum", &[so_far, inner_total], &dims, None, Expr::sum(2));
            nexts.push(next);
            outer_values.push(value);
        }
        self.again.clear();
        let results = self.b.end_repeat(&nexts, !repeat.reversed);
        for (n, result) in active.iter().zip(&results) {
            self.cotangents.entry(repeat.carried[*n].init).or_default().push(*result);
        }
        for (value, result) in outer_values.into_iter().chain(taken).zip(&results[active.len()..]) {
            self.cotangents.entry(value).or_default().push(*result);
        }
    }
}

/// One entry of a tuple.
fn at_entry(n: usize) -> DimAccess {
    DimAccess { terms: Vec::new(), offset: n as i64 }
}

/// A tensor of zeros like `like`, in the open scope.
fn zeros(b: &mut Builder, like: ValueId) -> ValueId {
    let dims = b.dims(like);
    b.map("zeros", &[], &dims, None, Expr::constant(0.0))
}

/// A tensor of zeros like `like`, before the open repeat.
fn zeros_outside(b: &mut Builder, like: ValueId) -> ValueId {
    b.outside(|b| zeros(b, like))
}

/// The rule at one index of a factor, which is gone.
fn fix_factor(rule: &Rule, factor: usize, at: u64) -> Rule {
    let mut fixed = rule.clone();
    for dim in fixed.operands.iter_mut().flatten().chain(&mut fixed.result) {
        let moved: i64 = dim.terms.iter().filter(|term| term.factor == factor).map(|term| term.stride * at as i64).sum();
        dim.offset += moved;
        dim.terms.retain(|term| term.factor != factor);
    }
    for node in &mut fixed.expr.nodes {
        if *node == Node::Index(factor) {
            *node = Node::Const(crate::scalar::Real(at as f64));
        }
    }
    drop_factors(&fixed, &[factor])
}

/// The rule with factors that nothing walks taken out of the list.
fn drop_factors(rule: &Rule, gone: &[usize]) -> Rule {
    let renumber = |factor: usize| factor - gone.iter().filter(|dropped| **dropped < factor).count();
    let mut out = rule.clone();
    out.factors = (0..rule.factors.len()).filter(|factor| !gone.contains(factor)).map(|factor| rule.factors[factor]).collect();
    for dim in out.operands.iter_mut().flatten().chain(&mut out.result) {
        dim.terms.retain(|term| !gone.contains(&term.factor));
        dim.terms.iter_mut().for_each(|term| term.factor = renumber(term.factor));
    }
    let mut expr = Expr::default();
    expr.root = expr.graft(&rule.expr, &mut |expr, n| expr.push(Node::Operand(n)), &renumber);
    out.expr = expr.pruned();
    out
}
