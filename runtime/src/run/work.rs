//! What every rank of a program does in a step, in order, as sizes.

use partita_ir::graph::PhaseKind;
use partita_ir::program::{Program, Turn};
use partita_ir::work::Act as Work;

use super::RunError;
use super::execute::label;
use super::prepare::{Act, View, prepare};
use crate::comm::{Communicator, World};

/// The acts of a step, by rank, in the order in which the runtime does them.
///
/// # Errors
/// When a rank cannot be prepared.
pub fn works(program: &Program) -> Result<Vec<Vec<Work>>, RunError> {
    let ranks = (program.mesh.ranks() * program.roles.len() as u64) as usize;
    World::connect_with(ranks, program.channel_capacity())
        .iter()
        .map(|communicator| {
            let view = View::new(program, communicator.rank());
            let prepared = prepare(&view, communicator)?;
            let acts = order(&view).filter_map(|at| prepared.sections.get(&at)).flatten();
            Ok(acts.map(work).collect())
        })
        .collect()
}

/// The acts of a rank in a step with the names that a profile has for them.
///
/// # Errors
/// When the rank cannot be prepared.
pub fn named(program: &Program, rank: usize) -> Result<Vec<(String, Work)>, RunError> {
    let ranks = (program.mesh.ranks() * program.roles.len() as u64) as usize;
    let world = World::connect_with(ranks, program.channel_capacity());
    let view = View::new(program, rank);
    let prepared = prepare(&view, &world[rank])?;
    let named = order(&view).filter_map(|at| Some((at.0, prepared.sections.get(&at)?)));
    Ok(named
        .flat_map(|(phase, acts)| acts.iter().enumerate().map(move |(n, act)| (phase, n, act)))
        .map(|(phase, n, act)| (label(act, &view, phase, n), work(act)))
        .collect())
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
