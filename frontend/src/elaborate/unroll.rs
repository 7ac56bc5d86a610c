//! What is decided when the model is compiled: `let`, `assert`, and `for`, whose body is written out once a round.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use partita_ir::graph::Span;

use super::Elaborator;
use super::scope::{Gone, Kind, What, under};
use crate::diagnostics::Diagnostic;
use crate::evaluate::{Found, Known, Num, Scope, Word, known, names_in};
use crate::settings::twice;
use crate::syntax::{Expr, ExprKind, Name, Over, Said, Statement};

/// Most rounds of a `for`.
const MOST_ROUNDS: i64 = 10_000;
/// Largest number that a `for` goes to.
const FURTHEST: i64 = 1 << 40;

/// A round of a `for`: what its name is, and what tells its weights and axes from those of other rounds.
struct Round {
    value: Known,
    label: String,
}

impl<'a> Elaborator<'a> {
    /// `let wide = 4 * hidden`
    pub(super) fn let_known(&mut self, name: &Name, value: &Expr) {
        // those of the file are read with its settings
        if self.settings.has_let(name.span) {
            return;
        }
        let value = self.reading(|this, diagnostics| known(value, this, diagnostics));
        if self.is_free(name) {
            self.bind(&name.text, value.map_or(What::Broken, What::Known), Kind::Number, name.span);
        }
    }

    /// Whether nothing that is known has this name here; a report if something has.
    fn is_free(&mut self, name: &Name) -> bool {
        let bound = self.frame().names.get(&name.text).map(|binding| binding.span);
        let first = bound.or_else(|| self.settings.span(&name.text));
        if let Some(first) = first {
            self.diagnostics.push(twice("things", &name.text, name.span, first));
        }
        first.is_none()
    }

