//! Settings: the `set` lines of a file and what `--set` makes of them.

use partita_ir::graph::Span;

use crate::Setting;
use crate::diagnostics::{Diagnostic, Diagnostics, did_you_mean, listed};
use crate::evaluate::{Found, Num, Scope, evaluate};
use crate::syntax::{Defines, File, StatementKind};

/// More settings than any model needs.
const MOST_SETTINGS: usize = 1000;

/// A `set` line and its final value, `None` if that is broken.
#[derive(Debug)]
struct Row {
    name: String,
    span: Span,
    value: Option<Num>,
    /// Whether `--set` gave it.
    replaced: bool,
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

    /// Reports what `--set` names and nothing takes. `known` is everything that can be set, with its value.
    pub(crate) fn report_unused(&self, known: &[(String, String)], diagnostics: &mut Diagnostics) {
        for (setting, _) in self.given.iter().filter(|(_, used)| !used) {
            let name: String = setting.name.chars().take(64).collect();
            let names = || known.iter().map(|(name, _)| name.as_str());
            let all = || format!("this model has {}", listed(names()));
            let mut help = did_you_mean(&name, names(), all);
            if help != all() {
                help = format!("{help} {}", all());
            }
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
}

impl Settings {
    /// Evaluates the `set` lines in order; a line sees those above it.
    pub(crate) fn resolve(file: &File, overrides: &mut Overrides<'_>, diagnostics: &mut Diagnostics) -> Self {
        let lines = || {
            file.statements.iter().filter_map(|statement| match &statement.kind {
                StatementKind::Set { name, value } => Some((name, Some(value))),
                StatementKind::Broken { defines: Defines::Setting, name } => Some((name, None)),
                _ => None,
            })
        };
        let mut settings = Self { rows: Vec::new(), later: lines().map(|(name, _)| (name.text.clone(), name.span)).collect() };
        for (name, value) in lines() {
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
            let set = overrides.take_number(&name.text, Some(name.span), diagnostics);
            let replaced = set.is_some();
            let value = set.unwrap_or_else(|| evaluate(value?, &settings, diagnostics));
            settings.rows.push(Row { name: name.text.clone(), span: name.span, value, replaced });
        }
        settings.later.clear();
        settings
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Where a setting is defined.
    pub(crate) fn span(&self, name: &str) -> Option<Span> {
        self.row(name).map(|row| row.span)
    }

    /// Every setting with its value, in file order.
    pub(crate) fn values(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.rows.iter().map(|row| (row.name.clone(), row.value.map_or_else(String::new, |value| value.to_string())))
    }
}

impl Scope for Settings {
    fn find(&self, name: &str) -> Found {
        let later = || self.later.iter().find(|(known, _)| known == name).map_or(Found::Missing, |(_, span)| Found::Later(*span));
        self.row(name).map_or_else(later, |row| row.value.map_or(Found::Broken, Found::Number))
    }

    fn replaced(&self, name: &str) -> Option<(Span, Num)> {
        let row = self.row(name).filter(|row| row.replaced)?;
        Some((row.span, row.value?))
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
