//! Statements to a graph: names, shapes, blocks, expressions.
//!
//! Every check is made here, and goes on after it failed: what cannot be known is broken, and nothing is said of what is
//! built on something broken. A graph is given only if nothing was reported.

mod axes;
mod block;
mod branch;
mod call;
mod composite;
mod element;
mod gather;
mod loss;
mod moves;
mod op;
mod order;
mod parts;
mod scan;
mod scope;
mod state;
mod statement;
mod unroll;
mod window;

pub(crate) use statement::INITS;

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::axis::Role;
use partita_ir::build::Builder;
use partita_ir::graph::{Graph, Leaf, Span};
use partita_ir::id::{AxisId, Id, OpId};

use crate::diagnostics::{Diagnostic, Diagnostics, listed};
use crate::operators;
use crate::settings::{Settings, twice};
use crate::syntax::{Block, Defines, File, Name, Op, StatementKind};
use crate::train::Section;
use loss::Terms;
use scope::Frame;

/// Expression nodes and statements that are elaborated, calls of blocks counted each time. Models that repeat layers with
/// `repeat` need some hundreds.
const MOST_WORK: u32 = 300_000;
/// Nested expressions and calls of blocks.
const DEEPEST: u32 = 200;
/// Elements of a tensor, points of a loop and parameters of a model stay below this.
const MOST_ELEMENTS: u128 = 1 << 62;
/// Axes of a tensor.
const MOST_DIMS: usize = 16;

/// An axis as the file declares it.
#[derive(Debug)]
struct AxisEntry {
    name: String,
    span: Span,
    /// `None` if it is broken; the graph then says none.
    role: Option<Role>,
    /// `None` if its size is broken; the graph then says 1.
    size: Option<u64>,
}

/// A block of the file.
#[derive(Debug)]
struct BlockEntry<'a> {
    block: &'a Block,
    /// Whether its body has been elaborated at a call.
    seen: bool,
}

/// An operator of the file.
#[derive(Clone, Copy, Debug)]
struct OpEntry<'a> {
    op: &'a Op,
    /// Whether its line makes sense; if not, that was reported.
    sound: bool,
}

/// The state of the walk over a file.
struct Elaborator<'a> {
    settings: &'a Settings,
    section: &'a Section,
    diagnostics: &'a mut Diagnostics,
    builder: Builder,
    axes: BTreeMap<AxisId, AxisEntry>,
    axis_names: BTreeMap<String, AxisId>,
    /// In file order: a block calls blocks before it.
    blocks: Vec<BlockEntry<'a>>,
    block_names: BTreeMap<&'a str, usize>,
    ops: BTreeMap<&'a str, OpEntry<'a>>,
    /// Blocks and operators that could not be read.
    broken_calls: BTreeSet<&'a str>,
    /// The file's names, and above them those of each block that is being called.
    frames: Vec<Frame>,
    /// Names of loops and calls of blocks that are taken.
    paths: BTreeSet<String>,
    /// Names of weights and inputs that are taken.
    leaves: BTreeSet<String>,
    /// The axis of the scan whose body is being read.
    scanned: Option<AxisId>,
    depth: u32,
    work: u32,
    terms: Terms,
}

/// The graph of a file. It means nothing if anything was reported.
pub(crate) fn elaborate(file: &File, name: &str, settings: &Settings, section: &Section, diagnostics: &mut Diagnostics) -> Graph {
    let mut elaborator = Elaborator {
        settings,
        section,
        diagnostics,
        builder: Builder::new(name, section.train.precision.accumulate),
        axes: BTreeMap::new(),
        axis_names: BTreeMap::new(),
        blocks: Vec::new(),
        block_names: BTreeMap::new(),
        ops: BTreeMap::new(),
        broken_calls: BTreeSet::new(),
        frames: vec![Frame::default()],
        paths: BTreeSet::new(),
        leaves: BTreeSet::new(),
        scanned: None,
        depth: 0,
        work: 0,
        terms: Terms::default(),
    };
    elaborator.file(file);
    elaborator.builder.finish()
}

