//! Text to graph.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::lex::{Placed, Token, lex};
use super::{SUPPLIES, TextError, formula};
use crate::axis::{Axis, Role};
use crate::dtype::DType;
use crate::graph::{
    Assign, Carried, Class, Composite, Def, Graph, Init, Kind, Leaf, Loop, LossTerm, Op, Phase, PhaseKind, Repeat, Slice, Source, Span,
    Type, Value,
};
use crate::id::{AxisId, CompositeId, Id, LoopId, OpId, ValueId};
use crate::rule::{Access, DimAccess, Reduce, Rule, Term};

/// The graph that a text describes. Only the syntax is checked: [`crate::verify::verify`] does the rest.
pub fn parse(text: &str) -> Result<Graph, TextError> {
    let tokens = lex(text)?;
    let mut parser = Parser { tokens, at: 0, graph: Graph::default(), values: BTreeMap::new(), ops: BTreeMap::new() };
    parser.keyword("graph")?;
    parser.graph.name = parser.text("the name of the graph")?;
    while *parser.peek() != Token::End {
        parser.section()?;
    }
    parser.finish()
}

pub(super) struct Parser {
    tokens: Vec<Placed>,
    at: usize,
    graph: Graph,
    /// Values and operators by number: they need not stand in order.
    values: BTreeMap<u32, Value>,
    ops: BTreeMap<u32, Op>,
}

// Tokens
impl Parser {
    pub(super) fn peek(&self) -> &Token {
        &self.tokens[self.at].token
    }

    pub(super) fn next(&mut self) -> Token {
        let token = self.peek().clone();
        // the last token is the end, which stays
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn error_at(&self, at: usize, message: String) -> TextError {
        let Placed { line, column, .. } = self.tokens[at];
        TextError { line, column, message }
    }

    /// An error at the next token.
    pub(super) fn error(&self, message: String) -> TextError {
        self.error_at(self.at, message)
    }

    /// An error at the token that was just taken.
    pub(super) fn error_before(&self, message: String) -> TextError {
        self.error_at(self.at.saturating_sub(1), message)
    }

    fn expected<T>(&self, what: &str) -> Result<T, TextError> {
        Err(self.error(format!("expected {what}, not {}", self.peek())))
    }

    pub(super) fn sees(&self, mark: &str) -> bool {
        matches!(self.peek(), Token::Mark(seen) if *seen == mark)
    }

    /// Whether `mark` follows the next token.
    pub(super) fn sees_after(&self, mark: &str) -> bool {
        matches!(self.tokens.get(self.at + 1), Some(Placed { token: Token::Mark(seen), .. }) if *seen == mark)
    }

    pub(super) fn eat(&mut self, mark: &str) -> bool {
        let sees = self.sees(mark);
        if sees {
            self.next();
        }
        sees
    }

    pub(super) fn mark(&mut self, mark: &str) -> Result<(), TextError> {
        if self.eat(mark) { Ok(()) } else { self.expected(&format!("`{mark}`")) }
    }

    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let sees = matches!(self.peek(), Token::Word(seen) if seen == word);
        if sees {
            self.next();
        }
        sees
    }

    pub(super) fn keyword(&mut self, word: &str) -> Result<(), TextError> {
        if self.eat_word(word) { Ok(()) } else { self.expected(&format!("`{word}`")) }
    }

    pub(super) fn word(&mut self, what: &str) -> Result<String, TextError> {
        let Token::Word(word) = self.peek().clone() else { return self.expected(what) };
        self.next();
        Ok(word)
    }

    fn text(&mut self, what: &str) -> Result<String, TextError> {
        let Token::Text(text) = self.peek().clone() else { return self.expected(&format!("{what} in quotes")) };
        self.next();
        Ok(text)
    }

    fn parsed<T: FromStr>(&mut self, digits: &str, what: &str) -> Result<T, TextError> {
        let Ok(value) = digits.parse() else { return self.expected(what) };
        self.next();
        Ok(value)
    }

    pub(super) fn integer<T: FromStr>(&mut self, what: &str) -> Result<T, TextError> {
        let Token::Number(digits) = self.peek().clone() else { return self.expected(what) };
        self.parsed(&digits, what)
    }

