//! What a model file says, before it is known to make sense.

use partita_ir::graph::Span;
use partita_ir::scalar::Binary;

/// A name and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub text: String,
    pub span: Span,
}

/// A file: its statements in order.
#[derive(Debug)]
pub(crate) struct File {
    pub statements: Vec<Statement>,
    /// Whether a body does not end where it should: then names are not where they belong.
    pub unbalanced: bool,
}

/// A statement, from its first word to its last.
#[derive(Debug)]
pub(crate) struct Statement {
    pub kind: StatementKind,
    pub span: Span,
}

#[derive(Debug)]
pub(crate) enum StatementKind {
    /// `model gpt`
    Model(Name),
    /// `set ffn = 4 * hidden`
    Set { name: Name, value: SetValue },
    /// `let wide = 4 * hidden`
    Let { name: Name, value: Expr },
    /// `use "blocks.partita"`
    Use { path: Name },
    /// `assert hidden > heads, "{hidden} is too small"`
    Assert { condition: Expr, message: Vec<Said> },
    /// `axis past = seq : seq`
    Axis { name: Name, size: Option<Expr>, role: Option<Name> },
    /// `input tokens[batch, seq] : tokens`, `input documents[batch, seq] : documents(0)`
    Input { name: Name, axes: Vec<Name>, source: Name, token: Option<Expr> },
    /// `weight w[hidden] = normal(0.02)`, `weight b[hidden] = zeros if bias`; `state mean[hidden] = zeros`, which is not trained
    Weight { name: Name, axes: Vec<Name>, init: Name, value: Option<Expr>, condition: Option<Expr>, trained: bool },
    /// `update mean = 0.9 * mean + 0.1 * batch_mean`
    Update { name: Name, value: Expr },
    /// `block layer(x[batch, hidden], rate) { ... }`, `block narrow[wide, small](x[batch, wide]) { ... }`
    Block(Block),
    /// `op scale(a[.., i], factor) -> [.., i] = a * factor`
    Op(Op),
    /// `x = x + 1`
    Assign { name: Name, value: Expr },
    /// `repeat layers as layer { ... }`
    Repeat { count: Expr, name: Option<Name>, body: Vec<Statement> },
    /// `for stage in 0 .. stages { ... }`
    For { name: Name, over: Over, body: Vec<Statement> },
    /// `scan seq (h[batch, hidden] = 0) { ... }`
    Scan(Scan),
    /// `emit y[batch, seq, hidden] = h`
    Emit { name: Name, axes: Vec<Name>, value: Expr },
    /// `if tied { ... } else { ... }`; behind an `else if` stands one such statement.
    If { condition: Expr, then: Vec<Statement>, otherwise: Vec<Statement> },
    /// `return x`
    Return(Expr),
    /// `loss cross_entropy[vocab](logits, targets)`, `loss balance = 0.01 * mean[batch](uneven)`
    Loss { name: Option<Name>, value: Expr },
    /// `train { ... }`
    Train(TrainSection),
    /// What could not be read, and the name that it was to define.
    Broken { defines: Defines, name: Name },
}

/// A body for each entry of an axis.
#[derive(Debug)]
pub(crate) struct Scan {
    pub axis: Name,
    /// Whether it begins with the last entry.
    pub reversed: bool,
    /// What is handed from entry to entry: its axes and what it begins with.
    pub carried: Vec<(Name, Vec<Name>, Expr)>,
    pub body: Vec<Statement>,
}

/// The default of a setting.
#[derive(Debug)]
pub(crate) enum SetValue {
    Expr(Expr),
    /// `gelu | relu2 | relu`: the words that it may be, the default first.
    Words(Vec<Name>),
}

/// What kind of name a statement defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defines {
    Setting,
    Axis,
    Tensor,
    Callable,
}

#[derive(Debug)]
pub(crate) struct Block {
    pub name: Name,
    /// Names that stand for axes of a call.
    pub axes: Vec<Name>,
    pub parameters: Vec<Parameter>,
    pub body: Vec<Statement>,
}

