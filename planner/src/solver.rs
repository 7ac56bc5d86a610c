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
        let (reduced, kept) = self.undominated();
        let (choice, optimal) = reduced.eliminate();
        let choice: Vec<usize> = choice.iter().zip(&kept).map(|(s, kept)| kept[*s]).collect();
        let cost = self.cost(&choice);
        cost.is_finite().then_some(Answer { choice, cost, optimal })
    }

    /// The problem without dominated strategies, and which are left of each node. A strategy is dominated by another
    /// that costs no more than it whatever the neighbours choose: replacing the one by the other never makes an answer
    /// worse. Of two that dominate each other the first stays.
    fn undominated(&self) -> (Problem, Vec<Vec<usize>>) {
        let n = self.nodes.len();
        let mut around: Vec<Vec<usize>> = vec![Vec::new(); n];
        for (id, edge) in self.edges.iter().enumerate() {
            around[edge.a].push(id);
            around[edge.b].push(id);
        }
        let mut kept: Vec<Vec<usize>> = self.nodes.iter().map(|costs| (0..costs.len()).collect()).collect();
        let mut todo: BTreeSet<usize> = (0..n).collect();
        while let Some(node) = todo.pop_first() {
            let worst_regret = |better: usize, worse: usize, kept: &[Vec<usize>]| -> f64 {
                let mut regret = self.nodes[node][better] - self.nodes[node][worse];
                if self.nodes[node][worse].is_infinite() {
                    return f64::NEG_INFINITY;
                }
                for edge in around[node].iter().map(|id| &self.edges[*id]) {
                    if edge.a == edge.b {
                        return f64::INFINITY;
                    }
                    let columns = self.nodes[edge.b].len();
                    let at = |s: usize, t: usize| if edge.a == node { edge.costs[s * columns + t] } else { edge.costs[t * columns + s] };
                    let other = edge.a + edge.b - node;
                    let differences = kept[other].iter().map(|t| match (at(better, *t), at(worse, *t)) {
                        (_, worse) if worse.is_infinite() => f64::NEG_INFINITY,
                        (better, worse) => better - worse,
                    });
                    regret += differences.fold(f64::NEG_INFINITY, f64::max);
                    if regret > 0.0 {
                        return regret;
                    }
                }
                regret
            };
            let before = kept[node].len();
            let mut left: Vec<usize> = Vec::new();
            let candidates = kept[node].clone();
            for (position, &s) in candidates.iter().enumerate() {
                // against those that stay, and against those that are still to be looked at
                let dominated = left.iter().chain(&candidates[position + 1..]).any(|other| worst_regret(*other, s, &kept) <= 0.0);
                if !dominated {
                    left.push(s);
                }
            }
            if left.is_empty() {
                left.push(candidates[0]);
            }
            kept[node] = left;
            if kept[node].len() < before {
                todo.extend(around[node].iter().map(|id| self.edges[*id].a + self.edges[*id].b - node));
            }
        }
        let nodes = self.nodes.iter().zip(&kept).map(|(costs, kept)| kept.iter().map(|s| costs[*s]).collect()).collect();
        let edges = self
            .edges
            .iter()
            .map(|edge| {
                let columns = self.nodes[edge.b].len();
                let costs = kept[edge.a].iter().flat_map(|sa| kept[edge.b].iter().map(move |sb| edge.costs[sa * columns + sb]));
                Edge { a: edge.a, b: edge.b, costs: costs.collect() }
            })
            .collect();
        (Problem { nodes, edges }, kept)
    }

    /// Eliminates nodes while their tables stay small; what is left, if anything, is searched. Gives the choice and
    /// whether it is the optimum.
    fn eliminate(&self) -> (Vec<usize>, bool) {
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
            // a node with one strategy leaves the other's costs alone
            let (one_a, one_b) = (sizes[edge.a] == 1, sizes[edge.b] == 1);
            let nodes = match (edge.a == edge.b, one_a, one_b) {
                (true, ..) => vec![edge.a],
                (_, true, _) => vec![edge.b],
                (_, _, true) => vec![edge.a],
                _ => vec![edge.a, edge.b],
            };
            let values =
                if edge.a == edge.b { (0..sizes[edge.a]).map(|s| edge.costs[s * sizes[edge.a] + s]).collect() } else { edge.costs.clone() };
            add(Table { nodes, values }, &mut tables, &mut of_node);
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
                break;
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
        let optimal = left.is_empty();
        if !optimal {
            let core: Vec<usize> = left.into_iter().collect();
            descend(&core, &tables, &of_node, &sizes, &mut choice);
        }
        for (node, around, best) in trail.into_iter().rev() {
            let index = around.iter().fold(0, |index, other| index * sizes[*other] + choice[*other]);
            choice[node] = best[index] as usize;
        }
        (choice, optimal)
    }
}

