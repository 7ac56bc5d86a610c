//! Meshes and layouts (nd-SBP): which rank holds what of a tensor.
//!
//! A shard is an ordered list of global intervals, in every dimension, decided by the layout alone; see
//! [`Layout::shard`]. Nothing else in the project decides where an element is.

use serde::{Deserialize, Serialize};

use crate::rule::Reduce;

/// Ascending, disjoint, half-open intervals of global indices.
pub type Intervals = Vec<(u64, u64)>;

/// The number of indices in a list of intervals.
pub fn count(intervals: &[(u64, u64)]) -> u64 {
    intervals.iter().map(|(start, end)| end - start).sum()
}

/// The indices that two lists share.
pub fn intersect(a: &[(u64, u64)], b: &[(u64, u64)]) -> Intervals {
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::new();
    while i < a.len() && j < b.len() {
        let (start, end) = (a[i].0.max(b[j].0), a[i].1.min(b[j].1));
        if start < end {
            out.push((start, end));
        }
        if a[i].1 < b[j].1 {
            i += 1;
        } else {
            j += 1;
        }
    }
    out
}

/// How `n` things are dealt to parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Partition {
    /// Consecutive pieces that differ by at most one, the larger ones first: 20 over 6 is 4,4,3,3,3,3.
    #[default]
    Balanced,
    /// Twice as many balanced pieces; part `r` of `p` has pieces `r` and `2p-1-r`. Gives causal attention equal loads.
    Zigzag,
    /// Consecutive pieces of this length; the last ones may be shorter or empty.
    Chunk(u64),
}

impl Partition {
    /// The positions `0..n` of part `part` of `parts`: at most two intervals.
    pub fn part(self, n: u64, parts: u64, part: u64) -> Intervals {
        let balanced = |parts: u64, part: u64| {
            let (size, larger) = (n / parts, n % parts);
            let start = part * size + part.min(larger);
            (start, start + size + u64::from(part < larger))
        };
        let pieces = match self {
            Partition::Balanced => vec![balanced(parts, part)],
            Partition::Zigzag => vec![balanced(2 * parts, part), balanced(2 * parts, 2 * parts - 1 - part)],
            Partition::Chunk(length) => vec![((part * length).min(n), ((part + 1) * length).min(n))],
        };
        join(pieces.into_iter())
    }

    /// The size of the largest part.
    pub fn largest(self, n: u64, parts: u64) -> u64 {
        match self {
            Partition::Balanced => n.div_ceil(parts),
            Partition::Zigzag => (0..parts).map(|part| count(&self.part(n, parts, part))).max().unwrap_or(0),
            Partition::Chunk(length) => length.min(n),
        }
    }
}

/// Merges touching intervals and drops empty ones.
fn join(pieces: impl Iterator<Item = (u64, u64)>) -> Intervals {
    let mut out: Intervals = Vec::new();
    for (start, end) in pieces.filter(|(start, end)| start < end) {
        match out.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => out.push((start, end)),
        }
    }
    out
}

/// One axis of a mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MeshAxis {
    /// Its name, for people.
    pub name: String,
    /// Its size.
    pub size: u64,
    /// Whether it runs in time instead of over ranks: the axis of micro-batches. A P over it is an accumulation.
    pub time: bool,
}

/// A named grid of ranks. Ranks are numbered row-major over the axes that are not time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Mesh {
    /// The axes, outermost first.
    pub axes: Vec<MeshAxis>,
}

impl Mesh {
    /// A mesh of these (name, size) axes, none of them time.
    pub fn new(axes: &[(&str, u64)]) -> Self {
        let axes = axes.iter().map(|(name, size)| MeshAxis { name: (*name).to_owned(), size: *size, time: false }).collect();
        Self { axes }
    }

    /// The number of ranks.
    pub fn ranks(&self) -> u64 {
        self.axes.iter().filter(|axis| !axis.time).map(|axis| axis.size).product()
    }

    /// The coordinates of a rank, with `moment` on the axes of time.
    pub fn coordinates(&self, rank: u64, moment: u64) -> Vec<u64> {
        let mut rest = rank;
        let mut coordinates = vec![moment; self.axes.len()];
        for (axis, coordinate) in self.axes.iter().zip(&mut coordinates).rev().filter(|(axis, _)| !axis.time) {
            *coordinate = rest % axis.size;
            rest /= axis.size;
        }
        coordinates
    }

