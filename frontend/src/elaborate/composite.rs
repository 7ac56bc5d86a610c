//! The operators of the table, as primitives: what each of them asks of its axes, and the call of the builder.

use partita_ir::graph::Span;
use partita_ir::id::{AxisId, ValueId};
use partita_ir::library::{Pointwise, Scores};
use partita_ir::random::salt_of;
use partita_ir::rule::Reduce;

use super::Elaborator;
use super::call::{Checked, OptionValue};
use super::element::{Element, Fusion};
use super::scope::under;
use crate::diagnostics::Diagnostic;
use crate::operators::{self, Form, Operator};
use crate::syntax::{Call, Expr};

/// What draws random numbers, in its own words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    name: &'static str,
    number: &'static str,
    is: &'static str,
}

impl Draw {
    pub(super) const DROPOUT: Draw = Draw { name: "dropout", number: "rate of dropout", is: "the share of elements that become 0" };
    pub(super) const JITTER: Draw = Draw { name: "jitter", number: "width of jitter", is: "how far from 1 a factor may be" };
}

/// Most operands of a contraction.
const MOST_OPERANDS: usize = 32;

impl<'a> Elaborator<'a> {
    /// The operator of a checked call.
    pub(super) fn operator(&mut self, row: &Operator, checked: &Checked<'a>, name: &str) -> Option<ValueId> {
        match row.form {
            Form::Einsum => self.einsum(checked, name),
            Form::Conv => self.conv(checked, name),
            Form::Pool(pool) => self.pool(pool, checked, name),
            Form::Gather => self.gather(checked, name),
            Form::ArgMax => self.argmax(checked),
            Form::Softmax => self.along(checked).map(|(x, axis)| self.builder.softmax(x, axis)),
            Form::LayerNorm => {
                let eps = self.positive(checked, "eps")?;
                self.along(checked).map(|(x, axis)| self.builder.layer_norm(x, axis, eps))
            }
            Form::RmsNorm => {
                let eps = self.positive(checked, "eps")?;
                self.along(checked).map(|(x, axis)| self.builder.rms_norm(x, axis, eps))
            }
            Form::Rotary => self.rotary(checked),
            Form::Dropout => {
                let (rate, span) = checked.numbers[0];
                let (rate, salt) = self.draw(Draw::DROPOUT, rate.to_f64(), span)?;
                Some(self.builder.dropout(checked.tensors[0].0, rate, salt))
            }
            Form::Concat => self.concat(checked, name),
            Form::Pad => self.pad(checked, name),
            Form::OneHot => self.one_hot(checked, name),
            Form::Rank => self.rank(checked, name),
            Form::Sort => self.sort(checked, name),
            Form::RunningSum => self.along(checked).map(|(x, axis)| self.builder.running_sum(name, x, axis)),
            Form::Nth => self.nth(checked, name),
            Form::Scatter => self.scatter(checked, name),
            Form::Jitter => self.jitter(checked),
            Form::Attention => self.attention(checked),
            Form::CrossEntropy => {
                self.diagnostics.push(
                    Diagnostic::new("partita::loss::misplaced", "`cross_entropy` gives a sum and a count, which only `loss` takes")
                        .label(checked.span, "not behind `loss`")
                        .help("write `loss cross_entropy[vocab](logits, targets)`"),
                );
                None
            }
            // a call of these that gets here does not fit the table
            Form::Unary(_) | Form::Binary(_) | Form::Function(_) | Form::Function2(_) | Form::Where | Form::Fold(_) | Form::Mean => None,
        }
    }

    fn einsum(&mut self, checked: &Checked<'a>, name: &str) -> Option<ValueId> {
        let operands: Vec<ValueId> = checked.tensors.iter().map(|(value, _)| *value).collect();
        if operands.len() > MOST_OPERANDS {
            self.diagnostics.push(
                Diagnostic::new("partita::size::too_large", format!("`einsum` takes at most {MOST_OPERANDS} tensors"))
                    .label(checked.span, "here"),
            );
            return None;
        }
        let all = self.builder.union_dims(&operands);
        for (position, axis) in checked.axes.iter().enumerate() {
            if !all.contains(axis) {
                let message = format!("no operand has axis `{}` of the result", self.builder.graph.axis(*axis).name);
                let mut diagnostic = Diagnostic::new("partita::axis::missing", message).label(checked.axis_span(position), "in the result");
                for (value, span) in &checked.tensors {
                    diagnostic = diagnostic.label(*span, self.shown(&self.builder.dims(*value)));
                }
                self.diagnostics.push(diagnostic);
                return None;
            }
        }
        if !self.fits(&checked.axes, checked.span) {
            return None;
        }
        Some(self.builder.einsum(name, &operands, &checked.axes))
    }

