//! Statements, one a line.

use partita_ir::graph::Span;

use super::{Failed, Parsed, Parser, RESERVED};
use crate::diagnostics::{Diagnostic, did_you_mean};
use crate::lexer::{Token, lex};
use crate::syntax::{
    Block, Defines, Entry, EntryValue, Expr, ExprKind, Letters, Name, Op, Over, Parameter, Said, Scan, SetValue, Statement, StatementKind,
    TrainGroup, TrainSection,
};

/// Words of statements that stand in no block.
const TOP_LEVEL: [&str; 9] = ["model", "use", "set", "axis", "input", "block", "op", "loss", "train"];

impl Parser<'_> {
    /// The statements of the file.
    pub(super) fn file(&mut self) -> Vec<Statement> {
        let mut statements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return statements,
                Token::Newline => {
                    self.advance();
                }
                Token::CloseBrace => {
                    let span = self.advance();
                    if self.closed_early > 0 {
                        self.closed_early -= 1;
                    } else {
                        self.unbalanced = true;
                        self.diagnostics.push(
                            Diagnostic::new("partita::syntax::unbalanced", "this `}` closes nothing").label(span, "no `{` is open here"),
                        );
                    }
                }
                _ => self.line(&mut statements, false),
            }
        }
    }

    /// One statement, or a report and the next line.
    fn line(&mut self, statements: &mut Vec<Statement>, within: bool) {
        let start = self.here();
        let first = self.position;
        self.statement = first;
        let parsed = self.statement().and_then(|kind| {
            let span = self.since(start);
            match self.peek() {
                Token::Newline | Token::End => Ok(Statement { kind, span }),
                // a body on one line ends with its brace; one that was closed early ends where it was
                Token::CloseBrace if within => Ok(Statement { kind, span }),
                _ if self.closed_at == Some(self.position) => Ok(Statement { kind, span }),
                _ => Err(self.unexpected("the end of the statement")),
            }
        });
        match parsed {
            Ok(statement) => statements.push(statement),
            Err(Failed) => {
                // nobody can tell which names the branches were to give
                self.unbalanced |= matches!(self.slice(start), "if" | "for");
                self.recover(first);
                statements.extend(self.broken(first, within));
            }
        }
    }

    /// What the statement at token `first`, which could not be read, was to define.
    fn broken(&self, first: usize, within: bool) -> Option<Statement> {
        let [(Token::Name, span), (second, next), ..] = self.tokens[first..] else { return None };
        let word = self.slice(span);
        let defines = match word {
            "set" => Defines::Setting,
            "let" if !within => Defines::Setting,
            "axis" => Defines::Axis,
            "input" | "weight" | "state" | "emit" | "let" => Defines::Tensor,
            "block" | "op" => Defines::Callable,
            _ => {
                let name = Name { text: word.to_owned(), span };
                let assigns = second == Token::Assign && !RESERVED.contains(&word);
                return assigns.then_some(Statement { kind: StatementKind::Broken { defines: Defines::Tensor, name }, span });
            }
        };
        let name = Name { text: self.slice(next).to_owned(), span: next };
        (second == Token::Name).then_some(Statement { kind: StatementKind::Broken { defines, name }, span })
    }

    /// `{ ... }` of a block, a repeat or a branch.
    fn body(&mut self) -> Parsed<Vec<Statement>> {
        self.body_of(false)
    }

    /// `{ ... }`; that of a `for` may declare axes.
    fn body_of(&mut self, unrolled: bool) -> Parsed<Vec<Statement>> {
        let open = self.expect(Token::OpenBrace, "to open the body")?;
        let outer = std::mem::replace(&mut self.unrolled, unrolled);
        let body = self.deeper(open, |parser| Ok(parser.statements(open)));
        self.unrolled = outer;
        body
    }

    /// Statements up to the `}` that closes `open`.
    fn statements(&mut self, open: Span) -> Vec<Statement> {
        let mut statements = Vec::new();
        loop {
            match self.peek() {
                Token::CloseBrace => {
                    self.advance();
                    return statements;
                }
                Token::End => {
                    self.unbalanced = true;
                    self.diagnostics.push(
                        Diagnostic::new("partita::syntax::unbalanced", "the file ends inside a body")
                            .label(open, "this `{` is never closed")
                            .help("close it with a `}` on a line of its own"),
                    );
                    return statements;
                }
                Token::Newline => {
                    self.advance();
                }
                // what cannot belong to the body is read by whoever is outside
                Token::Name if self.at_top_level_word() => {
                    let word = self.here();
                    let message = format!("`{}` cannot stand inside a body", self.slice(word));
                    self.close_early(open, message);
                    return statements;
                }
                Token::Name if self.left_a_block(&statements) => {
                    self.close_early(open, "nothing stands behind the `return` of a block".to_owned());
                    return statements;
                }
                _ => self.line(&mut statements, true),
            }
        }
    }

    /// Reports that the body of `open` meets a statement that belongs outside; once for all the bodies that it is in.
    fn close_early(&mut self, open: Span, message: String) {
        self.closed_early += 1;
        self.unbalanced = true;
        if self.closed_at == Some(self.position) {
            return;
        }
        self.closed_at = Some(self.position);
        let span = self.here();
        self.diagnostics.push(
            Diagnostic::new("partita::syntax::misplaced", message)
                .label(span, "here")
                .label(open, "inside this `{`")
                .help("close the body with `}` before this line, or move the line out of it"),
        );
    }

    /// Whether a line without indentation follows a `return`: a `}` is missing between them.
    fn left_a_block(&mut self, statements: &[Statement]) -> bool {
        let start = self.here().start;
        let start = self.place(start);
        let at_margin = start == 0 || self.text.as_bytes()[start - 1] == b'\n';
        at_margin && statements.last().is_some_and(|last| matches!(last.kind, StatementKind::Return(_)))
    }

    /// Whether a statement begins here that stands in no block.
    fn at_top_level_word(&mut self) -> bool {
        let span = self.here();
        let named_loss = || self.slice(span) == "loss" && self.named_behind(self.position + 1);
        let word = self.slice(span);
        let allowed = word == "axis" && self.unrolled;
        TOP_LEVEL.contains(&word) && !allowed && self.tokens[self.position + 1].0 != Token::Assign && !named_loss()
    }

    /// Whether `NAME =` stands here.
    fn at_named_loss(&self) -> bool {
        self.named_behind(self.position)
    }

    fn named_behind(&self, position: usize) -> bool {
        let kind = |position: usize| self.tokens.get(position).map(|token| token.0);
        kind(position) == Some(Token::Name) && kind(position + 1) == Some(Token::Assign)
    }

    fn statement(&mut self) -> Parsed<StatementKind> {
        if self.peek() != Token::Name {
            return Err(self.unexpected("a statement"));
        }
        let first = self.here();
        let word = self.slice(first);
        if RESERVED.contains(&word) && self.tokens[self.position + 1].0 == Token::Assign {
            return Err(self.new_name("").map_or_else(|failed| failed, |_| Failed));
        }
        match word {
            "model" => self.headed(|parser| Ok(StatementKind::Model(parser.new_name("for the model")?))),
            "set" => self.headed(|parser| {
                let name = parser.new_name("for the setting")?;
                parser.expect(Token::Assign, "and the setting's default")?;
                Ok(StatementKind::Set { name, value: parser.set_value()? })
            }),
            "axis" => self.headed(Self::axis),
            "input" => self.headed(|parser| {
                let name = parser.new_name("for the input")?;
                let axes = parser.axes()?;
                parser.expect(Token::Colon, "and where the input comes from: `: tokens` or `: next_tokens`")?;
                let source = parser.name("of a source")?;
                let token = if parser.eat(Token::OpenParen) {
                    let token = parser.expression()?;
                    parser.expect(Token::CloseParen, "behind the source's token")?;
                    Some(token)
                } else {
                    None
                };
                Ok(StatementKind::Input { name, axes, source, token })
            }),
            "weight" => self.headed(|parser| parser.weight(true)),
            "state" => self.headed(|parser| parser.weight(false)),
            "update" => self.headed(|parser| {
                let name = parser.name("of a state")?;
                parser.expect(Token::Assign, "and what the state becomes")?;
                Ok(StatementKind::Update { name, value: parser.expression()? })
            }),
            "let" => self.headed(|parser| {
                let name = parser.new_name("for what is known when the model is compiled")?;
                parser.expect(Token::Assign, "and its value")?;
                Ok(StatementKind::Let { name, value: parser.expression()? })
            }),
            "use" => self
                .headed(|parser| Ok(StatementKind::Use { path: parser.text("with the path of a file, as in `use \"blocks.partita\"`")? })),
            "assert" => self.headed(Self::assert),
            "for" => self.headed(Self::unroll),
            "block" => {
                self.advance();
                let name = self.new_name("for the block")?;
                let axes = if self.peek() == Token::OpenBracket { self.axes()? } else { Vec::new() };
                let parameters = self.parameters()?;
                let body = self.body()?;
                Ok(StatementKind::Block(Block { name, axes, parameters, body }))
            }
            "op" => self.headed(Self::op),
            "scan" => self.headed(Self::scan),
            "emit" => self.headed(|parser| {
                let name = parser.new_name("for what is emitted")?;
                let axes = parser.axes()?;
                parser.expect(Token::Assign, "and the value of one entry")?;
                Ok(StatementKind::Emit { name, axes, value: parser.expression()? })
            }),
            "repeat" => {
                self.advance();
                let count = self.expression()?;
                let name = if self.at_word("as") {
                    self.advance();
                    Some(self.new_name("for the loop")?)
                } else {
                    None
                };
                Ok(StatementKind::Repeat { count, name, body: self.body()? })
            }
            "if" => self.headed(Self::condition),
            "return" => self.headed(|parser| Ok(StatementKind::Return(parser.expression()?))),
            "loss" => self.headed(|parser| {
                let name = if parser.at_named_loss() {
                    let name = parser.new_name("for the term of the loss")?;
                    parser.expect(Token::Assign, "and the term")?;
                    Some(name)
                } else {
                    None
                };
                Ok(StatementKind::Loss { name, value: parser.expression()? })
            }),
            "train" => self.headed(|parser| Ok(StatementKind::Train(parser.train()?))),
            _ => self.assignment(),
        }
    }

    /// `4 * hidden`, `gelu | relu2 | relu`
    fn set_value(&mut self) -> Parsed<SetValue> {
        let first = self.expression()?;
        let ExprKind::Name(text) = &first.kind else { return Ok(SetValue::Expr(first)) };
        if self.peek() != Token::Bar {
            return Ok(SetValue::Expr(first));
        }
        let mut words = vec![Name { text: text.clone(), span: first.span }];
        while self.eat(Token::Bar) {
            words.push(self.name("of one more word that the setting may be")?);
        }
        Ok(SetValue::Words(words))
    }

    /// `tied { ... } else if cut { ... } else { ... }`
    fn condition(&mut self) -> Parsed<StatementKind> {
        let condition = self.expression()?;
        let then = self.body()?;
        let mut otherwise = Vec::new();
        if self.at_word("else") {
            self.advance();
            let start = self.here();
            if self.at_word("if") {
                let kind = self.deeper(start, |parser| parser.headed(Self::condition))?;
                otherwise.push(Statement { kind, span: self.since(start) });
            } else {
                otherwise = self.body()?;
            }
        }
        Ok(StatementKind::If { condition, then, otherwise })
    }

    /// A statement behind its first word.
    fn headed(&mut self, rest: impl FnOnce(&mut Self) -> Parsed<StatementKind>) -> Parsed<StatementKind> {
        self.advance();
        rest(self)
    }

    fn assignment(&mut self) -> Parsed<StatementKind> {
        if self.tokens[self.position + 1].0 == Token::Strange {
            return Err(Failed);
        }
        if self.tokens[self.position + 1].0 != Token::Assign {
            let span = self.here();
            let word = self.slice(span);
            // a misspelt keyword is followed by a name, an expression without a name by anything else
            let starts =
                RESERVED.into_iter().filter(|word| !matches!(*word, "as" | "none" | "else" | "true" | "false" | "not" | "and" | "or"));
            let help = match self.tokens[self.position + 1].0 {
                _ if word == "else" => "an `else` stands on the line of the `}` before it: `} else {`".to_owned(),
                Token::Name => did_you_mean(word, starts, || "write `name = expression`".to_owned()),
                _ => "give the result a name: `y = ...`".to_owned(),
            };
            self.diagnostics.push(
                Diagnostic::new(
                    "partita::syntax::statement",
                    format!("`{}` begins no statement", word.chars().take(40).collect::<String>()),
                )
                .label(span, "a statement is `name = expression`, or begins with a word such as `axis` or `weight`")
                .help(help),
            );
            return Err(Failed);
        }
        let name = self.new_name("for the result")?;
        self.advance();
        Ok(StatementKind::Assign { name, value: self.expression()? })
    }

    /// `seq reversed (h[batch, hidden] = 0) { ... }`
    fn scan(&mut self) -> Parsed<StatementKind> {
        let axis = self.name("of the axis that the scan goes along")?;
        let reversed = self.at_word("reversed");
        if reversed {
            self.advance();
        }
        let mut carried = Vec::new();
        if self.eat(Token::OpenParen) {
            carried = self.list(Token::CloseParen, |parser| {
                let name = parser.new_name("for what is carried")?;
                let axes = parser.axes()?;
                parser.expect(Token::Assign, "and what it begins with")?;
                Ok((name, axes, parser.expression()?))
            })?;
        }
        Ok(StatementKind::Scan(Scan { axis, reversed, carried, body: self.body()? }))
    }

    /// `past = seq : seq`
    fn axis(&mut self) -> Parsed<StatementKind> {
        let name = self.new_name("for the axis")?;
        let size = if self.eat(Token::Assign) { Some(self.expression()?) } else { None };
        let role = if self.eat(Token::Colon) { Some(self.name("of a role")?) } else { None };
        Ok(StatementKind::Axis { name, size, role })
    }

    /// A text, without its quotes.
    fn text(&mut self, purpose: &str) -> Parsed<Name> {
        let span = self.expect(Token::Text, purpose)?;
        let inner = Span { start: span.start + 1, end: span.end - 1 };
        Ok(Name { text: self.slice(inner).to_owned(), span: inner })
    }

    /// `heads > 0, "a message with {heads}"`
    fn assert(&mut self) -> Parsed<StatementKind> {
        let condition = self.expression()?;
        self.expect(Token::Comma, "and what is said where the condition does not hold")?;
        let text = self.text("with what is said where the condition does not hold")?;
        Ok(StatementKind::Assert { condition, message: self.message(&text)? })
    }

    /// The parts of a message: text, and expressions in braces.
    fn message(&mut self, text: &Name) -> Parsed<Vec<Said>> {
        let mut parts = Vec::new();
        let (mut rest, mut at) = (text.text.as_str(), text.span.start);
        while let Some(open) = rest.find('{') {
            let Some(length) = rest[open..].find('}') else {
                let here = Span { start: at + open as u32, end: text.span.end };
                self.diagnostics.push(
                    Diagnostic::new("partita::syntax::unbalanced", "this `{` is never closed")
                        .label(here, "a value in a message stands in braces")
                        .help("write `{heads}`; a message has no braces but those around values"),
                );
                return Err(Failed);
            };
            parts.push(Said::Text(rest[..open].to_owned()));
            let start = at + open as u32 + 1;
            let value = &rest[open + 1..open + length];
            let tokens = lex(value, start, self.diagnostics);
            let mut inner = Parser::new(value, start, tokens, self.diagnostics);
            let expr = inner.expression()?;
            if inner.peek() != Token::End {
                return Err(inner.unexpected("`}`"));
            }
            parts.push(Said::Value(expr));
            at += (open + length + 1) as u32;
            rest = &rest[open + length + 1..];
        }
        parts.push(Said::Text(rest.to_owned()));
        Ok(parts)
    }

    /// `stage in 0 .. stages { ... }`, `width in [64, 128] { ... }`
    fn unroll(&mut self) -> Parsed<StatementKind> {
        let name = self.new_name("for what changes from one to the next")?;
        if !self.at_word("in") {
            return Err(self.unexpected("`in` and what is gone through: `for stage in 0 .. 4` or `for width in [64, 128]`"));
        }
        self.advance();
        let over = if self.eat(Token::OpenBracket) {
            Over::List(self.list(Token::CloseBracket, Self::expression)?)
        } else {
            let first = self.expression()?;
            self.expect(Token::Dots, "between the first number and the one behind the last")?;
            Over::Range(Box::new((first, self.expression()?)))
        };
        Ok(StatementKind::For { name, over, body: self.body_of(true)? })
    }

    /// `w[hidden] = normal(0.02)`
    fn weight(&mut self, trained: bool) -> Parsed<StatementKind> {
        let name = self.new_name(if trained { "for the weight" } else { "for the state" })?;
        let axes = self.axes()?;
        self.expect(Token::Assign, "and how it begins: `normal(0.02)`, `uniform(0.1)`, `constant(0.5)`, `zeros` or `ones`")?;
        let init = self.name("of a distribution")?;
        let value = if self.eat(Token::OpenParen) {
            let value = self.expression()?;
            self.expect(Token::CloseParen, "to close the parenthesis")?;
            Some(value)
        } else {
            None
        };
        let condition = if self.at_word("if") {
            self.advance();
            Some(self.expression()?)
        } else {
            None
        };
        Ok(StatementKind::Weight { name, axes, init, value, condition, trained })
    }

    /// `(x[batch, hidden], rate)`
    fn parameters(&mut self) -> Parsed<Vec<Parameter>> {
        self.expect(Token::OpenParen, "with the arguments, as in `(x[batch, seq])`")?;
        self.list(Token::CloseParen, |parser| {
            let name = parser.new_name("for the argument")?;
            let axes = if parser.peek() == Token::OpenBracket { Some(parser.letters()?) } else { None };
            Ok(Parameter { name, axes })
        })
    }

    /// `[.., i, j]`
    fn letters(&mut self) -> Parsed<Letters> {
        let start = self.expect(Token::OpenBracket, "with the axes")?;
        let mut rest = None;
        let mut count = 0;
        let entries = self.list(Token::CloseBracket, |parser| {
            count += 1;
            if parser.peek() == Token::Dots && rest.is_none() {
                parser.advance();
                rest = Some(count - 1);
                return Ok(None);
            }
            parser.name("of an axis, or `..` once").map(Some)
        })?;
        let names: Vec<Name> = entries.into_iter().flatten().collect();
        let span = self.since(start);
        Ok(Letters { names, rest, span })
    }

    /// `distance(a[m, k], b[k, n]) -> [m, n], sum k : other = (a - b) * (a - b)`
    fn op(&mut self) -> Parsed<StatementKind> {
        let name = self.new_name("for the operator")?;
        let parameters = self.parameters()?;
        self.expect(Token::Arrow, "and the axes of the result, as in `-> [m, n]`")?;
        let result = self.letters()?;
        let reduce = if self.eat(Token::Comma) {
            let word = self.name("of a reduction, as in `sum k`")?;
            let mut letters = Vec::new();
            while self.peek() == Token::Name {
                letters.push(self.name("")?);
            }
            if letters.is_empty() {
                return Err(self.unexpected("the axes that are folded, as in `sum k`"));
            }
            Some((word, letters))
        } else {
            None
        };
        let class = if self.eat(Token::Colon) { Some(self.name("of a class")?) } else { None };
        self.expect(Token::Assign, "and the expression of one element")?;
        let value = self.expression()?;
        let derivatives = if self.peek() == Token::OpenBrace { self.derivatives()? } else { Vec::new() };
        Ok(StatementKind::Op(Op { name, parameters, result, reduce, class, value, derivatives }))
    }

    /// `{ derivative a = 1 ... }`, one a line.
    fn derivatives(&mut self) -> Parsed<Vec<(Name, Expr)>> {
        self.expect(Token::OpenBrace, "to open the derivatives")?;
        let mut found = Vec::new();
        loop {
            match self.peek() {
                Token::CloseBrace => {
                    self.advance();
                    return Ok(found);
                }
                Token::Newline => {
                    self.advance();
                }
                Token::End => return Err(self.unexpected("`}` behind the derivatives")),
                _ => {
                    let first = self.position;
                    self.statement = first;
                    match self.derivative() {
                        Ok(derivative) => found.push(derivative),
                        Err(Failed) => self.recover(first),
                    }
                }
            }
        }
    }

    /// `derivative a = 1`
    fn derivative(&mut self) -> Parsed<(Name, Expr)> {
        if !self.at_word("derivative") {
            return Err(self.unexpected("`derivative` and an argument, as in `derivative a = 1`"));
        }
        self.advance();
        let name = self.name("of the argument that the derivative is with respect to")?;
        self.expect(Token::Assign, "and the derivative of the operator's expression")?;
        let value = self.expression()?;
        match self.peek() {
            Token::Newline | Token::CloseBrace => Ok((name, value)),
            _ => Err(self.unexpected("the end of the derivative")),
        }
    }

    /// `{ optimizer adamw(beta1 = 0.9)  lr = 3e-4 ... }`, one entry a line.
    fn train(&mut self) -> Parsed<TrainSection> {
        let open = self.expect(Token::OpenBrace, "to open the section")?;
        let (mut entries, mut groups) = (Vec::new(), Vec::new());
        loop {
            match self.peek() {
                Token::CloseBrace => {
                    self.advance();
                    return Ok(TrainSection { entries, groups });
                }
                Token::End => {
                    self.diagnostics.push(
                        Diagnostic::new("partita::syntax::unbalanced", "the file ends inside the `train` section")
                            .label(open, "this `{` is never closed")
                            .help("close it with a `}` on a line of its own"),
                    );
                    return Ok(TrainSection { entries, groups });
                }
                Token::Newline => {
                    self.advance();
                }
                _ => {
                    let first = self.position;
                    self.statement = first;
                    let read = if self.at_word("for") {
                        self.train_group().map(|group| groups.push(group))
                    } else {
                        self.entry().map(|entry| entries.push(entry))
                    };
                    let ended = read.and_then(|()| match self.peek() {
                        Token::Newline | Token::CloseBrace | Token::End => Ok(()),
                        _ => Err(self.unexpected("the end of the entry")),
                    });
                    if ended.is_err() {
                        self.recover(first);
                    }
                }
            }
        }
    }

    /// `for "gain*", "bias*" { decay = 0 }`
    fn train_group(&mut self) -> Parsed<TrainGroup> {
        let start = self.advance();
        let mut patterns = vec![self.text("with names of weights, as in `for \"gain*\", \"bias*\" { decay = 0 }`")?];
        while self.eat(Token::Comma) {
            patterns.push(self.text("with names of weights")?);
        }
        let section = self.deeper(start, Self::train)?;
        Ok(TrainGroup { patterns, section, span: self.since(start) })
    }

    fn entry(&mut self) -> Parsed<Entry> {
        let start = self.here();
        let name = self.name("of an entry such as `lr`")?;
        let value = if self.eat(Token::Assign) {
            EntryValue::Expr(self.expression()?)
        } else if self.peek() == Token::Name {
            let word = self.name("")?;
            let options = if self.peek() == Token::OpenParen { self.arguments()? } else { Vec::new() };
            EntryValue::Word { word, options }
        } else {
            return Err(self.unexpected("`=` and the entry's value"));
        };
        Ok(Entry { name, value, span: self.since(start) })
    }
}
