//! The loss: a main term, and named ones that are added to it.
//!
//! Each term is a mean, kept as (sum, count). A named term may stand in a repeat: it is summed over the iterations.

use partita_ir::formula::x;
use partita_ir::graph::{Class, LossTerm, Span};
use partita_ir::id::{AxisId, ValueId};
use partita_ir::rule::Reduce;
use partita_ir::scalar::Expr as Scalar;

use super::Elaborator;
use super::element::{Element, Fusion};
use crate::diagnostics::Diagnostic;
use crate::syntax::{BinaryOp, Call, Expr, ExprKind, Name};

/// The terms of the loss as they are met.
#[derive(Debug, Default)]
pub(super) struct Terms {
    main: Option<Span>,
    named: Vec<Named>,
    /// Those of the open repeat, whose sums are those of one iteration.
    inner: Vec<Named>,
}

#[derive(Clone, Debug)]
struct Named {
    term: LossTerm,
    /// What its mean is over; none of a cross-entropy, whose count its targets say.
    axes: Option<Vec<AxisId>>,
    span: Span,
}

/// A mean as (sum, count), and what it is over.
struct Mean {
    sum: ValueId,
    count: ValueId,
    axes: Option<Vec<AxisId>>,
}

impl Terms {
    pub(super) fn has_main(&self) -> bool {
        self.main.is_some()
    }
}

impl<'a> Elaborator<'a> {
    /// `loss FORM`, `loss NAME = WEIGHT * FORM`
    pub(super) fn loss(&mut self, name: Option<&Name>, value: &'a Expr, span: Span) {
        match name {
            None => self.main_loss(value, span),
            Some(name) => self.named_loss(name, value, span),
        }
    }

    fn main_loss(&mut self, value: &'a Expr, span: Span) {
        if let Some(first) = self.terms.main.replace(span) {
            self.diagnostics.push(
                Diagnostic::new("partita::loss::twice", "a model has one loss")
                    .label(span, "a second loss")
                    .label(first, "the first")
                    .help("a further term has a name and a weight: `loss balance = 0.01 * mean[batch](uneven)`"),
            );
            return;
        }
        if let Some(Mean { sum, count, .. }) = self.mean(value) {
            self.builder.loss(sum, count);
        }
    }

    fn named_loss(&mut self, name: &Name, value: &'a Expr, span: Span) {
        let (weight, form) = match &value.kind {
            ExprKind::Binary(BinaryOp::Mul, weight, form) => (self.number(weight).map(|weight| weight.to_f64()), &**form),
            _ => (Some(1.0), value),
        };
        let mean = self.mean(form);
        let (Some(weight), Some(Mean { sum, count, axes })) = (weight, mean) else { return };
        if matches!(name.text.as_str(), LossTerm::MAIN | "grad_norm" | "lr") {
            self.diagnostics.push(
                Diagnostic::new("partita::loss::taken", format!("a run reports something else as `{}`", name.text))
                    .label(name.span, "needs another name"),
            );
            return;
        }
        let named = Named { term: LossTerm { name: name.text.clone(), weight, sum, count }, axes, span };
        if self.builder.within().is_some() {
            if named.axes.is_none() {
                self.diagnostics.push(
                    Diagnostic::new("partita::loss::form", "a cross-entropy stands outside of repeats")
                        .label(form.span, "inside a repeat")
                        .help("carry what it is of out of the repeat, and write the term behind it"),
                );
                return;
            }
            self.terms.inner.push(named);
        } else {
            self.add_term(named);
        }
    }

    /// Adds a term to the graph, or its sum to the term of its name.
    fn add_term(&mut self, named: Named) {
        let Some(position) = self.terms.named.iter().position(|known| known.term.name == named.term.name) else {
            self.terms.named.push(named);
            return;
        };
        let known = &self.terms.named[position];
        if known.term.weight != named.term.weight || known.axes.is_none() || known.axes != named.axes {
            self.diagnostics.push(
                Diagnostic::new("partita::loss::twice", format!("`{}` is a term of the loss already", named.term.name))
                    .label(named.span, "again")
                    .label(known.span, "the first")
                    .help("means of one name add up if they are over the same axes and have the same weight"),
            );
            return;
        }
        let parts = [known.term.sum, named.term.sum];
        let sum = self.builder.classed(Class::Loss, |b| b.map("loss_sum", &parts, &[], None, Scalar::sum(2)));
        self.terms.named[position].term.sum = sum;
    }

