//! A lower bound: message passing over links, prices on rows of memory.
//!
//! The bound is that of the local polytope with the memory limits priced (Lagrange): with prices `p >= 0` and costs moved
//! between links and variables so that every choice costs what it did,
//! `bound = constant - Σ p_r · capacity_r + Σ_v min_s v(s) + Σ_l min_st l(s, t)`.
//! Moves go forwards and backwards over the variables (Kolmogorov, 2015, SRMP; on pairs it is TRW-S, 2006): each variable
//! draws from the links behind it all they have and deals what it has to the links before it. After both passes no link
//! has anything left, and while it goes back each variable has, before it deals, its **min-marginals**: what the problem
//! costs at least with each option. Prices follow the excess of memory of each variable's cheapest option by these, a
//! subgradient (Held and Karp, 1971), with Polyak's step.
//!
//! Costs are whole and moves are exact; only what memory costs is rounded, always down. So the bound holds to the grain.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::lanes::{least_of_columns, least_of_rows};
use super::model::{Hold, Model, is_never};

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

/// Holds of one variable that keep the same bytes.
struct Profile {
    bytes: Vec<i64>,
    rows: Vec<(usize, usize)>,
}

/// A link seen from one of its variables.
#[derive(Clone, Copy)]
struct End {
    link: usize,
    /// Where the link's table starts.
    table: usize,
    /// The other variable.
    other: usize,
    /// Where in `moved` what was moved to this variable is.
    mine: usize,
    /// Where what was moved to the other is.
    theirs: usize,
}

/// The reparametrised problem.
pub struct Dual {
    model: Arc<Model>,
    /// Where each variable's options start; one more at the end.
    starts: Vec<usize>,
    /// The links of each variable to those before it in order.
    before: Vec<Vec<End>>,
    /// The links of each variable to those after it.
    after: Vec<Vec<End>>,
    /// The tables of all links; equal ones are one.
    tables: Vec<i64>,
    profiles: Vec<Vec<Profile>>,
    /// The most that each row may be asked to pay for.
    most: Vec<f64>,
    /// What the options of all variables cost now, memory priced.
    costs: Vec<i64>,
    /// What of this is the price of memory.
    priced: Vec<i64>,
    /// What was moved out of each link, by option of its first and then of its second variable.
    moved: Vec<i64>,
    /// The price of each row: in grains a byte.
    prices: Vec<f64>,
    /// What all memory would cost: at least the sum over rows of price times capacity.
    paid: i64,
    /// The best bound so far, in grains.
    bound: i64,
    /// How often each option was the cheapest, a running mean.
    shares: Vec<f64>,
    /// The cheapest option of each variable in the last pass.
    cheapest: Vec<usize>,
    pace: Pace,
    step: f64,
    stale: u32,
    /// The mean excess of each row.
    excess: Vec<f64>,
    scratch: Vec<i64>,
}

/// Paces that have each been the best on some problem, one after the other.
pub const PACES: [Pace; 3] = [
    Pace { step: 0.05, present: 0.5, patience: 100, shorten: 0.8 },
    Pace { step: 0.3, present: 0.3, patience: 30, shorten: 0.8 },
    Pace { step: 0.03, present: 0.3, patience: 200, shorten: 0.8 },
];

/// How much of a running mean of options the last one is.
const SHARE: f64 = 0.05;

