//! A model file as all of them are written: the same statements and comments, with one way of spaces, columns and line
//! breaks.
//!
//! What comes out depends on tokens, comments and blank lines, and on no other space of the file. So a file that is
//! formatted stays as it is. The rules:
//! - a statement a line, bodies four spaces in, `{` at the end of its line, `}` at the beginning of one; an empty body is `{}`;
//! - one space around operators, `=`, `:`, `->` and `..`, and behind commas; none inside brackets and before the brackets of a
//!   call;
//! - a line of code is at most [`WIDEST`] characters long where a bracket can be broken ([`breaking`]);
//! - `=` of neighbouring `set` or `let` lines, `:` of `axis` and of `input` lines, and comments behind neighbouring lines stand in columns
//!   ([`columns`]);
//! - a comment stays on its own line or behind its code, and its words as they are; blank lines stay, one in a row, but not
//!   at the ends of a body or of the file.

mod breaking;
mod columns;
mod piece;

use partita_ir::graph::Span;

use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::lexer::{Token, lex};
use crate::parse::parse;
use crate::{Source, readable_size};
use piece::{Kind, Piece};

/// Columns of a line of code, its comment not counted.
const WIDEST: usize = 120;

/// Spaces of one level.
const INDENT: usize = 4;

/// The text of a model file, formatted. Names and sizes need not make sense: only the syntax is looked at.
///
/// ```
/// use partita_frontend::{Source, format};
/// let text = "model  small\nset hidden=16 # wide enough\nset n = 2\n";
/// let formatted = format(Source { name: "small.partita", text }).unwrap();
/// assert_eq!(formatted, "model small\nset hidden = 16     # wide enough\nset n      = 2\n");
/// ```
///
/// # Errors
/// All errors of syntax, in order of position.
pub fn format(source: Source<'_>) -> Result<String, Vec<Diagnostic>> {
    let refused = |bytes: usize, has: &str| readable_size(bytes, has).map_or(Ok(()), |diagnostic| Err(vec![diagnostic]));
    refused(source.text.len(), "has")?;
    let tokens = parsed(source.text).map_err(Diagnostics::sorted)?;
    let formatted = columns::print(&Reader::new(source.text).read(&tokens));
    refused(formatted.len(), "would have, formatted,")?;
    let again = parsed(&formatted).unwrap_or_default();
    assert!(words(source.text, &tokens).eq(words(&formatted, &again)), "formatting changes spaces and commas that mean nothing alone");
    Ok(formatted)
}

/// The tokens of a text, if it has no errors of syntax.
fn parsed(text: &str) -> Result<Vec<(Token, Span)>, Diagnostics> {
    let mut diagnostics = Diagnostics::default();
    let tokens = lex(text, 0, &mut diagnostics);
    parse(text, 0, tokens.clone(), &mut diagnostics);
    if diagnostics.is_empty() { Ok(tokens) } else { Err(diagnostics) }
}

/// What formatting does not change: the tokens, but newlines and commas before closing brackets.
fn words<'a>(text: &'a str, tokens: &'a [(Token, Span)]) -> impl Iterator<Item = &'a str> {
    let visible = || tokens.iter().filter(|(token, _)| *token != Token::Newline);
    let next = visible().skip(1).map(|(token, _)| *token);
    visible().zip(next).filter_map(move |((token, span), next)| {
        let trailing = *token == Token::Comma && matches!(next, Token::CloseParen | Token::CloseBracket);
        (!trailing).then(|| slice(text, *span))
    })
}

fn slice(text: &str, span: Span) -> &str {
    &text[span.start as usize..span.end as usize]
}

/// A line of the file as it is read: several in print where a bracket is broken.
#[derive(Debug)]
enum Line<'a> {
    Blank,
    /// A comment on a line of its own.
    Comment {
        depth: usize,
        text: &'a str,
    },
    Code {
        depth: usize,
        pieces: Vec<Piece<'a>>,
        comment: Option<&'a str>,
    },
}

