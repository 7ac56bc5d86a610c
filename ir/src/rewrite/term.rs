//! Expressions as `egg` sees them: a language of terms, and what is known of each class of equal ones.

use egg::{Analysis, DidMerge, EGraph, FromOp, Id, Language};

use crate::scalar::{Binary, Expr, Node, NodeId, Unary};

/// A node whose inputs are classes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// A constant, by its bits.
    Number(u64),
    /// A node of the original that stays as it is: an operand, an index, a draw, or what [`decides`].
    Leaf(NodeId),
    /// A function of one term.
    Unary(Unary, [Id; 1]),
    /// A function of two terms.
    Binary(Binary, [Id; 2]),
    /// A choice.
    Select([Id; 3]),
}

/// What terms must share for one to match the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Head {
    /// A constant.
    Number(u64),
    /// A leaf.
    Leaf,
    /// A function.
    Unary(Unary),
    /// A function.
    Binary(Binary),
    /// A choice.
    Select,
}

impl Language for Term {
    type Discriminant = Head;

    fn discriminant(&self) -> Head {
        match self {
            Term::Number(bits) => Head::Number(*bits),
            Term::Leaf(_) => Head::Leaf,
            Term::Unary(op, _) => Head::Unary(*op),
            Term::Binary(op, _) => Head::Binary(*op),
            Term::Select(_) => Head::Select,
        }
    }

    fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Term::Leaf(a), Term::Leaf(b)) => a == b,
            _ => self.discriminant() == other.discriminant(),
        }
    }

    fn children(&self) -> &[Id] {
        match self {
            Term::Number(_) | Term::Leaf(_) => &[],
            Term::Unary(_, inputs) => inputs,
            Term::Binary(_, inputs) => inputs,
            Term::Select(inputs) => inputs,
        }
    }

    fn children_mut(&mut self) -> &mut [Id] {
        match self {
            Term::Number(_) | Term::Leaf(_) => &mut [],
            Term::Unary(_, inputs) => inputs,
            Term::Binary(_, inputs) => inputs,
            Term::Select(inputs) => inputs,
        }
    }
}

/// Laws are written with the words of the functions, `select` and numbers.
impl FromOp for Term {
    type Error = String;

    fn from_op(op: &str, children: Vec<Id>) -> Result<Self, String> {
        let term = match children[..] {
            [] => op.parse().ok().map(|value: f64| Term::Number(value.to_bits())),
            [a] => Unary::from_word(op).map(|op| Term::Unary(op, [a])),
            [a, b] => Binary::from_word(op).map(|op| Term::Binary(op, [a, b])),
            [a, b, c] if op == "select" => Some(Term::Select([a, b, c])),
            _ => None,
        };
        term.ok_or_else(|| format!("`{op}` is no function of {} terms", children.len()))
    }
}

/// What is known of a class of equal terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Bits of its value, if that is a finite constant.
    pub number: Option<u64>,
    /// Whether it is the same at all points of the loop.
    pub steady: bool,
}

impl Known {
    /// The constant.
    pub fn value(&self) -> Option<f64> {
        self.number.map(f64::from_bits)
    }
}

/// Folds constants. Holds for each node of the original whether it is the same at all points.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    steady: Vec<bool>,
}

/// The classes of equal terms.
pub type Classes = EGraph<Term, Facts>;

impl Analysis<Term> for Facts {
    type Data = Known;

    fn make(classes: &mut Classes, term: &Term, _: Id) -> Known {
        let known = |id: Id| classes[id].data;
        let value = |id: Id| known(id).value();
        let number = match *term {
            Term::Number(bits) => Some(f64::from_bits(bits)),
            Term::Leaf(_) | Term::Select(_) => None,
            Term::Unary(op, [a]) => value(a).map(|a| op.eval(a)),
            Term::Binary(op, [a, b]) => value(a).zip(value(b)).map(|(a, b)| op.eval(a, b)),
        };
        let number = number.filter(|value| value.is_finite()).map(f64::to_bits);
        let steady = match *term {
            Term::Leaf(node) => classes.analysis.steady[node as usize],
            _ => term.children().iter().all(|id| known(*id).steady),
        };
        Known { number, steady }
    }

    fn merge(&mut self, into: &mut Known, from: Known) -> DidMerge {
        // constants that differ by their rounding only: one of them, whichever came first
        let merged = Known { number: into.number.or(from.number), steady: into.steady || from.steady };
        let did = DidMerge(merged != *into, merged != from);
        *into = merged;
        did
    }

    fn modify(classes: &mut Classes, id: Id) {
        if let Some(bits) = classes[id].data.number {
            let number = classes.add(Term::Number(bits));
            classes.union(id, number);
            // other ways to a constant are of no use
            classes[id].nodes.retain(|term| matches!(term, Term::Number(_)));
        }
    }
}

/// Whether a node's value jumps: its inputs must keep every bit, or an element falls on the other side.
fn decides(node: &Node) -> bool {
    matches!(
        node,
        Node::Unary(Unary::Floor | Unary::Sign | Unary::Not, _) | Node::Binary(Binary::Lt | Binary::Le | Binary::Eq | Binary::Ne, ..)
    )
}

/// An expression among the classes of terms equal to its parts.
pub struct Placed {
    /// The classes.
    pub classes: Classes,
    /// The class of the expression.
    pub root: Id,
    /// The terms of the expression and their classes, inputs first.
    pub terms: Vec<(Id, Term)>,
}

impl Placed {
    /// Every node in a class of its own. What decides, and every condition, is a leaf. `steady` says which operands are
    /// one number.
    pub fn new(expr: &Expr, steady: &dyn Fn(usize) -> bool) -> Self {
        let mut fixed: Vec<bool> = Vec::with_capacity(expr.nodes.len());
        for node in &expr.nodes {
            fixed.push(match node {
                Node::Const(_) => true,
                Node::Operand(n) => steady(*n),
                Node::Index(_) | Node::Random { .. } => false,
                other => other.inputs().all(|input| fixed[input as usize]),
            });
        }
        let mut placed = Self { classes: Classes::new(Facts { steady: fixed }), root: Id::from(0), terms: Vec::new() };
        let mut ids: Vec<Option<Id>> = vec![None; expr.nodes.len()];
        let mut open = vec![expr.root];
        while let Some(&id) = open.last() {
            let node = &expr.nodes[id as usize];
            let inputs = match node {
                node if decides(node) => [None; 2],
                Node::Unary(_, a) => [Some(*a), None],
                Node::Binary(_, a, b) | Node::Select(_, a, b) => [Some(*a), Some(*b)],
                _ => [None; 2],
            };
            if let Some(input) = inputs.into_iter().flatten().find(|input| ids[*input as usize].is_none()) {
                open.push(input);
                continue;
            }
            let at = |input: NodeId| ids[input as usize].expect("its inputs are placed");
            let term = match *node {
                ref node if decides(node) => Term::Leaf(id),
                Node::Const(value) => Term::Number(value.0.to_bits()),
                Node::Unary(op, a) => Term::Unary(op, [at(a)]),
                Node::Binary(op, a, b) => Term::Binary(op, [at(a), at(b)]),
                Node::Select(c, a, b) => Term::Select([placed.add(Term::Leaf(c)), at(a), at(b)]),
                _ => Term::Leaf(id),
            };
            ids[id as usize] = Some(placed.add(term));
            open.pop();
        }
        placed.root = ids[expr.root as usize].expect("the root is placed last");
        placed.classes.rebuild();
        placed
    }

    fn add(&mut self, term: Term) -> Id {
        let id = self.classes.add(term.clone());
        self.terms.push((id, term));
        id
    }
}
