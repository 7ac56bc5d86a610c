//! The data of a layout problem, flat, and what a choice costs and holds.
//!
//! Every [`Problem`] obeys these rules; [`ProblemBuilder`] and the reader refuse what breaks them:
//!
//! - A node has at least one strategy.
//! - A cost lies above -10^18 and is at most [`FORBIDDEN`], so that several add up in an `i64`; whole totals need `i128`.
//! - A span starts before it ends and names a limit that exists. (A span of no length holds nothing and is not kept.)
//! - The largest bytes of all spans of one limit add up to less than 2^63, so that no use of memory overflows.
//! - An edge joins two different nodes, and its table has an entry for every pair of their strategies.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use thiserror::Error;

/// Values of this and more are forbidden.
pub const FORBIDDEN: i64 = 1_000_000_000_000_000_000;

/// A half-open interval of time during which a node holds memory of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Index of the limit.
    pub limit: u32,
    /// First time point.
    pub start: u64,
    /// First time point after it.
    pub end: u64,
}

/// What a pair of strategies costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// First node: its strategy is the row of the table.
    pub a: u32,
    /// Second node: its strategy is the column.
    pub b: u32,
    /// Id of the table. Edges have the same id if and only if their tables have equal shapes and entries.
    pub table: u32,
}

/// A layout problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What the problem is called.
    pub name: String,
    /// The bytes that each limit allows at every time point.
    pub limits: Vec<u64>,
    /// The strategies of node v are `first_cost[v]..first_cost[v + 1]` in `costs`.
    first_cost: Vec<usize>,
    costs: Vec<i64>,
    /// The spans of node v are `first_span[v]..first_span[v + 1]` in `spans`.
    first_span: Vec<usize>,
    spans: Vec<Span>,
    /// The bytes of the spans of node v, one strategy after the other, begin at `first_bytes[v]` in `bytes`.
    first_bytes: Vec<usize>,
    bytes: Vec<u64>,
    edges: Vec<Edge>,
    tables: Vec<Table>,
    contents: Contents,
}

/// Entries in a shape. Tables of different shapes share equal entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Table {
    content: u32,
    rows: u32,
}

/// The distinct lists of entries: list i is `first[i]..first[i + 1]` in `entries`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contents {
    first: Vec<usize>,
    entries: Vec<i64>,
}

/// Why something is no part of a problem.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProblemError {
    /// Nothing could be chosen for the node.
    #[error("the node has no strategies; it needs at least one, of cost 0 if it costs nothing")]
    NoStrategies,
    /// A total with such a cost could overflow.
    #[error("entry {entry} is {cost}; a cost must lie above -{FORBIDDEN}")]
    CostTooLow {
        /// Index in the node's costs or in the edge's table.
        entry: usize,
        /// The cost.
        cost: i64,
    },
    /// A span of a limit that is not there.
    #[error("span {span} is of limit {limit}, and there are {limits} limits, counted from 0")]
    NoSuchLimit {
        /// Index of the span in the node.
        span: usize,
        /// The limit it names.
        limit: u64,
        /// How many there are.
        limits: usize,
    },
    /// An interval the wrong way round.
    #[error("span {span} starts at {start} and ends before, at {end}; equal times stand for a span that holds nothing")]
    EndsBeforeStart {
        /// Index of the span in the node.
        span: usize,
        /// Its start.
        start: u64,
        /// Its end.
        end: u64,
    },
    /// Not one number of bytes per strategy and span.
    #[error("{found} numbers of bytes for {spans} spans of {strategies} strategies; there must be {}", spans * strategies)]
    WrongBytes {
        /// How many there are.
        found: usize,
        /// Spans of the node.
        spans: usize,
        /// Strategies of the node.
        strategies: usize,
    },
    /// Uses of memory that could overflow.
    #[error("the largest bytes of all spans of limit {limit} add up to {total}, which is not below 2^63")]
    TooManyBytes {
        /// The limit.
        limit: usize,
        /// The sum.
        total: u128,
    },
    /// An end that is no node.
    #[error("the edge joins node {node}, and there are {nodes} nodes, counted from 0")]
    NoSuchNode {
        /// Which end, 0 or 1.
        end: usize,
        /// The node it names.
        node: u64,
        /// How many there are.
        nodes: usize,
    },
    /// Both ends are one node.
    #[error("the edge joins node {node} to itself; add the diagonal of its table to the node's costs instead")]
    EdgeToItself {
        /// The node.
        node: u64,
    },
    /// Not one entry per pair of strategies.
    #[error(
        "the table has {found} entries; nodes of {rows} and {columns} strategies need {rows} x {columns} = {}",
        *rows as u128 * *columns as u128
    )]
    TableSize {
        /// How many there are.
        found: usize,
        /// Strategies of the first node.
        rows: usize,
        /// Strategies of the second node.
        columns: usize,
    },
}

