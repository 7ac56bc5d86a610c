//! Turns, messages, and whether stages can wait for one another for ever.
//!
//! All ranks of a stage run the same instructions in the same order, so their collectives match, and a message goes to
//! the rank with the same coordinates: stages may be looked at instead of ranks. Which stage is moved on first changes
//! nothing, as channels are queues with one writer and one reader (Kahn, 1974).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::shards::Shards;
use super::structure::place;
use super::{Code, Report};
use crate::graph::PhaseKind;
use crate::program::{BufferId, Instruction, Program, Role, Turn};

pub(super) fn check(report: &mut Report<'_>, shards: &mut Shards<'_>) {
    for role in &report.program.roles {
        turns(report, role);
        peers(report, role);
    }
    if !report.found.iter().any(|found| matches!(found.code, Code::Peer | Code::Turns)) {
        messages(report, shards);
    }
}

fn turns(report: &mut Report<'_>, role: &Role) {
    let at = || format!("stage {}", role.stage);
    let (mut forward, mut backward) = (BTreeSet::new(), BTreeSet::new());
    let mut slots: BTreeMap<u64, u64> = BTreeMap::new();
    for turn in &role.turns {
        match *turn {
            Turn::Forward(micro) => {
                report.check(forward.insert(micro), Code::Turns, at, || format!("micro-batch {micro} goes forward twice"));
                if let Some(other) = slots.insert(micro % role.in_flight, micro) {
                    report.check(false, Code::Turns, at, || {
                        format!("micro-batches {other} and {micro} are in flight and share one of {} copies", role.in_flight)
                    });
                }
            }
            Turn::Backward(micro) => {
                let fine = forward.contains(&micro) && backward.insert(micro);
                report.check(fine, Code::Turns, at, || format!("micro-batch {micro} goes backward twice, or before it went forward"));
                slots.remove(&(micro % role.in_flight));
            }
        }
    }
    let all = report.program.micro_batches;
    let done = forward.len() as u64 == all && backward.len() as u64 == all;
    report.check(done, Code::Turns, at, || format!("{} of {all} micro-batches go forward and {} backward", forward.len(), backward.len()));
}

fn peers(report: &mut Report<'_>, role: &Role) {
    let stages = report.program.roles.len() as u64;
    let program = report.program;
    for section in &role.sections {
        for (n, instruction) in section.instructions.iter().enumerate() {
            if let Instruction::Send { stage, .. } | Instruction::Receive { stage, .. } = instruction {
                let at = || place(program, role.stage, section.phase.word(), n, instruction);
                let fine = *stage < stages && *stage != role.stage;
                report.check(fine, Code::Peer, at, || format!("stage {} has no stage {stage} to talk to", role.stage));
            }
        }
    }
}

/// A send or a receive of one micro-batch.
#[derive(Clone, Copy)]
struct Message {
    sends: bool,
    peer: u64,
    channel: u64,
    buffer: BufferId,
    phase: PhaseKind,
    moment: u64,
}

/// The messages of a stage in order of execution.
fn script(program: &Program, role: &Role) -> Vec<Message> {
    let mut script = Vec::new();
    let mut run = |phase: PhaseKind, moment: u64| {
        for instruction in role.section(phase) {
            let (sends, buffer, peer, channel) = match *instruction {
                Instruction::Send { buffer, stage, channel } => (true, buffer, stage, channel),
                Instruction::Receive { buffer, stage, channel } => (false, buffer, stage, channel),
                _ => continue,
            };
            script.push(Message { sends, peer, channel, buffer, phase, moment });
        }
    };
    (0..program.micro_batches).for_each(|moment| run(PhaseKind::Count, moment));
    run(PhaseKind::Seed, 0);
    for turn in &role.turns {
        match *turn {
            Turn::Forward(moment) => run(PhaseKind::Forward, moment),
            Turn::Backward(moment) => run(PhaseKind::Backward, moment),
        }
    }
    run(PhaseKind::Update, 0);
    script
}

fn messages(report: &mut Report<'_>, shards: &mut Shards<'_>) {
    let program = report.program;
    let scripts: Vec<Vec<Message>> = program.roles.iter().map(|role| script(program, role)).collect();
    let mut next = vec![0; scripts.len()];
    let mut queues: BTreeMap<(u64, u64, u64), VecDeque<Message>> = BTreeMap::new();
    let mut moved = true;
    while moved {
        moved = false;
        for (stage, script) in scripts.iter().enumerate() {
            while let Some(message) = script.get(next[stage]) {
                let here = stage as u64;
                if message.sends {
                    let queue = queues.entry((here, message.peer, message.channel)).or_default();
                    if queue.len() >= program.channel_capacity() {
                        break;
                    }
                    queue.push_back(*message);
                } else {
                    let sent = queues.get_mut(&(message.peer, here, message.channel)).and_then(VecDeque::pop_front);
                    let Some(sent) = sent else { break };
                    received(report, shards, here, &sent, message);
                }
                next[stage] += 1;
                moved = true;
            }
        }
    }
    for (stage, script) in scripts.iter().enumerate() {
        if let Some(stuck) = script.get(next[stage]) {
            let (action, word) = if stuck.sends { ("send to", "full") } else { ("receive from", "empty") };
            report.check(
                false,
                Code::Deadlock,
                || format!("stage {stage}"),
                || {
                    format!(
                        "in {} of micro-batch {} it waits for ever to {action} stage {} on channel {}, which stays {word}",
                        stuck.phase.word(),
                        stuck.moment,
                        stuck.peer,
                        stuck.channel
                    )
                },
            );
        }
    }
    if next.iter().zip(&scripts).all(|(next, script)| *next == script.len()) {
        for ((from, to, channel), queue) in queues.iter().filter(|(_, queue)| !queue.is_empty()) {
            report.check(
                false,
                Code::Message,
                || format!("stage {from}"),
                || format!("{} messages to stage {to} on channel {channel} are never received", queue.len()),
            );
        }
    }
}

fn received(report: &mut Report<'_>, shards: &mut Shards<'_>, stage: u64, sent: &Message, wanted: &Message) {
    let program = report.program;
    let source = &program.roles[wanted.peer as usize].buffers[sent.buffer];
    let target = &program.roles[stage as usize].buffers[wanted.buffer];
    let same = source.dtype == target.dtype
        && source.shape == target.shape
        && (source.layout == target.layout || shards.of_buffer(source) == shards.of_buffer(target));
    let timely = sent.phase == wanted.phase && sent.moment == wanted.moment;
    report.check(
        same && timely,
        Code::Message,
        || format!("stage {stage}"),
        || {
            format!(
                "`{}` of {} of micro-batch {} is received as `{}` of {} of micro-batch {}, of another type, shape, layout or time",
                source.name,
                sent.phase.word(),
                sent.moment,
                target.name,
                wanted.phase.word(),
                wanted.moment
            )
        },
    );
}
