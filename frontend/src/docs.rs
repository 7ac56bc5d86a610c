//! What a file says of what it declares: the lines that begin with `##` right above it.

use crate::syntax::{Statement, StatementKind};
use crate::{Source, locate};

/// A declaration with what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doc {
    /// The word that it is declared with, such as `block`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// The text, without the marks.
    pub text: String,
}

/// The documented declarations among these statements.
pub(crate) fn docs(statements: &[Statement], sources: &[Source<'_>]) -> Vec<Doc> {
    let mut found = Vec::new();
    for statement in statements {
        let (kind, name) = match &statement.kind {
            StatementKind::Model(name) => ("model", name),
            StatementKind::Set { name, .. } => ("set", name),
            StatementKind::Let { name, .. } => ("let", name),
            StatementKind::Axis { name, .. } => ("axis", name),
            StatementKind::Input { name, .. } => ("input", name),
            StatementKind::Weight { name, .. } => ("weight", name),
            StatementKind::Block(block) => ("block", &block.name),
            StatementKind::Op(op) => ("op", &op.name),
            _ => continue,
        };
        let Some((source, start)) = locate(sources, statement.span.start) else { continue };
        let text = above(&source.text[..start as usize]);
        if !text.is_empty() {
            found.push(Doc { kind, name: name.text.clone(), text });
        }
    }
    found
}

/// The text of the `##` lines that `before` ends with.
fn above(before: &str) -> String {
    // what stands before the statement on its own line is no line
    let lines = before.rsplit('\n').skip(1);
    let mut said: Vec<&str> = lines.map_while(|line| line.trim().strip_prefix("##")).map(str::trim).collect();
    said.reverse();
    said.join("\n")
}
