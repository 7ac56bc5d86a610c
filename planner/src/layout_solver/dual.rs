//! A lower bound: message passing over links, prices on rows of memory.
//!
//! The bound is that of the local polytope with the memory limits priced (Lagrange): with prices `p >= 0` and costs moved
//! between links and variables so that every choice costs what it did,
//! `bound = constant - Σ p_r · capacity_r + Σ_v min_s v(s) + Σ_l min_st l(s, t)`.
//! Moves go forwards and backwards over the variables (Kolmogorov, 2015, SRMP; on pairs it is TRW-S, 2006): each variable
//! draws from the links behind it all they have and deals what it has to the links before it. Prices follow the
//! excess of memory of each variable's cheapest option, a subgradient (Held and Karp, 1971), with Polyak's step.

use super::model::Model;

/// How prices move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The first step, as a part of Polyak's.
    pub step: f64,
    /// How much of the present excess goes into the mean that steps follow; the rest is what lies behind.
    pub present: f64,
    /// Passes without a better bound after which steps get shorter.
    pub patience: u32,
    /// By how much.
    pub shorten: f64,
}

/// The pace for what is so large that few passes can be made.
pub const HASTY: Pace = Pace { step: 0.3, present: 0.3, patience: 30, shorten: 0.8 };

/// Table entries beyond which a model is large.
pub const LARGE: usize = 1_000_000;

/// Paces that have each been the best on some problem; a search that is stuck goes on with the next one.
pub const PACES: [Pace; 4] = [
    Pace { step: 0.1, present: 1.0, patience: 200, shorten: 0.7 },
    Pace { step: 0.05, present: 0.5, patience: 100, shorten: 0.8 },
    Pace { step: 0.03, present: 0.3, patience: 200, shorten: 0.8 },
    HASTY,
];

/// The reparametrised problem.
pub struct Dual<'a> {
    model: &'a Model,
    around: Vec<Vec<usize>>,
    /// What each variable's options cost now, memory priced.
    pub unary: Vec<Vec<f64>>,
    /// What was moved out of each link, by option of its first and of its second variable.
    moved: Vec<[Vec<f64>; 2]>,
    /// The price of each row.
    pub prices: Vec<f64>,
    /// The best bound so far, rounded down safely.
    pub bound: f64,
    /// The largest magnitude that was added up, for the error of the bound.
    magnitude: f64,
    pace: Pace,
    step: f64,
    stale: u32,
    /// The mean excess of each row.
    excess: Vec<f64>,
}

impl<'a> Dual<'a> {
    /// Nothing moved, each row at the price that its id has in `prices`, free where it has none.
    pub fn new(model: &'a Model, pace: Pace, prices: &[f64]) -> Self {
        let mut dual = Self {
            model,
            around: model.around(),
            unary: model.vars.iter().map(|var| var.costs.clone()).collect(),
            moved: model.links.iter().map(|link| [link.a, link.b].map(|v| vec![0.0; model.vars[v].costs.len()])).collect(),
            prices: vec![0.0; model.rows.len()],
            bound: f64::NEG_INFINITY,
            magnitude: 1.0,
            pace,
            step: pace.step,
            stale: 0,
            excess: Vec::new(),
        };
        let known = model.row_ids.iter().map(|id| prices.get(*id).copied().unwrap_or(0.0)).collect();
        dual.set_prices(known);
        dual
    }

    /// For each option of `v` the least that a link can cost with it, as things were moved.
    fn least(&self, id: usize, v: usize) -> Vec<f64> {
        let link = &self.model.links[id];
        let columns = self.model.vars[link.b].costs.len();
        let [of_a, of_b] = &self.moved[id];
        if link.a == v {
            let rows = link.costs.chunks_exact(columns);
            rows.zip(of_a).map(|(row, a)| row.iter().zip(of_b).map(|(cost, b)| cost - b).fold(f64::INFINITY, f64::min) - a).collect()
        } else {
            let mut least = vec![f64::INFINITY; columns];
            for (row, a) in link.costs.chunks_exact(columns).zip(of_a) {
                least.iter_mut().zip(row).for_each(|(least, cost)| *least = least.min(cost - a));
            }
            least.iter().zip(of_b).map(|(least, b)| least - b).collect()
        }
    }

