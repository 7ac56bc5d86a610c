//! Static buffers: copies that are not needed are taken out, then every buffer gets its place in the arena.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::graph::PhaseKind;
use partita_ir::program::{Buffer, BufferId, Instruction, Region, Section};
use partita_ir::rule::{Reduce, Rule};

/// Addresses are multiples of this, a cache line.
const LINE: u64 = 64;

/// Where things are read and written: positions count through all sections of a step.
struct Uses {
    reads: BTreeMap<BufferId, Vec<usize>>,
    writes: BTreeMap<BufferId, Vec<usize>>,
}

fn uses(sections: &[Section]) -> Uses {
    let mut found = Uses { reads: BTreeMap::new(), writes: BTreeMap::new() };
    for (at, instruction) in sections.iter().flat_map(|section| &section.instructions).enumerate() {
        instruction.reads().into_iter().for_each(|id| found.reads.entry(id).or_default().push(at));
        instruction.writes().into_iter().for_each(|id| found.writes.entry(id).or_default().push(at));
    }
    found
}

/// Takes out copies: a kernel writes (or adds) straight into what its result would be copied to, and a value that is
/// not read again becomes its copy. `keep` are buffers read from outside.
pub fn drop_copies(sections: &mut [Section], buffers: &[Buffer], rules: &dyn Fn(usize) -> Rule, keep: &BTreeSet<BufferId>) {
    while let Some((section, copy, change)) = next_copy(sections, buffers, rules, keep) {
        let Instruction::Copy { from, to, .. } = sections[section].instructions[copy] else { unreachable!("a copy was found") };
        sections[section].instructions.remove(copy);
        if let Change::Retarget { producer, accumulate } = change {
            if let Instruction::Kernel { accumulate: adds, .. } = &mut sections[section].instructions[producer] {
                *adds = accumulate;
            }
        }
        for instruction in sections.iter_mut().flat_map(|section| &mut section.instructions) {
            instruction.rename(&|id| if id == from { to } else { id });
        }
    }
}

enum Change {
    Retarget { producer: usize, accumulate: bool },
    Alias,
}

fn next_copy(
    sections: &[Section],
    buffers: &[Buffer],
    rules: &dyn Fn(usize) -> Rule,
    keep: &BTreeSet<BufferId>,
) -> Option<(usize, usize, Change)> {
    let uses = uses(sections);
    let none = Vec::new();
    let mut base = 0;
    for (index, section) in sections.iter().enumerate() {
        for (at, instruction) in section.instructions.iter().enumerate() {
            let Instruction::Copy { from, to, accumulate } = *instruction else { continue };
            let reads = |id: BufferId| uses.reads.get(&id).unwrap_or(&none);
            let writes = |id: BufferId| uses.writes.get(&id).unwrap_or(&none);
            let passing = buffers[from].region == Region::Passing && !keep.contains(&from);
            if !passing || writes(from).len() != 1 || buffers[from].bytes != buffers[to].bytes || buffers[from].dtype != buffers[to].dtype {
                continue;
            }
            let made = writes(from)[0];
            let here = base + at;
            if made < base {
                continue;
            }
            if buffers[to].region == Region::Passing {
                // the copy is the only thing made of it from here on
                if !accumulate && writes(to).first() == Some(&here) && reads(from).iter().all(|read| *read <= here) {
                    return Some((index, at, Change::Alias));
                }
                continue;
            }
            // into what lasts: the producer writes there, if nobody needs the old content in between
            let between = |positions: &[usize]| positions.iter().any(|position| *position > made && *position < here);
            let undisturbed = !between(reads(to)) && !between(writes(to));
            let producer = made - base;
            match &section.instructions[producer] {
                Instruction::Kernel { kernel, operands, .. } if undisturbed => {
                    let rule = rules(*kernel);
                    let in_place = operands.iter().enumerate().all(|(n, operand)| *operand != to || rule.operands[n] == rule.result);
                    let adds = !accumulate || (matches!(rule.reduce, None | Some(Reduce::Sum)) && reads(from).len() == 1);
                    if in_place && adds && (!accumulate || !operands.contains(&to)) {
                        return Some((index, at, Change::Retarget { producer, accumulate }));
                    }
                }
                Instruction::Box { from: source, to: target, .. } if undisturbed && !accumulate && source != target && *source != to => {
                    return Some((index, at, Change::Alias));
                }
                _ => {}
            }
        }
        base += section.instructions.len();
    }
    None
}

