//! Optimizers and schedules as operators of the update phase.
//!
//! Every norm is of a logical parameter (one iteration's, of a repeated block), so it is the same number under every layout.

use std::f64::consts::PI;

use super::scale::Guard;
use crate::axis::Role;
use crate::build::Builder;
use crate::formula::{Formula, lit, x};
use crate::graph::{Assign, Class, Init, Leaf};
use crate::id::{AxisId, ValueId};
use crate::rule::{Access, DimAccess, Reduce, Rule};
use crate::scalar::{Binary, Expr, Unary};

use crate::train::{Optimizer, Schedule, Train};

/// The schedule's factor times the rate, of the step number.
pub(super) fn learning_rate(train: &Train) -> Formula {
    let step = x(0);
    let rise = |warmup: f64| x(0) / lit(warmup.max(1.0));
    // how far from `start` to `end`, at most 1
    let progress = |start: f64, end: f64| {
        let span = (end - start).max(1.0);
        x(0).at_most(lit(end)).select((x(0) - lit(start)) / lit(span), lit(1.0)).min(lit(1.0))
    };
    let fall = |left: Formula, min: f64| lit(min) + lit(1.0 - min) * left;
    let (warmup, then) = match train.schedule {
        Schedule::Constant => return lit(train.lr),
        Schedule::Cosine { warmup, steps, min } => {
            let left = lit(0.5) * (lit(1.0) + (lit(PI) * progress(warmup as f64, steps as f64)).unary(Unary::Cos));
            (warmup, fall(left, min))
        }
        Schedule::Linear { warmup, steps, min } => (warmup, fall(lit(1.0) - progress(warmup as f64, steps as f64), min)),
        Schedule::InverseSqrt { warmup } => (warmup, (lit(warmup.max(1) as f64) / step.clone()).sqrt()),
        Schedule::Wsd { warmup, steps, decay, min } => {
            let left = lit(1.0) - progress((steps - decay) as f64, steps as f64).max(lit(0.0));
            (warmup, fall(left, min))
        }
    };
    lit(train.lr) * step.below(lit(warmup as f64)).select(rise(warmup as f64), then)
}

/// What the updates of the parameters of a group share.
struct Shared {
    optimizer: Optimizer,
    step: ValueId,
    lr: ValueId,
    /// The factor of clipping and of a scaled loss.
    scale: Option<ValueId>,
    /// `1 − βᵗ` of both moments.
    corrections: Option<(ValueId, ValueId)>,
}

/// The updates of parameters, group by group.
pub(super) struct Update<'a> {
    train: &'a Train,
    /// Whether the update takes place, and the updates so far.
    pub(super) guard: Option<Guard>,
    /// Of those that are in no group, then of each group; none where there are none.
    shared: Vec<Option<Shared>>,
}

impl<'a> Update<'a> {
    pub(super) fn new(
        b: &mut Builder,
        train: &'a Train,
        step: ValueId,
        lr: ValueId,
        scale: Option<ValueId>,
        guard: Option<Guard>,
        params: &[ValueId],
    ) -> Self {
        // what decays by the step counts the updates that took place
        let step = guard.as_ref().map_or(step, |guard| guard.updates);
        let mut update = Self { train, guard, shared: Vec::new() };
        let needed: Vec<usize> = params.iter().map(|param| update.group(&b.graph.value(*param).name)).collect();
        let rest = (train.optimizer, 1.0);
        for (place, (optimizer, factor)) in
            [rest].into_iter().chain(train.groups.iter().map(|group| (group.optimizer, group.lr_factor))).enumerate()
        {
            update.shared.push(needed.contains(&place).then(|| {
                let lr = if factor == 1.0 { lr } else { b.map("lr", &[lr], &[], None, (x(0) * lit(factor)).expr()) };
                Shared::new(b, optimizer, step, lr, scale)
            }));
        }
        update
    }

    /// Where what a parameter shares with others is.
    fn group(&self, param: &str) -> usize {
        let found = self.train.groups.iter().position(|group| group.params.iter().any(|name| name == param));
        found.map_or(0, |group| group + 1)
    }
}

