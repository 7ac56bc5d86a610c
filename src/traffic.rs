//! What the ranks of a program send one another in a step, counted as the runtime counts it.

use partita_ir::boxing::{Shape, StepKind};
use partita_ir::graph::PhaseKind;
use partita_ir::layout::count;
use partita_ir::program::{Instruction, Program, Role};
use partita_runtime::run::prepare::View;

/// A collective of one value, all iterations and micro-batches of a phase together.
pub struct Traffic {
    pub phase: PhaseKind,
    /// The collective, or `receive`.
    pub kind: &'static str,
    /// The mesh axes that it runs along, or `stages`.
    pub axes: String,
    /// The value's name without its iteration.
    pub value: String,
    pub shape: Vec<u64>,
    /// Executions.
    pub count: u64,
    /// Bytes received, by rank.
    pub received: Vec<u64>,
}

/// Everything that crosses between ranks, in order of first appearance.
pub fn traffic(program: &Program) -> Vec<Traffic> {
    let mut lines: Vec<Traffic> = Vec::new();
    for role in &program.roles {
        for section in &role.sections {
            let moments = if section.phase.per_micro_batch() { program.micro_batches } else { 1 };
            for instruction in &section.instructions {
                let Some(mut line) = crossing(program, role, section.phase, instruction) else { continue };
                line.count = moments;
                for local in 0..program.mesh.ranks() {
                    let rank = (role.stage * program.mesh.ranks() + local) as usize;
                    let view = View::new(program, rank);
                    line.received[rank] = (0..moments).map(|moment| received(&view, instruction, moment)).sum();
                }
                let same = |known: &Traffic| {
                    (known.phase, known.kind, &known.axes, &known.value, &known.shape)
                        == (line.phase, line.kind, &line.axes, &line.value, &line.shape)
                };
                match lines.iter_mut().find(|known| same(known)) {
                    Some(known) => {
                        known.count += line.count;
                        known.received.iter_mut().zip(&line.received).for_each(|(sum, bytes)| *sum += bytes);
                    }
                    None => lines.push(line),
                }
            }
        }
    }
    lines
}

/// What an instruction moves between ranks, not counted yet.
fn crossing(program: &Program, role: &Role, phase: PhaseKind, instruction: &Instruction) -> Option<Traffic> {
    let (kind, axes, buffer) = match instruction {
        Instruction::Box { boxing, to, .. } if !program.boxings[*boxing].step.kind.is_local() => {
            let step = &program.boxings[*boxing].step;
            let names: Vec<&str> = step.axes.iter().map(|axis| program.mesh.axes[*axis].name.as_str()).collect();
            (step.kind.word(), names.join("+"), *to)
        }
        Instruction::Receive { buffer, .. } => ("receive", "stages".to_owned(), *buffer),
        _ => return None,
    };
    let name = role.buffers[buffer].name.split(' ').next().unwrap_or_default();
    let value = name.split('.').filter(|part| part.parse::<u64>().is_err()).collect::<Vec<_>>().join(".");
    let ranks = (program.mesh.ranks() * program.roles.len() as u64) as usize;
    Some(Traffic { phase, kind, axes, value, shape: role.buffers[buffer].shape.clone(), count: 0, received: vec![0; ranks] })
}

/// Bytes that a rank receives by an instruction at a micro-batch.
fn received(view: &View<'_>, instruction: &Instruction, moment: u64) -> u64 {
    let program = view.program;
    match instruction {
        Instruction::Box { boxing, to, .. } => {
            let spec = &program.boxings[*boxing];
            if spec.step.kind == StepKind::AllReduce {
                let elements = view.shard(*to, moment).iter().map(|held| count(held)).product();
                let group = program.mesh.group(view.rank, &spec.step.axes);
                let position = group.iter().position(|member| *member == view.rank).expect("a rank is in its own group") as u64;
                return spec.dtype.bytes(all_reduced(elements, group.len() as u64, position));
            }
            let shape = Shape { dims: &spec.shape, mesh: &program.mesh };
            spec.dtype.bytes(shape.pulled(&spec.step, view.rank, moment))
        }
        Instruction::Receive { buffer, .. } => view.place(*buffer, moment).bytes as u64,
        _ => 0,
    }
}

/// Elements that the rank at `position` of `p` receives in an all-reduce of `n`: its own chunk from all others, then
/// the others' chunks; together `2 n (p - 1) / p` of them if `p` divides `n`.
fn all_reduced(n: u64, p: u64, position: u64) -> u64 {
    let own = n / p + u64::from(position < n % p);
    own * (p - 1) + (n - own)
}
