//! The cheapest expression among equal ones, shared nodes counted once.
//!
//! Which term stands for each class is a *pick*. Picks that are cheapest as trees are where the search begins, and those
//! of the original; then any single change that makes the whole cheaper is made, until none does. Nothing here proves
//! an optimum, but no result is worse than the original.

use std::collections::{BTreeMap, BTreeSet};

use egg::{Id, Language};

use super::cost::{CHOICE, Step, Total, binary, cost, unary};
use super::term::{Placed, Term};
use crate::scalar::{Binary, Expr, Node, NodeId, Real};

/// Picks that are tried for one expression.
const TRIALS: usize = 4000;

/// What is known of a leaf.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    cost: u64,
    steady: bool,
    is_operand: bool,
    /// Whether it compares something with an index.
    is_one_hot: bool,
}

/// Classes with their terms, numbered densely.
struct Space<'a> {
    expr: &'a Expr,
    terms: Vec<Vec<Term>>,
    root: usize,
    /// The terms of the original and their classes, inputs first.
    first: Vec<(usize, Term)>,
    leaves: BTreeMap<NodeId, Leaf>,
}

/// How good a pick is: first by its form, then by its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Worth {
    /// 0 for the forms that kernels and the cost model know at the root: a product of operands, a look-up. Else 1.
    form: u8,
    cost: u64,
}

/// The best expression found that is equal to `expr`, whose classes are in `placed`; none if `expr` is as good.
/// `steady` says which operands are one number.
pub fn better(expr: &Expr, placed: &Placed, steady: &dyn Fn(usize) -> bool) -> Option<Expr> {
    let space = Space::new(expr, placed, steady);
    let trees = space.cheapest_trees();
    let original = space.original(&trees);
    // parts of the original that proved equal are one by now, and it would look cheaper than it is
    let before = Worth { cost: cost(expr, steady), ..space.worth(&original).expect("the original has no cycle") };
    let mut trials = TRIALS;
    let from_trees = space.climb(trees, &mut trials);
    let from_original = space.climb(original, &mut trials);
    let (worth, pick) = if from_original.0 < from_trees.0 { from_original } else { from_trees };
    (worth < before).then(|| space.write(&pick))
}

impl<'a> Space<'a> {
    fn new(expr: &'a Expr, placed: &Placed, steady: &dyn Fn(usize) -> bool) -> Self {
        let classes = &placed.classes;
        let ids: BTreeSet<Id> = classes.classes().map(|class| class.id).collect();
        let dense: BTreeMap<Id, usize> = ids.iter().enumerate().map(|(index, id)| (*id, index)).collect();
        let renumbered = |term: &Term| {
            let mut term = term.clone().map_children(|child| Id::from(dense[&classes.find(child)]));
            if let Term::Binary(Binary::Add | Binary::Mul, inputs) = &mut term {
                // one of the two orders is enough
                inputs.sort_unstable();
            }
            term
        };
        let mut leaves = BTreeMap::new();
        let terms = ids
            .iter()
            .map(|id| {
                let mut terms: Vec<Term> = Vec::new();
                for term in classes[*id].nodes.iter().map(renumbered) {
                    if let Term::Leaf(node) = term {
                        leaves.entry(node).or_insert_with(|| Leaf::of(expr, node, steady));
                    }
                    if !terms.contains(&term) {
                        terms.push(term);
                    }
                }
                terms
            })
            .collect();
        let first = placed.terms.iter().map(|(id, term)| (dense[&classes.find(*id)], renumbered(term))).collect();
        Self { expr, terms, root: dense[&classes.find(placed.root)], first, leaves }
    }

