//! Choosing one strategy per node to minimise node and edge costs: exact elimination, and a local search where that
//! would be too wide. Knows nothing of tensors.
//!
//! Elimination (Bertelè and Brioschi, 1972; also known as bucket elimination): a node is removed by minimising over
//! its strategies for every choice of its neighbours, which leaves a table over the neighbours. Nodes go in the order
//! of the smallest table they leave. On a chain of blocks the tables stay small.

use std::collections::{BTreeMap, BTreeSet};

/// A problem.
#[derive(Clone, Debug, Default)]
pub struct Problem {
    /// For each node the cost of each strategy; infinite where forbidden.
    pub nodes: Vec<Vec<f64>>,
    /// Costs of pairs; several for one pair add up.
    pub edges: Vec<Edge>,
}

/// What a pair of choices costs.
#[derive(Clone, Debug)]
pub struct Edge {
    /// First node.
    pub a: usize,
    /// Second node.
    pub b: usize,
    /// `costs[sa * strategies(b) + sb]`.
    pub costs: Vec<f64>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The strategy of each node.
    pub choice: Vec<usize>,
    /// Its cost.
    pub cost: f64,
    /// Whether no other choice is cheaper.
    pub optimal: bool,
}

/// The most entries that a table of the elimination may have.
const WIDEST: usize = 1 << 23;

/// A table over some nodes, row-major in their order.
struct Table {
    nodes: Vec<usize>,
    values: Vec<f64>,
}

impl Problem {
    /// The cost of a choice.
    pub fn cost(&self, choice: &[usize]) -> f64 {
        let nodes: f64 = self.nodes.iter().zip(choice).map(|(costs, s)| costs[*s]).sum();
        nodes + self.edges.iter().map(|edge| edge.costs[choice[edge.a] * self.nodes[edge.b].len() + choice[edge.b]]).sum::<f64>()
    }

    /// Solves; `None` if every choice is forbidden.
    pub fn solve(&self) -> Option<Answer> {
        if let Some(choice) = self.eliminate() {
            let cost = self.cost(&choice);
            return cost.is_finite().then_some(Answer { choice, cost, optimal: true });
        }
        let choice = self.descend();
        let cost = self.cost(&choice);
        cost.is_finite().then_some(Answer { choice, cost, optimal: false })
    }

    /// The optimum, or `None` if a table would be too wide.
    fn eliminate(&self) -> Option<Vec<usize>> {
        let n = self.nodes.len();
        let sizes: Vec<usize> = self.nodes.iter().map(Vec::len).collect();
        let mut tables: BTreeMap<usize, Table> = BTreeMap::new();
        let mut of_node: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); n];
        let mut next_table = 0;
        let mut add = |table: Table, tables: &mut BTreeMap<usize, Table>, of_node: &mut Vec<BTreeSet<usize>>| {
            table.nodes.iter().for_each(|node| {
                of_node[*node].insert(next_table);
            });
            tables.insert(next_table, table);
            next_table += 1;
        };
        for (node, costs) in self.nodes.iter().enumerate() {
            add(Table { nodes: vec![node], values: costs.clone() }, &mut tables, &mut of_node);
        }
        for edge in &self.edges {
            if edge.a == edge.b {
                let values = (0..sizes[edge.a]).map(|s| edge.costs[s * sizes[edge.a] + s]).collect();
                add(Table { nodes: vec![edge.a], values }, &mut tables, &mut of_node);
            } else {
                add(Table { nodes: vec![edge.a, edge.b], values: edge.costs.clone() }, &mut tables, &mut of_node);
            }
        }
        let neighbours = |node: usize, tables: &BTreeMap<usize, Table>, of_node: &[BTreeSet<usize>]| -> BTreeSet<usize> {
            of_node[node].iter().flat_map(|id| tables[id].nodes.iter().copied()).filter(|other| *other != node).collect()
        };
        let width = |node: usize, tables: &BTreeMap<usize, Table>, of_node: &[BTreeSet<usize>]| -> usize {
            neighbours(node, tables, of_node).iter().fold(1usize, |width, other| width.saturating_mul(sizes[*other]))
        };
        let mut widths: Vec<usize> = (0..n).map(|node| width(node, &tables, &of_node)).collect();
        let mut left: BTreeSet<usize> = (0..n).collect();
        let mut trail: Vec<(usize, Vec<usize>, Vec<u32>)> = Vec::new();
        while let Some(&node) = left.iter().min_by_key(|node| (widths[**node].saturating_mul(sizes[**node]), **node)) {
            if widths[node].saturating_mul(sizes[node]) > WIDEST {
                return None;
            }
            left.remove(&node);
            let around: Vec<usize> = neighbours(node, &tables, &of_node).into_iter().collect();
            let ids: Vec<usize> = of_node[node].iter().copied().collect();
            let taken: Vec<Table> = ids.iter().map(|id| tables.remove(id).expect("a listed table is there")).collect();
            for table in taken.iter().zip(&ids) {
                table.0.nodes.iter().for_each(|other| {
                    of_node[*other].remove(table.1);
                });
            }
            let (values, best) = fold(node, &around, &taken, &sizes);
            if !around.is_empty() {
                add(Table { nodes: around.clone(), values }, &mut tables, &mut of_node);
            }
            for other in &around {
                widths[*other] = width(*other, &tables, &of_node);
            }
            trail.push((node, around, best));
        }
        let mut choice = vec![0; n];
        for (node, around, best) in trail.into_iter().rev() {
            let index = around.iter().fold(0, |index, other| index * sizes[*other] + choice[*other]);
            choice[node] = best[index] as usize;
        }
        Some(choice)
    }

    /// Single-node and pair moves from a greedy start until nothing improves.
    fn descend(&self) -> Vec<usize> {
        let n = self.nodes.len();
        let mut around: Vec<Vec<usize>> = vec![Vec::new(); n];
        for (id, edge) in self.edges.iter().enumerate() {
            around[edge.a].push(id);
            around[edge.b].push(id);
        }
        let cost_of = |node: usize, s: usize, choice: &[usize], placed: &dyn Fn(usize) -> bool| {
            let edges = around[node].iter().map(|id| &self.edges[*id]).filter(|edge| placed(edge.a + edge.b - node));
            self.nodes[node][s]
                + edges
                    .map(|edge| {
                        let (sa, sb) = if edge.a == node { (s, choice[edge.b]) } else { (choice[edge.a], s) };
                        edge.costs[sa * self.nodes[edge.b].len() + sb]
                    })
                    .sum::<f64>()
        };
        let mut choice = vec![0; n];
        for node in 0..n {
            let best = (0..self.nodes[node].len())
                .min_by(|a, b| cost_of(node, *a, &choice, &|other| other < node).total_cmp(&cost_of(node, *b, &choice, &|other| other < node)));
            choice[node] = best.unwrap_or(0);
        }
        for _ in 0..200 {
            let mut improved = false;
            for node in 0..n {
                let here = cost_of(node, choice[node], &choice, &|_| true);
                for s in 0..self.nodes[node].len() {
                    if cost_of(node, s, &choice, &|_| true) < here - 1e-15 {
                        choice[node] = s;
                        improved = true;
                        break;
                    }
                }
            }
            for edge in &self.edges {
                let (a, b) = (edge.a, edge.b);
                let both = |choice: &[usize]| {
                    cost_of(a, choice[a], choice, &|_| true) + cost_of(b, choice[b], choice, &|other| other != a)
                };
                let here = both(&choice);
                let before = (choice[a], choice[b]);
                let mut best = (here - 1e-15, before);
                for sa in 0..self.nodes[a].len() {
                    for sb in 0..self.nodes[b].len() {
                        (choice[a], choice[b]) = (sa, sb);
                        let cost = both(&choice);
                        if cost < best.0 {
                            best = (cost, (sa, sb));
                        }
                    }
                }
                (choice[a], choice[b]) = best.1;
                improved |= best.1 != before;
            }
            if !improved {
                break;
            }
        }
        choice
    }
}

