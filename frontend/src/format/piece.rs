//! Tokens and comments as they are written, and the spaces between them.

use crate::lexer::Token;

/// A token or a comment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub text: &'a str,
    pub kind: Kind,
    /// Whether a space stands before it, if it does not begin its line.
    pub spaced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Token(Token),
    /// An operator between its operands; the lower the number, the looser it binds.
    Infix(u8),
    /// Inside brackets: on a line of its own, or behind what is before it.
    Comment {
        own_line: bool,
    },
}

/// Words before an expression: a parenthesis behind them makes no call, and a minus has no left operand.
const BEFORE_EXPRESSIONS: [&str; 7] = ["return", "loss", "if", "repeat", "not", "assert", "in"];

impl<'a> Piece<'a> {
    pub(super) fn comment(text: &'a str, own_line: bool) -> Self {
        Self { text, kind: Kind::Comment { own_line }, spaced: true }
    }

    /// A token behind the token `before` of its line.
    pub(super) fn token(token: Token, text: &'a str, before: Option<&Piece<'_>>) -> Self {
        let kind = match token {
            Token::Name if text == "or" => Kind::Infix(0),
            Token::Name if text == "and" => Kind::Infix(1),
            Token::Equal | Token::NotEqual | Token::AtMost | Token::Below | Token::AtLeast | Token::Above => Kind::Infix(2),
            Token::Minus if before.is_none_or(Piece::wants_operand) => Kind::Token(token),
            Token::Plus | Token::Minus => Kind::Infix(3),
            Token::Star | Token::Slash => Kind::Infix(4),
            _ => Kind::Token(token),
        };
        Self { text, kind, spaced: before.is_some_and(|before| before.spaces(token)) }
    }

    /// The comma behind the last of several lines.
    pub(super) fn trailing_comma() -> Self {
        Self { text: ",", kind: Kind::Token(Token::Comma), spaced: false }
    }

    pub(super) fn is_comment(&self) -> bool {
        matches!(self.kind, Kind::Comment { .. })
    }

    pub(super) fn opens(&self) -> bool {
        matches!(self.kind, Kind::Token(Token::OpenParen | Token::OpenBracket))
    }

    pub(super) fn closes(&self) -> bool {
        matches!(self.kind, Kind::Token(Token::CloseParen | Token::CloseBracket))
    }

    fn before_expression(&self) -> bool {
        self.kind == Kind::Token(Token::Name) && BEFORE_EXPRESSIONS.contains(&self.text)
    }

    /// Whether a minus behind it is a sign.
    fn wants_operand(&self) -> bool {
        match self.kind {
            Kind::Infix(_) => true,
            Kind::Token(Token::Name) => self.before_expression(),
            Kind::Token(token) => !matches!(token, Token::Number | Token::Text | Token::CloseParen | Token::CloseBracket),
            Kind::Comment { .. } => false,
        }
    }

    /// Whether a space stands between it and `token`.
    fn spaces(&self, token: Token) -> bool {
        match (self.kind, token) {
            // a minus that is no infix is a sign
            (Kind::Token(Token::OpenParen | Token::OpenBracket | Token::Minus), _) => false,
            (_, Token::Comma | Token::CloseParen | Token::CloseBracket) => false,
            (Kind::Token(Token::Name), Token::OpenParen | Token::OpenBracket) => self.before_expression(),
            (Kind::Token(Token::CloseParen | Token::CloseBracket), Token::OpenParen | Token::OpenBracket) => false,
            (Kind::Token(Token::OpenBrace), Token::CloseBrace) => false,
            _ => true,
        }
    }
}

/// The pieces on one line.
pub(super) fn text(pieces: &[Piece<'_>]) -> String {
    let mut out = String::new();
    for (position, piece) in pieces.iter().enumerate() {
        if piece.spaced && position > 0 {
            out.push(' ');
        }
        out += piece.text;
    }
    out
}

/// How long [`text`] is; code is ASCII.
pub(super) fn width(pieces: &[Piece<'_>]) -> usize {
    let spaces = pieces.iter().skip(1).filter(|piece| piece.spaced).count();
    spaces + pieces.iter().map(|piece| piece.text.len()).sum::<usize>()
}

/// Each piece with the brackets of `pieces` that are open at it; an opening bracket is outside, a closing one too.
pub(super) fn depths<'p, 'a>(pieces: &'p [Piece<'a>]) -> impl Iterator<Item = (usize, &'p Piece<'a>)> {
    let mut open = 0usize;
    pieces.iter().map(move |piece| {
        if piece.closes() {
            // a line may begin with a bracket that an earlier one opened
            open = open.saturating_sub(1);
        }
        let depth = open;
        open += usize::from(piece.opens());
        (depth, piece)
    })
}
