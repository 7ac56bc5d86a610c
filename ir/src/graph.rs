//! Graphs: arenas of axes, values, operators and composites, cut into phases.

use serde::{Deserialize, Serialize};

use crate::axis::{Axis, Role};
use crate::dtype::DType;
use crate::id::{AxisId, CompositeId, Id, LoopId, OpId, ValueId};
use crate::random;
use crate::rule::Rule;

/// The element type and the axes of a tensor, outermost first. No axis stands in it twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Axes, outermost first; none for a scalar.
    pub dims: Vec<AxisId>,
}

/// How a parameter or state begins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Every element this value.
    Constant(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform in ± this bound.
    Uniform(f64),
    /// As the parameter that it goes with, before that is rounded to its type: a master copy.
    Copy,
}

impl Init {
    /// Element `element` (global, row-major) of a value that begins so; `stream` is its own, see
    /// [`crate::interpret::init_stream`].
    pub fn element(self, stream: u64, element: u64) -> f64 {
        match self {
            Init::Constant(value) => value,
            Init::Normal(std) => std * random::normal(stream, element),
            Init::Uniform(bound) => bound * (2.0 * random::uniform(stream, element) - 1.0),
            Init::Copy => unreachable!("a copy begins as its parameter does, see `Graph::begins`"),
        }
    }
}

/// Where the numbers of an input come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Tokens 0..seq of each sample: dims (batch, seq).
    Tokens,
    /// Tokens 1..seq+1 of each sample: dims (batch, seq).
    NextTokens,
    /// Tokens from this one on of each sample, as many as the input has positions: dims (batch, seq).
    TokensFrom(i32),
    /// The number of the document that each of tokens 0..seq is in: how many separators stand before it in its sample.
    Documents(i32),
    /// Tokens 0..seq with some hidden behind this one, as BERT (Devlin et al., 2018) has to find them.
    MaskedTokens(i32),
    /// The hidden tokens of [`Source::MaskedTokens`] where they are to be found, elsewhere [`IGNORED`].
    MaskedTargets,
    /// The image of each sample, from 0 to 1: dims (batch, the image's own ...).
    Pixels,
    /// The class of each sample: dims (batch).
    Labels,
}

impl Source {
    /// Every source with its word; the number of those that have one is 0.
    pub const ALL: [(Source, &'static str); 8] = [
        (Source::Tokens, "tokens"),
        (Source::NextTokens, "next_tokens"),
        (Source::TokensFrom(0), "tokens_from"),
        (Source::Documents(0), "documents"),
        (Source::MaskedTokens(0), "masked_tokens"),
        (Source::MaskedTargets, "masked_targets"),
        (Source::Pixels, "pixels"),
        (Source::Labels, "labels"),
    ];

    /// The word of this source.
    pub fn word(self) -> &'static str {
        let same = |row: &&(Source, &str)| row.0 == if self.number().is_some() { self.with_number(0) } else { self };
        Self::ALL.iter().find(same).map_or("", |row| row.1)
    }

    /// The source that `word` names, its number 0.
    pub fn from_word(word: &str) -> Option<Source> {
        Self::ALL.iter().find(|row| row.1 == word).map(|row| row.0)
    }

    /// Whether it holds floating-point numbers; integers otherwise.
    pub fn is_float(self) -> bool {
        self == Source::Pixels
    }

    /// The axes that such an input has, in words.
    pub fn axes(self) -> &'static str {
        match self {
            Source::Pixels => "a batch axis, then those of an image",
            Source::Labels => "a batch axis",
            _ => "two axes, of the roles `batch` and `seq`",
        }
    }

    /// Whether an input with axes of these roles can be of this source.
    pub fn takes(self, roles: &[Role]) -> bool {
        match self {
            Source::Pixels => roles.len() > 1 && roles[0] == Role::Batch && !roles[1..].contains(&Role::Batch),
            Source::Labels => roles == [Role::Batch],
            _ => roles == [Role::Batch, Role::Seq],
        }
    }

    /// The number that it is given, of a token or a position, if it is given one.
    pub fn number(self) -> Option<i32> {
        match self {
            Source::TokensFrom(number) | Source::Documents(number) | Source::MaskedTokens(number) => Some(number),
            Source::Tokens | Source::NextTokens | Source::MaskedTargets | Source::Pixels | Source::Labels => None,
        }
    }

    /// The same with another number.
    #[must_use]
    pub fn with_number(self, number: i32) -> Source {
        match self {
            Source::TokensFrom(_) => Source::TokensFrom(number),
            Source::Documents(_) => Source::Documents(number),
            Source::MaskedTokens(_) => Source::MaskedTokens(number),
            other => other,
        }
    }

    /// Tokens that a sample has at least where an input from here has so many positions.
    pub fn needs(self, positions: u64) -> u64 {
        match self {
            Source::NextTokens => positions + 1,
            Source::TokensFrom(first) => positions + u64::from(first.unsigned_abs()),
            Source::Tokens | Source::Documents(_) | Source::MaskedTokens(_) | Source::MaskedTargets => positions,
            Source::Pixels | Source::Labels => 0,
        }
    }
}

