//! Plan → programs: operators with layouts become the instructions, boxings and static buffers of one role a stage.

pub mod buffers;
pub mod emit;
pub mod fuse;
pub mod lowered;
pub mod schedule;

use std::collections::BTreeSet;

use partita_ir::axis::Role as AxisRole;
use partita_ir::graph::{Def, Leaf, PhaseKind};
use partita_ir::program::{BufferId, Instruction, Program, Role};
use partita_planner::cluster::Cluster;
use partita_planner::plan::Plan;

/// Version of the program format that this code writes.
pub const FORMAT: u32 = 1;

/// Compiles a plan.
pub fn compile(plan: &Plan, cluster: &Cluster) -> Program {
    let graph = &plan.graph;
    let mut shared = emit::Shared::new(plan, cluster, fuse::fuse(graph, &plan.mesh.mesh, lowered::lower(plan)));
    let crossings = shared.crossings();
    let mut roles = Vec::new();
    for stage in 0..plan.cut.stages {
        let mut out = emit::Stage::new(&mut shared, stage, &crossings);
        out.emit();
        let reports = out.reports();
        let gradients = out.gradients();
        let (buffers, leaves, sections) = (out.buffers, out.leaves, out.sections);
        let turns = schedule::turns(plan.schedule, stage, plan.cut.stages, plan.mesh.micro_batches);
        let in_flight = schedule::in_flight(&turns);
        roles.push(Role { stage, buffers, arena_bytes: 0, saved_stride: 0, in_flight, sections, turns, leaves, reports, gradients });
    }
    for role in &mut roles {
        let keep: BTreeSet<BufferId> =
            role.reports.iter().chain(&role.gradients).map(|(_, id)| *id).chain(role.leaves.iter().map(|leaf| leaf.buffer)).collect();
        buffers::drop_copies(&mut role.sections, &role.buffers, &|kernel| shared.kernels[kernel].rule.clone(), &keep);
        let arena = buffers::place(&role.sections, &mut role.buffers, role.in_flight, &keep);
        (role.arena_bytes, role.saved_stride) = (arena.bytes, arena.saved_stride);
    }
    // a sample has a token more than positions
    let tokens = graph.values.iter().filter_map(|value| {
        let Def::Leaf(Leaf::Input(source)) = value.def else { return None };
        let positions = value.ty.dims.iter().find(|axis| graph.axis(**axis).role == AxisRole::Seq)?;
        Some(source.needs(graph.size(*positions)).max(graph.size(*positions) + 1))
    });
    let seq = tokens.max().map_or(1, |tokens| tokens - 1);
    let vocab = graph.axes.iter().filter(|axis| axis.role == AxisRole::Vocab).map(|axis| axis.size).max().unwrap_or(256);
    Program {
        format: FORMAT,
        model: plan.model.clone(),
        strategy: plan.strategy(),
        settings: plan.settings.clone(),
        precision: plan.train.precision,
        batch: plan.train.batch,
        seq,
        vocab,
        micro_batches: plan.mesh.micro_batches,
        mesh: plan.mesh.mesh.clone(),
        predicted_seconds: plan.predicted.step_seconds,
        kernels: shared.kernels,
        boxings: shared.steps,
        roles,
    }
}

/// Instructions of a role by phase, for people.
pub fn counts(role: &Role) -> Vec<(PhaseKind, usize, usize)> {
    role.sections
        .iter()
        .map(|section| {
            let kernels = section.instructions.iter().filter(|i| matches!(i, Instruction::Kernel { .. })).count();
            (section.phase, kernels, section.instructions.len())
        })
        .collect()
}
