//! Tokens to statements, by recursive descent.
//!
//! After an error the parser goes on at the next line, so that one run finds the errors of every line.

mod expression;
mod statement;

use partita_ir::graph::Span;

use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::lexer::Token;
use crate::syntax::{File, Name, join};

/// Words that begin a statement or belong to one, and so name nothing else.
pub(crate) const RESERVED: [&str; 28] = [
    "model", "set", "axis", "input", "weight", "state", "update", "block", "op", "repeat", "as", "return", "loss", "train", "none", "if",
    "else", "true", "false", "not", "and", "or", "let", "for", "assert", "use", "scan", "emit",
];

/// A diagnostic was pushed; the statement cannot go on.
#[derive(Debug)]
pub(crate) struct Failed;

type Parsed<T> = Result<T, Failed>;

/// The state of the descent.
pub(crate) struct Parser<'a> {
    text: &'a str,
    /// The number of the text's first byte.
    base: u32,
    tokens: Vec<(Token, Span)>,
    position: usize,
    /// Where the statement begins that is being read.
    statement: usize,
    /// Open parentheses and brackets: inside them a newline means nothing.
    open: Vec<(Token, Span)>,
    /// How deep the descent is.
    depth: u16,
    /// Bodies that were closed before their `}`, which is still to come.
    closed_early: usize,
    /// Where the last of them was closed.
    closed_at: Option<usize>,
    /// Whether a body does not end where it should, so that nobody can tell what belongs to it.
    unbalanced: bool,
    /// Whether the innermost body is that of a `for`, where axes may be declared.
    unrolled: bool,
    diagnostics: &'a mut Diagnostics,
}

