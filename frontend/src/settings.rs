//! Settings: the `set` lines of a file and what `--set` makes of them.

use partita_ir::graph::Span;

use std::rc::Rc;

use crate::Setting;
use crate::diagnostics::{Diagnostic, Diagnostics, did_you_mean_of, listed};
use crate::evaluate::{Found, Known, Num, Scope, Word, known, names_in};
use crate::syntax::{Defines, Expr, File, Name, SetValue, StatementKind, expressions};
use crate::train::BY_NAME;

/// More settings than any model needs.
const MOST_SETTINGS: usize = 1000;

/// A `set` or `let` line of the file and its final value, `None` if that is broken.
#[derive(Debug)]
struct Row {
    name: String,
    span: Span,
    value: Option<Known>,
    /// Whether `--set` gave it.
    replaced: bool,
    /// Whether it is a `let` line, which `--set` does not reach.
    fixed: bool,
}

/// A line that gives a name a value.
enum Line<'a> {
    Set(&'a SetValue),
    Let(&'a Expr),
    Broken,
}

/// What `--set` says, by name; the last of a name counts.
#[derive(Debug)]
pub(crate) struct Overrides<'a> {
    given: Vec<(&'a Setting, bool)>,
}

impl<'a> Overrides<'a> {
    pub(crate) fn new(settings: &'a [Setting]) -> Self {
        let mut given: Vec<(&Setting, bool)> = Vec::new();
        for setting in settings {
            given.retain(|(known, _)| known.name != setting.name);
            given.push((setting, false));
        }
        Self { given }
    }

    /// Whether there is a text for `name`.
    fn gives(&self, name: &str) -> bool {
        self.given.iter().any(|(setting, _)| setting.name == name)
    }

    /// The text for `name`, which is then known to mean something.
    pub(crate) fn take(&mut self, name: &str) -> Option<&'a str> {
        let (setting, used) = self.given.iter_mut().find(|(setting, _)| setting.name == name)?;
        *used = true;
        Some(setting.value.trim())
    }

    /// The text for `name` as a number: `Some(None)` after a report.
    pub(crate) fn take_number(&mut self, name: &str, defined: Option<Span>, diagnostics: &mut Diagnostics) -> Option<Option<Num>> {
        let text = self.take(name)?;
        let value = match text.strip_prefix('-') {
            Some(rest) => Num::parse(rest).map(Num::negate),
            None => Num::parse(text),
        };
        if value.is_none() {
            let shown: String = text.chars().take(40).collect();
            let mut diagnostic =
                Diagnostic::new("partita::set::not_a_number", format!("`--set {name}={shown}`: `{shown}` is not a number"));
            if let Some(span) = defined {
                diagnostic = diagnostic.label(span, format!("`{name}` is set here"));
            }
            diagnostics.push(diagnostic.help(format!("write a number such as `--set {name}=8` or `--set {name}=1e-4`")));
        }
        Some(value)
    }

    /// The text for `name` as one of `choices`: `Some(None)` after a report.
    fn take_word(&mut self, name: &Name, choices: &[&str], diagnostics: &mut Diagnostics) -> Option<Option<&'a str>> {
        let text = self.take(&name.text)?;
        let known = choices.contains(&text);
        if !known {
            let (name, span, shown) = (&name.text, name.span, text.chars().take(40).collect::<String>());
            let help = did_you_mean_of(text, choices.iter().copied(), format!("it can be {}", listed(choices)));
            diagnostics.push(
                Diagnostic::new("partita::set::unknown_word", format!("`--set {name}={shown}`: `{name}` is never `{shown}`"))
                    .label(span, format!("`{name}` is set here"))
                    .help(help),
            );
        }
        Some(known.then_some(text))
    }

    /// Reports what `--set` names and nothing takes. `known` is everything that can be set, with its value.
    pub(crate) fn report_unused(&self, known: &[(String, String)], diagnostics: &mut Diagnostics) {
        for (setting, _) in self.given.iter().filter(|(_, used)| !used) {
            let name: String = setting.name.chars().take(64).collect();
            let names = || known.iter().map(|(name, _)| name.as_str());
            let help = did_you_mean_of(&name, names(), format!("this model has {}", listed(names())));
            diagnostics
                .push(Diagnostic::new("partita::set::unknown", format!("`--set {name}`: nothing of this name can be set")).help(help));
        }
    }
}

/// The settings of a file.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    rows: Vec<Row>,
    /// Settings further down than the one that is being read.
    later: Vec<(String, Span)>,
    /// Where `let` lines name something.
    lets: Vec<Span>,
}

