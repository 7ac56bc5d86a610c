//! Whether leaves, assignments and reports are what a run can supply and store.

use std::collections::BTreeSet;

use super::{Code, Place, Report};
use crate::graph::{Def, Init, Leaf, Source, Value};
use crate::id::{Id, ValueId};

pub(super) fn check(report: &mut Report<'_>) {
    let graph = report.graph;
    let mut names = BTreeSet::new();
    for (index, value) in graph.values.iter().enumerate() {
        let Def::Leaf(leaf) = &value.def else { continue };
        let at = Place::Value(ValueId::new(index));
        report.check(names.insert(&value.name), Code::LeafName, at, || format!("another leaf is called `{}` too", value.name));
        self::leaf(report, at, value, leaf);
    }
    assigns(report);
    let mut names = BTreeSet::new();
    for (name, _) in &graph.reports {
        report.check(names.insert(name), Code::Report, Place::Graph, || format!("two reports are called `{name}`"));
    }
}

fn leaf(report: &mut Report<'_>, at: Place, value: &Value, leaf: &Leaf) {
    let name = &value.name;
    let float = value.ty.dtype.is_float();
    match leaf {
        Leaf::Input(source) => {
            let dims = match source {
                Source::Pixels => value.ty.dims.len() >= 2,
                Source::Labels => value.ty.dims.len() == 1,
                _ => value.ty.dims.len() == 2,
            };
            let holds = float == source.is_float() && dims && value.within.is_none();
            report.check(holds, Code::Input, at, || {
                let of = if source.is_float() { "floating-point numbers" } else { "integers" };
                format!("input `{name}` is not of {of} over {}, outside loops", source.axes())
            });
        }
        Leaf::Param(_) | Leaf::State { .. } | Leaf::Progress(_) | Leaf::Supplied(_) => {
            report.check(float, Code::LeafFloat, at, || format!("`{name}` is of type {}", value.ty.dtype));
        }
        // has the checks of what it sums
        Leaf::Accumulated(_) => {}
    }
    match leaf {
        Leaf::Progress(_) | Leaf::Supplied(_) => {
            let holds = value.ty.dims.is_empty() && value.within.is_none();
            report.check(holds, Code::Supplied, at, || format!("`{name}` is no scalar outside loops"));
        }
        Leaf::Param(Init::Copy) | Leaf::State { init: Init::Copy, of: None, .. } => {
            report.check(false, Code::StateOf, at, || format!("`{name}` begins as a copy and goes with no parameter"));
        }
        Leaf::State { of: Some(of), .. } => {
            let param = report.graph.value(*of);
            let holds = matches!(param.def, Def::Leaf(Leaf::Param(_))) && param.within == value.within;
            report.check(holds, Code::StateOf, at, || format!("`{name}` belongs to {of} `{}`, no parameter of its loop", param.name));
        }
        Leaf::Input(_) | Leaf::Param(_) | Leaf::State { .. } | Leaf::Accumulated(_) => {}
    }
}

fn assigns(report: &mut Report<'_>) {
    let graph = report.graph;
    let mut targets = BTreeSet::new();
    for assign in &graph.assigns {
        let at = Place::Value(assign.target);
        let (target, value) = (graph.value(assign.target), graph.value(assign.value));
        let kept = matches!(target.def, Def::Leaf(Leaf::Param(_) | Leaf::State { .. } | Leaf::Progress(_)));
        report.check(kept && targets.insert(assign.target), Code::AssignTarget, at, || {
            format!("`{}` is no parameter or state, or is assigned twice", target.name)
        });
        let holds = target.ty == value.ty && target.within == value.within;
        report.check(holds, Code::AssignType, at, || {
            format!("`{}` is assigned {} `{}` of another type or loop", target.name, assign.value, value.name)
        });
    }
}
