//! Operators of the file: one rule and one scalar expression. The letters of the rule are bound to axes at each call, by
//! position.

use std::collections::BTreeMap;

use partita_ir::graph::{Class, Span};
use partita_ir::id::{AxisId, ValueId};
use partita_ir::rule::Reduce;

use super::Elaborator;
use super::element::{Element, Fusion, Piece};
use super::scope::{Binding, Frame, Kind, What};
use crate::diagnostics::{Diagnostic, did_you_mean, listed, plural};
use crate::evaluate::{Found, Known, Scope, unknown_name};
use crate::operators;
use crate::settings::twice;
use crate::syntax::{Call, Expr, ExprKind, Name, Op, Parameter};

/// The reductions that a file's operator may have: those of single numbers.
fn reductions() -> impl Iterator<Item = (Reduce, &'static str)> {
    Reduce::ALL.into_iter().filter(|row| !row.0.is_tuple())
}

impl<'a> Elaborator<'a> {
    /// Whether the line makes sense by itself; reports if not.
    pub(super) fn check_op(&mut self, op: &'a Op) -> bool {
        let before = self.diagnostics.len();
        for (position, parameter) in op.parameters.iter().enumerate() {
            if let Some(first) = op.parameters[..position].iter().find(|known| known.name.text == parameter.name.text) {
                self.diagnostics.push(twice("arguments", &parameter.name.text, parameter.name.span, first.name.span));
            }
            for (place, letter) in parameter.axes.iter().flat_map(|axes| axes.names.iter().enumerate()) {
                let earlier = parameter.axes.as_ref().map_or(&[] as &[Name], |axes| &axes.names[..place]);
                if let Some(first) = earlier.iter().find(|known| known.text == letter.text) {
                    self.diagnostics.push(twice("axes of an argument", &letter.text, letter.span, first.span));
                }
            }
        }
        let mut letters: Vec<&str> =
            op.parameters.iter().flat_map(|parameter| letters_of(parameter).iter().map(|letter| letter.text.as_str())).collect();
        letters.sort_unstable();
        letters.dedup();
        let reduced: &[Name] = op.reduce.as_ref().map_or(&[], |(_, letters)| letters);
        for letter in op.result.names.iter().chain(reduced) {
            if !letters.contains(&letter.text.as_str()) {
                let all =
                    || if letters.is_empty() { "no argument has axes".to_owned() } else { format!("arguments have {}", listed(&letters)) };
                self.diagnostics.push(
                    Diagnostic::new("partita::op::unknown_letter", format!("no argument has an axis `{}`", letter.text))
                        .label(letter.span, "unknown here")
                        .help(did_you_mean(&letter.text, letters.iter().copied(), all)),
                );
            }
        }
        let placed: Vec<&Name> = op.result.names.iter().chain(reduced).collect();
        for (position, letter) in placed.iter().enumerate() {
            if let Some(first) = placed[..position].iter().find(|known| known.text == letter.text) {
                self.diagnostics.push(twice("axes of the result", &letter.text, letter.span, first.span));
            }
        }
        for letter in op.parameters.iter().flat_map(letters_of) {
            if placed.iter().all(|known| known.text != letter.text) {
                self.diagnostics.push(
                    Diagnostic::new("partita::op::lost_letter", format!("axis `{}` is neither in the result nor folded", letter.text))
                        .label(letter.span, "what becomes of it?")
                        .help(format!("add it to the result's axes, or fold it: `-> [...], sum {}`", letter.text)),
                );
                break;
            }
        }
        let rests = op.parameters.iter().filter_map(|parameter| parameter.axes.as_ref()).any(|axes| axes.rest.is_some());
        if rests != op.result.rest.is_some() {
            let message = if rests { "the result has no `..`, and an argument has" } else { "the result has `..`, and no argument has" };
            self.diagnostics.push(Diagnostic::new("partita::op::lost_letter", message).label(op.result.span, "here"));
        }
        if let Some((word, _)) = &op.reduce
            && reductions().all(|row| row.1 != word.text)
        {
            let words = || reductions().map(|row| row.1);
            self.diagnostics.push(
                Diagnostic::new("partita::op::unknown_reduction", format!("`{}` is no reduction", word.text))
                    .label(word.span, "unknown reduction")
                    .help(did_you_mean(&word.text, words(), || format!("reductions are {}", listed(words())))),
            );
        }
        if let Some(word) = &op.class
            && Class::from_word(&word.text).is_none()
        {
            let words = || Class::ALL.iter().map(|row| row.1);
            self.diagnostics.push(
                Diagnostic::new("partita::op::unknown_class", format!("`{}` is no class of operators", word.text))
                    .label(word.span, "unknown class")
                    .help(did_you_mean(&word.text, words(), || format!("classes are {}", listed(words())))),
            );
        }
        self.check_op_expr(op, &letters, &op.value);
        for (position, (name, value)) in op.derivatives.iter().enumerate() {
            self.check_derivative(op, position, name);
            self.check_op_expr(op, &letters, value);
        }
        self.diagnostics.len() == before
    }

