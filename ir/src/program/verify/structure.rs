//! Sizes and names: what everything else relies on.

use super::{Code, MAX_RANKS, Report};
use crate::layout::{Layout, Partition, Share, Window};
use crate::program::{Instruction, Program, Role};

/// Elements and bytes stay below this, so that no product or sum of two of them overflows.
const LIMIT: u64 = 1 << 62;

/// More ranks times micro-batches than can be looked at one by one.
const MAX_PLACES: u64 = 1 << 20;

/// More intervals of one tensor's shards than can be listed.
const MAX_PIECES: u64 = 1 << 24;

pub(super) fn check(report: &mut Report<'_>) {
    let program = report.program;
    mesh(report);
    if !report.found.is_empty() {
        return;
    }
    for (n, kernel) in program.kernels.iter().enumerate() {
        let at = || format!("kernel {n} `{}`", kernel.name);
        let axes = program.mesh.axes.len();
        let known = kernel.order.iter().all(|axis| *axis < axes) && kernel.splits.len() == axes;
        report.check(known, Code::IdRange, at, || format!("its splits and their order do not match the {axes} mesh axes"));
        for (factor, partition) in kernel.splits.iter().flatten() {
            let fine = *factor < kernel.factors.len() && *partition != Partition::Chunk(0);
            report.check(fine, Code::IdRange, at, || format!("it splits factor {factor} of {}", kernel.factors.len()));
        }
        let sizes = kernel.shapes.iter().chain([&kernel.factors]).all(|sizes| product(sizes).is_some());
        report.check(sizes, Code::TooLarge, at, || "its loop or an operand has 2^62 elements or more".to_owned());
        // at most the elements of the factors that a dimension walks, over those of the one that is split
        let merged = kernel.splits.iter().flatten().map(|(factor, _)| {
            let accesses = kernel.rule.operands.iter().chain([&kernel.rule.result]);
            let walked = accesses.flatten().filter(|dim| dim.terms.iter().any(|term| term.factor == *factor));
            let major = walked.map(|dim| {
                let others = dim.terms.iter().filter(|term| term.factor != *factor);
                others.fold(1u64, |total, term| total.saturating_mul(kernel.factors.get(term.factor).copied().unwrap_or(1)))
            });
            major.fold(0, u64::max)
        });
        pieces(report, &at, merged.collect::<Vec<_>>().into_iter());
    }
    for (n, boxing) in program.boxings.iter().enumerate() {
        let at = || format!("boxing {n} ({})", boxing.step.kind.word());
        let axes = &boxing.step.axes;
        let known = axes.iter().all(|axis| *axis < program.mesh.axes.len()) && axes.is_sorted_by(|a, b| a < b);
        report.check(known, Code::IdRange, at, || format!("it runs along mesh axes {axes:?} of {}", program.mesh.axes.len()));
        for side in [&boxing.step.from, &boxing.step.to] {
            layout(report, &at, side, &boxing.shape);
        }
    }
    for role in &program.roles {
        self::role(report, role);
    }
}

fn mesh(report: &mut Report<'_>) {
    let program = report.program;
    let at = || "program".to_owned();
    let axes = &program.mesh.axes;
    let stages = program.roles.len() as u64;
    let sizes = |time: bool| axes.iter().filter(|axis| axis.time == time).map(|axis| axis.size).collect::<Vec<_>>();
    let ranks = product(&sizes(false)).and_then(|ranks| ranks.checked_mul(stages)).filter(|ranks| (1..=MAX_RANKS).contains(ranks));
    report.check(ranks.is_some(), Code::Mesh, at, || {
        let shown: Vec<String> = axes.iter().map(|axis| format!("{} {}", axis.name, axis.size)).collect();
        format!("{stages} stages of a mesh of {} are no 1 to {MAX_RANKS} ranks", shown.join(" × "))
    });
    let moments = product(&sizes(true)).unwrap_or(0);
    let places = ranks.and_then(|ranks| ranks.checked_mul(moments)).unwrap_or(1);
    let fine = moments == program.micro_batches && moments >= 1 && places <= MAX_PLACES;
    report.check(fine, Code::Mesh, at, || format!("{} micro-batches and axes of time for {moments}", program.micro_batches));
    let tokens = product(&[program.batch, program.seq]).is_some() && program.batch >= 1;
    report.check(tokens, Code::TooLarge, at, || format!("a batch of {} samples of {} tokens", program.batch, program.seq));
    for (n, role) in program.roles.iter().enumerate() {
        let fine = role.stage == n as u64 && (1..=program.micro_batches).contains(&role.in_flight);
        report.check(fine, Code::Stages, at, || {
            format!("role {n} is for stage {} and holds {} micro-batches in flight", role.stage, role.in_flight)
        });
    }
}