    /// Moves `amount` of each option from the link to the variable.
    fn draw(&mut self, id: usize, v: usize, amount: &[f64]) {
        let side = usize::from(self.model.links[id].a != v);
        self.moved[id][side].iter_mut().zip(amount).for_each(|(moved, x)| *moved += x);
        self.unary[v].iter_mut().zip(amount).for_each(|(cost, x)| *cost += x);
    }

    /// Whether steps are so short that nothing more is to be expected of them.
    pub fn is_stuck(&self) -> bool {
        self.step < 0.01 * self.pace.step
    }

    /// What the pairs of a link cost now.
    pub fn link_costs(&self, id: usize) -> Vec<f64> {
        let [of_a, of_b] = &self.moved[id];
        let rows = self.model.links[id].costs.chunks_exact(of_b.len());
        rows.zip(of_a).flat_map(|(row, a)| row.iter().zip(of_b).map(move |(cost, b)| cost - a - b)).collect()
    }

    /// The most by which a sum of such costs may be wrong.
    pub fn error(&self) -> f64 {
        1e-12 * self.magnitude + 1e-6
    }

    /// One pass over the variables, forwards or backwards.
    fn pass(&mut self, forward: bool) {
        let n = self.model.vars.len();
        for position in 0..n {
            let v = if forward { position } else { n - 1 - position };
            let behind = |link: usize| {
                let other = self.model.links[link].a + self.model.links[link].b - v;
                (other < v) == forward
            };
            let (drawn, ahead): (Vec<usize>, Vec<usize>) = self.around[v].iter().copied().partition(|link| behind(*link));
            for id in &drawn {
                let amount = self.least(*id, v);
                self.draw(*id, v, &amount);
            }
            if ahead.is_empty() {
                continue;
            }
            let share = 1.0 / drawn.len().max(ahead.len()) as f64;
            let amount: Vec<f64> = self.unary[v].iter().map(|cost| -cost * share).collect();
            for id in ahead {
                self.draw(id, v, &amount);
            }
        }
    }

    /// The bound of the present state.
    fn value(&mut self) -> f64 {
        let mut total = self.model.constant;
        let mut magnitude = total.abs();
        let mut add = |x: f64| {
            total += x;
            magnitude += x.abs();
        };
        self.prices.iter().zip(&self.model.rows).filter(|(price, _)| **price > 0.0).for_each(|(price, row)| add(-price * *row as f64));
        self.unary.iter().for_each(|costs| add(costs.iter().copied().fold(f64::INFINITY, f64::min)));
        for id in 0..self.model.links.len() {
            let least = self.least(id, self.model.links[id].a);
            add(least.into_iter().fold(f64::INFINITY, f64::min));
        }
        self.magnitude = self.magnitude.max(magnitude);
        total
    }

    /// Messages both ways, then a step of prices towards `target`, the cost of the best answer so far or a guess.
    pub fn iterate(&mut self, target: f64) {
        self.pass(true);
        self.pass(false);
        let value = self.value();
        // sums of doubles err by less than this
        let safe = value - self.error();
        if safe > self.bound {
            if safe > self.bound + 1e-4 * (target - self.bound).abs() {
                self.stale = 0;
            }
            self.bound = safe;
        }
        self.stale += 1;
        if self.stale > self.pace.patience {
            self.step *= self.pace.shorten;
            self.stale = 0;
        }
        self.price(value, target);
    }