    /// Whether a derivative is with respect to a tensor, once.
    fn check_derivative(&mut self, op: &Op, position: usize, name: &Name) {
        if let Some((first, _)) = op.derivatives[..position].iter().find(|(known, _)| known.text == name.text) {
            self.diagnostics.push(twice("derivatives", &name.text, name.span, first.span));
        }
        let tensors = || op.parameters.iter().filter(|parameter| parameter.axes.is_some()).map(|parameter| parameter.name.text.as_str());
        if tensors().all(|known| known != name.text) {
            let all = || format!("its tensors are {}", listed(tensors()));
            self.diagnostics.push(
                Diagnostic::new("partita::op::unknown_argument", format!("`{}` is no tensor of `{}`", name.text, op.name.text))
                    .label(name.span, "nothing to differentiate by")
                    .help(did_you_mean(&name.text, tensors(), all)),
            );
        }
    }

    /// The names and functions of an operator's expression.
    fn check_op_expr(&mut self, op: &Op, letters: &[&str], expr: &Expr) {
        match &expr.kind {
            ExprKind::Number(_) | ExprKind::Truth(_) | ExprKind::Logic(..) => {}
            ExprKind::Name(name) => {
                let own = letters.contains(&name.as_str()) || op.parameters.iter().any(|parameter| parameter.name.text == *name);
                let found = self.find(name);
                if !own && matches!(found, Found::Missing | Found::Later(_)) {
                    let mut known: Vec<String> = op.parameters.iter().map(|parameter| parameter.name.text.clone()).collect();
                    known.extend(self.names());
                    self.diagnostics.push(unknown_name(name, expr.span, found, &known));
                }
            }
            ExprKind::Index(axis) => {
                if !letters.contains(&axis.text.as_str()) {
                    let all = || format!("an operator speaks of its own axes: {}", listed(letters));
                    self.diagnostics.push(
                        Diagnostic::new("partita::op::unknown_letter", format!("no argument has an axis `{}`", axis.text))
                            .label(axis.span, "unknown here")
                            .help(did_you_mean(&axis.text, letters.iter().copied(), all)),
                    );
                }
            }
            ExprKind::Negate(inner) => self.check_op_expr(op, letters, inner),
            ExprKind::Binary(_, left, right) => {
                self.check_op_expr(op, letters, left);
                self.check_op_expr(op, letters, right);
            }
            ExprKind::Call(call) => {
                let row = operators::scalar(&call.name.text).filter(|_| call.axes.is_none());
                match row {
                    None => self.not_scalar(expr.span),
                    Some(row) if row.arguments.len() != call.arguments.len() => {
                        self.diagnostics.push(operators::wrong_arguments(row, call.arguments.len(), expr.span));
                    }
                    Some(_) => {}
                }
                for argument in &call.arguments {
                    self.check_op_expr(op, letters, &argument.value);
                }
            }
            ExprKind::Bracket(..) => self.not_scalar(expr.span),
        }
    }

    fn not_scalar(&mut self, span: Span) {
        self.diagnostics.push(
            Diagnostic::new("partita::op::not_scalar", "the expression of an `op` line is about one element")
                .label(span, "not a function of single elements")
                .help(format!("such functions are {}; use a `block` for anything else", listed(operators::scalars().map(|row| row.name)))),
        );
    }

