//! The operator table: what can be called, with which axes, arguments and options. Calls are checked against it and the
//! language's reference is generated from it.

use partita_ir::formula::{Formula, lit};
use partita_ir::graph::Span;
use partita_ir::library;
use partita_ir::rule::Reduce;
use partita_ir::scalar::{Binary, Unary};

use crate::diagnostics::{Diagnostic, plural};

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Operator {
    /// Name in a call.
    pub name: &'static str,
    /// What stands in its brackets.
    pub axes: Axes,
    /// What stands in its parentheses, by position.
    pub arguments: &'static [Argument],
    /// What may stand behind them by name.
    pub options: &'static [OptionRow],
    /// How it becomes primitives.
    pub form: Form,
    /// What it computes, in one line.
    pub doc: &'static str,
}

/// The brackets of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axes {
    /// No brackets.
    None,
    /// One axis for each of these parts.
    Exactly(&'static [&'static str]),
    /// One axis or more.
    Some,
    /// Any number, the result's axes.
    Result,
    /// One axis or more seen through windows.
    Windows,
    /// An axis and the one that takes its place: `[axis -> wider]`.
    Arrow,
    /// The axis of the whole, perhaps behind those of the parts: `[whole]`, `[part, ... -> whole]`.
    Whole,
}

/// An argument by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Name in the documentation.
    pub name: &'static str,
    /// What it may be.
    pub takes: Takes,
}

/// What an argument may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// A tensor of floating-point elements.
    Tensor,
    /// One such tensor or more; always the last argument.
    Tensors,
    /// A tensor of integers.
    Integers,
    /// A tensor of whole numbers, or arithmetic of indices and comparisons of integers.
    Places,
    /// A number known when the model is compiled.
    Number,
    /// A tensor or a number, element by element.
    Element,
}

/// An argument by name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptionRow {
    /// Its name.
    pub name: &'static str,
    /// Its value where it is left out.
    pub default: OptionDefault,
    /// What it does.
    pub doc: &'static str,
}

/// What an option is and its value where it is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OptionDefault {
    /// A number.
    Number(f64),
    /// An axis, by default none.
    Axis,
    /// An expression of numbers, tensors and indices, element by element, by default this number.
    Element(f64),
    /// A tensor, by default none.
    Tensor,
}

/// How an operator becomes primitives.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// A scalar function.
    Unary(Unary),
    /// A scalar function of two.
    Binary(Binary),
    /// A scalar function written with others.
    Function(fn(Formula) -> Formula),
    /// The same of two.
    Function2(fn(Formula, Formula) -> Formula),
    /// The second where the first is not 0, else the third.
    Where,
    /// A contraction.
    Einsum,
    /// A reduction.
    Fold(Reduce),
    /// The sum over the number of elements.
    Mean,
    /// A convolution.
    Conv,
    /// The largest, or the mean, of what windows see.
    Pool(Pool),
    /// Rows of a table.
    Gather,
    /// Tensors one behind the other.
    Concat,
    /// A tensor with more elements at its ends.
    Pad,
    /// 1 at a place, else 0.
    OneHot,
    /// Softmax.
    Softmax,
    /// LayerNorm.
    LayerNorm,
    /// RMSNorm.
    RmsNorm,
    /// Rotary position embedding.
    Rotary,
    /// Dropout.
    Dropout,
    /// Attention.
    Attention,
    /// Cross-entropy.
    CrossEntropy,
    /// Index of the largest.
    ArgMax,
    /// Places in descending order.
    Rank,
    /// Entries in descending order, all or the first of them.
    Sort,
    /// Running sum.
    RunningSum,
    /// Where the n-th entry is that meets a condition.
    Nth,
    /// Rows into a table, where several meet their sum.
    Scatter,
    /// Multiplicative noise.
    Jitter,
}

/// What a pooling makes of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The largest.
    Max,
    /// The mean.
    Mean,
}

/// `a - b floor(a / b)`
fn modulo(a: Formula, b: Formula) -> Formula {
    a.clone() - b.clone() * (a / b).unary(Unary::Floor)
}

/// `max(x, 0)`
fn relu(x: Formula) -> Formula {
    x.max(lit(0.0))
}

const fn tensor(name: &'static str) -> Argument {
    Argument { name, takes: Takes::Tensor }
}
const fn element(name: &'static str) -> Argument {
    Argument { name, takes: Takes::Element }
}
const fn number(name: &'static str, default: f64, doc: &'static str) -> OptionRow {
    OptionRow { name, default: OptionDefault::Number(default), doc }
}