impl Problem {
    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.first_cost.len() - 1
    }

    /// How many strategies a node has.
    pub fn strategies(&self, node: usize) -> usize {
        self.first_cost[node + 1] - self.first_cost[node]
    }

    /// The cost of each strategy of a node.
    pub fn cost(&self, node: usize) -> &[i64] {
        &self.costs[self.first_cost[node]..self.first_cost[node + 1]]
    }

    /// When a node holds memory.
    pub fn spans(&self, node: usize) -> &[Span] {
        &self.spans[self.first_span[node]..self.first_span[node + 1]]
    }

    /// The bytes that each strategy of a node holds during its span of index `span`.
    pub fn bytes(&self, node: usize, span: usize) -> &[u64] {
        assert!(span < self.spans(node).len(), "node {node} has no span {span}");
        let strategies = self.strategies(node);
        &self.bytes[self.first_bytes[node] + span * strategies..][..strategies]
    }

    /// All edges, in the order in which they were added.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// How many different tables there are; their ids are below.
    pub fn tables(&self) -> usize {
        self.tables.len()
    }

    /// The entries of a table, row after row: `s_a * |S_b| + s_b`.
    pub fn table(&self, id: u32) -> &[i64] {
        self.contents.list(self.tables[id as usize].content)
    }

    /// Rows and columns of a table.
    pub fn shape(&self, id: u32) -> (usize, usize) {
        let rows = self.tables[id as usize].rows as usize;
        (rows, self.table(id).len() / rows)
    }

    /// What an edge costs if its ends have these strategies.
    pub fn edge_cost(&self, edge: Edge, strategy_a: u32, strategy_b: u32) -> i64 {
        self.table(edge.table)[strategy_a as usize * self.strategies(edge.b as usize) + strategy_b as usize]
    }

    /// What a choice costs, one strategy per node; `None` if any part of it is forbidden.
    ///
    /// # Panics
    ///
    /// If `choice` is not one existing strategy per node.
    pub fn total(&self, choice: &[u32]) -> Option<i128> {
        self.check_choice(choice);
        let allowed = |cost: i64| (cost < FORBIDDEN).then_some(i128::from(cost));
        let nodes: Option<i128> = choice.iter().enumerate().map(|(node, strategy)| allowed(self.cost(node)[*strategy as usize])).sum();
        let of_edge = |edge: &Edge| allowed(self.edge_cost(*edge, choice[edge.a as usize], choice[edge.b as usize]));
        let edges: Option<i128> = self.edges.iter().map(of_edge).sum();
        Some(nodes? + edges?)
    }

    /// The largest use of each limit over time.
    ///
    /// # Panics
    ///
    /// If `choice` is not one existing strategy per node.
    pub fn peaks(&self, choice: &[u32]) -> Vec<u64> {
        self.check_choice(choice);
        let mut changes = Vec::with_capacity(2 * self.spans.len());
        for (node, strategy) in choice.iter().enumerate() {
            for (k, span) in self.spans(node).iter().enumerate() {
                let bytes = i64::try_from(self.bytes(node, k)[*strategy as usize]).expect("all bytes together are below 2^63");
                changes.push((span.limit, span.start, bytes));
                changes.push((span.limit, span.end, -bytes));
            }
        }
        // what ends at a time point is gone before what starts there comes: at equal times the negative changes are first
        changes.sort_unstable();
        let mut peaks = vec![0; self.limits.len()];
        let mut used = 0_i64;
        // every limit is back at 0 when the next one begins
        for (limit, _, change) in changes {
            used += change;
            let peak: &mut u64 = &mut peaks[limit as usize];
            *peak = (*peak).max(u64::try_from(used).expect("whatever ends has started"));
        }
        peaks
    }

    /// Whether no part of a choice is forbidden and no limit exceeded.
    ///
    /// # Panics
    ///
    /// If `choice` is not one existing strategy per node.
    pub fn is_feasible(&self, choice: &[u32]) -> bool {
        self.total(choice).is_some() && self.peaks(choice).iter().zip(&self.limits).all(|(peak, limit)| peak <= limit)
    }

    fn check_choice(&self, choice: &[u32]) {
        assert_eq!(choice.len(), self.nodes(), "a choice has one strategy per node");
        for (node, strategy) in choice.iter().enumerate() {
            assert!((*strategy as usize) < self.strategies(node), "node {node} has no strategy {strategy}");
        }
    }
}