    fn argmax(&mut self, checked: &Checked<'a>) -> Option<ValueId> {
        let ((x, span), axis, pair) = (checked.tensors[0], checked.axes[0], checked.axes[1]);
        if !self.has_axis(x, span, "the argument", axis, checked.axis_span(0)) {
            return None;
        }
        let name = self.builder.graph.axis(pair).name.clone();
        if self.builder.dims(x).contains(&pair) {
            self.diagnostics.push(
                Diagnostic::new("partita::axis::twice", format!("the argument has the axis `{name}` of the result already"))
                    .label(span, self.shown(&self.builder.dims(x)))
                    .label(checked.axis_span(1), "a new axis of size 2 is needed here"),
            );
            return None;
        }
        if self.size(pair)? != 2 {
            self.diagnostics.push(
                Diagnostic::new(
                    "partita::shape::size_differs",
                    format!("axis `{name}` has size {}, and the pair (largest, its index) has size 2", self.builder.graph.size(pair)),
                )
                .label(checked.axis_span(1), "of another size")
                .help("declare an axis for it: `axis pair = 2`"),
            );
            return None;
        }
        Some(self.builder.argmax(x, axis, pair))
    }

    /// The argument and the one axis of an operator that works along an axis.
    fn along(&mut self, checked: &Checked<'a>) -> Option<(ValueId, AxisId)> {
        let ((x, span), axis) = (checked.tensors[0], checked.axes[0]);
        self.has_axis(x, span, "the argument", axis, checked.axis_span(0)).then_some((x, axis))
    }

    fn rotary(&mut self, checked: &Checked<'a>) -> Option<ValueId> {
        let ((x, span), seq, axis) = (checked.tensors[0], checked.axes[0], checked.axes[1]);
        let base = self.positive(checked, "base")?;
        let has = (
            self.has_axis(x, span, "the argument", seq, checked.axis_span(0)),
            self.has_axis(x, span, "the argument", axis, checked.axis_span(1)),
        );
        if has != (true, true) {
            return None;
        }
        let size = self.size(axis)?;
        if size % 2 != 0 {
            let name = self.builder.graph.axis(axis).name.clone();
            self.diagnostics.push(
                Diagnostic::new(
                    "partita::shape::does_not_divide",
                    format!("`rotary` pairs the halves of `{name}`, whose size {size} is odd"),
                )
                .label(checked.axis_span(1), format!("{size} = 2 × {}.5", size / 2))
                .help(format!("a size of {} or {} has halves", size - 1, size + 1)),
            );
            return None;
        }
        let OptionValue::Number(share, share_span) = self.option(checked, "share") else { return None };
        let turned = share * size as f64;
        if !(turned > 0.0 && turned <= size as f64 && turned % 2.0 == 0.0) {
            let name = self.builder.graph.axis(axis).name.clone();
            self.diagnostics.push(
                Diagnostic::new("partita::number::out_of_range", format!("a share of {share} of `{name}` is no number of pairs"))
                    .label(share_span.unwrap_or(checked.span), format!("{share} × {size} = {turned} elements"))
                    .help(format!("the share is above 0 and at most 1, and share × {size} is even")),
            );
            return None;
        }
        Some(self.builder.rotary(x, seq, axis, base, turned as u64))
    }