    /// The rank at these coordinates.
    pub fn rank(&self, coordinates: &[u64]) -> u64 {
        let spatial = self.axes.iter().zip(coordinates).filter(|(axis, _)| !axis.time);
        spatial.fold(0, |rank, (axis, coordinate)| rank * axis.size + coordinate)
    }

    /// The ranks that differ from `rank` only on `along`, in row-major order.
    pub fn group(&self, rank: u64, along: &[usize]) -> Vec<u64> {
        let here = self.coordinates(rank, 0);
        let mut ranks = vec![here];
        for (position, axis) in self.axes.iter().enumerate().filter(|(position, axis)| along.contains(position) && !axis.time) {
            ranks = ranks
                .into_iter()
                .flat_map(|at| {
                    (0..axis.size).map(move |coordinate| {
                        let mut at = at.clone();
                        at[position] = coordinate;
                        at
                    })
                })
                .collect();
        }
        ranks.iter().map(|at| self.rank(at)).collect()
    }
}

/// What an index of a factor needs of a dimension: index `i` needs the elements from `stride · i + first` on, `reach` of
/// them, as far as they are within the dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Window {
    /// Elements from one index to the next.
    pub stride: i64,
    /// The first element of index 0, perhaps before the dimension.
    pub first: i64,
    /// Elements that one index needs.
    pub reach: u64,
}

impl Window {
    /// What these indices need of a dimension of `dim` elements, and what lies between.
    pub fn image(&self, indices: &[(u64, u64)], dim: u64) -> Intervals {
        let (Some((low, _)), Some((_, high))) = (indices.first(), indices.last()) else { return Vec::new() };
        let ends = [*low as i64, *high as i64 - 1].map(|index| self.stride * index + self.first);
        let start = ends[0].min(ends[1]).max(0);
        let end = (ends[0].max(ends[1]) + self.reach as i64).min(dim as i64);
        if start < end { vec![(start as u64, end as u64)] } else { Vec::new() }
    }
}

/// A split of one dimension over one mesh axis. The dimension is seen as (outer, `size`, `inner`) and the middle
/// index is dealt out; a plain split has `inner` 1 and the dimension's whole size, a split of a minor factor of a
/// merged axis is strided.
///
/// Through a [`Window`] a factor of `size` indices beside the dimension is dealt out, and a rank holds what its indices
/// need: shards overlap, and there may be elements that no rank holds. Who walks all of the factor holds all of the
/// dimension. So a tensor is read like this, and neither made nor kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Split {
    /// The dimension.
    pub dim: usize,
    /// Size of the factor that is split.
    pub size: u64,
    /// Elements of the dimension per index of the factor.
    pub inner: u64,
    /// Position among the splits of this dimension, 0 outermost: the nesting order.
    pub depth: usize,
    /// How indices are dealt out.
    pub partition: Partition,
    /// The window through which the factor walks the dimension, if it does; `inner` is 1 then.
    pub window: Option<Window>,
}

impl Split {
    /// A split of a factor of a dimension.
    pub fn new(dim: usize, size: u64, inner: u64, depth: usize, partition: Partition) -> Self {
        Self { dim, size, inner, depth, partition, window: None }
    }

    /// A factor that walks a dimension as it is, or the dimension through a window.
    fn view(&self) -> (u64, u64, Option<Window>) {
        (self.size, self.inner, self.window)
    }
}

/// What one mesh axis does to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// S: every rank has a part.
    Split(Split),
    /// B: every rank has it all.
    Broadcast,
    /// P: the value is the reduction over ranks.
    Partial(Reduce),
}

impl Share {
    /// Whether it is a split through a window.
    pub fn is_windowed(&self) -> bool {
        matches!(self, Share::Split(Split { window: Some(_), .. }))
    }

    /// What it does to an entry of the tensor along its first dimension; `None` if it deals that dimension out.
    pub fn entry(self) -> Option<Share> {
        match self {
            Share::Split(split) => Some(Share::Split(Split { dim: split.dim.checked_sub(1)?, ..split })),
            other => Some(other),
        }
    }

    /// The same of a tensor of such tensors, along a first dimension that it does not deal out.
    pub fn stacked(self) -> Share {
        match self {
            Share::Split(split) => Share::Split(Split { dim: split.dim + 1, ..split }),
            other => other,
        }
    }
}

/// The layout of a tensor: one [`Share`] for each mesh axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Layout(pub Vec<Share>);

