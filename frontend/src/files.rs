//! The files of a model: the one that is asked for, and those that it uses.
//!
//! Places in all of them are numbered as if the files stood one behind the other, the model's own first, so that a place says
//! which file it is in.

use std::collections::BTreeSet;

use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::syntax::{Defines, File, Name, Statement, StatementKind};
use crate::{Source, lexer, parse, readable_size};

/// Most files of a model.
const MOST_FILES: usize = 100;

/// What reads the file of a path.
pub(crate) type Read<'r> = &'r mut dyn FnMut(&str) -> Result<String, String>;

/// Reads a model's file and those that it uses.
pub(crate) struct Reader<'r, 'd> {
    read: Read<'r>,
    diagnostics: &'d mut Diagnostics,
    /// Names and texts so far.
    files: Vec<(String, String)>,
    /// The number of the next file's first byte.
    base: u32,
    known: BTreeSet<String>,
    unbalanced: bool,
}

impl<'r, 'd> Reader<'r, 'd> {
    pub(crate) fn new(read: Read<'r>, diagnostics: &'d mut Diagnostics) -> Self {
        Self { read, diagnostics, files: Vec::new(), base: 0, known: BTreeSet::new(), unbalanced: false }
    }

    /// The statements of a model, with those of the files that it uses in their places.
    pub(crate) fn model(&mut self, source: Source<'_>) -> File {
        let path = plain(source.name);
        self.known.insert(path.clone());
        let statements = self.file(source.name.to_owned(), source.text.to_owned(), &mut vec![path]);
        File { statements, unbalanced: self.unbalanced }
    }

    /// Every file that was read.
    pub(crate) fn files(self) -> Vec<(String, String)> {
        self.files
    }

    /// The statements of a file; `chain` are the paths from the model's file to this one.
    fn file(&mut self, name: String, text: String, chain: &mut Vec<String>) -> Vec<Statement> {
        let tokens = lexer::lex(&text, self.base, self.diagnostics);
        let parsed = parse::parse(&text, self.base, tokens, self.diagnostics);
        self.unbalanced |= parsed.unbalanced;
        self.base += u32::try_from(text.len()).expect("files are of readable size") + 1;
        self.files.push((name, text));
        let mut statements = Vec::new();
        for statement in parsed.statements {
            match &statement.kind {
                StatementKind::Use { path } => statements.extend(self.used(path, chain)),
                _ => statements.push(statement),
            }
        }
        statements
    }

    /// The statements of a file that is used: nothing if they are here already.
    fn used(&mut self, path: &Name, chain: &mut Vec<String>) -> Vec<Statement> {
        let here = chain.last().expect("a file uses another");
        let full = match here.rsplit_once('/') {
            Some((folder, _)) if !path.text.starts_with('/') => plain(&format!("{folder}/{}", path.text)),
            _ => plain(&path.text),
        };
        if let Some(first) = chain.iter().position(|known| *known == full) {
            let way: Vec<&str> = chain[first..].iter().chain([&full]).map(String::as_str).collect();
            self.diagnostics.push(
                Diagnostic::new("partita::use::cycle", "files use each other in a circle")
                    .label(path.span, "comes back to a file that uses this one")
                    .help(way.join(" uses ")),
            );
            return Vec::new();
        }
        if !self.known.insert(full.clone()) {
            return Vec::new();
        }
        if self.files.len() >= MOST_FILES {
            self.diagnostics.push(
                Diagnostic::new("partita::size::too_large", format!("a model has at most {MOST_FILES} files")).label(path.span, "one more"),
            );
            return Vec::new();
        }
        let text = match (self.read)(&full) {
            Ok(text) => text,
            Err(reason) => {
                self.diagnostics.push(
                    Diagnostic::new("partita::use::file", format!("cannot read {full}: {reason}"))
                        .label(path.span, "used here")
                        .help("the path is relative to the file that it is written in"),
                );
                return Vec::new();
            }
        };
        if let Some(diagnostic) = readable_size(text.len(), "has") {
            self.diagnostics.push(diagnostic.label(path.span, "used here"));
            return Vec::new();
        }
        chain.push(full.clone());
        let mut statements = self.file(full, text, chain);
        chain.pop();
        statements.retain(|statement| self.is_shared(statement, path));
        statements
    }

    /// Whether a statement may stand in a file that others use; a report if not.
    fn is_shared(&mut self, statement: &Statement, path: &Name) -> bool {
        let shared = matches!(
            statement.kind,
            StatementKind::Block(_) | StatementKind::Op(_) | StatementKind::Broken { defines: Defines::Callable, .. }
        );
        if !shared && !matches!(statement.kind, StatementKind::Broken { .. }) {
            self.diagnostics.push(
                Diagnostic::new("partita::use::only_blocks", "a file that others use holds blocks and operators alone")
                    .label(statement.span, "neither `block`, `op` nor `use`")
                    .label(path.span, "used here")
                    .help("what a block needs stands in the model: its axes and settings by their names, tensors as arguments"),
            );
        }
        shared
    }
}

/// A path without `.` and, where a folder stands before it, without `..`.
fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let root = if path.starts_with('/') { "/" } else { "" };
    format!("{root}{}", parts.join("/"))
}

/// The file that a place is in, and where in its text it is. Places of one file are those of its text.
pub fn locate<'a>(sources: &[Source<'a>], place: u32) -> Option<(Source<'a>, u32)> {
    let mut base = 0;
    for source in sources {
        let end = base + u32::try_from(source.text.len()).ok()?;
        if place <= end {
            return Some((*source, place - base));
        }
        base = end + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn paths_have_one_form() {
        for (path, form) in [
            ("models/./a.partita", "models/a.partita"),
            ("models/sub/../b.partita", "models/b.partita"),
            ("../b.partita", "../b.partita"),
            ("/x//y.partita", "/x/y.partita"),
            ("/b.partita", "/b.partita"),
        ] {
            assert_eq!(plain(path), form);
        }
    }
}
