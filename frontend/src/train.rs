//! The `train` section: its entries, their defaults, and what `--set` makes of them.

use partita_ir::dtype::DType;
use partita_ir::graph::Span;
use partita_ir::precision::{Column, LossScale, Precision, RECIPES, Recipe};
use partita_ir::train::{Optimizer, Schedule, Train};

use crate::diagnostics::{Diagnostic, Diagnostics, did_you_mean, listed};
use crate::evaluate::{Found, Num, Scope, Whole, evaluate, not_a_number, truth};
use crate::groups::Treatment;
use crate::settings::{Overrides, Settings, twice};
use crate::syntax::{Argument, Entry, EntryValue, ExprKind, File, Name, StatementKind, TrainGroup};

/// The entries of the section.
const ENTRIES: [&str; 7] = ["optimizer", "lr", "schedule", "clip", "batch", "precision", "loss_scale"];
/// Those that a setting of their name gives where the section does not say them.
pub(crate) const BY_NAME: [&str; 3] = ["lr", "clip", "batch"];
/// Options of each optimizer, with defaults.
pub(crate) const OPTIMIZERS: &[Choice] = &[
    (
        "adamw",
        &[
            ("beta1", 0.9, Range::Fraction),
            ("beta2", 0.95, Range::Fraction),
            ("eps", 1e-8, Range::Positive),
            ("decay", 0.1, Range::NotNegative),
        ],
    ),
    ("sgd", &[("momentum", 0.9, Range::Fraction), ("decay", 0.0, Range::NotNegative)]),
    (
        "adam",
        &[
            ("beta1", 0.9, Range::Fraction),
            ("beta2", 0.999, Range::Fraction),
            ("eps", 1e-8, Range::Positive),
            ("decay", 0.0, Range::NotNegative),
        ],
    ),
    (
        "adafactor",
        &[
            ("power", 0.8, Range::Positive),
            ("eps", 1.1920928955078125e-7, Range::Positive),
            ("floor", 1e-3, Range::Positive),
            ("limit", 1.0, Range::Positive),
            ("decay", 0.0, Range::NotNegative),
        ],
    ),
    (
        "lamb",
        &[
            ("beta1", 0.9, Range::Fraction),
            ("beta2", 0.999, Range::Fraction),
            ("eps", 1e-6, Range::Positive),
            ("decay", 0.01, Range::NotNegative),
        ],
    ),
    (
        "lars",
        &[
            ("momentum", 0.9, Range::Fraction),
            ("trust", 1e-3, Range::Positive),
            ("decay", 1e-4, Range::NotNegative),
            ("eps", 1e-8, Range::NotNegative),
        ],
    ),
    ("lion", &[("beta1", 0.9, Range::Fraction), ("beta2", 0.99, Range::Fraction), ("decay", 0.1, Range::NotNegative)]),
    (
        "muon",
        &[
            ("momentum", 0.95, Range::Fraction),
            ("beta1", 0.9, Range::Fraction),
            ("beta2", 0.95, Range::Fraction),
            ("eps", 1e-8, Range::Positive),
            ("decay", 0.1, Range::NotNegative),
        ],
    ),
];
/// Options of each schedule, with defaults.
pub(crate) const SCHEDULES: &[Choice] = &[
    ("constant", &[]),
    ("cosine", &[("warmup", 100.0, Range::Steps), ("steps", 1000.0, Range::Steps), ("min", 0.1, Range::Share)]),
    ("linear", &[("warmup", 100.0, Range::Steps), ("steps", 1000.0, Range::Steps), ("min", 0.1, Range::Share)]),
    ("inverse_sqrt", &[("warmup", 100.0, Range::Steps)]),
    (
        "wsd",
        &[("warmup", 100.0, Range::Steps), ("steps", 1000.0, Range::Steps), ("decay", 200.0, Range::Steps), ("min", 0.0, Range::Share)],
    ),
];

