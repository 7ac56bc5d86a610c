//! What is known when a model is compiled: settings, sizes, rates, conditions.

use std::fmt;
use std::rc::Rc;

use partita_ir::graph::Span;
use partita_ir::scalar::Binary;

use crate::diagnostics::{Diagnostic, Diagnostics, did_you_mean, did_you_mean_of, listed};
use crate::operators::{self, Form};
use crate::syntax::{BinaryOp, Expr, ExprKind, Logic};

/// A number of the language. Whole numbers stay exact and within ±2^53, as f64 has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Num {
    Int(i64),
    Real(f64),
}

/// Largest whole number: f64 has all of them up to here.
const LARGEST: i64 = 1 << 53;

impl Num {
    /// The number that a token or the command line writes, with no sign.
    pub(crate) fn parse(text: &str) -> Option<Num> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            return text.parse().ok().filter(|value| *value <= LARGEST).map(Num::Int);
        }
        if !text.starts_with(|first: char| first.is_ascii_digit()) {
            return None;
        }
        text.parse().ok().filter(|value: &f64| value.is_finite()).map(Num::Real)
    }

    pub(crate) fn to_f64(self) -> f64 {
        match self {
            Num::Int(value) => value as f64,
            Num::Real(value) => value,
        }
    }

    /// The whole number that this is.
    pub(crate) fn whole(self) -> Option<i64> {
        match self {
            Num::Int(value) => Some(value),
            Num::Real(value) => (value.fract() == 0.0 && value.abs() <= LARGEST as f64).then_some(value as i64),
        }
    }

    /// The number that this is, whole if it can be.
    pub(crate) fn of(value: f64) -> Num {
        Num::Real(value).whole().map_or(Num::Real(value), Num::Int)
    }

    fn int(value: Option<i64>) -> Option<Num> {
        value.filter(|value| value.abs() <= LARGEST).map(Num::Int)
    }

    fn real(value: f64) -> Option<Num> {
        value.is_finite().then_some(Num::Real(value))
    }

    /// `op(a, b)`; `None` if that is no finite number.
    pub(crate) fn binary(op: Binary, a: Num, b: Num) -> Option<Num> {
        match (op, a, b) {
            (Binary::Add, Num::Int(a), Num::Int(b)) => Num::int(a.checked_add(b)),
            (Binary::Sub, Num::Int(a), Num::Int(b)) => Num::int(a.checked_sub(b)),
            (Binary::Mul, Num::Int(a), Num::Int(b)) => Num::int(a.checked_mul(b)),
            (Binary::Div, Num::Int(a), Num::Int(b)) if b != 0 && a % b == 0 => Some(Num::Int(a / b)),
            (Binary::Max, Num::Int(a), Num::Int(b)) => Some(Num::Int(a.max(b))),
            (Binary::Min, Num::Int(a), Num::Int(b)) => Some(Num::Int(a.min(b))),
            _ => {
                let value = op.eval(a.to_f64(), b.to_f64());
                let truth = matches!(op, Binary::Lt | Binary::Le | Binary::Eq | Binary::Ne);
                if truth { Some(Num::Int(value as i64)) } else { Num::real(value) }
            }
        }
    }

    /// A function of the operator table on numbers; `None` if that is no finite number.
    pub(crate) fn function(form: Form, arguments: &[Num]) -> Option<Num> {
        match (form, arguments) {
            (Form::Unary(partita_ir::scalar::Unary::Floor), [a]) => {
                let floor = a.to_f64().floor();
                if floor.abs() <= LARGEST as f64 { Some(Num::Int(floor as i64)) } else { Num::real(floor) }
            }
            (Form::Unary(op), [a]) => Num::real(op.eval(a.to_f64())),
            (Form::Binary(op), [a, b]) => Num::binary(op, *a, *b),
            (Form::Function(function), [a]) => {
                let expr = function(partita_ir::formula::x(0)).expr();
                Num::real(expr.eval(&[a.to_f64()], &[], &|_, _| 0.0, &mut Vec::new()))
            }
            (Form::Function2(function), [a, b]) => {
                let expr = function(partita_ir::formula::x(0), partita_ir::formula::x(1)).expr();
                let value = expr.eval(&[a.to_f64(), b.to_f64()], &[], &|_, _| 0.0, &mut Vec::new());
                let whole = a.whole().is_some() && b.whole().is_some();
                Num::real(value).map(|value| if whole { Num::of(value.to_f64()) } else { value })
            }
            (Form::Where, [c, a, b]) => Some(if c.to_f64() != 0.0 { *a } else { *b }),
            _ => None,
        }
    }

    pub(crate) fn negate(self) -> Num {
        match self {
            Num::Int(value) => Num::Int(-value),
            Num::Real(value) => Num::Real(-value),
        }
    }
}