impl Shared {
    fn new(b: &mut Builder, optimizer: Optimizer, step: ValueId, lr: ValueId, scale: Option<ValueId>) -> Self {
        let corrections = match optimizer {
            Optimizer::AdamW { beta1, beta2, .. }
            | Optimizer::Adam { beta1, beta2, .. }
            | Optimizer::Lamb { beta1, beta2, .. }
            | Optimizer::Muon { beta1, beta2, .. } => {
                let mut correction = |beta: f64| {
                    let expr = (lit(1.0) - lit(beta).binary(Binary::Pow, x(0))).expr();
                    b.map("correction", &[step], &[], None, expr)
                };
                Some((correction(beta1), correction(beta2)))
            }
            _ => None,
        };
        Self { optimizer, step, lr, scale, corrections }
    }
}

impl Update<'_> {
    /// Assigns a parameter and its states.
    pub(super) fn of(&self, b: &mut Builder, param: ValueId, gradient: ValueId) {
        let shared = self.shared[self.group(&b.graph.value(param).name)].as_ref().expect("its group has parameters");
        let (name, dims) = (b.graph.value(param).name.clone(), b.dims(param));
        let held = if self.train.precision.has_master() {
            b.leaf(&format!("{name}.master"), &dims, Leaf::State { init: Init::Copy, of: Some(param), slot: "master".to_owned() })
        } else {
            param
        };
        let mut one = One { shared, guard: self.guard.as_ref(), name, dims, b, param, held, gradient };
        match shared.optimizer {
            Optimizer::Sgd { momentum, decay } => one.sgd(momentum, decay),
            Optimizer::AdamW { beta1, beta2, eps, decay } => one.adamw(beta1, beta2, eps, decay),
            Optimizer::Adam { beta1, beta2, eps, decay } => one.adam(beta1, beta2, eps, decay),
            Optimizer::Adafactor { power, eps, floor, limit, decay } => one.adafactor(power, eps, floor, limit, decay),
            Optimizer::Lamb { beta1, beta2, eps, decay } => one.lamb(beta1, beta2, eps, decay),
            Optimizer::Lars { momentum, trust, decay, eps } => one.lars(momentum, trust, decay, eps),
            Optimizer::Lion { beta1, beta2, decay } => one.lion(beta1, beta2, decay),
            Optimizer::Muon { momentum, beta1, beta2, eps, decay } => {
                if one.is_matrix() {
                    one.muon(momentum, decay);
                } else {
                    one.adamw(beta1, beta2, eps, decay);
                }
            }
        }
    }
}

/// The update of one parameter.
struct One<'a, 'b> {
    b: &'b mut Builder,
    shared: &'a Shared,
    guard: Option<&'a Guard>,
    param: ValueId,
    /// What is updated: the parameter, or the copy of it that the optimizer holds.
    held: ValueId,
    gradient: ValueId,
    name: String,
    dims: Vec<AxisId>,
}

impl One<'_, '_> {
    fn state_of(&mut self, slot: &str, dims: &[AxisId]) -> ValueId {
        let leaf = Leaf::State { init: Init::Constant(0.0), of: Some(self.param), slot: slot.to_owned() };
        self.b.leaf(&format!("{}.{slot}", self.name), dims, leaf)
    }

    fn state(&mut self, slot: &str) -> ValueId {
        let dims = self.dims.clone();
        self.state_of(slot, &dims)
    }

    fn assign(&mut self, target: ValueId, value: ValueId) {
        let value = self.guard.map_or(value, |guard| guard.keep(self.b, target, value));
        self.b.graph.assigns.push(Assign { target, value });
    }

    /// The parameter becomes `next`, and so does the copy of it that the optimizer holds.
    fn settle(&mut self, next: ValueId) {
        self.assign(self.held, next);
        if self.held != self.param {
            let held = self.b.graph.assigns[self.b.graph.assigns.len() - 1].value;
            let name = self.name.clone();
            let value = self.map(&name, &[held], &x(0));
            self.b.graph.assigns.push(Assign { target: self.param, value });
        }
    }

    /// An elementwise operator of the parameter's shape.
    fn map(&mut self, name: &str, operands: &[ValueId], formula: &Formula) -> ValueId {
        self.b.map(name, operands, &self.dims.clone(), None, formula.expr())
    }

    fn scalar(&mut self, name: &str, operands: &[ValueId], formula: &Formula) -> ValueId {
        self.b.map(name, operands, &[], None, formula.expr())
    }

    /// The gradient as operands, and as a formula of operands from `first` on: clipped, if there is a factor.
    fn clipped(&self, first: usize) -> (Vec<ValueId>, Formula) {
        let operands = [self.gradient].into_iter().chain(self.shared.scale).collect();
        (operands, if self.shared.scale.is_some() { x(first) * x(first + 1) } else { x(first) })
    }

