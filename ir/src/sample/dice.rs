//! Random choices that depend on a seed alone.

use crate::random::{DrawContext, stream, uniform};

pub(super) struct Dice {
    stream: u64,
    thrown: u64,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { stream: stream(DrawContext { seed, ..DrawContext::default() }, 0), thrown: 0 }
    }

    fn throw(&mut self) -> f64 {
        self.thrown += 1;
        uniform(self.stream, self.thrown)
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.throw() < probability
    }

    /// One of `0..bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        (self.throw() * bound as f64) as u64
    }

    /// One of `low..=high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// One of `low..high` as a real number.
    pub(super) fn real(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.throw()
    }

    pub(super) fn choose<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { Some(&from[self.below(from.len() as u64) as usize]) }
    }

    pub(super) fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// Some of `from` in order, each with this probability.
    pub(super) fn subset<T: Copy>(&mut self, from: &[T], probability: f64) -> Vec<T> {
        from.iter().copied().filter(|_| self.chance(probability)).collect()
    }

    /// Some of `from` in order, at least one unless there is none.
    pub(super) fn some<T: Copy>(&mut self, from: &[T], probability: f64) -> Vec<T> {
        let picked = self.subset(from, probability);
        if picked.is_empty() { self.choose(from).copied().into_iter().collect() } else { picked }
    }
}
