//! Blocks: bodies with names of their own, written out at each call.

use std::collections::BTreeMap;

use partita_ir::axis::Role;
use partita_ir::build::Builder;
use partita_ir::graph::Span;
use partita_ir::id::{AxisId, ValueId};

use super::scope::{Frame, Kind, What, under};
use super::{AxisEntry, Elaborator};
use crate::diagnostics::{Diagnostic, plural};
use crate::evaluate::known;
use crate::settings::twice;
use crate::syntax::{Block, Call, Letters, Name, Parameter, StatementKind};

impl<'a> Elaborator<'a> {
    /// A call of a block.
    pub(super) fn block(&mut self, index: usize, call: &'a Call, span: Span) -> Option<ValueId> {
        let block = self.blocks[index].block;
        if let Some(caller) = self.frame().block.filter(|caller| *caller <= index) {
            let mut diagnostic = Diagnostic::new(
                "partita::block::order",
                if caller == index {
                    format!("block `{}` calls itself", block.name.text)
                } else {
                    format!("block `{}` is declared below", block.name.text)
                },
            )
            .label(call.name.span, "called here");
            if caller != index {
                diagnostic = diagnostic.label(block.name.span, "declared here").help("a block calls blocks above it: move this one up");
            }
            self.diagnostics.push(diagnostic);
            return None;
        }
        let letters = self.block_axes(block, call);
        // every argument is looked at, so that the errors of all are reported
        let mut bindings = Vec::new();
        for (position, argument) in call.arguments.iter().enumerate() {
            if let Some(name) = &argument.name {
                self.diagnostics.push(
                    Diagnostic::new("partita::call::unknown_option", format!("block `{}` has no options", block.name.text))
                        .label(name.span, "arguments of a block have no names in a call"),
                );
            }
            let what = match block.parameters.get(position) {
                Some(parameter) => self.argument(parameter, &argument.value, letters.as_ref()),
                None => self.tensor(&argument.value, "argument").map_or(What::Broken, What::Tensor),
            };
            bindings.push(what);
        }
        if bindings.len() != block.parameters.len() {
            let wanted = plural(block.parameters.len(), "argument");
            self.diagnostics.push(
                Diagnostic::new(
                    "partita::call::wrong_arguments",
                    format!("block `{}` takes {wanted}, not {}", block.name.text, bindings.len()),
                )
                .label(span, "in this call")
                .label(block.name.span, "declared here"),
            );
            return None;
        }
        let letters = letters.filter(|_| !bindings.iter().any(|what| matches!(what, What::Broken)))?;

        let caller = self.frame_mut();
        // the first call of the block that a loop has its name from
        let names_loop = caller.loop_block.as_deref() == Some(block.name.text.as_str());
        let (path, prefix) = if names_loop {
            caller.loop_block = None;
            (caller.path.clone(), String::new())
        } else {
            let (path, prefix) = (under(&caller.path, &block.name.text), caller.prefix.clone());
            let path = self.unique_path(path);
            let last = path.rsplit('.').next().expect("a path has a last part");
            let prefix = format!("{prefix}{last}.");
            (path, prefix)
        };
        self.body(index, Frame { path, prefix, axes: letters, block: Some(index), ..Frame::default() }, bindings)
    }

    /// The axes in the brackets of a call, by the names that the block has for them.
    fn block_axes(&mut self, block: &Block, call: &Call) -> Option<BTreeMap<String, AxisId>> {
        let given = call.axes.as_deref().unwrap_or(&[]);
        if given.len() != block.axes.len() || !call.windows.is_empty() {
            let wanted = match block.axes.len() {
                0 => "no brackets".to_owned(),
                n => format!("{} in brackets", plural(n, "axis")),
            };
            let names: Vec<&str> = block.axes.iter().map(|axis| axis.text.as_str()).collect();
            self.diagnostics.push(
                Diagnostic::new("partita::call::wrong_axes", format!("block `{}` takes {wanted}", block.name.text))
                    .label(call.name.span, "in this call")
                    .label(
                        block.name.span,
                        if names.is_empty() { "declared here".to_owned() } else { format!("declared with [{}]", names.join(", ")) },
                    ),
            );
            return None;
        }
        // every name is looked at, so that every unknown one is reported; two may stand for one axis
        let axes: Vec<Option<AxisId>> = given.iter().map(|name| self.axis(name)).collect();
        block.axes.iter().zip(axes).map(|(name, axis)| Some((name.text.clone(), axis?))).collect()
    }

