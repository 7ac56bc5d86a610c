//! Axes: their declarations, and lists of them in brackets.

use partita_ir::axis::Role;
use partita_ir::graph::Span;
use partita_ir::id::{AxisId, ValueId};

use super::{AxisEntry, Elaborator, MOST_DIMS, MOST_ELEMENTS};
use crate::diagnostics::{Diagnostic, did_you_mean, listed, plural};
use crate::evaluate::{Found, Known, Scope, Whole, not_a_number};
use crate::settings::twice;
use crate::syntax::{Defines, Expr, ExprKind, File, Name, StatementKind};

/// Largest axis.
const LONGEST: i64 = 1 << 40;
/// More axes than any model needs.
const MOST_AXES: usize = 1000;

impl Elaborator<'_> {
    /// Declares the axes of a file, wherever they stand in it.
    pub(super) fn declare_axes(&mut self, file: &File) {
        for statement in &file.statements {
            let (name, size, role, broken) = match &statement.kind {
                StatementKind::Axis { name, size, role } => (name, size.as_ref(), role.as_ref(), false),
                StatementKind::Broken { defines: Defines::Axis, name } => (name, None, None, true),
                _ => continue,
            };
            if let Some(id) = self.axis_names.get(&name.text) {
                let first = self.axes[id].span;
                self.diagnostics.push(twice("axes", &name.text, name.span, first));
                continue;
            }
            let Some(id) = self.declare_axis(name, &name.text, size, role, broken) else { return };
            self.axis_names.insert(name.text.clone(), id);
        }
    }

    /// An axis that the graph calls `full`; none if there are too many.
    pub(super) fn declare_axis(
        &mut self,
        name: &Name,
        full: &str,
        size: Option<&Expr>,
        role: Option<&Name>,
        broken: bool,
    ) -> Option<AxisId> {
        if self.axes.len() >= MOST_AXES {
            self.diagnostics.push(
                Diagnostic::new("partita::name::too_many", format!("a model has at most {MOST_AXES} axes")).label(name.span, "one more"),
            );
            return None;
        }
        let size = match size {
            Some(expr) => self.whole(expr, &format!("the size of axis `{}`", name.text), 1, LONGEST),
            None if broken => None,
            None => self.size_by_name(name),
        };
        let size = size.map(|size| size as u64);
        let role = if broken { None } else { role.map_or(Some(Role::None), |role| self.role(role)) };
        let id = self.builder.axis(full, size.unwrap_or(1), role.unwrap_or_default());
        self.axes.insert(id, AxisEntry { name: full.to_owned(), span: name.span, role, size });
        Some(id)
    }

    /// The setting, or the batch of the `train` section, that an axis without a size has the name of.
    fn size_by_name(&mut self, name: &Name) -> Option<i64> {
        let value = match self.find(&name.text) {
            Found::Known(Known::Number(value)) => value,
            Found::Known(value) => {
                let span = self.settings.span(&name.text).unwrap_or(name.span);
                self.diagnostics
                    .push(not_a_number(&value, span).help(format!("the size of axis `{}` is the setting of its name", name.text)));
                return None;
            }
            Found::Broken => return None,
            _ => {
                let help = format!("write `axis {} = 64`, or give the model a setting of this name: `set {} = 64`", name.text, name.text);
                self.diagnostics.push(
                    Diagnostic::new("partita::axis::no_size", format!("axis `{}` has no size", name.text))
                        .label(name.span, "no setting has this name")
                        .help(help),
                );
                return None;
            }
        };
        let what = format!("the size of axis `{}`", name.text);
        let span = if name.text == "batch" { self.section.batch_span } else { None };
        let span = self.settings.span(&name.text).or(span).unwrap_or(name.span);
        let bounds = Whole { what: &what, least: 1, most: LONGEST };
        bounds.check(value, None, Some(span), self.settings, self.diagnostics)
    }

    fn role(&mut self, role: &Name) -> Option<Role> {
        let found = Role::from_word(&role.text);
        if found.is_none() {
            let words = || Role::ALL.iter().map(|row| row.1);
            self.diagnostics.push(
                Diagnostic::new("partita::axis::unknown_role", format!("`{}` is no role of an axis", role.text))
                    .label(role.span, "unknown role")
                    .help(did_you_mean(&role.text, words(), || format!("roles are {}; an axis may also have none", listed(words())))),
            );
        }
        found
    }

    /// The size of an axis, unless it is broken.
    pub(super) fn size(&self, id: AxisId) -> Option<u64> {
        self.axes[&id].size
    }

    /// The axis of this name.
    pub(super) fn axis(&mut self, name: &Name) -> Option<AxisId> {
        let letter = self.frame().axes.get(&name.text);
        let id = letter.or_else(|| self.axis_names.get(&name.text)).copied();
        if id.is_none() {
            let known: Vec<&str> = self.axis_names.keys().map(String::as_str).collect();
            let help = did_you_mean(&name.text, known.iter().copied(), || {
                format!("declare it: `axis {} = 64`; this model has {}", name.text, listed(known.iter().take(20)))
            });
            self.diagnostics.push(
                Diagnostic::new("partita::axis::unknown", format!("there is no axis `{}`", name.text))
                    .label(name.span, "unknown axis")
                    .help(help),
            );
        }
        id
    }

    /// The axes of these names, each known and none twice.
    pub(super) fn axis_list(&mut self, names: &[Name]) -> Option<Vec<AxisId>> {
        // every name is looked at, so that every unknown one is reported
        let ids: Vec<Option<AxisId>> = names.iter().map(|name| self.axis(name)).collect();
        let ids: Vec<AxisId> = ids.into_iter().collect::<Option<_>>()?;
        for (position, id) in ids.iter().enumerate() {
            if let Some(first) = ids[..position].iter().position(|known| known == id) {
                let name = &names[position];
                self.diagnostics.push(
                    Diagnostic::new("partita::axis::twice", format!("axis `{}` stands here twice", name.text))
                        .label(name.span, "again")
                        .label(names[first].span, "once")
                        .help(format!("axes are matched by name; declare a second name for the same size: `axis {0}_2 = {0}`", name.text)),
                );
                return None;
            }
        }
        if let Some(name) = names.get(MOST_DIMS) {
            self.diagnostics.push(
                Diagnostic::new("partita::size::too_large", format!("a tensor has at most {MOST_DIMS} axes")).label(name.span, "one more"),
            );
            return None;
        }
        Some(ids)
    }

    /// Axes as a report writes them: `[batch, seq]`.
    pub(super) fn shown(&self, dims: &[AxisId]) -> String {
        let names: Vec<&str> = dims.iter().map(|id| self.builder.graph.axis(*id).name.as_str()).collect();
        format!("[{}]", names.join(", "))
    }

    /// Whether `value` has `axis`; a report if not. `what` is the value's part, such as "the table".
    pub(super) fn has_axis(&mut self, value: ValueId, at: Span, what: &str, axis: AxisId, name: Span) -> bool {
        self.among(&self.builder.dims(value), at, what, axis, name)
    }

    /// Whether an axis is among these, those of a tensor; a report if not.
    pub(super) fn among(&mut self, dims: &[AxisId], at: Span, what: &str, axis: AxisId, name: Span) -> bool {
        let found = dims.contains(&axis);
        if !found {
            let (axis, shown) = (self.axes[&axis].name.clone(), self.shown(dims));
            self.diagnostics.push(
                Diagnostic::new("partita::axis::missing", format!("{what} has no axis `{axis}`"))
                    .label(at, format!("has axes {shown}"))
                    .label(name, "needed here"),
            );
        }
        found
    }

    /// Whether a tensor of these axes is small enough to count; a report if not.
    pub(super) fn fits(&mut self, dims: &[AxisId], span: Span) -> bool {
        let sizes = dims.iter().map(|id| u128::from(self.builder.graph.size(*id)));
        let elements = sizes.fold(1u128, |product, size| product.saturating_mul(size));
        let fits = elements < MOST_ELEMENTS && dims.len() <= MOST_DIMS;
        if !fits {
            let message = if dims.len() > MOST_DIMS {
                format!("this tensor would have {}; {MOST_DIMS} is the most", plural(dims.len(), "axis"))
            } else {
                let each: Vec<String> =
                    dims.iter().map(|id| format!("{} = {}", self.builder.graph.axis(*id).name, self.builder.graph.size(*id))).collect();
                format!("this tensor would have 2^62 elements or more: {}", each.join(", "))
            };
            self.diagnostics.push(Diagnostic::new("partita::size::too_large", message).label(span, "here"));
        }
        fits
    }

    /// The axis that an option names.
    pub(super) fn axis_option(&mut self, expr: &Expr) -> Option<AxisId> {
        if let ExprKind::Name(text) = &expr.kind {
            return self.axis(&Name { text: text.clone(), span: expr.span });
        }
        self.diagnostics.push(Diagnostic::new("partita::axis::unknown", "an axis is needed here").label(expr.span, "no axis"));
        None
    }
}