impl Dual {
    /// Nothing moved, each row at its price of `prices`.
    pub fn new(model: &Arc<Model>, pace: Pace, prices: Vec<f64>) -> Self {
        let mut starts = vec![0];
        for var in &model.vars {
            starts.push(starts[starts.len() - 1] + var.costs.len());
        }
        let n = model.vars.len();
        let (mut before, mut after) = (vec![Vec::new(); n], vec![Vec::new(); n]);
        let (mut at, mut tables, mut known) = (0, Vec::new(), HashMap::new());
        for (id, link) in model.links.iter().enumerate() {
            let (rows, columns) = (model.vars[link.a].costs.len(), model.vars[link.b].costs.len());
            let table = *known.entry(link.costs.as_slice()).or_insert_with(|| {
                tables.extend(&link.costs);
                tables.len() - link.costs.len()
            });
            after[link.a].push(End { link: id, table, other: link.b, mine: at, theirs: at + rows });
            before[link.b].push(End { link: id, table, other: link.a, mine: at + rows, theirs: at });
            at += rows + columns;
        }
        let options = starts[n];
        let widest = model.vars.iter().map(|var| var.costs.len()).max().unwrap_or(0);
        let mut dual = Self {
            model: Arc::clone(model),
            before,
            after,
            tables,
            most: most(model),
            profiles: model.vars.iter().map(|var| profiles(&var.holds)).collect(),
            costs: model.vars.iter().flat_map(|var| var.costs.iter().copied()).collect(),
            priced: vec![0; options],
            moved: vec![0; at],
            prices: Vec::new(),
            paid: 0,
            bound: i64::MIN,
            shares: vec![0.0; options],
            cheapest: vec![0; n],
            pace,
            step: pace.step,
            stale: 0,
            excess: Vec::new(),
            scratch: vec![0; widest],
            starts,
        };
        dual.set_prices(prices);
        dual
    }

    /// The best bound so far, in grains.
    pub fn bound(&self) -> i64 {
        self.bound
    }

    /// The price of each row: grains a byte.
    pub fn prices(&self) -> &[f64] {
        &self.prices
    }

    /// The rows that have a price, by their names, in order.
    pub fn priced_rows(&self) -> Vec<(usize, f64)> {
        let rows = self.model.row_ids.iter().copied().zip(self.prices.iter().copied());
        rows.filter(|(_, price)| *price > 0.0).collect()
    }

    /// How often each option was the cheapest, a running mean.
    pub fn shares(&self) -> &[f64] {
        &self.shares
    }

    /// The options of a variable, as indices into all.
    pub fn options(&self, v: usize) -> std::ops::Range<usize> {
        self.starts[v]..self.starts[v + 1]
    }

    /// What the options of a variable cost now, memory priced.
    pub fn of_var(&self, v: usize) -> &[i64] {
        &self.costs[self.options(v)]
    }

    /// For each option of a variable the least that a link can cost with it, without what was moved to this variable.
    fn least(tables: &[i64], moved: &[i64], end: End, others: usize, out: &mut [i64]) {
        let table = &tables[end.table..end.table + others * out.len()];
        let theirs = &moved[end.theirs..end.theirs + others];
        if end.mine < end.theirs {
            least_of_rows(table, theirs, out);
        } else {
            least_of_columns(table, theirs, out);
        }
    }

    fn width(&self, v: usize) -> usize {
        self.starts[v + 1] - self.starts[v]
    }

    /// All that a link has goes to a variable.
    fn draw(&mut self, v: usize, end: End) {
        let options = self.options(v);
        let others = self.width(end.other);
        let out = &mut self.scratch[..options.len()];
        Self::least(&self.tables, &self.moved, end, others, out);
        let moved = &mut self.moved[end.mine..end.mine + options.len()];
        for ((cost, moved), least) in self.costs[options].iter_mut().zip(moved).zip(out) {
            *cost += *least - *moved;
            *moved = *least;
        }
    }

    /// What a variable has goes to links in equal parts, of which there are `parts`.
    fn deal(&mut self, v: usize, ends: &[End], parts: usize) {
        let options = self.options(v);
        let share = 1.0 / parts as f64;
        let amounts = &mut self.scratch[..options.len()];
        for (amount, cost) in amounts.iter_mut().zip(&mut self.costs[options.clone()]) {
            *amount = (*cost as f64 * share) as i64;
            *cost -= *amount * ends.len() as i64;
        }
        for end in ends {
            let moved = &mut self.moved[end.mine..end.mine + options.len()];
            moved.iter_mut().zip(&*amounts).for_each(|(moved, amount)| *moved -= amount);
        }
    }