/// As `--set` would take it.
impl fmt::Display for Num {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Num::Int(value) => write!(f, "{value}"),
            Num::Real(value) => write!(f, "{value:?}"),
        }
    }
}

/// What is known when a model is compiled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Known {
    Number(Num),
    Truth(bool),
    Word(Rc<Word>),
}

/// A word, and those that its setting may be.
#[derive(Debug, PartialEq)]
pub(crate) struct Word {
    pub text: String,
    pub choices: Vec<String>,
}

impl Known {
    /// The number that this is.
    pub(crate) fn number(&self) -> Option<Num> {
        match self {
            Known::Number(value) => Some(*value),
            _ => None,
        }
    }

    /// What kind of thing it is, for reports.
    fn kind(&self) -> &'static str {
        match self {
            Known::Number(_) => "a number",
            Known::Truth(_) => "true or false",
            Known::Word(_) => "a word",
        }
    }

    /// What it is, for labels.
    fn told(&self) -> String {
        match self {
            Known::Number(value) => format!("the number {value}"),
            Known::Truth(value) => format!("this is {value}"),
            Known::Word(word) => format!("the word `{}`", word.text),
        }
    }
}

/// As `--set` would take it.
impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Known::Number(value) => value.fmt(f),
            Known::Truth(value) => value.fmt(f),
            Known::Word(word) => word.text.fmt(f),
        }
    }
}

/// What a name means where something known is wanted.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Known(Known),
    /// Its own definition was wrong and has been reported.
    Broken,
    /// A tensor, defined here.
    Tensor(Span),
    /// Defined, but only further down.
    Later(Span),
    Missing,
}

/// The names that an expression may use.
pub(crate) trait Scope {
    /// What `name` means.
    fn find(&self, name: &str) -> Found;
    /// Where the value of `name` is set, and the value that `--set` put in its place, if it did.
    fn replaced(&self, name: &str) -> Option<(Span, Known)>;
    /// Every name, for suggestions.
    fn names(&self) -> Vec<String>;
}

/// The value of an expression, or `None` after a report. A comparison is true or false here.
pub(crate) fn known(expr: &Expr, scope: &dyn Scope, diagnostics: &mut Diagnostics) -> Option<Known> {
    match &expr.kind {
        ExprKind::Name(name) => match scope.find(name) {
            Found::Known(value) => Some(value),
            Found::Broken => None,
            Found::Tensor(defined) => {
                diagnostics.push(
                    Diagnostic::new("partita::name::not_a_number", format!("`{name}` is a tensor; a number is needed here"))
                        .label(expr.span, "known only when the model runs")
                        .label(defined, "defined here"),
                );
                None
            }
            found => {
                diagnostics.push(unknown_name(name, expr.span, found, &scope.names()));
                None
            }
        },
        ExprKind::Truth(value) => Some(Known::Truth(*value)),
        // what the first operand decides needs no second: `heads != 0 and hidden / heads > 64`
        ExprKind::Logic(logic, operands) => match (logic, operands.as_slice()) {
            (Logic::Not, [inner]) => truth(inner, scope, diagnostics).map(|value| Known::Truth(!value)),
            (_, [left, right]) => match truth(left, scope, diagnostics)? {
                value if value == (*logic == Logic::Or) => Some(Known::Truth(value)),
                _ => truth(right, scope, diagnostics).map(Known::Truth),
            },
            _ => unreachable!("`not` has one operand, `and` and `or` have two"),
        },
        ExprKind::Binary(op, left, right) if op.compares() => compare(*op, left, right, expr, scope, diagnostics).map(Known::Truth),
        _ => evaluate(expr, scope, diagnostics).map(Known::Number),
    }
}

