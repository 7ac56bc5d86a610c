//! Ranks, sorts, the n-th entry, and scatters: what each asks of its axes.

use partita_ir::id::{AxisId, ValueId};

use super::Elaborator;
use super::call::{Checked, OptionValue};
use super::composite::Draw;
use crate::diagnostics::Diagnostic;

impl<'a> Elaborator<'a> {
    pub(super) fn rank(&mut self, checked: &Checked<'a>, name: &str) -> Option<ValueId> {
        let (x, span) = checked.tensors[0];
        for (position, axis) in checked.axes.iter().enumerate() {
            if !self.has_axis(x, span, "the argument", *axis, checked.axis_span(position)) {
                return None;
            }
        }
        Some(self.builder.rank(name, x, &checked.axes))
    }

    /// `sort[axis](x)` and `top_k[axis, k](x)`.
    pub(super) fn sort(&mut self, checked: &Checked<'a>, name: &str) -> Option<ValueId> {
        let ((x, span), axis) = (checked.tensors[0], checked.axes[0]);
        let OptionValue::Tensor(by) = self.option(checked, "by") else { return None };
        let (by, by_span) = by.unwrap_or((x, span));
        if !self.has_axis(x, span, "the argument", axis, checked.axis_span(0))
            || !self.has_axis(by, by_span, "`by`", axis, checked.axis_span(0))
        {
            return None;
        }
        let dims = self.builder.dims(x);
        if let Some(extra) = self.builder.dims(by).into_iter().find(|dim| !dims.contains(dim)) {
            let message = format!("`by` has an axis `{}`, which the argument lacks", self.builder.graph.axis(extra).name);
            self.diagnostics.push(
                Diagnostic::new("partita::axis::missing", message)
                    .label(by_span, self.shown(&self.builder.dims(by)))
                    .label(span, format!("has axes {}", self.shown(&dims))),
            );
            return None;
        }
        let Some(short) = checked.axes.get(1).copied() else { return Some(self.builder.top(name, x, by, axis, axis)) };
        if !self.is_new(&dims, short, checked, 1) {
            return None;
        }
        let (of, first) = (self.size(axis)?, self.size(short)?);
        if first > of {
            let names = [axis, short].map(|axis| self.builder.graph.axis(axis).name.clone());
            self.diagnostics.push(
                Diagnostic::new("partita::number::out_of_range", format!("there are no {first} first ones of {of}"))
                    .label(checked.axis_span(1), format!("`{}` has size {first}", names[1]))
                    .label(checked.axis_span(0), format!("`{}` has size {of}", names[0])),
            );
            return None;
        }
        Some(self.builder.top(name, x, by, axis, short))
    }

    pub(super) fn nth(&mut self, checked: &Checked<'a>, name: &str) -> Option<ValueId> {
        let ((condition, span), axis, place) = (checked.tensors[0], checked.axes[0], checked.axes[1]);
        let dims = self.builder.dims(condition);
        if !self.has_axis(condition, span, "the condition", axis, checked.axis_span(0)) || !self.is_new(&dims, place, checked, 1) {
            return None;
        }
        let result: Vec<AxisId> = dims.iter().map(|dim| if *dim == axis { place } else { *dim }).collect();
        self.fits(&result, checked.span).then(|| self.builder.nth(name, condition, axis, place))
    }

    pub(super) fn scatter(&mut self, checked: &Checked<'a>, name: &str) -> Option<ValueId> {
        let (x, span) = checked.tensors[0];
        let place = checked.place.as_ref()?;
        let [axis, summed @ ..] = &checked.axes[..] else { return None };
        let dims = self.builder.dims(x);
        if summed.is_empty() {
            self.diagnostics.push(
                Diagnostic::new("partita::call::wrong_axes", "`scatter` needs the axes that it sums over")
                    .label(checked.call.name.span, "in this call")
                    .help("first where to, then what is summed: `scatter[seq, experts, slot](y, place)`"),
            );
            return None;
        }
        for (position, one) in summed.iter().enumerate() {
            if !self.has_axis(x, span, "the argument", *one, checked.axis_span(position + 1)) {
                return None;
            }
        }
        if !self.is_new(&dims, *axis, checked, 0) {
            return None;
        }
        if let Some(extra) = place.dims.iter().find(|dim| !dims.contains(dim)) {
            let message = format!("the argument has no axis `{}`, which the indices have", self.builder.graph.axis(*extra).name);
            self.diagnostics.push(
                Diagnostic::new("partita::axis::missing", message)
                    .label(span, format!("has axes {}", self.shown(&dims)))
                    .label(place.span, format!("has axes {}", self.shown(&place.dims))),
            );
            return None;
        }
        let result: Vec<AxisId> = dims.iter().filter(|dim| !summed.contains(dim)).chain([axis]).copied().collect();
        self.fits(&result, checked.span).then(|| self.builder.scatter(name, x, &place.part, *axis, summed))
    }

    pub(super) fn jitter(&mut self, checked: &Checked<'a>) -> Option<ValueId> {
        let (width, span) = checked.numbers[0];
        let (width, salt) = self.draw(Draw::JITTER, width.to_f64(), span)?;
        Some(self.builder.jitter(checked.tensors[0].0, width, salt))
    }

    /// Whether a tensor of these axes has none of this name yet; a report if it has.
    pub(super) fn is_new(&mut self, dims: &[AxisId], axis: AxisId, checked: &Checked<'a>, position: usize) -> bool {
        let new = !dims.contains(&axis);
        if !new {
            let name = self.builder.graph.axis(axis).name.clone();
            self.diagnostics.push(
                Diagnostic::new("partita::axis::twice", format!("the argument has the axis `{name}` of the result already"))
                    .label(checked.tensors[0].1, format!("has axes {}", self.shown(dims)))
                    .label(checked.axis_span(position), "the result's"),
            );
        }
        new
    }
}