/// A target that does not count.
pub const IGNORED: i32 = -100;

/// A scalar that the run supplies each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Supplied {
    /// Steps done, this one included: 1 at the first.
    StepNumber,
}

/// What a leaf holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaf {
    /// Data of the batch.
    Input(Source),
    /// A trained parameter.
    Param(Init),
    /// A value kept from step to step that is no parameter (a moment); `of` is the parameter that it belongs to.
    State {
        /// First value.
        init: Init,
        /// The parameter that it goes with.
        of: Option<ValueId>,
        /// Its name among the states of that parameter, such as `m`.
        slot: String,
    },
    /// A scalar that training keeps for itself from step to step and that begins so: how far it is. Only checkpoints have it.
    Progress(f64),
    /// A scalar that the run supplies.
    Supplied(Supplied),
    /// The sum of this value over micro-batches: at rest between them, whole when the last is done.
    Accumulated(ValueId),
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Def {
    /// Nothing computes it.
    Leaf(Leaf),
    /// Result `.1` of an operator (a repeat has several).
    Result(OpId, usize),
    /// Carried value `.1` of a repeat, as its body sees it.
    Carried(OpId, usize),
    /// The entry of taken tensor `.1` of a repeat at an iteration.
    Taken(OpId, usize),
}

/// A value of the graph. One with a `within` stands for one value per iteration of that loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// Name, unique among leaves.
    pub name: String,
    /// Type.
    pub ty: Type,
    /// Origin.
    pub def: Def,
    /// The loop that it has an instance per iteration of.
    pub within: Option<LoopId>,
}

/// What kind of work an operator is, for pins and for the cost model: declared by the operator table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A contraction: matrix products and gathers.
    Contraction,
    /// A normalisation over hidden elements.
    Norm,
    /// Dropout.
    Dropout,
    /// Part of attention other than its projections.
    Attention,
    /// The sum of a residual stream and a branch.
    Residual,
    /// Part of the loss.
    Loss,
    /// Part of the optimizer.
    Optimizer,
    /// Anything else.
    #[default]
    Other,
}

impl Class {
    /// Every class with its word.
    pub const ALL: [(Class, &'static str); 8] = [
        (Class::Contraction, "contraction"),
        (Class::Norm, "norm"),
        (Class::Dropout, "dropout"),
        (Class::Attention, "attention"),
        (Class::Residual, "residual"),
        (Class::Loss, "loss"),
        (Class::Optimizer, "optimizer"),
        (Class::Other, "other"),
    ];

    /// The word of this class.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|row| row.0 == self).map_or("other", |row| row.1)
    }

    /// The class that `word` names.
    pub fn from_word(word: &str) -> Option<Class> {
        Self::ALL.iter().find(|row| row.1 == word).map(|row| row.0)
    }
}

/// A value that a repeat carries from one iteration to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Its value before the first iteration.
    pub init: ValueId,
    /// What the body reads.
    pub arg: ValueId,
    /// What the body gives to the next iteration.
    pub next: ValueId,
}

/// A tensor that a repeat goes along: its first axis has an entry for each iteration of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// The tensor.
    pub whole: ValueId,
    /// Its entry at an iteration, without the first axis.
    pub each: ValueId,
}

/// A block repeated over the iterations of a loop. Its body may read any earlier value; one that has an instance per
/// iteration of the same loop is read at the same iteration. A repeat that takes or collects slices is a **scan**.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repeat {
    /// The loop.
    pub over: LoopId,
    /// Whether it runs from the last iteration to the first (backward).
    pub reversed: bool,
    /// The body.
    pub body: Vec<OpId>,
    /// Carried values; the repeat's first results are their last ones.
    pub carried: Vec<Carried>,
    /// Tensors that the body reads an entry of at each iteration.
    pub taken: Vec<Slice>,
    /// Tensors that are made of a value of each iteration: the repeat's further results.
    pub collected: Vec<Slice>,
}

