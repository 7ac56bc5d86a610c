//! What lies in the arenas between steps: first values, files in, files out.

use partita_ir::dtype::DType;
use partita_ir::graph::Init;
use partita_ir::layout::{Intervals, count};
use partita_ir::program::{LeafKind, LeafSpec, Program};
use partita_ir::random::{DrawContext, salt_of, stream};

use super::RunError;
use super::execute::Rank;
use super::numbers;
use crate::store::{Declared, ParameterFile, Writer};

/// What a file of parameters, or a checkpoint, holds for a program.
pub fn declared(program: &Program, moments: bool) -> Vec<Declared> {
    let leaves = program.roles.iter().flat_map(|role| role.leaves.iter().map(move |leaf| (role, leaf)));
    leaves
        .filter(|(_, leaf)| leaf.owner && kept(leaf, moments))
        .map(|(role, leaf)| {
            let buffer = &role.buffers[leaf.buffer];
            Declared { name: leaf.name.clone(), dtype: buffer.dtype, shape: buffer.shape.clone() }
        })
        .collect()
}

fn kept(leaf: &LeafSpec, moments: bool) -> bool {
    matches!(leaf.kind, LeafKind::Param(_) | LeafKind::State(_))
        || (moments && matches!(leaf.kind, LeafKind::Moment(_) | LeafKind::Copy { .. }))
}

impl Rank<'_> {
    /// Gives every parameter and state its first value. Element `i` of a parameter depends on the seed, its name and
    /// `i` alone.
    pub fn initialise(&self) {
        for leaf in &self.view.role.leaves {
            let (init, drawn_by) = match &leaf.kind {
                LeafKind::Param(init) | LeafKind::State(init) | LeafKind::Moment(init) => (*init, &leaf.name),
                LeafKind::Copy { init, of } => (*init, of),
                LeafKind::StepNumber => continue,
            };
            let buffer = &self.view.role.buffers[leaf.buffer];
            let shard = self.view.shard(leaf.buffer, 0);
            let out = self.bytes(self.view.place(leaf.buffer, 0));
            let draws = stream(DrawContext { seed: self.seed, step: 0, iteration: 0 }, salt_of(drawn_by));
            fill(init, draws, &buffer.shape, &shard, buffer.dtype, out);
        }
    }

    /// Writes the number of the step, from 1, where the program reads it.
    pub fn supply(&self, number: u64) {
        for leaf in self.view.role.leaves.iter().filter(|leaf| leaf.kind == LeafKind::StepNumber) {
            let out = self.bytes(self.view.place(leaf.buffer, 0));
            numbers::put(self.view.role.buffers[leaf.buffer].dtype, out, number as f64);
        }
    }

    /// Reads parameters and states (and moments) from a file; those of a mirror too. Without moments, copies of parameters are
    /// read as those are. With `partial`, what the file lacks stays as it is.
    pub fn load(&self, file: &ParameterFile, moments: bool, partial: bool) -> Result<(), RunError> {
        for leaf in &self.view.role.leaves {
            let name = match &leaf.kind {
                LeafKind::Copy { of, .. } if !moments => of,
                _ if kept(leaf, moments) => &leaf.name,
                _ => continue,
            };
            if partial && file.shape(name).is_none() {
                continue;
            }
            let buffer = &self.view.role.buffers[leaf.buffer];
            let shard = self.view.shard(leaf.buffer, 0);
            file.read_box(name, &buffer.shape, &shard, buffer.dtype, self.bytes(self.view.place(leaf.buffer, 0)))?;
        }
        Ok(())
    }

    /// Writes this rank's part of parameters and states (and moments): each shard is written by the first rank that holds it.
    pub fn save(&self, writer: &Writer, moments: bool) -> Result<(), RunError> {
        for leaf in self.view.role.leaves.iter().filter(|leaf| leaf.owner && kept(leaf, moments)) {
            if self.view.is_first_holder(leaf.buffer) {
                let shard = self.view.shard(leaf.buffer, 0);
                writer.write_box(&leaf.name, &shard, self.bytes(self.view.place(leaf.buffer, 0)))?;
            }
        }
        Ok(())
    }

    /// The elements that this rank holds of a buffer of floating-point numbers.
    pub fn numbers(&self, buffer: usize) -> Vec<f64> {
        numbers::read(self.view.role.buffers[buffer].dtype, self.bytes(self.view.place(buffer, 0)))
    }

    /// The value of a scalar buffer.
    pub fn scalar(&self, buffer: usize) -> f64 {
        self.numbers(buffer)[0]
    }
}

fn fill(init: Init, draws: u64, shape: &[u64], shard: &[Intervals], dtype: DType, out: &mut [u8]) {
    let mut at = 0;
    let width = dtype.bytes(1) as usize;
    each_index(shape, shard, &mut |element| {
        numbers::put(dtype, &mut out[at..at + width], init.element(draws, element));
        at += width;
    });
}

/// Calls `visit` with the row-major global index of every element of a shard, in order.
pub fn each_index(shape: &[u64], shard: &[Intervals], visit: &mut dyn FnMut(u64)) {
    fn walk(shape: &[u64], shard: &[Intervals], base: u64, visit: &mut dyn FnMut(u64)) {
        let Some((held, rest)) = shard.split_first() else { return visit(base) };
        for index in held.iter().flat_map(|(start, end)| *start..*end) {
            walk(&shape[1..], rest, base * shape[0] + index, visit);
        }
    }
    if shard.iter().all(|held| count(held) > 0) {
        walk(shape, shard, 0, visit);
    }
}