    fn price(&mut self, value: f64, target: f64) {
        let rows = self.model.rows.len();
        if rows == 0 {
            return;
        }
        let mut change = vec![0.0; rows + 1];
        for (v, var) in self.model.vars.iter().enumerate().filter(|(_, var)| !var.holds.is_empty()) {
            // what a variable would choose, were all the others free
            let mut costs = self.unary[v].clone();
            for id in &self.around[v] {
                costs.iter_mut().zip(self.least(*id, v)).for_each(|(cost, least)| *cost += least);
            }
            let option = (0..costs.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b])).expect("a variable has options");
            for hold in &var.holds {
                change[hold.from] += hold.bytes[option] as f64;
                change[hold.to] -= hold.bytes[option] as f64;
            }
        }
        let mut live = 0.0;
        let excess: Vec<f64> = (0..rows)
            .map(|row| {
                live += change[row];
                live - self.model.rows[row] as f64
            })
            .collect();
        // the average of what lies behind damps the zigzag (Barahona and Anbil, 2000)
        if self.excess.is_empty() {
            self.excess = excess;
        } else {
            self.excess.iter_mut().zip(&excess).for_each(|(mean, now)| *mean += self.pace.present * (now - *mean));
        }
        let excess: Vec<f64> =
            self.excess.iter().zip(&self.prices).map(|(over, price)| if *over < 0.0 && *price == 0.0 { 0.0 } else { *over }).collect();
        let norm: f64 = excess.iter().map(|x| x * x).sum();
        let gap = (target - value).max(1e-9 * target.abs());
        if norm == 0.0 || !gap.is_finite() {
            return;
        }
        let length = self.step * gap / norm;
        self.set_prices(self.prices.iter().zip(&excess).map(|(price, over)| (price + length * over).max(0.0)).collect());
    }

    /// Other prices, and what they make of the variables' costs.
    fn set_prices(&mut self, prices: Vec<f64>) {
        let before = std::mem::replace(&mut self.prices, prices);
        let rows = before.len();
        let mut so_far = Vec::with_capacity(rows + 1);
        so_far.push(0.0);
        for row in 0..rows {
            so_far.push(so_far[row] + self.prices[row] - before[row]);
        }
        for (var, costs) in self.model.vars.iter().zip(&mut self.unary) {
            for hold in &var.holds {
                let price = so_far[hold.to] - so_far[hold.from];
                if price != 0.0 {
                    costs.iter_mut().zip(&hold.bytes).for_each(|(cost, bytes)| *cost += price * *bytes as f64);
                }
            }
        }
    }

    /// For each option whether an answer with it may cost less than `best`: the bound with the variable held to it, by as
    /// much dearer as the option is than the cheapest beside each of its links' cheapest. Options of `keep` stay.
    pub fn may_be_better(&mut self, best: f64, keep: &[usize]) -> Vec<Vec<bool>> {
        let value = self.value() - self.error();
        (0..self.model.vars.len())
            .map(|v| {
                let least = |costs: &[f64]| costs.iter().copied().fold(f64::INFINITY, f64::min);
                let mut dearer: Vec<f64> = self.unary[v].iter().map(|cost| cost - least(&self.unary[v])).collect();
                for id in &self.around[v] {
                    let costs = self.least(*id, v);
                    let free = least(&costs);
                    dearer.iter_mut().zip(&costs).for_each(|(dearer, cost)| *dearer += cost - free);
                }
                // whole costs: what is better is better by 1
                dearer.iter().enumerate().map(|(option, more)| keep.get(v) == Some(&option) || value + more <= best - 1.0).collect()
            })
            .collect()
    }

    /// Options chosen one after the other: what a variable costs now, with what its links cost to those chosen before it
    /// and the least that they cost to those after it.
    pub fn rounded(&self) -> Vec<usize> {
        let n = self.model.vars.len();
        let mut choice = vec![usize::MAX; n];
        for v in 0..n {
            let mut costs = self.unary[v].clone();
            for id in &self.around[v] {
                let link = &self.model.links[*id];
                let other = link.a + link.b - v;
                let columns = self.model.vars[link.b].costs.len();
                let [of_a, of_b] = &self.moved[*id];
                if choice[other] == usize::MAX {
                    costs.iter_mut().zip(self.least(*id, v)).for_each(|(cost, least)| *cost += least);
                } else if link.a == v {
                    let t = choice[other];
                    costs.iter_mut().enumerate().for_each(|(s, cost)| *cost += link.at(s, t, columns) - of_a[s] - of_b[t]);
                } else {
                    let s = choice[other];
                    costs.iter_mut().enumerate().for_each(|(t, cost)| *cost += link.at(s, t, columns) - of_a[s] - of_b[t]);
                }
            }
            choice[v] = (0..costs.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b])).expect("a variable has options");
        }
        choice
    }
}
