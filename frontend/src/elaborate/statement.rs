//! Statements: inputs, weights, assignments, repeats.

use std::collections::BTreeMap;

use partita_ir::axis::Role;
use partita_ir::build::Builder;
use partita_ir::graph::{Init, Source, Span};
use partita_ir::id::{AxisId, ValueId};

use super::Elaborator;
use super::scope::{Binding, Gone, Kind, What, under};
use crate::diagnostics::{Diagnostic, did_you_mean, listed};
use crate::evaluate::{Known, Num};
use crate::settings::twice;
use crate::syntax::{Call, Defines, Expr, ExprKind, Name, Statement, StatementKind};

/// Most iterations of a repeat.
const MOST_ITERATIONS: i64 = 100_000;
/// The words of weights' first values, and whether a number follows.
pub(crate) const INITS: [(&str, bool); 5] = [("normal", true), ("uniform", true), ("constant", true), ("zeros", false), ("ones", false)];

impl<'a> Elaborator<'a> {
    /// A statement of the file or of a body.
    pub(super) fn statement(&mut self, statement: &'a Statement) {
        if !self.step(statement.span) {
            return;
        }
        self.builder.span = Some(statement.span);
        match &statement.kind {
            StatementKind::Input { name, axes, source, token } => self.input(name, axes, source, token.as_ref()),
            StatementKind::Weight { name, axes, init, value, condition, trained } => {
                let kind = if *trained { Kind::Weight } else { Kind::State };
                self.weight(name, axes, (init, value.as_ref()), condition.as_ref(), kind);
            }
            StatementKind::Update { name, value } => self.update(name, value),
            StatementKind::Let { name, value } => self.let_known(name, value),
            StatementKind::Assert { condition, message } => self.assert(condition, message),
            StatementKind::For { name, over, body } => self.unroll(name, over, body),
            StatementKind::Axis { name, size, role } if self.frame().unrolled => self.unrolled_axis(name, size.as_ref(), role.as_ref()),
            StatementKind::Assign { name, value } => self.assign(name, value),
            StatementKind::Repeat { count, name, body } => self.repeat(count, name.as_ref(), body, statement.span),
            StatementKind::Scan(scan) => self.scan(scan, statement.span),
            StatementKind::Emit { name, axes, value } => self.emit_entry(name, axes, value, statement.span),
            StatementKind::If { condition, then, otherwise } => self.branches(condition, then, otherwise),
            StatementKind::Loss { name, value } => self.loss(name.as_ref(), value, statement.span),
            StatementKind::Return(_) => self.diagnostics.push(
                Diagnostic::new("partita::block::misplaced_return", "`return` stands last in a block and nowhere else")
                    .label(statement.span, "not the last line of a block"),
            ),
            StatementKind::Broken { defines: Defines::Tensor, name } => {
                if self.frame().names.get(&name.text).is_none_or(|binding| binding.kind == Kind::Variable) {
                    self.bind(&name.text, What::Broken, Kind::Variable, name.span);
                }
            }
            // read before the others
            StatementKind::Model(_)
            | StatementKind::Set { .. }
            | StatementKind::Axis { .. }
            | StatementKind::Block(_)
            | StatementKind::Op(_)
            | StatementKind::Use { .. }
            | StatementKind::Train(_)
            | StatementKind::Broken { .. } => {}
        }
    }

    /// Whether `name` may be given to an input, weight or result; a report if not.
    pub(super) fn may_define(&mut self, name: &Name, kind: Kind) -> bool {
        let taken = !self.frame().names.contains_key(&name.text) && !self.settings.is_switch(&name.text);
        if let Some(span) = self.settings.span(&name.text).filter(|_| taken) {
            self.diagnostics.push(
                Diagnostic::new("partita::name::twice", format!("`{}` is a setting", name.text))
                    .label(name.span, "a tensor cannot have its name")
                    .label(span, "set here"),
            );
            return false;
        }
        if let (Some((span, Gone::Branch { weight: true })), Kind::Weight) = (self.frame().gone.get(&name.text), kind) {
            let report = twice("weights", &name.text, name.span, *span);
            self.diagnostics.push(report.help("a weight has one place: declare it in the branches of one `if`"));
            return false;
        }
        let Some(Binding { kind: before, span, .. }) = self.frame().names.get(&name.text).cloned() else { return true };
        match (before, kind) {
            (Kind::Variable, Kind::Variable) => return true,
            (_, Kind::Variable) => self.diagnostics.push(
                Diagnostic::new("partita::name::not_assignable", format!("`{}` is {} and cannot be assigned", name.text, before.words()))
                    .label(name.span, "assigned here")
                    .label(span, "declared here")
                    .help("give the result another name"),
            ),
            _ => self.diagnostics.push(twice("tensors", &name.text, name.span, span)),
        }
        false
    }

