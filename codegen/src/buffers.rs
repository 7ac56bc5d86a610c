//! Static buffers: copies that are not needed are taken out, then every buffer gets its place in the arena.

use std::collections::{BTreeMap, BTreeSet};

use partita_ir::graph::PhaseKind;
use partita_ir::program::{Buffer, BufferId, Instruction, Region, Section};
use partita_ir::rule::{Reduce, Rule};

/// Addresses are multiples of this, a cache line.
const LINE: u64 = 64;

/// Takes out copies: a kernel writes (or adds) straight into what its result would be copied to, and a value that is
/// not read again becomes its copy. `keep` are buffers read from outside.
pub fn drop_copies(sections: &mut [Section], buffers: &[Buffer], rules: &dyn Fn(usize) -> Rule, keep: &BTreeSet<BufferId>) {
    let mut copies = Copies::new(sections, buffers.len());
    loop {
        let mut dropped = false;
        for at in 0..copies.instructions.len() {
            dropped |= copies.drop_one(at, buffers, rules, keep);
        }
        if !dropped {
            break;
        }
    }
    let mut at = 0;
    for section in sections {
        let count = section.instructions.len();
        section.instructions = (at..at + count)
            .filter(|position| !copies.gone[*position])
            .map(|position| {
                let mut instruction = copies.instructions[position].clone();
                instruction.rename(&|id| copies.now(id));
                instruction
            })
            .collect();
        at += count;
    }
}

/// The instructions of all sections in one row, with who reads and writes what, kept up as copies go.
struct Copies {
    instructions: Vec<Instruction>,
    /// First position of each instruction's section.
    section: Vec<usize>,
    gone: Vec<bool>,
    /// What a buffer has become.
    became: Vec<BufferId>,
    reads: Vec<Vec<usize>>,
    writes: Vec<Vec<usize>>,
}

impl Copies {
    fn new(sections: &[Section], n_buffers: usize) -> Self {
        let mut all = Self {
            instructions: Vec::new(),
            section: Vec::new(),
            gone: Vec::new(),
            became: (0..n_buffers).collect(),
            reads: vec![Vec::new(); n_buffers],
            writes: vec![Vec::new(); n_buffers],
        };
        for section in sections {
            let base = all.instructions.len();
            for instruction in &section.instructions {
                let at = all.instructions.len();
                instruction.reads().into_iter().for_each(|id| all.reads[id].push(at));
                instruction.writes().into_iter().for_each(|id| all.writes[id].push(at));
                all.instructions.push(instruction.clone());
                all.section.push(base);
                all.gone.push(false);
            }
        }
        all
    }

    fn now(&self, mut id: BufferId) -> BufferId {
        while self.became[id] != id {
            id = self.became[id];
        }
        id
    }

    /// Takes out the copy at a position, if it is one that need not be.
    fn drop_one(&mut self, at: usize, buffers: &[Buffer], rules: &dyn Fn(usize) -> Rule, keep: &BTreeSet<BufferId>) -> bool {
        let Instruction::Copy { from, to, accumulate } = self.instructions[at] else { return false };
        let (from, to) = (self.now(from), self.now(to));
        let passing = buffers[from].region == Region::Passing && !keep.contains(&from);
        let alike = buffers[from].bytes == buffers[to].bytes && buffers[from].dtype == buffers[to].dtype;
        let [made] = self.writes[from][..] else { return false };
        if self.gone[at] || from == to || !passing || !alike || made < self.section[at] {
            return false;
        }
        if buffers[to].region == Region::Passing {
            // the copy is the only thing made of it from here on
            let only = !accumulate && self.writes[to].first() == Some(&at) && self.reads[from].iter().all(|read| *read <= at);
            if only {
                self.merge(from, to, at);
            }
            return only;
        }
        // into what lasts: the producer writes there, if nobody needs the old content in between
        let between = |positions: &[usize]| positions.iter().any(|position| *position > made && *position < at);
        if between(&self.reads[to]) || between(&self.writes[to]) {
            return false;
        }
        match &self.instructions[made] {
            Instruction::Kernel { kernel, operands, .. } => {
                let rule = rules(*kernel);
                let operands: Vec<BufferId> = operands.iter().map(|id| self.now(*id)).collect();
                let in_place = operands.iter().enumerate().all(|(n, operand)| *operand != to || rule.operands[n] == rule.result);
                let adds =
                    !accumulate || (matches!(rule.reduce, None | Some(Reduce::Sum)) && self.reads[from] == [at] && !operands.contains(&to));
                if !in_place || !adds {
                    return false;
                }
                if let Instruction::Kernel { accumulate: kernel_adds, .. } = &mut self.instructions[made] {
                    *kernel_adds = accumulate;
                }
                self.merge(from, to, at);
                if accumulate {
                    insert(&mut self.reads[to], made);
                }
                true
            }
            Instruction::Box { from: source, to: target, .. } => {
                let (source, target) = (self.now(*source), self.now(*target));
                if accumulate || source == target || source == to {
                    return false;
                }
                self.merge(from, to, at);
                true
            }
            _ => false,
        }
    }

    /// `from` becomes `to`, and the copy between them goes.
    fn merge(&mut self, from: BufferId, to: BufferId, copy: usize) {
        self.gone[copy] = true;
        self.became[from] = to;
        for list in [&mut self.reads, &mut self.writes] {
            let moved = std::mem::take(&mut list[from]);
            list[to].retain(|position| *position != copy);
            for position in moved.into_iter().filter(|position| *position != copy) {
                insert(&mut list[to], position);
            }
        }
    }
}

/// Adds to an ascending list.
fn insert(list: &mut Vec<usize>, position: usize) {
    if let Err(place) = list.binary_search(&position) {
        list.insert(place, position);
    }
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