/// Options of a scaled loss, with defaults: PyTorch's.
pub(crate) const SCALES: &[Choice] = &[
    ("none", &[]),
    (
        "dynamic",
        &[
            ("start", 65536.0, Range::Positive),
            ("interval", 2000.0, Range::Steps),
            ("growth", 2.0, Range::Positive),
            ("backoff", 0.5, Range::Positive),
        ],
    ),
];

/// A word and its options: name, default, range.
pub(crate) type Choice = (&'static str, &'static [(&'static str, f64, Range)]);

/// What numbers an entry may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Range {
    Positive,
    NotNegative,
    /// From 0 to below 1.
    Fraction,
    /// From 0 to 1.
    Share,
    /// A whole number of steps.
    Steps,
}

impl Range {
    fn holds(self, value: Num) -> bool {
        let number = value.to_f64();
        match self {
            Range::Positive => number > 0.0,
            Range::NotNegative => number >= 0.0,
            Range::Fraction => (0.0..1.0).contains(&number),
            Range::Share => (0.0..=1.0).contains(&number),
            Range::Steps => value.whole().is_some_and(|steps| steps >= 0),
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Range::Positive => "above 0",
            Range::NotNegative => "0 or above",
            Range::Fraction => "0 or above and below 1",
            Range::Share => "from 0 to 1",
            Range::Steps => "a whole number, 0 or above",
        }
    }
}

/// A number of the section: its value, where it is written, and whether `--set` gave it.
#[derive(Clone, Copy, Debug)]
struct Number {
    value: Option<Num>,
    span: Option<Span>,
    set: bool,
}

/// The result: the settings of training, everything of it that can be set, and which entries were given.
#[derive(Debug)]
pub(crate) struct Section {
    pub train: Train,
    /// What is said of some parameters only, in file order.
    pub groups: Vec<Treatment>,
    pub values: Vec<(String, String)>,
    /// The size of the batch, unless it is broken.
    pub batch: Option<Num>,
    /// Where the section says the batch.
    pub batch_span: Option<Span>,
}

struct Reader<'a, 'b> {
    entries: Vec<&'a Entry>,
    groups: &'a [TrainGroup],
    settings: &'a Settings,
    overrides: &'a mut Overrides<'b>,
    diagnostics: &'a mut Diagnostics,
    values: Vec<(String, String)>,
}

/// Reads the section of `file`, or its defaults if there is none.
pub(crate) fn resolve(file: &File, settings: &Settings, overrides: &mut Overrides<'_>, diagnostics: &mut Diagnostics) -> Section {
    let mut sections = file.statements.iter().filter_map(|statement| match &statement.kind {
        StatementKind::Train(section) => Some((section, statement.span)),
        _ => None,
    });
    let first = sections.next();
    if let (Some((_, first)), Some((_, again))) = (first, sections.next()) {
        let word = |span: Span| Span { start: span.start, end: span.start + "train".len() as u32 };
        diagnostics.push(
            Diagnostic::new("partita::name::twice", "there are two `train` sections")
                .label(word(again), "the second")
                .label(word(first), "the first")
                .help("put their entries into one"),
        );
    }
    let mut entries: Vec<&Entry> = Vec::new();
    for entry in first.map_or(&[] as &[Entry], |(section, _)| &section.entries) {
        let name = &entry.name;
        if let Some(before) = entries.iter().find(|known| known.name.text == name.text) {
            diagnostics.push(twice("entries", &name.text, name.span, before.name.span));
        } else if ENTRIES.contains(&name.text.as_str()) {
            entries.push(entry);
        } else {
            let all = || format!("entries are {}", listed(ENTRIES));
            diagnostics.push(
                Diagnostic::new("partita::train::unknown_entry", format!("`{}` is no entry of the `train` section", name.text))
                    .label(name.span, "unknown entry")
                    .help(did_you_mean(&name.text, ENTRIES, all)),
            );
        }
    }
    let groups = first.map_or(&[] as &[TrainGroup], |(section, _)| &section.groups);
    let mut reader = Reader { entries, groups, settings, overrides, diagnostics, values: Vec::new() };
    reader.section()
}

impl<'a> Reader<'a, '_> {
    fn section(&mut self) -> Section {
        let default = Train::default();
        let optimizer = self.optimizer();
        let lr = self.number("lr", default.lr, Range::Positive);
        let schedule = self.schedule();
        let clip = self.clip(default.clip);
        let batch = self.batch(default.batch);
        let precision = self.precision(default.precision.recipe);
        let loss_scale = self.loss_scale(precision.loss_scale());
        let size = batch.value.and_then(|value| value.whole()).map_or(default.batch, |size| size as u64);
        let groups = self.groups();
        let train = Train { optimizer, lr, schedule, clip, batch: size, precision, loss_scale, groups: Vec::new() };
        Section { train, groups, values: std::mem::take(&mut self.values), batch: batch.value, batch_span: batch.span }
    }

    fn entry(&self, name: &str) -> Option<&'a Entry> {
        self.entries.iter().copied().find(|entry| entry.name.text == name)
    }

    /// What `--set` says of an entry, unless the model has a setting of that name: then the setting takes it.
    fn set_text(&mut self, name: &str) -> Option<&str> {
        if self.settings.span(name).is_some() { None } else { self.overrides.take(name) }
    }

    fn tell(&mut self, name: &str, value: impl ToString) {
        // a setting of the model with this name has its own line
        if self.settings.span(name).is_none() {
            self.values.push((name.to_owned(), value.to_string()));
        }
    }

    fn set_number(&mut self, name: &str, defined: Option<Span>) -> Option<Option<Num>> {
        if self.settings.span(name).is_some() { None } else { self.overrides.take_number(name, defined, self.diagnostics) }
    }

    /// The number of an entry: from `--set`, from the section, from a setting of its name, else `default`.
    fn raw(&mut self, name: &str, default: Num) -> Number {
        let entry = self.entry(name);
        let span = entry.map(|entry| entry.span);
        if let Some(value) = self.set_number(name, span) {
            return Number { value, span, set: true };
        }
        match entry.map(|entry| &entry.value) {
            Some(EntryValue::Expr(expr)) => {
                Number { value: evaluate(expr, self.settings, self.diagnostics), span: Some(expr.span), set: false }
            }
            Some(EntryValue::Word { word, .. }) => {
                self.diagnostics.push(
                    Diagnostic::new("partita::train::not_a_number", format!("`{name}` is a number"))
                        .label(word.span, "not a number")
                        .help(format!("write `{name} = {default}`")),
                );
                Number { value: None, span, set: false }
            }
            None => {
                let span = self.settings.span(name);
                match self.settings.find(name) {
                    Found::Known(value) => {
                        let number = value.number();
                        if let (None, Some(span)) = (number, span) {
                            self.diagnostics.push(not_a_number(&value, span));
                        }
                        Number { value: number, span, set: false }
                    }
                    Found::Broken => Number { value: None, span, set: false },
                    _ => Number { value: Some(default), span: None, set: false },
                }
            }
        }
    }

    fn checked(&mut self, name: &str, found: Number, default: f64, range: Range) -> f64 {
        let Some(value) = found.value else { return default };
        if range.holds(value) {
            return value.to_f64();
        }
        let range = range.words();
        let mut diagnostic = if found.set {
            Diagnostic::new("partita::set::out_of_range", format!("`--set {name}={value}`: `{name}` must be {range}"))
        } else {
            Diagnostic::new("partita::train::out_of_range", format!("`{name}` is {value}, and must be {range}"))
        };
        if let Some(span) = found.span {
            diagnostic = diagnostic.label(span, if found.set { "replaced by `--set`" } else { "set here" });
        }
        self.diagnostics.push(diagnostic.help(format!("the default is {}", real(default))));
        default
    }

    fn number(&mut self, name: &'static str, default: f64, range: Range) -> f64 {
        let found = self.raw(name, Num::Real(default));
        let value = self.checked(name, found, default, range);
        self.tell(name, real(value));
        value
    }

    fn batch(&mut self, default: u64) -> Number {
        let mut found = self.raw("batch", Num::Int(default as i64));
        if let Some(value) = found.value {
            let bounds = Whole { what: "the batch", least: 1, most: 1 << 40 };
            let expr = match self.entry("batch").map(|entry| &entry.value) {
                Some(EntryValue::Expr(expr)) => Some(expr),
                _ => None,
            };
            found.value = match value.whole() {
                Some(whole) if whole < bounds.least && found.set => {
                    let message = format!("`--set batch={value}`: a batch has at least one sample");
                    self.diagnostics.push(
                        Diagnostic::new("partita::set::out_of_range", message)
                            .help("the batch counts the samples of a step over all ranks"),
                    );
                    None
                }
                _ => bounds.check(value, expr.filter(|_| !found.set), found.span, self.settings, self.diagnostics).map(Num::Int),
            };
        }
        self.tell("batch", found.value.unwrap_or(Num::Int(default as i64)));
        found
    }

    fn clip(&mut self, default: Option<f64>) -> Option<f64> {
        let fallback = default.unwrap_or(1.0);
        let set = self.set_text("clip").map(str::to_owned);
        let none = set.as_deref().map_or_else(|| self.clip_none(), |text| text == "none");
        let clip = if none {
            None
        } else {
            let found = self.raw("clip", Num::Real(fallback));
            Some(self.checked("clip", found, fallback, Range::Positive))
        };
        self.tell("clip", clip.map_or_else(|| "none".to_owned(), real));
        clip
    }

    /// Whether the section says `clip none`, or `clip = none`.
    fn clip_none(&self) -> bool {
        match self.entry("clip").map(|entry| &entry.value) {
            Some(EntryValue::Word { word, options }) => word.text == "none" && options.is_empty(),
            Some(EntryValue::Expr(expr)) => matches!(&expr.kind, ExprKind::Name(word) if word == "none"),
            None => false,
        }
    }

    /// A recipe, and columns of it: `precision = bf16(moments = bf16)`.
    fn precision(&mut self, default: Recipe) -> Precision {
        let words: Vec<&'static str> = RECIPES.into_iter().map(|row| row.1).collect();
        let written = self.entry("precision").map(|entry| match &entry.value {
            EntryValue::Word { word, options } => (word.text.clone(), word.span, replaced(options)),
            EntryValue::Expr(expr) => match &expr.kind {
                ExprKind::Name(word) => (word.clone(), expr.span, Vec::new()),
                ExprKind::Call(call) if call.axes.is_none() => (call.name.text.clone(), call.name.span, replaced(&call.arguments)),
                _ => (String::new(), expr.span, Vec::new()),
            },
        });
        let set = self.set_text("precision").map(str::to_owned);
        let is_set = set.is_some();
        let span = written.as_ref().map(|written| written.1);
        let (text, columns) = match (set, written) {
            (Some(text), _) => {
                let (word, columns) = text.strip_suffix(')').and_then(|text| text.split_once('(')).unwrap_or((&text, ""));
                let columns = columns.split(',').filter(|column| !column.trim().is_empty());
                let part = |text: &str| {
                    let (column, dtype) = text.split_once('=').unwrap_or((text, ""));
                    Replaced { column: column.trim().to_owned(), dtype: dtype.trim().to_owned(), span: None }
                };
                (Some(word.trim().to_owned()), columns.map(part).collect())
            }
            (None, Some((text, _, columns))) => (Some(text), columns),
            (None, None) => (None, Vec::new()),
        };
        let recipe = text.and_then(|text| self.one_of("precision", &text, span, is_set, &words));
        let mut precision = recipe.and_then(Recipe::from_word).unwrap_or(default).precision();
        for part in columns {
            precision = self.replace(precision, &part, is_set);
        }
        self.tell("precision", precision);
        precision
    }

    /// A precision with a column replaced, or as it was after a report.
    fn replace(&mut self, precision: Precision, part: &Replaced, is_set: bool) -> Precision {
        let names = Column::ALL.map(|row| row.1);
        let report = |message: String, label: &str, help: String| {
            let code = if is_set { "partita::set::unknown_word" } else { "partita::train::unknown_option" };
            let diagnostic = Diagnostic::new(code, if is_set { format!("`--set precision`: {message}") } else { message });
            part.span.map_or(diagnostic.clone(), |span| diagnostic.label(span, label)).help(help)
        };
        let Some(column) = Column::from_word(&part.column) else {
            let all = || format!("columns are {}, as in `bf16(moments = bf16)`", listed(names));
            let message = format!("`{}` is no column of a precision", part.column);
            self.diagnostics.push(report(message, "unknown column", did_you_mean(&part.column, names, all)));
            return precision;
        };
        let choices = precision.choices(column);
        match DType::from_word(&part.dtype).filter(|dtype| choices.contains(dtype)) {
            Some(dtype) => precision.with(column, dtype),
            None => {
                let (recipe, name, dtype) = (precision.recipe.word(), &part.column, &part.dtype);
                let message = format!("`{name}` of `{recipe}` cannot be `{dtype}`");
                let help = format!("it can be {}", listed(choices.iter().map(|choice| choice.word())));
                self.diagnostics.push(report(message, "set here", help));
                precision
            }
        }
    }

    fn loss_scale(&mut self, default: Option<LossScale>) -> Option<LossScale> {
        let words = || SCALES.iter().map(|row| row.0);
        let set = self.set_text("loss_scale").map(str::to_owned);
        let is_word = match (&set, self.entry("loss_scale").map(|entry| &entry.value)) {
            (Some(text), _) => words().any(|word| word == text),
            (None, Some(EntryValue::Expr(expr))) => match &expr.kind {
                ExprKind::Name(word) => words().any(|known| known == word),
                ExprKind::Call(_) => true,
                _ => false,
            },
            (None, _) => true,
        };
        if !is_word {
            let found = self.raw("loss_scale", Num::Real(65536.0));
            let scale = self.checked("loss_scale", found, 65536.0, Range::Positive);
            self.tell("loss_scale", real(scale));
            return Some(LossScale::Static(scale));
        }
        let (word, values) = self.choice("loss_scale", SCALES, if default.is_some() { "dynamic" } else { "none" });
        match self.options(SCALES, word, &values)[..] {
            [start, interval, growth, backoff] => Some(LossScale::Dynamic { start, interval: interval as u64, growth, backoff }),
            _ => None,
        }
    }

    /// The word of an entry among `choices`, from `--set` or from the section.
    fn word(&mut self, name: &'static str, written: Option<(String, Span)>, choices: &[&'static str]) -> Option<&'static str> {
        let set = self.set_text(name).map(str::to_owned);
        let is_set = set.is_some();
        let (text, span) = match (set, written) {
            (Some(text), written) => (text, written.map(|(_, span)| span)),
            (None, Some((text, span))) => (text, Some(span)),
            (None, None) => return None,
        };
        self.one_of(name, &text, span, is_set, choices)
    }

    /// The choice that `text` is, or a report.
    fn one_of(
        &mut self,
        name: &'static str,
        text: &str,
        span: Option<Span>,
        is_set: bool,
        choices: &[&'static str],
    ) -> Option<&'static str> {
        let found = choices.iter().copied().find(|choice| *choice == text);
        if found.is_none() {
            let shown: String = text.chars().take(40).collect();
            let told = if shown.is_empty() { "this".to_owned() } else { format!("`{shown}`") };
            let mut diagnostic = if is_set {
                Diagnostic::new("partita::set::unknown_word", format!("`--set {name}={shown}`: {told} is no {name}"))
            } else {
                Diagnostic::new("partita::train::unknown_word", format!("{told} is no {name}"))
            };
            if let Some(span) = span {
                diagnostic = diagnostic.label(span, if is_set { "replaced by `--set`" } else { "set here" });
            }
            let all = || format!("it can be {}", listed(choices));
            self.diagnostics.push(diagnostic.help(did_you_mean(text, choices.iter().copied(), all)));
        }
        found
    }

    /// An entry that is a word with options, such as `optimizer adamw(beta1 = 0.9)`: its word and options' values.
    fn choice(&mut self, name: &'static str, rows: &'static [Choice], default: &'static str) -> (&'static str, Vec<Number>) {
        let (word, options): (Option<Name>, &'a [Argument]) = match self.entry(name) {
            Some(Entry { value: EntryValue::Word { word, options }, .. }) => (Some(word.clone()), options),
            Some(Entry { value: EntryValue::Expr(expr), .. }) if name == "loss_scale" => match &expr.kind {
                ExprKind::Call(call) => (Some(call.name.clone()), &call.arguments),
                ExprKind::Name(word) => (Some(Name { text: word.clone(), span: expr.span }), &[]),
                _ => (None, &[]),
            },
            Some(Entry { value: EntryValue::Expr(expr), .. }) => {
                let example = format!("write `{name} {default}`, with options in parentheses and without `=`");
                self.diagnostics.push(
                    Diagnostic::new("partita::train::not_a_word", format!("`{name}` is a word")).label(expr.span, "here").help(example),
                );
                (None, &[])
            }
            None => (None, &[]),
        };
        let words: Vec<&'static str> = rows.iter().map(|row| row.0).collect();
        let chosen = self.word(name, word.as_ref().map(|word| (word.text.clone(), word.span)), &words);
        // after an unknown word its options mean nothing
        let known_word = word.as_ref().is_none_or(|word| words.contains(&word.text.as_str()));
        let chosen = chosen.unwrap_or(default);
        self.tell(name, chosen);
        let row = rows.iter().find(|row| row.0 == chosen).expect("a word of the table was chosen");
        // the options that the file writes belong to the word that the file writes
        let written_row = rows.iter().find(|row| word.as_ref().is_some_and(|word| word.text == row.0));
        let written = self.written_options(written_row, if known_word { options } else { &[] });
        let is_chosen = written_row.is_some_and(|written| written.0 == chosen);
        let mut values = if is_chosen { written } else { vec![Number { value: None, span: None, set: false }; row.1.len()] };
        for (value, (option, ..)) in values.iter_mut().zip(row.1) {
            if let Some(set) = self.set_number(option, value.span) {
                *value = Number { value: set.or(value.value), span: value.span, set: true };
            }
        }
        (chosen, values)
    }

    /// The options that are written behind the word of a row, one for each that the row has.
    fn written_options(&mut self, row: Option<&Choice>, options: &'a [Argument]) -> Vec<Number> {
        let known = row.map_or(&[] as &[_], |row| row.1);
        let names = || known.iter().map(|row| row.0);
        let mut values: Vec<Number> = vec![Number { value: None, span: None, set: false }; known.len()];
        for option in options {
            let Some(option_name) = &option.name else {
                self.diagnostics.push(
                    Diagnostic::new("partita::train::unknown_option", "an option is written with its name")
                        .label(option.value.span, "without a name")
                        .help(format!("options are {}", listed(names()))),
                );
                continue;
            };
            let Some(position) = names().position(|known| known == option_name.text) else {
                let word = row.map_or("", |row| row.0);
                let all = || format!("`{word}` takes {}", listed(names()));
                self.diagnostics.push(
                    Diagnostic::new("partita::train::unknown_option", format!("`{}` is no option of `{word}`", option_name.text))
                        .label(option_name.span, "unknown option")
                        .help(did_you_mean(&option_name.text, names(), all)),
                );
                continue;
            };
            // a broken value has been reported: the default stands in
            let value = evaluate(&option.value, self.settings, self.diagnostics).or(Some(Num::Real(known[position].1)));
            values[position] = Number { value, span: Some(option.value.span), set: false };
        }
        values
    }

    fn options(&mut self, rows: &'static [Choice], chosen: &str, values: &[Number]) -> Vec<f64> {
        let row = rows.iter().find(|row| row.0 == chosen).expect("a word of the table was chosen");
        let mut out = Vec::new();
        for ((name, default, range), value) in row.1.iter().zip(values) {
            let value = self.checked(name, *value, *default, *range);
            self.tell(name, if matches!(range, Range::Steps) { format!("{value}") } else { real(value) });
            out.push(value);
        }
        out
    }

    fn optimizer(&mut self) -> Optimizer {
        let (word, values) = self.choice("optimizer", OPTIMIZERS, "adamw");
        optimizer_of(word, &self.options(OPTIMIZERS, word, &values))
    }

    /// What the section says of some parameters only.
    fn groups(&mut self) -> Vec<Treatment> {
        let mut found = Vec::new();
        for TrainGroup { patterns, section, .. } in self.groups {
            if let Some(inner) = section.groups.first() {
                self.diagnostics.push(
                    Diagnostic::new("partita::train::unknown_entry", "groups of weights do not nest")
                        .label(inner.span, "inside another group")
                        .help("what several groups say of a weight adds up, the last one first"),
                );
            }
            let entries = &section.entries;
            let mut treatment = Treatment { patterns: patterns.clone(), frozen: None, lr_factor: None, optimizer: None, decay: None };
            for (position, entry) in entries.iter().enumerate() {
                let name = entry.name.text.as_str();
                if let Some(before) = entries[..position].iter().find(|known| known.name.text == name) {
                    self.diagnostics.push(twice("entries", name, entry.name.span, before.name.span));
                    continue;
                }
                match (name, &entry.value) {
                    ("frozen", EntryValue::Expr(expr)) => treatment.frozen = truth(expr, self.settings, self.diagnostics),
                    ("lr_factor", EntryValue::Expr(_)) => treatment.lr_factor = self.of_group(entry, 1.0, Range::NotNegative),
                    ("decay", EntryValue::Expr(_)) => treatment.decay = self.of_group(entry, 0.0, Range::NotNegative),
                    ("optimizer", EntryValue::Word { word, options }) => treatment.optimizer = self.group_optimizer(word, options),
                    _ => {
                        let known = ["frozen", "lr_factor", "decay", "optimizer"];
                        let all = || "a group has `frozen = true`, `lr_factor = 0.1`, `decay = 0` and `optimizer sgd(...)`".to_owned();
                        self.diagnostics.push(
                            Diagnostic::new("partita::train::unknown_entry", format!("`{name}` is no such entry of a group of weights"))
                                .label(entry.span, "here")
                                .help(did_you_mean(name, known.into_iter().filter(|known| *known != name), all)),
                        );
                    }
                }
            }
            found.push(treatment);
        }
        found
    }

    /// A number of a group.
    fn of_group(&mut self, entry: &'a Entry, default: f64, range: Range) -> Option<f64> {
        let EntryValue::Expr(expr) = &entry.value else { return None };
        let value = evaluate(expr, self.settings, self.diagnostics)?;
        Some(self.checked(&entry.name.text, Number { value: Some(value), span: Some(expr.span), set: false }, default, range))
    }

    /// The optimizer of a group, which the command line does not reach.
    fn group_optimizer(&mut self, word: &'a Name, options: &'a [Argument]) -> Option<Optimizer> {
        let words = || OPTIMIZERS.iter().map(|row| row.0);
        let Some(row) = OPTIMIZERS.iter().find(|row| row.0 == word.text) else {
            let all = || format!("it can be {}", listed(words()));
            self.diagnostics.push(
                Diagnostic::new("partita::train::unknown_word", format!("`{}` is no optimizer", word.text))
                    .label(word.span, "unknown word")
                    .help(did_you_mean(&word.text, words(), all)),
            );
            return None;
        };
        let values = self.written_options(Some(row), options);
        let numbers: Vec<f64> =
            row.1.iter().zip(values).map(|((name, default, range), value)| self.checked(name, value, *default, *range)).collect();
        Some(optimizer_of(row.0, &numbers))
    }

    fn schedule(&mut self) -> Schedule {
        let (word, values) = self.choice("schedule", SCHEDULES, "constant");
        match (word, self.options(SCHEDULES, word, &values).as_slice()) {
            ("inverse_sqrt", &[warmup]) => Schedule::InverseSqrt { warmup: warmup as u64 },
            ("wsd", &[warmup, steps, decay, min]) => {
                let [warmup, steps, decay] = [warmup, steps, decay].map(|number| number as u64);
                if warmup.saturating_add(decay) > steps {
                    let message = format!("a rise of {warmup} steps and a fall of {decay} are longer than the schedule's {steps}");
                    self.too_long(message, values[0].span.or(values[2].span).or(values[1].span));
                }
                let decay = decay.min(steps);
                Schedule::Wsd { warmup: warmup.min(steps - decay), steps, decay, min }
            }
            (word, &[warmup, steps, min]) => {
                let (warmup, steps) = (warmup as u64, steps as u64);
                if warmup > steps {
                    let message = format!("the warm-up of {warmup} steps is longer than the schedule's {steps}");
                    self.too_long(message, values[0].span.or(values[1].span));
                }
                let warmup = warmup.min(steps);
                if word == "cosine" { Schedule::Cosine { warmup, steps, min } } else { Schedule::Linear { warmup, steps, min } }
            }
            _ => Schedule::Constant,
        }
    }

    fn too_long(&mut self, message: String, span: Option<Span>) {
        let mut diagnostic = Diagnostic::new("partita::train::out_of_range", message);
        if let Some(span) = span {
            diagnostic = diagnostic.label(span, "set here");
        }
        self.diagnostics.push(diagnostic.help("`steps` counts from the first step, the warm-up included"));
    }
}

