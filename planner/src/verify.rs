//! Whether a finished plan satisfies its pins: every pin is a statement about layouts, checked on the layouts.

use partita_ir::axis::Role;
use partita_ir::graph::{Class, Leaf};
use partita_ir::layout::Share;
use partita_ir::signature::{Choice, SizedRule};

use crate::layouts::primitives;
use crate::mesh::AxisUse;
use crate::pins::Pins;
use crate::plan::Plan;
use crate::strategy::is_weight;

/// Everything about a plan that breaks a pin.
pub fn verify(plan: &Plan, pins: &Pins) -> Vec<String> {
    let mut broken = Vec::new();
    let degrees = plan.degrees;
    for (name, pin, value) in
        [("dp", pins.dp, degrees.dp), ("tp", pins.tp, degrees.tp), ("cp", pins.cp, degrees.cp), ("pp", pins.pp, degrees.pp)]
    {
        if let Some(pin) = pin.filter(|pin| *pin != value) {
            broken.push(format!("{name}={pin} is pinned and the plan has {name}={value}"));
        }
    }
    if let Some(zero) = pins.zero.filter(|zero| *zero != plan.zero) {
        broken.push(format!("zero={zero} is pinned and the plan has zero={}", plan.zero));
    }
    let graph = &plan.graph;
    let axes = |wanted: AxisUse| (0..plan.mesh.uses.len()).filter(move |axis| plan.mesh.uses[*axis] == wanted).collect::<Vec<_>>();
    let tensor = axes(AxisUse::Tensor);
    let data: Vec<usize> = [axes(AxisUse::Data), axes(AxisUse::Context)].concat();
    for (op, phase, _) in primitives(graph).into_iter().filter(|(_, phase, _)| phase.per_micro_batch()) {
        let Some(rule) = SizedRule::of(graph, op) else { continue };
        let node = graph.op(op);
        let name = &graph.value(node.result()).name;
        let choices = &plan.layouts.signatures[&op].choices;
        // tp: weights of contractions enter split
        if !tensor.is_empty() && node.class == Class::Contraction {
            for (n, operand) in node.operands.iter().enumerate().filter(|(_, operand)| is_weight(graph, **operand)) {
                let needed = rule.operand_layout(n, &plan.layouts.signatures[&op]);
                if tensor.iter().all(|axis| !matches!(needed.0[*axis], Share::Split(_))) {
                    broken.push(format!("tp={}: `{}` enters `{name}` whole", degrees.tp, graph.value(*operand).name));
                }
            }
        }
        // dp and cp: what walks the batch (positions) splits it
        for (wanted, role, pin) in [(AxisUse::Data, Role::Batch, "dp"), (AxisUse::Context, Role::Seq, "cp")] {
            let walks = (0..rule.factors.len()).any(|factor| graph.axis(rule.rule.factors[factor]).role == role && rule.can_split(factor));
            for axis in axes(wanted) {
                let splits = matches!(&choices[axis], Choice::Split { factor, .. } if graph.axis(rule.rule.factors[*factor]).role == role);
                if walks && !splits {
                    broken.push(format!("{pin}: `{name}` walks {} and does not split it", role.word()));
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
    for value in graph.leaves(|_| true) {
        let split = match graph.leaf(value) {
            Some(Leaf::Param(_)) => plan.zero >= 3,
            // one number has nothing to split
            Some(Leaf::State { of, .. }) => plan.zero >= 1 && of.is_some(),
            Some(Leaf::Accumulated(_)) => plan.zero >= 2 && !graph.value(value).ty.dims.is_empty(),
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