    fn input(&mut self, name: &Name, axes: &[Name], source: &Name, token: Option<&Expr>) {
        if !self.may_define(name, Kind::Input) {
            return;
        }
        let dims = self.axis_list(axes);
        let from = self.source(source, token);
        let what = match (dims, from) {
            (Some(dims), Some(from)) if self.input_axes(axes, &dims, from) => What::Tensor(self.builder.input(&name.text, &dims, from)),
            _ => What::Broken,
        };
        self.bind(&name.text, what, Kind::Input, name.span);
    }

    /// The source of a word, and of the number that it is given.
    fn source(&mut self, source: &Name, token: Option<&Expr>) -> Option<Source> {
        let words = || Source::ALL.iter().map(|row| row.1);
        let Some(from) = Source::from_word(&source.text) else {
            self.diagnostics.push(
                Diagnostic::new("partita::input::unknown_source", format!("`{}` is no source of data", source.text))
                    .label(source.span, "unknown source")
                    .help(did_you_mean(&source.text, words(), || format!("sources are {}", listed(words())))),
            );
            return None;
        };
        match (from.number(), token) {
            (None, None) => Some(from),
            (Some(_), Some(expr)) => {
                let number = self.whole(expr, "the number of a source", 0, i64::from(i32::MAX))?;
                Some(from.with_number(i32::try_from(number).expect("it is within these bounds")))
            }
            (None, Some(expr)) => {
                self.diagnostics.push(
                    Diagnostic::new("partita::input::token", format!("`{}` takes no number", source.text))
                        .label(expr.span, "not needed here")
                        .help(format!("write `: {}`", source.text)),
                );
                None
            }
            (Some(_), None) => {
                self.diagnostics.push(
                    Diagnostic::new("partita::input::token", format!("`{}` takes a number, which is not given", source.text))
                        .label(source.span, "of which token, or from where?")
                        .help(format!(
                            "write `: {}(0)` with the token that separates documents or stands for hidden ones, or the position of the first",
                            source.text
                        )),
                );
                None
            }
        }
    }

    /// Inputs have the axes of their source, the first of them as large as the batch.
    fn input_axes(&mut self, names: &[Name], dims: &[AxisId], source: Source) -> bool {
        let roles: Option<Vec<Role>> = dims.iter().map(|axis| self.axes[axis].role).collect();
        // an axis without a known role was reported
        let Some(roles) = roles else { return false };
        if !source.takes(&roles) {
            let of = if matches!(source, Source::Pixels | Source::Labels) { format!(" of {}", source.word()) } else { String::new() };
            let mut diagnostic = Diagnostic::new("partita::input::axes", format!("an input{of} has {}", source.axes()));
            if let (Some(first), Some(last)) = (names.first(), names.last()) {
                diagnostic = diagnostic.label(crate::syntax::join(first.span, last.span), "not these");
            }
            for axis in dims {
                let entry = &self.axes[axis];
                if entry.role == Some(Role::None) {
                    diagnostic = diagnostic.label(entry.span, "declared without a role");
                }
            }
            let help = match source {
                Source::Pixels => "declare them as `axis batch : batch` and, say, `axis height = 32 : spatial`",
                Source::Labels => "declare it as `axis batch : batch`",
                _ => "declare them as `axis batch : batch` and `axis seq : seq`",
            };
            self.diagnostics.push(diagnostic.help(help));
            return false;
        }
        let (size, batch) = (self.size(dims[0]), self.section.batch.and_then(|batch| batch.whole()));
        if let (Some(size), Some(batch)) = (size, batch)
            && size != batch as u64
        {
            let entry = &self.axes[&dims[0]];
            let mut diagnostic = Diagnostic::new(
                "partita::train::batch_differs",
                format!("axis `{}` has size {size}, and the batch of the `train` section is {batch}", entry.name),
            )
            .label(entry.span, format!("of size {size}"));
            if let Some(span) = self.section.batch_span {
                diagnostic = diagnostic.label(span, format!("the batch is {batch}"));
            }
            self.diagnostics
                .push(diagnostic.help(format!("leave out the axis's own size, or write `axis {} = batch : batch`", entry.name)));
            return false;
        }
        true
    }

