//! One rank at work.
#![allow(unsafe_code, reason = "kernels take pointers into the arena")]

use std::collections::BTreeMap;

use partita_ir::boxing::StepKind;
use partita_ir::dtype::DType;
use partita_ir::graph::PhaseKind;
use partita_ir::layout::count;
use partita_ir::program::Turn;
use partita_ir::random::DrawContext;

use super::RunError;
use super::arena::Arena;
use super::numbers;
use super::prepare::{Act, Place, Prepared, View};
use crate::comm::Communicator;
use crate::data::DataSource;
use crate::pool::Pool;

/// A rank with everything that it needs.
pub struct Rank<'a> {
    /// Its view of the program.
    pub view: View<'a>,
    /// What it does.
    pub prepared: Prepared,
    /// Its memory.
    pub arena: Arena,
    /// Temporary memory of kernels.
    pub scratch: Arena,
    /// Its threads.
    pub pool: Pool,
    /// Its end of the collectives.
    pub communicator: &'a dyn Communicator,
    /// Tokens.
    pub data: &'a DataSource,
    /// Seed of the run.
    pub seed: u64,
    /// Bytes received, by kind of step.
    pub received: BTreeMap<&'static str, u64>,
    /// Seconds spent, by kind of act, if profiled.
    pub profile: Option<BTreeMap<String, (f64, u64)>>,
}

impl Rank<'_> {
    /// Runs one step; `step` counts from 0.
    pub fn step(&mut self, step: u64) -> Result<(), RunError> {
        self.received.clear();
        for micro in 0..self.view.program.micro_batches {
            self.section(PhaseKind::Count, micro, step)?;
        }
        self.section(PhaseKind::Seed, 0, step)?;
        for turn in &self.view.role.turns {
            match turn {
                Turn::Forward(micro) => self.section(PhaseKind::Forward, *micro, step)?,
                Turn::Backward(micro) => self.section(PhaseKind::Backward, *micro, step)?,
            }
        }
        self.section(PhaseKind::Update, 0, step)
    }

    fn section(&mut self, phase: PhaseKind, micro: u64, step: u64) -> Result<(), RunError> {
        let Some(acts) = self.prepared.sections.get(&(phase, micro)) else { return Ok(()) };
        for (at, act) in acts.iter().enumerate() {
            let started = self.profile.is_some().then(std::time::Instant::now);
            let received = perform(
                act,
                &self.arena,
                &self.scratch,
                &self.pool,
                self.communicator,
                self.data,
                self.view.program.batch,
                self.seed,
                step,
            )?;
            if let Some((kind, bytes)) = received {
                *self.received.entry(kind).or_default() += bytes;
            }
            if let (Some(profile), Some(started)) = (&mut self.profile, started) {
                let name = label(act, &self.view, phase, at);
                let entry = profile.entry(name).or_default();
                entry.0 += started.elapsed().as_secs_f64();
                entry.1 += 1;
            }
        }
        Ok(())
    }

    /// The bytes at a place.
    pub fn bytes(&self, place: Place) -> &mut [u8] {
        self.arena.bytes_of(place.offset, place.bytes)
    }
}

/// What a profile calls an act.
pub(super) fn label(act: &Act, view: &View<'_>, phase: PhaseKind, at: usize) -> String {
    use partita_ir::program::Instruction;
    match act {
        Act::Kernel { kernel, .. } => match &view.role.section(phase)[at] {
            Instruction::Kernel { kernel: id, .. } => {
                format!("{} {} ({} #{id})", phase.word(), view.program.kernels[*id].name, kernel.kind())
            }
            _ => kernel.kind().to_owned(),
        },
        Act::AllReduce { kind, .. } | Act::Exchange { kind, .. } => format!("{} {}", phase.word(), kind.word()),
        Act::Copy { .. } => format!("{} copy", phase.word()),
        Act::Load { .. } => "load".into(),
        Act::Send { .. } => format!("{} send", phase.word()),
        Act::Receive { .. } => format!("{} receive", phase.word()),
    }
}