    /// For each class the term whose tree is cheapest.
    fn cheapest_trees(&self) -> Vec<usize> {
        let mut costs: Vec<Option<u64>> = vec![None; self.terms.len()];
        let mut pick = vec![0; self.terms.len()];
        loop {
            let mut changed = false;
            for (class, terms) in self.terms.iter().enumerate() {
                for (index, term) in terms.iter().enumerate() {
                    let own = match term {
                        Term::Number(_) => 0,
                        Term::Leaf(node) => self.leaves[node].cost,
                        Term::Unary(op, _) => unary(*op),
                        Term::Binary(op, _) => binary(*op),
                        Term::Select(_) => CHOICE,
                    };
                    // one more, so that a term costs more than its inputs and picks have no cycle
                    let cost =
                        term.children().iter().try_fold(own + 1, |sum: u64, child| Some(sum.saturating_add(costs[usize::from(*child)]?)));
                    if let Some(cost) = cost
                        && costs[class].is_none_or(|known| cost < known)
                    {
                        (costs[class], pick[class], changed) = (Some(cost), index, true);
                    }
                }
            }
            if !changed {
                return pick;
            }
        }
    }

    /// The picks that give the original, others as in `otherwise`. Of original terms that proved equal the first stands
    /// for all, so that there is no cycle.
    fn original(&self, otherwise: &[usize]) -> Vec<usize> {
        let mut pick = otherwise.to_vec();
        let mut seen = BTreeSet::new();
        for (class, term) in &self.first {
            // a constant by now has no other term
            if let Some(index) = self.terms[*class].iter().position(|known| known == term)
                && seen.insert(*class)
            {
                pick[*class] = index;
            }
        }
        pick
    }

    /// Makes single changes for the better until there are none.
    fn climb(&self, mut pick: Vec<usize>, trials: &mut usize) -> (Worth, Vec<usize>) {
        let mut worth = self.worth(&pick).expect("the first picks have no cycle");
        loop {
            let before = worth;
            for class in self.order(&pick).expect("picks with a cycle are not taken") {
                let mut kept = pick[class];
                for index in 0..self.terms[class].len() {
                    if index == kept || *trials == 0 {
                        continue;
                    }
                    *trials -= 1;
                    pick[class] = index;
                    match self.worth(&pick) {
                        Some(better) if better < worth => (worth, kept) = (better, index),
                        _ => {}
                    }
                    pick[class] = kept;
                }
            }
            if worth == before {
                return (worth, pick);
            }
        }
    }

