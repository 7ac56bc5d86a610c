//! Whether values are read only where and when they are there.

use super::structure::within;
use super::{Code, Place, Report};
use crate::graph::{Def, Kind, Leaf, PhaseKind, Repeat};
use crate::id::{Id, LoopId, OpId, ValueId};

/// When each value is there: leaves always, others from the operator on that defines them.
struct Known {
    leaf: Vec<bool>,
    phase: Vec<Option<PhaseKind>>,
}

/// Who reads.
#[derive(Clone, Copy)]
struct Reader {
    at: Place,
    phase: PhaseKind,
    within: Option<LoopId>,
}

pub(super) fn check(report: &mut Report<'_>) {
    let graph = report.graph;
    let leaf: Vec<bool> = graph.values.iter().map(|value| matches!(value.def, Def::Leaf(_))).collect();
    let mut known = Known { phase: vec![None; leaf.len()], leaf };
    // by kind and not as they stand: that they stand in order is a check of its own
    for (phase, _) in PhaseKind::ALL {
        for &id in graph.phases.iter().filter(|entry| entry.kind == phase).flat_map(|entry| &entry.ops) {
            let reader = Reader { at: Place::Op(id), phase, within: None };
            match &graph.op(id).kind {
                Kind::Map(_) => map(report, &mut known, id, reader),
                Kind::Repeat(body) => repeat(report, &mut known, id, body, reader),
            }
        }
    }
    // the end of the step, or of the forward pass if that is all there is
    let end = if graph.phases.iter().any(|phase| phase.kind != PhaseKind::Forward) { PhaseKind::Update } else { PhaseKind::Forward };
    for assign in &graph.assigns {
        let reader = Reader { at: Place::Value(assign.target), phase: end, within: graph.value(assign.value).within };
        read(report, &known, assign.value, reader);
    }
    let loss = graph.loss.iter().flat_map(|term| [term.sum, term.count].map(|value| (Code::Loss, term.name.as_str(), value)));
    let reported = graph.reports.iter().map(|(name, value)| (Code::Report, name.as_str(), *value));
    for (code, name, id) in loss.chain(reported) {
        let value = graph.value(id);
        let there = known.leaf[id.index()] || known.phase[id.index()].is_some();
        let holds = there && value.ty.dims.is_empty() && value.within.is_none();
        report.check(holds, code, Place::Value(id), || {
            format!("`{}`, reported as {name}, is no scalar outside loops that an operator computes", value.name)
        });
    }
    accumulated(report, &known);
}

fn map(report: &mut Report<'_>, known: &mut Known, id: OpId, reader: Reader) {
    let op = report.graph.op(id);
    op.operands.iter().for_each(|operand| read(report, known, *operand, reader));
    for result in &op.results {
        within(report, *result, reader.within);
        known.phase[result.index()] = Some(reader.phase);
    }
}

fn repeat(report: &mut Report<'_>, known: &mut Known, id: OpId, repeat: &Repeat, reader: Reader) {
    for carried in &repeat.carried {
        read(report, known, carried.init, reader);
        known.phase[carried.arg.index()] = Some(reader.phase);
    }
    for slice in &repeat.taken {
        read(report, known, slice.whole, reader);
        known.phase[slice.each.index()] = Some(reader.phase);
    }
    let inside = Reader { within: Some(repeat.over), ..reader };
    for &inner in &repeat.body {
        // a repeat in a body is reported where operators are placed
        if matches!(report.graph.op(inner).kind, Kind::Map(_)) {
            map(report, known, inner, Reader { at: Place::Op(inner), ..inside });
        }
    }
    repeat.carried.iter().for_each(|carried| read(report, known, carried.next, inside));
    repeat.collected.iter().for_each(|slice| read(report, known, slice.each, inside));
    for result in &report.graph.op(id).results {
        known.phase[result.index()] = Some(reader.phase);
    }
}

fn read(report: &mut Report<'_>, known: &Known, id: ValueId, reader: Reader) {
    let value = report.graph.value(id);
    let Reader { at, phase, within } = reader;
    let made = known.phase[id.index()];
    let there = known.leaf[id.index()] || made.is_some();
    if !report.check(there, Code::UseBeforeDefinition, at, || format!("{id} `{}` is read before it is computed", value.name)) {
        return;
    }
    report.check(value.within.is_none() || value.within == within, Code::Scope, at, || {
        format!("{id} `{}` is read outside its loop: which iteration?", value.name)
    });
    let per_micro_batch = matches!(value.def, Def::Leaf(Leaf::Input(_))) || made.is_some_and(PhaseKind::per_micro_batch);
    report.check(phase.per_micro_batch() || !per_micro_batch, Code::MicroBatch, at, || {
        format!("{id} `{}` is read in phase {}: of which micro-batch?", value.name, phase.word())
    });
    if let Def::Leaf(Leaf::Accumulated(of)) = value.def {
        // forward and backward passes alternate, so both are done only before the update
        let done = match known.phase[of.index()] {
            Some(PhaseKind::Count) => phase > PhaseKind::Count,
            Some(PhaseKind::Forward | PhaseKind::Backward) => phase == PhaseKind::Update,
            Some(PhaseKind::Seed | PhaseKind::Update) => true,
            None => false,
        };
        report.check(done, Code::AccumulatedEarly, at, || {
            format!("{id} `{}` is read in phase {}, before {of} is summed", value.name, phase.word())
        });
    }
}

/// What is accumulated exists once a micro-batch.
fn accumulated(report: &mut Report<'_>, known: &Known) {
    for (index, value) in report.graph.values.iter().enumerate() {
        let Def::Leaf(Leaf::Accumulated(of)) = value.def else { continue };
        let term = report.graph.value(of);
        let summed = known.phase[of.index()].is_some_and(PhaseKind::per_micro_batch);
        let holds = summed && term.ty.dims == value.ty.dims && term.within == value.within;
        report.check(holds, Code::Accumulated, Place::Value(ValueId::new(index)), || {
            format!("`{}` cannot be the sum over micro-batches of {of} `{}`", value.name, term.name)
        });
    }
}
