//! Tensors put together and made longer: `concat`, `pad`, and `one_hot`.

use partita_ir::id::{AxisId, ValueId};

use super::Elaborator;
use super::call::{Checked, OptionValue};
use crate::diagnostics::{Diagnostic, plural};

/// Most elements in front of a tensor or behind it.
const FURTHEST: f64 = 1e12;

impl<'a> Elaborator<'a> {
    pub(super) fn concat(&mut self, checked: &Checked<'a>, name: &str) -> Option<ValueId> {
        let (whole, given) = checked.axes.split_last()?;
        let parts = self.part_axes(checked, given)?;
        let (first, first_span) = checked.tensors[0];
        let mut kept = self.builder.dims(first);
        kept.retain(|axis| *axis != parts[0]);
        for ((value, span), part) in checked.tensors.iter().zip(&parts) {
            let mut others = self.builder.dims(*value);
            others.retain(|axis| axis != part);
            if others.iter().any(|axis| !kept.contains(axis)) {
                let name = self.builder.graph.axis(*part).name.clone();
                self.diagnostics.push(
                    Diagnostic::new(
                        "partita::shape::argument_differs",
                        "tensors one behind the other have the other axes of the first, or fewer",
                    )
                    .label(*span, format!("has {} besides `{name}`", self.shown(&others)))
                    .label(first_span, format!("has {} besides its part", self.shown(&kept))),
                );
                return None;
            }
        }
        let whole_span = checked.axis_span(checked.axes.len() - 1);
        let whole_name = self.builder.graph.axis(*whole).name.clone();
        if kept.contains(whole) {
            self.diagnostics.push(
                Diagnostic::new("partita::axis::twice", format!("the tensors have the axis `{whole_name}` of the result already"))
                    .label(whole_span, "again")
                    .label(first_span, format!("has axes {}", self.shown(&self.builder.dims(first)))),
            );
            return None;
        }
        let sizes: Vec<u64> = parts.iter().map(|part| self.size(*part)).collect::<Option<_>>()?;
        let (sum, size) = (sizes.iter().fold(0u64, |sum, size| sum.saturating_add(*size)), self.size(*whole)?);
        if sum != size {
            let sizes: Vec<String> = sizes.iter().map(u64::to_string).collect();
            self.diagnostics.push(
                Diagnostic::new(
                    "partita::shape::size_differs",
                    format!("the parts have {} = {sum} elements and axis `{whole_name}` {size}", sizes.join(" + ")),
                )
                .label(whole_span, format!("{size} is not {sum}")),
            );
            return None;
        }
        let dims: Vec<AxisId> = kept.iter().copied().chain([*whole]).collect();
        let read: Vec<(ValueId, AxisId)> = checked.tensors.iter().map(|(value, _)| *value).zip(parts).collect();
        self.fits(&dims, checked.span).then(|| self.builder.concat(name, &read, *whole))
    }

    /// The axis that each of the tensors is read along: as the brackets say it, else the one that not all of them have.
    fn part_axes(&mut self, checked: &Checked<'a>, given: &[AxisId]) -> Option<Vec<AxisId>> {
        let count = checked.tensors.len();
        let parts: Vec<AxisId> = match given {
            [one] => vec![*one; count],
            [] => return self.own_axes(checked),
            several if several.len() == count => several.to_vec(),
            several => {
                let message = format!("{} stand before `->`, and there are {}", plural(several.len(), "axis"), plural(count, "tensor"));
                self.diagnostics.push(
                    Diagnostic::new("partita::call::wrong_axes", message)
                        .label(checked.call.name.span, "in this call")
                        .help("one axis for all of them, or one for each"),
                );
                return None;
            }
        };
        let has = |this: &mut Self, n: usize| {
            let (value, span) = checked.tensors[n];
            let written = if given.len() == 1 { 0 } else { n };
            this.has_axis(value, span, "the tensor", parts[n], checked.axis_span(written))
        };
        let all: Vec<bool> = (0..count).map(|n| has(self, n)).collect();
        all.iter().all(|has| *has).then_some(parts)
    }