    /// The classes that the root needs, inputs first; none if a class needs itself.
    fn order(&self, pick: &[usize]) -> Option<Vec<usize>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.terms.len()];
        let mut order = Vec::new();
        let mut open = vec![self.root];
        while let Some(&class) = open.last() {
            if marks[class] == Mark::Done {
                open.pop();
                continue;
            }
            let first_visit = marks[class] == Mark::New;
            marks[class] = Mark::Open;
            let mut ready = true;
            for child in self.terms[class][pick[class]].children() {
                let child = usize::from(*child);
                match marks[child] {
                    Mark::Done => {}
                    // met again on the way down from itself
                    Mark::Open => return None,
                    Mark::New if first_visit => {
                        ready = false;
                        open.push(child);
                    }
                    Mark::New => unreachable!("inputs were visited before"),
                }
            }
            if ready {
                marks[class] = Mark::Done;
                order.push(class);
                open.pop();
            }
        }
        Some(order)
    }

    /// What a pick is worth; none if it has a cycle.
    fn worth(&self, pick: &[usize]) -> Option<Worth> {
        let order = self.order(pick)?;
        let term = |class: usize| &self.terms[class][pick[class]];
        let mut uses = vec![0u32; self.terms.len()];
        for class in &order {
            term(*class).children().iter().for_each(|child| uses[usize::from(*child)] += 1);
        }
        // the step of what is not steady
        let mut steps: Vec<Option<Step>> = vec![None; self.terms.len()];
        let mut total = Total::default();
        for class in order {
            let part = |child: &Id| steps[usize::from(*child)].map(|step| (step, uses[usize::from(*child)] == 1));
            let is_steady = match term(class) {
                Term::Leaf(node) => self.leaves[node].steady,
                other => other.children().iter().all(|child| part(child).is_none()),
            };
            if is_steady {
                continue;
            }
            steps[class] = Some(match term(class) {
                Term::Number(_) => continue,
                Term::Leaf(node) => total.step(self.leaves[node].cost),
                Term::Unary(op, _) => total.step(unary(*op)),
                Term::Binary(op, [a, b]) => total.binary(*op, part(a), part(b)),
                Term::Select(_) => total.step(CHOICE),
            });
        }
        let form = u8::from(!self.is_product(pick, self.root) && !self.is_look_up(pick));
        Some(Worth { form, cost: total.sum })
    }

    /// Whether the class is a product of operands and constants.
    fn is_product(&self, pick: &[usize], class: usize) -> bool {
        match &self.terms[class][pick[class]] {
            Term::Number(_) => true,
            Term::Leaf(node) => self.leaves[node].is_operand,
            Term::Binary(Binary::Mul, inputs) => inputs.iter().all(|input| self.is_product(pick, usize::from(*input))),
            _ => false,
        }
    }

    /// Whether the root is 0 but where an index is hit.
    fn is_look_up(&self, pick: &[usize]) -> bool {
        let term = |class: Id| &self.terms[usize::from(class)][pick[usize::from(class)]];
        let Term::Select([condition, _, other]) = term(Id::from(self.root)) else { return false };
        let one_hot = matches!(term(*condition), Term::Leaf(node) if self.leaves[node].is_one_hot);
        one_hot && matches!(term(*other), Term::Number(bits) if f64::from_bits(*bits) == 0.0)
    }

    /// The expression of a pick.
    fn write(&self, pick: &[usize]) -> Expr {
        let mut out = Expr::default();
        let mut placed: Vec<NodeId> = vec![0; self.terms.len()];
        for class in self.order(pick).expect("picks with a cycle are not taken") {
            let at = |class: Id| placed[usize::from(class)];
            let node = match &self.terms[class][pick[class]] {
                Term::Number(bits) => Node::Const(Real(f64::from_bits(*bits))),
                Term::Unary(op, [a]) => Node::Unary(*op, at(*a)),
                Term::Binary(op, [a, b]) => Node::Binary(*op, at(*a), at(*b)),
                Term::Select([c, a, b]) => Node::Select(at(*c), at(*a), at(*b)),
                Term::Leaf(node) => {
                    placed[class] = copy(self.expr, *node, &mut out);
                    continue;
                }
            };
            placed[class] = out.push(node);
        }
        out.root = placed[self.root];
        out.pruned()
    }
}

/// Copies a node with all that it needs, as it stands.
fn copy(expr: &Expr, root: NodeId, out: &mut Expr) -> NodeId {
    let part = Expr { nodes: expr.nodes.clone(), root }.pruned();
    let mut placed: Vec<NodeId> = Vec::with_capacity(part.nodes.len());
    for node in &part.nodes {
        let at = |id: &NodeId| placed[*id as usize];
        let node = match node {
            Node::Unary(op, a) => Node::Unary(*op, at(a)),
            Node::Binary(op, a, b) => Node::Binary(*op, at(a), at(b)),
            Node::Select(c, a, b) => Node::Select(at(c), at(a), at(b)),
            leaf => leaf.clone(),
        };
        placed.push(out.push(node));
    }
    placed[part.root as usize]
}

impl Leaf {
    fn of(expr: &Expr, node: NodeId, steady: &dyn Fn(usize) -> bool) -> Self {
        let at = |id: NodeId| &expr.nodes[id as usize];
        let cost = cost(&Expr { nodes: expr.nodes.clone(), root: node }, steady);
        let is_one_hot = match at(node) {
            Node::Binary(Binary::Eq, a, b) => [a, b].into_iter().any(|side| matches!(at(*side), Node::Index(_))),
            _ => false,
        };
        // what costs nothing is computed once a row
        Self { cost, steady: cost == 0, is_operand: matches!(at(node), Node::Operand(_)), is_one_hot }
    }
}
