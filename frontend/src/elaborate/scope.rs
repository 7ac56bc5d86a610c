//! Names: what they mean where they stand.

use std::collections::BTreeMap;

use partita_ir::graph::Span;
use partita_ir::id::{AxisId, ValueId};

use super::Elaborator;
use crate::evaluate::{Found, Num, Scope, evaluate};
use crate::syntax::Expr;

/// What a name of a file or block is.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Tensor(ValueId),
    Number(Num),
    /// Its definition was reported.
    Broken,
}

/// Whether a name may be assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Weight,
    Input,
    /// An argument that is a number.
    Number,
    /// Assigned before, or an argument.
    Variable,
}

impl Kind {
    pub(super) fn words(self) -> &'static str {
        match self {
            Kind::Weight => "a weight",
            Kind::Input => "an input",
            Kind::Number => "a number",
            Kind::Variable => "a variable",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Binding {
    pub what: What,
    pub kind: Kind,
    pub span: Span,
}

/// The names of the file, or of one call of a block.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub names: BTreeMap<String, Binding>,
    /// Names that a repeat assigned and that ended with it.
    pub gone: BTreeMap<String, Span>,
    /// What makes this call unlike others: `layer`, `layer.attention_2`; nothing for the file.
    pub path: String,
    /// What weights' names begin with inside the loop they belong to, with its dot.
    pub prefix: String,
    /// The block whose call names the open loop: its weights need no other prefix.
    pub loop_block: Option<String>,
    /// Random draws so far.
    pub draws: u32,
    /// Axes that the letters of an operator stand for.
    pub letters: BTreeMap<String, AxisId>,
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
        if frame.path.is_empty() {
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

    /// The value of an expression that must be a number.
    pub(super) fn number(&mut self, expr: &Expr) -> Option<Num> {
        let mut diagnostics = std::mem::take(self.diagnostics);
        let value = evaluate(expr, self, &mut diagnostics);
        *self.diagnostics = diagnostics;
        value
    }

    /// A whole number within bounds, or a report that speaks of `what`.
    pub(super) fn whole(&mut self, expr: &Expr, what: &str, least: i64, most: i64) -> Option<i64> {
        let value = self.number(expr)?;
        let mut diagnostics = std::mem::take(self.diagnostics);
        let bounds = crate::evaluate::Whole { what, least, most };
        let whole = bounds.check(value, Some(expr), Some(expr.span), self, &mut diagnostics);
        *self.diagnostics = diagnostics;
        whole
    }

    /// What helps against a name that is unknown here and known elsewhere.
    pub(super) fn elsewhere(&self, name: &str) -> Option<(Span, &'static str, String)> {
        if let Some(span) = self.frame().gone.get(name) {
            let help = format!("what a repeat gives to the lines behind it exists before it: assign `{name}` above the repeat too");
            return Some((*span, "this ends with its repeat", help));
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
        if let Some(binding) = self.frame().names.get(name) {
            return match binding.what {
                What::Number(value) => Found::Number(value),
                What::Broken => Found::Broken,
                What::Tensor(_) => Found::Tensor(binding.span),
            };
        }
        // an axis stands for its size
        if let Some(axis) = self.frame().letters.get(name) {
            return self.size(*axis).map_or(Found::Broken, |size| Found::Number(Num::Int(size as i64)));
        }
        match self.settings.find(name) {
            Found::Missing if name == "batch" => self.section.batch.map_or(Found::Broken, Found::Number),
            Found::Missing => match self.axis_names.get(name) {
                Some(id) => self.size(*id).map_or(Found::Broken, |size| Found::Number(Num::Int(size as i64))),
                None => Found::Missing,
            },
            found => found,
        }
    }

    fn replaced(&self, name: &str) -> Option<(Span, Num)> {
        if self.frame().names.contains_key(name) { None } else { self.settings.replaced(name) }
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.frame().names.keys().cloned().collect();
        names.extend(self.settings.names());
        names.extend(self.axis_names.keys().cloned());
        names
    }
}
