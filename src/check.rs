//! `partita check`.

use partita_frontend::{Model, Setting, Source, load};
use partita_ir::graph::Kind;

use crate::arguments::{CheckArguments, ModelArguments, Shown};
use crate::failure::{Failure, print, read};

/// Reads a model, or says everything that is wrong with it.
pub fn model(arguments: &ModelArguments) -> Result<Model, Failure> {
    let text = read(&arguments.model)?;
    let name = arguments.model.display().to_string();
    let settings: Vec<Setting> =
        arguments.set.iter().map(|(name, value)| Setting { name: name.clone(), value: value.clone() }).collect();
    load(Source { name: &name, text: &text }, &settings).map_err(|diagnostics| Failure::Model { name, text, diagnostics })
}

/// The parameters of a model, all instances counted.
pub fn parameters(model: &Model) -> u64 {
    let graph = &model.graph;
    graph.params().map(|param| graph.elements(param) * graph.iterations(graph.value(param).within)).sum()
}

pub fn check(arguments: &CheckArguments, shown: &Shown) -> Result<(), Failure> {
    let model = model(&arguments.model)?;
    let violations = partita_ir::verify::verify(&model.graph);
    assert!(violations.is_empty(), "a checked model is a legal graph: {violations:?}");
    if shown.quiet {
        return Ok(());
    }
    let graph = &model.graph;
    let primitives = graph.ops.iter().filter(|op| matches!(op.kind, Kind::Map(_))).count();
    let repeats = graph.loops.iter().map(|repeated| format!("{} × {}", repeated.count, repeated.name)).collect::<Vec<_>>();
    let mut text = format!("{}: {} parameters, {primitives} operators", model.name, grouped(parameters(&model)));
    if !repeats.is_empty() {
        text += &format!(", repeats {}", repeats.join(", "));
    }
    text += "\n";
    for (name, value) in &model.settings {
        text += &format!("  {name} = {value}\n");
    }
    if shown.verbose {
        text += &partita_ir::text::print(graph);
    }
    print(&text)
}

/// A number with a comma between thousands.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
