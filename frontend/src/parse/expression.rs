//! Expressions, by precedence: `or`, `and`, `not`, comparisons, sums, products, minus, brackets.

use partita_ir::graph::Span;

use super::{Failed, Parsed, Parser};
use crate::diagnostics::Diagnostic;
use crate::lexer::Token;
use crate::syntax::{Argument, BinaryOp, Call, Expr, ExprKind, Logic, Move, Name, Window, join};

/// What stands in the brackets of a call.
struct CallAxes {
    names: Vec<Name>,
    /// How many of them stand before `->`.
    arrow: Option<usize>,
}

/// Tallest expression that is read: every walk over one is recursive.
const TALLEST: u16 = 100;
/// Stands before the axis of a window's places.
const OVER: &str = "over";

impl Parser<'_> {
    /// An expression.
    pub(super) fn expression(&mut self) -> Parsed<Expr> {
        self.joined("or", Logic::Or, |parser| parser.joined("and", Logic::And, Self::negated))
    }

    /// Parts with a word between each two.
    fn joined(&mut self, word: &str, logic: Logic, part: fn(&mut Self) -> Parsed<Expr>) -> Parsed<Expr> {
        let mut left = part(self)?;
        while self.at_word(word) {
            self.advance();
            let right = part(self)?;
            let (span, height) = (join(left.span, right.span), left.height.max(right.height) + 1);
            left = self.tall(ExprKind::Logic(logic, vec![left, right]), span, height)?;
        }
        Ok(left)
    }

    fn negated(&mut self) -> Parsed<Expr> {
        let start = self.here();
        if !self.at_word("not") {
            return self.compared();
        }
        self.advance();
        let inner = self.deeper(start, Self::negated)?;
        let height = inner.height + 1;
        self.tall(ExprKind::Logic(Logic::Not, vec![inner]), self.since(start), height)
    }

    fn compared(&mut self) -> Parsed<Expr> {
        let left = self.sum()?;
        let Some(op) = self.comparison() else { return Ok(left) };
        self.advance();
        let right = self.sum()?;
        let whole = self.binary(op, left, right)?;
        if self.comparison().is_some() {
            let span = self.here();
            self.diagnostics.push(
                Diagnostic::new("partita::syntax::chained_comparison", "comparisons do not chain")
                    .label(span, "a second comparison")
                    .help("compare twice and multiply: `(a < b) * (b < c)` is 1 where both hold"),
            );
            return Err(Failed);
        }
        Ok(whole)
    }

    fn comparison(&mut self) -> Option<BinaryOp> {
        Some(match self.peek() {
            Token::Below => BinaryOp::Lt,
            Token::AtMost => BinaryOp::Le,
            Token::Above => BinaryOp::Gt,
            Token::AtLeast => BinaryOp::Ge,
            Token::Equal => BinaryOp::Eq,
            Token::NotEqual => BinaryOp::Ne,
            _ => return None,
        })
    }

    fn sum(&mut self) -> Parsed<Expr> {
        let mut left = self.product()?;
        loop {
            let op = match self.peek() {
                Token::Plus => BinaryOp::Add,
                Token::Minus => BinaryOp::Sub,
                _ => return Ok(left),
            };
            self.advance();
            let right = self.product()?;
            left = self.binary(op, left, right)?;
        }
    }

    fn product(&mut self) -> Parsed<Expr> {
        let mut left = self.signed()?;
        loop {
            let op = match self.peek() {
                Token::Star => BinaryOp::Mul,
                Token::Slash => BinaryOp::Div,
                _ => return Ok(left),
            };
            self.advance();
            let right = self.signed()?;
            left = self.binary(op, left, right)?;
        }
    }

    fn signed(&mut self) -> Parsed<Expr> {
        let start = self.here();
        if !self.eat(Token::Minus) {
            return self.postfix();
        }
        let inner = self.deeper(start, Self::signed)?;
        let height = inner.height + 1;
        self.tall(ExprKind::Negate(Box::new(inner)), self.since(start), height)
    }

    /// A primary expression with the brackets behind it.
    fn postfix(&mut self) -> Parsed<Expr> {
        let start = self.here();
        let mut expr = self.deeper(start, Self::primary)?;
        while self.peek() == Token::OpenBracket {
            let moves = self.moves()?;
            let height = expr.height + 1;
            expr = self.tall(ExprKind::Bracket(Box::new(expr), moves), self.since(start), height)?;
        }
        Ok(expr)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let start = self.here();
        match self.peek() {
            Token::Number => {
                self.advance();
                Ok(Expr { kind: ExprKind::Number(self.slice(start).to_owned()), span: start, height: 1 })
            }
            Token::OpenParen => {
                self.advance();
                let mut inner = self.expression()?;
                self.expect(Token::CloseParen, "to close the parenthesis")?;
                inner.span = self.since(start);
                Ok(inner)
            }
            Token::Name => {
                let name = self.name("")?;
                match self.peek() {
                    Token::OpenParen => self.call(name, None, Vec::new()),
                    Token::OpenBracket if name.text == "index" => {
                        let axes = self.axes()?;
                        let span = self.since(start);
                        let Ok([axis]) = <[Name; 1]>::try_from(axes) else {
                            self.diagnostics.push(
                                Diagnostic::new("partita::call::wrong_axes", "`index` takes one axis")
                                    .label(span, "here")
                                    .help("write `index[seq]`"),
                            );
                            return Err(Failed);
                        };
                        Ok(Expr { kind: ExprKind::Index(axis), span, height: 1 })
                    }
                    Token::OpenBracket if self.brackets_hold_windows() => {
                        let windows = self.windows()?;
                        self.call(name, Some(CallAxes { names: Vec::new(), arrow: None }), windows)
                    }
                    Token::OpenBracket if self.brackets_belong_to_a_call() => {
                        let axes = self.call_axes()?;
                        self.call(name, Some(axes), Vec::new())
                    }
                    _ => {
                        let kind = match name.text.as_str() {
                            "true" => ExprKind::Truth(true),
                            "false" => ExprKind::Truth(false),
                            _ => ExprKind::Name(name.text),
                        };
                        Ok(Expr { kind, span: name.span, height: 1 })
                    }
                }
            }
            _ => Err(self.unexpected("an expression")),
        }
    }

    /// Whether the bracket here closes before a `(`.
    fn brackets_belong_to_a_call(&self) -> bool {
        let mut rest = self.tokens[self.position + 1..].iter().map(|(token, _)| *token).filter(|token| *token != Token::Newline);
        rest.find(|token| !matches!(token, Token::Name | Token::Comma | Token::Arrow)) == Some(Token::CloseBracket)
            && rest.next() == Some(Token::OpenParen)
    }

    /// Whether the bracket here closes before a `(`, with an `over` inside.
    fn brackets_hold_windows(&self) -> bool {
        let rest = self.tokens[self.position + 1..].iter().filter(|(token, _)| *token != Token::Newline);
        let inside = rest.clone().take_while(|(token, _)| matches!(token, Token::Name | Token::Comma | Token::Arrow));
        let over = inside.clone().any(|(token, span)| *token == Token::Name && self.slice(*span) == OVER);
        let mut behind = rest.skip(inside.count()).map(|(token, _)| *token);
        over && behind.next() == Some(Token::CloseBracket) && behind.next() == Some(Token::OpenParen)
    }

    /// `[height -> rows over kh, width over kw]`
    fn windows(&mut self) -> Parsed<Vec<Window>> {
        self.expect(Token::OpenBracket, "")?;
        self.list(Token::CloseBracket, |parser| {
            let axis = parser.name("of an axis")?;
            let out = if parser.eat(Token::Arrow) { parser.name("of the axis that it becomes")? } else { axis.clone() };
            if !parser.at_word(OVER) {
                return Err(parser.unexpected("`over` and the axis of a window's places"));
            }
            parser.advance();
            Ok(Window { axis, out, taps: parser.name("of the axis of a window's places")? })
        })
    }

    /// `[vocab]`, `[seq -> longer]`
    fn call_axes(&mut self) -> Parsed<CallAxes> {
        self.expect(Token::OpenBracket, "with the axes")?;
        let (mut names, mut arrow) = (Vec::new(), None);
        while self.peek() != Token::CloseBracket {
            names.push(self.name("of an axis")?);
            if arrow.is_none() && self.peek() == Token::Arrow {
                self.advance();
                arrow = Some(names.len());
            } else if self.peek() != Token::CloseBracket && !self.eat(Token::Comma) {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
        self.advance();
        Ok(CallAxes { names, arrow })
    }

    fn call(&mut self, name: Name, brackets: Option<CallAxes>, windows: Vec<Window>) -> Parsed<Expr> {
        let start = name.span;
        let arguments = self.arguments()?;
        let height = arguments.iter().map(|argument| argument.value.height).max().unwrap_or(0) + 1;
        let span = self.since(start);
        let (axes, arrow) = brackets.map_or((None, None), |brackets| (Some(brackets.names), brackets.arrow));
        self.tall(ExprKind::Call(Call { name, axes, arrow, windows, arguments }), span, height)
    }

    /// `(x, y, option = 3)`
    pub(super) fn arguments(&mut self) -> Parsed<Vec<Argument>> {
        self.expect(Token::OpenParen, "with the arguments")?;
        self.list(Token::CloseParen, |parser| {
            let named = parser.peek() == Token::Name && parser.tokens[parser.position + 1].0 == Token::Assign;
            let name = if named {
                let name = parser.name("of an option")?;
                parser.advance();
                Some(name)
            } else {
                None
            };
            Ok(Argument { name, value: parser.expression()? })
        })
    }

    /// `[hidden -> heads * head_dim, seq = 0 .. 4 -> short]`
    fn moves(&mut self) -> Parsed<Vec<Move>> {
        let open = self.expect(Token::OpenBracket, "")?;
        let moves = self.list(Token::CloseBracket, |parser| {
            let start = parser.here();
            let from = parser.factors()?;
            let range = if parser.eat(Token::Assign) {
                let first = parser.expression()?;
                parser.expect(Token::Dots, "between the first position and the one behind the last")?;
                Some((first, parser.expression()?))
            } else {
                None
            };
            if parser.peek() != Token::Arrow {
                let span = parser.since(open);
                parser.diagnostics.push(
                    Diagnostic::new("partita::syntax::expected", "brackets behind a tensor rename, split, merge or cut its axes, with `->`")
                        .label(span, "no `->` here")
                        .help("write `x[seq -> past]`, `x[hidden -> heads * head_dim]`, `x[heads * head_dim -> hidden]` or `x[seq = 0 .. 4 -> short]`; a tensor's axes need no mention where it is used"),
                );
                return Err(Failed);
            }
            parser.advance();
            let to = parser.factors()?;
            Ok(Move { from, range, to, span: parser.since(start) })
        })?;
        if moves.is_empty() {
            let span = self.since(open);
            self.diagnostics.push(Diagnostic::new("partita::syntax::expected", "nothing stands in the brackets").label(span, "here"));
            return Err(Failed);
        }
        Ok(moves)
    }

    /// `heads * head_dim`
    fn factors(&mut self) -> Parsed<Vec<Name>> {
        let mut names = vec![self.name("of an axis")?];
        while self.eat(Token::Star) {
            names.push(self.name("of an axis")?);
        }
        Ok(names)
    }

    fn binary(&mut self, op: BinaryOp, left: Expr, right: Expr) -> Parsed<Expr> {
        let span = join(left.span, right.span);
        let height = left.height.max(right.height) + 1;
        self.tall(ExprKind::Binary(op, Box::new(left), Box::new(right)), span, height)
    }

    /// The expression, unless it is taller than any walk over it may be.
    fn tall(&mut self, kind: ExprKind, span: Span, height: u16) -> Parsed<Expr> {
        if height > TALLEST { Err(self.too_deep(span)) } else { Ok(Expr { kind, span, height }) }
    }

    pub(super) fn deeper<T>(&mut self, start: Span, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= TALLEST {
            return Err(self.too_deep(start));
        }
        self.depth += 1;
        let out = read(self);
        self.depth -= 1;
        out
    }

    fn too_deep(&mut self, span: Span) -> Failed {
        self.diagnostics.push(
            Diagnostic::new("partita::syntax::too_deep", format!("this expression is more than {TALLEST} levels deep"))
                .label(span, "here")
                .help("give a part of it a name on a line of its own"),
        );
        Failed
    }
}
