//! `partita check`: reads a model and says everything that is wrong with it.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use partita_frontend::{Diagnostic, Loaded, Model, Setting, Source, load_with, locate};
use partita_ir::graph::{Class, Kind, Leaf};
use serde::Serialize;

use crate::arguments::{CheckArguments, Format, ModelArguments, Shown};
use crate::failure::{Failure, print, read, sources, words};
use crate::table::{count, heading, table};

/// Reads a model with its settings.
pub fn model(arguments: &ModelArguments) -> Result<Model, Failure> {
    let Loaded { files, model } = loaded(arguments)?;
    model.map_err(|diagnostics| Failure::Told { files, diagnostics })
}

/// A model, or what is wrong with it, and the files that it is written in.
pub fn loaded(arguments: &ModelArguments) -> Result<Loaded, Failure> {
    let text = read(&arguments.model)?;
    let name = arguments.model.display().to_string();
    let settings: Vec<Setting> = arguments.set.iter().map(|(name, value)| Setting { name: name.clone(), value: value.clone() }).collect();
    let mut used = |path: &str| std::fs::read_to_string(path).map_err(|error| words(&error));
    Ok(load_with(Source { name: &name, text: &text }, &settings, &mut used))
}

/// What `--format json` prints of a model.
#[derive(Serialize)]
struct Checked {
    model: String,
    /// Numbers in all parameters, those of every instance.
    parameters: u64,
    /// Those of them that training changes.
    trained: u64,
    frozen: u64,
    /// The same of the states that the model declares.
    states: u64,
    repeats: Vec<Repeat>,
    /// Primitive operators, those of a repeat once.
    operators: usize,
    /// The same by class.
    classes: BTreeMap<&'static str, usize>,
    settings: BTreeMap<String, String>,
    /// What the file says of what it declares.
    docs: Vec<Documented>,
    /// The graph in its text form, with `--verbose`.
    #[serde(skip_serializing_if = "Option::is_none")]
    graph: Option<String>,
}

#[derive(Serialize)]
struct Documented {
    kind: &'static str,
    name: String,
    text: String,
}

#[derive(Serialize)]
struct Repeat {
    name: String,
    count: u64,
}

/// What `--format json` prints of an error. Without a place, as of a misspelt `--set`, there is no file.
#[derive(Serialize)]
struct Wrong<'a> {
    code: &'a str,
    message: &'a str,
    file: Option<&'a str>,
    line: Option<usize>,
    column: Option<usize>,
    /// Behind its last character.
    end: Option<Position>,
    help: Option<&'a str>,
    /// All places with what is said of them, the one above first.
    labels: Vec<Label<'a>>,
}

/// Both from 1; a column is a character.
#[derive(Clone, Copy, Serialize)]
struct Position {
    line: usize,
    column: usize,
}

#[derive(Serialize)]
struct Label<'a> {
    file: &'a str,
    line: usize,
    column: usize,
    end: Position,
    text: &'a str,
}

pub fn check(arguments: &CheckArguments, shown: &Shown) -> Result<(), Failure> {
    match (model(&arguments.model), arguments.format) {
        (Ok(model), format) => {
            let violations = partita_ir::verify::verify(&model.graph);
            assert!(violations.is_empty(), "a checked model is a legal graph: {violations:?}");
            match format {
                Format::Json => print(&json(&checked(&model, shown))),
                Format::Text if shown.quiet => Ok(()),
                Format::Text => print(&text(&model, shown)),
            }
        }
        (Err(Failure::Told { files, diagnostics }), Format::Json) => {
            let sources = sources(&files);
            print(&json(&diagnostics.iter().map(|diagnostic| wrong(&sources, diagnostic)).collect::<Vec<_>>()))?;
            Err(Failure::Shown)
        }
        (Err(failure), _) => Err(failure),
    }
}

/// The numbers in the leaves that `wanted` accepts, those of every instance.
fn numbers(model: &Model, wanted: impl Fn(&Leaf) -> bool) -> u64 {
    let graph = &model.graph;
    graph.leaves(wanted).map(|leaf| graph.elements(leaf) * graph.iterations(graph.value(leaf).within)).sum()
}