/// The value of a condition, or `None` after a report.
pub(crate) fn truth(expr: &Expr, scope: &dyn Scope, diagnostics: &mut Diagnostics) -> Option<bool> {
    let value = known(expr, scope, diagnostics)?;
    if let Known::Truth(value) = value {
        return Some(value);
    }
    let shown = match &expr.kind {
        ExprKind::Name(name) => name.as_str(),
        _ => "...",
    };
    let other = if let Known::Number(_) = value { "0".to_owned() } else { value.to_string() };
    diagnostics.push(
        Diagnostic::new("partita::name::not_a_condition", "a condition is true or false")
            .label(expr.span, value.told())
            .help(format!("compare it: `{shown} != {other}`")),
    );
    None
}

/// A comparison: of two numbers, or whether two numbers, truths or words are the same.
fn compare(op: BinaryOp, left: &Expr, right: &Expr, whole: &Expr, scope: &dyn Scope, diagnostics: &mut Diagnostics) -> Option<bool> {
    if !matches!(op, BinaryOp::Eq | BinaryOp::Ne) {
        return evaluate(whole, scope, diagnostics).map(|value| value.to_f64() != 0.0);
    }
    for (one, other) in [(left, right), (right, left)] {
        let ExprKind::Name(setting) = &one.kind else { continue };
        match scope.find(setting) {
            Found::Known(Known::Word(word)) => {
                return is_word(setting, &word, other, scope, diagnostics).map(|same| same == (op == BinaryOp::Eq));
            }
            // what stands beside it may be a word
            Found::Broken => return None,
            _ => {}
        }
    }
    let sides = (known(left, scope, diagnostics), known(right, scope, diagnostics));
    let (a, b) = (sides.0?, sides.1?);
    match (&a, &b) {
        (Known::Number(a), Known::Number(b)) => binary(op, *a, *b, whole.span, diagnostics).map(|value| value.to_f64() != 0.0),
        (Known::Truth(a), Known::Truth(b)) => Some((a == b) == (op == BinaryOp::Eq)),
        _ => {
            diagnostics.push(
                Diagnostic::new("partita::name::not_comparable", format!("{} and {} are never the same", a.kind(), b.kind()))
                    .label(left.span, a.told())
                    .label(right.span, b.told()),
            );
            None
        }
    }
}

/// Whether the word of a setting is the one that `other` names.
fn is_word(setting: &str, word: &Word, other: &Expr, scope: &dyn Scope, diagnostics: &mut Diagnostics) -> Option<bool> {
    let choices = || word.choices.iter().map(String::as_str);
    let all = format!("it can be {}", listed(choices()));
    let ExprKind::Name(name) = &other.kind else {
        diagnostics.push(
            Diagnostic::new("partita::name::not_comparable", format!("`{setting}` is a word")).label(other.span, "not a word").help(all),
        );
        return None;
    };
    if choices().any(|choice| choice == name) {
        return Some(word.text == *name);
    }
    if let Found::Known(Known::Word(other)) = scope.find(name) {
        return Some(word.text == other.text);
    }
    diagnostics.push(
        Diagnostic::new("partita::name::unknown_word", format!("`{setting}` is never `{name}`"))
            .label(other.span, "not one of its words")
            .help(did_you_mean_of(name, choices(), all)),
    );
    None
}