    /// `assert hidden > heads, "{hidden} is too small"`
    pub(super) fn assert(&mut self, condition: &Expr, message: &[Said]) {
        // what the message shows is looked at even where nothing is wrong
        let said: Option<Vec<String>> = message
            .iter()
            .map(|part| match part {
                Said::Text(text) => Some(text.clone()),
                Said::Value(expr) => self.reading(|this, diagnostics| known(expr, this, diagnostics)).map(|value| value.to_string()),
            })
            .collect();
        let (Some(false), Some(said)) = (self.truth(condition), said) else { return };
        let mut names = Vec::new();
        names_in(condition, &mut names);
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(*name));
        let values: Vec<String> = names
            .into_iter()
            .filter_map(|name| match self.find(name) {
                Found::Known(value) => Some(format!("{name} = {value}")),
                _ => None,
            })
            .collect();
        let told = if values.is_empty() { "this does not hold".to_owned() } else { format!("does not hold with {}", values.join(", ")) };
        self.diagnostics.push(Diagnostic::new("partita::assert::failed", said.concat()).label(condition.span, told));
    }

    /// `for stage in 0 .. stages { ... }`: names that existed before keep what the last round gave them, others end with
    /// their round.
    pub(super) fn unroll(&mut self, name: &Name, over: &Over, body: &'a [Statement]) {
        let rounds = self.rounds(over);
        if !self.is_free(name) {
            return;
        }
        let path = self.unique_path(under(&self.frame().path, &name.text));
        let last = path.rsplit('.').next().expect("a path has a last part").to_owned();
        let frame = self.frame_mut();
        let outer = (frame.path.clone(), frame.prefix.clone(), frame.unrolled, frame.loop_block.take());
        let (names, axes): (BTreeSet<String>, BTreeSet<String>) =
            (frame.names.keys().cloned().collect(), frame.axes.keys().cloned().collect());
        let gone = frame.gone.clone();
        frame.unrolled = true;
        let mut ended: BTreeMap<String, Span> = BTreeMap::new();
        for round in rounds.unwrap_or_default() {
            if !self.step(name.span) {
                break;
            }
            let frame = self.frame_mut();
            frame.path = format!("{path}.{}", round.label);
            frame.prefix = format!("{}{last}.{}.", outer.1, round.label);
            self.bind(&name.text, What::Known(round.value), Kind::Number, name.span);
            self.nested(name.span, |this| {
                body.iter().for_each(|statement| this.statement(statement));
                Some(())
            });
            let known = |axis: &String| axes.contains(axis) || self.axis_names.contains_key(axis);
            let kept_axes = self.frame().axes.iter().filter(|(axis, _)| known(axis)).map(|(axis, id)| (axis.clone(), *id)).collect();
            let frame = self.frame_mut();
            frame.axes = kept_axes;
            frame.gone.clone_from(&gone);
            let inner: Vec<(String, Span)> = frame
                .names
                .iter()
                .filter(|(known, _)| !names.contains(*known))
                .map(|(known, binding)| (known.clone(), binding.span))
                .collect();
            for (inner, span) in inner {
                frame.names.remove(&inner);
                ended.insert(inner, span);
            }
        }
        let frame = self.frame_mut();
        (frame.path, frame.prefix, frame.unrolled, frame.loop_block) = outer;
        frame.gone.extend(ended.into_iter().map(|(name, span)| (name, (span, Gone::For))));
    }

    /// What a `for` goes through.
    fn rounds(&mut self, over: &Over) -> Option<Vec<Round>> {
        match over {
            Over::Range(ends) => {
                let (first, end) = &**ends;
                let bound = |this: &mut Self, expr, what| this.whole(expr, what, 0, FURTHEST);
                let ends = (bound(self, first, "the first number of this `for`"), bound(self, end, "the end of this `for`"));
                let (first_number, end_number) = (ends.0?, ends.1?);
                let count = end_number.saturating_sub(first_number);
                self.few(count, end.span)?;
                let round = |number| Round { value: Known::Number(Num::Int(number)), label: number.to_string() };
                Some((first_number..end_number).map(round).collect())
            }
            Over::List(items) => {
                self.few(items.len() as i64, items.first()?.span)?;
                let values = if items.iter().all(|item| self.is_word(item)) { self.words(items) } else { self.values(items) };
                Some(values?.into_iter().enumerate().map(|(place, value)| Round { value, label: place.to_string() }).collect())
            }
        }
    }

    /// Whether there are not too many rounds; none after a report.
    fn few(&mut self, count: i64, span: Span) -> Option<()> {
        if count > MOST_ROUNDS {
            self.diagnostics.push(
                Diagnostic::new("partita::size::too_large", format!("a `for` of {count} rounds is written out {count} times"))
                    .label(span, format!("{MOST_ROUNDS} is the most"))
                    .help("a `repeat` is written out once, however often it runs"),
            );
            return None;
        }
        Some(())
    }

    /// Whether an item of a list is a name that nothing has: a word.
    fn is_word(&self, item: &Expr) -> bool {
        matches!(&item.kind, ExprKind::Name(name) if matches!(self.find(name), Found::Missing))
    }

    /// The words of a list, each of which could be any of them.
    fn words(&mut self, items: &[Expr]) -> Option<Vec<Known>> {
        let mut choices: Vec<String> = Vec::new();
        let texts = items.iter().filter_map(|item| match &item.kind {
            ExprKind::Name(name) => Some(name.clone()),
            _ => None,
        });
        let texts: Vec<String> = texts.collect();
        texts.iter().for_each(|text| {
            if !choices.contains(text) {
                choices.push(text.clone())
            }
        });
        Some(texts.into_iter().map(|text| Known::Word(Rc::new(Word { text, choices: choices.clone() }))).collect())
    }

    fn values(&mut self, items: &[Expr]) -> Option<Vec<Known>> {
        let values: Vec<Option<Known>> =
            items.iter().map(|item| self.reading(|this, diagnostics| known(item, this, diagnostics))).collect();
        values.into_iter().collect()
    }

    /// An axis of one round. If the name is that of an axis already, it is the new one from here on.
    pub(super) fn unrolled_axis(&mut self, name: &Name, size: Option<&Expr>, role: Option<&Name>) {
        let full = format!("{}.{}", self.frame().path, name.text);
        let full = self.unique_path(full);
        if let Some(id) = self.declare_axis(name, &full, size, role, false) {
            self.frame_mut().axes.insert(name.text.clone(), id);
        }
    }
}