fn role(report: &mut Report<'_>, role: &Role) {
    let program = report.program;
    let at = || format!("stage {}", role.stage);
    for (n, buffer) in role.buffers.iter().enumerate() {
        layout(report, &|| format!("stage {}, buffer {n} `{}`", role.stage, buffer.name), &buffer.layout, &buffer.shape);
    }
    let buffers = role.buffers.len();
    for section in &role.sections {
        for (n, instruction) in section.instructions.iter().enumerate() {
            let at = || place(program, role.stage, section.phase.word(), n, instruction);
            let ids = instruction.reads().into_iter().chain(instruction.writes());
            for id in ids.filter(|id| *id >= buffers) {
                report.check(false, Code::IdRange, at, || format!("it names buffer {id} of {buffers}"));
            }
            let (what, id, count) = match instruction {
                Instruction::Kernel { kernel, .. } => ("kernel", *kernel, program.kernels.len()),
                Instruction::Box { boxing, .. } => ("boxing", *boxing, program.boxings.len()),
                _ => continue,
            };
            report.check(id < count, Code::IdRange, at, || format!("it names {what} {id} of {count}"));
        }
    }
    let named = role.leaves.iter().map(|leaf| (&leaf.name, leaf.buffer));
    for (name, id) in named.chain(role.reports.iter().chain(&role.gradients).map(|(name, id)| (name, *id))) {
        report.check(id < buffers, Code::IdRange, at, || format!("`{name}` is buffer {id} of {buffers}"));
    }
    let ordered = role.sections.windows(2).all(|pair| pair[0].phase < pair[1].phase);
    report.check(ordered, Code::Sections, at, || {
        let phases: Vec<&str> = role.sections.iter().map(|section| section.phase.word()).collect();
        format!("its phases stand as {}", phases.join(", "))
    });
    for turn in &role.turns {
        let (super::super::Turn::Forward(micro) | super::super::Turn::Backward(micro)) = turn;
        report.check(*micro < program.micro_batches, Code::IdRange, at, || {
            format!("a turn is for micro-batch {micro} of {}", program.micro_batches)
        });
    }
}

fn layout(report: &mut Report<'_>, at: &dyn Fn() -> String, layout: &Layout, shape: &[u64]) {
    let axes = report.program.mesh.axes.len();
    report.check(product(shape).is_some(), Code::TooLarge, at, || "it has 2^62 elements or more".to_owned());
    let splits_fit = layout.0.iter().all(|share| match share {
        Share::Split(split) => {
            let whole = split.size.checked_mul(split.inner).filter(|period| *period > 0);
            let dim = shape.get(split.dim);
            let walks = dim.zip(whole).is_some_and(|(dim, period)| match split.window {
                Some(window) => split.inner == 1 && reach_is_small(window, split.size),
                None => dim % period == 0,
            });
            walks && split.partition != Partition::Chunk(0)
        }
        _ => true,
    });
    let fits = layout.0.len() == axes && splits_fit && layout.is_canonical(shape.len());
    if report.check(fits, Code::Layout, at, || format!("the layout {layout} does not fit the shape {shape:?} on {axes} mesh axes")) {
        let splits = layout.0.iter().filter_map(|share| if let Share::Split(split) = share { Some(split) } else { None });
        let plain = splits.filter(|split| split.window.is_none());
        pieces(report, at, plain.map(|split| shape[split.dim] / (split.size * split.inner)));
    }
}

/// Whether no index that a window of `size` indices can reach overflows.
fn reach_is_small(window: Window, size: u64) -> bool {
    let walked = i128::from(window.stride).abs() * i128::from(size);
    let reach = walked + i128::from(window.first).abs() + i128::from(window.reach);
    reach < i128::from(LIMIT) && window.reach > 0
}

/// Whether shards can be listed: a split of a minor factor of a dimension gives a piece for each index of the major one.
fn pieces(report: &mut Report<'_>, at: &dyn Fn() -> String, of_splits: impl Iterator<Item = u64>) {
    let program = report.program;
    let places = program.mesh.axes.iter().map(|axis| axis.size).product::<u64>();
    let total = of_splits.fold(0, u64::saturating_add).saturating_mul(places);
    report.check(total <= MAX_PIECES, Code::TooLarge, at, || format!("its shards have {total} pieces, more than {MAX_PIECES}"));
}

/// How messages name an instruction.
pub(super) fn place(program: &Program, stage: u64, phase: &str, n: usize, instruction: &Instruction) -> String {
    let what = match instruction {
        Instruction::Kernel { kernel, .. } => match program.kernels.get(*kernel) {
            Some(spec) => format!("kernel `{}`", spec.name),
            None => "kernel".to_owned(),
        },
        Instruction::Box { boxing, .. } => program.boxings.get(*boxing).map_or("boxing", |spec| spec.step.kind.word()).to_owned(),
        Instruction::Copy { .. } => "copy".to_owned(),
        Instruction::Take { .. } => "take".to_owned(),
        Instruction::Put { .. } => "put".to_owned(),
        Instruction::Load { .. } => "load".to_owned(),
        Instruction::Send { .. } => "send".to_owned(),
        Instruction::Receive { .. } => "receive".to_owned(),
    };
    format!("stage {stage}, {phase} instruction {n} ({what})")
}

/// The product of sizes, if it stays below the limit.
pub(super) fn product(sizes: &[u64]) -> Option<u64> {
    sizes.iter().try_fold(1u64, |total, size| total.checked_mul(*size)).filter(|total| *total < LIMIT)
}
