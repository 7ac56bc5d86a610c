//! What stands in columns, and the text of the file.
//!
//! Neighbouring lines of one kind with no blank line and no comment between them are a run. In a run of `set` or of `let` lines `=` stands
//! behind the longest name; in one of `axis` or `input` lines `:` stands behind the longest that has one, and is not further
//! left than any other of them ends. The comments of a run stand in one column, which is a multiple of [`INDENT`], at least
//! two spaces behind the code. A column beyond [`WIDEST`] is none, and its lines stay as they are.

use super::breaking::{Printed, printed};
use super::piece::{Kind, Piece, text};
use super::{INDENT, Line, WIDEST};
use crate::lexer::Token;

/// A line of the file, with what its columns depend on.
struct Row<'a> {
    printed: Printed<'a>,
    /// What it has in common with its run; none if it is in no run.
    run: Option<&'static str>,
    /// Where its `=` or `:` stands, if that is aligned.
    mark: Option<usize>,
}

/// The text of the lines.
pub(super) fn print(lines: &[Line<'_>]) -> String {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for line in lines {
        let plain = |indent: usize, comment| Row { printed: Printed { indent, code: String::new(), comment }, run: None, mark: None };
        match line {
            Line::Blank => rows.push(plain(0, None)),
            Line::Comment { depth, text } => rows.push(plain(depth * INDENT, Some(text))),
            Line::Code { depth, pieces, comment } => {
                let mut printed = printed(pieces, depth * INDENT);
                if let Some(last) = printed.last_mut() {
                    last.comment = *comment;
                }
                let single = printed.len() == 1;
                let run = run(pieces).filter(|_| single);
                let mark = run.and_then(|run| mark(run, pieces));
                rows.extend(printed.into_iter().map(|printed| Row { printed, run, mark }));
            }
        }
    }
    for run in rows.chunk_by_mut(|a, b| a.run.is_some() && a.run == b.run && a.printed.indent == b.printed.indent) {
        align_marks(run);
        align_comments(run);
    }
    rows.iter().map(|row| written(&row.printed)).collect()
}

/// The kind of line that `pieces` is, if neighbours of its kind have columns.
fn run(pieces: &[Piece<'_>]) -> Option<&'static str> {
    let ends =
        |piece: Option<&Piece<'_>>| piece.is_some_and(|piece| matches!(piece.kind, Kind::Token(Token::OpenBrace | Token::CloseBrace)));
    if ends(pieces.first()) || ends(pieces.last()) {
        return None;
    }
    let first = pieces.first()?.text;
    Some(["set", "let", "axis", "input", "weight", "state"].into_iter().find(|word| *word == first).unwrap_or("other"))
}

/// Where the `=` of a setting, or the `:` of an axis or input stands in the text of its line.
fn mark(run: &str, pieces: &[Piece<'_>]) -> Option<usize> {
    let wanted = match run {
        "set" | "let" => Token::Assign,
        "axis" | "input" => Token::Colon,
        _ => return None,
    };
    let position = pieces.iter().position(|piece| piece.kind == Kind::Token(wanted))?;
    Some(text(&pieces[..position]).len() + 1)
}

fn align_marks(run: &mut [Row<'_>]) {
    let marked = run.iter().filter_map(|row| row.mark).max().unwrap_or(0);
    let others = run.iter().filter(|row| row.mark.is_none()).map(|row| row.printed.code.len()).max().unwrap_or(0);
    let column = marked.max(others);
    if marked == 0 || column > WIDEST {
        return;
    }
    for row in run {
        if let Some(mark) = row.mark {
            row.printed.code.insert_str(mark, &" ".repeat(column - mark));
        }
    }
}

fn align_comments(run: &mut [Row<'_>]) {
    let end = |row: &Row<'_>| row.printed.indent + row.printed.code.len();
    let furthest = run.iter().filter(|row| row.printed.comment.is_some()).map(end).max();
    let column = furthest.map_or(0, comment_column);
    if column > WIDEST {
        return;
    }
    for row in run.iter_mut().filter(|row| row.printed.comment.is_some() && !row.printed.code.is_empty()) {
        let spaces = column - comment_column(end(row));
        row.printed.code += &" ".repeat(spaces);
    }
}

/// Where the comment stands behind code that ends at a column.
fn comment_column(end: usize) -> usize {
    (end + 2).next_multiple_of(INDENT)
}

fn written(line: &Printed<'_>) -> String {
    let indent = " ".repeat(line.indent);
    match (line.code.as_str(), line.comment) {
        ("", None) => "\n".to_owned(),
        ("", Some(comment)) => format!("{indent}{comment}\n"),
        (code, None) => format!("{indent}{code}\n"),
        (code, Some(comment)) => {
            let end = line.indent + code.len();
            let spaces = " ".repeat(comment_column(end) - end);
            format!("{indent}{code}{spaces}{comment}\n")
        }
    }
}
