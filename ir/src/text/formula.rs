//! Scalar expressions, both ways.
//!
//! Most are printed as one writes them. Reading such a formula adds nodes in the order of its text, equal nodes once;
//! an expression whose nodes stand in another order, or are not all used, is printed node by node instead.

use super::TextError;
use super::lex::Token;
use super::parse::Parser;
use crate::scalar::{Binary, Expr, Node, NodeId, Real, Unary};

/// Formulas that nest deeper are printed node by node.
const DEPTH: usize = 48;
/// Formulas that nest deeper are not read: deeper than any that is printed, and safe on any stack.
const READ_DEPTH: usize = 256;

/// Binding strength, weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Select,
    Compare,
    Add,
    Multiply,
    Negate,
}

/// The sign of a binary operation that has one, with its level.
const SIGNS: [(Binary, &str, Level); 8] = [
    (Binary::Lt, "<", Level::Compare),
    (Binary::Le, "<=", Level::Compare),
    (Binary::Eq, "==", Level::Compare),
    (Binary::Ne, "!=", Level::Compare),
    (Binary::Add, "+", Level::Add),
    (Binary::Sub, "-", Level::Add),
    (Binary::Mul, "*", Level::Multiply),
    (Binary::Div, "/", Level::Multiply),
];

fn tighter(level: Level) -> Level {
    match level {
        Level::Select => Level::Compare,
        Level::Compare => Level::Add,
        Level::Add => Level::Multiply,
        Level::Multiply | Level::Negate => Level::Negate,
    }
}

/// A number that reads back as the same bits.
pub(super) fn number(value: f64) -> String {
    if value.is_nan() {
        if value.to_bits() == f64::NAN.to_bits() { "nan".to_owned() } else { format!("bits({})", value.to_bits()) }
    } else {
        // infinities are `inf` and `-inf`
        format!("{value:?}")
    }
}

/// The name of a factor: a letter, as in an einsum.
pub(super) fn factor(n: usize) -> String {
    match u8::try_from(n) {
        Ok(n) if n < 26 => char::from(b'a' + n).to_string(),
        _ => format!("f{n}"),
    }
}

pub(super) fn print(expr: &Expr) -> String {
    if reads_back(expr) {
        let mut uses = vec![0; expr.nodes.len()];
        expr.nodes.iter().flat_map(Node::inputs).for_each(|input| uses[input as usize] += 1);
        let mut printer = Printer { expr, uses, names: vec![None; expr.nodes.len()], named: 0, out: String::new() };
        printer.show(expr.root, Level::Select);
        format!("{{ {} }}", printer.out)
    } else {
        let nodes: Vec<String> = expr.nodes.iter().map(verbatim).collect();
        format!("nodes {{ {} }} root {}", nodes.join("; "), expr.root)
    }
}

/// Whether reading the formula gives these very nodes.
fn reads_back(expr: &Expr) -> bool {
    let mut depths: Vec<usize> = Vec::with_capacity(expr.nodes.len());
    for node in &expr.nodes {
        let inputs: Option<Vec<usize>> = node.inputs().map(|input| depths.get(input as usize).copied()).collect();
        let Some(inputs) = inputs else { return false };
        depths.push(1 + inputs.into_iter().max().unwrap_or(0));
    }
    if depths.get(expr.root as usize).is_none_or(|depth| *depth > DEPTH) {
        return false;
    }
    expr.pruned() == *expr
}

struct Printer<'a> {
    expr: &'a Expr,
    uses: Vec<usize>,
    names: Vec<Option<usize>>,
    named: usize,
    out: String,
}

