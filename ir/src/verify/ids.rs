//! Whether every id names an entry of its arena.

use super::{Code, Place, Report};
use crate::graph::{Def, Kind, Leaf};
use crate::id::{AxisId, CompositeId, Id, LoopId, OpId, ValueId};

pub(super) fn check(report: &mut Report<'_>) {
    let graph = report.graph;
    for (index, value) in graph.values.iter().enumerate() {
        let at = Place::Value(ValueId::new(index));
        value.ty.dims.iter().for_each(|axis| report.axis(*axis, at));
        value.within.iter().for_each(|within| report.loops(*within, at));
        match &value.def {
            Def::Leaf(Leaf::State { of: Some(of), .. } | Leaf::Accumulated(of)) => report.value(*of, at),
            Def::Leaf(_) => {}
            Def::Result(op, _) | Def::Carried(op, _) | Def::Taken(op, _) => report.op(*op, at),
        }
    }
    for (index, op) in graph.ops.iter().enumerate() {
        let at = Place::Op(OpId::new(index));
        op.operands.iter().chain(&op.results).for_each(|value| report.value(*value, at));
        op.composite.iter().for_each(|composite| report.composite(*composite, at));
        match &op.kind {
            Kind::Map(rule) => rule.factors.iter().for_each(|axis| report.axis(*axis, at)),
            Kind::Repeat(repeat) => {
                report.loops(repeat.over, at);
                repeat.body.iter().for_each(|inner| report.op(*inner, at));
                let carried = repeat.carried.iter().flat_map(|carried| [carried.init, carried.arg, carried.next]);
                let slices = repeat.taken.iter().chain(&repeat.collected).flat_map(|slice| [slice.whole, slice.each]);
                carried.chain(slices).for_each(|value| report.value(value, at));
            }
        }
    }
    graph.phases.iter().flat_map(|phase| &phase.ops).for_each(|op| report.op(*op, Place::Graph));
    let assigned = graph.assigns.iter().flat_map(|assign| [assign.target, assign.value]);
    let loss = graph.loss.iter().flat_map(|loss| [loss.sum, loss.count]);
    let reported = graph.reports.iter().map(|(_, value)| *value);
    assigned.chain(loss).chain(reported).for_each(|value| report.value(value, Place::Graph));
}

impl Report<'_> {
    fn known(&mut self, index: usize, count: usize, id: impl std::fmt::Display, at: Place) {
        self.check(index < count, Code::IdRange, at, || format!("{id} does not exist: there are {count}"));
    }
    fn axis(&mut self, id: AxisId, at: Place) {
        self.known(id.index(), self.graph.axes.len(), id, at);
    }
    fn value(&mut self, id: ValueId, at: Place) {
        self.known(id.index(), self.graph.values.len(), id, at);
    }
    fn op(&mut self, id: OpId, at: Place) {
        self.known(id.index(), self.graph.ops.len(), id, at);
    }
    fn loops(&mut self, id: LoopId, at: Place) {
        self.known(id.index(), self.graph.loops.len(), id, at);
    }
    fn composite(&mut self, id: CompositeId, at: Place) {
        self.known(id.index(), self.graph.composites.len(), id, at);
    }
}