    /// Passes forwards and backwards; remembers each variable's cheapest option.
    fn pass(&mut self) {
        let n = self.model.vars.len();
        let (before, after) = (std::mem::take(&mut self.before), std::mem::take(&mut self.after));
        for v in 0..n {
            before[v].iter().for_each(|end| self.draw(v, *end));
            if !after[v].is_empty() {
                self.deal(v, &after[v], before[v].len().max(after[v].len()));
            }
        }
        self.shares.iter_mut().for_each(|share| *share *= 1.0 - SHARE);
        for v in (0..n).rev() {
            after[v].iter().for_each(|end| self.draw(v, *end));
            let options = self.options(v);
            let costs = &self.costs[options.clone()];
            let cheapest = (0..costs.len()).min_by_key(|option| costs[*option]).expect("a variable has options");
            self.cheapest[v] = cheapest;
            self.shares[options.start + cheapest] += SHARE;
            if !before[v].is_empty() {
                self.deal(v, &before[v], before[v].len().max(after[v].len()));
            }
        }
        (self.before, self.after) = (before, after);
    }

    /// The bound after both passes, when no link has anything left.
    fn value(&self) -> i64 {
        let vars = (0..self.model.vars.len()).map(|v| self.of_var(v).iter().min().expect("a variable has options"));
        self.model.constant - self.paid + vars.sum::<i64>()
    }

    /// Messages both ways, then a step of prices towards `limit`, the most that a better answer may cost, or towards a little
    /// more than the bound where that is far away.
    pub fn iterate(&mut self, limit: i64) {
        let target = limit.min(self.bound.max(self.model.constant) / 8 * 9 + (1 << 20));
        if is_never(self.bound) {
            // nothing is allowed, and nothing more can be known
            return;
        }
        self.pass();
        let value = self.value();
        if value > self.bound {
            if value as f64 > self.bound as f64 + 1e-4 * (target as f64 - self.bound as f64).abs() {
                self.stale = 0;
            }
            self.bound = value;
        }
        self.stale += 1;
        if self.stale > self.pace.patience {
            self.step *= self.pace.shorten;
            self.stale = 0;
        }
        self.price(value as f64, target as f64);
    }

    /// Whether steps are so short that nothing more is to be expected of them.
    pub fn is_stuck(&self) -> bool {
        self.step < 0.01 * self.pace.step
    }

    fn price(&mut self, value: f64, target: f64) {
        let rows = self.model.rows.len();
        if rows == 0 {
            return;
        }
        let mut change = vec![0i64; rows + 1];
        for (profiles, option) in self.profiles.iter().zip(&self.cheapest) {
            for profile in profiles {
                let bytes = profile.bytes[*option];
                if bytes != 0 {
                    for (from, to) in &profile.rows {
                        change[*from] += bytes;
                        change[*to] -= bytes;
                    }
                }
            }
        }
        let first = self.excess.is_empty();
        self.excess.resize(rows, 0.0);
        let present = if first { 1.0 } else { self.pace.present };
        let (mut live, mut norm) = (0, 0.0);
        // the average of what lies behind damps the zigzag (Barahona and Anbil, 2000)
        for (((mean, change), capacity), price) in self.excess.iter_mut().zip(&change).zip(&self.model.rows).zip(&self.prices) {
            live += change;
            *mean += present * ((live - capacity) as f64 - *mean);
            if *mean > 0.0 || *price > 0.0 {
                norm += *mean * *mean;
            }
        }
        let gap = (target - value).max(1e-9 * target.abs());
        if norm == 0.0 || !gap.is_finite() {
            return;
        }
        let length = self.step * gap / norm;
        let prices = self.prices.iter().zip(&self.excess).map(|(price, over)| (price + length * over).max(0.0)).collect();
        self.set_prices(prices);
    }

