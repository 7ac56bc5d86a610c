//! How much else a rank touches between two uses of the same memory: what a cache must hold for the second to find it there.

use partita_ir::work::Reuse;

use super::prepare::{Act, Place};

/// Pages of an arena at most: distances are counted in whole pages.
const PAGES: usize = 4096;
/// Bytes of a page at least.
const SMALLEST: usize = 16 << 10;

/// The uses of an arena's pages, in order.
pub(super) struct Uses {
    page: usize,
    /// When each page was last used; 0 for never.
    last: Vec<usize>,
    /// How many pages were last used at each moment, as a Fenwick tree.
    tree: Vec<u32>,
    now: usize,
}

impl Uses {
    /// Of an arena of so many bytes, none of which was used.
    pub(super) fn new(arena: usize) -> Self {
        let page = arena.div_ceil(PAGES).max(SMALLEST);
        let pages = arena.div_ceil(page).max(1);
        Self { page, last: vec![0; pages], tree: vec![0; 4 * pages + 1], now: 0 }
    }

    /// Uses a place; gives how far its last use lies back in the mean. What was never used is as far as the whole arena.
    fn touch(&mut self, place: Place) -> Reuse {
        let (first, end) = (place.offset / self.page, (place.offset + place.bytes).div_ceil(self.page).min(self.last.len()));
        let mut far = 0;
        for page in first..end {
            far += self.distance(page);
        }
        let distance = (far * self.page / (end - first).max(1)) as u64;
        Reuse { bytes: place.bytes as u64, distance }
    }

    /// Pages that were used since this one, itself among them, which is used now.
    fn distance(&mut self, page: usize) -> usize {
        if self.now + 1 == self.tree.len() {
            self.forget_times();
        }
        let all = self.last.len();
        let then = self.last[page];
        let far = if then == 0 { all } else { self.count(self.now) - self.count(then) + 1 };
        if then > 0 {
            self.add(then, false);
        }
        self.now += 1;
        self.add(self.now, true);
        self.last[page] = self.now;
        far
    }

    /// Pages whose last use is at this moment or before.
    fn count(&self, mut moment: usize) -> usize {
        let mut sum = 0;
        while moment > 0 {
            sum += self.tree[moment] as usize;
            moment &= moment - 1;
        }
        sum
    }

    fn add(&mut self, mut moment: usize, used: bool) {
        while moment < self.tree.len() {
            if used {
                self.tree[moment] += 1
            } else {
                self.tree[moment] -= 1
            }
            moment += moment & moment.wrapping_neg();
        }
    }

    /// Numbers the moments anew, from 1: only their order counts.
    fn forget_times(&mut self) {
        let mut order: Vec<usize> = (0..self.last.len()).filter(|page| self.last[*page] > 0).collect();
        order.sort_unstable_by_key(|page| self.last[*page]);
        self.tree.fill(0);
        self.now = order.len();
        for (moment, page) in order.into_iter().enumerate() {
            self.last[page] = moment + 1;
            self.add(moment + 1, true);
        }
    }

    /// Uses what an act reads and writes.
    pub(super) fn act(&mut self, act: &Act) -> Vec<Reuse> {
        match act {
            Act::Kernel { operands, result, .. } => operands.iter().chain([result]).map(|place| self.touch(*place)).collect(),
            Act::Exchange { from, to, .. } | Act::Copy { from, to, .. } => [from, to].map(|place| self.touch(*place)).to_vec(),
            Act::AllReduce { place, .. } | Act::Load { place, .. } | Act::Send { place, .. } | Act::Receive { place, .. } => {
                vec![self.touch(*place)]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_is_what_was_touched_since() {
        let mut uses = Uses::new(16 * SMALLEST);
        let place = |page: usize, pages: usize| Place { offset: page * SMALLEST, bytes: pages * SMALLEST };
        let distance = |uses: &mut Uses, page, pages| uses.touch(place(page, pages)).distance as usize / SMALLEST;
        // never used: the whole arena
        assert_eq!(distance(&mut uses, 0, 1), 16);
        assert_eq!(distance(&mut uses, 0, 1), 1);
        assert_eq!(distance(&mut uses, 1, 3), 16);
        assert_eq!(distance(&mut uses, 0, 1), 4);
        // each page of a place is as far from its last use as the place is large
        assert_eq!(distance(&mut uses, 1, 3), 4);
        assert_eq!(distance(&mut uses, 1, 3), 3);
        // however often the others are used meanwhile
        for _ in 0..1000 {
            distance(&mut uses, 5, 2);
        }
        assert_eq!(distance(&mut uses, 0, 1), 6);
    }
}
