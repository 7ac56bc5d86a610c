//! Small problems that exercise the reductions, and their comparison with trying all choices.

use partita_ir::random::{DrawContext, salt_of, stream, uniform};

use crate::layout_problem::{self, FORBIDDEN, Problem, ProblemBuilder, Span, brute_force};
use crate::layout_solver::model::{Model, is_never};

/// Applies a reduction to the model of a problem and checks that what is left has an optimum of the whole. Whether the
/// reduction changed anything.
pub fn check(problem: &Problem, reduction: impl Fn(&mut Model) -> Option<()>) -> bool {
    let name = &problem.name;
    let expected = brute_force(problem);
    let Some(before) = Model::new(problem) else {
        assert_eq!(expected, None, "{name}");
        return false;
    };
    let mut model = before.clone();
    if reduction(&mut model).is_none() {
        assert_eq!(expected, None, "{name}: there is an answer");
        return true;
    }
    is_well_formed(&model);
    match (best(&model), expected) {
        (None, None) => {}
        (Some((cost, choice)), Some((total, _))) => {
            let named = model.named(&choice);
            assert_eq!(problem.total(&named), Some(total), "{name}: {named:?}");
            assert!(problem.is_feasible(&named), "{name}: {named:?}");
            assert_eq!(i128::from(cost), total << model.shift, "{name}");
        }
        (found, expected) => panic!("{name}: {found:?} instead of {expected:?}"),
    }
    model != before
}

/// The cheapest choice of a model by trying all.
pub fn best(model: &Model) -> Option<(i64, Vec<usize>)> {
    let mut choice = vec![0; model.vars.len()];
    let mut best: Option<(i64, Vec<usize>)> = None;
    loop {
        let cost = model.cost(&choice);
        if !is_never(cost) && best.as_ref().is_none_or(|(least, _)| cost < *least) && fits(model, &choice) {
            best = Some((cost, choice.clone()));
        }
        let v = (0..choice.len()).rev().find(|v| choice[*v] + 1 < model.vars[*v].costs.len());
        let Some(v) = v else { return best };
        choice[v] += 1;
        choice[v + 1..].fill(0);
    }
}

/// Whether a choice overfills no row.
pub fn fits(model: &Model, choice: &[usize]) -> bool {
    let mut room = model.rows.clone();
    for (var, option) in model.vars.iter().zip(choice) {
        for hold in &var.holds {
            room[hold.from..hold.to].iter_mut().for_each(|room| *room -= hold.bytes[*option]);
        }
    }
    room.iter().all(|room| *room >= 0)
}

/// Panics if lengths or orders are not as the model says.
pub fn is_well_formed(model: &Model) {
    assert_eq!(model.rows.len(), model.row_ids.len());
    assert!(model.row_ids.is_sorted());
    for var in &model.vars {
        assert!(!var.options.is_empty() && var.options.len() == var.costs.len(), "{var:?}");
        assert!(var.id < model.names, "{var:?}");
        for hold in &var.holds {
            assert!(hold.from < hold.to && hold.to <= model.rows.len() && hold.bytes.len() == var.costs.len(), "{var:?}");
        }
    }
    assert!(model.links.is_sorted_by(|one, two| (one.a, one.b) < (two.a, two.b)), "{:?}", model.links);
    for link in &model.links {
        assert!(link.a < link.b, "{link:?}");
        assert_eq!(link.costs.len(), model.vars[link.a].costs.len() * model.vars[link.b].costs.len(), "{link:?}");
    }
}

/// A problem of any kind with few choices.
pub fn small(seed: u64) -> Problem {
    let choices = |problem: &Problem| (0..problem.nodes()).map(|node| problem.strategies(node)).product::<usize>();
    let problems = (0..).map(|retry| layout_problem::small(seed + retry * 1_000_003));
    problems.into_iter().find(|problem| choices(problem) <= 300).expect("many small problems have few choices")
}

/// Nodes whose memory overlaps, and limits that half of them together just keep.
pub fn tight(seed: u64) -> Problem {
    let mut draft = Draft::new("tight", seed);
    for _ in 0..3 + draft.below(3) {
        let spans = 1 + draft.below(3);
        draft.node(spans, 0);
    }
    for _ in 0..draft.below(4) {
        let (a, b) = draft.pair();
        draft.edge(a, b, 20);
    }
    let percent = 40 + draft.below(60);
    draft.finish(percent)
}