    /// Other prices, and what they make of the variables' costs.
    fn set_prices(&mut self, mut prices: Vec<f64>) {
        let all: f64 = prices.iter().zip(&self.most).map(|(price, most)| price * most).sum();
        if all > MOST {
            prices.iter_mut().for_each(|price| *price *= MOST / all);
        }
        // the price of a row is the difference of two sums, exactly: so ranges are sums of the same prices
        let mut sums = Vec::with_capacity(prices.len() + 1);
        let mut sum = 0.0;
        sums.push(sum);
        self.paid = 0;
        for (price, capacity) in prices.iter().zip(&self.model.rows) {
            let next: f64 = sum + price;
            self.paid += ((next - sum) * *capacity as f64 * ABOVE).ceil() as i64;
            sum = next;
            sums.push(sum);
        }
        self.prices = prices;
        for (v, profiles) in self.profiles.iter().enumerate().filter(|(_, profiles)| !profiles.is_empty()) {
            let now = &mut self.scratch[..self.starts[v + 1] - self.starts[v]];
            now.fill(0);
            for profile in profiles {
                let price = profile.rows.iter().map(|(from, to)| (sums[*to] - sums[*from]) * BELOW).sum::<f64>() * BELOW;
                if price > 0.0 {
                    now.iter_mut().zip(&profile.bytes).for_each(|(now, bytes)| *now += (price * *bytes as f64) as i64);
                }
            }
            let options = self.starts[v]..self.starts[v + 1];
            for ((cost, priced), now) in self.costs[options.clone()].iter_mut().zip(&mut self.priced[options]).zip(now) {
                *cost += *now - *priced;
                *priced = *now;
            }
        }
    }

    /// The model with costs as they were moved: the same problem, with this bound before any message.
    pub fn moved(&self) -> Model {
        let mut model = Model::clone(&self.model);
        for (v, var) in model.vars.iter_mut().enumerate() {
            let costs = self.costs[self.options(v)].iter().zip(&self.priced[self.options(v)]);
            var.costs = costs.map(|(cost, priced)| cost - priced).collect();
        }
        for ends in &self.after {
            for end in ends {
                let columns = self.width(end.other);
                let link = &mut model.links[end.link];
                for (row, of_row) in link.costs.chunks_exact_mut(columns).zip(&self.moved[end.mine..]) {
                    for (cost, of_column) in row.iter_mut().zip(&self.moved[end.theirs..]) {
                        if !is_never(*cost) {
                            *cost -= of_row + of_column;
                        }
                    }
                }
            }
        }
        model
    }

    /// By how much the bound rises with each option of each variable, at least.
    pub fn dearer(&mut self) -> (i64, Vec<i64>) {
        let value = self.value();
        let mut dearer = self.costs.clone();
        for v in 0..self.model.vars.len() {
            let options = self.options(v);
            let least = *self.costs[options.clone()].iter().min().expect("a variable has options");
            dearer[options.clone()].iter_mut().for_each(|cost| *cost -= least);
            for end in self.before[v].iter().chain(&self.after[v]) {
                let others = self.width(end.other);
                let out = &mut self.scratch[..options.len()];
                Self::least(&self.tables, &self.moved, *end, others, out);
                out.iter_mut().zip(&self.moved[end.mine..]).for_each(|(least, moved)| *least -= moved);
                let least = *out.iter().min().expect("a variable has options");
                dearer[options.clone()].iter_mut().zip(out).for_each(|(dearer, cost)| *dearer += *cost - least);
            }
        }
        (value, dearer)
    }

    /// Options chosen one after the other: what a variable costs now, with what its links cost to those chosen before it
    /// and the least that they cost to those after it.
    pub fn rounded(&mut self) -> Vec<usize> {
        let n = self.model.vars.len();
        let mut choice = vec![0; n];
        for v in 0..n {
            let options = self.options(v);
            let mut costs = self.costs[options.clone()].to_vec();
            for end in &self.before[v] {
                let chosen = choice[end.other];
                let row = &self.model.links[end.link].costs[chosen * costs.len()..];
                costs.iter_mut().zip(row).zip(&self.moved[end.mine..]).for_each(|((cost, x), moved)| *cost += x - moved);
            }
            for end in &self.after[v] {
                let others = self.width(end.other);
                let out = &mut self.scratch[..options.len()];
                Self::least(&self.tables, &self.moved, *end, others, out);
                costs.iter_mut().zip(out).zip(&self.moved[end.mine..]).for_each(|((cost, x), moved)| *cost += *x - moved);
            }
            choice[v] = (0..costs.len()).min_by_key(|option| costs[*option]).expect("a variable has options");
        }
        choice
    }
}