/// Does one thing; gives what kind of step received how many bytes.
#[expect(clippy::too_many_arguments, reason = "the parts of a rank, borrowed apart")]
pub(crate) fn perform(
    act: &Act,
    arena: &Arena,
    scratch: &Arena,
    pool: &Pool,
    communicator: &dyn Communicator,
    data: &DataSource,
    batch: u64,
    seed: u64,
    step: u64,
) -> Result<Option<(&'static str, u64)>, RunError> {
    let bytes = |place: Place| arena.bytes_of(place.offset, place.bytes);
    match act {
        Act::Kernel { kernel, operands, result, iteration, accumulate } => {
            let read: Vec<*const u8> = operands.iter().map(|place| arena.address(place.offset, place.bytes).cast_const()).collect();
            let write = arena.address(result.offset, result.bytes);
            let ctx = DrawContext { seed, step, iteration: *iteration };
            // SAFETY: places hold tensors of the shapes that the kernel was prepared for (both follow from the same
            // layouts), aligned to 64 bytes; buffers alive at once do not overlap, and where the result is an operand
            // it is read where it is written.
            unsafe { kernel.run(&read, write, scratch.address(0, 0), *accumulate, ctx, pool) };
        }
        Act::AllReduce { group, op, dtype, row, place, kind } => {
            let received = communicator.all_reduce(group, *op, *dtype, *row, bytes(*place))?;
            return Ok(Some((kind.word(), received)));
        }
        Act::Exchange { group, plan, from, to, kind } => {
            let received = communicator.exchange(group, bytes(*from), bytes(*to), plan)?;
            return Ok(Some((kind.word(), received)));
        }
        Act::Copy { from, to, dtype, accumulate } => {
            let (source, target) = (bytes(*from), bytes(*to));
            if *accumulate { numbers::add(*dtype, source, target) } else { target.copy_from_slice(source) }
        }
        Act::Load { place, source, dtype, samples, part } if source.is_float() => {
            let width = dtype.bytes(1) as usize;
            let mut slots = bytes(*place).chunks_exact_mut(width);
            for sample in samples.iter().flat_map(|(start, end)| *start..*end) {
                data.visit(step * batch + sample, part, &mut |value| {
                    let slot = slots.next().expect("the buffer has room for the part");
                    match dtype {
                        DType::F64 => slot.copy_from_slice(&value.to_ne_bytes()),
                        _ => slot.copy_from_slice(&(value as f32).to_ne_bytes()),
                    }
                })?;
            }
        }
        Act::Load { place, source, samples, part, .. } => {
            let target = bytes(*place);
            // a label has one place
            let positions = part.first().map_or(&[(0, 1)][..], |positions| positions);
            let width = count(positions) as usize;
            let mut row = vec![0i32; width];
            for (n, sample) in samples.iter().flat_map(|(start, end)| *start..*end).enumerate() {
                let mut at = 0;
                for (start, end) in positions {
                    let length = (end - start) as usize;
                    data.load(*source, step * batch + sample, *start..*end, seed, &mut row[at..at + length])?;
                    at += length;
                }
                for (slot, token) in target[n * width * 4..(n + 1) * width * 4].chunks_exact_mut(4).zip(&row) {
                    slot.copy_from_slice(&token.to_le_bytes());
                }
            }
        }
        Act::Send { to, channel, place } => communicator.send(*to, *channel, bytes(*place))?,
        Act::Receive { from, channel, place } => {
            let received = communicator.receive(*from, *channel, bytes(*place))?;
            return Ok(Some(("receive", received)));
        }
    }
    Ok(None)
}

/// The kinds of steps that a rank may receive bytes in.
pub const KINDS: [StepKind; 5] =
    [StepKind::AllReduce, StepKind::ReduceScatter, StepKind::AllGather, StepKind::AllToAll, StepKind::Exchange];