impl Contents {
    fn list(&self, id: u32) -> &[i64] {
        &self.entries[self.first[id as usize]..self.first[id as usize + 1]]
    }
}

/// Builds a [`Problem`] piece by piece and checks every piece.
#[derive(Clone, Debug)]
pub struct ProblemBuilder {
    problem: Problem,
    /// Most bytes of all spans so far, by limit.
    most_bytes: Vec<u128>,
    /// The latest list of entries of each hash.
    by_hash: HashMap<u64, u32>,
    /// For each list the one before it of the same hash.
    same_hash: Vec<Option<u32>>,
    by_shape: HashMap<Table, u32>,
}

impl ProblemBuilder {
    /// A problem without nodes.
    pub fn new(name: impl Into<String>, limits: Vec<u64>) -> Self {
        Self {
            most_bytes: vec![0; limits.len()],
            problem: Problem {
                name: name.into(),
                limits,
                first_cost: vec![0],
                costs: Vec::new(),
                first_span: vec![0],
                spans: Vec::new(),
                first_bytes: vec![0],
                bytes: Vec::new(),
                edges: Vec::new(),
                tables: Vec::new(),
                contents: Contents { first: vec![0], entries: Vec::new() },
            },
            by_hash: HashMap::new(),
            same_hash: Vec::new(),
            by_shape: HashMap::new(),
        }
    }

    /// Adds a node and returns its index. `bytes` has one number per strategy for the first span, then for the second,
    /// and so on. After an error nothing has been added.
    pub fn add_node(&mut self, costs: &[i64], spans: &[Span], bytes: &[u64]) -> Result<u32, ProblemError> {
        let node = u32::try_from(self.problem.nodes()).expect("fewer than 2^32 nodes");
        check_costs(costs)?;
        self.add_spans(costs.len(), spans, bytes)?;
        self.problem.costs.extend(costs.iter().map(|cost| (*cost).min(FORBIDDEN)));
        self.problem.first_cost.push(self.problem.costs.len());
        Ok(node)
    }

    /// Adds an edge, which costs `table[s_a * |S_b| + s_b]`. After an error nothing has been added.
    pub fn add_edge(&mut self, a: u32, b: u32, table: &[i64]) -> Result<(), ProblemError> {
        self.check_edge([a.into(), b.into()], table.len())?;
        check_not_too_low(table)?;
        for entry in table {
            self.push_entry((*entry).min(FORBIDDEN));
        }
        let content = self.close_content();
        self.join([a.into(), b.into()], content)
    }