impl Settings {
    /// Evaluates the `set` and `let` lines in order; a line sees those above it.
    pub(crate) fn resolve(file: &File, overrides: &mut Overrides<'_>, diagnostics: &mut Diagnostics) -> Self {
        let lines = || {
            file.statements.iter().filter_map(|statement| match &statement.kind {
                StatementKind::Set { name, value } => Some((name, Line::Set(value))),
                StatementKind::Let { name, value } => Some((name, Line::Let(value))),
                StatementKind::Broken { defines: Defines::Setting, name } => Some((name, Line::Broken)),
                _ => None,
            })
        };
        let mut settings =
            Self { rows: Vec::new(), later: lines().map(|(name, _)| (name.text.clone(), name.span)).collect(), lets: Vec::new() };
        for (name, line) in lines() {
            if matches!(line, Line::Let(_)) {
                settings.lets.push(name.span);
            }
            if settings.rows.len() >= MOST_SETTINGS {
                diagnostics.push(
                    Diagnostic::new("partita::name::too_many", format!("a model has at most {MOST_SETTINGS} settings"))
                        .label(name.span, "one more"),
                );
                break;
            }
            if let Some(row) = settings.row(&name.text) {
                diagnostics.push(twice("settings", &name.text, name.span, row.span));
                continue;
            }
            let default = match line {
                Line::Let(value) => {
                    let value = known(value, &settings, diagnostics);
                    settings.rows.push(Row { name: name.text.clone(), span: name.span, value, replaced: false, fixed: true });
                    continue;
                }
                Line::Set(value) => Some(settings.default(value, overrides.gives(&name.text), diagnostics)),
                Line::Broken => None,
            };
            let set = match &default {
                Some(Some(Known::Truth(_))) => {
                    let set = overrides.take_word(name, &["true", "false"], diagnostics);
                    set.map(|text| text.map(|text| Known::Truth(text == "true")))
                }
                Some(Some(Known::Word(word))) => {
                    let choices: Vec<&str> = word.choices.iter().map(String::as_str).collect();
                    let set = overrides.take_word(name, &choices, diagnostics);
                    set.map(|text| text.map(|text| Known::Word(Rc::new(Word { text: text.to_owned(), choices: word.choices.clone() }))))
                }
                // what kind of setting this was to be is not known
                None => overrides.take(&name.text).map(|_| None),
                _ => overrides.take_number(&name.text, Some(name.span), diagnostics).map(|value| value.map(Known::Number)),
            };
            let replaced = set.is_some();
            let value = set.unwrap_or_else(|| default.flatten());
            settings.rows.push(Row { name: name.text.clone(), span: name.span, value, replaced, fixed: false });
        }
        settings.later.clear();
        settings
    }

    /// The value that a file gives a setting. One that `--set` replaces need make no sense, so nothing is said of it.
    fn default(&self, value: &SetValue, replaced: bool, diagnostics: &mut Diagnostics) -> Option<Known> {
        let words = match value {
            SetValue::Expr(expr) if replaced => return known(expr, self, &mut Diagnostics::default()),
            SetValue::Expr(expr) => return known(expr, self, diagnostics),
            SetValue::Words(words) => words,
        };
        for (position, word) in words.iter().enumerate() {
            if let Some(first) = words[..position].iter().find(|first| first.text == word.text) {
                diagnostics.push(twice("words of one setting", &word.text, word.span, first.span));
            }
        }
        let choices: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
        Some(Known::Word(Rc::new(Word { text: choices[0].clone(), choices })))
    }

    /// Reports the settings that nothing in the file reads, in any branch.
    pub(crate) fn report_unused(&self, file: &File, diagnostics: &mut Diagnostics) {
        let mut used: Vec<&str> = BY_NAME.to_vec();
        expressions(&file.statements, &mut |expr| names_in(expr, &mut used));
        used.extend(file.statements.iter().filter_map(|statement| match &statement.kind {
            StatementKind::Axis { name, size: None, .. } => Some(name.text.as_str()),
            _ => None,
        }));
        for row in self.rows.iter().filter(|row| !used.contains(&row.name.as_str())) {
            diagnostics.push(
                Diagnostic::new("partita::set::unused", format!("nothing reads the setting `{}`", row.name))
                    .label(row.span, "set here")
                    .help("leave the line out, or use the setting below it"),
            );
        }
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Whether a setting of this name chooses between branches: it is no number, and a tensor may share its name.
    pub(crate) fn is_switch(&self, name: &str) -> bool {
        self.row(name).is_some_and(|row| !matches!(row.value, Some(Known::Number(_))))
    }

    /// Whether the `let` line that names something here was read with the settings.
    pub(crate) fn has_let(&self, name: Span) -> bool {
        self.lets.contains(&name)
    }

    /// Where a setting is defined.
    pub(crate) fn span(&self, name: &str) -> Option<Span> {
        self.row(name).map(|row| row.span)
    }

    /// Every setting with its value, in file order.
    pub(crate) fn values(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.rows
            .iter()
            .filter(|row| !row.fixed)
            .map(|row| (row.name.clone(), row.value.as_ref().map_or_else(String::new, Known::to_string)))
    }
}

impl Scope for Settings {
    fn find(&self, name: &str) -> Found {
        let later = || self.later.iter().find(|(known, _)| known == name).map_or(Found::Missing, |(_, span)| Found::Later(*span));
        self.row(name).map_or_else(later, |row| row.value.clone().map_or(Found::Broken, Found::Known))
    }

    fn replaced(&self, name: &str) -> Option<(Span, Known)> {
        let row = self.row(name).filter(|row| row.replaced)?;
        Some((row.span, row.value.clone()?))
    }

    fn names(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.name.clone()).collect()
    }
}

/// A report of something that is defined twice; `what` is in the plural.
pub(crate) fn twice(what: &str, name: &str, again: Span, first: Span) -> Diagnostic {
    Diagnostic::new("partita::name::twice", format!("there are two {what} named `{name}`"))
        .label(again, "defined again here")
        .label(first, "first defined here")
        .help("leave one of them out, or give it another name")
}
