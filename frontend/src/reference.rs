//! The reference of the language as Markdown, from the tables that the compiler itself reads. `docs/language.md` holds
//! it, and a test compares the two.

mod examples;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use partita_ir::build::Builder;
use partita_ir::grad::{Recompute, differentiate};
use partita_ir::graph::{Class, Source as Data};
use partita_ir::precision::{Column, RECIPES};
use partita_ir::text::print;

use crate::elaborate::INITS;
use crate::operators::{Operator, OptionDefault, TABLE, Takes};
use crate::train::{Choice, OPTIMIZERS, SCALES, SCHEDULES, real};
use crate::{Model, Source, load, render};

/// The reference: operators, sources, first values, optimizers, schedules, loss scales and precisions.
///
/// # Errors
/// The name of an operator that has no example, or what is wrong with the example.
pub fn reference() -> Result<String, String> {
    let mut out = format!("### Operators\n\n{}\n\n```partita head\n{}```\n", examples::PREFACE, examples::HEAD);
    for row in TABLE {
        operator(&mut out, row)?;
    }
    out.push_str("\n### Sources of inputs\n\n| source | elements | axes | what it is |\n|---|---|---|---|\n");
    for (source, word) in Data::ALL {
        let number = if source.number().is_some() { "(number)" } else { "" };
        let element = if source.is_float() { "float" } else { "integer" };
        let _ = writeln!(out, "| `{word}{number}` | {element} | {} | {} |", source.axes(), examples::source(source));
    }
    out.push_str("\n### First values of weights and states\n\n| word | elements |\n|---|---|\n");
    for (word, takes) in INITS {
        let _ = writeln!(out, "| `{word}{}` | {} |", if takes { "(number)" } else { "" }, examples::init(word));
    }
    choices(&mut out, "Optimizers", OPTIMIZERS);
    choices(&mut out, "Schedules", SCHEDULES);
    choices(&mut out, "Loss scales", SCALES);
    precisions(&mut out);
    Ok(out)
}

/// The section of an operator.
fn operator(out: &mut String, row: &Operator) -> Result<(), String> {
    let line = examples::example(row).ok_or_else(|| format!("`{}` has no example: see `reference/examples.rs`", row.name))?;
    let model = example(&line)?;
    let _ = writeln!(out, "\n#### `{}`\n\n{}.\n", row.signature(), row.doc);
    for argument in row.arguments {
        let _ = writeln!(out, "- `{}`: {}", argument.name, takes(argument.takes));
    }
    for option in row.options {
        let default = match option.default {
            OptionDefault::Number(value) => format!("a number, by default {}", real(value)),
            OptionDefault::Axis => "an axis, by default none".to_owned(),
            OptionDefault::Element(value) => format!("element by element, by default {}", real(value)),
            OptionDefault::Tensor => "a tensor, by default none".to_owned(),
        };
        let _ = writeln!(out, "- `{}`: {} ({default})", option.name, option.doc);
    }
    let flows = gradients(&model);
    let flows = if flows.is_empty() { "none".to_owned() } else { format!("of {}", flows.join(", ")) };
    let _ = writeln!(out, "- gradient: {flows}");
    let _ = writeln!(out, "\n```partita fragment\n{line}\n```\n\n```text\n{}```", rules(&model));
    Ok(())
}

/// The model of an example, which stands behind the head.
fn example(line: &str) -> Result<Model, String> {
    let loss = if line.starts_with("loss ") { "" } else { examples::LOSS };
    let text = format!("{}{line}\n{loss}", examples::HEAD);
    let source = Source { name: "example", text: &text };
    load(source, &[]).map_err(|errors| render(&[source], &errors, false))
}

/// What an argument may be, in words.
fn takes(takes: Takes) -> &'static str {
    match takes {
        Takes::Tensor => "a tensor of floats",
        Takes::Tensors => "one tensor of floats or more",
        Takes::Integers => "a tensor of integers",
        Takes::Places => "integers, or arithmetic of `index[axis]` and comparisons of integers",
        Takes::Number => "a number known when the model is compiled",
        Takes::Element => "a tensor of floats or a number",
    }
}

/// The names of the weights of an example that a gradient reaches from its result.
fn gradients(model: &Model) -> Vec<String> {
    let graph = &model.graph;
    let computed = graph.ops.iter().filter(|op| op.class != Class::Loss).map(|op| op.result()).next_back();
    let result = if is_loss(model) { graph.loss.first().map(|term| term.sum) } else { computed };
    let Some(result) = result else { return Vec::new() };
    let mut builder = Builder::resume(graph.clone(), model.train.precision.accumulate);
    let reached = differentiate(&mut builder, &[(result, result)], &BTreeSet::new(), Recompute::None, true);
    reached.keys().map(|param| format!("`{}`", graph.value(*param).name)).collect()
}

/// Whether the example is a loss itself: its operators read a weight in the class of losses.
fn is_loss(model: &Model) -> bool {
    let graph = &model.graph;
    let params: BTreeSet<_> = graph.params().collect();
    graph.ops.iter().any(|op| op.class == Class::Loss && op.operands.iter().any(|operand| params.contains(operand)))
}

/// The primitive rules of an example, as the text form of graphs writes them, without places in the file and the head's loss.
fn rules(model: &Model) -> String {
    let text = print(&model.graph);
    let keep_loss = is_loss(model);
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with("op")).filter(|line| keep_loss || !line.contains("map loss"));
    lines.map(|line| format!("{}\n", line.rsplit_once(" at ").map_or(line, |(rule, _)| rule))).collect()
}

/// A table of words with their options.
fn choices(out: &mut String, title: &str, rows: &[Choice]) {
    let _ = writeln!(out, "\n### {title}\n\n| word | what it is | options: default, range |\n|---|---|---|");
    for (word, options) in rows {
        let options: Vec<String> =
            options.iter().map(|(name, default, range)| format!("`{name}`: {}, {}", real(*default), range.words())).collect();
        let _ = writeln!(out, "| `{word}` | {} | {} |", examples::training_word(word), options.join("; "));
    }
}

fn precisions(out: &mut String) {
    out.push_str(
        "\n### Precisions\n\n| word | products | parameters | gradients | master copy | moments | arithmetic | sums between ranks |\n",
    );
    out.push_str("|---|---|---|---|---|---|---|---|\n");
    for (_, word, columns) in RECIPES {
        let columns: Vec<&str> = columns.iter().map(|dtype| dtype.word()).collect();
        let _ = writeln!(out, "| `{word}` | {} |", columns.join(" | "));
    }
    out.push_str("\nColumns that may be replaced, and by what, as in `precision = bf16(moments = bf16)`:\n\n| word |");
    Column::ALL.iter().for_each(|(_, column)| {
        let _ = write!(out, " `{column}` |");
    });
    let _ = writeln!(out, "\n|---|{}", "---|".repeat(Column::ALL.len()));
    for (recipe, word, _) in RECIPES {
        let precision = recipe.precision();
        let cells = Column::ALL.map(|(column, _)| {
            let words: Vec<&str> = precision.choices(column).iter().map(|dtype| dtype.word()).collect();
            format!(" {} |", words.join(", "))
        });
        let _ = writeln!(out, "| `{word}` |{}", cells.concat());
    }
}
