//! An answer that is being made better: repair of memory, single exchanges, exact choices along random trees.
//!
//! A tree move takes variables of which no two are linked but along a tree, everything else held, and chooses all of
//! their options at once by dynamic programming; memory counts at the prices of the dual. It is kept if the true cost
//! falls and memory fits.

use super::dice::Dice;
use super::model::{Model, NEVER, is_never, plus};
use super::slack::Slack;

/// An answer under improvement.
pub struct Incumbent<'a> {
    pub(super) model: &'a Model,
    pub(super) links_of: Vec<Vec<usize>>,
    /// The option of each variable.
    pub choice: Vec<usize>,
    pub(super) slack: Slack,
    /// Price of each row, summed up from the first.
    pub(super) price_to: Vec<f64>,
    /// Whether a variable is in the tree that is being chosen, by the number of the tree.
    pub(super) in_tree: Vec<u64>,
    pub(super) trees: u64,
    /// Operations so far: table entries looked at.
    pub work: u64,
}

impl<'a> Incumbent<'a> {
    /// From a choice, with prices of memory.
    pub fn new(model: &'a Model, choice: Vec<usize>, prices: &[f64]) -> Self {
        let mut slack = Slack::new(&model.rows);
        for (var, option) in model.vars.iter().zip(&choice) {
            var.holds.iter().for_each(|hold| slack.take(hold.from, hold.to, hold.bytes[*option]));
        }
        let mut incumbent = Self {
            model,
            links_of: model.around(),
            choice,
            slack,
            price_to: Vec::new(),
            in_tree: vec![0; model.vars.len()],
            trees: 0,
            work: 0,
        };
        incumbent.reprice(prices);
        incumbent
    }

    /// Other prices of memory.
    pub fn reprice(&mut self, prices: &[f64]) {
        let mut total = 0.0;
        self.price_to = vec![0.0];
        for price in prices {
            total += price;
            self.price_to.push(total);
        }
    }

    /// Whether no row is overfull and nothing forbidden is chosen.
    pub fn is_allowed(&self) -> bool {
        self.slack.least() >= 0 && !is_never(self.model.cost(&self.choice))
    }

    /// Takes on another choice.
    pub fn become_like(&mut self, choice: &[usize]) {
        (0..choice.len()).for_each(|v| self.set(v, choice[v]));
    }

    pub(super) fn set(&mut self, v: usize, option: usize) {
        let before = self.choice[v];
        if before == option {
            return;
        }
        for hold in &self.model.vars[v].holds {
            self.slack.take(hold.from, hold.to, hold.bytes[option] - hold.bytes[before]);
        }
        self.choice[v] = option;
    }

    /// What each option of a variable costs beside the choices of the neighbours that `counts`.
    fn costs_beside(&mut self, v: usize, counts: &dyn Fn(&Self, usize) -> bool) -> Vec<i64> {
        let mut costs = self.model.vars[v].costs.clone();
        for id in &self.links_of[v] {
            let link = &self.model.links[*id];
            let other = link.a + link.b - v;
            if !counts(self, other) {
                continue;
            }
            let columns = self.model.vars[link.b].costs.len();
            let chosen = self.choice[other];
            if link.a == v {
                costs.iter_mut().enumerate().for_each(|(s, cost)| *cost = plus(*cost, link.costs[s * columns + chosen]));
            } else {
                costs.iter_mut().zip(&link.costs[chosen * columns..]).for_each(|(cost, x)| *cost = plus(*cost, *x));
            }
            self.work += costs.len() as u64;
        }
        costs
    }

    /// The price of the memory of an option.
    fn price(&self, v: usize, option: usize) -> i64 {
        let holds = self.model.vars[v].holds.iter();
        holds.map(|hold| ((self.price_to[hold.to] - self.price_to[hold.from]) * hold.bytes[option] as f64) as i64).sum()
    }

    /// Takes memory back where rows are overfull, at the least cost for each byte. Gives whether it got there.
    pub fn repair(&mut self, most: usize, stops: &dyn Fn() -> bool) -> bool {
        for _ in 0..most {
            if self.slack.least() >= 0 {
                return true;
            }
            if stops() {
                return false;
            }
            let row = self.slack.tightest();
            let over = -self.slack.least();
            let mut best: Option<(f64, usize, usize)> = None;
            for v in 0..self.model.vars.len() {
                let now = self.choice[v];
                let held = |option: usize| -> i64 {
                    let holds = self.model.vars[v].holds.iter().filter(|hold| hold.from <= row && row < hold.to);
                    holds.map(|hold| hold.bytes[option]).sum()
                };
                let before = held(now);
                if before == 0 {
                    continue;
                }
                let costs = self.costs_beside(v, &|_, _| true);
                for (option, cost) in costs.iter().enumerate() {
                    let freed = (before - held(option)).min(over);
                    if freed > 0 && !is_never(*cost) {
                        let dear = (cost - costs[now]).max(0) as f64 / freed as f64;
                        if best.is_none_or(|(known, ..)| dear < known) {
                            best = Some((dear, v, option));
                        }
                    }
                }
            }
            let Some((_, v, option)) = best else { return false };
            self.set(v, option);
        }
        self.slack.least() >= 0
    }

