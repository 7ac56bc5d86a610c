//! The model while variables are taken out one at a time: the links of each variable are at hand, and variables around which
//! something has changed are looked at again.

use std::collections::BTreeSet;

use super::keep::drop_vars;
use super::oriented;
use crate::layout_solver::model::{Link, Model, Step, Var, plus};

/// A model whose links are kept by variable.
pub struct Graph<'a> {
    model: &'a mut Model,
    /// A link that was taken out leaves an empty place.
    links: Vec<Option<Link>>,
    around: Vec<Vec<usize>>,
    gone: Vec<bool>,
    todo: BTreeSet<usize>,
}

impl<'a> Graph<'a> {
    /// Tries a rule on every variable and again wherever it has changed something. The rule says whether it took the variable
    /// out.
    pub fn work(model: &'a mut Model, rule: impl Fn(&mut Graph<'_>, usize) -> bool) {
        let n = model.vars.len();
        let around = model.around();
        let links = std::mem::take(&mut model.links).into_iter().map(Some).collect();
        let mut graph = Graph { model, links, around, gone: vec![false; n], todo: (0..n).collect() };
        while let Some(v) = graph.todo.pop_first() {
            if !graph.gone[v] {
                graph.gone[v] = rule(&mut graph, v);
            }
        }
        let Graph { model, links, gone, .. } = graph;
        model.links = links.into_iter().flatten().collect();
        model.links.sort_unstable_by_key(|link| (link.a, link.b));
        drop_vars(model, &gone);
    }

    /// A variable.
    pub fn var(&self, v: usize) -> &Var {
        &self.model.vars[v]
    }

    /// For each link of a variable the other end.
    pub fn neighbours(&self, v: usize) -> Vec<usize> {
        self.around[v].iter().map(|id| self.link(*id)).map(|link| link.a + link.b - v).collect()
    }

    /// Whether there is a link between two variables.
    pub fn are_linked(&self, v: usize, other: usize) -> bool {
        self.between(v, other).is_some()
    }

    /// The costs of the link between two variables, with the options of the first as rows.
    pub fn table(&self, v: usize, other: usize) -> Option<Vec<i64>> {
        let id = self.between(v, other)?;
        Some(oriented::table(self.link(id), v, self.var(v).costs.len()))
    }

    /// Takes out the link between two variables.
    pub fn cut(&mut self, v: usize, other: usize) {
        if let Some(id) = self.between(v, other) {
            self.links[id] = None;
            for end in [v, other] {
                self.around[end].retain(|link| *link != id);
                self.todo.insert(end);
            }
        }
    }

    /// Adds a link between two variables, with the options of the first as rows, to the one that may be there.
    pub fn join(&mut self, v: usize, other: usize, costs: Vec<i64>) {
        let (a, b) = (v.min(other), v.max(other));
        let costs = oriented::table(&Link { a: v, b: other, costs }, a, self.var(a).costs.len());
        match self.between(a, b) {
            Some(id) => {
                let link = self.links[id].as_mut().expect("only links that are there are around a variable");
                link.costs.iter_mut().zip(costs).for_each(|(sum, cost)| *sum = plus(*sum, cost));
            }
            None => {
                self.around[a].push(self.links.len());
                self.around[b].push(self.links.len());
                self.links.push(Some(Link { a, b, costs }));
            }
        }
        self.todo.extend([a, b]);
    }

    /// A variable that is about to change.
    pub fn var_mut(&mut self, v: usize) -> &mut Var {
        self.todo.insert(v);
        &mut self.model.vars[v]
    }

    /// Notes how the option of a variable that is taken out is found.
    pub fn note(&mut self, step: Step) {
        self.model.trail.push(step);
    }

    /// Adds to the cost of what is decided.
    pub fn pay(&mut self, cost: i64) {
        self.model.constant = plus(self.model.constant, cost);
    }

    /// Takes bytes off the capacity of rows.
    pub fn fill(&mut self, from: usize, to: usize, bytes: i64) {
        if bytes > 0 {
            self.model.rows[from..to].iter_mut().for_each(|capacity| *capacity -= bytes);
        }
    }

    fn link(&self, id: usize) -> &Link {
        self.links[id].as_ref().expect("only links that are there are around a variable")
    }

    fn between(&self, v: usize, other: usize) -> Option<usize> {
        let (few, far) = if self.around[v].len() <= self.around[other].len() { (v, other) } else { (other, v) };
        self.around[few].iter().copied().find(|id| [self.link(*id).a, self.link(*id).b].contains(&far))
    }
}
