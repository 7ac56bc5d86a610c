//! A plan as people and other programs read it.

use std::collections::BTreeMap;

use comfy_table::{Table, TableStyle};
use partita_ir::graph::PhaseKind;
use partita_ir::program::{Instruction, LeafKind, Program};
use partita_planner::plan::Plan;
use partita_planner::search::Considered;
use partita_planner::units::{Bytes, Seconds};
use partita_runtime::run::prepare::{View, extents};
use serde::{Deserialize, Serialize};

use crate::arguments::Shown;
use crate::check::grouped;

/// Everything about a plan that `plan`, `compile` and `inspect` print.
#[derive(Debug, Serialize, Deserialize)]
pub struct Described {
    /// Version of this format.
    pub format: u32,
    pub model: String,
    pub cluster: String,
    /// One line that says what the plan is.
    pub strategy: String,
    pub settings: BTreeMap<String, String>,
    pub degrees: BTreeMap<String, u64>,
    pub zero: u8,
    pub recompute: String,
    pub schedule: String,
    pub micro_batches: u64,
    /// (name, size) of the axes of each stage's mesh, outermost first.
    pub mesh: Vec<(String, u64)>,
    /// For each stage how many iterations of each loop it has.
    pub stages: Vec<BTreeMap<String, u64>>,
    pub step_seconds: f64,
    pub tokens_per_second: f64,
    pub compute_seconds: f64,
    pub boxing_seconds: f64,
    pub bubble_seconds: f64,
    /// Bytes of the fullest rank.
    pub memory_bytes: u64,
    pub ranks: Vec<RankFigures>,
    /// What crosses between ranks in a step.
    pub communication: Vec<Communication>,
    /// Layouts of parameters: in use and at rest.
    pub parameters: Vec<LayoutLine>,
    /// Layouts of what operators make, in order.
    pub operators: Vec<LayoutLine>,
    pub considered: Vec<ConsideredLine>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct RankFigures {
    /// Bytes of parameters at rest.
    pub parameter_bytes: u64,
    /// FLOPs of matrix products in a step.
    pub gemm_flops: u64,
    /// Bytes of the arena.
    pub memory_bytes: u64,
    /// Bytes received in a step.
    pub comm_bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Communication {
    pub phase: String,
    pub kind: String,
    pub axes: String,
    /// Name of the first value.
    pub value: String,
    /// Times a step.
    pub count: u64,
    /// Bytes received by all ranks in a step.
    pub bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct LayoutLine {
    pub name: String,
    pub shape: String,
    pub layout: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ConsideredLine {
    pub strategy: String,
    pub step_seconds: f64,
    pub lost: String,
}

/// Describes a plan with its programs.
pub fn describe(plan: &Plan, program: &Program, others: &[Considered]) -> Described {
    let graph = &plan.graph;
    let traffic = traffic(program);
    let per_stage = program.mesh.ranks();
    let ranks: Vec<RankFigures> = (0..plan.ranks() as usize)
        .map(|rank| {
            let view = View::new(program, rank);
            let parameters = view.role.leaves.iter().filter(|leaf| matches!(leaf.kind, LeafKind::Param(_)));
            RankFigures {
                parameter_bytes: parameters.map(|leaf| view.place(leaf.buffer, 0).bytes as u64).sum(),
                gemm_flops: gemm_flops(&view),
                memory_bytes: view.role.arena_bytes,
                comm_bytes: traffic.iter().map(|line| line.received[rank]).sum(),
            }
        })
        .collect();
    let mut communication: Vec<Communication> = Vec::new();
    for line in traffic {
        let known = communication
            .iter_mut()
            .find(|known| known.phase == line.phase.word() && known.kind == line.kind && known.axes == line.axes && known.value == line.value);
        let bytes: u64 = line.received.iter().sum();
        match known {
            Some(known) => {
                known.count += line.count;
                known.bytes += bytes;
            }
            None => communication.push(Communication {
                phase: line.phase.word().into(),
                kind: line.kind.into(),
                axes: line.axes,
                value: line.value,
                count: line.count,
                bytes,
            }),
        }
    }
    let shape = |value| {
        let names: Vec<String> = graph.value(value).ty.dims.iter().map(|axis| format!("{} {}", graph.axis(*axis).name, graph.size(*axis))).collect();
        names.join(", ")
    };
    let layout_of = |value| plan.layouts.of(graph, value).to_string();
    let stages = (0..plan.cut.stages)
        .map(|stage| {
            let held = graph.loops.iter().zip(&plan.cut.of_iteration);
            held.map(|(repeated, of)| (repeated.name.clone(), of.iter().filter(|at| **at == stage).count() as u64)).collect()
        })
        .collect();
    let d = plan.degrees;
    debug_assert!(ranks.len() as u64 == per_stage * plan.cut.stages);
    Described {
        format: 1,
        model: plan.model.clone(),
        cluster: plan.cluster.clone(),
        strategy: plan.strategy(),
        settings: plan.settings.iter().cloned().collect(),
        degrees: [("dp", d.dp), ("tp", d.tp), ("cp", d.cp), ("pp", d.pp), ("mbs", d.mbs)].map(|(name, n)| (name.to_owned(), n)).into(),
        zero: plan.zero,
        recompute: partita_planner::plan::recompute_word(plan.recompute).into(),
        schedule: plan.schedule.word().into(),
        micro_batches: program.micro_batches,
        mesh: program.mesh.axes.iter().map(|axis| (axis.name.clone(), axis.size)).collect(),
        stages,
        step_seconds: plan.predicted.step_seconds,
        tokens_per_second: plan.predicted.tokens as f64 / plan.predicted.step_seconds,
        compute_seconds: plan.predicted.compute_seconds,
        boxing_seconds: plan.predicted.boxing_seconds,
        bubble_seconds: plan.predicted.bubble_seconds,
        memory_bytes: ranks.iter().map(|rank| rank.memory_bytes).max().unwrap_or(0),
        ranks,
        communication,
        parameters: graph.params().map(|value| LayoutLine { name: graph.value(value).name.clone(), shape: shape(value), layout: layout_of(value) }).collect(),
        operators: partita_planner::layouts::primitives(graph)
            .into_iter()
            .map(|(op, phase, _)| {
                let value = graph.op(op).result();
                let name = format!("{} {} {}", phase.word(), graph.op(op).class.word(), graph.value(value).name);
                LayoutLine { name, shape: shape(value), layout: layout_of(value) }
            })
            .collect(),
        considered: others
            .iter()
            .take(20)
            .map(|other| ConsideredLine { strategy: other.strategy.clone(), step_seconds: other.step_seconds, lost: other.lost.clone() })
            .collect(),
    }
}

/// FLOPs of a rank's matrix products in a step.
fn gemm_flops(view: &View<'_>) -> u64 {
    let mut total = 0.0;
    for section in &view.role.sections {
        let moments = if section.phase.per_micro_batch() { view.program.micro_batches } else { 1 };
        for instruction in &section.instructions {
            if let Instruction::Kernel { kernel, .. } = instruction {
                if view.program.kernels[*kernel].gemm {
                    for moment in 0..moments {
                        total += 2.0 * extents(view, *kernel, moment).iter().map(|extent| extent.count() as f64).product::<f64>();
                    }
                }
            }
        }
    }
    total as u64
}

struct Traffic {
    phase: PhaseKind,
    kind: &'static str,
    axes: String,
    value: String,
    count: u64,
    received: Vec<u64>,
}

/// What every instruction receives in a step, by rank.
fn traffic(program: &Program) -> Vec<Traffic> {
    use partita_ir::boxing::{Shape, StepKind};
    let ranks = (program.mesh.ranks() * program.roles.len() as u64) as usize;
    let mut lines = Vec::new();
    for role in &program.roles {
        for section in &role.sections {
            let moments = if section.phase.per_micro_batch() { program.micro_batches } else { 1 };
            for instruction in &section.instructions {
                let (kind, axes, buffer): (&'static str, String, usize) = match instruction {
                    Instruction::Box { boxing, to, .. } if !program.boxings[*boxing].step.kind.is_local() => {
                        let step = &program.boxings[*boxing].step;
                        let names: Vec<&str> = step.axes.iter().map(|axis| program.mesh.axes[*axis].name.as_str()).collect();
                        (step.kind.word(), names.join("+"), *to)
                    }
                    Instruction::Receive { buffer, .. } => ("receive", "stages".into(), *buffer),
                    _ => continue,
                };
                let mut received = vec![0; ranks];
                for local in 0..program.mesh.ranks() {
                    let rank = (role.stage * program.mesh.ranks() + local) as usize;
                    let view = View::new(program, rank);
                    for moment in 0..moments {
                        received[rank] += match instruction {
                            Instruction::Box { boxing, to, .. } => {
                                let spec = &program.boxings[*boxing];
                                let shape = Shape { dims: &spec.shape, mesh: &program.mesh };
                                if spec.step.kind == StepKind::AllReduce {
                                    let bytes = view.place(*to, moment).bytes as u64;
                                    let group = program.mesh.group(local, &spec.step.axes);
                                    let position = group.iter().position(|member| *member == local).unwrap_or(0) as u64;
                                    ring(bytes / spec.dtype.bytes(1), group.len() as u64, position) * spec.dtype.bytes(1)
                                } else {
                                    spec.dtype.bytes(shape.pulled(&spec.step, local, moment))
                                }
                            }
                            _ => view.place(buffer, moment).bytes as u64,
                        };
                    }
                }
                let value = role.buffers[buffer].name.split(' ').next().unwrap_or_default().to_owned();
                let value = value.split('.').filter(|part| part.parse::<u64>().is_err()).collect::<Vec<_>>().join(".");
                lines.push(Traffic { phase: section.phase, kind, axes, value, count: moments, received });
            }
        }
    }
    lines
}

/// Elements that the rank at `position` of `p` receives in an all-reduce of `n`: its own chunk from all others, then
/// the others' chunks.
fn ring(n: u64, p: u64, position: u64) -> u64 {
    let own = n / p + u64::from(position < n % p);
    own * (p - 1) + (n - own)
}

/// The plan for a terminal.
pub fn text(plan: &Described, shown: &Shown) -> String {
    let mut out = format!("{} on {}: {}\n", plan.model, plan.cluster, plan.strategy);
    let mesh: Vec<String> = plan.mesh.iter().map(|(name, size)| format!("{name} {size}")).collect();
    if !mesh.is_empty() {
        out += &format!("  mesh          {}\n", mesh.join(" × "));
    }
    if plan.stages.len() > 1 {
        let held: Vec<String> = plan
            .stages
            .iter()
            .map(|stage| stage.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(" + "))
            .collect();
        out += &format!("  stages        {}\n", held.join(" | "));
    }
    out += &format!("  micro-batches {}\n", plan.micro_batches);
    out += &format!(
        "  step          {} predicted ({} compute, {} boxing, {} bubble), {} tokens/s\n",
        Seconds(plan.step_seconds),
        Seconds(plan.compute_seconds),
        Seconds(plan.boxing_seconds),
        Seconds(plan.bubble_seconds),
        grouped(plan.tokens_per_second as u64)
    );
    out += &format!("  memory        {} on the fullest rank\n\n", Bytes(plan.memory_bytes));
    if shown.quiet {
        return out;
    }
    out += "ranks\n";
    let mut table = new_table(&["rank", "parameters", "GEMM GFLOP", "arena", "received a step"]);
    for (rank, figures) in plan.ranks.iter().enumerate() {
        table.add_row(vec![
            rank.to_string(),
            Bytes(figures.parameter_bytes).to_string(),
            format!("{:.2}", figures.gemm_flops as f64 / 1e9),
            Bytes(figures.memory_bytes).to_string(),
            Bytes(figures.comm_bytes).to_string(),
        ]);
    }
    out += &indented(&table);
    if !plan.communication.is_empty() {
        out += "\ncommunication, all ranks, a step\n";
        let mut table = new_table(&["phase", "collective", "over", "value", "times", "bytes"]);
        let mut lines: Vec<&Communication> = plan.communication.iter().collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.bytes));
        let most = if shown.verbose { usize::MAX } else { 12 };
        for line in lines.iter().take(most) {
            table.add_row(vec![
                line.phase.clone(),
                line.kind.clone(),
                line.axes.clone(),
                line.value.clone(),
                line.count.to_string(),
                Bytes(line.bytes).to_string(),
            ]);
        }
        out += &indented(&table);
        if lines.len() > most {
            out += &format!("  … and {} smaller ones (-v shows all)\n", lines.len() - most);
        }
    }
    if !plan.mesh.is_empty() {
        out += "\nparameters at rest\n";
        let mut table = new_table(&["parameter", "shape", "layout"]);
        for line in &plan.parameters {
            table.add_row(vec![line.name.clone(), line.shape.clone(), line.layout.clone()]);
        }
        out += &indented(&table);
        if shown.verbose {
            out += "\noperators\n";
            let mut table = new_table(&["operator", "shape", "layout"]);
            for line in &plan.operators {
                table.add_row(vec![line.name.clone(), line.shape.clone(), line.layout.clone()]);
            }
            out += &indented(&table);
        }
    }
    if !plan.considered.is_empty() {
        out += "\nalso considered\n";
        let mut table = new_table(&["plan", "step", "why not"]);
        for line in &plan.considered {
            table.add_row(vec![line.strategy.clone(), Seconds(line.step_seconds).to_string(), line.lost.clone()]);
        }
        out += &indented(&table);
    }
    out
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_header(header.to_vec());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn indented(table: &Table) -> String {
    table.lines().map(|line| format!("  {}\n", line.trim_end())).collect()
}