    /// What the open repeat hands to its next iteration of its terms' sums.
    pub(super) fn summed_terms(&mut self) -> Vec<ValueId> {
        let sums: Vec<ValueId> = self.terms.inner.iter().map(|named| named.term.sum).collect();
        self.builder.classed(Class::Loss, |b| {
            let zero = Scalar::constant(0.0);
            let so_far = |b: &mut partita_ir::build::Builder| {
                let zero = b.outside(|b| b.map("zeros", &[], &[], None, zero.clone()));
                b.carry(zero)
            };
            sums.iter()
                .map(|sum| {
                    let so_far = so_far(b);
                    b.map("loss_sum", &[so_far, *sum], &[], None, (x(0) + x(1)).expr())
                })
                .collect()
        })
    }

    /// Takes the terms of the repeat that was closed, whose sums over its iterations these are.
    pub(super) fn repeated_terms(&mut self, sums: &[ValueId]) {
        for (mut named, sum) in std::mem::take(&mut self.terms.inner).into_iter().zip(sums) {
            named.term.sum = *sum;
            self.add_term(named);
        }
    }

    /// Gives the graph its named terms.
    pub(super) fn finish_terms(&mut self) {
        for named in std::mem::take(&mut self.terms.named) {
            self.builder.graph.loss.push(named.term);
        }
    }

    fn mean(&mut self, value: &'a Expr) -> Option<Mean> {
        match &value.kind {
            ExprKind::Call(call) if call.name.text == "cross_entropy" => {
                self.cross_entropy(call, value.span).map(|(sum, count)| Mean { sum, count, axes: None })
            }
            ExprKind::Call(call) if call.name.text == "mean" && call.axes.is_some() => self.plain_mean(call, value.span),
            _ => {
                // the expression's own errors are worth telling too
                self.tensor(value, "loss");
                self.diagnostics.push(
                    Diagnostic::new("partita::loss::form", "a loss is a cross-entropy, or a mean over all axes")
                        .label(value.span, "neither")
                        .help("a loss is kept as (sum, count), which only these give: `loss cross_entropy[vocab](logits, targets)` or `loss mean[batch, seq](error)`"),
                );
                None
            }
        }
    }

    /// `mean[all axes](x)` as (sum, number of elements).
    fn plain_mean(&mut self, call: &'a Call, span: Span) -> Option<Mean> {
        let axes = self.axis_list(call.axes.as_deref().unwrap_or(&[]));
        let [argument] = call.arguments.as_slice() else {
            self.diagnostics.push(
                Diagnostic::new("partita::call::wrong_arguments", format!("`mean` takes 1 argument, not {}", call.arguments.len()))
                    .label(span, "in this call"),
            );
            return None;
        };
        let mut fusion = Fusion::default();
        let Element::Piece(piece) = self.element(&mut fusion, &argument.value)? else {
            self.diagnostics.push(
                Diagnostic::new("partita::loss::form", "the loss is a number that training cannot change")
                    .label(argument.value.span, "a number"),
            );
            return None;
        };
        let piece = self.floats(&fusion, piece, argument.value.span)?;
        let axes = axes?;
        if axes.len() != piece.dims.len() || !axes.iter().all(|axis| piece.dims.contains(axis)) {
            self.diagnostics.push(
                Diagnostic::new(
                    "partita::loss::form",
                    format!("the mean of a loss is over all axes, which are {}", self.shown(&piece.dims)),
                )
                .label(span, format!("over {} only", self.shown(&axes)))
                .help("take a sum or mean over the others first"),
            );
            return None;
        }
        self.builder.span = Some(span);
        self.builder.class = Class::Loss;
        let sum = self.emit(&fusion, &piece, Some((Reduce::Sum, &axes)), "loss_sum");
        let count = if self.builder.within().is_some() {
            self.builder.outside(|b| b.points("loss_count", &axes))
        } else {
            self.builder.points("loss_count", &axes)
        };
        self.builder.class = Class::Other;
        Some(Mean { sum, count, axes: Some(axes) })
    }
}