impl Layout {
    /// The layout of an entry of the tensor along its first dimension; `None` if ranks deal that dimension out.
    pub fn entry(&self) -> Option<Self> {
        self.0.iter().map(|share| share.entry()).collect::<Option<_>>().map(Self)
    }

    /// The layout of a tensor of such tensors, along a first dimension that every rank has whole.
    pub fn stacked(&self) -> Self {
        Self(self.0.iter().map(|share| share.stacked()).collect())
    }

    /// B on every axis.
    pub fn broadcast(mesh: &Mesh) -> Self {
        Self(vec![Share::Broadcast; mesh.axes.len()])
    }

    /// The splits of dimension `dim` as (mesh axis, split), outermost first.
    pub fn splits(&self, dim: usize) -> Vec<(usize, Split)> {
        let mut splits: Vec<(usize, Split)> = self
            .0
            .iter()
            .enumerate()
            .filter_map(|(axis, share)| match share {
                Share::Split(split) if split.dim == dim => Some((axis, *split)),
                _ => None,
            })
            .collect();
        splits.sort_by_key(|(_, split)| split.depth);
        splits
    }

    /// The split on a mesh axis.
    pub fn split_on(&self, axis: usize) -> Option<Split> {
        match self.0[axis] {
            Share::Split(split) => Some(split),
            _ => None,
        }
    }

    /// Whether the splits of each dimension are numbered 0, 1, … from the outside.
    pub fn is_canonical(&self, rank: usize) -> bool {
        (0..rank).all(|dim| self.splits(dim).iter().enumerate().all(|(position, (_, split))| split.depth == position))
            && self.0.iter().all(|share| !matches!(share, Share::Split(split) if split.dim >= rank))
    }

    /// Numbers the splits of each dimension 0, 1, … from the outside again, after some were taken away.
    pub fn renumber(&mut self) {
        let splits = |share: &Share| if let Share::Split(split) = share { Some(*split) } else { None };
        let before: Vec<Split> = self.0.iter().filter_map(splits).collect();
        for share in &mut self.0 {
            if let Share::Split(split) = share {
                split.depth = before.iter().filter(|other| other.dim == split.dim && other.depth < split.depth).count();
            }
        }
    }

    /// The part of every dimension that the rank at `coordinates` holds. Splits of one dimension nest: each deals out,
    /// in order, the distinct indices of its factor that the outer ones have left.
    pub fn shard(&self, shape: &[u64], mesh: &Mesh, coordinates: &[u64]) -> Vec<Intervals> {
        shape
            .iter()
            .enumerate()
            .map(|(dim, &size)| {
                let whole = |size| if size == 0 { Vec::new() } else { vec![(0, size)] };
                // what is left of the factors that walk the dimension through windows
                let mut through: Vec<(Split, Intervals)> = Vec::new();
                self.splits(dim).iter().fold(whole(size), |held, (axis, split)| {
                    let part = |n: u64| split.partition.part(n, mesh.axes[*axis].size, coordinates[*axis]);
                    let Some(window) = split.window else {
                        let digits = digits(&held, split);
                        return keep(&held, split, &nth(&digits, &part(count(&digits))));
                    };
                    let known = through.iter().position(|(known, _)| known.view() == split.view());
                    let left = known.map_or_else(|| whole(split.size), |known| through.swap_remove(known).1);
                    let left = nth(&left, &part(count(&left)));
                    let needed = if left == whole(split.size) { whole(size) } else { window.image(&left, size) };
                    through.push((*split, left));
                    intersect(&held, &needed)
                })
            })
            .collect()
    }

    /// Whether some dimension is split through a window: a layout to read in, and no more.
    pub fn is_windowed(&self) -> bool {
        self.0.iter().any(Share::is_windowed)
    }

    /// The shape of the shard at `coordinates`.
    pub fn local_shape(&self, shape: &[u64], mesh: &Mesh, coordinates: &[u64]) -> Vec<u64> {
        self.shard(shape, mesh, coordinates).iter().map(|intervals| count(intervals)).collect()
    }

