//! Kernels and boxings by themselves.

use super::shards::Shards;
use super::{Code, Report};
use crate::axis::{Axis, Role};
use crate::boxing::{Shape, StepKind};
use crate::dtype::DType;
use crate::graph::{Class, Def, Graph, Init, Kind, Leaf, Op, Phase, PhaseKind, Type, Value};
use crate::id::{AxisId, Id, OpId, ValueId};
use crate::layout::{Share, count};
use crate::program::{BoxingSpec, KernelSpec};
use crate::rule::{Reduce, Rule};
use crate::signature::{Choice, SizedRule};
use crate::verify::{Place, verify};

pub(super) fn kernels(report: &mut Report<'_>) {
    for (n, spec) in report.program.kernels.iter().enumerate() {
        kernel(report, &|| format!("kernel {n} `{}`", spec.name), spec);
    }
}

/// Boxings come after everything else: where sizes do not fit the mesh, looking at every pair of ranks may take long and
/// tells nothing new.
pub(super) fn boxings(report: &mut Report<'_>, shards: &Shards<'_>) {
    let fits = !report.found.iter().any(|found| found.code == Code::Size);
    for (n, spec) in report.program.boxings.iter().enumerate() {
        boxing(report, fits.then_some(shards), &|| format!("boxing {n} ({})", spec.step.kind.word()), spec);
    }
}

fn kernel(report: &mut Report<'_>, at: &dyn Fn() -> String, spec: &KernelSpec) {
    let precision = report.program.precision;
    let (rule, operands) = (&spec.rule, spec.rule.operands.len());
    let lists = rule.factors.len() == spec.factors.len() && operands == spec.operands.len() && operands == spec.shapes.len();
    let text = || {
        let (types, shapes) = (spec.operands.len(), spec.shapes.len());
        format!("its rule has {} factors and {operands} operands, it {}, {types} and {shapes}", rule.factors.len(), spec.factors.len())
    };
    if !report.check(lists, Code::Kernel, at, text) {
        return;
    }
    let stored = |dtype: &DType| *dtype == DType::I32 || precision.holds(*dtype);
    let computed = spec.result.is_float() && stored(&spec.result);
    report.check(computed && spec.operands.iter().all(stored), Code::KernelType, at, || {
        format!("it computes in {} from {:?}, and the program in {precision}", spec.result, spec.operands)
    });
    for violation in verify(&alone(spec)) {
        // the operands are made up, so only what is said of the operator and its loop counts
        if matches!(violation.at, Place::Op(_) | Place::Axis(_)) {
            report.check(false, Code::Kernel, at, || format!("{} ({})", violation.text, violation.code.word()));
        }
    }
    let mesh = &report.program.mesh;
    let named = || rule.operands.iter().chain([&rule.result]).flat_map(|access| Rule::factors_of(access));
    if named().any(|factor| factor >= spec.factors.len()) {
        return;
    }
    let sized = SizedRule {
        rule,
        factors: spec.factors.clone(),
        operands: spec.shapes.clone(),
        floats: spec.operands.iter().map(|dtype| dtype.is_float()).collect(),
        narrowed: spec.operands.iter().map(|dtype| spec.result.narrows(*dtype)).collect(),
        result: rule.result.iter().map(|dim| dim.terms.iter().map(|term| spec.factors[term.factor]).fold(1, u64::saturating_mul)).collect(),
    };
    let mut choices = Vec::new();
    for (axis, split) in spec.splits.iter().enumerate() {
        let Some((factor, partition)) = split else { continue };
        let once = spec.order.iter().filter(|other| **other == axis).count() == 1;
        let can = once && sized.can_split(*factor);
        report.check(can, Code::KernelSplit, at, || format!("it cannot split factor {factor} over `{}`", mesh.axes[axis].name));
        choices.push(Choice::Split { factor: *factor, partition: *partition });
    }
    report.check(sized.compatible(&choices), Code::KernelSplit, at, || "it splits what cannot be split together".to_owned());
}