    /// The problem.
    pub fn finish(self) -> Result<Problem, ProblemError> {
        let over = self.most_bytes.iter().position(|total| *total >= 1 << 63);
        match over {
            Some(limit) => Err(ProblemError::TooManyBytes { limit, total: self.most_bytes[limit] }),
            None => Ok(self.problem),
        }
    }

    /// Sets the name and the limits, before there are spans.
    pub(super) fn set_head(&mut self, name: String, limits: Vec<u64>) {
        self.most_bytes = vec![0; limits.len()];
        self.problem.name = name;
        self.problem.limits = limits;
    }

    /// Sets the costs of all nodes at once, without a copy. Node v has the costs `first[v]..first[v + 1]`, which have
    /// passed [`check_costs`].
    pub(super) fn set_costs(&mut self, first: Vec<usize>, costs: Vec<i64>) {
        self.problem.first_cost = first;
        self.problem.costs = costs;
    }

    /// Gives the next node without spans its spans.
    pub(super) fn add_spans(&mut self, strategies: usize, spans: &[Span], bytes: &[u64]) -> Result<(), ProblemError> {
        if bytes.len() != spans.len() * strategies {
            return Err(ProblemError::WrongBytes { found: bytes.len(), spans: spans.len(), strategies });
        }
        let limits = self.problem.limits.len();
        for (span, &Span { limit, start, end }) in spans.iter().enumerate() {
            if limit as usize >= limits {
                return Err(ProblemError::NoSuchLimit { span, limit: limit.into(), limits });
            }
            if start > end {
                return Err(ProblemError::EndsBeforeStart { span, start, end });
            }
        }
        for (span, bytes) in spans.iter().zip(bytes.chunks_exact(strategies)) {
            if span.start < span.end {
                self.problem.spans.push(*span);
                self.problem.bytes.extend(bytes);
                self.most_bytes[span.limit as usize] += u128::from(bytes.iter().copied().max().unwrap_or(0));
            }
        }
        self.problem.first_span.push(self.problem.spans.len());
        self.problem.first_bytes.push(self.problem.bytes.len());
        Ok(())
    }

    /// Appends to the list of entries that [`close_content`](Self::close_content) ends.
    #[inline]
    pub(super) fn push_entry(&mut self, entry: i64) {
        self.problem.contents.entries.push(entry);
    }

    /// Ends the list of the entries pushed since the last one, and returns the id of all equal lists.
    pub(super) fn close_content(&mut self) -> u32 {
        let contents = &mut self.problem.contents;
        let start = contents.first[contents.first.len() - 1];
        let open = &contents.entries[start..];
        let mut hasher = DefaultHasher::new();
        open.hash(&mut hasher);
        let hash = hasher.finish();
        let mut same = self.by_hash.get(&hash).copied();
        while let Some(id) = same {
            if contents.list(id) == open {
                contents.entries.truncate(start);
                return id;
            }
            same = self.same_hash[id as usize];
        }
        let id = u32::try_from(contents.first.len() - 1).expect("fewer than 2^32 tables");
        contents.first.push(contents.entries.len());
        self.same_hash.push(self.by_hash.insert(hash, id));
        id
    }

    /// Adds an edge whose table has the entries of `content`. The nodes must have their costs.
    pub(super) fn join(&mut self, ends: [u64; 2], content: u32) -> Result<(), ProblemError> {
        let [a, b] = self.check_edge(ends, self.problem.contents.list(content).len())?;
        let rows = u32::try_from(self.problem.strategies(a as usize)).expect("a table of 2^32 rows or more is never built");
        let shaped = Table { content, rows };
        let tables = &mut self.problem.tables;
        let table = *self.by_shape.entry(shaped).or_insert_with(|| {
            tables.push(shaped);
            u32::try_from(tables.len() - 1).expect("fewer than 2^32 tables")
        });
        self.problem.edges.push(Edge { a, b, table });
        Ok(())
    }

