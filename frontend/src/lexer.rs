//! Text to tokens.
//!
//! A newline is a token: it ends a statement unless a bracket is open, which is the parser's to know. Comments run
//! from `#` to the end of the line.

use std::fmt;

use logos::Logos;
use partita_ir::graph::Span;

use crate::diagnostics::{Diagnostic, Diagnostics, plural};

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
    /// After the last character.
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Token::Newline => "the end of the line",
            Token::Name => "a name",
            Token::Number => "a number",
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
            Token::End => "the end of the file",
        })
    }
}

/// The tokens of `text`, with [`Token::End`] last. Characters that begin no token are reported and left out.
pub(crate) fn lex(text: &str, diagnostics: &mut Diagnostics) -> Vec<(Token, Span)> {
    let at = |position: usize| u32::try_from(position).expect("the size of the text was checked");
    let mut tokens = Vec::new();
    let mut strange: Option<Span> = None;
    let mut report = |strange: &mut Option<Span>| {
        if let Some(span) = strange.take() {
            let found = &text[span.start as usize..span.end as usize];
            let count = found.chars().count();
            let shown: String = found.chars().take(20).collect();
            let mut diagnostic =
                Diagnostic::new("partita::syntax::unexpected_character", format!("{} `{shown}` not understood", plural(count, "character")))
                    .label(span, "here");
            if shown.contains(['"', '\'']) {
                diagnostic = diagnostic.help("the language has no strings; comments begin with `#`");
            } else if shown.contains(';') {
                diagnostic = diagnostic.help("a statement ends with its line; write each on a line of its own");
            }
            diagnostics.push(diagnostic);
        }
    };
    for (token, range) in Token::lexer(text).spanned() {
        let span = Span { start: at(range.start), end: at(range.end) };
        match token {
            Ok(token) => {
                report(&mut strange);
                tokens.push((token, span));
            }
            Err(()) => match &mut strange {
                Some(before) if before.end == span.start => before.end = span.end,
                _ => {
                    report(&mut strange);
                    strange = Some(span);
                }
            },
        }
    }
    report(&mut strange);
    tokens.push((Token::End, Span { start: at(text.len()), end: at(text.len()) }));
    tokens
}
