//! The problem as the search works on it: variables that each stand for several nodes, merged edges, rows of memory.
//!
//! Costs are `f64` with forbidden pairs at infinity. A variable's option fixes a strategy of every node that it stands
//! for. A **row** is one limit at one stretch of time; a hold is a range of rows in which an option keeps bytes.

use std::collections::BTreeMap;

use crate::layout_problem::{FORBIDDEN, Problem};

/// Bytes that an option keeps in a range of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    /// First row.
    pub from: usize,
    /// One past the last row.
    pub to: usize,
    /// Bytes by option.
    pub bytes: Vec<u64>,
}

/// A choice to be made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Var {
    /// The nodes it stands for.
    pub nodes: Vec<u32>,
    /// For each option the strategy of each of these nodes.
    pub strategies: Vec<Vec<u32>>,
    /// Cost of each option.
    pub costs: Vec<f64>,
    /// Memory.
    pub holds: Vec<Hold>,
}

/// What pairs of options cost: row-major, `a`'s option first.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// First variable; less than `b`.
    pub a: usize,
    /// Second variable.
    pub b: usize,
    /// Costs, infinite where forbidden.
    pub costs: Vec<f64>,
}

/// Variables, links between them, rows of memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// The variables.
    pub vars: Vec<Var>,
    /// At most one for each pair of variables, sorted by pair.
    pub links: Vec<Link>,
    /// Bytes that the options of each row may keep together.
    pub rows: Vec<i64>,
    /// What each row was called at first: reductions drop rows.
    pub row_ids: Vec<usize>,
    /// Cost of what is decided already.
    pub constant: f64,
    /// Strategies that are decided already, by node.
    pub decided: BTreeMap<u32, u32>,
}

impl Model {
    /// One variable a node, parallel edges added up, forbidden strategies gone. `None` if a node has none left.
    pub fn new(problem: &Problem) -> Option<Self> {
        let starts = row_starts(problem);
        let mut model = Model { rows: capacities(problem, &starts), ..Model::default() };
        model.row_ids = (0..model.rows.len()).collect();
        let mut kept: Vec<Vec<usize>> = Vec::with_capacity(problem.nodes());
        for node in 0..problem.nodes() {
            let costs = problem.cost(node);
            let alive: Vec<usize> = (0..costs.len()).filter(|s| costs[*s] < FORBIDDEN).collect();
            if alive.is_empty() {
                return None;
            }
            let holds = problem.spans(node).iter().enumerate().map(|(k, span)| {
                let (first, times) = &starts[span.limit as usize];
                let row = |time: u64| first + times.partition_point(|start| *start < time);
                let bytes = problem.bytes(node, k);
                Hold { from: row(span.start), to: row(span.end), bytes: alive.iter().map(|s| bytes[*s]).collect() }
            });
            model.vars.push(Var {
                nodes: vec![node as u32],
                strategies: alive.iter().map(|s| vec![*s as u32]).collect(),
                costs: alive.iter().map(|s| costs[*s] as f64).collect(),
                holds: holds.collect(),
            });
            kept.push(alive);
        }
        let links = problem.edges().iter().map(|edge| {
            let (a, b) = (edge.a as usize, edge.b as usize);
            let (table, columns) = (problem.table(edge.table), problem.strategies(b));
            let at = |s: usize, t: usize| match table[s * columns + t] {
                FORBIDDEN => f64::INFINITY,
                cost => cost as f64,
            };
            let costs = kept[a].iter().flat_map(|s| kept[b].iter().map(move |t| at(*s, *t)));
            (a, b, costs.collect::<Vec<f64>>())
        });
        model.links = merged(links, &model.vars);
        Some(model)
    }

    /// The links of each variable.
    pub fn around(&self) -> Vec<Vec<usize>> {
        let mut around = vec![Vec::new(); self.vars.len()];
        for (id, link) in self.links.iter().enumerate() {
            around[link.a].push(id);
            around[link.b].push(id);
        }
        around
    }

    /// The cost of a choice of options, what is decided included.
    pub fn cost(&self, choice: &[usize]) -> f64 {
        let vars: f64 = self.vars.iter().zip(choice).map(|(var, option)| var.costs[*option]).sum();
        let links: f64 = self.links.iter().map(|link| link.at(choice[link.a], choice[link.b], self.vars[link.b].costs.len())).sum();
        self.constant + vars + links
    }

    /// The strategy of every node of the problem.
    pub fn strategies(&self, choice: &[usize], nodes: usize) -> Vec<u32> {
        let mut out = vec![0; nodes];
        for (node, strategy) in &self.decided {
            out[*node as usize] = *strategy;
        }
        for (var, option) in self.vars.iter().zip(choice) {
            for (node, strategy) in var.nodes.iter().zip(&var.strategies[*option]) {
                out[*node as usize] = *strategy;
            }
        }
        out
    }
}

impl Link {
    /// The cost of a pair of options, the second variable having `columns`.
    pub fn at(&self, a: usize, b: usize, columns: usize) -> f64 {
        self.costs[a * columns + b]
    }
}

/// One link a pair, the smaller variable first, in order.
pub fn merged(links: impl Iterator<Item = (usize, usize, Vec<f64>)>, vars: &[Var]) -> Vec<Link> {
    let mut by_pair: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for (a, b, costs) in links {
        let (rows, columns) = (vars[a].costs.len(), vars[b].costs.len());
        let costs = if a < b { costs } else { (0..columns * rows).map(|at| costs[at % rows * columns + at / rows]).collect() };
        match by_pair.get_mut(&(a.min(b), a.max(b))) {
            Some(sum) => sum.iter_mut().zip(&costs).for_each(|(sum, cost)| *sum += cost),
            None => drop(by_pair.insert((a.min(b), a.max(b)), costs)),
        }
    }
    by_pair.into_iter().map(|((a, b), costs)| Link { a, b, costs }).collect()
}

/// For each limit the number of its first row and the time at which each of its rows starts.
fn row_starts(problem: &Problem) -> Vec<(usize, Vec<u64>)> {
    let mut times: Vec<Vec<u64>> = vec![Vec::new(); problem.limits.len()];
    for node in 0..problem.nodes() {
        for span in problem.spans(node) {
            times[span.limit as usize].extend([span.start, span.end]);
        }
    }
    let mut first = 0;
    times
        .into_iter()
        .map(|mut times| {
            times.sort_unstable();
            times.dedup();
            let start = first;
            first += times.len();
            (start, times)
        })
        .collect()
}

fn capacities(problem: &Problem, starts: &[(usize, Vec<u64>)]) -> Vec<i64> {
    let of_limit = |(limit, (_, times)): (&u64, &(usize, Vec<u64>))| vec![i64::try_from(*limit).unwrap_or(i64::MAX / 2); times.len()];
    problem.limits.iter().zip(starts).flat_map(of_limit).collect()
}
