//! States: what a model keeps from step to step and does not train.

use partita_ir::axis::Role;
use partita_ir::id::AxisId;
use partita_ir::scalar::Expr as Scalar;

use super::Elaborator;
use super::scope::{Binding, Kind, What};
use crate::diagnostics::{Diagnostic, did_you_mean, listed};
use crate::syntax::{Expr, Name};

impl<'a> Elaborator<'a> {
    /// Whether the axes of a state are those of a tensor that outlives a batch; a report if not.
    pub(super) fn has_no_samples(&mut self, name: &Name, axes: &[Name], dims: &[AxisId]) -> bool {
        let Some(position) = dims.iter().position(|axis| self.axes[axis].role == Some(Role::Batch)) else { return true };
        self.diagnostics.push(
            Diagnostic::new("partita::state::batch_axis", format!("state `{}` has a batch axis", name.text))
                .label(axes[position].span, "another batch, other samples")
                .help("a state is one tensor that all batches see: leave out the axis, and keep a sum or mean over it"),
        );
        false
    }

    /// `update bias = bias + 0.001 * sign(error)`: what a state becomes at the end of a step.
    pub(super) fn update(&mut self, name: &Name, value: &'a Expr) {
        let value_span = value.span;
        let value = self.tensor(value, &name.text);
        let Some(binding) = self.frame().names.get(&name.text).cloned() else {
            self.no_state(name);
            return;
        };
        let state = match binding {
            Binding { kind: Kind::State, what: What::Tensor(state), .. } => state,
            // one that does not exist under these settings has nothing to become
            Binding { kind: Kind::State, .. } | Binding { what: What::Broken, .. } => return,
            Binding { kind, span, .. } => {
                self.diagnostics.push(
                    Diagnostic::new("partita::state::not_a_state", format!("`{}` is {} and has no update", name.text, kind.words()))
                        .label(name.span, "updated here")
                        .label(span, "declared here")
                        .help(format!("declare what is kept from step to step as `state {}[axes] = zeros`", name.text)),
                );
                return;
            }
        };
        if let Some(first) = self.frame_mut().updated.insert(state, name.span) {
            self.diagnostics.push(
                Diagnostic::new("partita::state::updated_twice", format!("state `{}` is updated twice", name.text))
                    .label(name.span, "a second time")
                    .label(first, "the first time")
                    .help("a state changes once a step, at its end: write both changes in one expression"),
            );
            return;
        }
        if self.builder.graph.value(state).within != self.builder.within() {
            self.diagnostics.push(
                Diagnostic::new(
                    "partita::state::other_loop",
                    format!("state `{}` is updated in a repeat and declared outside of it", name.text),
                )
                .label(name.span, "once for each iteration")
                .label(binding.span, "declared here, once")
                .help("declare it in the repeat, where each iteration has its own, or update it behind the repeat"),
            );
            return;
        }
        let Some(value) = value else { return };
        let (wanted, found) = (self.builder.dims(state), self.builder.dims(value));
        let further: Vec<AxisId> = found.iter().copied().filter(|axis| !wanted.contains(axis)).collect();
        if !further.is_empty() {
            let message =
                format!("state `{}` is declared with axes {} and updated with {}", name.text, self.shown(&wanted), self.shown(&found));
            let axes = further.iter().map(|axis| self.builder.graph.axis(*axis).name.clone());
            let names: Vec<String> = axes.collect();
            self.diagnostics.push(
                Diagnostic::new("partita::state::update_differs", message)
                    .label(value_span, format!("has axes {}", self.shown(&found)))
                    .label(binding.span, "declared here")
                    .help(format!("take a sum or mean over {}, such as `mean[{}](...)`", listed(&names), names.join(", "))),
            );
            return;
        }
        let value = if wanted == found { value } else { self.builder.map(&name.text, &[value], &wanted, None, Scalar::operand(0)) };
        self.builder.update(state, value);
    }

    fn no_state(&mut self, name: &Name) {
        let unknown =
            Diagnostic::new("partita::name::unknown", format!("no state is named `{}` here", name.text)).label(name.span, "unknown name");
        if let Some((place, text, _)) = self.elsewhere(&name.text) {
            let help = "update a state where it is declared: in the same repeat, branch or block";
            self.diagnostics.push(unknown.label(place, text).help(help));
            return;
        }
        let states: Vec<String> =
            self.frame().names.iter().filter(|(_, binding)| binding.kind == Kind::State).map(|(name, _)| name.clone()).collect();
        let help = || format!("declare it first: `state {}[axes] = zeros`", name.text);
        self.diagnostics.push(unknown.help(did_you_mean(&name.text, states.iter().map(String::as_str), help)));
    }
}
