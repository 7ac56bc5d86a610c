//! Names: what they mean where they stand.

use std::collections::BTreeMap;

use partita_ir::graph::Span;
use partita_ir::id::{AxisId, ValueId};

use super::Elaborator;
use super::scan::Emits;
use crate::diagnostics::Diagnostics;
use crate::evaluate::{Found, Known, Num, Scope, evaluate};
use crate::syntax::Expr;

/// What a name of a file or block is.
#[derive(Clone, Debug)]
pub(super) enum What {
    Tensor(ValueId),
    Known(Known),
    /// Its definition was reported.
    Broken,
}

/// Whether a name may be assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Weight,
    /// Kept from step to step, not trained.
    State,
    Input,
    /// An argument that is no tensor.
    Number,
    /// Assigned before, or an argument.
    Variable,
}

impl Kind {
    pub(super) fn words(self) -> &'static str {
        match self {
            Kind::Weight => "a weight",
            Kind::State => "a state",
            Kind::Input => "an input",
            Kind::Number => "a number",
            Kind::Variable => "a variable",
        }
    }
}

/// Why a name means nothing any more.
#[derive(Clone, Copy, Debug)]
pub(super) enum Gone {
    /// A repeat assigned it, and it ended with the repeat.
    Repeat,
    /// A scan assigned it, and it ended with the entry.
    Scan,
    /// It holds integers, which have no entry along a scan.
    Entry,
    /// A `for` gave it, and it ended with its round.
    For,
    /// Not every branch of an `if` assigned it; whether one declared it as a weight.
    Branch { weight: bool },
}

#[derive(Clone, Debug)]
pub(super) struct Binding {
    pub what: What,
    pub kind: Kind,
    pub span: Span,
}

/// The names of the file, or of one call of a block.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub names: BTreeMap<String, Binding>,
    /// Names that ended with their body, where they were given, and why.
    pub gone: BTreeMap<String, (Span, Gone)>,
    /// What makes this call unlike others: `layer`, `layer.attention_2`; nothing for the file.
    pub path: String,
    /// What weights' names begin with inside the loop they belong to, with its dot.
    pub prefix: String,
    /// The block whose call names the open loop: its weights need no other prefix.
    pub loop_block: Option<String>,
    /// Random draws so far.
    pub draws: u32,
    /// What the open scan emits.
    pub emits: Option<Emits>,
    /// States that a statement gives their next value, and where.
    pub updated: BTreeMap<ValueId, Span>,
    /// Axes of its own: those that the letters of an operator or the axes of a block stand for, or that a `for` declares.
    pub axes: BTreeMap<String, AxisId>,
    /// Whether what is elaborated is the body of a `for`.
    pub unrolled: bool,
    /// The block that is called; none for the file.
    pub block: Option<usize>,
}

/// `inner` of `path`.
pub(super) fn under(path: &str, inner: &str) -> String {
    if path.is_empty() { inner.to_owned() } else { format!("{path}.{inner}") }
}

