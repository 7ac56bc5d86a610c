//! Lines that are too long, or that a comment ends: where they break.
//!
//! A line breaks inside one of its outermost brackets, the one with a comment in it, else the longest. What is in the bracket
//! stands on one line if it fits there:
//! ```text
//! a = attention[past, head_dim](
//!     q, k[seq -> past], v[seq -> past], causal = seq, dropout = dropout, bias = slope * index[past]
//! )
//! ```
//! else each argument on a line of its own, with a comma behind the last of several. An argument that is too long breaks
//! before the operators that bind loosest, and if it has none, as a line does. A line that no bracket can break stays long.

use super::piece::{Kind, Piece, depths, text, width};
use super::{INDENT, WIDEST};
use crate::lexer::Token;

/// A line as it is printed.
#[derive(Debug)]
pub(super) struct Printed<'a> {
    pub indent: usize,
    pub code: String,
    pub comment: Option<&'a str>,
}

/// The lines of a statement.
pub(super) fn printed<'a>(pieces: &[Piece<'a>], indent: usize) -> Vec<Printed<'a>> {
    let mut out = Breaker { lines: Vec::new() };
    out.line(pieces, indent, false);
    out.lines
}

struct Breaker<'a> {
    lines: Vec<Printed<'a>>,
}

/// What stands between commas; a comment behind a comma leads the next, and is printed behind this one all the same.
#[derive(Default)]
struct Item<'a> {
    /// Comments before it.
    leading: Vec<Piece<'a>>,
    code: Vec<Piece<'a>>,
    /// Comments between it and its comma.
    trailing: Vec<Piece<'a>>,
}

impl<'a> Breaker<'a> {
    /// One line, or several; `within` brackets they may begin anywhere.
    fn line(&mut self, pieces: &[Piece<'a>], indent: usize, within: bool) {
        let commented = pieces.iter().any(Piece::is_comment);
        if !commented && indent + width(pieces) <= WIDEST {
            return self.push(text(pieces), indent);
        }
        let comments = positions(pieces, |piece| piece.is_comment());
        if !comments.is_empty() {
            return self.between_comments(pieces, &comments, indent);
        }
        if within && !commented {
            let starts = loosest(pieces);
            if let Some(first) = starts.first() {
                self.line(&pieces[..*first], indent, within);
                let ends = starts.iter().skip(1).copied().chain([pieces.len()]);
                for (start, end) in starts.iter().zip(ends) {
                    self.line(&pieces[*start..end], indent + INDENT, within);
                }
                return;
            }
        }
        let Some((open, close)) = bracket(pieces) else { return self.push(text(pieces), indent) };
        self.line(&pieces[..=open], indent, within);
        self.inside(&pieces[open + 1..close], indent + INDENT);
        self.line(&pieces[close..], indent, within);
    }

    /// A line that comments break.
    fn between_comments(&mut self, pieces: &[Piece<'a>], comments: &[usize], indent: usize) {
        let mut start = 0;
        for end in comments.iter().copied().chain([pieces.len()]) {
            if start < end {
                self.line(&pieces[start..end], if start == 0 { indent } else { indent + INDENT }, true);
            }
            if let Some(comment) = pieces.get(end) {
                self.comment(comment, indent + INDENT);
            }
            start = end + 1;
        }
    }

    /// What is between brackets.
    fn inside(&mut self, pieces: &[Piece<'a>], indent: usize) {
        let commented = pieces.iter().any(Piece::is_comment);
        if !commented && indent + width(pieces) <= WIDEST {
            return self.push(text(pieces), indent);
        }
        let items = items(pieces);
        let several = items.iter().filter(|item| !item.code.is_empty()).count() > 1;
        for mut item in items {
            item.leading.iter().for_each(|comment| self.comment(comment, indent));
            if !item.code.is_empty() {
                if several {
                    item.code.push(Piece::trailing_comma());
                }
                self.line(&item.code, indent, true);
            }
            item.trailing.iter().for_each(|comment| self.comment(comment, indent));
        }
    }

    fn push(&mut self, code: String, indent: usize) {
        self.lines.push(Printed { indent, code, comment: None });
    }

    /// A comment where it was: behind the line before it, or on a line of its own.
    fn comment(&mut self, comment: &Piece<'a>, indent: usize) {
        match self.lines.last_mut() {
            Some(last) if comment.kind == (Kind::Comment { own_line: false }) && last.comment.is_none() => {
                last.comment = Some(comment.text);
            }
            _ => self.lines.push(Printed { indent, code: String::new(), comment: Some(comment.text) }),
        }
    }
}

/// Where pieces outside of all brackets are as wanted.
fn positions(pieces: &[Piece<'_>], wanted: impl Fn(&Piece<'_>) -> bool) -> Vec<usize> {
    let outside = depths(pieces).enumerate().filter(|(_, (depth, piece))| *depth == 0 && wanted(piece));
    outside.map(|(position, _)| position).collect()
}

/// Where the operators stand that bind loosest; one that begins the line is broken off already.
fn loosest(pieces: &[Piece<'_>]) -> Vec<usize> {
    let binding = |position: usize| match pieces[position].kind {
        Kind::Infix(binding) => binding,
        _ => u8::MAX,
    };
    let mut found = positions(pieces, |piece| matches!(piece.kind, Kind::Infix(_)));
    found.retain(|position| *position > 0);
    let least = found.iter().map(|position| binding(*position)).min();
    found.retain(|position| Some(binding(*position)) == least);
    found
}

/// The outermost bracket to break: where it opens and closes.
fn bracket(pieces: &[Piece<'_>]) -> Option<(usize, usize)> {
    let opening = positions(pieces, |piece| piece.opens());
    let closing = positions(pieces, |piece| piece.closes());
    // a bracket that is broken already is closed by the first piece, another opened by the last
    let closing = closing.into_iter().filter(|position| *position > 0);
    let brackets: Vec<(usize, usize)> = opening.into_iter().zip(closing).filter(|(open, close)| open + 1 < *close).collect();
    let commented = brackets.iter().find(|(open, close)| pieces[*open..*close].iter().any(Piece::is_comment));
    // of several as long the first
    commented.or_else(|| brackets.iter().rev().max_by_key(|(open, close)| width(&pieces[*open..*close]))).copied()
}

/// What stands between brackets, by its commas.
fn items<'a>(pieces: &[Piece<'a>]) -> Vec<Item<'a>> {
    let mut items: Vec<Item<'a>> = vec![Item::default()];
    let mut after_comma = false;
    for (depth, piece) in depths(pieces) {
        let last = items.len() - 1;
        match piece.kind {
            Kind::Token(Token::Comma) if depth == 0 => {
                after_comma = true;
                continue;
            }
            Kind::Comment { .. } if items[last].code.is_empty() => items[last].leading.push(*piece),
            Kind::Comment { .. } if after_comma => items.push(Item { leading: vec![*piece], ..Item::default() }),
            _ if after_comma => items.push(Item { code: vec![*piece], ..Item::default() }),
            _ => items[last].code.push(*piece),
        }
        after_comma = false;
    }
    for item in &mut items {
        let code = item.code.iter().rposition(|piece| !piece.is_comment()).map_or(0, |last| last + 1);
        item.trailing = item.code.split_off(code);
    }
    items
}