    fn attention(&mut self, checked: &Checked<'a>) -> Option<ValueId> {
        let [(query, query_span), (key, key_span), (value, value_span)] = checked.tensors[..] else { return None };
        let (past, dim) = (checked.axes[0], checked.axes[1]);
        let (past_span, dim_span) = (checked.axis_span(0), checked.axis_span(1));
        let has = [
            self.has_axis(query, query_span, "the query", dim, dim_span),
            self.has_axis(key, key_span, "the key", dim, dim_span),
            self.has_axis(key, key_span, "the key", past, past_span),
            self.has_axis(value, value_span, "the value", past, past_span),
        ];
        if has.contains(&false) {
            return None;
        }
        let (query_dims, key_dims) = (self.builder.dims(query), self.builder.dims(key));
        let past_name = self.builder.graph.axis(past).name.clone();
        if query_dims.contains(&past) {
            self.diagnostics.push(
                Diagnostic::new("partita::axis::twice", format!("the query has the key's position axis `{past_name}`"))
                    .label(query_span, format!("has axes {}", self.shown(&query_dims)))
                    .help("give keys and values a second name for positions: `axis past = seq : seq`, then `k[seq -> past]`"),
            );
            return None;
        }
        if let Some(extra) = key_dims.iter().find(|axis| **axis != past && !query_dims.contains(axis)) {
            let name = self.builder.graph.axis(*extra).name.clone();
            self.diagnostics.push(
                Diagnostic::new("partita::axis::missing", format!("the query has no axis `{name}`, which the key has"))
                    .label(query_span, format!("has axes {}", self.shown(&query_dims)))
                    .label(key_span, format!("has axes {}", self.shown(&key_dims)))
                    .help("keys have the query's axes, or fewer where queries share them, and their own axis of positions"),
            );
            return None;
        }
        let OptionValue::Axis(causal) = self.option(checked, "causal") else { return None };
        if let Some((axis, span)) = causal {
            if !self.has_axis(query, query_span, "the query", axis, span) {
                return None;
            }
            let name = self.builder.graph.axis(axis).name.clone();
            let (seq_size, past_size) = (self.size(axis)?, self.size(past)?);
            if axis == dim || seq_size != past_size {
                self.diagnostics.push(
                    Diagnostic::new(
                        "partita::shape::size_differs",
                        format!("causal attention compares positions: `{name}` has {seq_size} of them and `{past_name}` {past_size}"),
                    )
                    .label(span, format!("size {seq_size}"))
                    .label(past_span, format!("size {past_size}")),
                );
                return None;
            }
        }
        let dropout = match self.option(checked, "dropout") {
            OptionValue::Number(rate, span) => self.draw(Draw::DROPOUT, rate, span.unwrap_or(checked.span))?,
            _ => return None,
        };
        let mut out: Vec<AxisId> = query_dims.iter().copied().filter(|axis| *axis != dim).collect();
        out.extend(self.builder.dims(value).into_iter().filter(|axis| *axis != past && (*axis == dim || !query_dims.contains(axis))));
        let mut scores = query_dims.clone();
        scores.retain(|axis| *axis != dim);
        scores.push(past);
        if !self.fits(&out, checked.span) || !self.fits(&scores, checked.span) {
            return None;
        }
        let dropout = Some(dropout).filter(|(rate, _)| *rate > 0.0);
        let scale = match self.option(checked, "scale") {
            OptionValue::Number(0.0, None) => None,
            _ => Some(self.positive(checked, "scale")?),
        };
        let softcap = match self.option(checked, "softcap") {
            OptionValue::Number(0.0, _) => None,
            _ => Some(self.positive(checked, "softcap")?),
        };
        let bias = self.over_scores(checked, "bias", &scores)?;
        let mask = self.over_scores(checked, "mask", &scores)?;
        self.builder.span = Some(checked.span);
        let how = Scores { scale, softcap, bias, mask, causal: causal.map(|(axis, _)| axis), dropout };
        Some(self.builder.attention_by(query, key, value, past, dim, &how))
    }

    /// The expression of an option over scores of these axes; `Some(None)` where it changes nothing.
    fn over_scores(&mut self, checked: &Checked<'a>, option: &str, scores: &[AxisId]) -> Option<Option<Pointwise>> {
        let OptionValue::Element(Some(expr)) = self.option(checked, option) else { return Some(None) };
        let mut fusion = Fusion::default();
        let piece = match self.element(&mut fusion, expr)? {
            Element::Number(value) if (value.to_f64() != 0.0) == (option == "mask") => return Some(None),
            Element::Number(_) if option == "mask" => {
                self.diagnostics.push(
                    Diagnostic::new("partita::number::out_of_range", "this mask is 0, so that no position sees another")
                        .label(expr.span, "hides every score")
                        .help("a mask compares: `mask = index[seq] - index[past] < window`; without one nothing is hidden"),
                );
                return None;
            }
            Element::Number(value) => fusion.constant(value),
            Element::Piece(piece) => self.floats(&fusion, piece, expr.span)?,
        };
        if let Some(axis) = piece.dims.iter().find(|axis| !scores.contains(axis)) {
            let name = self.builder.graph.axis(*axis).name.clone();
            self.diagnostics.push(
                Diagnostic::new("partita::axis::missing", format!("the scores have no axis `{name}`, which their {option} has"))
                    .label(expr.span, format!("has axes {}", self.shown(&piece.dims)))
                    .help(format!("the scores have axes {}", self.shown(scores))),
            );
            return None;
        }
        Some(Some(fusion.finish(&piece)))
    }