const X: &[Argument] = &[tensor("x")];
const BY: &[OptionRow] =
    &[OptionRow { name: "by", default: OptionDefault::Tensor, doc: "what the order is of, instead of the entries themselves" }];
const ONE: &[Argument] = &[element("x")];
const TWO: &[Argument] = &[element("a"), element("b")];

const fn unary(name: &'static str, op: Unary, doc: &'static str) -> Operator {
    Operator { name, axes: Axes::None, arguments: ONE, options: &[], form: Form::Unary(op), doc }
}
const fn binary(name: &'static str, op: Binary, doc: &'static str) -> Operator {
    Operator { name, axes: Axes::None, arguments: TWO, options: &[], form: Form::Binary(op), doc }
}
const fn function(name: &'static str, function: fn(Formula) -> Formula, doc: &'static str) -> Operator {
    Operator { name, axes: Axes::None, arguments: ONE, options: &[], form: Form::Function(function), doc }
}
const fn fold(name: &'static str, form: Form, doc: &'static str) -> Operator {
    Operator { name, axes: Axes::Some, arguments: X, options: &[], form, doc }
}

const STRIDE: OptionRow = number("stride", 1.0, "elements from one window to the next, along every axis");
const PAD: OptionRow = number("pad", 0.0, "elements that the first and the last window reach beyond an axis");
const DILATION: OptionRow = number("dilation", 1.0, "elements from one place of a window to the next");
const fn pool(name: &'static str, pool: Pool, doc: &'static str) -> Operator {
    Operator { name, axes: Axes::Windows, arguments: X, options: &[STRIDE, PAD, DILATION], form: Form::Pool(pool), doc }
}

