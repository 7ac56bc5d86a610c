//! `scan`: a body that runs once for each entry of an axis, in order, and hands values from one to the next.
//!
//! Tensors from outside that have the axis are read at the entry, without it. What the head names is carried. What the
//! body emits has the axis again. Weights of the body exist once.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::graph::Span;
use partita_ir::id::{AxisId, ValueId};
use partita_ir::scalar::Expr as Scalar;

use super::Elaborator;
use super::element::{Element, Fusion};
use super::scope::{Binding, Gone, Kind, What, under};
use super::statement::{assigned, tensor_of};
use crate::diagnostics::Diagnostic;
use crate::evaluate::names_in;
use crate::syntax::{Expr, Name, Scan, Statement, StatementKind, expressions};

/// What the body of the open scan emits.
#[derive(Clone, Debug)]
pub(super) struct Emits {
    axis: AxisId,
    /// Name, the value of one entry, and the axes of the whole.
    made: Vec<(Name, Option<ValueId>, Vec<AxisId>)>,
}

impl<'a> Elaborator<'a> {
    /// `scan seq (h[batch, hidden] = 0) { ... }`
    pub(super) fn scan(&mut self, scan: &'a Scan, span: Span) {
        if self.scan_given(scan, span).is_some() {
            return;
        }
        // lines behind it are not to be blamed for what it does not give
        let emitted =
            scan.body.iter().filter_map(|inner| if let StatementKind::Emit { name, .. } = &inner.kind { Some(name) } else { None });
        for name in scan.carried.iter().map(|(name, ..)| name).chain(emitted) {
            if self.frame().names.get(&name.text).is_none_or(|binding| binding.kind == Kind::Variable) {
                self.bind(&name.text, What::Broken, Kind::Variable, name.span);
            }
        }
    }

    /// Binds what a scan gives; `None`, after a report, if its head makes no sense.
    fn scan_given(&mut self, scan: &'a Scan, span: Span) -> Option<()> {
        let head = Span { start: span.start, end: scan.axis.span.end };
        if self.builder.within().is_some() {
            self.diagnostics.push(
                Diagnostic::new("partita::scan::nested", "a scan cannot run inside a repeat or another scan")
                    .label(head, "inside another")
                    .help("write the outer body out with `for`, or do the work of both in the body of one scan"),
            );
            return None;
        }
        let axis = self.axis(&scan.axis);
        // all first values are looked at, so that the errors of all are reported
        let inits: Vec<Option<ValueId>> = scan.carried.iter().map(|(name, axes, value)| self.first(name, axes, value)).collect();
        let axis = axis?;
        for (position, (name, ..)) in scan.carried.iter().enumerate() {
            if let Some((first, ..)) = scan.carried[..position].iter().find(|(other, ..)| other.text == name.text) {
                self.diagnostics.push(crate::settings::twice("carried values", &name.text, name.span, first.span));
                return None;
            }
            if !self.may_define(name, Kind::Variable) {
                return None;
            }
        }
        self.check_assigned(scan);
        let inits = inits.into_iter().collect::<Option<Vec<ValueId>>>()?;
        if let Some(n) = inits.iter().position(|init| self.builder.dims(*init).contains(&axis)) {
            let name = &scan.carried[n].0;
            self.diagnostics.push(
                Diagnostic::new("partita::scan::carried_axis", format!("`{}` is carried along `{}` and has it", name.text, scan.axis.text))
                    .label(name.span, "at one entry there is no such axis")
                    .label(scan.axis.span, "goes along this axis"),
            );
            return None;
        }
        let entries = self.entries_of(&scan.body, axis);
        let count = self.builder.graph.size(axis);
        let path = self.unique_path(under(&self.frame().path, &scan.axis.text));
        let arguments = self.builder.begin_repeat(&path, count, &inits);
        let outer = self.frame().names.clone();
        for (name, whole) in entries {
            let Some(whole) = whole else {
                if let Some(binding) = self.frame_mut().names.remove(&name) {
                    self.frame_mut().gone.insert(name, (binding.span, Gone::Entry));
                }
                continue;
            };
            let each = self.builder.take(whole);
            if let Some(binding) = self.frame_mut().names.get_mut(&name) {
                binding.what = What::Tensor(each);
            }
        }
        for ((name, ..), argument) in scan.carried.iter().zip(&arguments) {
            self.bind(&name.text, What::Tensor(*argument), Kind::Variable, name.span);
        }
        self.frame_mut().emits = Some(Emits { axis, made: Vec::new() });
        self.scanned = Some(axis);
        for statement in &scan.body {
            self.statement(statement);
        }
        self.scanned = None;
        let Emits { made, .. } = self.frame_mut().emits.take().expect("a body opens no scan of its own");
        let mut nexts: Vec<ValueId> =
            scan.carried.iter().zip(&arguments).map(|((name, ..), argument)| self.next(&name.text, *argument)).collect();
        let sums = self.summed_terms();
        nexts.extend(&sums);
        self.builder.span = Some(head);
        for each in made.iter().filter_map(|(_, each, _)| *each) {
            self.builder.collect(each, axis);
        }
        let mut results = self.builder.end_repeat(&nexts, scan.reversed);
        let mut wholes = results.split_off(nexts.len()).into_iter();
        self.repeated_terms(&results.split_off(scan.carried.len()));
        let inner: BTreeMap<String, Binding> = std::mem::replace(&mut self.frame_mut().names, outer);
        for (name, binding) in inner {
            if !self.frame().names.contains_key(&name) {
                self.frame_mut().gone.insert(name, (binding.span, Gone::Scan));
            }
        }
        for ((name, ..), result) in scan.carried.iter().zip(results) {
            self.bind(&name.text, What::Tensor(result), Kind::Variable, name.span);
        }
        for (name, each, dims) in made {
            let whole = each.and_then(|_| wholes.next());
            let what = whole.map_or(What::Broken, |whole| What::Tensor(self.in_order(&name.text, whole, &dims)));
            if self.may_define(&name, Kind::Variable) {
                self.bind(&name.text, what, Kind::Variable, name.span);
            }
        }
        Some(())
    }