    /// The clipped gradient as a value.
    fn whole_gradient(&mut self) -> ValueId {
        let (operands, g) = self.clipped(0);
        if operands.len() == 1 { operands[0] } else { self.map("clipped", &operands, &g) }
    }

    /// The sum of squares.
    fn squares(&mut self, value: ValueId) -> ValueId {
        self.b.map("square", &[value], &[], Some(Reduce::Sum), (x(0) * x(0)).expr())
    }

    /// How many elements these axes span.
    fn size(&self, axes: &[AxisId]) -> u64 {
        axes.iter().map(|axis| self.b.graph.size(*axis)).product()
    }

    fn sgd(&mut self, momentum: f64, decay: f64) {
        let lr = self.shared.lr;
        let direction = if momentum == 0.0 {
            let (read, g) = self.clipped(0);
            self.map("clipped", &read, &g)
        } else {
            let m = self.state("m");
            let (read, g) = self.clipped(1);
            let next = self.map("m", &[&[m], &read[..]].concat(), &(lit(momentum) * x(0) + g));
            self.assign(m, next);
            next
        };
        self.descend(direction, decay, lr);
    }

    /// `p (1 − lr decay) − lr direction`.
    fn descend(&mut self, direction: ValueId, decay: f64, lr: ValueId) {
        let next = x(0) * (lit(1.0) - x(2) * lit(decay)) - x(2) * x(1);
        let name = self.name.clone();
        let next = self.map(&name, &[self.held, direction, lr], &next);
        self.settle(next);
    }

    /// Both moments, moved on by the gradient: `formula` of operands from 1 on.
    fn moments(&mut self, beta1: f64, beta2: f64, read: &[ValueId], g: &Formula) -> (ValueId, ValueId) {
        let (m, v) = (self.state("m"), self.state("v"));
        let operands = |state: ValueId| [&[state], read].concat();
        let next_m = self.map("m", &operands(m), &(lit(beta1) * x(0) + lit(1.0 - beta1) * g.clone()));
        let next_v = self.map("v", &operands(v), &(lit(beta2) * x(0) + lit(1.0 - beta2) * (g.clone() * g.clone())));
        self.assign(m, next_m);
        self.assign(v, next_v);
        (next_m, next_v)
    }

    fn corrections(&self) -> (ValueId, ValueId) {
        self.shared.corrections.expect("optimizers with two moments come with their corrections")
    }

    fn adamw(&mut self, beta1: f64, beta2: f64, eps: f64, decay: f64) {
        let (first, second) = self.corrections();
        let (read, g) = self.clipped(1);
        let (m, v) = self.moments(beta1, beta2, &read, &g);
        // p (1 − lr decay) − lr (m/c1) / (√(v/c2) + eps), operands p m v lr c1 c2
        let direction = (x(1) / x(4)) / ((x(2) / x(5)).sqrt() + lit(eps));
        let next = x(0) * (lit(1.0) - x(3) * lit(decay)) - x(3) * direction;
        let name = self.name.clone();
        let next = self.map(&name, &[self.held, m, v, self.shared.lr, first, second], &next);
        self.settle(next);
    }

    fn adam(&mut self, beta1: f64, beta2: f64, eps: f64, decay: f64) {
        let (first, second) = self.corrections();
        let (mut read, mut g) = self.clipped(1);
        if decay > 0.0 {
            g = g + lit(decay) * x(1 + read.len());
            read.push(self.held);
        }
        let (m, v) = self.moments(beta1, beta2, &read, &g);
        let direction = (x(1) / x(4)) / ((x(2) / x(5)).sqrt() + lit(eps));
        let name = self.name.clone();
        let next = self.map(&name, &[self.held, m, v, self.shared.lr, first, second], &(x(0) - x(3) * direction));
        self.settle(next);
    }

    fn lamb(&mut self, beta1: f64, beta2: f64, eps: f64, decay: f64) {
        let (first, second) = self.corrections();
        let (read, g) = self.clipped(1);
        let (m, v) = self.moments(beta1, beta2, &read, &g);
        let direction = (x(1) / x(3)) / ((x(2) / x(4)).sqrt() + lit(eps)) + lit(decay) * x(0);
        let direction = self.map("direction", &[self.held, m, v, first, second], &direction);
        let mut lr = self.shared.lr;
        if self.dims.len() > 1 {
            let norms = [self.squares(self.held), self.squares(direction)];
            let both = lit(0.0).below(x(1)) * lit(0.0).below(x(2));
            let trusted = both.select(x(0) * (x(1) / x(2)).sqrt(), x(0));
            lr = self.scalar("trusted", &[lr, norms[0], norms[1]], &trusted);
        }
        self.descend(direction, 0.0, lr);
    }