    /// A weight or state.
    fn weight(&mut self, name: &Name, axes: &[Name], (word, number): (&Name, Option<&Expr>), condition: Option<&Expr>, kind: Kind) {
        if !self.may_define(name, kind) {
            return;
        }
        let dims = self.axis_list(axes).filter(|dims| self.fits(dims, name.span));
        let dims = dims.filter(|dims| kind == Kind::Weight || self.has_no_samples(name, axes, dims));
        let init = self.init(word, number);
        let exists = condition.map_or(Some(true), |condition| self.truth(condition));
        let absent = match (condition, init) {
            (Some(condition), Some(Init::Normal(_) | Init::Uniform(_))) => {
                self.diagnostics.push(
                    Diagnostic::new("partita::weight::absent", format!("without `{}` there is no number to put in its place", name.text))
                        .label(word.span, "begins with random numbers")
                        .label(condition.span, "and need not exist")
                        .help("a weight with a condition begins as `zeros`, `ones` or `constant(value)`, the number that stands for it where it does not exist; declare others within an `if`"),
                );
                What::Broken
            }
            (_, Some(Init::Constant(value))) => What::Known(Known::Number(Num::of(value))),
            _ => What::Broken,
        };
        let what = match (dims, init, exists) {
            (Some(dims), Some(init), Some(true)) => {
                let leaf = self.leaf_name(&name.text);
                let kept = |b: &mut Builder| if kind == Kind::Weight { b.param(&leaf, &dims, init) } else { b.state(&leaf, &dims, init) };
                // all entries of a scan have the same weights
                What::Tensor(if self.scanned.is_some() { self.builder.outside(kept) } else { kept(&mut self.builder) })
            }
            (Some(_), Some(_), Some(false)) => absent,
            _ => What::Broken,
        };
        self.bind(&name.text, what, kind, name.span);
    }

    fn init(&mut self, word: &Name, value: Option<&Expr>) -> Option<Init> {
        let Some((_, takes)) = INITS.iter().find(|row| row.0 == word.text) else {
            let words = || INITS.iter().map(|row| row.0);
            let all = || "weights begin as `normal(deviation)`, `uniform(bound)`, `constant(value)`, `zeros` or `ones`".to_owned();
            self.diagnostics.push(
                Diagnostic::new("partita::weight::unknown_init", format!("`{}` is no way for a weight to begin", word.text))
                    .label(word.span, "unknown word")
                    .help(did_you_mean(&word.text, words(), all)),
            );
            return None;
        };
        if *takes != value.is_some() {
            let message = if *takes { format!("`{}` needs a number", word.text) } else { format!("`{}` takes no number", word.text) };
            let example = if *takes { format!("write `{}(0.02)`", word.text) } else { format!("write `{}`", word.text) };
            self.diagnostics.push(Diagnostic::new("partita::call::wrong_arguments", message).label(word.span, "here").help(example));
            return None;
        }
        let number = match value {
            Some(expr) => self.number(expr)?.to_f64(),
            None => 0.0,
        };
        Some(match word.text.as_str() {
            "zeros" => Init::Constant(0.0),
            "ones" => Init::Constant(1.0),
            "constant" => Init::Constant(number),
            word => {
                if number < 0.0 {
                    let span = value.map_or(Span { start: 0, end: 0 }, |expr| expr.span);
                    self.diagnostics.push(
                        Diagnostic::new(
                            "partita::number::out_of_range",
                            format!("the width of a distribution is {number}, and must be 0 or above"),
                        )
                        .label(span, "below 0"),
                    );
                    return None;
                }
                if word == "normal" { Init::Normal(number) } else { Init::Uniform(number) }
            }
        })
    }

    fn assign(&mut self, name: &Name, value: &'a Expr) {
        let value = self.tensor(value, &name.text);
        if self.may_define(name, Kind::Variable) {
            self.bind(&name.text, value.map_or(What::Broken, What::Tensor), Kind::Variable, name.span);
        }
    }