    /// The value that a carried name begins with, over its axes.
    fn first(&mut self, name: &Name, axes: &[Name], value: &'a Expr) -> Option<ValueId> {
        let dims = self.axis_list(axes).filter(|dims| self.fits(dims, name.span));
        let mut fusion = Fusion::default();
        let element = self.element(&mut fusion, value)?;
        let dims = dims?;
        let piece = match element {
            Element::Number(number) => return Some(self.builder.map(&name.text, &[], &dims, None, Scalar::constant(number.to_f64()))),
            Element::Piece(piece) => self.floats(&fusion, piece, value.span)?,
        };
        if !piece.dims.iter().all(|axis| dims.contains(axis)) {
            let message = format!("`{}` is carried with axes {} and begins with {}", name.text, self.shown(&dims), self.shown(&piece.dims));
            self.diagnostics.push(
                Diagnostic::new("partita::scan::first_differs", message)
                    .label(value.span, format!("has axes {}", self.shown(&piece.dims)))
                    .label(name.span, "declared here"),
            );
            return None;
        }
        self.builder.span = Some(value.span);
        let first = self.emit(&fusion, &piece, None, &name.text);
        Some(self.in_order(&name.text, first, &dims))
    }

    /// The value over these axes in this order; those that it lacks are repeated.
    fn in_order(&mut self, name: &str, value: ValueId, dims: &[AxisId]) -> ValueId {
        if self.builder.dims(value) == dims { value } else { self.builder.map(name, &[value], dims, None, Scalar::operand(0)) }
    }

    /// A name that the body assigns and that existed before is carried, or it is another name.
    fn check_assigned(&mut self, scan: &'a Scan) {
        for name in scan.body.iter().flat_map(assigned) {
            let carried = scan.carried.iter().any(|(known, ..)| known.text == name.text);
            let before = self.frame().names.get(&name.text).filter(|binding| binding.kind == Kind::Variable && !carried);
            if let Some(before) = before {
                let before = before.span;
                self.diagnostics.push(
                    Diagnostic::new("partita::scan::not_carried", format!("`{}` is assigned in the scan, and existed before", name.text))
                        .label(name.span, "for one entry")
                        .label(before, "before the scan")
                        .label(scan.axis.span, "the head carries what it names")
                        .help(format!(
                            "to hand it from entry to entry write `scan {} ({}[axes] = {1})`, else give it another name",
                            scan.axis.text, name.text
                        )),
                );
            }
        }
    }