/// An argument as a block or an operator declares it: a tensor if it has brackets, else a number.
#[derive(Debug)]
pub(crate) struct Parameter {
    pub name: Name,
    pub axes: Option<Letters>,
}

impl Parameter {
    /// From the name to the closing bracket.
    pub(crate) fn span(&self) -> Span {
        Span { start: self.name.span.start, end: self.axes.as_ref().map_or(self.name.span.end, |axes| axes.span.end) }
    }
}

/// What stands in the brackets of a declared argument or result.
#[derive(Debug)]
pub(crate) struct Letters {
    pub names: Vec<Name>,
    /// How many of them stand before `..`.
    pub rest: Option<usize>,
    pub span: Span,
}

/// A user's own primitive operator.
#[derive(Debug)]
pub(crate) struct Op {
    pub name: Name,
    pub parameters: Vec<Parameter>,
    pub result: Letters,
    /// How the letters that the result lacks are folded, and which they are.
    pub reduce: Option<(Name, Vec<Name>)>,
    pub class: Option<Name>,
    pub value: Expr,
    /// `derivative a = ...` of arguments whose derivative the file says.
    pub derivatives: Vec<(Name, Expr)>,
}

/// What a `for` goes through.
#[derive(Debug)]
pub(crate) enum Over {
    /// `0 .. 4`, the last left out.
    Range(Box<(Expr, Expr)>),
    /// `[64, 128]`
    List(Vec<Expr>),
}

/// A part of a message.
#[derive(Debug)]
pub(crate) enum Said {
    Text(String),
    /// `{hidden / heads}`
    Value(Expr),
}

/// The `train` section, or what it says of some weights.
#[derive(Debug)]
pub(crate) struct TrainSection {
    pub entries: Vec<Entry>,
    pub groups: Vec<TrainGroup>,
}

/// `for "gain*", "bias*" { decay = 0 }`
#[derive(Debug)]
pub(crate) struct TrainGroup {
    pub patterns: Vec<Name>,
    pub section: TrainSection,
    pub span: Span,
}

/// An entry of the `train` section.
#[derive(Debug)]
pub(crate) struct Entry {
    pub name: Name,
    pub value: EntryValue,
    pub span: Span,
}

#[derive(Debug)]
pub(crate) enum EntryValue {
    /// `clip none`, `schedule cosine(warmup = 10, steps = 100)`
    Word { word: Name, options: Vec<Argument> },
    /// `lr = 3e-4`
    Expr(Expr),
}

/// An expression. Its height bounds every walk over it.
#[derive(Debug)]
pub(crate) struct Expr {
    pub kind: ExprKind,
    pub span: Span,
    pub height: u16,
}

#[derive(Debug)]
pub(crate) enum ExprKind {
    /// Text of a number.
    Number(String),
    Name(String),
    /// `true`, `false`
    Truth(bool),
    Negate(Box<Expr>),
    /// `not a`, `a and b`, `a or b`: as many operands as the word has.
    Logic(Logic, Vec<Expr>),
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `einsum[a, b](x, y)`
    Call(Call),
    /// `index[axis]`
    Index(Name),
    /// `x[hidden -> heads * head_dim, seq = 0 .. 4 -> short]`
    Bracket(Box<Expr>, Vec<Move>),
}

/// The words that join conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    Not,
    And,
    Or,
}

/// The operators that stand between their operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
}

impl BinaryOp {
    /// The scalar operator, and whether its operands change places.
    pub(crate) fn scalar(self) -> (Binary, bool) {
        match self {
            BinaryOp::Add => (Binary::Add, false),
            BinaryOp::Sub => (Binary::Sub, false),
            BinaryOp::Mul => (Binary::Mul, false),
            BinaryOp::Div => (Binary::Div, false),
            BinaryOp::Lt => (Binary::Lt, false),
            BinaryOp::Le => (Binary::Le, false),
            BinaryOp::Gt => (Binary::Lt, true),
            BinaryOp::Ge => (Binary::Le, true),
            BinaryOp::Eq => (Binary::Eq, false),
            BinaryOp::Ne => (Binary::Ne, false),
        }
    }