    /// Elements of the largest shard, by sizes alone: splits of one factor nest, splits of different factors multiply.
    pub fn largest_shard(&self, shape: &[u64], mesh: &Mesh) -> u64 {
        shape
            .iter()
            .enumerate()
            .map(|(dim, &size)| {
                let mut views: Vec<(Split, u64)> = Vec::new();
                for (axis, split) in self.splits(dim) {
                    let parts = mesh.axes[axis].size;
                    match views.iter_mut().find(|view| view.0.view() == split.view()) {
                        Some(view) => {
                            view.1 = split.partition.largest(view.1, parts);
                            if split.partition == Partition::Zigzag {
                                view.0.partition = split.partition;
                            }
                        }
                        None => views.push((split, split.partition.largest(split.size, parts))),
                    }
                }
                views.iter().fold(size, |size, (split, largest)| match split.window {
                    // what lies between two pieces is held too
                    Some(window) if *largest < split.size && *largest > 0 && split.partition != Partition::Zigzag => {
                        size.min(window.stride.unsigned_abs() * (largest - 1) + window.reach)
                    }
                    Some(_) if *largest > 0 => size,
                    _ => (size * largest).div_ceil(split.size),
                })
            })
            .product()
    }

    /// The mesh axes that this layout is P over.
    pub fn partial_axes(&self) -> Vec<usize> {
        (0..self.0.len()).filter(|axis| matches!(self.0[*axis], Share::Partial(_))).collect()
    }

    /// Whether every rank holds the same under both, and P over the same axes: an identity boxing.
    pub fn same_shards(&self, other: &Layout, shape: &[u64], mesh: &Mesh) -> bool {
        if self == other {
            return true;
        }
        let alike = self.0.iter().zip(&other.0).all(|(a, b)| match (a, b) {
            (Share::Partial(a), Share::Partial(b)) => a == b,
            (Share::Partial(_), _) | (_, Share::Partial(_)) => false,
            _ => true,
        });
        alike && self.largest_shard(shape, mesh) == other.largest_shard(shape, mesh) && {
            let moments: u64 = mesh.axes.iter().filter(|axis| axis.time).map(|axis| axis.size).product();
            (0..mesh.ranks()).all(|rank| {
                (0..moments).all(|moment| {
                    let at = mesh.coordinates(rank, moment);
                    self.shard(shape, mesh, &at) == other.shard(shape, mesh, &at)
                })
            })
        }
    }
}