/// What all memory may cost together, in grains.
const MOST: f64 = (1u64 << 55) as f64;

/// Products of doubles are wrong by less than this, upwards and downwards.
const ABOVE: f64 = 1.0 + 1e-14;
const BELOW: f64 = 1.0 - 1e-12;

/// The most that each row holds or has.
fn most(model: &Model) -> Vec<f64> {
    let mut change = vec![0i64; model.rows.len() + 1];
    for hold in model.vars.iter().flat_map(|var| &var.holds) {
        let most = *hold.bytes.iter().max().expect("a variable has options");
        change[hold.from] += most;
        change[hold.to] -= most;
    }
    let mut live = 0;
    let of_row = |(change, capacity): (&i64, &i64)| {
        live += change;
        live.max(*capacity) as f64
    };
    change.iter().zip(&model.rows).map(of_row).collect()
}

/// Holds by what they keep.
fn profiles(holds: &[Hold]) -> Vec<Profile> {
    let mut by_bytes: BTreeMap<&[i64], Vec<(usize, usize)>> = BTreeMap::new();
    for hold in holds {
        by_bytes.entry(&hold.bytes).or_default().push((hold.from, hold.to));
    }
    by_bytes.into_iter().map(|(bytes, rows)| Profile { bytes: bytes.to_vec(), rows }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout_problem::small;
    use crate::layout_solver::dice::Dice;
    use crate::layout_solver::model::NEVER;
    use crate::layout_solver::slack::fits;

    /// Every choice of options of a small model.
    fn choices(model: &Model) -> Vec<Vec<usize>> {
        model.vars.iter().fold(vec![Vec::new()], |choices, var| {
            let longer = |choice: Vec<usize>| (0..var.costs.len()).map(move |option| [choice.clone(), vec![option]].concat());
            choices.into_iter().flat_map(longer).collect()
        })
    }

    #[test]
    fn bounds_hold_and_moves_change_no_cost() {
        let mut dice = Dice::new(7);
        let mut tight = 0;
        for seed in 0..3_000 {
            let Some(model) = Model::new(&small(seed)).and_then(crate::layout_solver::reduce::fit) else { continue };
            if model.vars.is_empty() {
                continue;
            }
            let model = Arc::new(model);
            let mut dual = Dual::new(&model, PACES[seed as usize % PACES.len()], vec![0.0; model.rows.len()]);
            let mut target = 1 << 40;
            let all: Vec<(i64, Vec<usize>)> = choices(&model).into_iter().map(|choice| (model.cost(&choice), choice)).collect();
            let allowed: Vec<&(i64, Vec<usize>)> = all.iter().filter(|(cost, choice)| *cost < NEVER && fits(&model, choice)).collect();
            let best = allowed.iter().map(|(cost, _)| *cost).min().unwrap_or(NEVER);
            for _ in 0..1 + dice.below(60) {
                dual.iterate(target);
                target = best.min(1 << 40);
            }
            assert!(best == NEVER || dual.bound() <= best, "seed {seed}");
            tight += usize::from(best < NEVER && best - dual.bound() < model.grain());
            let (value, dearer) = dual.dearer();
            for (cost, choice) in allowed {
                for (v, option) in choice.iter().enumerate() {
                    assert!(value + dearer[dual.options(v).start + option] <= *cost, "seed {seed}");
                }
            }
            let moved = dual.moved();
            for (cost, choice) in &all {
                assert_eq!(moved.cost(choice), *cost, "seed {seed}");
            }
        }
        assert!(tight > 500, "{tight}");
    }
}
