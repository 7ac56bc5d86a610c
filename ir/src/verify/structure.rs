//! Sizes, types, and whether values and operators stand where they say.

use super::{Code, Place, Report};
use crate::graph::{Def, Kind, Repeat};
use crate::id::{Id, LoopId, OpId, ValueId};

/// Sizes and indices stay below this, so that no product or sum of two of them overflows.
pub(super) const LIMIT: u64 = 1 << 62;

/// The product of sizes, if it stays below the limit.
pub(super) fn product(sizes: impl Iterator<Item = u64>) -> Option<u64> {
    sizes.into_iter().try_fold(1u64, |total, size| total.checked_mul(size)).filter(|total| *total < LIMIT)
}

pub(super) fn check(report: &mut Report<'_>) {
    sizes(report);
    types(report);
    definitions(report);
    placement(report);
    for index in 0..report.graph.ops.len() {
        let id = OpId::new(index);
        let op = report.graph.op(id);
        if let Some(span) = op.span {
            report.check(span.start <= span.end, Code::Span, Place::Op(id), || format!("its span is {}..{}", span.start, span.end));
        }
        if let Kind::Repeat(body) = &op.kind {
            repeat(report, id, body);
        }
    }
}

fn sizes(report: &mut Report<'_>) {
    for (index, axis) in report.graph.axes.iter().enumerate() {
        report.check(axis.size >= 1, Code::AxisSize, Place::Axis(Id::new(index)), || format!("axis `{}` has no elements", axis.name));
    }
    for (index, entry) in report.graph.loops.iter().enumerate() {
        let at = Place::Loop(LoopId::new(index));
        report.check(entry.count >= 1, Code::LoopCount, at, || format!("loop `{}` has no iterations", entry.name));
    }
}

fn types(report: &mut Report<'_>) {
    for (index, value) in report.graph.values.iter().enumerate() {
        let at = Place::Value(ValueId::new(index));
        let dims = &value.ty.dims;
        for (position, axis) in dims.iter().enumerate() {
            report.check(!dims[..position].contains(axis), Code::AxisTwice, at, || {
                format!("`{}` has axis `{}` twice", value.name, report.graph.axis(*axis).name)
            });
        }
        let sizes = dims.iter().map(|axis| report.graph.size(*axis));
        report.check(product(sizes).is_some(), Code::TooLarge, at, || format!("`{}` has 2^62 elements or more", value.name));
    }
}

/// The definitions of values and the results of operators name one another.
fn definitions(report: &mut Report<'_>) {
    let graph = report.graph;
    for (index, value) in graph.values.iter().enumerate() {
        let id = ValueId::new(index);
        let (holds, op, what) = match value.def {
            Def::Leaf(_) => continue,
            Def::Result(op, position) => (graph.op(op).results.get(position) == Some(&id), op, "result"),
            Def::Carried(op, position) => {
                let Kind::Repeat(Repeat { carried, .. }) = &graph.op(op).kind else {
                    report.check(false, Code::Definition, Place::Value(id), || format!("`{}` is carried by {op}, no repeat", value.name));
                    continue;
                };
                (carried.get(position).is_some_and(|carried| carried.arg == id), op, "carried value")
            }
            Def::Taken(op, position) => {
                let taken: &[_] = if let Kind::Repeat(repeat) = &graph.op(op).kind { &repeat.taken } else { &[] };
                (taken.get(position).is_some_and(|slice| slice.each == id), op, "taken entry")
            }
        };
        let text = || format!("`{}` is not the {what} of {op} that it says it is", value.name);
        report.check(holds, Code::Definition, Place::Value(id), text);
    }
    for (index, op) in graph.ops.iter().enumerate() {
        let id = OpId::new(index);
        let results = op.results.iter().enumerate().map(|(position, value)| (*value, Def::Result(id, position)));
        let (carried, taken): (&[_], &[_]) =
            if let Kind::Repeat(repeat) = &op.kind { (&repeat.carried, &repeat.taken) } else { (&[], &[]) };
        let args = carried.iter().enumerate().map(|(position, carried)| (carried.arg, Def::Carried(id, position)));
        let entries = taken.iter().enumerate().map(|(position, slice)| (slice.each, Def::Taken(id, position)));
        for (value, def) in results.chain(args).chain(entries) {
            let holds = graph.value(value).def == def;
            report.check(holds, Code::Definition, Place::Op(id), || {
                format!("it defines {value} `{}`, which says it is {:?}", graph.value(value).name, graph.value(value).def)
            });
        }
    }
}

