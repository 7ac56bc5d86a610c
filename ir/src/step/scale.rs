//! A scaled loss: the factor, whether all gradients are finite, and what a step does where they are not.
//!
//! The cotangent that backward begins with is multiplied by the scale, gradients are divided by it where they are read.
//! The norm of all gradients together is finite if each of them is, so it tells an overflow of any rank and stage. Then
//! every parameter and state keeps its value, and a dynamic scale falls; after enough steps without one it grows.

use crate::build::Builder;
use crate::formula::{Formula, lit, x};
use crate::graph::{Assign, Leaf};
use crate::id::ValueId;
use crate::precision::LossScale;

/// The scale of a step.
pub(super) struct Scale {
    how: LossScale,
    /// The state that a dynamic one is.
    state: Option<ValueId>,
}

/// Whether the update of a step takes place.
pub(super) struct Guard {
    /// 1 if every gradient is finite, else 0.
    finite: ValueId,
    /// Updates that took place, this one included if it does.
    pub(super) updates: ValueId,
}

fn kept(b: &mut Builder, name: &str, begin: f64) -> ValueId {
    b.leaf(name, &[], Leaf::Progress(begin))
}

impl Scale {
    pub(super) fn new(b: &mut Builder, how: LossScale) -> Self {
        let state = match how {
            LossScale::Static(_) => None,
            LossScale::Dynamic { start, .. } => Some(kept(b, "loss.scale", start)),
        };
        Self { how, state }
    }

    /// The scale as operands, and as a formula of operands from `first` on.
    pub(super) fn read(&self, first: usize) -> (Vec<ValueId>, Formula) {
        match self.how {
            LossScale::Static(value) => (Vec::new(), lit(value)),
            LossScale::Dynamic { .. } => (self.state.into_iter().collect(), x(first)),
        }
    }

    /// What gradients are multiplied by.
    pub(super) fn inverse(&self, b: &mut Builder) -> ValueId {
        let (read, scale) = self.read(0);
        b.map("unscale", &read, &[], None, (lit(1.0) / scale).expr())
    }

    /// Looks at the norm of all gradients, counts, and moves a dynamic scale on.
    pub(super) fn guard(self, b: &mut Builder, norm: ValueId) -> Guard {
        // neither infinity nor what is no number is below infinity
        let finite = b.map("finite", &[norm], &[], None, x(0).below(lit(f64::INFINITY)).expr());
        let skipped = b.map("skipped", &[finite], &[], None, (lit(1.0) - x(0)).expr());
        let done = kept(b, "loss.updates", 0.0);
        let updates = b.map("updates", &[done], &[], None, (x(0) + lit(1.0)).expr());
        let next = b.map("updates", &[done, finite], &[], None, (x(0) + x(1)).expr());
        b.graph.assigns.push(Assign { target: done, value: next });
        if let (LossScale::Dynamic { interval, growth, backoff, .. }, Some(scale)) = (self.how, self.state) {
            let clean = kept(b, "loss.clean_steps", 0.0);
            // after the last of `interval` steps without an overflow the scale grows, and they are counted anew
            let due = lit(interval as f64).at_most(x(0) + lit(1.0));
            let counted = x(1).select(due.clone().select(lit(0.0), x(0) + lit(1.0)), lit(0.0));
            let next_clean = b.map("clean_steps", &[clean, finite], &[], None, counted.expr());
            let moved = x(1).select(due.select(x(2) * lit(growth), x(2)), x(2) * lit(backoff));
            let next_scale = b.map("loss_scale", &[clean, finite, scale], &[], None, moved.expr());
            b.graph.assigns.push(Assign { target: clean, value: next_clean });
            b.graph.assigns.push(Assign { target: scale, value: next_scale });
            // the scale of this step, as the state has the next one when it is done
            let used = b.map("loss_scale", &[scale], &[], None, x(0).expr());
            b.graph.reports.push(("loss_scale".into(), used));
        }
        b.graph.reports.push(("skipped".into(), skipped));
        Guard { finite, updates }
    }
}

impl Guard {
    /// The new value of a parameter or state, or the old one.
    pub(super) fn keep(&self, b: &mut Builder, old: ValueId, new: ValueId) -> ValueId {
        let (name, dims) = (b.graph.value(old).name.clone(), b.dims(old));
        b.map(&name, &[new, old, self.finite], &dims, None, x(2).select(x(0), x(1)).expr())
    }
}