fn parameters(model: &Model) -> u64 {
    numbers(model, |leaf| matches!(leaf, Leaf::Param(_)))
}

/// The numbers in the parameters that training does not change.
fn frozen(model: &Model) -> u64 {
    let graph = &model.graph;
    let frozen = graph.params().filter(|param| model.train.is_frozen(&graph.value(*param).name));
    frozen.map(|param| graph.elements(param) * graph.iterations(graph.value(param).within)).sum()
}

fn states(model: &Model) -> u64 {
    numbers(model, |leaf| matches!(leaf, Leaf::State { .. }))
}

/// The primitive operators of a model by class, those that there are.
fn classes(model: &Model) -> Vec<(&'static str, usize)> {
    let primitives = model.graph.ops.iter().filter(|op| matches!(op.kind, Kind::Map(_)));
    let of_class = |class: Class| primitives.clone().filter(|op| op.class == class).count();
    Class::ALL.iter().map(|(class, word)| (*word, of_class(*class))).filter(|(_, n)| *n > 0).collect()
}

fn text(model: &Model, shown: &Shown) -> String {
    let color = shown.colored(std::io::stdout().is_terminal());
    let repeats: Vec<String> = model.graph.loops.iter().map(|repeated| format!("{} × {}", repeated.count, repeated.name)).collect();
    let mut text = heading(&format!("{}: {}", model.name, count(parameters(model), "parameter")), color);
    let frozen = frozen(model);
    if frozen > 0 {
        text += &format!("  trained    {}, {} frozen\n", count(parameters(model) - frozen, "parameter"), count(frozen, "parameter"));
    }
    if !repeats.is_empty() {
        text += &format!("  repeats    {}\n", repeats.join(", "));
    }
    let classes = classes(model);
    let operators: usize = classes.iter().map(|(_, n)| n).sum();
    let classes: Vec<String> = classes.iter().map(|(word, n)| format!("{n} {word}")).collect();
    if states(model) > 0 {
        text += &format!("  states     {}\n", count(states(model), "number"));
    }
    text += &format!("  operators  {operators} ({})\n", classes.join(", "));
    text += "\n";
    text += &heading("settings", color);
    text += &table(&["name", "value"], model.settings.iter().map(|(name, value)| vec![name.clone(), value.clone()]));
    if shown.verbose {
        text += "\n";
        text += &partita_ir::text::print(&model.graph);
    }
    text
}

fn checked(model: &Model, shown: &Shown) -> Checked {
    let classes = classes(model);
    Checked {
        model: model.name.clone(),
        parameters: parameters(model),
        trained: parameters(model) - frozen(model),
        frozen: frozen(model),
        states: states(model),
        repeats: model.graph.loops.iter().map(|repeated| Repeat { name: repeated.name.clone(), count: repeated.count }).collect(),
        operators: classes.iter().map(|(_, n)| n).sum(),
        classes: classes.into_iter().collect(),
        settings: model.settings.iter().cloned().collect(),
        docs: model.docs.iter().map(|doc| Documented { kind: doc.kind, name: doc.name.clone(), text: doc.text.clone() }).collect(),
        graph: shown.verbose.then(|| partita_ir::text::print(&model.graph)),
    }
}

fn wrong<'a>(sources: &[Source<'a>], diagnostic: &'a Diagnostic) -> Wrong<'a> {
    let labels: Vec<Label<'a>> = diagnostic
        .labels
        .iter()
        .filter_map(|(span, said)| {
            let (source, first) = locate(sources, span.start)?;
            let start = position(source.text, first);
            let end = position(source.text, first + (span.end - span.start));
            Some(Label { file: source.name, line: start.line, column: start.column, end, text: said })
        })
        .collect();
    let first = labels.first();
    Wrong {
        code: diagnostic.code,
        message: &diagnostic.message,
        file: first.map(|label| label.file),
        line: first.map(|label| label.line),
        column: first.map(|label| label.column),
        end: first.map(|label| label.end),
        help: diagnostic.help.as_deref(),
        labels,
    }
}

/// Where a byte of a text stands.
fn position(text: &str, byte: u32) -> Position {
    let before = text.get(..byte as usize).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("it is plain data") + "\n"
}
