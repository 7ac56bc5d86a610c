//! Whether a finished plan satisfies its pins: every pin is a statement about layouts, checked on the layouts.

use partita_ir::axis::Role;
use partita_ir::experts::{Expertise, expertise};
use partita_ir::graph::{Class, Leaf};
use partita_ir::layout::Share;
use partita_ir::signature::{Choice, SizedRule};

use crate::coupling::couples_samples;
use crate::layouts::primitives;
use crate::mesh::{AxisUse, ExpertUse};
use crate::pins::Pins;
use crate::plan::Plan;
use crate::strategy::is_weight;

/// Everything about a plan that breaks a pin.
pub fn verify(plan: &Plan, pins: &Pins) -> Vec<String> {
    let mut broken = Vec::new();
    let degrees = plan.degrees;
    let tiling = degrees.tiling();
    for (name, pin, value) in [
        ("dp", pins.dp, degrees.dp),
        ("tp", pins.tp, degrees.tp),
        ("cp", pins.cp, degrees.cp),
        ("pp", pins.pp, degrees.pp),
        ("ep", pins.ep, tiling.ep),
        ("etp", pins.etp.filter(|_| degrees.experts.is_some()), tiling.etp),
    ] {
        if let Some(pin) = pin.filter(|pin| *pin != value) {
            broken.push(format!("{name}={pin} is pinned and the plan has {name}={value}"));
        }
    }
    if let Some(zero) = pins.zero.filter(|zero| *zero != plan.zero) {
        broken.push(format!("zero={zero} is pinned and the plan has zero={}", plan.zero));
    }
    let graph = &plan.graph;
    if let Some(op) = couples_samples(graph).filter(|_| plan.mesh.micro_batches > 1) {
        let name = &graph.value(graph.op(op).result()).name;
        broken.push(format!("`{name}` brings the samples of a micro-batch together, and there are {}", plan.mesh.micro_batches));
    }
    let axes = |wanted: AxisUse| (0..plan.mesh.uses.len()).filter(move |axis| plan.mesh.uses[*axis] == wanted).collect::<Vec<_>>();
    let tensor = axes(AxisUse::Tensor);
    let for_experts = |axis: &usize| plan.mesh.uses[*axis] != AxisUse::Micro && plan.mesh.experts[*axis] == ExpertUse::Tensor;
    let expert_tensor: Vec<usize> = (0..plan.mesh.uses.len()).filter(for_experts).collect();
    let data: Vec<usize> = [axes(AxisUse::Data), axes(AxisUse::Context)].concat();
    for (op, phase, _) in primitives(graph).into_iter().filter(|(_, phase, _)| phase.per_micro_batch()) {
        let Some(rule) = SizedRule::of(graph, op) else { continue };
        let node = graph.op(op);
        let name = &graph.value(node.result()).name;
        let choices = &plan.layouts.signatures[&op].choices;
        // tp and etp: weights of contractions enter split
        let expertise = expertise(graph, &rule);
        let works = matches!(expertise, Expertise::Works { .. });
        let (splitting, pin, degree) = if works { (&expert_tensor, "etp", tiling.etp) } else { (&tensor, "tp", degrees.tp) };
        if !splitting.is_empty() && node.class == Class::Contraction {
            for (n, operand) in node.operands.iter().enumerate().filter(|(_, operand)| is_weight(graph, **operand)) {
                let needed = rule.operand_layout(n, &plan.layouts.signatures[&op]);
                if splitting.iter().all(|axis| !matches!(needed.0[*axis], Share::Split(_))) {
                    broken.push(format!("{pin}={degree}: `{}` enters `{name}` whole", graph.value(*operand).name));
                }
            }
        }
        // ep: each expert works on one rank, where its weights rest
        if let Expertise::Works { experts, .. } = &expertise {
            for axis in (0..plan.mesh.uses.len()).filter(|axis| plan.mesh.owns_experts(*axis)) {
                if !matches!(&choices[axis], Choice::Split { factor, .. } if experts.contains(factor)) {
                    broken.push(format!("ep={}: `{name}` does not split its experts", tiling.ep));
                }
                for operand in node.operands.iter().filter(|operand| plan.layouts.rest.contains_key(operand)) {
                    if is_weight(graph, *operand) && plan.layouts.rest[operand].split_on(axis).is_none() {
                        broken.push(format!("ep={}: `{}` rests whole", tiling.ep, graph.value(*operand).name));
                    }
                }
            }
        }
        // dp and cp: what walks the batch (positions) splits it
        let is_batch: fn(Role) -> bool = |role| role == Role::Batch;
        for (wanted, is_dealt, pin, what) in
            [(AxisUse::Data, is_batch, "dp", "the batch"), (AxisUse::Context, Role::is_context, "cp", "positions")]
        {
            let dealt = |factor: usize| is_dealt(graph.axis(rule.rule.factors[factor]).role);
            let walks = (0..rule.factors.len()).any(|factor| dealt(factor) && rule.can_split(factor));
            for axis in axes(wanted) {
                let splits = matches!(&choices[axis], Choice::Split { factor, .. } if dealt(*factor));
                // what experts do lies as they tile the ranks
                let own_tiling = expertise != Expertise::None && plan.mesh.experts[axis] != ExpertUse::Data;
                if walks && !splits && !own_tiling {
                    broken.push(format!("{pin}: `{name}` walks {what} and does not split it"));
                }
            }
        }
        // sp
        let walks_positions =
            (0..rule.factors.len()).any(|factor| graph.axis(rule.rule.factors[factor]).role == Role::Seq && rule.can_split(factor));
        for axis in &tensor {
            let splits_positions =
                matches!(&choices[*axis], Choice::Split { factor, .. } if graph.axis(rule.rule.factors[*factor]).role == Role::Seq);
            if pins.sp == Some(true) && matches!(node.class, Class::Norm | Class::Dropout) && walks_positions && !splits_positions {
                broken.push(format!("sp=true: `{name}` ({}) does not split positions in {}", node.class.word(), phase.word()));
            }
            if pins.sp == Some(false)
                && matches!(node.class, Class::Norm | Class::Dropout | Class::Residual)
                && choices[*axis] != Choice::Replicate
            {
                broken.push(format!("sp=false: `{name}` ({}) is not replicated in {}", node.class.word(), phase.word()));
            }
        }
    }
    // zero: states, gradients, parameters rest split over data axes
    for value in graph.leaves(|_| true).filter(|value| !graph.value(*value).ty.dims.is_empty()) {
        let split = match graph.leaf(value) {
            Some(Leaf::Param(_) | Leaf::State { of: None, .. }) => plan.zero >= 3,
            Some(Leaf::State { of: Some(_), .. }) => plan.zero >= 1,
            Some(Leaf::Accumulated(_)) => plan.zero >= 2,
            _ => continue,
        };
        let rest = &plan.layouts.rest[&value];
        for axis in &data {
            if split && !matches!(rest.0[*axis], Share::Split(_)) {
                broken.push(format!("zero={}: `{}` rests as {rest}", plan.zero, graph.value(value).name));
            }
        }
    }
    broken
}