    fn lars(&mut self, momentum: f64, trust: f64, decay: f64, eps: f64) {
        let (m, lr) = (self.state("m"), self.shared.lr);
        let next = if self.dims.len() > 1 {
            let g = self.whole_gradient();
            let norms = [self.squares(self.held), self.squares(g)];
            let both = lit(0.0).below(x(0)) * lit(0.0).below(x(1));
            let (of_param, of_gradient) = (x(0).sqrt(), x(1).sqrt());
            let rate = lit(trust) * of_param.clone() / (of_gradient + lit(decay) * of_param + lit(eps));
            let rate = self.scalar("trusted", &norms, &both.select(rate, lit(1.0)));
            self.map("m", &[m, g, self.held, rate], &(lit(momentum) * x(0) + x(3) * (x(1) + lit(decay) * x(2))))
        } else {
            let (read, g) = self.clipped(1);
            self.map("m", &[&[m], &read[..]].concat(), &(lit(momentum) * x(0) + g))
        };
        self.assign(m, next);
        self.descend(next, 0.0, lr);
    }

    fn lion(&mut self, beta1: f64, beta2: f64, decay: f64) {
        let m = self.state("m");
        let (read, g) = self.clipped(1);
        let operands = [&[m], &read[..]].concat();
        let direction = (lit(beta1) * x(0) + lit(1.0 - beta1) * g.clone()).unary(Unary::Sign);
        let direction = self.map("direction", &operands, &direction);
        let next = self.map("m", &operands, &(lit(beta2) * x(0) + lit(1.0 - beta2) * g));
        self.assign(m, next);
        self.descend(direction, decay, self.shared.lr);
    }

    /// The axes of a matrix of two or more: those of its rows and those of its columns, cut where the two together are shortest.
    fn sides(&self) -> (Vec<AxisId>, Vec<AxisId>) {
        let cut = (1..self.dims.len()).min_by_key(|at| self.size(&self.dims[..*at]) + self.size(&self.dims[*at..])).unwrap_or(1);
        (self.dims[..cut].to_vec(), self.dims[cut..].to_vec())
    }

    fn adafactor(&mut self, power: f64, eps: f64, floor: f64, limit: f64, decay: f64) {
        let g = self.whole_gradient();
        // what of the mean of squares is new, by the step
        let fresh = self.scalar("fresh", &[self.shared.step], &x(0).binary(Binary::Pow, lit(-power)));
        let toward = x(0) + x(2) * (x(1) - x(0));
        let square = (x(0) * x(0)).expr();
        let direction = if self.dims.len() > 1 {
            let (rows, columns) = self.sides();
            let (n_rows, n_columns) = (self.size(&rows) as f64, self.size(&columns) as f64);
            let mut side = |slot: &str, own: &[AxisId], others: f64| {
                let state = self.state_of(slot, own);
                let sum = self.b.map("squares", &[g], own, Some(Reduce::Sum), square.clone());
                let next = x(0) + x(2) * (x(1) / lit(others) - x(0));
                let next = self.b.map(slot, &[state, sum, fresh], own, None, next.expr());
                self.assign(state, next);
                next
            };
            let (row, column) = (side("row", &rows, n_columns), side("column", &columns, n_rows));
            let total = self.b.map("total", &[row], &[], Some(Reduce::Sum), Expr::operand(0));
            let variance = x(1) * x(2) / (x(3) / lit(n_rows)).max(lit(eps));
            self.map("direction", &[g, row, column, total], &(x(0) / variance.max(lit(eps * eps)).sqrt()))
        } else {
            let v = self.state("v");
            let squared = self.map("squares", &[g], &(x(0) * x(0)));
            let next = self.map("v", &[v, squared, fresh], &toward);
            self.assign(v, next);
            self.map("direction", &[g, next], &(x(0) / x(1).max(lit(eps * eps)).sqrt()))
        };
        let elements = self.size(&self.dims) as f64;
        let norms = [self.squares(self.held), self.squares(direction)];
        let rate = x(0).min(lit(1.0) / x(3).sqrt()) * (x(1) / lit(elements)).sqrt().max(lit(floor));
        let rate = rate / ((x(2) / lit(elements)).sqrt() / lit(limit)).max(lit(1.0));
        let rate = self.scalar("rate", &[self.shared.lr, norms[0], norms[1], self.shared.step], &rate);
        let next = x(0) * (lit(1.0) - x(3) * lit(decay)) - x(2) * x(1);
        let name = self.name.clone();
        let next = self.map(&name, &[self.held, direction, rate, self.shared.lr], &next);
        self.settle(next);
    }