/// Tokens to lines.
struct Reader<'a> {
    text: &'a str,
    lines: Vec<Line<'a>>,
    /// The line that is being read.
    pieces: Vec<Piece<'a>>,
    /// Bodies around it.
    depth: usize,
    /// Parentheses and brackets that are open: inside them a newline ends no line.
    open: usize,
    /// Newlines since the last token or comment.
    newlines: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        // what begins the file begins a line
        Self { text, lines: Vec::new(), pieces: Vec::new(), depth: 0, open: 0, newlines: 1 }
    }

    fn read(mut self, tokens: &[(Token, Span)]) -> Vec<Line<'a>> {
        let mut end = 0;
        for (token, span) in tokens {
            // between tokens are spaces and, before a newline, a comment
            let between = &self.text[end as usize..span.start as usize];
            if let Some(start) = between.find('#') {
                self.comment(between[start..].trim_end());
            }
            self.token(*token, slice(self.text, *span));
            end = span.end;
        }
        self.lines
    }

    fn comment(&mut self, text: &'a str) {
        let own_line = self.newlines > 0;
        if self.open > 0 {
            self.pieces.push(Piece::comment(text, own_line));
        } else {
            self.end_line();
            match self.lines.last_mut() {
                Some(Line::Code { comment, .. }) if !own_line => *comment = Some(text),
                _ => {
                    self.begin_line();
                    self.lines.push(Line::Comment { depth: self.depth, text });
                }
            }
        }
        self.newlines = 0;
    }

    fn token(&mut self, token: Token, text: &'a str) {
        match token {
            Token::Newline | Token::End => {
                if self.open == 0 {
                    self.end_line();
                }
                self.newlines += 1;
                return;
            }
            Token::CloseBrace => {
                self.end_line();
                self.depth -= 1;
                self.reopen_empty_body();
            }
            Token::OpenParen | Token::OpenBracket => self.open += 1,
            Token::CloseParen | Token::CloseBracket => {
                self.open -= 1;
                self.drop_trailing_comma();
            }
            _ => {}
        }
        if self.pieces.is_empty() && token != Token::CloseBrace {
            self.begin_line();
        }
        let before = self.pieces.iter().rev().find(|piece| !piece.is_comment());
        self.pieces.push(Piece::token(token, text, before));
        self.newlines = 0;
        if token == Token::OpenBrace {
            self.end_line();
            self.depth += 1;
        }
    }

    /// Keeps a blank line before what comes now, unless it begins a body or the file.
    fn begin_line(&mut self) {
        let begins = match self.lines.last() {
            None => true,
            Some(Line::Code { pieces, .. }) => pieces.last().is_some_and(|last| last.kind == Kind::Token(Token::OpenBrace)),
            Some(_) => false,
        };
        if self.newlines > 1 && !begins {
            self.lines.push(Line::Blank);
        }
    }

    fn end_line(&mut self) {
        if !self.pieces.is_empty() {
            self.lines.push(Line::Code { depth: self.depth, pieces: std::mem::take(&mut self.pieces), comment: None });
        }
    }

    /// Before a closing bracket: whether the last argument has a comma is for the printed lines to say.
    fn drop_trailing_comma(&mut self) {
        let last = self.pieces.iter().rposition(|piece| !piece.is_comment());
        if let Some(last) = last.filter(|last| self.pieces[*last].kind == Kind::Token(Token::Comma)) {
            self.pieces.remove(last);
        }
    }

    /// Before a `}`: goes on with the line of its `{` if nothing stands between them.
    fn reopen_empty_body(&mut self) {
        let Some(Line::Code { pieces, comment: None, .. }) = self.lines.last_mut() else { return };
        if pieces.last().is_some_and(|last| last.kind == Kind::Token(Token::OpenBrace)) {
            self.pieces = std::mem::take(pieces);
            self.lines.pop();
        }
    }
}