impl Printer<'_> {
    /// Writes a node; in parentheses if it binds weaker than `least`.
    fn show(&mut self, id: NodeId, least: Level) {
        let at = id as usize;
        let node = &self.expr.nodes[at];
        if let Some(name) = self.names[at] {
            self.out.push_str(&format!("t{name}"));
        } else if self.uses[at] > 1 && node.inputs().next().is_some() {
            let name = self.named;
            self.named += 1;
            self.out.push_str(&format!("(t{name} := "));
            self.node(node, Level::Select);
            self.out.push(')');
            self.names[at] = Some(name);
        } else {
            self.node(node, least);
        }
    }

    fn node(&mut self, node: &Node, least: Level) {
        match node {
            Node::Const(Real(value)) => self.out.push_str(&number(*value)),
            Node::Operand(n) => self.out.push_str(&format!("x{n}")),
            Node::Index(n) => self.out.push_str(&format!("#{}", factor(*n))),
            Node::Random { salt, factors } => {
                let names: String = factors.iter().map(|n| format!(", {}", factor(*n))).collect();
                self.out.push_str(&format!("random({salt}{names})"));
            }
            // `-1.0` is a constant, so the negative of one is a call
            Node::Unary(Unary::Neg, a) if !matches!(self.expr.nodes[*a as usize], Node::Const(_)) => {
                self.out.push('-');
                self.show(*a, Level::Negate);
            }
            Node::Unary(op, a) => self.call(op.word(), &[*a]),
            Node::Binary(op, a, b) => match SIGNS.iter().find(|row| row.0 == *op) {
                Some((_, sign, level)) => {
                    // comparisons do not chain, the others associate to the left
                    let left = if *level == Level::Compare { Level::Add } else { *level };
                    self.within(*level < least, |p| {
                        p.show(*a, left);
                        p.out.push_str(&format!(" {sign} "));
                        p.show(*b, tighter(*level));
                    });
                }
                None => self.call(op.word(), &[*a, *b]),
            },
            Node::Select(c, a, b) => self.within(Level::Select < least, |p| {
                p.show(*c, Level::Compare);
                p.out.push_str(" ? ");
                p.show(*a, Level::Select);
                p.out.push_str(" : ");
                p.show(*b, Level::Select);
            }),
        }
    }

    fn within(&mut self, parentheses: bool, inner: impl FnOnce(&mut Self)) {
        if parentheses {
            self.out.push('(');
        }
        inner(self);
        if parentheses {
            self.out.push(')');
        }
    }

    fn call(&mut self, name: &str, inputs: &[NodeId]) {
        self.out.push_str(name);
        self.out.push('(');
        for (position, input) in inputs.iter().enumerate() {
            if position > 0 {
                self.out.push_str(", ");
            }
            self.show(*input, Level::Select);
        }
        self.out.push(')');
    }
}

/// A node with its inputs by number.
fn verbatim(node: &Node) -> String {
    match node {
        Node::Const(Real(value)) => number(*value),
        Node::Operand(n) => format!("x{n}"),
        Node::Index(n) => format!("#{}", factor(*n)),
        Node::Random { salt, factors } => {
            let names: String = factors.iter().map(|n| format!(", {}", factor(*n))).collect();
            format!("random({salt}{names})")
        }
        Node::Unary(op, a) => format!("{}({a})", op.word()),
        Node::Binary(op, a, b) => format!("{}({a}, {b})", op.word()),
        Node::Select(c, a, b) => format!("select({c}, {a}, {b})"),
    }
}

/// Reads an expression; `factors` are the names of the rule's factors.
pub(super) fn parse(parser: &mut Parser, factors: &[String]) -> Result<Expr, TextError> {
    let verbatim = parser.eat_word("nodes");
    parser.mark("{")?;
    let mut reader = Reader { parser, factors, expr: Expr::default(), names: Vec::new(), depth: 0 };
    if verbatim {
        return reader.verbatim();
    }
    reader.expr.root = reader.select()?;
    reader.parser.mark("}")?;
    Ok(reader.expr)
}

struct Reader<'a> {
    parser: &'a mut Parser,
    factors: &'a [String],
    expr: Expr,
    /// What `:=` named so far.
    names: Vec<(String, NodeId)>,
    depth: usize,
}

