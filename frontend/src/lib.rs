//! The model language: the text of a `.partita` file to a checked graph.
//!
//! A file declares axes, weights and blocks, computes a loss, and says how it is trained:
//!
//! ```
//! use partita_frontend::{Source, load};
//! let text = "
//! model linear
//! set hidden = 16
//! set vocab = 32
//! set seq = 8
//! axis batch : batch
//! axis seq : seq
//! axis vocab : vocab
//! axis hidden
//! input tokens[batch, seq] : tokens
//! input targets[batch, seq] : next_tokens
//! weight table[vocab, hidden] = normal(0.02)
//! weight head[vocab, hidden] = normal(0.02)
//! x = gather[vocab](table, tokens)
//! logits = einsum[batch, seq, vocab](x, head)
//! loss cross_entropy[vocab](logits, targets)
//! train {
//!     optimizer sgd(momentum = 0.9)
//!     lr = 0.1
//! }
//! ";
//! let model = load(Source { name: "linear.partita", text }, &[]).unwrap();
//! assert_eq!(model.graph.params().count(), 2);
//! ```
//!
//! Dimensions are matched by the names of their axes, never by position. The way through the crate is that of a file:
//! lexer, parser, settings and `train` section, elaboration against the [operator table](operators::TABLE). All
//! errors of a file are found in one run, as [`Diagnostic`]s; a graph is given only if there are none.

mod diagnostics;
mod elaborate;
mod evaluate;
mod lexer;
pub mod operators;
mod parse;
mod settings;
mod syntax;
mod train;

use partita_ir::graph::Graph;
use partita_ir::train::Train;

pub use diagnostics::{Diagnostic, render};
use diagnostics::Diagnostics;
use settings::{Overrides, Settings};
use syntax::{File, StatementKind};

/// A model file.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Name, for messages.
    pub name: &'a str,
    /// Content.
    pub text: &'a str,
}

/// A setting of the command line, `--set name=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// What is set: a `set` line of the file, or an entry or option of its `train` section.
    pub name: String,
    /// Its value as typed.
    pub value: String,
}

/// A checked model.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// What it computes: one forward phase with a loss.
    pub graph: Graph,
    /// How it is trained.
    pub train: Train,
    /// Everything that [`Setting`]s reach with its final value, in file order, the `train` section last.
    pub settings: Vec<(String, String)>,
}

/// Longest file that is read, in bytes.
const LONGEST_FILE: usize = 1 << 20;

/// Reads a model, with some of its settings changed. Of several settings of one name the last counts.
///
/// # Errors
/// Everything that is wrong with the file and the settings, in order of position; see [`render`]. After 100 errors
/// the others are left out.
pub fn load(source: Source<'_>, settings: &[Setting]) -> Result<Model, Vec<Diagnostic>> {
    let mut diagnostics = Diagnostics::default();
    if source.text.len() > LONGEST_FILE {
        let message = format!("the file has {} bytes; a model has at most {LONGEST_FILE}", source.text.len());
        return Err(vec![Diagnostic::new("partita::size::too_large", message)]);
    }
    let tokens = lexer::lex(source.text, &mut diagnostics);
    let file = parse::parse(source.text, tokens, &mut diagnostics);
    let name = name(&file, &mut diagnostics);
    let mut overrides = Overrides::new(settings);
    let settings = Settings::resolve(&file, &mut overrides, &mut diagnostics);
    let section = train::resolve(&file, &settings, &mut overrides, &mut diagnostics);
    let values: Vec<(String, String)> = settings.values().chain(section.values.iter().cloned()).collect();
    overrides.report_unused(&values, &mut diagnostics);
    let graph = elaborate::elaborate(&file, &name, &settings, &section, &mut diagnostics);
    if diagnostics.is_empty() { Ok(Model { name, graph, train: section.train, settings: values }) } else { Err(diagnostics.sorted()) }
}

/// The name of the model, which its first line says.
fn name(file: &File, diagnostics: &mut Diagnostics) -> String {
    let mut names = file.statements.iter().filter_map(|statement| match &statement.kind {
        StatementKind::Model(name) => Some(name),
        _ => None,
    });
    let first = names.next();
    if let (Some(first), Some(again)) = (first, names.next()) {
        diagnostics.push(
            Diagnostic::new("partita::name::twice", "a file holds one model").label(again.span, "a second name").label(first.span, "the first"),
        );
    }
    if first.is_none() && diagnostics.is_empty() {
        diagnostics.push(Diagnostic::new("partita::syntax::no_model", "the file does not name its model").help("begin it with a line such as `model gpt`"));
    }
    first.map_or_else(String::new, |name| name.text.clone())
}
