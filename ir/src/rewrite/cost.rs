//! What an expression costs on the CPU: passes of the vector tape over a block of lanes, in tenths of the pass of an
//! addition, each shared node once.
//!
//! A sum or difference of a product that nothing else reads is one pass, and what is the same along all lanes (constants,
//! operands of one number) is computed once a row and costs nothing. What this cannot see: which operands are the same
//! along the loop that becomes the lanes, and whether an operand must be copied before it is read. The weights are
//! passes over blocks in the first-level cache, f32 with 16 lanes, rounded.

use crate::scalar::{Binary, Expr, Node, Unary};

/// The pass of a choice.
pub const CHOICE: u64 = 10;

/// The pass of one node whose inputs are ready.
pub fn pass(node: &Node) -> u64 {
    match node {
        Node::Const(_) => 0,
        // elements have to be fetched: an expression that does not read an operand is better by that
        Node::Operand(_) | Node::Index(_) => 10,
        Node::Random { .. } => 80,
        Node::Select(..) => CHOICE,
        Node::Unary(op, _) => unary(*op),
        Node::Binary(op, ..) => binary(*op),
    }
}

/// The pass of a function of one number.
pub fn unary(op: Unary) -> u64 {
    match op {
        Unary::Neg | Unary::Abs | Unary::Floor | Unary::Sign | Unary::Not => 10,
        Unary::Sqrt => 60,
        Unary::Rsqrt => 100,
        Unary::Exp => 60,
        Unary::Log => 90,
        Unary::Tanh | Unary::Sigmoid => 100,
        Unary::Erf => 150,
        Unary::Sin | Unary::Cos => 200,
    }
}

/// The pass of a function of two numbers.
pub fn binary(op: Binary) -> u64 {
    match op {
        Binary::Div => 40,
        Binary::Pow => 1000,
        _ => 10,
    }
}

/// The cost of an expression; `steady` says which operands are one number.
pub fn cost(expr: &Expr, steady: &dyn Fn(usize) -> bool) -> u64 {
    let n = expr.nodes.len();
    let mut live = vec![false; n];
    let mut uses = vec![0u32; n];
    live[expr.root as usize] = true;
    for id in (0..n).rev().filter(|id| expr.nodes[*id].inputs().next().is_some()) {
        if live[id] {
            for input in expr.nodes[id].inputs() {
                live[input as usize] = true;
                uses[input as usize] += 1;
            }
        }
    }
    let mut total = Total::default();
    let mut vectors = vec![None; n];
    for (id, node) in expr.nodes.iter().enumerate().filter(|(id, _)| live[*id]) {
        let is_steady = match node {
            Node::Operand(operand) => steady(*operand),
            Node::Const(_) => true,
            Node::Index(_) | Node::Random { .. } => false,
            other => other.inputs().all(|input| vectors[input as usize].is_none()),
        };
        if is_steady {
            continue;
        }
        let part = |input: u32| vectors[input as usize].map(|step| (step, uses[input as usize] == 1));
        let step = match *node {
            Node::Binary(op, a, b) => total.binary(op, part(a), part(b)),
            _ => total.step(pass(node)),
        };
        vectors[id] = Some(step);
    }
    total.sum
}

/// A step of the tape, as far as its cost goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A product, which may yet become part of a sum.
    Product,
    /// Anything else.
    Other,
}

/// Passes so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    /// Their cost.
    pub sum: u64,
}

impl Total {
    /// Adds a step.
    pub fn step(&mut self, cost: u64) -> Step {
        self.sum += cost;
        Step::Other
    }

    /// Adds a function of two inputs, each `None` if it is the same in all lanes, else its step and whether nothing
    /// else reads it.
    pub fn binary(&mut self, op: Binary, a: Option<(Step, bool)>, b: Option<(Step, bool)>) -> Step {
        let taken = [a, b].contains(&Some((Step::Product, true)));
        match op {
            Binary::Mul => {
                self.sum += binary(op);
                Step::Product
            }
            // the product's own pass is the pass of both
            Binary::Add | Binary::Sub if taken => Step::Other,
            _ => self.step(binary(op)),
        }
    }
}
