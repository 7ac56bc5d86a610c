//! Brackets behind a tensor: renames, splits, merges and cuts of its axes. They move elements and compute nothing.

use partita_ir::id::{AxisId, ValueId};

use super::Elaborator;
use crate::diagnostics::Diagnostic;
use crate::evaluate::near_divisors;
use crate::syntax::{Expr, Move};

impl<'a> Elaborator<'a> {
    /// The tensor `base` with these moves made one after the other.
    pub(super) fn moves(&mut self, base: &'a Expr, moves: &'a [Move], name: &str) -> Option<ValueId> {
        let mut value = self.tensor(base, name)?;
        if !self.is_float(value, base.span) {
            return None;
        }
        for entry in moves {
            if !self.step(entry.span) {
                return None;
            }
            value = self.moved(value, base, entry, name)?;
        }
        Some(value)
    }

    /// The axes of a tensor under other names. Integers are read along them where they are compared, so no operator
    /// copies them.
    pub(super) fn renamed(&mut self, value: ValueId, base: &Expr, moves: &[Move]) -> Option<Vec<AxisId>> {
        let mut dims = self.builder.dims(value);
        for entry in moves {
            let (from, to) = self.move_axes(&dims, base, entry)?;
            if !self.equal_sizes(entry, &from, &to)? {
                return None;
            }
            dims.iter_mut().filter(|axis| **axis == from[0]).for_each(|axis| *axis = to[0]);
        }
        Some(dims)
    }

    /// The axes that a move is from and to, which fit a tensor of these axes.
    fn move_axes(&mut self, dims: &[AxisId], base: &Expr, entry: &Move) -> Option<(Vec<AxisId>, Vec<AxisId>)> {
        let (from, to) = (self.axis_list(&entry.from), self.axis_list(&entry.to));
        let (from, to) = (from?, to?);
        for (axis, written) in from.iter().zip(&entry.from) {
            if !self.among(dims, base.span, "the tensor", *axis, written.span) {
                return None;
            }
        }
        for (axis, written) in to.iter().zip(&entry.to) {
            if dims.contains(axis) {
                let message = format!("the tensor has axis `{}` already", written.text);
                let mut diagnostic = Diagnostic::new("partita::axis::twice", message)
                    .label(written.span, "again")
                    .label(base.span, format!("has axes {}", self.shown(dims)));
                if !from.contains(axis) {
                    diagnostic = diagnostic.help(format!("declare a second name for the same size: `axis {0}_2 = {0}`", written.text));
                }
                self.diagnostics.push(diagnostic);
                return None;
            }
        }
        Some((from, to))
    }

    fn moved(&mut self, value: ValueId, base: &Expr, entry: &Move, name: &str) -> Option<ValueId> {
        let dims = self.builder.dims(value);
        let (from, to) = self.move_axes(&dims, base, entry)?;
        self.builder.span = Some(entry.span);
        match (from.as_slice(), to.as_slice(), &entry.range) {
            ([axis], [short], Some((first, end))) => self.cut(value, entry, (*axis, *short), (first, end), name),
            (_, _, Some(_)) => {
                self.malformed(entry, "a cut is of one axis into one: `x[seq = 0 .. 4 -> short]`");
                None
            }
            ([axis], [new], None) => {
                if !self.equal_sizes(entry, &from, &to)? {
                    return None;
                }
                Some(self.builder.slice(name, value, *axis, 0, *new))
            }
            ([axis], parts, None) => {
                if !self.equal_sizes(entry, &from, &to)? {
                    return None;
                }
                let out: Vec<AxisId> = dims.iter().flat_map(|dim| if dim == axis { parts.to_vec() } else { vec![*dim] }).collect();
                if !self.fits(&out, entry.span) {
                    return None;
                }
                Some(self.builder.split_axis(name, value, *axis, parts))
            }
            (parts, [whole], None) => {
                let start = dims.iter().position(|dim| *dim == parts[0])?;
                if dims.get(start..start + parts.len()) != Some(parts) {
                    let message = format!("{} are not neighbours in this order", self.shown(parts));
                    let shown = self.shown(&dims);
                    self.diagnostics.push(
                        Diagnostic::new("partita::shape::not_neighbours", message)
                            .label(entry.span, "only neighbouring axes merge")
                            .label(base.span, format!("has axes {shown}"))
                            .help("`einsum[...](x)` of one tensor puts its axes in another order"),
                    );
                    return None;
                }
                if !self.equal_sizes(entry, &from, &to)? {
                    return None;
                }
                Some(self.builder.merge_axes(name, value, parts, *whole))
            }
            _ => {
                self.malformed(entry, "merge first and split then: `x[a * b -> ab][ab -> c * d]`");
                None
            }
        }
    }

