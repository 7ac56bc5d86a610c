//! `partita check`: reads a model and says everything that is wrong with it.

use std::io::IsTerminal;

use partita_frontend::{Model, Setting, Source, load};
use partita_ir::graph::{Class, Kind};

use crate::arguments::{CheckArguments, ModelArguments, Shown};
use crate::failure::{Failure, print, read};
use crate::table::{count, heading, table};

/// Reads a model with its settings.
pub fn model(arguments: &ModelArguments) -> Result<Model, Failure> {
    let text = read(&arguments.model)?;
    let name = arguments.model.display().to_string();
    let settings: Vec<Setting> = arguments.set.iter().map(|(name, value)| Setting { name: name.clone(), value: value.clone() }).collect();
    load(Source { name: &name, text: &text }, &settings).map_err(|diagnostics| Failure::Told { source: Some((name, text)), diagnostics })
}

/// The parameters of a model, all instances counted.
fn parameters(model: &Model) -> u64 {
    let graph = &model.graph;
    graph.params().map(|param| graph.elements(param) * graph.iterations(graph.value(param).within)).sum()
}

pub fn check(arguments: &CheckArguments, shown: &Shown) -> Result<(), Failure> {
    let model = model(&arguments.model)?;
    let graph = &model.graph;
    let violations = partita_ir::verify::verify(graph);
    assert!(violations.is_empty(), "a checked model is a legal graph: {violations:?}");
    if shown.quiet {
        return Ok(());
    }
    let color = shown.colored(std::io::stdout().is_terminal());
    let repeats: Vec<String> = graph.loops.iter().map(|repeated| format!("{} × {}", repeated.count, repeated.name)).collect();
    let mut text = heading(&format!("{}: {}", model.name, count(parameters(&model), "parameter")), color);
    if !repeats.is_empty() {
        text += &format!("  repeats    {}\n", repeats.join(", "));
    }
    let primitives = graph.ops.iter().filter(|op| matches!(op.kind, Kind::Map(_)));
    let of_class = |class: Class| primitives.clone().filter(|op| op.class == class).count();
    let classes = Class::ALL.iter().map(|(class, word)| (of_class(*class), *word)).filter(|(n, _)| *n > 0);
    let classes: Vec<String> = classes.map(|(n, word)| format!("{n} {word}")).collect();
    text += &format!("  operators  {} ({})\n", primitives.clone().count(), classes.join(", "));
    text += "\n";
    text += &heading("settings", color);
    text += &table(&["name", "value"], model.settings.iter().map(|(name, value)| vec![name.clone(), value.clone()]));
    if shown.verbose {
        text += "\n";
        text += &partita_ir::text::print(graph);
    }
    print(&text)
}
