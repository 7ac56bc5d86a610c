//! Gathers: by integers, or by what is computed of positions and compared integers.

use std::cell::Cell;

use partita_ir::graph::Span;
use partita_ir::id::{AxisId, Id, ValueId};
use partita_ir::library::Pointwise;
use partita_ir::rule::{Access, Term};
use partita_ir::scalar::{Expr as Scalar, Node, NodeId};

use super::Elaborator;
use super::call::Checked;
use super::element::{Element, Fusion};
use crate::diagnostics::Diagnostic;
use crate::syntax::Expr;

/// Most operators that are read into the expression of a place.
const MOST_UNFOLDED: usize = 64;

/// Where a table is read.
#[derive(Debug)]
pub(super) struct Place {
    pub part: Pointwise,
    /// The axes that it varies over.
    pub dims: Vec<AxisId>,
    /// The tensor that it is, if it is nothing but one.
    integers: Option<ValueId>,
    pub span: Span,
}

impl<'a> Elaborator<'a> {
    pub(super) fn gather(&mut self, checked: &Checked<'a>, name: &str) -> Option<ValueId> {
        let ((table, table_span), axis) = (checked.tensors[0], checked.axes[0]);
        let place = checked.place.as_ref()?;
        if !self.has_axis(table, table_span, "the table", axis, checked.axis_span(0)) {
            return None;
        }
        let table_dims = self.builder.dims(table);
        if place.dims.contains(&axis) {
            let name = self.builder.graph.axis(axis).name.clone();
            self.diagnostics.push(
                Diagnostic::new("partita::axis::twice", format!("the indices have the axis `{name}` that the table is read along"))
                    .label(table_span, self.shown(&table_dims))
                    .label(place.span, self.shown(&place.dims))
                    .help(format!("rename it in the table: `x[{name} -> past]`")),
            );
            return None;
        }
        let others = table_dims.iter().filter(|dim| **dim != axis && !place.dims.contains(dim));
        let dims: Vec<AxisId> = place.dims.iter().chain(others).copied().collect();
        if !self.fits(&dims, checked.span) {
            return None;
        }
        self.builder.span = Some(checked.span);
        Some(match place.integers {
            Some(indices) => self.builder.gather(name, table, indices, axis),
            None => self.builder.gather_at(name, table, &place.part, &place.dims, axis),
        })
    }

    /// What says where a table is read. Tensors that are computed of positions alone count as their expressions, which
    /// are whole numbers in every precision.
    pub(super) fn place(&mut self, expr: &'a Expr) -> Option<Place> {
        let mut fusion = Fusion::default();
        let piece = match self.element(&mut fusion, expr)? {
            Element::Number(value) => fusion.constant(value),
            Element::Piece(piece) => piece,
        };
        let part = self.unfolded(&fusion.finish(&piece));
        for (value, _) in &part.operands {
            if !self.builder.graph.is_whole(*value) && !self.is_integer(*value, expr.span) {
                return None;
            }
        }
        let only = match (&part.expr.nodes[..], &part.operands[..]) {
            ([Node::Operand(0)], [(value, axes)]) if self.builder.dims(*value) == *axes => Some(*value),
            _ => None,
        };
        Some(Place { part, dims: piece.dims, integers: only, span: expr.span })
    }

    /// An expression with its operands replaced by what computes them, as far as that goes.
    fn unfolded(&self, part: &Pointwise) -> Pointwise {
        let (mut expr, mut operands) = (Scalar::default(), Vec::new());
        expr.root = self.unfold(part, &|axis| axis, (&mut expr, &mut operands), &Cell::new(MOST_UNFOLDED));
        Pointwise { expr: expr.pruned(), operands }
    }

    /// Adds an expression to another one, its axes renamed. `left` counts how many operands may still be replaced.
    fn unfold(
        &self,
        part: &Pointwise,
        along: &dyn Fn(usize) -> usize,
        (expr, operands): (&mut Scalar, &mut Vec<(ValueId, Vec<AxisId>)>),
        left: &Cell<usize>,
    ) -> NodeId {
        let mut operand = |expr: &mut Scalar, n: usize| {
            let (value, axes) = &part.operands[n];
            let axes: Vec<AxisId> = axes.iter().map(|axis| AxisId::new(along(axis.index()))).collect();
            if let Some(inner) = self.pointwise(*value).filter(|_| left.get() > 0) {
                left.set(left.get() - 1);
                let dims = self.builder.dims(*value);
                let renamed = |axis: usize| dims.iter().position(|dim| dim.index() == axis).map_or(axis, |at| axes[at].index());
                return self.unfold(&inner, &renamed, (expr, &mut *operands), left);
            }
            let known = operands.iter().position(|known| known.0 == *value && known.1 == axes);
            let position = known.unwrap_or_else(|| {
                operands.push((*value, axes));
                operands.len() - 1
            });
            expr.push(Node::Operand(position))
        };
        expr.graft(&part.expr, &mut operand, along)
    }

    /// What computes a tensor, if it is computed element by element.
    fn pointwise(&self, value: ValueId) -> Option<Pointwise> {
        let graph = &self.builder.graph;
        let op = graph.op(graph.def_op(value)?);
        let rule = op.rule().filter(|rule| rule.reduce.is_none())?;
        let plain = |access: &Access| access.iter().all(|dim| dim.offset == 0 && matches!(dim.terms[..], [Term { stride: 1, .. }]));
        if !plain(&rule.result) || !rule.operands.iter().all(plain) {
            return None;
        }
        let axis = |factor: usize| rule.factors[factor];
        let mut expr = Scalar::default();
        expr.root = expr.graft(&rule.expr, &mut |expr, n| expr.push(Node::Operand(n)), &|factor| axis(factor).index());
        let axes = |access: &Access| access.iter().map(|dim| axis(dim.terms[0].factor)).collect();
        Some(Pointwise { expr, operands: op.operands.iter().zip(&rule.operands).map(|(value, access)| (*value, axes(access))).collect() })
    }
}