    fn repeat(&mut self, count: &Expr, name: Option<&Name>, body: &'a [Statement], span: Span) {
        let head = Span { start: span.start, end: name.map_or(count.span.end, |name| name.span.end) };
        if self.builder.within().is_some() {
            self.diagnostics.push(
                Diagnostic::new("partita::repeat::nested", "a repeat cannot run inside a repeat or scan")
                    .label(head, "inside another")
                    .help("multiply the counts, or write the inner body out"),
            );
            return;
        }
        let count = self.whole(count, "the count of this repeat", 1, MOST_ITERATIONS);
        let taken = self.taken(body);
        let called = taken.iter().find_map(|statement| self.block_call(statement));
        // the block that names the loop shares its name only if nothing else in the body could clash with it
        let own = |kind: &StatementKind| matches!(kind, StatementKind::Weight { .. } | StatementKind::For { .. });
        let own_weights = taken.iter().any(|statement| own(&statement.kind));
        let loop_name = match (name, called) {
            (Some(name), _) => name.text.clone(),
            (None, Some(called)) => called.name.text.clone(),
            (None, None) => "repeat".to_owned(),
        };
        let loop_block = called.filter(|_| name.is_none() && !own_weights).map(|called| called.name.text.clone());
        let path = self.unique_path(under(&self.frame().path, &loop_name));

        // what the body assigns and what existed before is carried
        let mut carried: Vec<(String, Binding)> = Vec::new();
        for name in taken.into_iter().flat_map(assigned) {
            let before = self.frame().names.get(&name.text).cloned().filter(|binding| binding.kind == Kind::Variable);
            if let Some(before) = before
                && matches!(before.what, What::Tensor(_))
                && carried.iter().all(|(known, _)| *known != name.text)
            {
                carried.push((name.text.clone(), before));
            }
        }
        let inits: Vec<ValueId> = carried.iter().filter_map(|(_, binding)| tensor_of(binding)).collect();
        let arguments = self.builder.begin_repeat(&path, count.unwrap_or(1) as u64, &inits);
        let outer = self.frame().names.clone();
        let frame = self.frame_mut();
        let (outer_path, outer_prefix) = (std::mem::replace(&mut frame.path, path), std::mem::take(&mut frame.prefix));
        frame.loop_block = loop_block;
        for ((name, binding), argument) in carried.iter().zip(&arguments) {
            self.bind(name, What::Tensor(*argument), Kind::Variable, binding.span);
        }
        for statement in body {
            self.statement(statement);
        }
        let mut nexts: Vec<ValueId> = carried.iter().zip(&arguments).map(|((name, _), argument)| self.next(name, *argument)).collect();
        let sums = self.summed_terms();
        nexts.extend(&sums);
        self.builder.span = Some(head);
        let mut results = self.builder.end_repeat(&nexts, false);
        self.repeated_terms(&results.split_off(carried.len()));
        let frame = self.frame_mut();
        (frame.path, frame.prefix, frame.loop_block) = (outer_path, outer_prefix, None);
        let inner: BTreeMap<String, Binding> = std::mem::replace(&mut frame.names, outer);
        for (name, binding) in inner {
            if !frame.names.contains_key(&name) {
                frame.gone.insert(name, (binding.span, Gone::Repeat));
            } else if let (What::Broken, Some(before)) = (&binding.what, frame.names.get_mut(&name)) {
                before.what = What::Broken;
            }
        }
        for ((name, _), result) in carried.iter().zip(results) {
            if let Some(Binding { what: what @ What::Tensor(_), .. }) = self.frame_mut().names.get_mut(name) {
                *what = What::Tensor(result);
            }
        }
    }

    /// What a body hands to the next iteration under `name`: of the type of `argument`, or a report.
    pub(super) fn next(&mut self, name: &str, argument: ValueId) -> ValueId {
        let Some(binding) = self.frame().names.get(name).cloned() else { return argument };
        let Some(value) = tensor_of(&binding) else { return argument };
        let (before, after) = (self.builder.graph.value(argument).ty.clone(), self.builder.graph.value(value).ty.clone());
        if before == after {
            return value;
        }
        let message = if before.dims == after.dims {
            format!("`{name}` is carried from iteration to iteration and changes its element type from {} to {}", before.dtype, after.dtype)
        } else {
            format!(
                "`{name}` is carried from iteration to iteration and changes its axes from {} to {}",
                self.shown(&before.dims),
                self.shown(&after.dims)
            )
        };
        self.diagnostics.push(
            Diagnostic::new("partita::repeat::carried_changes", message)
                .label(binding.span, format!("ends the iteration as {}", self.shown(&after.dims)))
                .help("a carried value begins and ends each iteration with the same axes in the same order; use another name for a value of one iteration"),
        );
        argument
    }

    /// The first block that a statement calls at its top.
    fn block_call(&self, statement: &'a Statement) -> Option<&'a Call> {
        let StatementKind::Assign { value, .. } = &statement.kind else { return None };
        self.block_in(value)
    }

    fn block_in(&self, expr: &'a Expr) -> Option<&'a Call> {
        match &expr.kind {
            ExprKind::Call(call) if self.block_names.contains_key(call.name.text.as_str()) => Some(call),
            ExprKind::Call(call) => call.arguments.iter().find_map(|argument| self.block_in(&argument.value)),
            ExprKind::Negate(inner) | ExprKind::Bracket(inner, _) => self.block_in(inner),
            ExprKind::Binary(_, left, right) => self.block_in(left).or_else(|| self.block_in(right)),
            _ => None,
        }
    }
}

/// The names that a statement may assign.
pub(super) fn assigned(statement: &Statement) -> Vec<&Name> {
    match &statement.kind {
        StatementKind::Assign { name, .. } => vec![name],
        StatementKind::If { then, otherwise, .. } => then.iter().chain(otherwise).flat_map(assigned).collect(),
        StatementKind::For { body, .. } => body.iter().flat_map(assigned).collect(),
        _ => Vec::new(),
    }
}

/// The tensor that a name is.
pub(super) fn tensor_of(binding: &Binding) -> Option<ValueId> {
    match binding.what {
        What::Tensor(value) => Some(value),
        _ => None,
    }
}
