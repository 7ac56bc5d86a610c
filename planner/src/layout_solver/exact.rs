//! Exact search: depth first, with the bound of the dual's costs.
//!
//! Variables are chosen one after the other. With costs moved as the dual has moved them, a partial choice costs at least
//! what is chosen, the least of each other variable beside it, and the least of each link between others, less the price
//! of all memory. A branch is left where that reaches the best answer so far, or where memory is overfull already.

use super::dual::Dual;
use super::model::Model;
use super::slack::Slack;

/// What a search came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Everything was looked at: the best choice below the given cost, if there is one, with its cost.
    Done(Option<(f64, Vec<usize>)>),
    /// It was too much.
    Stopped,
}

struct Exact<'a> {
    model: &'a Model,
    order: Vec<usize>,
    /// For each variable its links to variables later in the order, as (link, other).
    later: Vec<Vec<(usize, usize)>>,
    costs: Vec<Vec<f64>>,
    links: Vec<Vec<f64>>,
    /// The least of the links from each position on.
    links_after: Vec<f64>,
    slack: Slack,
    best: f64,
    choice: Vec<usize>,
    found: Option<Vec<usize>>,
    left: u64,
    margin: f64,
    stops: &'a dyn Fn() -> bool,
}

/// Looks for the best choice that costs less than `best`, whole costs taken for granted, looking at most at `nodes` variables and until `stops` says so.
pub fn search(model: &Model, dual: &Dual<'_>, best: f64, nodes: u64, stops: &dyn Fn() -> bool) -> Outcome {
    let n = model.vars.len();
    let around = model.around();
    // each next the one with most links to those before it
    let mut order: Vec<usize> = Vec::with_capacity(n);
    let mut linked = vec![0usize; n];
    let mut placed = vec![usize::MAX; n];
    for position in 0..n {
        let free = (0..n).filter(|v| placed[*v] == usize::MAX);
        let next = free.max_by_key(|v| (linked[*v], std::cmp::Reverse(model.vars[*v].costs.len()), std::cmp::Reverse(*v)));
        let v = next.expect("one is left");
        placed[v] = position;
        order.push(v);
        around[v].iter().for_each(|id| linked[model.links[*id].a + model.links[*id].b - v] += 1);
    }
    let links: Vec<Vec<f64>> = (0..model.links.len()).map(|id| dual.link_costs(id)).collect();
    let mut later = vec![Vec::new(); n];
    let mut links_after = vec![0.0; n + 1];
    for (id, link) in model.links.iter().enumerate() {
        let (first, second) = if placed[link.a] < placed[link.b] { (link.a, link.b) } else { (link.b, link.a) };
        later[first].push((id, second));
        links_after[placed[first]] += links[id].iter().copied().fold(f64::INFINITY, f64::min);
    }
    for position in (0..n).rev() {
        links_after[position] += links_after[position + 1];
    }
    let constant = model.constant - dual.prices.iter().zip(&model.rows).map(|(price, row)| price * *row as f64).sum::<f64>();
    let mut exact = Exact {
        model,
        order,
        later,
        costs: dual.unary.clone(),
        links,
        links_after,
        slack: Slack::new(&model.rows),
        best,
        choice: vec![0; n],
        found: None,
        left: nodes,
        margin: dual.error(),
        stops,
    };
    if exact.branch(0, constant) { Outcome::Done(exact.found.map(|choice| (exact.best, choice))) } else { Outcome::Stopped }
}

impl Exact<'_> {
    /// Goes through all choices from a position of the order on; false if it was stopped.
    fn branch(&mut self, position: usize, spent: f64) -> bool {
        if position == self.order.len() {
            let cost = self.model.cost(&self.choice);
            if cost < self.best {
                self.best = cost;
                self.found = Some(self.choice.clone());
            }
            return true;
        }
        let least: f64 = self.order[position..].iter().map(|v| self.costs[*v].iter().copied().fold(f64::INFINITY, f64::min)).sum();
        let v = self.order[position];
        let of_v = self.costs[v].iter().copied().fold(f64::INFINITY, f64::min);
        let rest = spent + least - of_v + self.links_after[position];
        let mut options: Vec<usize> = (0..self.costs[v].len()).collect();
        options.sort_by(|a, b| self.costs[v][*a].total_cmp(&self.costs[v][*b]));
        for option in options {
            let cost = self.costs[v][option];
            // whole costs: an answer that is better is better by 1
            if rest + cost - self.margin > self.best - 1.0 {
                break;
            }
            // a branch looks at all variables that are left
            let looks = (self.order.len() - position) as u64;
            if self.left < looks || self.left.is_multiple_of(256) && (self.stops)() {
                return false;
            }
            self.left -= looks;
            self.choice[v] = option;
            self.model.vars[v].holds.iter().for_each(|hold| self.slack.take(hold.from, hold.to, hold.bytes[option] as i64));
            let mut done = true;
            if self.slack.least() >= 0 {
                let before: Vec<(usize, Vec<f64>)> = self.later[v].iter().map(|(_, other)| (*other, self.costs[*other].clone())).collect();
                for (id, other) in self.later[v].clone() {
                    let link = &self.model.links[id];
                    let columns = self.model.vars[link.b].costs.len();
                    let costs = &self.links[id];
                    let at = |t: usize| if link.a == v { costs[option * columns + t] } else { costs[t * columns + option] };
                    self.costs[other].iter_mut().enumerate().for_each(|(t, cost)| *cost += at(t));
                }
                done = self.branch(position + 1, spent + cost);
                for (other, costs) in before.into_iter().rev() {
                    self.costs[other] = costs;
                }
            }
            self.model.vars[v].holds.iter().for_each(|hold| self.slack.take(hold.from, hold.to, -(hold.bytes[option] as i64)));
            if !done {
                return false;
            }
        }
        true
    }
}