    fn check_edge(&self, ends: [u64; 2], found: usize) -> Result<[u32; 2], ProblemError> {
        let nodes = self.problem.nodes();
        if let Some(end) = ends.iter().position(|node| *node >= nodes as u64) {
            return Err(ProblemError::NoSuchNode { end, node: ends[end], nodes });
        }
        if ends[0] == ends[1] {
            return Err(ProblemError::EdgeToItself { node: ends[0] });
        }
        let [rows, columns] = ends.map(|node| self.problem.strategies(node as usize));
        if found as u128 != rows as u128 * columns as u128 {
            return Err(ProblemError::TableSize { found, rows, columns });
        }
        Ok(ends.map(|node| u32::try_from(node).expect("fewer than 2^32 nodes")))
    }
}

/// Whether these may be the costs of a node.
pub(super) fn check_costs(costs: &[i64]) -> Result<(), ProblemError> {
    if costs.is_empty() {
        return Err(ProblemError::NoStrategies);
    }
    check_not_too_low(costs)
}

fn check_not_too_low(costs: &[i64]) -> Result<(), ProblemError> {
    match costs.iter().position(|cost| *cost <= -FORBIDDEN) {
        Some(entry) => Err(ProblemError::CostTooLow { entry, cost: costs[entry] }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(limit: u32, start: u64, end: u64) -> Span {
        Span { limit, start, end }
    }

    /// Two limits; node 1 holds memory twice.
    fn builder() -> ProblemBuilder {
        let mut builder = ProblemBuilder::new("p", vec![10, 100]);
        builder.add_node(&[1, i64::MAX], &[span(0, 0, 2)], &[4, 5]).unwrap();
        builder.add_node(&[-3, 0, 2], &[span(1, 1, 3), span(0, 2, 5), span(0, 7, 7)], &[50, 60, 70, 6, 7, 8, 1, 1, 1]).unwrap();
        builder.add_node(&[0], &[], &[]).unwrap();
        builder.add_edge(0, 1, &[0, 1, FORBIDDEN + 1, 3, 4, 5]).unwrap();
        builder
    }

    #[test]
    fn accessors_give_what_was_added() {
        let problem = builder().finish().unwrap();
        assert_eq!((problem.nodes(), problem.strategies(1), problem.cost(0)), (3, 3, &[1, FORBIDDEN][..]));
        assert_eq!(problem.spans(1), [span(1, 1, 3), span(0, 2, 5)], "a span of no length is not kept");
        assert_eq!((problem.bytes(1, 0), problem.bytes(1, 1), problem.bytes(0, 0)), (&[50, 60, 70][..], &[6, 7, 8][..], &[4, 5][..]));
        assert_eq!(problem.table(problem.edges()[0].table), [0, 1, FORBIDDEN, 3, 4, 5]);
        assert_eq!(problem.shape(0), (2, 3));
    }

    #[test]
    fn totals_and_peaks_are_those_of_the_definition() {
        let problem = builder().finish().unwrap();
        assert_eq!(problem.total(&[0, 0, 0]), Some(-2));
        assert_eq!(problem.total(&[0, 1, 0]), Some(2));
        assert_eq!(problem.total(&[0, 2, 0]), None, "a forbidden pair");
        assert_eq!(problem.total(&[1, 0, 0]), None, "a forbidden strategy");
        // node 0 lets go of limit 0 at the time at which node 1 takes it, so they never add up
        assert_eq!(problem.peaks(&[0, 1, 0]), [7, 60]);
        assert!(problem.is_feasible(&[0, 1, 0]));
        let mut tight = problem.clone();
        tight.limits[0] = 6;
        assert!(!tight.is_feasible(&[0, 1, 0]) && tight.is_feasible(&[0, 0, 0]));
    }

    #[test]
    fn totals_do_not_overflow() {
        let mut builder = ProblemBuilder::new("large", vec![]);
        for _ in 0..20 {
            builder.add_node(&[FORBIDDEN - 1], &[], &[]).unwrap();
        }
        let problem = builder.finish().unwrap();
        assert_eq!(problem.total(&[0; 20]), Some(20 * (i128::from(FORBIDDEN) - 1)));
    }

    #[test]
    fn equal_tables_are_one() {
        let mut builder = ProblemBuilder::new("p", vec![]);
        for strategies in [2, 3, 2, 3, 1, 6] {
            builder.add_node(&vec![0; strategies], &[], &[]).unwrap();
        }
        let table = [1, 2, 3, 4, 5, 6];
        for (a, b) in [(0, 1), (2, 3), (3, 2), (4, 5), (0, 3)] {
            builder.add_edge(a, b, &table).unwrap();
        }
        builder.add_edge(0, 1, &[1, 2, 3, 4, 5, 7]).unwrap();
        let problem = builder.finish().unwrap();
        let ids: Vec<u32> = problem.edges().iter().map(|edge| edge.table).collect();
        assert_eq!(ids, [0, 0, 1, 2, 0, 3], "2 x 3, 3 x 2 and 1 x 6 are different tables");
        assert_eq!((0..4).map(|id| problem.shape(id)).collect::<Vec<_>>(), [(2, 3), (3, 2), (1, 6), (2, 3)]);
        assert_eq!(problem.contents.entries.len(), 12, "and yet share their entries");
    }

    #[test]
    fn every_broken_rule_is_an_error_and_adds_nothing() {
        let mut builder = builder();
        let before = builder.clone().finish().unwrap();
        assert_eq!(builder.add_node(&[], &[], &[]), Err(ProblemError::NoStrategies));
        assert_eq!(builder.add_node(&[0, -FORBIDDEN], &[], &[]), Err(ProblemError::CostTooLow { entry: 1, cost: -FORBIDDEN }));
        let no_limit = ProblemError::NoSuchLimit { span: 1, limit: 2, limits: 2 };
        assert_eq!(builder.add_node(&[0], &[span(0, 0, 1), span(2, 0, 1)], &[1, 1]), Err(no_limit));
        let reversed = ProblemError::EndsBeforeStart { span: 0, start: 2, end: 1 };
        assert_eq!(builder.add_node(&[0], &[span(0, 2, 1)], &[1]), Err(reversed));
        let bytes = ProblemError::WrongBytes { found: 3, spans: 2, strategies: 2 };
        assert_eq!(builder.add_node(&[0, 0], &[span(0, 0, 1), span(1, 0, 1)], &[1, 1, 1]), Err(bytes));
        assert_eq!(builder.add_edge(0, 3, &[0]), Err(ProblemError::NoSuchNode { end: 1, node: 3, nodes: 3 }));
        assert_eq!(builder.add_edge(1, 1, &[0; 9]), Err(ProblemError::EdgeToItself { node: 1 }));
        let size = ProblemError::TableSize { found: 5, rows: 2, columns: 3 };
        assert_eq!(size.to_string(), "the table has 5 entries; nodes of 2 and 3 strategies need 2 x 3 = 6");
        assert_eq!(builder.add_edge(0, 1, &[0; 5]), Err(size));
        assert_eq!(builder.add_edge(2, 0, &[0, i64::MIN]), Err(ProblemError::CostTooLow { entry: 1, cost: i64::MIN }));
        assert_eq!(builder.clone().finish().unwrap(), before);
        builder.add_node(&[0], &[span(1, 0, 1)], &[u64::MAX >> 1]).unwrap();
        assert_eq!(builder.finish(), Err(ProblemError::TooManyBytes { limit: 1, total: (1 << 63) + 69 }));
    }
}