    fn own_axes(&mut self, checked: &Checked<'a>) -> Option<Vec<AxisId>> {
        let dims: Vec<Vec<AxisId>> = checked.tensors.iter().map(|(value, _)| self.builder.dims(*value)).collect();
        let mut parts = Vec::new();
        for (own, (_, span)) in dims.iter().zip(&checked.tensors) {
            let left: Vec<AxisId> = own.iter().copied().filter(|axis| !dims.iter().all(|other| other.contains(axis))).collect();
            let [part] = left[..] else {
                let whole = checked.call.axes.as_ref().and_then(|names| names.last()).map_or("whole", |name| &name.text);
                self.diagnostics.push(
                    Diagnostic::new("partita::axis::missing", "which axis this tensor is put behind the others along is not clear")
                        .label(*span, format!("has axes {}", self.shown(own)))
                        .help(format!(
                            "one axis of each tensor is not an axis of all, or the brackets say it: `concat[half -> {whole}](a, b)`"
                        )),
                );
                return None;
            };
            parts.push(part);
        }
        Some(parts)
    }

    pub(super) fn pad(&mut self, checked: &Checked<'a>, name: &str) -> Option<ValueId> {
        let ((x, span), axis, wider) = (checked.tensors[0], checked.axes[0], checked.axes[1]);
        if !self.has_axis(x, span, "the argument", axis, checked.axis_span(0)) || !self.is_new(&self.builder.dims(x), wider, checked, 1) {
            return None;
        }
        let (before, after) = (self.count_option(checked, "before")?, self.count_option(checked, "after")?);
        let OptionValue::Number(fill, _) = self.option(checked, "value") else { return None };
        let (size, wide) = (self.size(axis)? as i64, self.size(wider)? as i64);
        if before + size + after != wide {
            let names = [axis, wider].map(|axis| self.builder.graph.axis(axis).name.clone());
            self.diagnostics.push(
                Diagnostic::new(
                    "partita::shape::size_differs",
                    format!(
                        "`{}` has {size} elements, {} with those at its ends, and `{}` {wide}",
                        names[0],
                        before + size + after,
                        names[1]
                    ),
                )
                .label(checked.axis_span(1), format!("{before} + {size} + {after} is not {wide}"))
                .help(format!("`after = {}` would do", wide - size - before)),
            );
            return None;
        }
        let mut dims = self.builder.dims(x);
        dims.iter_mut().filter(|dim| **dim == axis).for_each(|dim| *dim = wider);
        self.fits(&dims, checked.span).then(|| self.builder.pad(name, x, (axis, wider), before, fill))
    }

    /// An option that counts elements.
    fn count_option(&mut self, checked: &Checked<'a>, name: &str) -> Option<i64> {
        let OptionValue::Number(value, span) = self.option(checked, name) else { return None };
        if value.fract() == 0.0 && (0.0..=FURTHEST).contains(&value) {
            return Some(value as i64);
        }
        self.diagnostics.push(
            Diagnostic::new("partita::number::out_of_range", format!("`{name}` is {value}, and must be a whole number, 0 or above"))
                .label(span.unwrap_or(checked.span), "counts elements"),
        );
        None
    }

    pub(super) fn one_hot(&mut self, checked: &Checked<'a>, name: &str) -> Option<ValueId> {
        let (place, axis) = (checked.place.as_ref()?, checked.axes[0]);
        if place.dims.contains(&axis) {
            let name = self.builder.graph.axis(axis).name.clone();
            self.diagnostics.push(
                Diagnostic::new("partita::axis::twice", format!("the indices have the axis `{name}` of the result already"))
                    .label(place.span, format!("has axes {}", self.shown(&place.dims)))
                    .label(checked.axis_span(0), "again"),
            );
            return None;
        }
        let dims: Vec<AxisId> = place.dims.iter().copied().chain([axis]).collect();
        self.fits(&dims, checked.span).then(|| self.builder.one_hot(name, &place.part, &place.dims, axis))
    }
}