impl Repeat {
    /// Whether it goes along a tensor. All its iterations then live where that does.
    pub fn is_scan(&self) -> bool {
        !self.taken.is_empty() || !self.collected.is_empty()
    }

    /// The iteration that is gone through after `passed` others, of `count`.
    pub fn iteration(&self, passed: u64, count: u64) -> u64 {
        if self.reversed { count - 1 - passed } else { passed }
    }
}

/// What an operator does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A primitive.
    Map(Rule),
    /// A repeated block.
    Repeat(Repeat),
}

/// A place in the model file, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// An operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Op {
    /// What it does.
    pub kind: Kind,
    /// What it reads. For a repeat: nothing (see its carried values and body).
    pub operands: Vec<ValueId>,
    /// What it defines.
    pub results: Vec<ValueId>,
    /// What kind of work it is.
    pub class: Class,
    /// The composite whose body it belongs to.
    pub composite: Option<CompositeId>,
    /// Where the model file says so.
    pub span: Option<Span>,
}

impl Op {
    /// The rule of a primitive.
    pub fn rule(&self) -> Option<&Rule> {
        match &self.kind {
            Kind::Map(rule) => Some(rule),
            Kind::Repeat(_) => None,
        }
    }

    /// The single result of a primitive.
    pub fn result(&self) -> ValueId {
        self.results[0]
    }
}

/// A named group of primitives, such as one softmax: code generation may fuse it, the planner sees its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Composite {
    /// Name in the operator table.
    pub name: String,
    /// Whether its inner values are computed again in the backward pass instead of saved.
    pub recompute: bool,
}

/// A repeated index domain: the layers of a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loop {
    /// Name, as parameters' instances print it: `layer` gives `layer.0.wq`.
    pub name: String,
    /// Iterations.
    pub count: u64,
}

/// When the operators of a phase run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseKind {
    /// Once a micro-batch, for all of them before the first forward pass: what only the data decides.
    Count,
    /// Once a step, after `Count`.
    Seed,
    /// Once a micro-batch.
    Forward,
    /// Once a micro-batch, after its forward pass.
    Backward,
    /// Once a step, after the last backward pass.
    Update,
}

impl PhaseKind {
    /// Every phase with its word, in order of execution.
    pub const ALL: [(PhaseKind, &'static str); 5] = [
        (PhaseKind::Count, "count"),
        (PhaseKind::Seed, "seed"),
        (PhaseKind::Forward, "forward"),
        (PhaseKind::Backward, "backward"),
        (PhaseKind::Update, "update"),
    ];

    /// The word of this phase.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|row| row.0 == self).map_or("", |row| row.1)
    }

    /// Whether it runs once for every micro-batch.
    pub fn per_micro_batch(self) -> bool {
        matches!(self, PhaseKind::Count | PhaseKind::Forward | PhaseKind::Backward)
    }
}

/// The operators of one phase, in order of execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// When they run.
    pub kind: PhaseKind,
    /// Top-level operators; those of repeats are in the repeats' bodies.
    pub ops: Vec<OpId>,
}

/// At the end of a step `target` becomes `value`. Both have an instance per iteration of one loop, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assign {
    /// A parameter or state.
    pub target: ValueId,
    /// Its next value.
    pub value: ValueId,
}

/// A term of the loss: `weight · sum / count`, the mean being over all micro-batches and ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossTerm {
    /// Under which name it is reported; the main term's is [`LossTerm::MAIN`].
    pub name: String,
    /// What the mean is multiplied by in what training makes small. It is reported without.
    pub weight: f64,
    /// Sum over valid targets.
    pub sum: ValueId,
    /// Number of valid targets.
    pub count: ValueId,
}

impl LossTerm {
    /// The name of the main term.
    pub const MAIN: &str = "loss";
}