/// A tree with a little memory.
pub fn loose_tree(seed: u64) -> Problem {
    let mut draft = Draft::new("tree", seed);
    for node in 0..4 + draft.below(3) {
        let spans = draft.below(4).saturating_sub(2);
        draft.node(spans, 0);
        if node > 0 && draft.below(10) > 0 {
            let other = draft.below(node);
            draft.edge(node, other, 20);
        }
    }
    let percent = 60 + draft.below(60);
    draft.finish(percent)
}

/// A series-parallel graph without memory.
pub fn series_parallel(seed: u64) -> Problem {
    let mut draft = Draft::new("series-parallel", seed);
    draft.node(0, 0);
    draft.node(0, 0);
    let mut edges = vec![(0, 1)];
    for node in 2..4 + draft.below(3) {
        draft.node(0, 0);
        let edge = draft.below(edges.len() as u64) as usize;
        let (a, b) = edges[edge];
        match draft.below(5) {
            0 => edges.push((node, a)),
            1 => {
                edges.swap_remove(edge);
                edges.extend([(a, node), (node, b)]);
            }
            2 => edges.extend([(a, node), (b, node), (b, a)]),
            _ => edges.extend([(a, node), (node, b)]),
        }
    }
    edges.iter().for_each(|(a, b)| draft.edge(*a, *b, 20));
    draft.finish(100)
}

/// Nodes that are functions of others, by edges in both directions, with memory.
pub fn functions(seed: u64) -> Problem {
    let mut draft = Draft::new("functions", seed);
    for node in 0..4 + draft.below(2) {
        let spans = draft.below(3).saturating_sub(1);
        draft.node(spans, 0);
        if node > 0 && draft.below(3) > 0 {
            let other = draft.below(node);
            draft.function(other, node);
        }
    }
    for _ in 0..draft.below(5) {
        let (a, b) = draft.pair();
        draft.edge(a, b, 20);
    }
    let percent = 60 + draft.below(60);
    draft.finish(percent)
}

/// Groups of equal nodes with equal edges to some others and to other groups, and some that are almost equal.
pub fn twins(seed: u64) -> Problem {
    let mut draft = Draft::new("twins", seed);
    let others = 1 + draft.below(2);
    for _ in 0..others {
        let spans = draft.below(2);
        draft.node(spans, 0);
    }
    let mut groups: Vec<Vec<u64>> = (0..others).map(|node| vec![node]).collect();
    for _ in 0..1 + draft.below(2) {
        let size = 2 + draft.below(2);
        let options = 2 + draft.below(2) as usize;
        let costs: Vec<i64> = (0..options).map(|_| draft.cost(10)).collect();
        let group: Vec<u64> = (0..size).map(|_| draft.same(&costs)).collect();
        for other in groups.clone() {
            if draft.below(5) > 0 {
                draft.edges(&group, &other);
            }
        }
        groups.push(group);
    }
    draft.finish(100)
}

/// Several parts that share nothing, or memory at one time only.
pub fn islands(seed: u64) -> Problem {
    let mut draft = Draft::new("islands", seed);
    let mut nodes = 0;
    for part in 0..2 + draft.below(2) {
        let size = 1 + draft.below(2);
        for node in nodes..nodes + size {
            let spans = draft.below(3);
            draft.node(spans, 5 * part);
            if node > nodes && draft.below(3) > 0 {
                draft.edge(nodes, node, 10);
            }
        }
        nodes += size;
    }
    let percent = 60 + draft.below(60);
    draft.finish(percent)
}

/// A problem of two limits that is being drawn.
struct Draft {
    stream: u64,
    drawn: u64,
    builder: ProblemBuilder,
    sizes: Vec<usize>,
    lowest: i64,
}

impl Draft {
    fn new(kind: &str, seed: u64) -> Self {
        let stream = stream(DrawContext { seed, ..DrawContext::default() }, salt_of(kind));
        let builder = ProblemBuilder::new(format!("{kind}-{seed}"), vec![0; 2]);
        let mut draft = Self { stream, drawn: 0, builder, sizes: Vec::new(), lowest: 0 };
        draft.lowest = -3 * draft.below(2) as i64;
        draft
    }

