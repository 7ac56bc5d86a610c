//! Where buffers lie, when they are alive, and what they hold when they are read.

use std::collections::{BTreeMap, BTreeSet};

use super::shards::Shards;
use super::structure::place;
use super::{Code, Report};
use crate::graph::PhaseKind;
use crate::program::{BufferId, Instruction, Region, Role};

/// Addresses are multiples of this.
const LINE: u64 = 64;

pub(super) fn check(report: &mut Report<'_>, shards: &mut Shards<'_>) {
    for role in &report.program.roles {
        sizes(report, shards, role);
        regions(report, role);
        written(report, role);
        overlaps(report, role);
    }
}

/// The buffers that something names; others have no place.
fn used(role: &Role) -> BTreeSet<BufferId> {
    let instructions = role.sections.iter().flat_map(|section| &section.instructions);
    let named = instructions.flat_map(|instruction| instruction.reads().into_iter().chain(instruction.writes()));
    named.chain(outside(role)).collect()
}

/// The buffers that are read from outside after the step.
fn outside(role: &Role) -> BTreeSet<BufferId> {
    let named = role.reports.iter().chain(&role.gradients).map(|(_, id)| *id);
    named.chain(role.leaves.iter().map(|leaf| leaf.buffer)).collect()
}

fn copies(role: &Role, region: Region) -> u64 {
    if region == Region::Saved { role.in_flight } else { 1 }
}

fn sizes(report: &mut Report<'_>, shards: &mut Shards<'_>, role: &Role) {
    for id in used(role) {
        let buffer = &role.buffers[id];
        let at = || format!("stage {}, buffer {id} `{}`", role.stage, buffer.name);
        let largest = shards.of_buffer(buffer).iter().map(|shard| shards.elements(*shard)).max().unwrap_or(0);
        let needed = buffer.dtype.bytes(largest);
        report.check(buffer.bytes == needed, Code::Size, at, || format!("it has {} bytes and its largest shard {needed}", buffer.bytes));
        let end = (copies(role, buffer.region) - 1).checked_mul(role.saved_stride);
        let end = end.and_then(|last| last.checked_add(buffer.offset)?.checked_add(buffer.bytes));
        let aligned = buffer.offset.is_multiple_of(LINE) && role.saved_stride.is_multiple_of(LINE);
        report.check(aligned && end.is_some_and(|end| end <= role.arena_bytes), Code::Arena, at, || {
            let copies = copies(role, buffer.region);
            format!(
                "{copies} × {} bytes at {} do not lie on lines of {LINE} in an arena of {}",
                buffer.bytes, buffer.offset, role.arena_bytes
            )
        });
    }
}

fn regions(report: &mut Report<'_>, role: &Role) {
    let mut phases: BTreeMap<BufferId, BTreeSet<PhaseKind>> = BTreeMap::new();
    for section in &role.sections {
        for instruction in &section.instructions {
            for id in instruction.reads().into_iter().chain(instruction.writes()) {
                phases.entry(id).or_default().insert(section.phase);
            }
        }
    }
    for (id, seen) in phases {
        let buffer = &role.buffers[id];
        let fits = match buffer.region {
            Region::Lasting => true,
            Region::Saved => seen.iter().all(|phase| matches!(phase, PhaseKind::Forward | PhaseKind::Backward)),
            Region::Passing => seen.len() == 1,
        };
        report.check(
            fits,
            Code::Region,
            || format!("stage {}, buffer {id} `{}`", role.stage, buffer.name),
            || {
                let words: Vec<&str> = seen.iter().map(|phase| phase.word()).collect();
                format!("it is {:?} and used in {}", buffer.region, words.join(", "))
            },
        );
    }
}

/// Whatever is read was written, on the way through the sections in order.
fn written(report: &mut Report<'_>, role: &Role) {
    let mut full: BTreeSet<BufferId> = role.leaves.iter().map(|leaf| leaf.buffer).collect();
    for section in &role.sections {
        for (n, instruction) in section.instructions.iter().enumerate() {
            // the first micro-batch writes where later ones add
            let adds = match instruction {
                Instruction::Kernel { accumulate: true, .. } | Instruction::Copy { accumulate: true, .. } => instruction.writes(),
                _ => None,
            };
            for id in instruction.reads().into_iter().filter(|id| adds != Some(*id) && !full.contains(id)) {
                let at = || place(report.program, role.stage, section.phase.word(), n, instruction);
                let name = &role.buffers[id].name;
                let (at, text) = (at(), format!("it reads buffer {id} `{name}` before anything is written there"));
                report.check(false, Code::Unwritten, || at, || text);
            }
            full.extend(instruction.writes());
        }
    }
    for id in outside(role).into_iter().filter(|id| !full.contains(id)) {
        let name = &role.buffers[id].name;
        report.check(
            false,
            Code::Unwritten,
            || format!("stage {}", role.stage),
            || format!("buffer {id} `{name}` is read after the step and nothing writes it"),
        );
    }
}

/// A buffer's bytes and the instructions, first to last, during which they are its own.
struct Life {
    id: BufferId,
    start: u64,
    end: u64,
    from: usize,
    to: usize,
}

fn overlaps(report: &mut Report<'_>, role: &Role) {
    let mut lives = lives(role);
    // what no rank holds anything of is in nobody's way
    lives.retain(|life| life.start < life.end);
    lives.sort_by_key(|life| (life.start, life.id));
    for (n, a) in lives.iter().enumerate() {
        for b in lives[n + 1..].iter().take_while(|b| b.start < a.end) {
            let together = a.from <= b.to && b.from <= a.to && a.id != b.id;
            if together {
                let name = |id: BufferId| format!("{id} `{}`", role.buffers[id].name);
                report.check(
                    false,
                    Code::Overlap,
                    || format!("stage {}", role.stage),
                    || format!("buffers {} and {} are alive together at byte {}", name(a.id), name(b.id), b.start),
                );
            }
        }
    }
}

fn lives(role: &Role) -> Vec<Life> {
    let mut spans: BTreeMap<BufferId, (usize, usize)> = BTreeMap::new();
    let mut batches = (usize::MAX, 0);
    let mut at = 0;
    for section in &role.sections {
        if matches!(section.phase, PhaseKind::Forward | PhaseKind::Backward) {
            batches = (batches.0.min(at), batches.1.max(at + section.instructions.len()));
        }
        for instruction in &section.instructions {
            for id in instruction.reads().into_iter().chain(instruction.writes()) {
                spans.entry(id).or_insert((at, at)).1 = at;
            }
            at += 1;
        }
    }
    for id in outside(role) {
        spans.entry(id).or_insert((at, at)).1 = at;
    }
    let mut lives = Vec::new();
    for (id, (from, to)) in spans {
        let buffer = &role.buffers[id];
        let (from, to) = match buffer.region {
            Region::Lasting => (0, at),
            // with several in flight, one micro-batch's forward runs between another's forward and backward; still,
            // each copy is alive from its own forward to its own backward
            Region::Saved if role.in_flight > 1 => (from.min(batches.0), to.max(batches.1)),
            _ => (from, to),
        };
        for copy in 0..copies(role, buffer.region) {
            let start = buffer.offset.saturating_add(copy.saturating_mul(role.saved_stride));
            lives.push(Life { id, start, end: start.saturating_add(buffer.bytes), from, to });
        }
    }
    lives
}