    /// Whether Muon takes it: a matrix that is no table of a vocabulary.
    fn is_matrix(&self) -> bool {
        self.dims.len() > 1 && self.dims.iter().all(|axis| self.b.graph.axis(*axis).role != Role::Vocab)
    }

    fn muon(&mut self, momentum: f64, decay: f64) {
        let g = self.whole_gradient();
        let m = self.state("m");
        let next = self.map("m", &[m, g], &(lit(momentum) * x(0) + lit(1.0 - momentum) * x(1)));
        self.assign(m, next);
        // Nesterov's: where the momentum will have gone
        let ahead = self.map("ahead", &[g, next], &(lit(1.0 - momentum) * x(0) + lit(momentum) * x(1)));
        let norm = self.squares(ahead);
        let mut matrix = self.map("direction", &[ahead, norm], &(x(0) / x(1).sqrt().max(lit(1e-7))));
        let (rows, columns) = self.sides();
        let (n_rows, n_columns) = (self.size(&rows), self.size(&columns));
        let (short, long) = if n_rows <= n_columns { (rows, columns) } else { (columns, rows) };
        // the short side under two more names
        let names: Vec<(String, u64)> =
            short.iter().map(|axis| (self.b.graph.axis(*axis).name.clone(), self.b.graph.size(*axis))).collect();
        let mut again = || -> Vec<AxisId> { names.iter().map(|(name, size)| self.b.axis(name, *size, Role::None)).collect() };
        let (second, third) = (again(), again());
        // Keller Jordan's coefficients, five times
        let [a, b, c] = [3.4445, -4.7750, 2.0315];
        let square: Vec<AxisId> = [&short[..], &second[..]].concat();
        for _ in 0..5 {
            let named =
                |from: &[AxisId], to: &[AxisId]| -> Vec<(AxisId, AxisId)> { from.iter().copied().zip(to.iter().copied()).collect() };
            let gram = self.product("gram", [matrix, matrix], [&[], &named(&short, &second)], &square, &long);
            let twice = self.product("twice", [gram, gram], [&named(&second, &third), &named(&short, &third)], &square, &third);
            let sum = self.b.map("polynomial", &[gram, twice], &square, None, (lit(b) * x(0) + lit(c) * x(1)).expr());
            let dims = self.dims.clone();
            let turned = self.product("turned", [sum, matrix], [&[], &named(&short, &second)], &dims, &second);
            matrix = self.map("direction", &[matrix, turned], &(lit(a) * x(0) + x(1)));
        }
        // as long as what AdamW would do (Liu et al. 2025)
        let longer = n_rows.max(n_columns) as f64;
        let next = x(0) * (lit(1.0) - x(2) * lit(decay)) - x(2) * lit(0.2 * longer.sqrt()) * x(1);
        let name = self.name.clone();
        let next = self.map(&name, &[self.held, matrix, self.shared.lr], &next);
        self.settle(next);
    }

    /// A matrix product of two values some of whose axes go by other names, summed over `over`.
    fn product(
        &mut self,
        name: &str,
        operands: [ValueId; 2],
        renamed: [&[(AxisId, AxisId)]; 2],
        dims: &[AxisId],
        over: &[AxisId],
    ) -> ValueId {
        let factors: Vec<AxisId> = dims.iter().chain(over).copied().collect();
        let access = |operand: ValueId, renamed: &[(AxisId, AxisId)]| -> Access {
            let walk = |axis: AxisId| {
                let axis = renamed.iter().find(|(from, _)| *from == axis).map_or(axis, |(_, to)| *to);
                DimAccess::factor(factors.iter().position(|factor| *factor == axis).expect("axes of a product are kept or summed"))
            };
            self.b.dims(operand).into_iter().map(walk).collect()
        };
        let accesses = vec![access(operands[0], renamed[0]), access(operands[1], renamed[1])];
        let result = (0..dims.len()).map(DimAccess::factor).collect();
        let rule = Rule { factors, operands: accesses, result, reduce: Some(Reduce::Sum), expr: Expr::product(2) };
        self.b.classed(Class::Optimizer, |b| b.rule(name, rule, &operands, dims))
    }
}
