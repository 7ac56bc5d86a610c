//! Calls: whose they are, and whether they have the axes, arguments and options of the operator table.

use partita_ir::graph::Span;
use partita_ir::id::{AxisId, ValueId};

use super::Elaborator;
use super::gather::Place;
use crate::diagnostics::{Diagnostic, did_you_mean, listed, plural};
use crate::evaluate::Num;
use crate::operators::{self, Axes, Form, Operator, OptionDefault, TABLE, Takes};
use crate::syntax::{Call, Expr, Name};

/// A call that fits its row of the table.
#[derive(Debug)]
pub(super) struct Checked<'a> {
    pub call: &'a Call,
    pub axes: Vec<AxisId>,
    /// The tensors among the arguments, with where they stand.
    pub tensors: Vec<(ValueId, Span)>,
    /// Where a table is read, for a call that reads one.
    pub place: Option<Place>,
    /// The numbers among the arguments.
    pub numbers: Vec<(Num, Span)>,
    /// Every option of the row.
    pub options: Vec<OptionValue<'a>>,
    pub span: Span,
}

/// The value of an option.
#[derive(Clone, Copy, Debug)]
pub(super) enum OptionValue<'a> {
    Number(f64, Option<Span>),
    Axis(Option<(AxisId, Span)>),
    Element(Option<&'a Expr>),
    Tensor(Option<(ValueId, Span)>),
}

impl Checked<'_> {
    /// Where the axis at a position in the brackets stands.
    pub(super) fn axis_span(&self, position: usize) -> Span {
        self.call.axes.as_ref().and_then(|axes| axes.get(position)).map_or(self.span, |axis| axis.span)
    }
}

impl<'a> Elaborator<'a> {
    /// A call of a block, of the file's operator, or of the table's; the result is called `name` where one operator
    /// makes it.
    pub(super) fn call(&mut self, call: &'a Call, span: Span, name: &str) -> Option<ValueId> {
        if !self.step(span) {
            return None;
        }
        if let Some(entry) = self.ops.get(call.name.text.as_str()).copied() {
            return self.own_op(entry.op, call, span, name);
        }
        if let Some(index) = self.block_names.get(call.name.text.as_str()).copied() {
            return self.block(index, call, span);
        }
        if self.broken_calls.contains(call.name.text.as_str()) {
            return None;
        }
        let Some(row) = operators::find(&call.name.text, call.axes.is_some()) else {
            self.unknown_function(&call.name);
            return None;
        };
        // the arithmetic inside a reduction becomes part of it
        if let (Form::Fold(_) | Form::Mean, Some(_), [argument]) = (row.form, &call.axes, call.arguments.as_slice())
            && argument.name.is_none()
        {
            return self.fold(row, call, &argument.value, span, name);
        }
        let checked = self.checked(row, call, span)?;
        self.builder.span = Some(span);
        self.operator(row, &checked, name)
    }

    fn unknown_function(&mut self, name: &Name) {
        let mut known: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
        known.extend(self.block_names.keys());
        known.extend(self.ops.keys());
        known.sort_unstable();
        known.dedup();
        let help =
            did_you_mean(&name.text, known.iter().copied(), || format!("there are {}; `op` and `block` define others", listed(&known)));
        self.diagnostics.push(
            Diagnostic::new("partita::call::unknown_function", format!("nothing that can be called is named `{}`", name.text))
                .label(name.span, "unknown function")
                .help(help),
        );
    }

