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
//! # The language
//!
//! A line is a statement; it goes on where a bracket is open. `#` begins a comment; `##` lines right above a declaration are
//! what [`Model::docs`] says of it. Dimensions are matched by the names of
//! their axes, never by position.
//!
//! | statement | meaning |
//! |---|---|
//! | `model gpt` | the name of the model, once |
//! | `set ffn = 4 * hidden` | a number with a default, which `--set` replaces; later lines may use it |
//! | `set bias = true` | a switch: true or false |
//! | `set activation = gelu \| relu` | a switch: one of these words, the first by default |
//! | `let wide = 4 * hidden` | what is known when the model is compiled and not set: a number, a truth or a word; also in bodies |
//! | `use "blocks.partita"` | the blocks and operators of another file, its path relative to this one; each file once |
//! | `assert hidden > heads, "{hidden} is too small"` | a mistake, told in these words, where the condition does not hold |
//! | `axis seq : seq` | an axis with the size of the setting of its name, and a role: batch, seq, head, vocab, expert |
//! | `axis head_dim = hidden / heads` | an axis with a size of its own |
//! | `input tokens[batch, seq] : tokens` | integers of the batch: `tokens`, or `next_tokens` one position further; `documents(separator)` numbers documents, `masked_tokens(mask)` and `masked_targets` are those of BERT |
//! | `weight w[hidden, ffn] = normal(0.02)` | a parameter; also `uniform(bound)`, `constant(value)`, `zeros`, `ones` |
//! | `weight b[ffn] = zeros if bias` | a parameter where the condition holds, else the number that it would begin as |
//! | `state mean[hidden] = zeros` | kept from step to step as a weight is, and not trained; begins as weights do |
//! | `update mean = 0.9 * mean + 0.1 * mean[batch, seq](x)` | what a state becomes at the end of a step: the value that the whole batch gives, whatever the micro-batches. Elsewhere a state is what the step began with |
//! | `op swiglu(a[.., i], b[.., i]) -> [.., i] = silu(a) * b` | an operator: letters stand for axes by position, `..` for any others |
//! | `op dot(a[m, k], b[k, n]) -> [m, n], sum k = a * b` | one that folds `k`; `: norm` before the `=` gives it a class |
//! | `op rounded(a[.., i]) -> [.., i] = floor(a) { derivative a = 1 }` | one whose derivative by `a` is not that of its expression |
//! | `block layer(x[batch, hidden], rate) { ... return x }` | a body with names of its own, written out at each call; it sees settings, axes, its arguments and blocks above it |
//! | `x = expression` | names may be assigned again |
//! | `repeat layers { x = layer(x) }` | what the body assigns and what existed before is carried on; weights exist once an iteration, as `layer.3.wq`; `as name` names the loop |
//! | `for stage in 0 .. 4 { ... }` | the body written out for each number, or each item of `[64, 128]` or `[near, far]`; it may declare axes; weights and axes of a round are named as `stage.2.w` |
//! | `scan seq (h[batch, hidden] = 0) { h = tanh(x + h); emit y[batch, seq, hidden] = h }` | a body for each entry of an axis, in order, or `scan seq reversed`: it reads the entries of tensors from outside that have the axis, without it; the head is carried on and its last values are there behind the scan; what is emitted has the axis again; weights exist once |
//! | `if tied { head = wte } else { weight head[hidden, vocab] = zeros }` | the branch of a condition, chosen when the model is compiled; `else if` for more |
//! | `loss cross_entropy[vocab](logits, targets)` | what training makes small, once; or `loss mean[batch, ...](error)` over all axes |
//! | `train { ... }` | `optimizer adamw(...)` or `sgd(...)`, `lr`, `schedule constant`, `cosine(...)` or `linear(...)`, `clip`, `batch`, `precision = bf16` or `bf16(moments = bf16)`, `loss_scale dynamic(...)`, a number or `none`; `for "gain*", "bias*" { decay = 0 }` with `frozen`, `lr_factor`, `decay` and `optimizer` for the weights that a pattern fits |
//!
//! Expressions have `+ - * /`, comparisons (1 or 0), numbers, settings, sizes of axes by their names, `index[axis]`, and the
//! calls of the [operator table](operators::TABLE). A result has the axes of the operand that has them all, else those of
//! its operands in order of appearance. All arithmetic of one expression is one operator, with one exception: a sum of a
//! named value and a branch with the same axes is an operator of its own, of the class of residuals.
//!
//! Conditions are switches, `true`, `false`, comparisons of numbers (`heads > 4`), words (`activation == gelu`) or truths,
//! and `not`, `and`, `or`. An `if` stands in the file, in blocks and in repeats, and holds what a block's body may hold.
//! Lines behind it see the names that every branch gives, and those that existed before. In a condition the name of a
//! switch is the switch, elsewhere the tensor of its name if there is one.
//!
//! Brackets with an arrow behind a tensor move its elements: `k[seq -> past]` renames an axis (of integers too, where they are compared), `x[hidden -> heads * head_dim]`
//! splits one, `x[heads * head_dim -> hidden]` merges neighbours, `x[seq = 0 .. 4 -> short]` cuts.
//!
//! A `for` is written out when the model is compiled. Names and axes that existed before it keep what the last round gave them, so
//! that an axis may be declared again and each round reads what the one before gave; others end with their round.
//!
//! # The crate
//!
//! Its files are the way of a text: lexer, parser, settings and `train` section, elaboration. All errors of a file are
//! found in one run, as [`Diagnostic`]s with stable codes; a graph is given only if there are none. [`format()`] writes a text
//! as all of them are written, from its tokens.
//!
//! **Invariant:** nothing here knows a model, and no input makes it panic or run without bound.