/// The table: elementwise functions first, then operators with axes.
pub const TABLE: &[Operator] = &[
    unary("exp", Unary::Exp, "e to the power x"),
    unary("log", Unary::Log, "natural logarithm"),
    unary("sqrt", Unary::Sqrt, "square root"),
    unary("rsqrt", Unary::Rsqrt, "one over the square root"),
    unary("tanh", Unary::Tanh, "hyperbolic tangent"),
    unary("sin", Unary::Sin, "sine"),
    unary("cos", Unary::Cos, "cosine"),
    unary("abs", Unary::Abs, "absolute value"),
    unary("floor", Unary::Floor, "largest whole number not above x"),
    unary("sign", Unary::Sign, "-1, 0 or 1"),
    unary("sigmoid", Unary::Sigmoid, "1 / (1 + exp(-x))"),
    unary("erf", Unary::Erf, "the error function"),
    function("relu", relu, "x where positive, else 0"),
    function("gelu", library::gelu, "GELU in its tanh form"),
    function("silu", library::silu, "x · sigmoid(x)"),
    binary("min", Binary::Min, "the smaller of two"),
    binary("max", Binary::Max, "the larger of two"),
    binary("pow", Binary::Pow, "a to the power b"),
    function("stop_gradient", Formula::held, "x, which counts as a constant where derivatives are taken"),
    Operator {
        name: "mod",
        axes: Axes::None,
        arguments: TWO,
        options: &[],
        form: Form::Function2(modulo),
        doc: "what a is above the largest multiple of b that is not above it",
    },
    Operator {
        name: "where",
        axes: Axes::None,
        arguments: &[element("condition"), element("a"), element("b")],
        options: &[],
        form: Form::Where,
        doc: "a where the condition is not 0, else b",
    },
    Operator {
        name: "einsum",
        axes: Axes::Result,
        arguments: &[Argument { name: "x", takes: Takes::Tensors }],
        options: &[],
        form: Form::Einsum,
        doc: "product of tensors, summed over every axis that is not listed",
    },
    fold("sum", Form::Fold(Reduce::Sum), "sum over axes"),
    fold("mean", Form::Mean, "mean over axes"),
    fold("max", Form::Fold(Reduce::Max), "largest over axes"),
    fold("min", Form::Fold(Reduce::Min), "smallest over axes"),
    fold("logsumexp", Form::Fold(Reduce::LogSumExp), "logarithm of the sum of exponentials over axes"),
    Operator {
        name: "argmax",
        axes: Axes::Exactly(&["axis", "pair"]),
        arguments: X,
        options: &[],
        form: Form::ArgMax,
        doc: "the largest along an axis and its index, along a last axis of size 2",
    },
    Operator {
        name: "softmax",
        axes: Axes::Exactly(&["axis"]),
        arguments: X,
        options: &[],
        form: Form::Softmax,
        doc: "softmax along an axis",
    },
    Operator {
        name: "layer_norm",
        axes: Axes::Exactly(&["axis"]),
        arguments: X,
        options: &[number("eps", 1e-5, "added to the variance")],
        form: Form::LayerNorm,
        doc: "mean 0 and variance 1 along an axis; gain and bias are the model's own",
    },
    Operator {
        name: "rms_norm",
        axes: Axes::Exactly(&["axis"]),
        arguments: X,
        options: &[number("eps", 1e-6, "added to the mean of squares")],
        form: Form::RmsNorm,
        doc: "root mean square 1 along an axis; the gain is the model's own",
    },
    Operator {
        name: "conv",
        axes: Axes::Windows,
        arguments: &[tensor("x"), tensor("weight")],
        options: &[
            STRIDE,
            PAD,
            DILATION,
            OptionRow { name: "groups", default: OptionDefault::Axis, doc: "axis of both that is not summed over" },
        ],
        form: Form::Conv,
        doc: "product with a weight over each window, zeros outside, summed over the windows' places and the axes that x and the weight share; the weight's other axes take their place",
    },
    pool("max_pool", Pool::Max, "largest element that each window sees"),
    pool("mean_pool", Pool::Mean, "mean over the places of each window, zeros outside"),
    Operator {
        name: "gather",
        axes: Axes::Exactly(&["axis"]),
        arguments: &[tensor("table"), Argument { name: "indices", takes: Takes::Places }],
        options: &[],
        form: Form::Gather,
        doc: "the entries of a table along an axis that the indices name: integers, or arithmetic of positions such as `abs(index[seq] - index[past])`",
    },
    Operator {
        name: "scatter",
        axes: Axes::Some,
        arguments: &[tensor("x"), Argument { name: "indices", takes: Takes::Places }],
        options: &[],
        form: Form::Scatter,
        doc: "the reverse of `gather`: along the first axis, at each place the sum of what the indices put there, over the axes behind it",
    },
    Operator {
        name: "one_hot",
        axes: Axes::Exactly(&["axis"]),
        arguments: &[Argument { name: "indices", takes: Takes::Places }],
        options: &[],
        form: Form::OneHot,
        doc: "1 where the axis is at the index, else 0",
    },
    Operator {
        name: "concat",
        axes: Axes::Whole,
        arguments: &[Argument { name: "x", takes: Takes::Tensors }],
        options: &[],
        form: Form::Concat,
        doc: "tensors one behind the other along an axis; each is read along the one axis that not all of them have, or along those before `->`, one for all or one each",
    },
    Operator {
        name: "pad",
        axes: Axes::Arrow,
        arguments: X,
        options: &[
            number("before", 0.0, "elements in front"),
            number("after", 0.0, "elements behind"),
            number("value", 0.0, "that they have"),
        ],
        form: Form::Pad,
        doc: "more elements at the ends of an axis",
    },
    fold("rank", Form::Rank, "how many entries along the axes are larger, or equal and before: 0 for the first of a descending order"),
    Operator {
        name: "sort",
        axes: Axes::Exactly(&["axis"]),
        arguments: X,
        options: BY,
        form: Form::Sort,
        doc: "the entries along an axis in descending order; of equal ones the first stays first",
    },
    Operator {
        name: "top_k",
        axes: Axes::Exactly(&["axis", "k"]),
        arguments: X,
        options: BY,
        form: Form::Sort,
        doc: "the first entries of `sort`, as many as the axis `k` has, along that axis",
    },
    Operator {
        name: "cumsum",
        axes: Axes::Exactly(&["axis"]),
        arguments: X,
        options: &[],
        form: Form::RunningSum,
        doc: "the sum of the entries along an axis up to each one, itself included",
    },
    Operator {
        name: "nth",
        axes: Axes::Exactly(&["axis", "n"]),
        arguments: &[tensor("condition")],
        options: &[],
        form: Form::Nth,
        doc: "where along an axis the entry is that meets the condition as number `index[n]`, from 0; -1 where fewer do",
    },
    Operator {
        name: "jitter",
        axes: Axes::None,
        arguments: &[tensor("x"), Argument { name: "width", takes: Takes::Number }],
        options: &[],
        form: Form::Jitter,
        doc: "each element times a uniform draw from 1 - width to 1 + width",
    },
    Operator {
        name: "rotary",
        axes: Axes::Exactly(&["seq", "axis"]),
        arguments: X,
        options: &[
            number("base", 10_000.0, "of the angles' frequencies"),
            number("share", 1.0, "of the pairs that turn; the others stay as they are"),
        ],
        form: Form::Rotary,
        doc: "rotary position embedding by position, pairing the halves of an axis",
    },
    Operator {
        name: "dropout",
        axes: Axes::None,
        arguments: &[tensor("x"), Argument { name: "rate", takes: Takes::Number }],
        options: &[],
        form: Form::Dropout,
        doc: "each element 0 with probability rate, else scaled by 1 / (1 - rate)",
    },
    Operator {
        name: "attention",
        axes: Axes::Exactly(&["past", "dim"]),
        arguments: &[tensor("query"), tensor("key"), tensor("value")],
        options: &[
            OptionRow {
                name: "causal",
                default: OptionDefault::Axis,
                doc: "position axis of the query, which sees no later position of `past`",
            },
            number("dropout", 0.0, "rate of dropout on the weights"),
            OptionRow {
                name: "bias",
                default: OptionDefault::Element(0.0),
                doc: "added to the scores before the softmax: an expression over axes of the query and `past`",
            },
            OptionRow {
                name: "mask",
                default: OptionDefault::Element(1.0),
                doc: "where it is 0 a score counts as -inf: an expression over axes of the query and `past`; a row that is hidden whole gives 0",
            },
            number("scale", 0.0, "of query · key; unless it is given, 1 / sqrt(dim)"),
            number("softcap", 0.0, "scaled scores become softcap · tanh(score / softcap), unless it is 0"),
        ],
        form: Form::Attention,
        doc: "softmax(scale · query · key + bias) over past where mask, times value",
    },
    Operator {
        name: "cross_entropy",
        axes: Axes::Exactly(&["axis"]),
        arguments: &[tensor("logits"), Argument { name: "targets", takes: Takes::Integers }],
        options: &[number("ignore", -100.0, "targets that do not count")],
        form: Form::CrossEntropy,
        doc: "cross-entropy of logits along an axis; only behind `loss`",
    },
];