    /// The axes, arguments and options of a call, all of them looked at whatever is wrong with the others.
    pub(super) fn checked(&mut self, row: &'static Operator, call: &'a Call, span: Span) -> Option<Checked<'a>> {
        let axes = self.bracket_axes(row, call);
        let (positional, named): (Vec<_>, Vec<_>) = call.arguments.iter().partition(|argument| argument.name.is_none());
        let many = row.arguments.iter().any(|argument| argument.takes == Takes::Tensors);
        let fits = if many { positional.len() >= row.arguments.len() } else { positional.len() == row.arguments.len() };
        let (mut tensors, mut numbers, mut place, mut whole) = (Vec::new(), Vec::new(), None, fits);
        if !fits {
            self.diagnostics.push(operators::wrong_arguments(row, positional.len(), span));
        }
        for (position, argument) in positional.iter().enumerate() {
            let takes = row.arguments.get(position).or(row.arguments.last()).map_or(Takes::Tensor, |argument| argument.takes);
            let at = argument.value.span;
            if takes == Takes::Number {
                match self.number(&argument.value) {
                    Some(value) => numbers.push((value, at)),
                    None => whole = false,
                }
                continue;
            }
            if takes == Takes::Places {
                place = self.place(&argument.value);
                whole &= place.is_some();
                continue;
            }
            let name = row.arguments.get(position).map_or(row.name, |argument| argument.name);
            match self.tensor(&argument.value, name) {
                Some(value) if takes == Takes::Integers => {
                    whole &= self.is_integer(value, at);
                    tensors.push((value, at));
                }
                Some(value) => {
                    whole &= self.is_float(value, at);
                    tensors.push((value, at));
                }
                None => whole = false,
            }
        }
        let mut options: Vec<OptionValue<'a>> = row
            .options
            .iter()
            .map(|option| match option.default {
                OptionDefault::Number(value) => OptionValue::Number(value, None),
                OptionDefault::Axis => OptionValue::Axis(None),
                OptionDefault::Element(_) => OptionValue::Element(None),
                OptionDefault::Tensor => OptionValue::Tensor(None),
            })
            .collect();
        for argument in named {
            let Some(name) = &argument.name else { continue };
            let Some(position) = row.options.iter().position(|option| option.name == name.text) else {
                self.unknown_option(row, name);
                whole = false;
                continue;
            };
            let at = argument.value.span;
            let value = match options[position] {
                OptionValue::Number(..) => self.number(&argument.value).map(|value| OptionValue::Number(value.to_f64(), Some(at))),
                OptionValue::Axis(_) => self.axis_option(&argument.value).map(|axis| OptionValue::Axis(Some((axis, at)))),
                OptionValue::Tensor(_) => self
                    .tensor(&argument.value, &name.text)
                    .filter(|value| self.is_float(*value, at))
                    .map(|value| OptionValue::Tensor(Some((value, at)))),
                // what it may be depends on the arguments
                OptionValue::Element(_) => Some(OptionValue::Element(Some(&argument.value))),
            };
            match value {
                Some(value) => options[position] = value,
                None => whole = false,
            }
        }
        if whole { Some(Checked { call, axes: axes?, tensors, place, numbers, options, span }) } else { None }
    }

    pub(super) fn bracket_axes(&mut self, row: &Operator, call: &Call) -> Option<Vec<AxisId>> {
        let names: &[Name] = call.axes.as_deref().unwrap_or(&[]);
        let windows = !call.windows.is_empty();
        let (wanted, fits) = match row.axes {
            Axes::None => ("no brackets".to_owned(), call.axes.is_none()),
            Axes::Exactly(parts) => (format!("{} in brackets", plural(parts.len(), "axis")), names.len() == parts.len()),
            Axes::Some => ("at least 1 axis in brackets".to_owned(), !names.is_empty()),
            Axes::Result => ("the result's axes in brackets".to_owned(), call.axes.is_some() && !windows),
            Axes::Windows => ("axes seen through windows in brackets".to_owned(), windows),
            Axes::Arrow => ("`[axis -> wider]` in brackets".to_owned(), names.len() == 2 && call.arrow == Some(1)),
            Axes::Whole => {
                let fits = if call.arrow.is_some() { call.arrow == Some(names.len().saturating_sub(1)) } else { names.len() == 1 };
                ("`[whole]` or `[part, ... -> whole]` in brackets".to_owned(), fits)
            }
        };
        let arrow = matches!(row.axes, Axes::Arrow | Axes::Whole);
        if !fits || (call.arrow.is_some() && !arrow) {
            self.diagnostics.push(
                Diagnostic::new("partita::call::wrong_axes", format!("`{}` takes {wanted}", row.name))
                    .label(call.name.span, "in this call")
                    .help(format!("{}: {}", row.signature(), row.doc)),
            );
            return None;
        }
        match row.axes {
            // parts may have an axis in common
            Axes::Whole => names.iter().map(|name| self.axis(name)).collect(),
            _ => self.axis_list(names),
        }
    }

    pub(super) fn unknown_option(&mut self, row: &Operator, name: &Name) {
        let names = || row.options.iter().map(|option| option.name);
        let all = || {
            if row.options.is_empty() {
                format!("`{}` has no options: {}", row.name, row.signature())
            } else {
                format!("`{}` takes {}", row.name, listed(names()))
            }
        };
        self.diagnostics.push(
            Diagnostic::new("partita::call::unknown_option", format!("`{}` is no option of `{}`", name.text, row.name))
                .label(name.span, "unknown option")
                .help(did_you_mean(&name.text, names(), all)),
        );
    }

    pub(super) fn is_integer(&mut self, value: ValueId, span: Span) -> bool {
        let dtype = self.builder.graph.value(value).ty.dtype;
        let integers = !dtype.is_float();
        if !integers {
            self.diagnostics.push(
                Diagnostic::new("partita::dtype::not_integers", "integers are needed here")
                    .label(span, format!("elements are of type {dtype}"))
                    .help("inputs are integers, and `gather` also takes arithmetic of `index[axis]`: `input tokens[batch, seq] : tokens`"),
            );
        }
        integers
    }
}