/// A model as a graph; see the crate's text for what is legal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Default)]
pub struct Graph {
    /// Name of the model.
    pub name: String,
    /// Axes.
    pub axes: Vec<Axis>,
    /// Values.
    pub values: Vec<Value>,
    /// Operators.
    pub ops: Vec<Op>,
    /// Composites.
    pub composites: Vec<Composite>,
    /// Loops.
    pub loops: Vec<Loop>,
    /// Phases in order; a model before differentiation has `Forward` alone.
    pub phases: Vec<Phase>,
    /// What the step assigns.
    pub assigns: Vec<Assign>,
    /// The terms of the loss, the main one first; none if the model has no loss.
    pub loss: Vec<LossTerm>,
    /// Values that the run reports each step (scalars), by name.
    pub reports: Vec<(String, ValueId)>,
}

impl Graph {
    /// An axis.
    pub fn axis(&self, id: AxisId) -> &Axis {
        &self.axes[id.index()]
    }
    /// The size of an axis.
    pub fn size(&self, id: AxisId) -> u64 {
        self.axes[id.index()].size
    }
    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }
    /// An operator.
    pub fn op(&self, id: OpId) -> &Op {
        &self.ops[id.index()]
    }
    /// The shape of a value, outermost dimension first.
    pub fn shape(&self, id: ValueId) -> Vec<u64> {
        self.value(id).ty.dims.iter().map(|axis| self.size(*axis)).collect()
    }
    /// Elements of a value (of one iteration).
    pub fn elements(&self, id: ValueId) -> u64 {
        self.shape(id).iter().product()
    }
    /// Sizes of the factors of a rule.
    pub fn factor_sizes(&self, rule: &Rule) -> Vec<u64> {
        rule.factors.iter().map(|axis| self.size(*axis)).collect()
    }
    /// Iterations that a value or operator within `within` has.
    pub fn iterations(&self, within: Option<LoopId>) -> u64 {
        within.map_or(1, |id| self.loops[id.index()].count)
    }
    /// The operators of a phase, or none.
    pub fn phase(&self, kind: PhaseKind) -> &[OpId] {
        self.phases.iter().find(|phase| phase.kind == kind).map_or(&[], |phase| &phase.ops)
    }
    /// The values of every leaf that `wanted` accepts, in order of definition.
    pub fn leaves<'a>(&'a self, wanted: impl Fn(&Leaf) -> bool + 'a) -> impl Iterator<Item = ValueId> + 'a {
        self.values.iter().enumerate().filter_map(move |(index, value)| match &value.def {
            Def::Leaf(leaf) if wanted(leaf) => Some(ValueId::new(index)),
            _ => None,
        })
    }
    /// The parameters in order of definition.
    pub fn params(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.leaves(|leaf| matches!(leaf, Leaf::Param(_)))
    }
    /// The leaf that a value is.
    pub fn leaf(&self, id: ValueId) -> Option<&Leaf> {
        match &self.value(id).def {
            Def::Leaf(leaf) => Some(leaf),
            _ => None,
        }
    }
    /// How what is kept from step to step begins, and whose name its numbers are drawn by: for a copy of a parameter that parameter's.
    pub fn begins(&self, id: ValueId) -> Option<(Init, ValueId)> {
        match *self.leaf(id)? {
            Leaf::State { init: Init::Copy, of: Some(of), .. } => self.begins(of),
            Leaf::Param(init) | Leaf::State { init, .. } => Some((init, id)),
            Leaf::Progress(begin) => Some((Init::Constant(begin), id)),
            _ => None,
        }
    }
    /// The operator that defines a value.
    pub fn def_op(&self, id: ValueId) -> Option<OpId> {
        match self.value(id).def {
            Def::Result(op, _) => Some(op),
            _ => None,
        }
    }
    /// The name of a value at an iteration, as checkpoints and programs write it: `layer.3.wq`.
    pub fn instance_name(&self, id: ValueId, iteration: u64) -> String {
        let value = self.value(id);
        match value.within {
            Some(within) => format!("{}.{iteration}.{}", self.loops[within.index()].name, value.name),
            None => value.name.clone(),
        }
    }
    /// Calls `visit` for every primitive of a list of operators in order, repeats' bodies once, with its loop.
    pub fn visit(&self, ops: &[OpId], visit: &mut dyn FnMut(OpId, Option<LoopId>)) {
        for &id in ops {
            match &self.op(id).kind {
                Kind::Map(_) => visit(id, None),
                Kind::Repeat(repeat) => repeat.body.iter().for_each(|&inner| visit(inner, Some(repeat.over))),
            }
        }
    }
}