/// The arena of a role.
pub struct Arena {
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes between copies of saved buffers.
    pub saved_stride: u64,
}

/// Decides the region of every buffer and lays all out: what lasts first; then, for each micro-batch in flight, what
/// is saved from forward to backward; then what passes. Buffers that are not alive together share space.
pub fn place(sections: &[Section], buffers: &mut [Buffer], in_flight: u64, keep: &BTreeSet<BufferId>) -> Arena {
    let mut alive: BTreeMap<BufferId, (usize, usize)> = BTreeMap::new();
    let mut phases: BTreeMap<BufferId, BTreeSet<PhaseKind>> = BTreeMap::new();
    let mut at = 0;
    for section in sections {
        for instruction in &section.instructions {
            for id in instruction.reads().into_iter().chain(instruction.writes()) {
                let span = alive.entry(id).or_insert((at, at));
                span.1 = at;
                phases.entry(id).or_default().insert(section.phase);
            }
            at += 1;
        }
    }
    for id in keep {
        // read after the last instruction
        if let Some(span) = alive.get_mut(id) {
            span.1 = at;
        }
    }
    for (id, seen) in &phases {
        if buffers[*id].region == Region::Passing && seen.len() > 1 {
            let saved = *seen == BTreeSet::from([PhaseKind::Forward, PhaseKind::Backward]);
            buffers[*id].region = if saved { Region::Saved } else { Region::Lasting };
        }
    }
    let round = |bytes: u64| bytes.div_ceil(LINE) * LINE;
    let mut lasting = 0;
    for (id, buffer) in buffers.iter_mut().enumerate() {
        if buffer.region == Region::Lasting && (alive.contains_key(&id) || keep.contains(&id)) {
            buffer.offset = lasting;
            lasting += round(buffer.bytes);
        }
    }
    let of_region = |buffers: &[Buffer], region: Region| -> Vec<(BufferId, (usize, usize))> {
        alive.iter().filter(|(id, _)| buffers[**id].region == region).map(|(id, span)| (*id, *span)).collect()
    };
    // with one micro-batch in flight, saved and passing buffers fill one another's gaps
    if in_flight == 1 {
        let mut both = of_region(buffers, Region::Saved);
        both.extend(of_region(buffers, Region::Passing));
        let end = pack(&both, buffers, lasting);
        return Arena { bytes: end, saved_stride: 0 };
    }
    let saved = of_region(buffers, Region::Saved);
    let stride = pack(&saved, buffers, lasting) - lasting;
    let passing = of_region(buffers, Region::Passing);
    let end = pack(&passing, buffers, lasting + stride * in_flight);
    Arena { bytes: end, saved_stride: stride }
}

/// Places buffers from `base` on, the largest first, each at the lowest place free for as long as it lives (Pisarchyk
/// and Lee, 2020, greedy by size). Gives the end.
fn pack(live: &[(BufferId, (usize, usize))], buffers: &mut [Buffer], base: u64) -> u64 {
    let mut order: Vec<&(BufferId, (usize, usize))> = live.iter().collect();
    order.sort_by_key(|(id, span)| (std::cmp::Reverse(buffers[*id].bytes), span.0, *id));
    let mut placed: Vec<(u64, u64, usize, usize)> = Vec::new();
    let mut end = base;
    for (id, span) in order {
        let size = buffers[*id].bytes.div_ceil(LINE) * LINE;
        let mut offset = base;
        for (start, stop, from, to) in &placed {
            let together = *from <= span.1 && span.0 <= *to;
            if together && *start < offset + size && offset < *stop {
                offset = *stop;
            }
        }
        buffers[*id].offset = offset;
        let position = placed.partition_point(|other| other.0 < offset);
        placed.insert(position, (offset, offset + size, span.0, span.1));
        end = end.max(offset + size);
    }
    end
}