    /// The names that a body reads of tensors with the scanned axis, with the tensor turned so that the axis is first.
    /// Integers are not moved, and so have no entries.
    fn entries_of(&mut self, body: &'a [Statement], axis: AxisId) -> Vec<(String, Option<ValueId>)> {
        let mut read: Vec<&str> = Vec::new();
        expressions(body, &mut |expr| names_in(expr, &mut read));
        let read: BTreeSet<&str> = read.into_iter().collect();
        let mut entries = Vec::new();
        for name in read {
            let Some(value) = self.frame().names.get(name).and_then(tensor_of) else { continue };
            let dims = self.builder.dims(value);
            if !dims.contains(&axis) {
                continue;
            }
            let float = self.builder.graph.value(value).ty.dtype.is_float();
            let turned: Vec<AxisId> = [axis].into_iter().chain(dims.into_iter().filter(|dim| *dim != axis)).collect();
            entries.push((name.to_owned(), float.then(|| self.in_order(name, value, &turned))));
        }
        entries
    }

    /// `emit y[batch, seq, hidden] = h`
    pub(super) fn emit_entry(&mut self, name: &Name, axes: &[Name], value: &'a Expr, span: Span) {
        let found = self.tensor(value, &name.text);
        let dims = self.axis_list(axes);
        let Some(Emits { axis, made }) = self.frame().emits.clone() else {
            self.diagnostics.push(
                Diagnostic::new("partita::scan::misplaced_emit", "`emit` stands in the body of a scan and nowhere else")
                    .label(span, "not in a scan")
                    .help("a block returns its value: emit it where the scan calls the block"),
            );
            return;
        };
        if let Some((first, ..)) = made.iter().find(|(known, ..)| known.text == name.text) {
            self.diagnostics.push(
                Diagnostic::new("partita::scan::emit_twice", format!("`{}` is emitted twice", name.text))
                    .label(name.span, "again")
                    .label(first.span, "once")
                    .help("a scan makes one entry of it at a time: emit the other under another name"),
            );
            return;
        }
        let each = match (found, &dims) {
            (Some(found), Some(dims)) if self.is_float(found, value.span) => self.entry(name, (found, value.span), dims, axis),
            _ => None,
        };
        let emits = self.frame_mut().emits.as_mut().expect("it was just there");
        emits.made.push((name.clone(), each, dims.unwrap_or_default()));
    }

    /// A value of the body that is an entry of a tensor of these axes; a report if it is not.
    fn entry(&mut self, name: &Name, (value, span): (ValueId, Span), dims: &[AxisId], axis: AxisId) -> Option<ValueId> {
        let of_entry: Vec<AxisId> = dims.iter().copied().filter(|dim| *dim != axis).collect();
        let found = self.builder.dims(value);
        let same = found.len() == of_entry.len() && found.iter().all(|dim| of_entry.contains(dim));
        if !same || !dims.contains(&axis) {
            let wanted = [&[axis], &found[..]].concat();
            let message = format!(
                "`{}` is emitted with axes {}, and its entries along `{}` have {}",
                name.text,
                self.shown(dims),
                self.builder.graph.axis(axis).name,
                self.shown(&found)
            );
            self.diagnostics.push(
                Diagnostic::new("partita::scan::emit_differs", message)
                    .label(span, format!("has axes {}", self.shown(&found)))
                    .help(format!("together they have {}, in any order", self.shown(&wanted))),
            );
            return None;
        }
        // what is not of the body is the same at each entry
        let own = self.builder.graph.value(value).within == self.builder.within();
        Some(if own { value } else { self.builder.map(&name.text, &[value], &found, None, Scalar::operand(0)) })
    }
}