impl Elaborator<'_> {
    pub(super) fn frame(&self) -> &Frame {
        self.frames.last().expect("the file's frame is never popped")
    }

    pub(super) fn frame_mut(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("the file's frame is never popped")
    }

    pub(super) fn bind(&mut self, name: &str, what: What, kind: Kind, span: Span) {
        self.frame_mut().gone.remove(name);
        self.frame_mut().names.insert(name.to_owned(), Binding { what, kind, span });
    }

    /// `name`, or `name_2` and so on if that is taken.
    pub(super) fn unique_path(&mut self, name: String) -> String {
        let mut path = name.clone();
        let mut count = 1;
        while !self.paths.insert(path.clone()) {
            count += 1;
            path = format!("{name}_{count}");
        }
        path
    }

    /// The name of a weight in the graph, where the names of leaves differ: those of the file's own leaves stay, and one
    /// that a block declares gets a number if it is taken.
    pub(super) fn leaf_name(&mut self, name: &str) -> String {
        let frame = self.frame();
        // a scan of the file may declare a weight of a name that another has
        if frame.path.is_empty() && self.scanned.is_none() {
            return name.to_owned();
        }
        let full = format!("{}{name}", frame.prefix);
        let mut leaf = full.clone();
        let mut count = 1;
        while !self.leaves.insert(leaf.clone()) {
            count += 1;
            leaf = format!("{full}_{count}");
        }
        leaf
    }

    /// Runs a walk over an expression that reads names and reports.
    pub(super) fn reading<T>(&mut self, walk: impl FnOnce(&Self, &mut Diagnostics) -> T) -> T {
        let mut diagnostics = std::mem::take(self.diagnostics);
        let out = walk(self, &mut diagnostics);
        *self.diagnostics = diagnostics;
        out
    }

    /// The value of an expression that must be a number.
    pub(super) fn number(&mut self, expr: &Expr) -> Option<Num> {
        self.reading(|this, diagnostics| evaluate(expr, this, diagnostics))
    }

    /// A whole number within bounds, or a report that speaks of `what`.
    pub(super) fn whole(&mut self, expr: &Expr, what: &str, least: i64, most: i64) -> Option<i64> {
        let value = self.number(expr)?;
        let bounds = crate::evaluate::Whole { what, least, most };
        self.reading(|this, diagnostics| bounds.check(value, Some(expr), Some(expr.span), this, diagnostics))
    }

    /// What helps against a name that is unknown here and known elsewhere.
    pub(super) fn elsewhere(&self, name: &str) -> Option<(Span, &'static str, String)> {
        if let Some((span, gone)) = self.frame().gone.get(name) {
            let (text, help) = match gone {
                Gone::Repeat => (
                    "this ends with its repeat",
                    format!("what a repeat gives to the lines behind it exists before it: assign `{name}` above the repeat too"),
                ),
                Gone::For => (
                    "this ends with each round of its `for`",
                    format!("what a `for` hands on exists before it: assign `{name}` above the `for` too"),
                ),
                Gone::Scan => (
                    "this ends with its entry",
                    format!(
                        "what a scan makes of all entries is emitted: `emit {name}[axes] = value`; of a carried value the last is there"
                    ),
                ),
                Gone::Entry => (
                    "integers, which are not read entry by entry",
                    format!("make a tensor of `{name}` before the scan, as with `gather`, and read that"),
                ),
                Gone::Branch { .. } => (
                    "given here, and not in every branch",
                    format!("the lines behind an `if` see what every branch gives: give `{name}` in the others too, or above the `if`"),
                ),
            };
            return Some((*span, text, help));
        }
        let outer = self.frames[..self.frames.len() - 1].iter().rev().find_map(|frame| frame.names.get(name));
        outer.map(|binding| {
            let help = format!("a block sees its arguments, settings and axes: make `{name}` an argument of the block");
            (binding.span, "defined outside the block", help)
        })
    }
}

impl Scope for Elaborator<'_> {
    fn find(&self, name: &str) -> Found {
        // a condition speaks of a switch, not of the tensor of its name
        let binding = self.frame().names.get(name).filter(|binding| binding.kind == Kind::Number || !self.settings.is_switch(name));
        if let Some(binding) = binding {
            return match &binding.what {
                What::Known(value) => Found::Known(value.clone()),
                What::Broken => Found::Broken,
                What::Tensor(_) => Found::Tensor(binding.span),
            };
        }
        let number = |value| Found::Known(Known::Number(value));
        // an axis stands for its size
        let size = |axis: &AxisId| self.size(*axis).map_or(Found::Broken, |size| number(Num::Int(size as i64)));
        if let Some(axis) = self.frame().axes.get(name) {
            return size(axis);
        }
        match self.settings.find(name) {
            Found::Missing if name == "batch" => self.section.batch.map_or(Found::Broken, number),
            Found::Missing => self.axis_names.get(name).map_or(Found::Missing, size),
            found => found,
        }
    }

    fn replaced(&self, name: &str) -> Option<(Span, Known)> {
        if self.frame().names.contains_key(name) { None } else { self.settings.replaced(name) }
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.frame().names.keys().cloned().collect();
        names.extend(self.settings.names());
        names.extend(self.axis_names.keys().cloned());
        names
    }
}