/// The distinct indices of the split's factor that occur in `held`.
fn digits(held: &[(u64, u64)], split: &Split) -> Intervals {
    let period = split.size * split.inner;
    let mut found: Intervals = Vec::new();
    for &(start, end) in held {
        if end - start >= period {
            return vec![(0, split.size)];
        }
        // within one period the digits of an interval are an interval, but it may wrap around the end of a period
        let (first, last) = ((start % period) / split.inner, ((end - 1) % period) / split.inner);
        if start / period == (end - 1) / period {
            found.push((first, last + 1));
        } else {
            found.push((first, split.size));
            found.push((0, last + 1));
        }
    }
    found.sort_unstable();
    let mut out: Intervals = Vec::new();
    for (start, end) in found {
        match out.last_mut() {
            Some(last) if last.1 >= start => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}

/// The elements of `list` at `positions`.
fn nth(list: &[(u64, u64)], positions: &[(u64, u64)]) -> Intervals {
    let mut out = Vec::new();
    let mut before = 0;
    for &(start, end) in list {
        let here = (before, before + end - start);
        out.extend(intersect(&[here], positions).into_iter().map(|(a, b)| (start + a - before, start + b - before)));
        before = here.1;
    }
    join(out.into_iter())
}

/// The indices of `held` whose digit is in `digits`.
fn keep(held: &[(u64, u64)], split: &Split, digits: &[(u64, u64)]) -> Intervals {
    let period = split.size * split.inner;
    let Some(last) = held.last() else { return Vec::new() };
    let periods = held[0].0 / period..last.1.div_ceil(period);
    let wanted = periods.flat_map(|number| {
        let base = number * period;
        digits.iter().map(move |(start, end)| (base + start * split.inner, base + end * split.inner))
    });
    intersect(held, &join(wanted))
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Share::Broadcast => f.write_str("B"),
            Share::Partial(reduce) => write!(f, "P({})", reduce.word()),
            Share::Split(split) => {
                write!(f, "S({}", split.dim)?;
                if split.inner != 1 {
                    write!(f, "/{}", split.inner)?;
                }
                if split.depth > 0 {
                    write!(f, "^{}", split.depth)?;
                }
                match split.partition {
                    Partition::Balanced => {}
                    Partition::Zigzag => f.write_str(" zigzag")?,
                    Partition::Chunk(length) => write!(f, " by {length}")?,
                }
                if let Some(Window { stride, first, reach }) = split.window {
                    write!(f, " of {} seen {reach} from {stride}i{first:+}", split.size)?;
                }
                f.write_str(")")
            }
        }
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(")?;
        for (position, share) in self.0.iter().enumerate() {
            write!(f, "{}{share}", if position > 0 { ", " } else { "" })?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(dim: usize, size: u64, inner: u64, depth: usize, partition: Partition) -> Share {
        Share::Split(Split::new(dim, size, inner, depth, partition))
    }

    fn shards(layout: &Layout, size: u64, mesh: &Mesh) -> Vec<Intervals> {
        (0..mesh.ranks()).map(|rank| layout.shard(&[size], mesh, &mesh.coordinates(rank, 0)).remove(0)).collect()
    }

    #[test]
    fn balanced_is_larger_first() {
        let mesh = Mesh::new(&[("x", 6)]);
        let layout = Layout(vec![split(0, 20, 1, 0, Partition::Balanced)]);
        let sizes: Vec<u64> = shards(&layout, 20, &mesh).iter().map(|held| count(held)).collect();
        assert_eq!(sizes, [4, 4, 3, 3, 3, 3]);
    }

    #[test]
    fn nested_splits_follow_depth_and_not_mesh_order() {
        let mesh = Mesh::new(&[("x", 2), ("y", 2)]);
        let inner_x = Layout(vec![split(0, 8, 1, 1, Partition::Balanced), split(0, 8, 1, 0, Partition::Balanced)]);
        assert_eq!(shards(&inner_x, 8, &mesh), [vec![(0, 2)], vec![(4, 6)], vec![(2, 4)], vec![(6, 8)]]);
    }

    #[test]
    fn twenty_over_two_by_three_is_not_twenty_over_six() {
        let mesh = Mesh::new(&[("x", 2), ("y", 3)]);
        let nested = Layout(vec![split(0, 20, 1, 0, Partition::Balanced), split(0, 20, 1, 1, Partition::Balanced)]);
        let sizes: Vec<u64> = shards(&nested, 20, &mesh).iter().map(|held| count(held)).collect();
        assert_eq!(sizes, [4, 3, 3, 4, 3, 3]);
    }

    #[test]
    fn a_minor_factor_gives_a_strided_shard() {
        let mesh = Mesh::new(&[("x", 2)]);
        // 6 = (2, 3): the factor of size 3 over two ranks is {0, 1} and {2}
        let layout = Layout(vec![split(0, 3, 1, 0, Partition::Balanced)]);
        assert_eq!(shards(&layout, 6, &mesh), [vec![(0, 2), (3, 5)], vec![(2, 3), (5, 6)]]);
        assert_eq!(layout.largest_shard(&[6], &mesh), 4);
    }

    #[test]
    fn what_is_seen_through_a_window_overlaps() {
        let mesh = Mesh::new(&[("x", 2), ("y", 2)]);
        // 7 windows of 3, at 2i - 1: 4 and 3 of them, then 2, 2 and 2, 1
        let window = Some(Window { stride: 2, first: -1, reach: 3 });
        let share = |depth| Share::Split(Split { window, ..Split::new(0, 7, 1, depth, Partition::Balanced) });
        let outer = Layout(vec![share(0), Share::Broadcast]);
        assert_eq!(shards(&outer, 13, &mesh), [vec![(0, 8)], vec![(0, 8)], vec![(7, 13)], vec![(7, 13)]]);
        assert_eq!(outer.largest_shard(&[13], &mesh), 9);
        let both = Layout(vec![share(0), share(1)]);
        assert_eq!(shards(&both, 13, &mesh), [vec![(0, 4)], vec![(3, 8)], vec![(7, 12)], vec![(11, 13)]]);
        assert!(both.is_windowed());
    }

    #[test]
    fn who_walks_all_of_a_window_holds_all() {
        let mesh = Mesh::new(&[("x", 2)]);
        let window = Some(Window { stride: 1, first: 2, reach: 1 });
        let layout = Layout(vec![Share::Split(Split { window, ..Split::new(0, 1, 1, 0, Partition::Balanced) })]);
        assert_eq!(shards(&layout, 5, &mesh), [vec![(0, 5)], vec![]]);
    }

    #[test]
    fn zigzag_pairs_early_with_late() {
        let mesh = Mesh::new(&[("x", 2)]);
        let layout = Layout(vec![split(0, 8, 1, 0, Partition::Zigzag)]);
        assert_eq!(shards(&layout, 8, &mesh), [vec![(0, 2), (6, 8)], vec![(2, 6)]]);
    }
}
