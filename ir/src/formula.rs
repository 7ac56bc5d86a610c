//! Formulas: scalar expressions written with Rust's own operators.
//!
//! ```
//! use partita_ir::formula::{lit, x};
//! let silu = (x(0) * x(0).sigmoid() + lit(1.0)).expr();
//! assert_eq!(silu.nodes.len(), 5);
//! ```

use std::ops;
use std::rc::Rc;

use crate::scalar::{Binary, Expr, Node, NodeId, Real, Unary};

#[derive(Debug)]
enum Tree {
    Leaf(Node),
    Unary(Unary, Formula),
    Binary(Binary, Formula, Formula),
    Select(Formula, Formula, Formula),
    Graft(Expr, Vec<Formula>),
}

/// A scalar expression under construction.
#[derive(Clone, Debug)]
pub struct Formula(Rc<Tree>);

/// Operand `n`.
pub fn x(n: usize) -> Formula {
    Formula::node(Node::Operand(n))
}
/// A constant.
pub fn lit(value: f64) -> Formula {
    Formula::node(Node::Const(Real(value)))
}
/// The global index of factor `n`.
pub fn index(n: usize) -> Formula {
    Formula::node(Node::Index(n))
}
/// A uniform draw for the element that `factors` name.
pub fn random(salt: u64, factors: Vec<usize>) -> Formula {
    Formula::node(Node::Random { salt, factors })
}

impl Formula {
    fn node(node: Node) -> Self {
        Self(Rc::new(Tree::Leaf(node)))
    }
    /// `op(self)`
    pub fn unary(self, op: Unary) -> Self {
        Self(Rc::new(Tree::Unary(op, self)))
    }
    /// `op(self, other)`
    pub fn binary(self, op: Binary, other: Formula) -> Self {
        Self(Rc::new(Tree::Binary(op, self, other)))
    }
    /// `a` where this is not 0, else `b`.
    pub fn select(self, a: Formula, b: Formula) -> Self {
        Self(Rc::new(Tree::Select(self, a, b)))
    }
    /// `expr` with its operands replaced.
    pub fn graft(expr: &Expr, operands: Vec<Formula>) -> Self {
        Self(Rc::new(Tree::Graft(expr.clone(), operands)))
    }
    /// e to this power.
    pub fn exp(self) -> Self {
        self.unary(Unary::Exp)
    }
    /// Natural logarithm.
    pub fn log(self) -> Self {
        self.unary(Unary::Log)
    }
    /// Square root.
    pub fn sqrt(self) -> Self {
        self.unary(Unary::Sqrt)
    }
    /// One over the square root.
    pub fn rsqrt(self) -> Self {
        self.unary(Unary::Rsqrt)
    }
    /// Hyperbolic tangent.
    pub fn tanh(self) -> Self {
        self.unary(Unary::Tanh)
    }
    /// Logistic function.
    pub fn sigmoid(self) -> Self {
        self.unary(Unary::Sigmoid)
    }
    /// The larger.
    pub fn max(self, other: Formula) -> Self {
        self.binary(Binary::Max, other)
    }
    /// The smaller.
    pub fn min(self, other: Formula) -> Self {
        self.binary(Binary::Min, other)
    }
    /// Whether equal.
    pub fn equal(self, other: Formula) -> Self {
        self.binary(Binary::Eq, other)
    }
    /// Whether not above.
    pub fn at_most(self, other: Formula) -> Self {
        self.binary(Binary::Le, other)
    }
    /// Whether below.
    pub fn below(self, other: Formula) -> Self {
        self.binary(Binary::Lt, other)
    }
    /// To the power.
    pub fn pow(self, other: Formula) -> Self {
        self.binary(Binary::Pow, other)
    }
    /// This, with the derivative of `other`.
    pub fn sloped(self, other: Formula) -> Self {
        self.binary(Binary::Sloped, other)
    }
    /// This, with a derivative of 0.
    pub fn held(self) -> Self {
        self.sloped(lit(0.0))
    }
    /// The finished expression.
    pub fn expr(&self) -> Expr {
        let mut expr = Expr::default();
        expr.root = self.place(&mut expr);
        expr.pruned()
    }
    fn place(&self, expr: &mut Expr) -> NodeId {
        match &*self.0 {
            Tree::Leaf(node) => expr.push(node.clone()),
            Tree::Unary(op, a) => {
                let a = a.place(expr);
                expr.unary(*op, a)
            }
            Tree::Binary(op, a, b) => {
                let (a, b) = (a.place(expr), b.place(expr));
                expr.binary(*op, a, b)
            }
            Tree::Select(c, a, b) => {
                let (c, a, b) = (c.place(expr), a.place(expr), b.place(expr));
                expr.select(c, a, b)
            }
            Tree::Graft(inner, operands) => {
                let placed: Vec<NodeId> = operands.iter().map(|operand| operand.place(expr)).collect();
                expr.graft(inner, &mut |_, n| placed[n], &|n| n)
            }
        }
    }
}

macro_rules! arithmetic {
    ($($trait:ident $method:ident $op:ident;)*) => {$(
        impl ops::$trait for Formula {
            type Output = Formula;
            fn $method(self, other: Formula) -> Formula {
                self.binary(Binary::$op, other)
            }
        }
    )*};
}
arithmetic! { Add add Add; Sub sub Sub; Mul mul Mul; Div div Div; }

impl ops::Neg for Formula {
    type Output = Formula;
    fn neg(self) -> Formula {
        self.unary(Unary::Neg)
    }
}