    /// A call of an operator of the file.
    pub(super) fn own_op(&mut self, op: &'a Op, call: &'a Call, span: Span, name: &str) -> Option<ValueId> {
        let sound = self.ops.get(op.name.text.as_str()).is_some_and(|entry| entry.sound);
        let mut bound = Bound::default();
        let mut frame = Frame { path: self.frame().path.clone(), ..Frame::default() };
        let mut whole = sound;
        for (position, argument) in call.arguments.iter().enumerate() {
            if let Some(name) = &argument.name {
                self.diagnostics.push(
                    Diagnostic::new("partita::call::unknown_option", format!("operator `{}` has no options", op.name.text))
                        .label(name.span, "arguments of an operator have no names in a call"),
                );
                whole = false;
            }
            let Some(parameter) = op.parameters.get(position) else { continue };
            let what = match &parameter.axes {
                None => self.number(&argument.value).map(|value| What::Known(Known::Number(value))),
                Some(_) => self.tensor(&argument.value, &parameter.name.text).and_then(|value| {
                    let fits = sound && self.bind_letters(&mut bound, op, parameter, value, argument.value.span);
                    fits.then_some(What::Tensor(value))
                }),
            };
            match what {
                Some(what) => {
                    let binding = Binding { what, kind: Kind::Number, span: parameter.name.span };
                    frame.names.insert(parameter.name.text.clone(), binding);
                }
                None => whole = false,
            }
        }
        if call.arguments.len() != op.parameters.len() || call.axes.is_some() {
            let wanted = plural(op.parameters.len(), "argument");
            let message = format!("operator `{}` takes {wanted} and no brackets", op.name.text);
            self.diagnostics.push(
                Diagnostic::new("partita::call::wrong_arguments", message).label(span, "in this call").label(op.name.span, "declared here"),
            );
            return None;
        }
        if !whole {
            return None;
        }
        let axis = |letter: &Name| bound.letters.get(&letter.text).copied();
        let mut dims: Vec<AxisId> = op.result.names.iter().map(axis).collect::<Option<_>>()?;
        let rest = op.result.rest.unwrap_or(0).min(dims.len());
        dims.splice(rest..rest, bound.rest.iter().copied());
        let folded: Vec<AxisId> = op.reduce.iter().flat_map(|(_, letters)| letters).map(axis).collect::<Option<_>>()?;
        if !self.fits(&dims, span) {
            return None;
        }
        frame.axes = bound.letters.into_iter().collect();
        self.frames.push(frame);
        let mut fusion = Fusion::default();
        let element = self.element(&mut fusion, &op.value);
        let piece = match element {
            Some(Element::Piece(piece)) => self.floats(&fusion, piece, op.value.span),
            Some(Element::Number(value)) => Some(fusion.constant(value)),
            None => None,
        };
        let sloped = piece.and_then(|piece| self.sloped(&mut fusion, op, piece));
        self.frames.pop();
        let node = sloped?.node;
        let reduce = op.reduce.as_ref().and_then(|(word, _)| Reduce::from_word(&word.text));
        let class = op.class.as_ref().and_then(|word| Class::from_word(&word.text)).unwrap_or(self.builder.class);
        let piece = Piece { node, dims: dims.iter().chain(&folded).copied().collect() };
        self.builder.span = Some(span);
        let outer = std::mem::replace(&mut self.builder.class, class);
        let value = self.emit(&fusion, &piece, reduce.map(|reduce| (reduce, folded.as_slice())), name);
        self.builder.class = outer;
        Some(value)
    }