/// A column of a precision that is replaced, as it is written.
struct Replaced {
    column: String,
    dtype: String,
    span: Option<Span>,
}

fn replaced(options: &[Argument]) -> Vec<Replaced> {
    let text = |option: &Argument| match &option.value.kind {
        ExprKind::Name(word) => word.clone(),
        _ => String::new(),
    };
    let span = |option: &Argument| option.name.as_ref().map_or(option.value.span, |name| name.span);
    let name = |option: &Argument| option.name.as_ref().map_or(String::new(), |name| name.text.clone());
    options.iter().map(|option| Replaced { column: name(option), dtype: text(option), span: Some(span(option)) }).collect()
}

/// The optimizer of a row, with the values of its options.
fn optimizer_of(word: &str, options: &[f64]) -> Optimizer {
    match (word, options) {
        ("sgd", &[momentum, decay]) => Optimizer::Sgd { momentum, decay },
        ("adam", &[beta1, beta2, eps, decay]) => Optimizer::Adam { beta1, beta2, eps, decay },
        ("adafactor", &[power, eps, floor, limit, decay]) => Optimizer::Adafactor { power, eps, floor, limit, decay },
        ("lamb", &[beta1, beta2, eps, decay]) => Optimizer::Lamb { beta1, beta2, eps, decay },
        ("lars", &[momentum, trust, decay, eps]) => Optimizer::Lars { momentum, trust, decay, eps },
        ("lion", &[beta1, beta2, decay]) => Optimizer::Lion { beta1, beta2, decay },
        ("muon", &[momentum, beta1, beta2, eps, decay]) => Optimizer::Muon { momentum, beta1, beta2, eps, decay },
        (_, &[beta1, beta2, eps, decay]) => Optimizer::AdamW { beta1, beta2, eps, decay },
        _ => Optimizer::adamw(),
    }
}

/// A number as `--set` would take it.
pub(crate) fn real(value: f64) -> String {
    Num::Real(value).to_string()
}