/// Minimises over `node`: for each choice of the nodes `around`, row-major, the least total and who attains it.
fn fold(node: usize, around: &[usize], tables: &[Table], sizes: &[usize]) -> (Vec<f64>, Vec<u32>) {
    let total: usize = around.iter().map(|other| sizes[*other]).product();
    // strides of each table along the nodes around and along the node itself
    let stride = |table: &Table, wanted: usize| {
        let mut stride = 1;
        let mut found = 0;
        for other in table.nodes.iter().rev() {
            if *other == wanted {
                found = stride;
            }
            stride *= sizes[*other];
        }
        found
    };
    let strides: Vec<(Vec<usize>, usize)> =
        tables.iter().map(|table| (around.iter().map(|other| stride(table, *other)).collect(), stride(table, node))).collect();
    let mut values = Vec::with_capacity(total);
    let mut best = Vec::with_capacity(total);
    let mut at = vec![0usize; around.len()];
    let mut offsets = vec![0usize; tables.len()];
    for _ in 0..total {
        let mut least = (f64::INFINITY, 0u32);
        for s in 0..sizes[node] {
            let cost: f64 = tables.iter().zip(&strides).zip(&offsets).map(|((table, (_, own)), offset)| table.values[offset + s * own]).sum();
            if cost < least.0 {
                least = (cost, s as u32);
            }
        }
        values.push(least.0);
        best.push(least.1);
        for position in (0..around.len()).rev() {
            at[position] += 1;
            for (offset, (strides, _)) in offsets.iter_mut().zip(&strides) {
                *offset += strides[position];
            }
            if at[position] < sizes[around[position]] {
                break;
            }
            for (offset, (strides, _)) in offsets.iter_mut().zip(&strides) {
                *offset -= strides[position] * at[position];
            }
            at[position] = 0;
        }
    }
    (values, best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: &mut u64) -> f64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 40) as f64
    }

    #[test]
    fn elimination_meets_brute_force() {
        for case in 0..300u64 {
            let mut seed = case + 1;
            let n = 1 + (noise(&mut seed) as usize) % 6;
            let nodes: Vec<Vec<f64>> =
                (0..n).map(|_| (0..1 + (noise(&mut seed) as usize) % 4).map(|_| noise(&mut seed)).collect()).collect();
            let mut edges = Vec::new();
            for a in 0..n {
                for b in 0..n {
                    if a != b && noise(&mut seed) as usize % 2 == 0 {
                        let costs = (0..nodes[a].len() * nodes[b].len())
                            .map(|_| if noise(&mut seed) as usize % 7 == 0 { f64::INFINITY } else { noise(&mut seed) })
                            .collect();
                        edges.push(Edge { a, b, costs });
                    }
                }
            }
            let problem = Problem { nodes, edges };
            let mut best = f64::INFINITY;
            let mut choice = vec![0; n];
            'all: loop {
                best = best.min(problem.cost(&choice));
                for node in (0..n).rev() {
                    choice[node] += 1;
                    if choice[node] < problem.nodes[node].len() {
                        continue 'all;
                    }
                    choice[node] = 0;
                }
                break;
            }
            match problem.solve() {
                Some(answer) => assert!((answer.cost - best).abs() <= 1e-9 * best.abs(), "case {case}: {} is not {best}", answer.cost),
                None => assert!(best.is_infinite(), "case {case}: an answer of {best} was missed"),
            }
        }
    }
}