mod diagnostics;
mod docs;
mod elaborate;
mod evaluate;
mod files;
mod format;
mod groups;
mod lexer;
pub mod operators;
mod parse;
mod reference;
mod settings;
mod syntax;
mod train;

use partita_ir::graph::Graph;
use partita_ir::train::Train;

use diagnostics::Diagnostics;
pub use diagnostics::{Diagnostic, render};
pub use docs::Doc;
pub use files::locate;
pub use format::format;
pub use reference::reference;
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
    /// What its file says of what it declares, in file order.
    pub docs: Vec<Doc>,
}

/// A model, or what is wrong with it, and the files that were read: names and texts, its own first. Places in
/// diagnostics and in the graph are those of the texts one behind the other, see [`locate`].
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Every file that was read.
    pub files: Vec<(String, String)>,
    /// The model.
    pub model: Result<Model, Vec<Diagnostic>>,
}

/// Longest file that is read, in bytes.
const LONGEST_FILE: usize = 1 << 20;

/// Reads a model that is one file, with some of its settings changed. Of several settings of one name the last counts.
///
/// # Errors
/// Everything that is wrong with the file and the settings, in order of position; see [`render`]. After 100 errors
/// the others are left out, and where a `}` is missing names are not looked at.
pub fn load(source: Source<'_>, settings: &[Setting]) -> Result<Model, Vec<Diagnostic>> {
    load_with(source, settings, &mut |_| Err("this text is read alone".to_owned())).model
}

/// Reads a model as [`load`] does, with the files that it uses. `read` gives the text of a path, or why it has none; paths
/// are relative to where the name of `source` is, and in their shortest form.
pub fn load_with(source: Source<'_>, settings: &[Setting], read: &mut dyn FnMut(&str) -> Result<String, String>) -> Loaded {
    if let Some(diagnostic) = readable_size(source.text.len(), "has") {
        return Loaded { files: vec![(source.name.to_owned(), source.text.to_owned())], model: Err(vec![diagnostic]) };
    }
    let mut diagnostics = Diagnostics::default();
    let mut reader = files::Reader::new(read, &mut diagnostics);
    let file = reader.model(source);
    let files = reader.files();
    let mut model = checked(&file, settings, diagnostics);
    if let Ok(model) = &mut model {
        let sources: Vec<Source<'_>> = files.iter().map(|(name, text)| Source { name, text }).collect();
        model.docs = docs::docs(&file.statements, &sources);
    }
    Loaded { files, model }
}

/// The model of a file that was read.
fn checked(file: &File, settings: &[Setting], mut diagnostics: Diagnostics) -> Result<Model, Vec<Diagnostic>> {
    let name = name(file, &mut diagnostics);
    let mut overrides = Overrides::new(settings);
    let settings = Settings::resolve(file, &mut overrides, &mut diagnostics);
    let section = train::resolve(file, &settings, &mut overrides, &mut diagnostics);
    let values: Vec<(String, String)> = settings.values().chain(section.values.iter().cloned()).collect();
    overrides.report_unused(&values, &mut diagnostics);
    if file.unbalanced {
        return Err(diagnostics.sorted());
    }
    let graph = elaborate::elaborate(file, &name, &settings, &section, &mut diagnostics);
    if diagnostics.is_empty() {
        settings.report_unused(file, &mut diagnostics);
    }
    let mut train = section.train.clone();
    if diagnostics.is_empty() {
        train.groups = groups::groups(&section.groups, &train, &graph, file, &mut diagnostics);
    }
    if diagnostics.is_empty() { Ok(Model { name, graph, train, settings: values, docs: Vec::new() }) } else { Err(diagnostics.sorted()) }
}

/// A report of a file that is too large to be one of a model.
fn readable_size(bytes: usize, has: &str) -> Option<Diagnostic> {
    (bytes > LONGEST_FILE).then(|| {
        let message = format!("the file {has} {bytes} bytes; a model has at most {LONGEST_FILE}");
        Diagnostic::new("partita::size::too_large", message)
    })
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
            Diagnostic::new("partita::name::twice", "a file holds one model")
                .label(again.span, "a second name")
                .label(first.span, "the first"),
        );
    }
    if first.is_none() && diagnostics.is_empty() {
        diagnostics.push(
            Diagnostic::new("partita::syntax::no_model", "the file does not name its model")
                .help("begin it with a line such as `model gpt`"),
        );
    }
    first.map_or_else(String::new, |name| name.text.clone())
}