/// Reads a file, whose first byte counts as number `base`.
pub(crate) fn parse(text: &str, base: u32, tokens: Vec<(Token, Span)>, diagnostics: &mut Diagnostics) -> File {
    let mut parser = Parser::new(text, base, tokens, diagnostics);
    let statements = parser.file();
    File { statements, unbalanced: parser.unbalanced }
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, base: u32, tokens: Vec<(Token, Span)>, diagnostics: &'a mut Diagnostics) -> Self {
        Self {
            text,
            base,
            tokens,
            position: 0,
            statement: 0,
            open: Vec::new(),
            depth: 0,
            closed_early: 0,
            closed_at: None,
            unbalanced: false,
            unrolled: false,
            diagnostics,
        }
    }

    /// The current token; newlines do not count inside brackets.
    fn peek(&mut self) -> Token {
        if !self.open.is_empty() {
            while self.tokens[self.position].0 == Token::Newline {
                self.position += 1;
            }
        }
        self.tokens[self.position].0
    }

    /// Where the current token stands.
    fn here(&mut self) -> Span {
        self.peek();
        self.tokens[self.position].1
    }

    /// Where the last consumed token stands.
    fn previous(&self) -> Span {
        let before = self.tokens[..self.position].iter().rev().find(|(token, _)| *token != Token::Newline);
        before.map_or(self.tokens[0].1, |(_, span)| *span)
    }

    /// The span from `start` to the last consumed token.
    fn since(&self, start: Span) -> Span {
        join(start, self.previous())
    }

    fn slice(&self, span: Span) -> &'a str {
        &self.text[self.place(span.start)..self.place(span.end)]
    }

    /// Where a byte stands in the text.
    fn place(&self, byte: u32) -> usize {
        (byte - self.base) as usize
    }

    fn advance(&mut self) -> Span {
        let token = self.peek();
        let span = self.tokens[self.position].1;
        match token {
            Token::OpenParen | Token::OpenBracket => self.open.push((token, span)),
            Token::CloseParen | Token::CloseBracket => {
                self.open.pop();
            }
            _ => {}
        }
        if token != Token::End {
            self.position += 1;
        }
        span
    }

    fn eat(&mut self, token: Token) -> bool {
        let found = self.peek() == token;
        if found {
            self.advance();
        }
        found
    }

    /// Whether the current token is this word.
    fn at_word(&mut self, word: &str) -> bool {
        self.peek() == Token::Name && {
            let span = self.here();
            self.slice(span) == word
        }
    }

    fn expect(&mut self, token: Token, purpose: &str) -> Parsed<Span> {
        if self.peek() == token { Ok(self.advance()) } else { Err(self.unexpected(&format!("{token} {purpose}"))) }
    }

    /// Reports that something else was expected here.
    fn unexpected(&mut self, expected: &str) -> Failed {
        let token = self.peek();
        if token == Token::Strange {
            return Failed;
        }
        let here = self.here();
        let before = self.previous();
        // a statement may begin a line, the rest of one may not
        let between = self.text.get(self.place(before.end)..self.place(here.start)).unwrap_or_default();
        let new_line = self.position > self.statement && (between.contains('\n') || token == Token::Newline);
        let found = match token {
            Token::Name | Token::Number => {
                let text: String = self.slice(here).chars().take(40).collect();
                format!("`{text}`")
            }
            Token::Newline | Token::End => token.to_string(),
            _ if new_line => "the end of the line".to_owned(),
            _ => token.to_string(),
        };
        // what is missing at the end of a line is missing there, not where the next line begins
        let (place, found) = if new_line && token != Token::End {
            let last = self.text[..self.place(before.end)].char_indices().next_back().map_or(0, |(start, _)| start as u32);
            (Span { start: self.base + last, end: before.end }, "the end of the line".to_owned())
        } else {
            (here, found)
        };
        let mut diagnostic = Diagnostic::new("partita::syntax::expected", format!("expected {expected}, found {found}"));
        diagnostic = diagnostic.label(place, if new_line { "after this" } else { "here" });
        if token == Token::Text && !new_line {
            diagnostic = diagnostic
                .help("texts stand behind `use` and `assert` alone; a setting that chooses has words: `set activation = gelu | relu`");
        }
        if let Some((open, span)) = self.open.last().filter(|(_, span)| *span != place) {
            diagnostic = diagnostic.label(*span, format!("inside this {open}"));
        }
        self.diagnostics.push(diagnostic);
        Failed
    }

    /// After an error in the statement that began at token `first`: goes to the end of the line on which the parser
    /// gave up, or before a `}`.
    fn recover(&mut self, first: usize) {
        self.open.clear();
        if self.position > first && self.tokens[self.position - 1].0 == Token::Newline {
            return;
        }
        let mut braces = 0usize;
        loop {
            match self.tokens[self.position].0 {
                Token::End | Token::Newline if braces == 0 => return,
                Token::End => return,
                // a whole block is skipped with its head, for its lines mean nothing without it
                Token::OpenBrace => braces += 1,
                Token::CloseBrace if braces == 0 => return,
                Token::CloseBrace => braces -= 1,
                _ => {}
            }
            self.position += 1;
        }
    }

    /// A name that the user gives to something.
    fn new_name(&mut self, purpose: &str) -> Parsed<Name> {
        let name = self.name(purpose)?;
        if RESERVED.contains(&name.text.as_str()) || name.text == "index" {
            let diagnostic = Diagnostic::new(
                "partita::syntax::reserved_word",
                format!("`{}` is a word of the language and names nothing else", name.text),
            )
            .label(name.span, "choose another name");
            self.diagnostics.push(diagnostic);
            return Err(Failed);
        }
        Ok(name)
    }

    fn name(&mut self, purpose: &str) -> Parsed<Name> {
        let span = self.expect(Token::Name, purpose)?;
        Ok(Name { text: self.slice(span).to_owned(), span })
    }

    /// What `item` reads, separated by commas, up to `close`; a trailing comma is fine.
    fn list<T>(&mut self, close: Token, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut items = Vec::new();
        while self.peek() != close {
            items.push(item(self)?);
            if self.peek() != close && !self.eat(Token::Comma) {
                return Err(self.unexpected(&format!("`,` or {close}")));
            }
        }
        self.advance();
        Ok(items)
    }

    /// `[a, b, c]`
    fn axes(&mut self) -> Parsed<Vec<Name>> {
        self.expect(Token::OpenBracket, "with the tensor's axes, as in `[batch, seq]`")?;
        self.list(Token::CloseBracket, |parser| parser.name("of an axis"))
    }
}