    /// Exchanges one variable's option after the other for a cheaper one that fits, until none is left.
    pub fn descend(&mut self, stops: &dyn Fn() -> bool) {
        let mut todo: Vec<usize> = (0..self.model.vars.len()).rev().collect();
        let mut waits = vec![true; self.model.vars.len()];
        while let Some(v) = todo.pop().filter(|_| !stops()) {
            waits[v] = false;
            let now = self.choice[v];
            let costs = self.costs_beside(v, &|_, _| true);
            let mut order: Vec<usize> = (0..costs.len()).filter(|s| costs[*s] < costs[now]).collect();
            order.sort_by(|a, b| costs[*a].cmp(&costs[*b]));
            for option in order {
                self.set(v, option);
                if self.slack.least() >= 0 {
                    for id in &self.links_of[v] {
                        let other = self.model.links[*id].a + self.model.links[*id].b - v;
                        if !waits[other] {
                            waits[other] = true;
                            todo.push(other);
                        }
                    }
                    break;
                }
                self.set(v, now);
            }
        }
    }

    /// One tree move of at most `size` variables. Gives how much the cost fell.
    pub fn tree_move(&mut self, size: usize, dice: &mut Dice) -> i64 {
        self.trees += 1;
        let tree = self.trees;
        // (variable, position of its parent, the link to it), parents first
        let mut members: Vec<(usize, usize, usize)> = vec![(dice.below(self.model.vars.len()), usize::MAX, usize::MAX)];
        self.in_tree[members[0].0] = tree;
        let mut frontier: Vec<(usize, usize)> = vec![(0, 0)];
        while members.len() < size && !frontier.is_empty() {
            let pick = dice.below(frontier.len());
            let (position, next) = frontier[pick];
            let v = members[position].0;
            let Some(id) = self.links_of[v].get(next).copied() else {
                frontier.swap_remove(pick);
                continue;
            };
            frontier[pick].1 += 1;
            let other = self.model.links[id].a + self.model.links[id].b - v;
            if self.in_tree[other] == tree {
                continue;
            }
            let inside = self.links_of[other].iter().filter(|link| {
                let far = self.model.links[**link].a + self.model.links[**link].b - other;
                self.in_tree[far] == tree
            });
            self.work += self.links_of[other].len() as u64;
            if inside.take(2).count() == 1 {
                self.in_tree[other] = tree;
                frontier.push((members.len(), dice.below(self.links_of[other].len())));
                members.push((other, position, id));
            }
        }
        self.choose(&members, tree)
    }

    /// The best options of a tree, kept if they are better and fit.
    fn choose(&mut self, members: &[(usize, usize, usize)], tree: u64) -> i64 {
        let mut costs: Vec<Vec<i64>> = Vec::with_capacity(members.len());
        let mut before = 0;
        for (v, _, id) in members {
            let true_costs = self.costs_beside(*v, &|incumbent, other| incumbent.in_tree[other] != tree);
            before += true_costs[self.choice[*v]];
            if *id != usize::MAX {
                let link = &self.model.links[*id];
                before += link.at(self.choice[link.a], self.choice[link.b], self.model.vars[link.b].costs.len());
            }
            costs.push(true_costs);
        }
        let true_costs = costs.clone();
        for ((v, ..), costs) in members.iter().zip(&mut costs) {
            if !self.model.vars[*v].holds.is_empty() {
                costs.iter_mut().enumerate().for_each(|(option, cost)| *cost = plus(*cost, self.price(*v, option)));
            }
        }
        // up: what each option of a parent costs with the best of the subtree below
        let mut choice_of: Vec<Vec<usize>> = vec![Vec::new(); members.len()];
        for position in (1..members.len()).rev() {
            let (v, parent, id) = members[position];
            let link = &self.model.links[id];
            let columns = self.model.vars[link.b].costs.len();
            let own = std::mem::take(&mut costs[position]);
            let options = self.model.vars[members[parent].0].costs.len();
            self.work += (options * own.len()) as u64;
            let mut picks = Vec::with_capacity(options);
            for (s, of_parent) in costs[parent].iter_mut().enumerate() {
                let (mut least, mut pick) = (NEVER, 0);
                for (t, cost) in own.iter().enumerate() {
                    let total = plus(*cost, if link.a == v { link.costs[t * columns + s] } else { link.costs[s * columns + t] });
                    if total < least {
                        (least, pick) = (total, t);
                    }
                }
                *of_parent = plus(*of_parent, least);
                picks.push(pick);
            }
            choice_of[position] = picks;
        }
        let mut chosen = vec![0; members.len()];
        chosen[0] = (0..costs[0].len()).min_by(|a, b| costs[0][*a].cmp(&costs[0][*b])).expect("a variable has options");
        let mut after = true_costs[0][chosen[0]];
        for position in 1..members.len() {
            let (v, parent, id) = members[position];
            chosen[position] = choice_of[position][chosen[parent]];
            let link = &self.model.links[id];
            let (s, t) = if link.a == v { (chosen[position], chosen[parent]) } else { (chosen[parent], chosen[position]) };
            after = plus(after, true_costs[position][chosen[position]]);
            after = plus(after, link.at(s, t, self.model.vars[link.b].costs.len()));
        }
        let gain = before - after;
        if gain < 0 || is_never(after) {
            return 0;
        }
        let old: Vec<usize> = members.iter().map(|(v, ..)| self.choice[*v]).collect();
        members.iter().zip(&chosen).for_each(|((v, ..), option)| self.set(*v, *option));
        if self.slack.least() < 0 {
            members.iter().zip(&old).for_each(|((v, ..), option)| self.set(*v, *option));
            return 0;
        }
        gain
    }
}