/// The value of an expression that must be a number, or `None` after a report. A comparison is 1 or 0 here.
pub(crate) fn evaluate(expr: &Expr, scope: &dyn Scope, diagnostics: &mut Diagnostics) -> Option<Num> {
    match &expr.kind {
        ExprKind::Number(text) => literal(text, expr.span, diagnostics),
        ExprKind::Name(_) | ExprKind::Truth(_) | ExprKind::Logic(..) => {
            let value = known(expr, scope, diagnostics)?;
            if value.number().is_none() {
                diagnostics.push(not_a_number(&value, expr.span));
            }
            value.number()
        }
        ExprKind::Negate(inner) => evaluate(inner, scope, diagnostics).map(Num::negate),
        ExprKind::Binary(op, left, right) => {
            // both sides are looked at, so that both are reported
            let (left, right) = (evaluate(left, scope, diagnostics), evaluate(right, scope, diagnostics));
            binary(*op, left?, right?, expr.span, diagnostics)
        }
        ExprKind::Call(call) => {
            let row = operators::scalar(&call.name.text).filter(|_| call.axes.is_none());
            let Some(row) = row else {
                diagnostics.push(
                    Diagnostic::new("partita::name::not_a_number", format!("`{}` does not give a number", call.name.text))
                        .label(expr.span, "a number is needed here")
                        .help(format!("functions of numbers are {}", listed(operators::scalars().map(|row| row.name)))),
                );
                return None;
            };
            let values: Vec<Option<Num>> = call.arguments.iter().map(|argument| evaluate(&argument.value, scope, diagnostics)).collect();
            if values.len() != row.arguments.len() || call.arguments.iter().any(|argument| argument.name.is_some()) {
                diagnostics.push(operators::wrong_arguments(row, values.len(), expr.span));
                return None;
            }
            function(row.form, &values.into_iter().collect::<Option<Vec<Num>>>()?, expr.span, diagnostics)
        }
        ExprKind::Index(_) | ExprKind::Bracket(..) => {
            diagnostics
                .push(Diagnostic::new("partita::name::not_a_number", "this is a tensor; a number is needed here").label(expr.span, "here"));
            None
        }
    }
}

/// A report of a truth or a word where a number is needed.
pub(crate) fn not_a_number(value: &Known, span: Span) -> Diagnostic {
    Diagnostic::new("partita::name::not_a_number", format!("this is {}; a number is needed here", value.kind()))
        .label(span, value.told())
        .help("an `if` chooses by it: `if condition { ... } else { ... }`")
}

/// The value of a number's text.
pub(crate) fn literal(text: &str, span: Span, diagnostics: &mut Diagnostics) -> Option<Num> {
    let value = Num::parse(text);
    if value.is_none() {
        diagnostics.push(
            Diagnostic::new("partita::number::too_large", "this number is too large")
                .label(span, "whole numbers go up to 2^53, others to 1e308"),
        );
    }
    value
}

/// `op(a, b)` or a report.
pub(crate) fn binary(op: BinaryOp, a: Num, b: Num, span: Span, diagnostics: &mut Diagnostics) -> Option<Num> {
    if op == BinaryOp::Div && b.to_f64() == 0.0 {
        diagnostics.push(
            Diagnostic::new("partita::number::division_by_zero", format!("{a} is divided by zero")).label(span, "the divisor here is 0"),
        );
        return None;
    }
    let (scalar, swapped) = op.scalar();
    let value = if swapped { Num::binary(scalar, b, a) } else { Num::binary(scalar, a, b) };
    finite(value, span, diagnostics)
}

/// A function of numbers or a report.
pub(crate) fn function(form: Form, arguments: &[Num], span: Span, diagnostics: &mut Diagnostics) -> Option<Num> {
    finite(Num::function(form, arguments), span, diagnostics)
}

fn finite(value: Option<Num>, span: Span, diagnostics: &mut Diagnostics) -> Option<Num> {
    if value.is_none() {
        diagnostics.push(
            Diagnostic::new("partita::number::too_large", "the value of this expression is too large, or is no number")
                .label(span, "whole numbers go up to 2^53, others to 1e308"),
        );
    }
    value
}

