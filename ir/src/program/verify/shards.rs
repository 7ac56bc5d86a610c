//! What every rank holds of a tensor at every micro-batch, worked out once for each (layout, shape).

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::layout::{Intervals, Layout, count};
use crate::program::{Buffer, Program};

/// One rank's part of a tensor, by dimension.
pub(super) type Shard = Vec<Intervals>;

/// Shards by rank and micro-batch, micro-batches innermost.
pub(super) struct Shards<'a> {
    program: &'a Program,
    known: BTreeMap<(Layout, Vec<u64>), Rc<Vec<Shard>>>,
}

impl<'a> Shards<'a> {
    pub fn new(program: &'a Program) -> Self {
        Self { program, known: BTreeMap::new() }
    }

    /// Coordinates by rank and micro-batch.
    pub fn places(&self) -> impl Iterator<Item = Vec<u64>> + use<'a> {
        let program = self.program;
        let moments = move |rank| (0..program.micro_batches).map(move |moment| program.mesh.coordinates(rank, moment));
        (0..program.mesh.ranks()).flat_map(moments)
    }

    pub fn of(&mut self, layout: &Layout, shape: &[u64]) -> Rc<Vec<Shard>> {
        let key = (layout.clone(), shape.to_vec());
        if let Some(known) = self.known.get(&key) {
            return Rc::clone(known);
        }
        let all = Rc::new(self.places().map(|at| layout.shard(shape, &self.program.mesh, &at)).collect::<Vec<_>>());
        self.known.insert(key, Rc::clone(&all));
        all
    }

    pub fn of_buffer(&mut self, buffer: &Buffer) -> Rc<Vec<Shard>> {
        self.of(&buffer.layout, &buffer.shape)
    }
}

/// Elements of a shard.
pub(super) fn elements(shard: &[Intervals]) -> u64 {
    shard.iter().map(|held| count(held)).product()
}
