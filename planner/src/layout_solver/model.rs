//! The problem as the search works on it: variables with options, merged links, rows of memory.
//!
//! Costs are whole numbers of **grains**, 2^-`shift` of the problem's unit, so that sums are exact in `i64` and costs can be
//! shared out finely. With a negative `shift` grains are coarser than units and costs are rounded down: bounds stay bounds.
//!
//! A **row** is one limit at one stretch of time; a hold is a range of rows in which an option keeps bytes. Reductions
//! take variables out; the **trail** says how to find their options again.

use std::collections::BTreeMap;

use crate::layout_problem::{FORBIDDEN, Problem};

/// The cost of what is forbidden: above any sum of others, and far from the end of `i64`.
pub const NEVER: i64 = i64::MAX / 64;

/// Whether a cost is that of something forbidden, whatever was moved from or to it.
pub const fn is_never(cost: i64) -> bool {
    cost >= NEVER / 2
}

/// All finite costs together stay below this.
const LARGEST: i128 = 1 << 54;

/// Grains are no finer than this.
const FINEST: i32 = 20;

/// Bytes that an option keeps in a range of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// First row.
    pub from: usize,
    /// One past the last row.
    pub to: usize,
    /// Bytes by option.
    pub bytes: Vec<i64>,
}

/// A choice to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Var {
    /// Its name for ever; at first the number of a node.
    pub id: usize,
    /// The name of each option that is left; at first the number of a strategy.
    pub options: Vec<u32>,
    /// Cost of each option.
    pub costs: Vec<i64>,
    /// Memory.
    pub holds: Vec<Hold>,
}

/// What pairs of options cost: row-major, `a`'s option first, [`NEVER`] where forbidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// First variable, by its place; less than `b`.
    pub a: usize,
    /// Second variable.
    pub b: usize,
    /// Costs.
    pub costs: Vec<i64>,
}

/// How the option of a variable that was taken out is found, all by names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is this one.
    Decided {
        /// The variable taken out.
        var: usize,
        /// Its option.
        option: u32,
    },
    /// It follows from that of another variable.
    Follows {
        /// The variable taken out.
        var: usize,
        /// The other.
        of: usize,
        /// The option for each option of the other.
        options: Vec<u32>,
    },
    /// It follows from those of two others.
    Between {
        /// The variable taken out.
        var: usize,
        /// The others.
        of: [usize; 2],
        /// How many options the second of them can name.
        columns: usize,
        /// The option for each pair, row-major.
        options: Vec<u32>,
    },
}

/// Variables, links between them, rows of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// The variables.
    pub vars: Vec<Var>,
    /// At most one for each pair of variables, sorted by pair.
    pub links: Vec<Link>,
    /// Bytes that the options of each row may keep together.
    pub rows: Vec<i64>,
    /// The name of each row for ever: reductions drop rows.
    pub row_ids: Vec<usize>,
    /// Cost of what is decided already.
    pub constant: i64,
    /// Grains to a unit, as a power of two.
    pub shift: i32,
    /// What was taken out, in that order.
    pub trail: Vec<Step>,
    /// The next name for a variable.
    pub names: usize,
}