/// A report of a name that means nothing here.
pub(crate) fn unknown_name(name: &str, span: Span, found: Found, known: &[String]) -> Diagnostic {
    let diagnostic = Diagnostic::new("partita::name::unknown", format!("nothing is named `{name}` here"));
    if let Found::Later(later) = found {
        return diagnostic
            .label(span, "used here")
            .label(later, "defined only here")
            .help(format!("move the definition of `{name}` above this line"));
    }
    let help = did_you_mean(name, known.iter().map(String::as_str), || {
        format!("define it above: `{name} = ...`, or as a number: `set {name} = ...`")
    });
    diagnostic.label(span, "unknown name").help(help)
}

/// The bounds of a whole number and what it is, for reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole<'a> {
    /// Such as "the size of axis `hidden`".
    pub what: &'a str,
    pub least: i64,
    pub most: i64,
}

impl Whole<'_> {
    /// The whole number within the bounds that `value` is, or a report at `span`, if the text says it. `expr` is what gave the value: a
    /// division in it that leaves a rest is what the report speaks of.
    pub(crate) fn check(
        self,
        value: Num,
        expr: Option<&Expr>,
        span: Option<Span>,
        scope: &dyn Scope,
        diagnostics: &mut Diagnostics,
    ) -> Option<i64> {
        let marked = |diagnostic: Diagnostic, text: String| match span {
            Some(span) => diagnostic.label(span, text),
            None => diagnostic,
        };
        match value.whole() {
            Some(whole) if (self.least..=self.most).contains(&whole) => return Some(whole),
            Some(whole) => {
                let bound = if whole < self.least { format!("at least {}", self.least) } else { format!("at most {}", power(self.most)) };
                let message = format!("{} is {whole}, and must be {bound}", self.what);
                let diagnostic = marked(Diagnostic::new("partita::number::out_of_range", message), format!("this is {whole}"));
                diagnostics.push(with_replaced(diagnostic, expr, scope));
            }
            None => {
                let division = expr.and_then(|expr| inexact_division(expr, scope));
                let diagnostic = match division {
                    Some((span, a, b)) => does_not_divide(self.what, span, a, b),
                    None => {
                        let message = format!("{} is {value}, and must be a whole number", self.what);
                        marked(Diagnostic::new("partita::number::not_whole", message), format!("this is {value}"))
                            .help("`floor(...)` rounds down")
                    }
                };
                diagnostics.push(with_replaced(diagnostic, expr, scope));
            }
        }
        None
    }
}

/// Labels on the settings of `expr` that `--set` replaced: the file alone does not say where the numbers come from.
fn with_replaced(mut diagnostic: Diagnostic, expr: Option<&Expr>, scope: &dyn Scope) -> Diagnostic {
    let mut names: Vec<&str> = Vec::new();
    expr.into_iter().for_each(|expr| names_in(expr, &mut names));
    for (position, name) in names.iter().enumerate() {
        if let Some((span, value)) = scope.replaced(name).filter(|_| !names[..position].contains(name)) {
            diagnostic = diagnostic.label(span, format!("replaced by `--set {name}={value}`"));
        }
    }
    diagnostic
}

/// The names that an expression has where a value can stand.
pub(crate) fn names_in<'a>(expr: &'a Expr, names: &mut Vec<&'a str>) {
    match &expr.kind {
        ExprKind::Name(name) => names.push(name),
        ExprKind::Negate(inner) => names_in(inner, names),
        ExprKind::Binary(_, left, right) => {
            names_in(left, names);
            names_in(right, names);
        }
        ExprKind::Logic(_, operands) => operands.iter().for_each(|operand| names_in(operand, names)),
        ExprKind::Call(call) => call.arguments.iter().for_each(|argument| names_in(&argument.value, names)),
        ExprKind::Bracket(base, moves) => {
            names_in(base, names);
            for (first, end) in moves.iter().filter_map(|entry| entry.range.as_ref()) {
                names_in(first, names);
                names_in(end, names);
            }
        }
        ExprKind::Number(_) | ExprKind::Truth(_) | ExprKind::Index(_) => {}
    }
}

/// A bound as people write it.
fn power(value: i64) -> String {
    if value > 1 << 20 && value.count_ones() == 1 { format!("2^{}", value.trailing_zeros()) } else { value.to_string() }
}

type Side = (i64, Option<String>);