/// A graph of nothing but this operator: its rule is legal if the graph is.
fn alone(spec: &KernelSpec) -> Graph {
    let mut graph = Graph::default();
    let mut axis = |name: String, size: u64| {
        graph.axes.push(Axis { name, size, role: Role::default() });
        AxisId::new(graph.axes.len() - 1)
    };
    let factors: Vec<AxisId> = spec.factors.iter().enumerate().map(|(n, size)| axis(format!("factor {n}"), *size)).collect();
    let dims_of: Vec<Vec<AxisId>> =
        spec.shapes.iter().map(|shape| shape.iter().map(|size| axis(format!("size {size}"), *size)).collect()).collect();
    let result = spec.rule.result.iter().map(|dim| {
        let sizes = dim.terms.iter().map(|term| spec.factors.get(term.factor).copied().unwrap_or(0));
        axis("result".to_owned(), sizes.fold(1, u64::saturating_mul))
    });
    let result: Vec<AxisId> = result.collect();
    let mut value = |name: &str, dtype: DType, dims: Vec<AxisId>, def: Def| {
        graph.values.push(Value { name: name.to_owned(), ty: Type { dtype, dims }, def, within: None });
        ValueId::new(graph.values.len() - 1)
    };
    let operands: Vec<ValueId> = spec
        .operands
        .iter()
        .zip(dims_of)
        .map(|(dtype, dims)| value("operand", *dtype, dims, Def::Leaf(Leaf::Param(Init::Constant(0.0)))))
        .collect();
    let op = OpId::new(0);
    let results = vec![value("result", spec.result, result, Def::Result(op, 0))];
    let kind = Kind::Map(Rule { factors, ..spec.rule.clone() });
    graph.ops.push(Op { kind, operands, results, class: Class::Other, composite: None, span: None });
    graph.phases.push(Phase { kind: PhaseKind::Update, ops: vec![op] });
    graph
}

fn boxing(report: &mut Report<'_>, shards: Option<&Shards<'_>>, at: &dyn Fn() -> String, spec: &BoxingSpec) {
    let mesh = &report.program.mesh;
    let step = &spec.step;
    let changed: Vec<usize> = (0..mesh.axes.len()).filter(|axis| step.from.0[*axis] != step.to.0[*axis]).collect();
    let among_ranks = changed.iter().all(|axis| step.axes.contains(axis)) && step.axes.iter().all(|axis| !mesh.axes[*axis].time);
    report.check(among_ranks, Code::Boxing, at, || {
        format!("from {} to {} changes axes {changed:?}, and it runs along {:?}", step.from, step.to, step.axes)
    });
    let windowed = step.axes.iter().any(|axis| step.from.0.get(*axis).is_some_and(Share::is_windowed));
    report.check(!windowed, Code::Boxing, at, || format!("from {} to {} fetches what overlaps", step.from, step.to));
    let pending = |share: &Share| if let Share::Partial(op) = share { Some(*op) } else { None };
    let mut ops: Vec<Reduce> = step.from.0.iter().chain(&step.to.0).filter_map(pending).collect();
    ops.dedup();
    report.check(ops.len() <= 1, Code::Boxing, at, || format!("from {} to {} mixes reductions", step.from, step.to));
    let float = report.program.precision.holds(spec.dtype);
    let stored = float || (spec.dtype == DType::I32 && ops.is_empty());
    report.check(stored, Code::Boxing, at, || format!("it moves {} in layouts {} and {}", spec.dtype, step.from, step.to));
    if ops.first().is_some_and(|op| op.is_tuple()) {
        let last = spec.shape.len().wrapping_sub(1);
        let whole = !spec.shape.is_empty() && step.from.splits(last).is_empty() && step.to.splits(last).is_empty();
        report.check(whole, Code::Boxing, at, || format!("from {} to {} cuts tuples apart", step.from, step.to));
    }
    if step.kind == StepKind::AllReduce {
        let reduces = !step.axes.is_empty()
            && step.axes.iter().all(|axis| matches!((step.from.0[*axis], step.to.0[*axis]), (Share::Partial(_), Share::Broadcast)));
        report.check(reduces, Code::Boxing, at, || format!("from {} to {} is no all-reduce", step.from, step.to));
        return;
    }
    let Some(shards) = shards else { return };
    if !among_ranks || report.found.last().is_some_and(|last| last.at == at()) {
        return;
    }
    // every rank finds in its group all that it needs
    let shape = Shape { dims: &spec.shape, mesh };
    let moments = report.program.micro_batches;
    for (n, here) in shards.places().enumerate() {
        let (rank, moment) = (n as u64 / moments, n as u64 % moments);
        let group = if step.kind.is_local() { vec![rank] } else { mesh.group(rank, &step.axes) };
        let pulls = shape.pulls(step, rank, moment);
        let outside = pulls.iter().find(|pull| !group.contains(&pull.rank));
        let target: u64 = step.to.shard(&spec.shape, mesh, &here).iter().map(|held| count(held)).product();
        let found = pulls.iter().map(|pull| pull.region.iter().map(|held| count(held)).product::<u64>()).sum::<u64>();
        let becomes_pending = step.to.0.iter().zip(&step.from.0).any(|(to, from)| pending(to).is_some() && from != to);
        report.check(outside.is_none(), Code::Boxing, at, || format!("rank {rank} of a stage would need data of ranks outside {group:?}"));
        let fed = found >= target || becomes_pending;
        if outside.is_some()
            || !report.check(fed, Code::Boxing, at, || format!("rank {rank} of a stage finds {found} of {target} elements"))
        {
            return;
        }
    }
}