    /// Whether it gives 0 or 1.
    pub(crate) fn compares(self) -> bool {
        !matches!(self, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div)
    }
}

#[derive(Debug)]
pub(crate) struct Call {
    pub name: Name,
    /// The axes in its brackets, if it has brackets.
    pub axes: Option<Vec<Name>>,
    /// How many of the axes stand before a `->`.
    pub arrow: Option<usize>,
    /// `[height -> rows over kh, width over kw]`
    pub windows: Vec<Window>,
    pub arguments: Vec<Argument>,
}

/// An axis seen through a window, and what becomes of it: without an arrow, itself.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub axis: Name,
    pub out: Name,
    pub taps: Name,
}

/// `x` or `dropout = 0.1` in the parentheses of a call.
#[derive(Debug)]
pub(crate) struct Argument {
    pub name: Option<Name>,
    pub value: Expr,
}

/// One entry in the brackets behind a tensor.
#[derive(Debug)]
pub(crate) struct Move {
    pub from: Vec<Name>,
    /// `= first .. last`, the last left out.
    pub range: Option<(Expr, Expr)>,
    pub to: Vec<Name>,
    pub span: Span,
}

impl Move {
    /// Whether it gives an axis another name and does nothing else.
    pub(crate) fn is_rename(&self) -> bool {
        self.range.is_none() && self.from.len() == 1 && self.to.len() == 1
    }
}

/// Every expression of these statements, those in bodies and branches too.
pub(crate) fn expressions<'a>(statements: &'a [Statement], visit: &mut dyn FnMut(&'a Expr)) {
    for statement in statements {
        match &statement.kind {
            StatementKind::Set { value: SetValue::Expr(expr), .. }
            | StatementKind::Let { value: expr, .. }
            | StatementKind::Assign { value: expr, .. }
            | StatementKind::Update { value: expr, .. }
            | StatementKind::Emit { value: expr, .. }
            | StatementKind::Return(expr)
            | StatementKind::Loss { value: expr, .. } => visit(expr),
            StatementKind::Input { token, .. } => token.iter().for_each(&mut *visit),
            StatementKind::Axis { size, .. } => size.iter().for_each(&mut *visit),
            StatementKind::Weight { value, condition, .. } => value.iter().chain(condition).for_each(&mut *visit),
            StatementKind::Op(op) => op.derivatives.iter().map(|(_, value)| value).chain([&op.value]).for_each(&mut *visit),
            StatementKind::Assert { condition, message } => {
                visit(condition);
                for part in message {
                    if let Said::Value(expr) = part {
                        visit(expr);
                    }
                }
            }
            StatementKind::For { over, body, .. } => {
                match over {
                    Over::Range(ends) => [&ends.0, &ends.1].into_iter().for_each(&mut *visit),
                    Over::List(items) => items.iter().for_each(&mut *visit),
                }
                expressions(body, visit);
            }
            StatementKind::Block(block) => expressions(&block.body, visit),
            StatementKind::Scan(scan) => {
                scan.carried.iter().for_each(|(.., first)| visit(first));
                expressions(&scan.body, visit);
            }
            StatementKind::Repeat { count, body, .. } => {
                visit(count);
                expressions(body, visit);
            }
            StatementKind::If { condition, then, otherwise } => {
                visit(condition);
                expressions(then, visit);
                expressions(otherwise, visit);
            }
            StatementKind::Train(section) => section_expressions(section, visit),
            StatementKind::Model(_) | StatementKind::Set { .. } | StatementKind::Use { .. } | StatementKind::Broken { .. } => {}
        }
    }
}

fn section_expressions<'a>(section: &'a TrainSection, visit: &mut dyn FnMut(&'a Expr)) {
    for entry in &section.entries {
        match &entry.value {
            EntryValue::Expr(expr) => visit(expr),
            EntryValue::Word { options, .. } => options.iter().for_each(|option| visit(&option.value)),
        }
    }
    section.groups.iter().for_each(|group| section_expressions(&group.section, visit));
}

/// The smallest span that holds both.
pub(crate) fn join(a: Span, b: Span) -> Span {
    Span { start: a.start.min(b.start), end: a.end.max(b.end) }
}