    /// The sum and count of a cross-entropy.
    pub(super) fn cross_entropy(&mut self, call: &'a Call, span: Span) -> Option<(ValueId, ValueId)> {
        let row = operators::find("cross_entropy", true).expect("the table has it");
        let checked = self.checked(row, call, span)?;
        let ((logits, logits_span), (targets, targets_span)) = (checked.tensors[0], checked.tensors[1]);
        let vocab = checked.axes[0];
        if !self.has_axis(logits, logits_span, "the logits", vocab, checked.axis_span(0)) {
            return None;
        }
        let (dims, target_dims) = (self.builder.dims(logits), self.builder.dims(targets));
        let rest: Vec<AxisId> = dims.iter().copied().filter(|axis| *axis != vocab).collect();
        if rest.len() != target_dims.len() || rest.iter().any(|axis| !target_dims.contains(axis)) {
            self.diagnostics.push(
                Diagnostic::new(
                    "partita::shape::argument_differs",
                    format!("each of the logits' rows needs a target: targets of axes {}", self.shown(&rest)),
                )
                .label(targets_span, format!("has axes {}", self.shown(&target_dims)))
                .label(logits_span, format!("has axes {}", self.shown(&dims))),
            );
            return None;
        }
        let OptionValue::Number(ignore, _) = self.option(&checked, "ignore") else { return None };
        self.builder.span = Some(span);
        Some(self.builder.cross_entropy(logits, targets, vocab, ignore))
    }

    /// The value of an option that its row has.
    pub(super) fn option(&self, checked: &Checked<'a>, name: &str) -> OptionValue<'a> {
        let row = operators::find(&checked.call.name.text, true).expect("a checked call has a row");
        let position = row.options.iter().position(|option| option.name == name).expect("the row has the option");
        checked.options[position]
    }

    /// A number option that must be above 0.
    pub(super) fn positive(&mut self, checked: &Checked<'a>, name: &str) -> Option<f64> {
        let OptionValue::Number(value, span) = self.option(checked, name) else { return None };
        if value > 0.0 {
            return Some(value);
        }
        self.diagnostics.push(
            Diagnostic::new("partita::number::out_of_range", format!("`{name}` is {value}, and must be above 0"))
                .label(span.unwrap_or(checked.span), "here"),
        );
        None
    }

    /// The rate and the salt of a new draw. The salt is that of the draw's place in the model, so that changing one line
    /// leaves other draws as they were.
    pub(super) fn draw(&mut self, what: Draw, rate: f64, span: Span) -> Option<(f64, u64)> {
        let frame = self.frame_mut();
        frame.draws += 1;
        let salt = salt_of(&under(&frame.path, &format!("{}.{}", what.name, frame.draws)));
        if (0.0..1.0).contains(&rate) {
            return Some((rate, salt));
        }
        self.diagnostics.push(
            Diagnostic::new("partita::number::out_of_range", format!("the {} is {rate}, and must be 0 or above and below 1", what.number))
                .label(span, what.is),
        );
        None
    }

    /// A reduction of an expression, in one operator.
    pub(super) fn fold(&mut self, row: &Operator, call: &'a Call, argument: &'a Expr, span: Span, name: &str) -> Option<ValueId> {
        let axes = self.bracket_axes(row, call);
        let mut fusion = Fusion::default();
        let Element::Piece(piece) = self.element(&mut fusion, argument)? else {
            self.diagnostics.push(
                Diagnostic::new("partita::name::not_a_tensor", "a tensor is needed here, and this is a number")
                    .label(argument.span, "has no axes"),
            );
            return None;
        };
        let mut piece = self.floats(&fusion, piece, argument.span)?;
        let axes = axes?;
        for (position, axis) in axes.iter().enumerate() {
            if !piece.dims.contains(axis) {
                let message = format!("the argument has no axis `{}`", self.builder.graph.axis(*axis).name);
                let at = call.axes.as_ref().and_then(|names| names.get(position)).map_or(span, |name| name.span);
                self.diagnostics.push(
                    Diagnostic::new("partita::axis::missing", message)
                        .label(argument.span, format!("has axes {}", self.shown(&piece.dims)))
                        .label(at, "needed here"),
                );
                return None;
            }
        }
        let reduce = match row.form {
            Form::Fold(reduce) => reduce,
            _ => {
                let count: f64 = axes.iter().map(|axis| self.builder.graph.size(*axis) as f64).product();
                piece = fusion.scaled(&piece, 1.0 / count);
                Reduce::Sum
            }
        };
        let kept: Vec<AxisId> = piece.dims.iter().copied().filter(|axis| !axes.contains(axis)).collect();
        if !self.fits(&kept, span) {
            return None;
        }
        self.builder.span = Some(span);
        Some(self.emit(&fusion, &piece, Some((reduce, &axes)), name))
    }
}