    fn below(&mut self, end: u64) -> u64 {
        self.drawn += 1;
        (uniform(self.stream, self.drawn) * end as f64) as u64
    }

    /// Of few values, so that ties are common.
    fn cost(&mut self, forbidden_percent: u64) -> i64 {
        if self.below(100) < forbidden_percent { FORBIDDEN } else { self.lowest + self.below(8) as i64 }
    }

    fn pair(&mut self) -> (u64, u64) {
        let nodes = self.sizes.len() as u64;
        let a = self.below(nodes);
        (a, (a + 1 + self.below(nodes - 1)) % nodes)
    }

    /// A node of two or three strategies with its memory between `start` and five steps later, mostly of the first limit.
    fn node(&mut self, spans: u64, start: u64) {
        let options = 2 + self.below(2) as usize;
        let costs: Vec<i64> = (0..options).map(|_| self.cost(5)).collect();
        let mut span = || {
            let from = self.below(5);
            Span { limit: self.below(5) as u32 / 4, start: start + from, end: start + from + 1 + self.below(5 - from) }
        };
        let spans: Vec<Span> = (0..spans).map(|_| span()).collect();
        let bytes: Vec<u64> = (0..spans.len() * options).map(|_| self.below(6)).collect();
        self.builder.add_node(&costs, &spans, &bytes).unwrap();
        self.sizes.push(options);
    }

    /// A node of these costs without memory.
    fn same(&mut self, costs: &[i64]) -> u64 {
        self.sizes.push(costs.len());
        self.builder.add_node(costs, &[], &[]).unwrap().into()
    }

    fn edge(&mut self, a: u64, b: u64, forbidden_percent: u64) {
        let entries = self.sizes[a as usize] * self.sizes[b as usize];
        let table: Vec<i64> = (0..entries).map(|_| self.cost(forbidden_percent)).collect();
        self.builder.add_edge(a as u32, b as u32, &table).unwrap();
    }

    /// An edge that makes `b` a function of `a`, in either direction, mostly one to one.
    fn function(&mut self, a: u64, b: u64) {
        let (rows, columns) = (self.sizes[a as usize], self.sizes[b as usize]);
        let mut table = vec![FORBIDDEN; rows * columns];
        let (one_to_one, first) = (self.below(4) > 0, self.below(3) as usize);
        for s in 0..rows {
            let t = if one_to_one { (first + s) % columns } else { self.below(columns as u64) as usize };
            table[s * columns + t] = self.cost(0);
        }
        self.oriented(a, b, &table);
    }

    /// Equal edges between all of two groups, each in either direction; one in a while differs.
    fn edges(&mut self, one: &[u64], two: &[u64]) {
        let entries = self.sizes[one[0] as usize] * self.sizes[two[0] as usize];
        let table: Vec<i64> = (0..entries).map(|_| self.cost(15)).collect();
        for (a, b) in one.iter().flat_map(|a| two.iter().map(move |b| (*a, *b))) {
            let mut table = table.clone();
            if self.below(15) == 0 {
                table[0] = self.cost(15);
            }
            self.oriented(a, b, &table);
        }
    }

    fn oriented(&mut self, a: u64, b: u64, table: &[i64]) {
        if self.below(2) == 0 {
            self.builder.add_edge(a as u32, b as u32, table).unwrap();
        } else {
            let (rows, columns) = (self.sizes[a as usize], self.sizes[b as usize]);
            let turned: Vec<i64> = (0..rows * columns).map(|at| table[at % rows * columns + at / rows]).collect();
            self.builder.add_edge(b as u32, a as u32, &turned).unwrap();
        }
    }

    /// The problem, with limits of so many percent of what some choice keeps.
    fn finish(mut self, percent: u64) -> Problem {
        let choice: Vec<u32> = self.sizes.clone().iter().map(|options| self.below(*options as u64) as u32).collect();
        let mut problem = self.builder.finish().unwrap();
        problem.limits = problem.peaks(&choice).iter().map(|peak| peak * percent / 100).collect();
        problem
    }
}