impl Reader<'_> {
    fn bounded(&self, depth: usize) -> Result<(), TextError> {
        let error = || self.parser.error(format!("the expression nests deeper than {READ_DEPTH}"));
        if depth > READ_DEPTH { Err(error()) } else { Ok(()) }
    }

    fn select(&mut self) -> Result<NodeId, TextError> {
        self.depth += 1;
        self.bounded(self.depth)?;
        let mut value = self.infix(Level::Compare)?;
        if self.parser.eat("?") {
            let a = self.select()?;
            self.parser.mark(":")?;
            let b = self.select()?;
            value = self.expr.push(Node::Select(value, a, b));
        }
        self.depth -= 1;
        Ok(value)
    }

    fn infix(&mut self, level: Level) -> Result<NodeId, TextError> {
        if level == Level::Negate {
            return self.negated();
        }
        let mut left = self.infix(tighter(level))?;
        while let Some((op, sign, _)) = SIGNS.iter().find(|(_, sign, at)| *at == level && self.parser.sees(sign)) {
            self.parser.mark(sign)?;
            let right = self.infix(tighter(level))?;
            left = self.expr.push(Node::Binary(*op, left, right));
            if level == Level::Compare {
                break;
            }
        }
        Ok(left)
    }

    fn negated(&mut self) -> Result<NodeId, TextError> {
        let mut signs = 0;
        while self.parser.eat("-") {
            signs += 1;
            self.bounded(self.depth + signs)?;
        }
        let mut value = match self.parser.constant()? {
            Some(value) if signs > 0 => {
                signs -= 1;
                self.expr.push(Node::Const(Real(-value)))
            }
            Some(value) => self.expr.push(Node::Const(Real(value))),
            None => self.atom()?,
        };
        for _ in 0..signs {
            value = self.expr.push(Node::Unary(Unary::Neg, value));
        }
        Ok(value)
    }

    fn atom(&mut self) -> Result<NodeId, TextError> {
        if self.parser.eat("(") {
            let value = if let Token::Word(name) = self.parser.peek().clone()
                && self.parser.sees_after(":=")
            {
                self.parser.next();
                self.parser.mark(":=")?;
                let value = self.select()?;
                self.names.push((name, value));
                value
            } else {
                self.select()?
            };
            self.parser.mark(")")?;
            return Ok(value);
        }
        if let Some(leaf) = self.leaf()? {
            return Ok(self.expr.push(leaf));
        }
        let name = self.parser.word("an expression")?;
        if let Some((_, id)) = self.names.iter().rev().find(|(known, _)| *known == name) {
            return Ok(*id);
        }
        let (unary, binary) = (Unary::from_word(&name), Binary::from_word(&name));
        if unary.is_none() && binary.is_none() {
            return Err(self.parser.error_before(format!("`{name}` is neither an operand, a function nor named by `:=`")));
        }
        self.parser.mark("(")?;
        let a = self.select()?;
        let node = match (unary, binary) {
            (Some(op), _) => Node::Unary(op, a),
            (None, Some(op)) => {
                self.parser.mark(",")?;
                Node::Binary(op, a, self.select()?)
            }
            (None, None) => unreachable!("one of them was found"),
        };
        self.parser.mark(")")?;
        Ok(self.expr.push(node))
    }

    /// An operand, an index or a draw, if one stands here.
    fn leaf(&mut self) -> Result<Option<Node>, TextError> {
        if self.parser.eat("#") {
            return Ok(Some(Node::Index(self.parser.factor(self.factors)?)));
        }
        let Token::Word(word) = self.parser.peek().clone() else { return Ok(None) };
        if let Some(n) = word.strip_prefix('x').and_then(|digits| digits.parse().ok()) {
            self.parser.next();
            return Ok(Some(Node::Operand(n)));
        }
        if !self.parser.eat_word("random") {
            return Ok(None);
        }
        self.parser.mark("(")?;
        let salt = self.parser.integer("the salt of a draw")?;
        let mut factors = Vec::new();
        while self.parser.eat(",") {
            factors.push(self.parser.factor(self.factors)?);
        }
        self.parser.mark(")")?;
        Ok(Some(Node::Random { salt, factors }))
    }

    /// Nodes one by one, just as they stand, and the root.
    fn verbatim(mut self) -> Result<Expr, TextError> {
        while !self.parser.eat("}") {
            if !self.expr.nodes.is_empty() {
                self.parser.mark(";")?;
            }
            let negative = self.parser.eat("-");
            let node = if let Some(value) = self.parser.constant()? {
                Node::Const(Real(if negative { -value } else { value }))
            } else if negative {
                return Err(self.parser.error(format!("expected a constant, not {}", self.parser.peek())));
            } else if let Some(leaf) = self.leaf()? {
                leaf
            } else {
                self.function()?
            };
            self.expr.nodes.push(node);
        }
        self.parser.keyword("root")?;
        self.expr.root = self.parser.integer("the number of the root")?;
        Ok(self.expr)
    }

    /// A function of nodes by number.
    fn function(&mut self) -> Result<Node, TextError> {
        let name = self.parser.word("a node")?;
        let before = self.parser.error_before(format!("`{name}` is no function"));
        self.parser.mark("(")?;
        let mut inputs: Vec<NodeId> = vec![self.parser.integer("the number of a node")?];
        while self.parser.eat(",") {
            inputs.push(self.parser.integer("the number of a node")?);
        }
        self.parser.mark(")")?;
        match (inputs[..].as_ref(), Unary::from_word(&name), Binary::from_word(&name)) {
            (&[a], Some(op), _) => Ok(Node::Unary(op, a)),
            (&[a, b], _, Some(op)) => Ok(Node::Binary(op, a, b)),
            (&[c, a, b], ..) if name == "select" => Ok(Node::Select(c, a, b)),
            _ => Err(TextError { message: format!("`{name}` is no function of {} nodes", inputs.len()), ..before }),
        }
    }
}