/// The innermost division of whole numbers that leaves a rest.
fn inexact_division(expr: &Expr, scope: &dyn Scope) -> Option<(Span, Side, Side)> {
    match &expr.kind {
        ExprKind::Negate(inner) => inexact_division(inner, scope),
        ExprKind::Call(call) => call.arguments.iter().find_map(|argument| inexact_division(&argument.value, scope)),
        ExprKind::Binary(op, left, right) => {
            let inner = inexact_division(left, scope).or_else(|| inexact_division(right, scope));
            if inner.is_some() || *op != BinaryOp::Div {
                return inner;
            }
            // the sides have been evaluated once without a report
            let mut quiet = Diagnostics::default();
            let mut side = |expr: &Expr| {
                let value = evaluate(expr, scope, &mut quiet)?.whole()?;
                let name = if let ExprKind::Name(name) = &expr.kind { Some(name.clone()) } else { None };
                Some((value, name))
            };
            let (a, b) = (side(left)?, side(right)?);
            (b.0 != 0 && a.0 % b.0 != 0).then_some((expr.span, a, b))
        }
        _ => None,
    }
}

fn does_not_divide(what: &str, span: Span, (a, a_name): Side, (b, b_name): Side) -> Diagnostic {
    let told = |value: i64, name: &Option<String>| name.as_ref().map_or(value.to_string(), |name| format!("`{name}` of {value}"));
    let message = format!("{what} is not whole: {} cannot be divided by {}", told(a, &a_name), told(b, &b_name));
    let ways = [
        b_name.and_then(|name| near_divisors(a, b).map(|values| format!("{name} = {values}"))),
        a_name.and_then(|name| near_multiples(a, b).map(|values| format!("{name} = {values}"))),
    ];
    let ways: Vec<String> = ways.into_iter().flatten().collect();
    let help = (!ways.is_empty()).then(|| format!("{} would divide", ways.join(", or ")));
    Diagnostic::new("partita::shape::does_not_divide", message).label(span, format!("{a} = {b} × {:.2}", a as f64 / b as f64)).help_if(help)
}

/// The divisors of `a` next to `b`, below and above.
pub(crate) fn near_divisors(a: i64, b: i64) -> Option<String> {
    const FAR: i64 = 100_000;
    let divides = |candidate: &i64| a % *candidate == 0;
    if a <= 0 || b <= 0 {
        return None;
    }
    let below = (1.max(b - FAR)..b).rev().find(divides);
    let above = (b + 1..=a.min(b.saturating_add(FAR))).find(divides);
    either(below, above)
}

/// The multiples of `b` next to `a`, below and above.
fn near_multiples(a: i64, b: i64) -> Option<String> {
    if a <= 0 || b <= 0 {
        return None;
    }
    let below = a / b * b;
    either(Some(below).filter(|below| *below > 0), Some(below + b))
}

fn either(a: Option<i64>, b: Option<i64>) -> Option<String> {
    match (a, b) {
        (Some(a), Some(b)) => Some(format!("{a} or {b}")),
        (a, b) => a.or(b).map(|only| only.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_stay_exact() {
        let six = Num::binary(Binary::Div, Num::Int(12), Num::Int(2));
        assert_eq!(six, Some(Num::Int(6)));
        assert_eq!(Num::binary(Binary::Div, Num::Int(1), Num::Int(4)), Some(Num::Real(0.25)));
        assert_eq!(Num::binary(Binary::Mul, Num::Int(LARGEST), Num::Int(2)), None);
        assert_eq!(Num::parse("1e400"), None);
        assert_eq!(Num::parse("inf"), None);
        assert_eq!(Num::Real(3e-4).to_string(), "0.0003");
        assert_eq!(Num::Real(1e-8).to_string(), "1e-8");
    }

    #[test]
    fn divisors_near_a_number() {
        assert_eq!(near_divisors(1000, 48).as_deref(), Some("40 or 50"));
        assert_eq!(near_multiples(1000, 48).as_deref(), Some("960 or 1008"));
        assert_eq!(near_divisors(7, 2).as_deref(), Some("1 or 7"));
    }
}