/// The function of this name that works element by element.
pub(crate) fn scalar(name: &str) -> Option<&'static Operator> {
    scalars().find(|row| row.name == name)
}

/// Every function that works element by element.
pub(crate) fn scalars() -> impl Iterator<Item = &'static Operator> {
    TABLE.iter().filter(|row| row.arguments.iter().all(|argument| argument.takes == Takes::Element))
}

/// The row that a call with or without brackets means. Where only the brackets are wrong, the row of that name.
pub(crate) fn find(name: &str, brackets: bool) -> Option<&'static Operator> {
    let mut rows = TABLE.iter().filter(|row| row.name == name);
    let first = rows.clone().next();
    rows.find(|row| (row.axes != Axes::None) == brackets).or(first)
}

impl Operator {
    /// The call as documentation writes it: `softmax[axis](x)`.
    pub fn signature(&self) -> String {
        let axes = match self.axes {
            Axes::None => String::new(),
            Axes::Exactly(parts) => format!("[{}]", parts.join(", ")),
            Axes::Some => "[axis, ...]".to_owned(),
            Axes::Result => "[result axes ...]".to_owned(),
            Axes::Windows => "[axis -> result axis over window axis, ...]".to_owned(),
            Axes::Arrow => "[axis -> wider]".to_owned(),
            Axes::Whole => "[whole]".to_owned(),
        };
        let mut inside: Vec<String> = self
            .arguments
            .iter()
            .map(|argument| if argument.takes == Takes::Tensors { format!("{}, ...", argument.name) } else { argument.name.to_owned() })
            .collect();
        inside.extend(self.options.iter().map(|option| match option.default {
            OptionDefault::Number(value) => format!("{} = {value:?}", option.name),
            OptionDefault::Axis => format!("{} = axis", option.name),
            OptionDefault::Element(value) => format!("{} = {value}", option.name),
            OptionDefault::Tensor => format!("{} = tensor", option.name),
        }));
        format!("{}{axes}({})", self.name, inside.join(", "))
    }
}

/// A report of a call with the wrong number of arguments.
pub(crate) fn wrong_arguments(row: &Operator, found: usize, span: Span) -> Diagnostic {
    let many = row.arguments.iter().any(|argument| argument.takes == Takes::Tensors);
    let wanted = if many { "at least 1 argument".to_owned() } else { plural(row.arguments.len(), "argument") };
    // `max(a, b)` and `max[axis](x)` share a name
    let forms: Vec<String> =
        TABLE.iter().filter(|known| known.name == row.name).map(|known| format!("{}: {}", known.signature(), known.doc)).collect();
    Diagnostic::new("partita::call::wrong_arguments", format!("`{}` takes {wanted}, not {found}", row.name))
        .label(span, "in this call")
        .help(forms.join("\n"))
}