/// Phases in order, every operator in one place, no repeat in a body.
fn placement(report: &mut Report<'_>) {
    let graph = report.graph;
    for pair in graph.phases.windows(2) {
        let holds = pair[0].kind < pair[1].kind;
        report.check(holds, Code::PhaseOrder, Place::Graph, || format!("{} stands before {}", pair[0].kind.word(), pair[1].kind.word()));
    }
    let mut places = vec![0; graph.ops.len()];
    graph.phases.iter().flat_map(|phase| &phase.ops).for_each(|op| places[op.index()] += 1);
    for (index, op) in graph.ops.iter().enumerate() {
        let Kind::Repeat(repeat) = &op.kind else { continue };
        for inner in &repeat.body {
            places[inner.index()] += 1;
            let holds = matches!(graph.op(*inner).kind, Kind::Map(_));
            report.check(holds, Code::NestedRepeat, Place::Op(OpId::new(index)), || format!("its body holds the repeat {inner}"));
        }
    }
    for (index, count) in places.into_iter().enumerate() {
        report.check(count == 1, Code::Placement, Place::Op(OpId::new(index)), || format!("it stands in {count} places"));
    }
}

fn repeat(report: &mut Report<'_>, id: OpId, repeat: &Repeat) {
    let graph = report.graph;
    let at = Place::Op(id);
    let op = graph.op(id);
    let (carried, collected, results) = (repeat.carried.len(), repeat.collected.len(), op.results.len());
    report.check(op.operands.is_empty() && carried + collected == results, Code::Arity, at, || {
        format!("it has {} operands, {carried} carried and {collected} collected values and {results} results", op.operands.len())
    });
    for (carried, result) in repeat.carried.iter().zip(&op.results) {
        let ty = &graph.value(carried.init).ty;
        for other in [carried.arg, carried.next, *result] {
            let holds = graph.value(other).ty == *ty;
            report.check(holds, Code::CarriedType, at, || {
                format!("it carries {} `{}`, but {other} has another type", carried.init, graph.value(carried.init).name)
            });
        }
    }
    for carried in &repeat.carried {
        within(report, carried.arg, Some(repeat.over));
    }
    op.results.iter().for_each(|result| within(report, *result, None));
    for (slice, result) in repeat.collected.iter().zip(op.results.iter().skip(carried)) {
        report.check(slice.whole == *result, Code::Slice, at, || format!("it collects {}, but gives {result}", slice.whole));
    }
    for slice in repeat.taken.iter().chain(&repeat.collected) {
        let (whole, each) = (&graph.value(slice.whole).ty, &graph.value(slice.each).ty);
        // a loop without iterations is reported as such
        let count = graph.iterations(Some(repeat.over));
        let along = whole.dims.first().is_some_and(|axis| count == 0 || graph.size(*axis) == count);
        let holds = along && whole.dims[1..] == each.dims && whole.dtype == each.dtype;
        report.check(holds, Code::Slice, at, || {
            format!(
                "{} `{}` does not have {} at each iteration along its first axis",
                slice.whole,
                graph.value(slice.whole).name,
                slice.each
            )
        });
        within(report, slice.each, Some(repeat.over));
    }
}

/// Whether a value has an instance per iteration of `want`.
pub(super) fn within(report: &mut Report<'_>, id: ValueId, want: Option<LoopId>) {
    let value = report.graph.value(id);
    report.check(value.within == want, Code::Within, Place::Value(id), || {
        let say = |within: Option<LoopId>| within.map_or("no loop".to_owned(), |id| id.to_string());
        format!("`{}` is of {}, its operator of {}", value.name, say(value.within), say(want))
    });
}