    /// An argument of a call, as its parameter declares it.
    fn argument(&mut self, parameter: &'a Parameter, value: &'a crate::syntax::Expr, of_block: Option<&BTreeMap<String, AxisId>>) -> What {
        let Some(letters) = &parameter.axes else {
            let value = self.reading(|this, diagnostics| known(value, this, diagnostics));
            return value.map_or(What::Broken, What::Known);
        };
        let found = self.tensor(value, &parameter.name.text);
        let declared = of_block.and_then(|of_block| {
            self.frames.push(Frame { axes: of_block.clone(), ..Frame::default() });
            let declared = self.declared(letters);
            self.frames.pop();
            declared
        });
        let (Some(found), Some(declared)) = (found, declared) else { return What::Broken };
        let dims = self.builder.dims(found);
        if dims == declared {
            return What::Tensor(found);
        }
        let same = dims.len() == declared.len() && dims.iter().all(|axis| declared.contains(axis));
        let message = format!(
            "argument `{}` is declared with axes {} and given with {}",
            parameter.name.text,
            self.shown(&declared),
            self.shown(&dims)
        );
        let mut diagnostic = Diagnostic::new("partita::shape::argument_differs", message)
            .label(value.span, format!("has axes {}", self.shown(&dims)))
            .label(parameter.span(), "declared here");
        if same {
            let names = self.shown(&declared);
            diagnostic = diagnostic
                .help(format!("the axes are the same in another order: `einsum{names}(...)` of one tensor puts them in this order"));
        }
        self.diagnostics.push(diagnostic);
        What::Broken
    }

    fn declared(&mut self, letters: &Letters) -> Option<Vec<AxisId>> {
        if letters.rest.is_some() {
            self.diagnostics.push(
                Diagnostic::new("partita::syntax::expected", "an argument of a block lists all its axes")
                    .label(letters.span, "`..` is for `op` lines only"),
            );
            return None;
        }
        self.axis_list(&letters.names)
    }

    /// The body of a block with its arguments bound: what it returns.
    fn body(&mut self, index: usize, frame: Frame, bindings: Vec<What>) -> Option<ValueId> {
        let block = self.blocks[index].block;
        self.blocks[index].seen = true;
        self.frames.push(frame);
        for (parameter, what) in block.parameters.iter().zip(bindings) {
            if let Some(first) = self.frame().names.get(&parameter.name.text) {
                let first = first.span;
                self.diagnostics.push(twice("arguments", &parameter.name.text, parameter.name.span, first));
            }
            let kind = if parameter.axes.is_some() { Kind::Variable } else { Kind::Number };
            self.bind(&parameter.name.text, what, kind, parameter.name.span);
        }
        let result = self.statements_and_return(block);
        self.frames.pop();
        result
    }

    fn statements_and_return(&mut self, block: &'a Block) -> Option<ValueId> {
        let Some((last, statements)) = block.body.split_last() else {
            self.no_return(block);
            return None;
        };
        for statement in statements {
            self.statement(statement);
        }
        if let StatementKind::Return(value) = &last.kind {
            return self.tensor(value, &block.name.text);
        }
        self.statement(last);
        if !statements.iter().any(|statement| matches!(statement.kind, StatementKind::Return(_))) {
            self.no_return(block);
        }
        None
    }

    fn no_return(&mut self, block: &Block) {
        self.diagnostics.push(
            Diagnostic::new("partita::block::no_return", format!("block `{}` returns nothing", block.name.text))
                .label(block.name.span, "its last line is no `return`")
                .help("end the body with `return x`"),
        );
    }

    /// Elaborates the bodies that no call has, on arguments as they are declared, for the sake of their errors.
    pub(super) fn check_unseen_blocks(&mut self) {
        for index in 0..self.blocks.len() {
            if self.blocks[index].seen {
                continue;
            }
            let block = self.blocks[index].block;
            let mut scratch = Builder::new("", self.builder.float);
            scratch.graph.axes.clone_from(&self.builder.graph.axes);
            let builder = std::mem::replace(&mut self.builder, scratch);
            // of whatever size and role
            let stand_in = |this: &mut Self, axis: &Name| {
                let id = this.builder.axis(&axis.text, 1, Role::None);
                this.axes.insert(id, AxisEntry { name: axis.text.clone(), span: axis.span, role: None, size: None });
                (axis.text.clone(), id)
            };
            let letters: BTreeMap<String, AxisId> = block.axes.iter().map(|axis| stand_in(self, axis)).collect();
            let stood_in: Vec<AxisId> = letters.values().copied().collect();
            self.frames.push(Frame { axes: letters.clone(), ..Frame::default() });
            let mut bindings = Vec::new();
            for parameter in &block.parameters {
                let dims = parameter.axes.as_ref().and_then(|letters| self.declared(letters));
                // a leaf stands in for what a call would give
                bindings.push(dims.map_or(What::Broken, |dims| {
                    What::Tensor(self.builder.param(&parameter.name.text, &dims, partita_ir::graph::Init::Constant(0.0)))
                }));
            }
            self.frames.pop();
            let path = self.unique_path(format!("unseen.{index}"));
            self.body(index, Frame { path, axes: letters, block: Some(index), ..Frame::default() }, bindings);
            self.builder = builder;
            stood_in.iter().for_each(|axis| drop(self.axes.remove(axis)));
        }
    }
}
