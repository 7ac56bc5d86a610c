//! Text to tokens.
//!
//! A newline is a token: it ends a statement unless a bracket is open, which is the parser's to know. Comments run
//! from `#` to the end of the line.

use std::fmt;

use logos::Logos;
use partita_ir::graph::Span;

use crate::diagnostics::{Diagnostic, Diagnostics};

/// What a token is.
#[derive(Logos, Clone, Copy, Debug, PartialEq, Eq)]
#[logos(skip r"[ \t\r\f\u{FEFF}]+")]
#[logos(skip(r"#[^\n]*", allow_greedy = true))]
pub(crate) enum Token {
    #[token("\n")]
    Newline,
    #[regex(r"[A-Za-z_][A-Za-z0-9_]*")]
    Name,
    #[regex(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")]
    Number,
    /// In quotes.
    #[regex(r#""[^"\n]*""#)]
    Text,
    #[token("(")]
    OpenParen,
    #[token(")")]
    CloseParen,
    #[token("[")]
    OpenBracket,
    #[token("]")]
    CloseBracket,
    #[token("{")]
    OpenBrace,
    #[token("}")]
    CloseBrace,
    #[token(",")]
    Comma,
    #[token(":")]
    Colon,
    #[token("..")]
    Dots,
    #[token("->")]
    Arrow,
    #[token("=")]
    Assign,
    #[token("==")]
    Equal,
    #[token("!=")]
    NotEqual,
    #[token("<=")]
    AtMost,
    #[token("<")]
    Below,
    #[token(">=")]
    AtLeast,
    #[token(">")]
    Above,
    #[token("+")]
    Plus,
    #[token("-")]
    Minus,
    #[token("*")]
    Star,
    #[token("/")]
    Slash,
    #[token("|")]
    Bar,
    /// Characters that begin no token, reported by the lexer.
    Strange,
    /// After the last character.
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Token::Newline => "the end of the line",
            Token::Name => "a name",
            Token::Number => "a number",
            Token::Text => "a text",
            Token::OpenParen => "`(`",
            Token::CloseParen => "`)`",
            Token::OpenBracket => "`[`",
            Token::CloseBracket => "`]`",
            Token::OpenBrace => "`{`",
            Token::CloseBrace => "`}`",
            Token::Comma => "`,`",
            Token::Colon => "`:`",
            Token::Dots => "`..`",
            Token::Arrow => "`->`",
            Token::Assign => "`=`",
            Token::Equal => "`==`",
            Token::NotEqual => "`!=`",
            Token::AtMost => "`<=`",
            Token::Below => "`<`",
            Token::AtLeast => "`>=`",
            Token::Above => "`>`",
            Token::Plus => "`+`",
            Token::Minus => "`-`",
            Token::Star => "`*`",
            Token::Slash => "`/`",
            Token::Bar => "`|`",
            Token::Strange => "strange characters",
            Token::End => "the end of the file",
        })
    }
}

/// The tokens of `text`, whose first byte counts as number `base`, with [`Token::End`] last. Characters that begin no token are reported; a line that has them is
/// not worth another report.
pub(crate) fn lex(text: &str, base: u32, diagnostics: &mut Diagnostics) -> Vec<(Token, Span)> {
    let at = |position: usize| base + u32::try_from(position).expect("the size of the text was checked");
    let mut tokens: Vec<(Token, Span)> = Vec::new();
    for (token, range) in Token::lexer(text).spanned() {
        let span = Span { start: at(range.start), end: at(range.end) };
        match (token.unwrap_or(Token::Strange), tokens.last_mut()) {
            (Token::Strange, Some((Token::Strange, before))) if before.end == span.start => before.end = span.end,
            (token, _) => tokens.push((token, span)),
        }
    }
    let slice = |span: Span| &text[(span.start - base) as usize..(span.end - base) as usize];
    for (_, span) in tokens.iter().filter(|(token, _)| *token == Token::Strange) {
        diagnostics.push(strange(slice(*span), *span));
    }
    // without its semicolons a line is what was meant
    tokens.retain(|(token, span)| *token != Token::Strange || slice(*span) != ";");
    let end = Span { start: at(text.len()), end: at(text.len()) };
    tokens.push((Token::End, end));
    tokens
}

fn strange(found: &str, span: Span) -> Diagnostic {
    let shown: String = found.chars().take(20).collect();
    let message = if found.chars().count() == 1 {
        format!("character `{shown}` means nothing")
    } else {
        format!("characters `{shown}` mean nothing")
    };
    let diagnostic = Diagnostic::new("partita::syntax::unexpected_character", message).label(span, "here");
    match found.chars().next() {
        Some('"') => diagnostic.help("a text ends with `\"` on its line; comments begin with `#`"),
        Some('\'') => diagnostic.help("a text stands in `\"`; comments begin with `#`"),
        Some(';') => diagnostic.help("a statement ends with its line; write each on a line of its own"),
        Some('&' | '!') => diagnostic.help(
            "conditions are joined with `and`, `or` and `not`; comparisons of elements give 0 or 1: `a * b` is 1 where both hold, `max(a, b)` where one does, `1 - a` where it does not",
        ),
        Some('^') => diagnostic.help("a power is `pow(a, b)`"),
        _ => diagnostic,
    }
}