    /// The value of an operator with the derivatives that its lines say: those of `Σ derivative · argument`, in which the
    /// derivatives are constants. By other arguments it is differentiated as it is written.
    fn sloped(&mut self, fusion: &mut Fusion, op: &'a Op, value: Piece) -> Option<Piece> {
        if op.derivatives.is_empty() {
            return Some(value);
        }
        let said = |parameter: &Parameter| op.derivatives.iter().find(|(name, _)| name.text == parameter.name.text);
        let mut tensors = Vec::new();
        for parameter in op.parameters.iter().filter(|parameter| parameter.axes.is_some()) {
            let Some(What::Tensor(tensor)) = self.frame().names.get(&parameter.name.text).map(|binding| &binding.what) else { return None };
            let tensor = *tensor;
            let piece = fusion.operand(tensor, self.builder.dims(tensor));
            let slope = match said(parameter) {
                Some((_, slope)) => Some(match self.element(fusion, slope)? {
                    Element::Number(value) => fusion.constant(value),
                    Element::Piece(piece) => self.floats(fusion, piece, slope.span)?,
                }),
                None => None,
            };
            tensors.push((piece, slope));
        }
        Some(fusion.sloped(&value, &tensors))
    }

    /// Binds the letters of an argument to the axes of a tensor; `false` after a report.
    fn bind_letters(&mut self, bound: &mut Bound, op: &Op, parameter: &Parameter, value: ValueId, span: Span) -> bool {
        let Some(axes) = &parameter.axes else { return false };
        let dims = self.builder.dims(value);
        let count = axes.names.len();
        if dims.len() < count || (axes.rest.is_none() && dims.len() > count) {
            let wanted = if axes.rest.is_some() { format!("at least {}", plural(count, "axis")) } else { plural(count, "axis") };
            self.diagnostics.push(
                Diagnostic::new(
                    "partita::shape::argument_differs",
                    format!("`{}` declares `{}` with {wanted}, and it is given with {}", op.name.text, parameter.name.text, dims.len()),
                )
                .label(span, format!("has axes {}", self.shown(&dims)))
                .label(parameter.span(), "declared here"),
            );
            return false;
        }
        // letters before `..` take axes from the front, those behind it from the back
        let before = axes.rest.unwrap_or(count).min(count);
        let (front, others) = dims.split_at(before);
        let (rest, back) = others.split_at(others.len() - (count - before));
        for (letter, axis) in axes.names.iter().zip(front.iter().chain(back)) {
            let name = self.builder.graph.axis(*axis).name.clone();
            match bound.letters.get(&letter.text) {
                Some(known) if known == axis => continue,
                Some(known) => {
                    let known = self.builder.graph.axis(*known).name.clone();
                    self.diagnostics.push(
                        Diagnostic::new(
                            "partita::op::letter_differs",
                            format!("`{}` of `{}` is axis `{known}` in one argument and `{name}` in another", letter.text, op.name.text),
                        )
                        .label(span, format!("has axes {}", self.shown(&dims)))
                        .label(letter.span, format!("`{known}` by an earlier argument"))
                        .help(format!("rename one of them if they are the same: `x[{name} -> {known}]`")),
                    );
                    return false;
                }
                None => {}
            }
            if bound.rest.contains(axis) || bound.letters.values().any(|known| known == axis) {
                self.clash(op, &name, span, &dims);
                return false;
            }
            bound.letters.insert(letter.text.clone(), *axis);
        }
        for axis in rest {
            if bound.letters.values().any(|known| known == axis) {
                let name = self.builder.graph.axis(*axis).name.clone();
                self.clash(op, &name, span, &dims);
                return false;
            }
            if !bound.rest.contains(axis) {
                bound.rest.push(*axis);
            }
        }
        true
    }

    fn clash(&mut self, op: &Op, name: &str, span: Span, dims: &[AxisId]) {
        self.diagnostics.push(
            Diagnostic::new("partita::axis::twice", format!("axis `{name}` would stand for two axes of `{}`", op.name.text))
                .label(span, format!("has axes {}", self.shown(dims)))
                .label(op.name.span, "declared here")
                .help(format!("give one of them a second name: `axis {name}_2 = {name}`, then `x[{name} -> {name}_2]`")),
        );
    }
}

/// What the letters of an operator stand for in a call.
#[derive(Debug, Default)]
struct Bound {
    letters: BTreeMap<String, AxisId>,
    /// The axes that `..` stands for, in order of appearance.
    rest: Vec<AxisId>,
}

fn letters_of(parameter: &Parameter) -> &[Name] {
    parameter.axes.as_ref().map_or(&[], |axes| &axes.names)
}
