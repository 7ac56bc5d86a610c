//! Shards of tensors and back: what the layouts of a mesh mean, as plainly as it can be said.

use partita_ir::interpret::Tensor;
use partita_ir::layout::{Intervals, Layout, Mesh, Share, count};
use partita_ir::rule::Reduce;

/// Random numbers that a seed alone decides.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D)
    }

    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn real(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// The global indices of a shard's elements in order.
pub fn elements(shape: &[u64], shard: &[Intervals]) -> Vec<usize> {
    shape.iter().zip(shard).fold(vec![0], |so_far, (size, held)| {
        let inside =
            |before: usize| held.iter().flat_map(|(start, end)| *start..*end).map(move |index| before * *size as usize + index as usize);
        so_far.into_iter().flat_map(inside).collect()
    })
}

/// A part of a tensor.
pub fn restrict(tensor: &Tensor, shard: &[Intervals]) -> Tensor {
    let data = elements(&tensor.shape, shard).into_iter().map(|at| tensor.data[at]).collect();
    Tensor::new(shard.iter().map(|held| count(held)).collect(), data)
}

/// The length of what `op` merges at once in a tensor of this shape.
pub fn row(op: Reduce, shape: &[u64]) -> usize {
    if op.is_tuple() { shape.last().map_or(1, |size| *size as usize) } else { 1 }
}

/// Folds `other` into `into`.
pub fn merge(op: Reduce, into: &mut Tensor, other: &Tensor) {
    assert_eq!(into.shape, other.shape, "tensors that are merged have one shape");
    let row = row(op, &into.shape);
    into.data.chunks_mut(row.max(1)).zip(other.data.chunks(row.max(1))).for_each(|(a, b)| op.merge(a, b));
}

/// A tensor of identities.
pub fn identity(op: Reduce, shape: Vec<u64>) -> Tensor {
    let mut tensor = Tensor::from_fn(shape, |_| 0.0);
    let row = row(op, &tensor.shape).max(1);
    tensor.data.chunks_mut(row).for_each(|row| op.identity(row));
    tensor
}

/// The reduction that is pending somewhere in a layout.
pub fn pending(layout: &Layout) -> Option<Reduce> {
    layout.0.iter().find_map(|share| if let Share::Partial(op) = share { Some(*op) } else { None })
}

/// Which of the parts of a pending value the rank at `coordinates` holds, and how many there are.
fn part(layout: &Layout, mesh: &Mesh, coordinates: &[u64]) -> (usize, usize) {
    layout.partial_axes().into_iter().fold((0, 1), |(part, parts), axis| {
        let size = mesh.axes[axis].size as usize;
        (part * size + coordinates[axis] as usize, parts * size)
    })
}

/// A tensor on a mesh: what each rank holds.
#[derive(Clone, Debug)]
pub struct Sharded {
    pub layout: Layout,
    pub shards: Vec<Tensor>,
}

impl Sharded {
    /// Deals out a value that is the merge of `parts`, one of which each group of ranks holds where the layout is P.
    pub fn of_parts(parts: &[Tensor], layout: &Layout, mesh: &Mesh) -> Self {
        let shards = (0..mesh.ranks()).map(|rank| {
            let at = mesh.coordinates(rank, 0);
            let (part, count) = part(layout, mesh, &at);
            assert_eq!(count, parts.len(), "one part for each coordinate of the P axes");
            restrict(&parts[part], &layout.shard(&parts[part].shape, mesh, &at))
        });
        Self { layout: layout.clone(), shards: shards.collect() }
    }

    /// How many parts a value of this layout has.
    pub fn parts(layout: &Layout, mesh: &Mesh) -> usize {
        part(layout, mesh, &vec![0; mesh.axes.len()]).1
    }

    /// The largest difference between what the ranks hold together and `whole`, over all replicas; infinite if shapes
    /// or infinities differ.
    pub fn distance(&self, whole: &Tensor, mesh: &Mesh) -> f64 {
        let partial = self.layout.partial_axes();
        let mut worst = 0.0f64;
        for rank in 0..mesh.ranks() {
            let at = mesh.coordinates(rank, 0);
            if partial.iter().any(|axis| at[*axis] != 0) {
                continue;
            }
            let wanted = restrict(whole, &self.layout.shard(&whole.shape, mesh, &at));
            let mut members = mesh.group(rank, &partial).into_iter().map(|member| &self.shards[member as usize]);
            let mut held = members.next().expect("a group has a member").clone();
            for member in members {
                if member.shape != held.shape {
                    return f64::INFINITY;
                }
                merge(pending(&self.layout).expect("several parts have an op"), &mut held, member);
            }
            if held.shape != wanted.shape {
                return f64::INFINITY;
            }
            for (a, b) in held.data.iter().zip(&wanted.data) {
                let apart = if a == b { 0.0 } else { (a - b).abs() };
                worst = worst.max(if apart.is_nan() { f64::INFINITY } else { apart });
            }
        }
        worst
    }
}

/// All permutations of `0..n`.
pub fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    permutations(n - 1)
        .into_iter()
        .flat_map(|shorter| {
            (0..n).map(move |at| {
                let mut longer = shorter.clone();
                longer.insert(at, n - 1);
                longer
            })
        })
        .collect()
}