impl Model {
    /// One variable a node, parallel edges added up, forbidden strategies gone. `None` if a node has none left.
    pub fn new(problem: &Problem) -> Option<Self> {
        let starts = row_starts(problem);
        let shift = shift(problem);
        let mut model = Model { rows: capacities(problem, &starts), shift, names: problem.nodes(), ..Model::default() };
        model.row_ids = (0..model.rows.len()).collect();
        for node in 0..problem.nodes() {
            let costs = problem.cost(node);
            let options: Vec<u32> = (0..).zip(costs).filter(|(_, cost)| **cost < FORBIDDEN).map(|(s, _)| s).collect();
            if options.is_empty() {
                return None;
            }
            let holds = problem.spans(node).iter().enumerate().map(|(k, span)| {
                let (first, times) = &starts[span.limit as usize];
                let row = |time: u64| first + times.partition_point(|start| *start < time);
                let bytes = problem.bytes(node, k);
                // all bytes together are below 2^63, or it would be no problem
                Hold { from: row(span.start), to: row(span.end), bytes: options.iter().map(|s| bytes[*s as usize] as i64).collect() }
            });
            let holds = holds.filter(|hold| hold.from < hold.to).collect();
            let costs = options.iter().map(|s| grains(costs[*s as usize], shift)).collect();
            model.vars.push(Var { id: node, options, costs, holds });
        }
        let links = problem.edges().iter().map(|edge| {
            let (a, b) = (edge.a as usize, edge.b as usize);
            let (table, columns) = (problem.table(edge.table), problem.strategies(b));
            let at = |s: &u32, t: &u32| grains(table[*s as usize * columns + *t as usize], shift);
            let options = &model.vars[b].options;
            let costs = model.vars[a].options.iter().flat_map(|s| options.iter().map(move |t| at(s, t)));
            (a, b, costs.collect::<Vec<i64>>())
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

    /// The cost of a choice of options in grains, what is decided included; [`NEVER`] if something forbidden is chosen.
    pub fn cost(&self, choice: &[usize]) -> i64 {
        let vars = self.vars.iter().zip(choice).map(|(var, option)| var.costs[*option]);
        let links = self.links.iter().map(|link| link.at(choice[link.a], choice[link.b], self.vars[link.b].costs.len()));
        let add = |sum: i64, cost: i64| if is_never(cost) || is_never(sum) { NEVER } else { sum + cost };
        vars.chain(links).fold(self.constant, add)
    }

    /// The option of every variable there ever was, by name, from the options of those that are left, by place.
    pub fn named(&self, choice: &[usize]) -> Vec<u32> {
        let mut named = vec![0; self.names];
        self.vars.iter().zip(choice).for_each(|(var, option)| named[var.id] = var.options[*option]);
        self.follow(&mut named);
        named
    }

    /// Fills in the options of the variables taken out, those of the variables that are left being known.
    pub fn follow(&self, named: &mut [u32]) {
        for step in self.trail.iter().rev() {
            match step {
                Step::Decided { var, option } => named[*var] = *option,
                Step::Follows { var, of, options } => named[*var] = options[named[*of] as usize],
                Step::Between { var, of: [a, b], columns, options } => {
                    named[*var] = options[named[*a] as usize * columns + named[*b] as usize];
                }
            }
        }
    }

    /// The least by which two costs differ, in grains.
    pub fn grain(&self) -> i64 {
        1 << self.shift.max(0)
    }

    /// Whether no cost was rounded, so that costs may be compared.
    pub fn is_exact(&self) -> bool {
        self.shift >= 0
    }

    /// Entries of all links, and options.
    pub fn size(&self) -> usize {
        self.links.iter().map(|link| link.costs.len()).sum::<usize>() + self.vars.iter().map(|var| var.costs.len()).sum::<usize>()
    }
}

impl Link {
    /// The cost of a pair of options, the second variable having `columns`.
    pub fn at(&self, a: usize, b: usize, columns: usize) -> i64 {
        self.costs[a * columns + b]
    }
}

/// One link a pair, the smaller variable first, in order.
pub fn merged(links: impl Iterator<Item = (usize, usize, Vec<i64>)>, vars: &[Var]) -> Vec<Link> {
    let mut by_pair: BTreeMap<(usize, usize), Vec<i64>> = BTreeMap::new();
    for (a, b, costs) in links {
        let (rows, columns) = (vars[a].costs.len(), vars[b].costs.len());
        let costs = if a < b { costs } else { (0..columns * rows).map(|at| costs[at % rows * columns + at / rows]).collect() };
        match by_pair.get_mut(&(a.min(b), a.max(b))) {
            Some(sum) => sum.iter_mut().zip(&costs).for_each(|(sum, cost)| *sum = plus(*sum, *cost)),
            None => drop(by_pair.insert((a.min(b), a.max(b)), costs)),
        }
    }
    by_pair.into_iter().map(|((a, b), costs)| Link { a, b, costs }).collect()
}

/// The sum of two costs, forbidden if one of them is.
pub const fn plus(a: i64, b: i64) -> i64 {
    if is_never(a) || is_never(b) { NEVER } else { a + b }
}

const fn grains(cost: i64, shift: i32) -> i64 {
    match cost {
        FORBIDDEN.. => NEVER,
        _ if shift >= 0 => cost << shift,
        _ => cost >> -shift,
    }
}

/// The finest grains for which all costs together stay within bounds.
fn shift(problem: &Problem) -> i32 {
    let largest = |costs: &[i64]| costs.iter().filter(|cost| **cost < FORBIDDEN).map(|cost| i128::from(*cost).abs()).max().unwrap_or(0);
    let of_tables: Vec<i128> = (0..problem.tables()).map(|id| largest(problem.table(id as u32))).collect();
    let nodes: i128 = (0..problem.nodes()).map(|node| largest(problem.cost(node))).sum();
    let all = nodes + problem.edges().iter().map(|edge| of_tables[edge.table as usize]).sum::<i128>();
    let mut shift = FINEST;
    while shift > -80 && (if shift >= 0 { all << shift } else { all >> -shift }) > LARGEST {
        shift -= 1;
    }
    shift
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
    let of_limit = |(limit, (_, times)): (&u64, &(usize, Vec<u64>))| vec![i64::try_from(*limit).unwrap_or(i64::MAX); times.len()];
    problem.limits.iter().zip(starts).flat_map(of_limit).collect()
}
