//! What every rank holds of a tensor at every micro-batch, worked out once for each (layout, shape).

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::layout::{Intervals, Layout, count};
use crate::program::{Buffer, Program};

/// One rank's part of a tensor, by dimension.
pub(super) type Shard = Vec<Intervals>;

/// Shards by rank and micro-batch, micro-batches innermost. Equal shards have one number, so that lists of them are
/// short and compared at once.
pub(super) struct Shards<'a> {
    program: &'a Program,
    numbers: BTreeMap<Shard, u32>,
    shards: Vec<Shard>,
    known: BTreeMap<(Layout, Vec<u64>), Rc<Vec<u32>>>,
}

impl<'a> Shards<'a> {
    pub fn new(program: &'a Program) -> Self {
        Self { program, numbers: BTreeMap::new(), shards: Vec::new(), known: BTreeMap::new() }
    }

    /// Coordinates by rank and micro-batch.
    pub fn places(&self) -> impl Iterator<Item = Vec<u64>> + use<'a> {
        let program = self.program;
        let moments = move |rank| (0..program.micro_batches).map(move |moment| program.mesh.coordinates(rank, moment));
        (0..program.mesh.ranks()).flat_map(moments)
    }

    /// The numbers of the shards of a tensor.
    pub fn of(&mut self, layout: &Layout, shape: &[u64]) -> Rc<Vec<u32>> {
        let key = (layout.clone(), shape.to_vec());
        if let Some(known) = self.known.get(&key) {
            return Rc::clone(known);
        }
        let places = self.places().map(|at| self.number(layout.shard(shape, &self.program.mesh, &at))).collect();
        let all = Rc::new(places);
        self.known.insert(key, Rc::clone(&all));
        all
    }

    pub fn of_buffer(&mut self, buffer: &Buffer) -> Rc<Vec<u32>> {
        self.of(&buffer.layout, &buffer.shape)
    }

    fn number(&mut self, shard: Shard) -> u32 {
        if let Some(known) = self.numbers.get(&shard) {
            return *known;
        }
        let number = u32::try_from(self.shards.len()).expect("there are fewer places than 2^32");
        self.shards.push(shard.clone());
        self.numbers.insert(shard, number);
        number
    }

    /// The shard with a number.
    pub fn shard(&self, number: u32) -> &Shard {
        &self.shards[number as usize]
    }

    /// Elements of the shard with a number.
    pub fn elements(&self, number: u32) -> u64 {
        self.shard(number).iter().map(|held| count(held)).product()
    }
}
