//! Text to tokens.

use super::TextError;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Letters, digits and `_`, not a digit first.
    Word(String),
    /// Digits with an optional fraction and exponent, no sign.
    Number(String),
    /// A quoted string, its escapes resolved.
    Text(String),
    /// `%12`
    Value(u32),
    /// `@batch` or `@3`, without the sign.
    Axis(String),
    /// Punctuation.
    Mark(&'static str),
    End,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Token::Word(word) | Token::Number(word) => write!(f, "`{word}`"),
            Token::Text(text) => write!(f, "{text:?}"),
            Token::Value(id) => write!(f, "`%{id}`"),
            Token::Axis(name) => write!(f, "`@{name}`"),
            Token::Mark(mark) => write!(f, "`{mark}`"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}

/// A token and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) line: u32,
    pub(super) column: u32,
}

/// Longer ones before those that they begin with.
const MARKS: [&str; 24] =
    ["->", ":=", "<=", "==", "!=", "..", "{", "}", "[", "]", "(", ")", ",", ";", ":", "=", "+", "-", "*", "/", "<", "?", "#", ">"];

pub(super) fn lex(text: &str) -> Result<Vec<Placed>, TextError> {
    let mut lexer = Lexer { rest: text, line: 1, column: 1 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks();
        let (line, column) = (lexer.line, lexer.column);
        let token = lexer.token().map_err(|message| TextError { line, column, message })?;
        let end = token == Token::End;
        tokens.push(Placed { token, line, column });
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
    line: u32,
    column: u32,
}

/// What names of axes are made of, after the first character.
pub(super) fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

impl<'a> Lexer<'a> {
    /// Takes `bytes` bytes, which end at a character's end.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        for c in taken.chars() {
            (self.line, self.column) = if c == '\n' { (self.line + 1, 1) } else { (self.line, self.column + 1) };
        }
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let bytes = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        self.take(bytes)
    }

    fn skip_blanks(&mut self) {
        loop {
            self.take_while(char::is_whitespace);
            if !self.rest.starts_with("//") {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    fn token(&mut self) -> Result<Token, String> {
        let Some(first) = self.rest.chars().next() else { return Ok(Token::End) };
        if first.is_ascii_digit() {
            return Ok(Token::Number(self.number().to_owned()));
        }
        if is_word(first) {
            return Ok(Token::Word(self.take_while(is_word).to_owned()));
        }
        match first {
            '"' => self.string().map(Token::Text),
            '%' => {
                self.take(1);
                let digits = self.take_while(|c| c.is_ascii_digit());
                digits.parse().map(Token::Value).map_err(|_| "expected a value such as `%12`".to_owned())
            }
            '@' => {
                self.take(1);
                let name = self.take_while(is_name);
                if name.is_empty() { Err("expected an axis such as `@batch`".to_owned()) } else { Ok(Token::Axis(name.to_owned())) }
            }
            _ => {
                let mark = MARKS.into_iter().find(|mark| self.rest.starts_with(mark));
                let mark = mark.ok_or_else(|| format!("`{}` begins nothing", first.escape_debug()))?;
                self.take(mark.len());
                Ok(Token::Mark(mark))
            }
        }
    }

    /// Digits, a fraction if a digit follows the point (`1..2` is no fraction), an exponent if digits follow it.
    fn number(&mut self) -> &'a str {
        let bytes = self.rest.as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut end = digits(0);
        if bytes.get(end) == Some(&b'.') && digits(end + 1) > 0 {
            end += 1 + digits(end + 1);
        }
        if bytes.get(end) == Some(&b'e') {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let exponent = bytes.get(end + 1 + sign..).map_or(0, |_| digits(end + 1 + sign));
            if exponent > 0 {
                end += 1 + sign + exponent;
            }
        }
        self.take(end)
    }

    /// A quoted string with the escapes that Rust's `{:?}` writes.
    fn string(&mut self) -> Result<String, String> {
        self.take(1);
        let mut out = String::new();
        loop {
            out.push_str(self.take_while(|c| c != '"' && c != '\\'));
            if self.rest.is_empty() {
                return Err("the string does not end".to_owned());
            }
            if self.take(1) == "\"" {
                return Ok(out);
            }
            let Some(escape) = self.rest.chars().next() else { return Err("the string does not end".to_owned()) };
            self.take(escape.len_utf8());
            out.push(match escape {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                '"' | '\'' | '\\' => escape,
                'u' => {
                    let code = self.take_while(|c| c != '}' && c != '"');
                    let digits = code.strip_prefix('{').filter(|_| self.rest.starts_with('}'));
                    let known = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32);
                    let known = known.ok_or_else(|| "`\\u` is followed by no character's number in braces".to_owned())?;
                    self.take(1);
                    known
                }
                other => return Err(format!("`\\{other}` is no escape")),
            });
        }
    }
}