impl<'a> Elaborator<'a> {
    fn file(&mut self, file: &'a File) {
        self.declare_axes(file);
        self.reserve_leaves(&file.statements);
        for statement in &file.statements {
            match &statement.kind {
                StatementKind::Block(block) => self.declare_block(block),
                StatementKind::Op(op) => self.declare_op(op),
                StatementKind::Broken { defines: Defines::Callable, name } => {
                    self.broken_calls.insert(&name.text);
                }
                _ => {}
            }
        }
        for statement in &file.statements {
            let first = self.builder.graph.ops.len();
            self.statement(statement);
            self.check_loop_spaces(first);
        }
        self.check_unseen_blocks();
        self.check_total(file);
        self.finish_terms();
        if !self.terms.has_main() && self.diagnostics.is_empty() {
            self.diagnostics.push(
                Diagnostic::new("partita::loss::missing", "the model has no loss")
                    .help("say what training makes small: `loss cross_entropy[vocab](logits, targets)`, or `loss mean[batch](error)`"),
            );
        }
    }

    fn declare_block(&mut self, block: &'a Block) {
        for (position, axis) in block.axes.iter().enumerate() {
            if let Some(first) = block.axes[..position].iter().find(|known| known.text == axis.text) {
                self.diagnostics.push(twice("axes of a block", &axis.text, axis.span, first.span));
            }
        }
        if self.callable_name(&block.name) {
            self.block_names.insert(&block.name.text, self.blocks.len());
            self.blocks.push(BlockEntry { block, seen: false });
        }
    }

    fn declare_op(&mut self, op: &'a Op) {
        if self.callable_name(&op.name) {
            let sound = self.check_op(op);
            self.ops.insert(&op.name.text, OpEntry { op, sound });
        }
    }

    /// Whether a block or operator may have this name; a report if not.
    fn callable_name(&mut self, name: &Name) -> bool {
        if let Some(row) = operators::find(&name.text, true) {
            self.diagnostics.push(
                Diagnostic::new("partita::name::built_in", format!("`{}` is an operator of the language", name.text))
                    .label(name.span, "choose another name")
                    .help(format!("{}: {}", row.signature(), row.doc)),
            );
            return false;
        }
        let block = self.block_names.get(name.text.as_str()).map(|index| self.blocks[*index].block.name.span);
        let first = block.or_else(|| self.ops.get(name.text.as_str()).map(|entry| entry.op.name.span));
        if let Some(first) = first {
            self.diagnostics.push(twice("blocks or operators", &name.text, name.span, first));
        }
        first.is_none()
    }

    /// Counts a step; `false`, after a report, when there have been too many or when nothing more can be reported.
    fn step(&mut self, span: Span) -> bool {
        self.work += 1;
        if self.work == MOST_WORK {
            self.diagnostics.push(
                Diagnostic::new("partita::size::too_large", "the model is too large to be written out")
                    .label(span, "this is where the compiler stops")
                    .help("blocks called in a `repeat` are written out once, however many times they run"),
            );
        }
        self.work < MOST_WORK && !self.diagnostics.is_full()
    }

    /// Sizes of the loops of operators from `first` on: they are walked with 64-bit indices.
    fn check_loop_spaces(&mut self, first: usize) {
        for index in first..self.builder.graph.ops.len() {
            let op = self.builder.graph.op(OpId::new(index));
            let Some(rule) = op.rule() else { continue };
            let sizes = self.builder.graph.factor_sizes(rule);
            let points = sizes.iter().try_fold(1u128, |points, size| points.checked_mul(u128::from(*size)));
            if points.is_none_or(|points| points >= MOST_ELEMENTS) {
                let axes = listed(
                    rule.factors.iter().map(|axis| format!("{} = {}", self.builder.graph.axis(*axis).name, self.builder.graph.size(*axis))),
                );
                let mut diagnostic =
                    Diagnostic::new("partita::size::too_large", format!("this operator walks 2^62 points or more: {axes}"));
                if let Some(span) = op.span {
                    diagnostic = diagnostic.label(span, "here");
                }
                self.diagnostics.push(diagnostic);
            }
        }
    }

    /// The number of parameters and states, all iterations together.
    fn check_total(&mut self, file: &File) {
        let graph = &self.builder.graph;
        let count = |id| u128::from(graph.iterations(graph.value(id).within)).checked_mul(u128::from(graph.elements(id)));
        let mut kept = graph.leaves(|leaf| matches!(leaf, Leaf::Param(_) | Leaf::State { .. }));
        let total = kept.try_fold(0u128, |total, id| total.checked_add(count(id)?));
        if total.is_none_or(|total| total >= MOST_ELEMENTS) {
            let mut diagnostic = Diagnostic::new("partita::size::too_large", "the model has 2^62 parameters or more");
            if let Some(StatementKind::Model(name)) = file.statements.first().map(|statement| &statement.kind) {
                diagnostic = diagnostic.label(name.span, "this model");
            }
            self.diagnostics.push(diagnostic);
        }
    }
}
