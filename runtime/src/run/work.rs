//! What every rank of a program does in a step, in order, as sizes.

use partita_ir::graph::PhaseKind;
use partita_ir::program::{Program, Turn};
use partita_ir::work::Act as Work;

use super::RunError;
use super::execute::label;
use super::prepare::{Act, View, prepare};
use super::reuse::Uses;
use crate::comm::{Communicator, ThreadCommunicator, World};

/// The acts of a step, by rank, in the order in which the runtime does them.
///
/// # Errors
/// When a rank cannot be prepared.
pub fn works(program: &Program) -> Result<Vec<Vec<Work>>, RunError> {
    let all = world(program).iter().map(|communicator| acts(program, communicator)).collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().map(|acts| acts.into_iter().map(|(_, work)| work).collect()).collect())
}

/// The acts of a rank in a step with the names that a profile has for them.
///
/// # Errors
/// When the rank cannot be prepared.
pub fn named(program: &Program, rank: usize) -> Result<Vec<(String, Work)>, RunError> {
    acts(program, &world(program)[rank])
}

fn world(program: &Program) -> Vec<ThreadCommunicator> {
    World::connect_with((program.mesh.ranks() * program.roles.len() as u64) as usize, program.channel_capacity())
}

fn acts(program: &Program, communicator: &ThreadCommunicator) -> Result<Vec<(String, Work)>, RunError> {
    let view = View::new(program, communicator.rank());
    let prepared = prepare(&view, communicator)?;
    let order: Vec<(PhaseKind, usize, &Act)> = order(&view)
        .filter_map(|at| Some((at.0, prepared.sections.get(&at)?)))
        .flat_map(|(phase, acts)| acts.iter().enumerate().map(move |(n, act)| (phase, n, act)))
        .collect();
    let mut uses = Uses::new(view.role.arena_bytes as usize);
    // once for what the step before leaves in the caches
    order.iter().for_each(|(.., act)| drop(uses.act(act)));
    let known = |(phase, n, act): (PhaseKind, usize, &Act)| {
        let mut work = work(act);
        let reuse = uses.act(act);
        if let Work::Kernel(kernel) = &mut work {
            kernel.reuse = reuse;
        }
        (label(act, &view, phase, n), work)
    };
    Ok(order.into_iter().map(known).collect())
}

/// The sections of a step, in the order in which a rank goes through them.
fn order<'a>(view: &View<'a>) -> impl Iterator<Item = (PhaseKind, u64)> + use<'a> {
    let counts = (0..view.program.micro_batches).map(|micro| (PhaseKind::Count, micro));
    let turns = view.role.turns.iter().map(|turn| match turn {
        Turn::Forward(micro) => (PhaseKind::Forward, *micro),
        Turn::Backward(micro) => (PhaseKind::Backward, *micro),
    });
    counts.chain([(PhaseKind::Seed, 0)]).chain(turns).chain([(PhaseKind::Update, 0)])
}

/// An act as sizes.
pub(crate) fn work(act: &Act) -> Work {
    match act {
        Act::Kernel { kernel, accumulate, result, .. } => {
            let mut work = kernel.work();
            // what is added to is read too
            work.bytes += if *accumulate && work.matmul.is_none() { result.bytes as u64 } else { 0 };
            Work::Kernel(work)
        }
        Act::AllReduce { group, place, .. } if group.size() == 1 => Work::Move(place.bytes as u64),
        Act::AllReduce { group, place, kind, .. } => {
            Work::Collective { kind: *kind, members: group.ranks().to_vec(), bytes: place.bytes as u64 }
        }
        Act::Exchange { group, plan, to, kind, .. } => {
            let bytes = plan.work(to.bytes) as u64;
            if group.size() == 1 { Work::Move(bytes) } else { Work::Collective { kind: *kind, members: group.ranks().to_vec(), bytes } }
        }
        Act::Copy { from, to, .. } => Work::Move((from.bytes + to.bytes) as u64),
        Act::Load { place, .. } => Work::Move(place.bytes as u64),
        Act::Send { to, channel, place } => Work::Send { to: *to, channel: *channel, bytes: place.bytes as u64 },
        Act::Receive { from, channel, place } => Work::Receive { from: *from, channel: *channel, bytes: place.bytes as u64 },
    }
}