    /// A constant without sign, if one stands here.
    pub(super) fn constant(&mut self) -> Result<Option<f64>, TextError> {
        if let Token::Number(digits) = self.peek().clone() {
            return self.parsed(&digits, "a number").map(Some);
        }
        if self.eat_word("inf") {
            return Ok(Some(f64::INFINITY));
        }
        if self.eat_word("nan") {
            return Ok(Some(f64::NAN));
        }
        if self.eat_word("bits") {
            self.mark("(")?;
            let bits = self.integer("the bits of a number")?;
            self.mark(")")?;
            return Ok(Some(f64::from_bits(bits)));
        }
        Ok(None)
    }

    fn real(&mut self) -> Result<f64, TextError> {
        let negative = self.eat("-");
        let Some(value) = self.constant()? else { return self.expected("a number") };
        Ok(if negative { -value } else { value })
    }

    /// Items of a list up to `close`, with commas between them.
    fn list<T>(&mut self, close: &str, mut item: impl FnMut(&mut Self) -> Result<T, TextError>) -> Result<Vec<T>, TextError> {
        let mut items = Vec::new();
        while !self.eat(close) {
            if !items.is_empty() {
                self.mark(",")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// What the next word means; it is taken only if it means something.
    fn meaning<T>(&mut self, meaning: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let Token::Word(word) = self.peek() else { return None };
        let found = meaning(word)?;
        self.next();
        Some(found)
    }

    /// A word such as `op12`: its number after `prefix`.
    fn numbered(&mut self, prefix: &str, what: &str) -> Result<u32, TextError> {
        match self.meaning(|word| word.strip_prefix(prefix)?.parse().ok()) {
            Some(number) => Ok(number),
            None => self.expected(what),
        }
    }
}

// References
impl Parser {
    fn value_id(&mut self) -> Result<ValueId, TextError> {
        let Token::Value(id) = *self.peek() else { return self.expected("a value such as `%12`") };
        self.next();
        Ok(ValueId(id))
    }

    fn loop_id(&mut self) -> Result<LoopId, TextError> {
        self.numbered("loop", "a loop such as `loop0`").map(LoopId)
    }

    fn axis_id(&mut self) -> Result<AxisId, TextError> {
        let Token::Axis(name) = self.peek().clone() else { return self.expected("an axis such as `@batch`") };
        if let Ok(number) = name.parse() {
            self.next();
            return Ok(AxisId(number));
        }
        let mut named = self.graph.axes.iter().enumerate().filter(|(_, axis)| axis.name == name);
        match (named.next(), named.next()) {
            (Some((index, _)), None) => {
                self.next();
                Ok(AxisId::new(index))
            }
            (None, _) => Err(self.error(format!("there is no axis `{name}`"))),
            (Some((first, _)), Some(_)) => Err(self.error(format!("several axes are called `{name}`: say `@{first}` or another number"))),
        }
    }

    pub(super) fn factor(&mut self, factors: &[String]) -> Result<usize, TextError> {
        let name = self.word("a factor")?;
        let found = factors.iter().position(|known| *known == name);
        found.ok_or_else(|| self.error_before(format!("there is no factor `{name}` here")))
    }
}

// Declarations
impl Parser {
    fn section(&mut self) -> Result<(), TextError> {
        let section = self.word("`axes`, `loops`, `composites`, `leaves`, `phase`, `assign`, `loss` or `report`")?;
        match section.as_str() {
            "axes" => self.block(Self::axis),
            "loops" => self.block(|p| {
                p.in_order("loop", p.graph.loops.len())?;
                let name = p.text("the name of the loop")?;
                p.mark("=")?;
                let count = p.integer("the number of iterations")?;
                p.graph.loops.push(Loop { name, count });
                Ok(())
            }),
            "composites" => self.block(|p| {
                p.in_order("composite", p.graph.composites.len())?;
                let name = p.text("the name of the composite")?;
                let recompute = p.eat_word("recompute");
                p.graph.composites.push(Composite { name, recompute });
                Ok(())
            }),
            "leaves" => self.block(Self::leaf),
            "phase" => {
                let kind = self.meaning(|word| PhaseKind::ALL.iter().find(|row| row.1 == word).map(|row| row.0));
                let Some(kind) = kind else { return self.expected("a phase such as `forward`") };
                let ops = self.ops(None)?;
                self.graph.phases.push(Phase { kind, ops });
                Ok(())
            }
            "assign" => {
                let target = self.value_id()?;
                self.mark("=")?;
                let value = self.value_id()?;
                self.graph.assigns.push(Assign { target, value });
                Ok(())
            }
            "loss" => {
                let (mut name, mut weight) = (LossTerm::MAIN.to_owned(), 1.0);
                if matches!(self.peek(), Token::Text(_)) {
                    name = self.text("the name of the term")?;
                    self.mark("=")?;
                    weight = self.real()?;
                    self.mark("*")?;
                }
                if self.graph.loss.iter().any(|term| term.name == name) {
                    return Err(self.error_before(format!("there is a loss `{name}` already")));
                }
                let sum = self.value_id()?;
                self.mark("/")?;
                let count = self.value_id()?;
                self.graph.loss.push(LossTerm { name, weight, sum, count });
                Ok(())
            }
            "report" => {
                let name = self.text("the name of the report")?;
                self.mark("=")?;
                let value = self.value_id()?;
                self.graph.reports.push((name, value));
                Ok(())
            }
            _ => Err(self.error_before(format!("`{section}` is no section of a graph"))),
        }
    }

    fn block(&mut self, mut entry: impl FnMut(&mut Self) -> Result<(), TextError>) -> Result<(), TextError> {
        self.mark("{")?;
        while !self.eat("}") {
            entry(self)?;
        }
        Ok(())
    }

    /// A word such as `loop0` whose number is `index`: these tables stand in order.
    fn in_order(&mut self, prefix: &str, index: usize) -> Result<(), TextError> {
        self.keyword(&format!("{prefix}{index}"))
    }

    fn axis(&mut self) -> Result<(), TextError> {
        let index = self.graph.axes.len();
        let Token::Axis(sign) = self.peek().clone() else { return self.expected("an axis such as `@batch`") };
        let numbered = sign.starts_with(|c: char| c.is_ascii_digit());
        if numbered && sign != index.to_string() {
            return self.expected(&format!("`@{index}`, the next axis"));
        }
        self.next();
        let name = if numbered { self.text("the name of the axis")? } else { sign };
        self.mark("=")?;
        let size = self.integer("the size of the axis")?;
        let role = self.meaning(Role::from_word).unwrap_or_default();
        self.graph.axes.push(Axis { name, size, role });
        Ok(())
    }

    /// `%3 "name" f32[@batch]`, which becomes value 3.
    fn declare(&mut self, def: Def, within: Option<LoopId>) -> Result<ValueId, TextError> {
        let id = self.value_id()?;
        if self.values.contains_key(&id.0) {
            return Err(self.error_before(format!("{id} is declared twice")));
        }
        let name = self.text("the name of the value")?;
        let Some(dtype) = self.meaning(DType::from_word) else { return self.expected("an element type such as `f32`") };
        self.mark("[")?;
        let dims = self.list("]", Self::axis_id)?;
        self.values.insert(id.0, Value { name, ty: Type { dtype, dims }, def, within });
        Ok(id)
    }

    fn leaf(&mut self) -> Result<(), TextError> {
        // what it holds follows its type
        let id = self.declare(Def::Leaf(Leaf::Param(Init::Constant(0.0))), None)?;
        let within = if self.eat_word("in") { Some(self.loop_id()?) } else { None };
        self.mark("=")?;
        let kind = self.word("`input`, `param`, `state`, `supplied` or `accumulated`")?;
        let leaf = match kind.as_str() {
            "input" => match self.meaning(Source::from_word) {
                Some(source) if source.number().is_some() => {
                    let number = self.real()?;
                    if number.fract() != 0.0 || !(0.0..=f64::from(i32::MAX)).contains(&number) {
                        return Err(self.error_before("the number of a source is a whole one from 0".to_owned()));
                    }
                    Leaf::Input(source.with_number(number as i32))
                }
                Some(source) => Leaf::Input(source),
                None => return self.expected("a source such as `tokens` or `next_tokens`"),
            },
            "param" => Leaf::Param(self.init()?),
            "progress" => Leaf::Progress(self.real()?),
            "state" => {
                let init = self.init()?;
                self.keyword("slot")?;
                let slot = self.text("the slot of the state")?;
                let of = if self.eat_word("of") { Some(self.value_id()?) } else { None };
                Leaf::State { init, of, slot }
            }
            "supplied" => match self.meaning(|word| SUPPLIES.iter().find(|row| row.1 == word).map(|row| row.0)) {
                Some(supplied) => Leaf::Supplied(supplied),
                None => return self.expected("`step_number`"),
            },
            "accumulated" => Leaf::Accumulated(self.value_id()?),
            _ => return Err(self.error_before(format!("`{kind}` is no kind of leaf"))),
        };
        let value = self.values.get_mut(&id.0).expect("it was just declared");
        (value.def, value.within) = (Def::Leaf(leaf), within);
        Ok(())
    }

    fn init(&mut self) -> Result<Init, TextError> {
        let kind = self.word("`constant`, `normal`, `uniform` or `copy`")?;
        let make = match kind.as_str() {
            "constant" => Init::Constant,
            "normal" => Init::Normal,
            "uniform" => Init::Uniform,
            "copy" => return Ok(Init::Copy),
            _ => return Err(self.error_before(format!("`{kind}` is no way to begin"))),
        };
        Ok(make(self.real()?))
    }
}

// Operators
impl Parser {
    /// A block of operators; those inside a repeat are `within` its loop.
    fn ops(&mut self, within: Option<LoopId>) -> Result<Vec<OpId>, TextError> {
        self.mark("{")?;
        let mut ops = Vec::new();
        while !self.eat("}") {
            ops.push(self.op(within)?);
        }
        Ok(ops)
    }

    fn op(&mut self, within: Option<LoopId>) -> Result<OpId, TextError> {
        let id = OpId(self.numbered("op", "an operator such as `op3:`")?);
        let start = self.at - 1;
        self.mark(":")?;
        let mut results = Vec::new();
        while matches!(self.peek(), Token::Value(_)) {
            results.push(self.declare(Def::Result(id, results.len()), within)?);
            if !self.eat(",") {
                self.mark("=")?;
                break;
            }
        }
        let repeat = match self.word("`map` or `repeat`")?.as_str() {
            "map" => false,
            // a body is read by the same function, so this also bounds how deep it calls itself
            "repeat" if within.is_none() => true,
            "repeat" => return Err(self.error_before("a repeat cannot stand in a repeat".to_owned())),
            _ => return Err(self.error_before("an operator is a `map` or a `repeat`".to_owned())),
        };
        let class = self.meaning(Class::from_word).unwrap_or_default();
        let op = if repeat { self.repeat(id, class, results)? } else { self.map(class, results)? };
        if self.ops.insert(id.0, op).is_some() {
            return Err(self.error_at(start, format!("{id} is declared twice")));
        }
        Ok(id)
    }

    fn map(&mut self, class: Class, results: Vec<ValueId>) -> Result<Op, TextError> {
        self.mark("[")?;
        let factors = self.list("]", |p| Ok((p.word("a factor such as `a @batch`")?, p.axis_id()?)))?;
        let (names, factors): (Vec<String>, Vec<AxisId>) = factors.into_iter().unzip();
        let mut operands = Vec::new();
        let mut accesses = Vec::new();
        while !self.eat("->") {
            if !operands.is_empty() {
                self.mark(",")?;
            }
            operands.push(self.value_id()?);
            accesses.push(self.access(&names)?);
        }
        let result = self.access(&names)?;
        let reduce = self.meaning(Reduce::from_word);
        let expr = formula::parse(self, &names)?;
        let (composite, span) = self.tail()?;
        let rule = Rule { factors, operands: accesses, result, reduce, expr };
        Ok(Op { kind: Kind::Map(rule), operands, results, class, composite, span })
    }

    fn repeat(&mut self, id: OpId, class: Class, results: Vec<ValueId>) -> Result<Op, TextError> {
        let over = self.loop_id()?;
        let reversed = self.eat_word("reversed");
        self.mark("(")?;
        let mut carried = Vec::new();
        while !self.eat(")") {
            if !carried.is_empty() {
                self.mark(",")?;
            }
            let arg = self.declare(Def::Carried(id, carried.len()), Some(over))?;
            self.mark("=")?;
            let init = self.value_id()?;
            self.keyword("then")?;
            let next = self.value_id()?;
            carried.push(Carried { init, arg, next });
        }
        let mut taken = Vec::new();
        if self.eat_word("taking") {
            self.mark("(")?;
            taken = self.list(")", |p| {
                // its position is known when all are
                let each = p.declare(Def::Taken(id, 0), Some(over))?;
                p.mark("=")?;
                Ok(Slice { whole: p.value_id()?, each })
            })?;
            for (position, slice) in taken.iter().enumerate() {
                self.values.get_mut(&slice.each.0).expect("it was just declared").def = Def::Taken(id, position);
            }
        }
        let mut collected = Vec::new();
        if self.eat_word("collecting") {
            self.mark("(")?;
            let each = self.list(")", Self::value_id)?;
            let wholes = results.iter().skip(carried.len());
            if each.len() + carried.len() != results.len() {
                return Err(self.error_before(format!(
                    "it carries {} and collects {}, but gives {}",
                    carried.len(),
                    each.len(),
                    results.len()
                )));
            }
            collected = wholes.zip(each).map(|(whole, each)| Slice { whole: *whole, each }).collect();
        }
        let (composite, span) = self.tail()?;
        let body = self.ops(Some(over))?;
        let kind = Kind::Repeat(Repeat { over, reversed, body, carried, taken, collected });
        Ok(Op { kind, operands: Vec::new(), results, class, composite, span })
    }

    /// `composite3 at 10..20`, either or both missing.
    fn tail(&mut self) -> Result<(Option<CompositeId>, Option<Span>), TextError> {
        let composite = self.meaning(|word| word.strip_prefix("composite")?.parse().ok()).map(CompositeId);
        if !self.eat_word("at") {
            return Ok((composite, None));
        }
        let start = self.integer("the first byte of a span")?;
        self.mark("..")?;
        let end = self.integer("the end of a span")?;
        Ok((composite, Some(Span { start, end })))
    }

    fn access(&mut self, factors: &[String]) -> Result<Access, TextError> {
        self.mark("(")?;
        self.list(")", |p| p.dim(factors))
    }

    /// `4*a + b - 1`
    fn dim(&mut self, factors: &[String]) -> Result<DimAccess, TextError> {
        let mut dim = DimAccess::default();
        let mut negative = self.eat("-");
        loop {
            let start = self.at;
            let number: Option<u64> = if let Token::Number(_) = self.peek() { Some(self.integer("a stride or an offset")?) } else { None };
            let signed = |p: &Self, size: u64| {
                let value = if negative { -i128::from(size) } else { i128::from(size) };
                i64::try_from(value).map_err(|_| p.error_at(start, format!("{value} is too large")))
            };
            match number {
                Some(size) if !self.sees("*") => {
                    dim.offset = signed(self, size)?;
                    return Ok(dim);
                }
                Some(_) => self.mark("*")?,
                None => {}
            }
            let stride = signed(self, number.unwrap_or(1))?;
            dim.terms.push(Term { factor: self.factor(factors)?, stride });
            negative = self.sees("-");
            if !self.eat("-") && !self.eat("+") {
                return Ok(dim);
            }
        }
    }

    /// The arenas from the numbered entries.
    fn finish(mut self) -> Result<Graph, TextError> {
        fn arena<T>(entries: BTreeMap<u32, T>, sign: &str, end: TextError) -> Result<Vec<T>, TextError> {
            let missing = entries.keys().enumerate().find(|(index, id)| u32::try_from(*index) != Ok(**id));
            match missing {
                Some((index, id)) => Err(TextError { message: format!("{sign}{id} is declared but {sign}{index} is not"), ..end }),
                None => Ok(entries.into_values().collect()),
            }
        }
        let end = self.error(String::new());
        self.graph.values = arena(self.values, "%", end.clone())?;
        self.graph.ops = arena(self.ops, "op", end)?;
        Ok(self.graph)
    }
}
