//! Which values are whole numbers: places, counts, ranks. They may index, and no precision may round them.

use std::collections::BTreeMap;

use crate::graph::{Def, Graph};
use crate::id::ValueId;
use crate::rule::Reduce;
use crate::scalar::{Binary, Expr, Node, Real, Unary};

impl Graph {
    /// Whether every element of a value is known to be a whole number.
    pub fn is_whole(&self, value: ValueId) -> bool {
        self.whole(value, &mut BTreeMap::new())
    }

    fn whole(&self, value: ValueId, known: &mut BTreeMap<ValueId, bool>) -> bool {
        if let Some(answer) = known.get(&value) {
            return *answer;
        }
        let entry = self.value(value);
        let answer = !entry.ty.dtype.is_float()
            || match entry.def {
                Def::Result(op, _) => self.op(op).rule().is_some_and(|rule| {
                    let folds = matches!(rule.reduce, None | Some(Reduce::Sum | Reduce::Max | Reduce::Min));
                    folds && rule.expr.is_whole(&mut |n| self.whole(self.op(op).operands[n], known))
                }),
                Def::Leaf(_) | Def::Carried(..) | Def::Taken(..) => false,
            };
        known.insert(value, answer);
        answer
    }
}

impl Expr {
    /// Whether the expression is a whole number wherever the operands that `member` names are.
    pub fn is_whole(&self, member: &mut dyn FnMut(usize) -> bool) -> bool {
        let mut whole: Vec<bool> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let of = |id: &u32| whole[*id as usize];
            let answer = match node {
                Node::Const(Real(value)) => value.fract() == 0.0,
                Node::Operand(n) => member(*n),
                Node::Index(_) | Node::Unary(Unary::Floor | Unary::Sign | Unary::Not, _) => true,
                Node::Unary(Unary::Neg | Unary::Abs, a) => of(a),
                Node::Binary(Binary::Lt | Binary::Le | Binary::Eq | Binary::Ne, ..) => true,
                Node::Binary(Binary::Add | Binary::Sub | Binary::Mul | Binary::Max | Binary::Min, a, b) => of(a) && of(b),
                Node::Binary(Binary::Sloped, a, _) => of(a),
                Node::Select(_, a, b) => of(a) && of(b),
                Node::Random { .. } | Node::Unary(..) | Node::Binary(..) => false,
            };
            whole.push(answer);
        }
        whole[self.root as usize]
    }
}