    fn malformed(&mut self, entry: &Move, help: &str) {
        self.diagnostics.push(
            Diagnostic::new("partita::syntax::expected", "this is neither a rename, nor a split, a merge or a cut")
                .label(entry.span, "here")
                .help(help),
        );
    }

    /// Whether both sides have as many elements; `None` if a size is broken.
    fn equal_sizes(&mut self, entry: &Move, from: &[AxisId], to: &[AxisId]) -> Option<bool> {
        let product = |axes: &[AxisId]| {
            axes.iter().try_fold(1u128, |product, axis| self.size(*axis).map(|size| product.saturating_mul(u128::from(size))))
        };
        let (before, after) = (product(from)?, product(to)?);
        if before == after {
            return Some(true);
        }
        let told = |axes: &[AxisId]| {
            let names: Vec<&str> = axes.iter().map(|axis| self.builder.graph.axis(*axis).name.as_str()).collect();
            format!("`{}`", names.join(" * "))
        };
        let sizes = |axes: &[AxisId], product: u128| {
            let sizes: Vec<String> = axes.iter().map(|axis| self.builder.graph.size(*axis).to_string()).collect();
            if axes.len() == 1 { product.to_string() } else { format!("{} = {product}", sizes.join(" × ")) }
        };
        let message = format!("{} has {} elements and {} has {}", told(from), sizes(from, before), told(to), sizes(to, after));
        let mut diagnostic = Diagnostic::new("partita::shape::size_differs", message).label(entry.span, format!("{before} is not {after}"));
        // a split of an axis into a count and the rest is the usual mistake: say what divides
        if let ([axis], [count, ..]) = (from, to)
            && to.len() > 1
        {
            let (size, count_size) = (self.builder.graph.size(*axis), self.builder.graph.size(*count));
            if size % count_size != 0
                && let Some(values) = near_divisors(size as i64, count_size as i64)
            {
                diagnostic = diagnostic.help(format!("{} = {values} divides {size}", self.builder.graph.axis(*count).name));
            }
        }
        self.diagnostics.push(diagnostic);
        Some(false)
    }

    fn cut(
        &mut self,
        value: ValueId,
        entry: &Move,
        (axis, short): (AxisId, AxisId),
        (first, end): (&Expr, &Expr),
        name: &str,
    ) -> Option<ValueId> {
        let size = self.size(axis);
        let most = size.map_or(i64::MAX, |size| size as i64);
        let (start, stop) = (self.whole(first, "the first position of this cut", 0, most), self.whole(end, "the end of this cut", 0, most));
        let (start, stop) = (start?, stop?);
        let length = self.size(short)?;
        if stop <= start {
            self.diagnostics.push(
                Diagnostic::new("partita::number::out_of_range", format!("the cut {start} .. {stop} is empty"))
                    .label(entry.span, "its end is not behind its first position"),
            );
            return None;
        }
        if stop - start != length as i64 {
            let short_name = self.builder.graph.axis(short).name.clone();
            self.diagnostics.push(
                Diagnostic::new(
                    "partita::shape::size_differs",
                    format!("the cut has {} elements and axis `{short_name}` {length}", stop - start),
                )
                .label(entry.span, format!("positions {start} to {}", stop - 1))
                .help(format!("`{start} .. {}` has {length}", start + length as i64)),
            );
            return None;
        }
        Some(self.builder.slice(name, value, axis, start, short))
    }
}