/// Chooses for the nodes of a core that was too wide: from several starts, moves of one node and of two that share a
/// table, until none improves; the best end counts.
fn descend(core: &[usize], tables: &BTreeMap<usize, Table>, of_node: &[BTreeSet<usize>], sizes: &[usize], choice: &mut [usize]) {
    let value =
        |table: &Table, choice: &[usize]| table.values[table.nodes.iter().fold(0, |index, node| index * sizes[*node] + choice[*node])];
    let around = |nodes: &[usize]| -> Vec<usize> {
        let ids: BTreeSet<usize> = nodes.iter().flat_map(|node| of_node[*node].iter().copied()).collect();
        ids.into_iter().collect()
    };
    let cost = |ids: &[usize], choice: &[usize]| ids.iter().map(|id| value(&tables[id], choice)).sum::<f64>();
    let all = around(core);
    let singles: Vec<Vec<usize>> = core.iter().map(|node| around(&[*node])).collect();
    let mut pairs: Vec<(usize, usize, Vec<usize>)> = Vec::new();
    for (position, a) in core.iter().enumerate() {
        for b in &core[position + 1..] {
            if of_node[*a].intersection(&of_node[*b]).next().is_some() {
                pairs.push((*a, *b, around(&[*a, *b])));
            }
        }
    }
    let mut best = (f64::INFINITY, choice.to_vec());
    let starts = core.iter().map(|node| sizes[*node]).max().unwrap_or(1).min(12);
    for start in 0..starts {
        for node in core {
            choice[*node] = start % sizes[*node];
        }
        loop {
            let mut improved = false;
            for (node, ids) in core.iter().zip(&singles) {
                let mut here = (cost(ids, choice), choice[*node]);
                for s in 0..sizes[*node] {
                    choice[*node] = s;
                    let next = cost(ids, choice);
                    if next < here.0 - 1e-15 {
                        here = (next, s);
                        improved = true;
                    }
                }
                choice[*node] = here.1;
            }
            if improved {
                continue;
            }
            for (a, b, ids) in &pairs {
                let mut here = (cost(ids, choice), choice[*a], choice[*b]);
                for sa in 0..sizes[*a] {
                    for sb in 0..sizes[*b] {
                        (choice[*a], choice[*b]) = (sa, sb);
                        let next = cost(ids, choice);
                        if next < here.0 - 1e-15 {
                            here = (next, sa, sb);
                            improved = true;
                        }
                    }
                }
                (choice[*a], choice[*b]) = (here.1, here.2);
            }
            if !improved {
                break;
            }
        }
        let end = cost(&all, choice);
        if end < best.0 {
            best = (end, choice.to_vec());
        }
    }
    choice.copy_from_slice(&best.1);
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
            let cost: f64 =
                tables.iter().zip(&strides).zip(&offsets).map(|((table, (_, own)), offset)| table.values[offset + s * own]).sum();
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
                    if a != b && (noise(&mut seed) as usize).is_multiple_of(2) {
                        let costs = (0..nodes[a].len() * nodes[b].len())
                            .map(|_| if (noise(&mut seed) as usize).is_multiple_of(7) { f64::INFINITY } else { noise(&mut seed) })
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
