//! What a collective costs: α–β on every level of links that its group spans, with the algorithm that NCCL would take.
//!
//! A group spans levels: of its `n` ranks so many share a node, so many nodes a pod. A **ring** runs through the ranks node by
//! node; every node sends and receives on the cards of all its members at once, so the ring is as fast as its slowest level:
//! `rate = min over levels of (members within the level inside) · bandwidth a device`. All groups of a mesh axis communicate at
//! once, so each member counts for its own card, and an oversubscribed level is crossed by all ranks at once. A **tree** between
//! nodes takes fewer hops. In a switch that **reduces** (NVLS) an all-reduce moves each element once up and once down.
//!
//! In a mixed cluster a group has the levels of each of the cluster's groups that it lies in, and the level that joins them.
//!
//! Not seen: the topology within a level, other traffic at the same time, a group that lies unevenly over nodes beyond its
//! thinnest one, ranks that leave part of an oversubscribed level to others.

use partita_ir::layout::Mesh;

use crate::cluster::{Cluster, Link, Part};
use crate::units::Seconds;

/// Bytes a rank at which a collective takes half of what it ever takes longer while its chunks begin to flow
/// (`collective_ramp_us`): fitted on all-reduces of 1 MiB to 16 GiB on 8 A100, H200 and B200 (nccl-tests,
/// stas00/ml-engineering, network page).
const RAMP_BYTES: f64 = 30e6;

/// What ranks do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collective {
    /// Every rank gets the reduction of all.
    AllReduce,
    /// Every rank gets its part of the reduction.
    ReduceScatter,
    /// Every rank gets the parts of all.
    AllGather,
    /// Every rank gets a part of each.
    AllToAll,
}

/// How a group of ranks lies on the levels of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    ranks: u64,
    tiers: Vec<Tier>,
    own: Own,
}

/// What the devices of a group bring of their own; of several kinds, the slowest of each.
#[derive(Clone, Debug, PartialEq)]
struct Own {
    begin_us: f64,
    ramp_us: f64,
    /// What the switch of the innermost level that reduces takes from each, in GB/s; 0 where one only forwards.
    switch: f64,
}

/// What a group is on one level. Levels of several of the cluster's groups that are as deep and have the same link are one.
#[derive(Clone, Debug, PartialEq)]
struct Tier {
    /// Levels inside it.
    depth: usize,
    link: Link,
    /// Hops of a ring that cross this level and none outside.
    hops: u64,
    /// The most blocks of the level inside that one block of this level joins.
    fan: u64,
    /// The least members in a block of the level inside.
    members: u64,
}

impl Spread {
    /// Of the groups along axes of a mesh, each that differs: one, unless some lie within a block of a level and others
    /// straddle two, or on devices of another kind. The mesh may be that of any of the stages, which follow each other through the cluster.
    pub fn of_axes(cluster: &Cluster, mesh: &Mesh, along: &[usize]) -> Vec<Self> {
        let group = mesh.group(0, along);
        let starts: Vec<u64> = if is_aligned(cluster, mesh, along) {
            cluster.parts().map(|part| part.start).collect()
        } else {
            let is_first = |rank: &u64| along.iter().all(|axis| mesh.coordinates(*rank, 0)[*axis] == 0);
            let firsts: Vec<u64> = (0..mesh.ranks()).filter(is_first).collect();
            let stages = (0..cluster.ranks() / mesh.ranks()).map(|stage| stage * mesh.ranks());
            stages.flat_map(|stage| firsts.iter().map(move |first| stage + first)).collect()
        };
        let mut spreads = Vec::new();
        for start in starts {
            let moved: Vec<u64> = group.iter().map(|rank| start + rank).collect();
            let spread = Self::new(cluster, &moved);
            if !spreads.contains(&spread) {
                spreads.push(spread);
            }
        }
        spreads
    }

    /// Of the ranks of a group, each named once, in increasing order.
    pub fn new(cluster: &Cluster, group: &[u64]) -> Self {
        let mut spread =
            Self { ranks: group.len() as u64, tiers: Vec::new(), own: Own { begin_us: 0.0, ramp_us: 0.0, switch: f64::INFINITY } };
        let mut rest = group;
        let (mut fan, mut least, mut depth) = (0, u64::MAX, 0);
        for part in cluster.parts() {
            depth = depth.max(part.levels.len());
            let (inside, beyond) = rest.split_at(rest.partition_point(|rank| *rank < part.end()));
            rest = beyond;
            if !inside.is_empty() {
                spread.lie_in(&part, inside);
                (fan, least) = (fan + 1, least.min(inside.len() as u64));
            }
        }
        debug_assert!(rest.is_empty(), "ranks beyond the cluster: {rest:?}");
        if let Some(level) = cluster.joining().filter(|_| fan > 1) {
            spread.tiers.push(Tier { depth, link: level.link(), hops: fan - 1, fan, members: least });
        }
        spread
    }

    /// Takes in the members of one part.
    fn lie_in(&mut self, part: &Part<'_>, inside: &[u64]) {
        self.own = Own {
            begin_us: self.own.begin_us.max(part.device.collective_us),
            ramp_us: self.own.ramp_us.max(part.device.collective_ramp_us),
            switch: self.own.switch.min(part.device.switch_reduce_gb_per_s),
        };
        // the members of each block that has any, by the number of the block
        let mut blocks: Vec<(u64, u64)> = inside.iter().map(|rank| (rank - part.start, 1)).collect();
        for (depth, level) in part.levels.iter().enumerate() {
            let (mut joined, mut fans): (Vec<(u64, u64)>, Vec<u64>) = (Vec::new(), Vec::new());
            for (block, members) in &blocks {
                let outer = block / level.count;
                match joined.last_mut().filter(|last| last.0 == outer) {
                    Some(last) => {
                        last.1 += members;
                        *fans.last_mut().expect("a fan a block") += 1;
                    }
                    None => {
                        joined.push((outer, *members));
                        fans.push(1);
                    }
                }
            }
            self.add(Tier {
                depth,
                link: level.link(),
                hops: (blocks.len() - joined.len()) as u64,
                fan: fans.into_iter().max().unwrap_or(1),
                members: blocks.iter().map(|(_, members)| *members).min().unwrap_or(1),
            });
            blocks = joined;
        }
    }

    fn add(&mut self, tier: Tier) {
        match self.tiers.iter_mut().find(|known| known.depth == tier.depth && known.link == tier.link) {
            Some(known) => {
                known.hops += tier.hops;
                known.fan = known.fan.max(tier.fan);
                known.members = known.members.min(tier.members);
            }
            None => self.tiers.push(tier),
        }
    }

    fn crossed(&self) -> impl Iterator<Item = &Tier> {
        self.tiers.iter().filter(|tier| tier.hops > 0)
    }

    /// Bytes a second that a ring carries past every rank.
    fn ring_rate(&self) -> f64 {
        self.crossed().map(|tier| tier.members as f64 * tier.link.rate.0).fold(f64::INFINITY, f64::min)
    }

    /// Latency of a message once around.
    fn around(&self) -> f64 {
        self.crossed().map(|tier| tier.hops as f64 * tier.link.latency.0).sum()
    }

    /// Latency of a message up a tree, the innermost level being a chain. Levels as deep are climbed at the same time.
    fn up(&self) -> f64 {
        let climb = |tier: &Tier| {
            let steps = if tier.depth == 0 { tier.fan - 1 } else { u64::from(tier.fan.next_power_of_two().ilog2()) };
            steps as f64 * tier.link.latency.0
        };
        let depths = self.tiers.iter().map(|tier| tier.depth + 1).max().unwrap_or(0);
        let slowest = |depth| self.tiers.iter().filter(|tier| tier.depth == depth).map(climb).fold(0.0, f64::max);
        (0..depths).map(slowest).sum()
    }
}

/// Whether all groups along axes lie alike in each part of a cluster, and none in two: every level's blocks hold whole runs along an
/// axis, cut them into equal parts, or are stepped over by every step of it.
fn is_aligned(cluster: &Cluster, mesh: &Mesh, along: &[usize]) -> bool {
    let mixed = !cluster.groups.is_empty();
    along.iter().filter(|axis| !mesh.axes[**axis].time).all(|axis| {
        let stride: u64 = mesh.axes[axis + 1..].iter().filter(|inner| !inner.time).map(|inner| inner.size).product();
        let run = stride * mesh.axes[*axis].size;
        let alike =
            |size: u64| size.is_multiple_of(run) || stride.is_multiple_of(size) || size.is_multiple_of(stride) && run.is_multiple_of(size);
        let whole = |part: &Part<'_>| !mixed || part.ranks().is_multiple_of(run);
        cluster.parts().all(|part| whole(&part) && part.sizes().all(alike))
    })
}

/// `t = begin + latency + received / rate + ramp`, `received` being the bytes that each rank receives under a ring: for the
/// full size `S` and `n` ranks `2 S (n − 1) / n` of an all-reduce, `S (n − 1) / n` of the others.
///
/// - latency: `n − 1` hops of a ring or messages to others; an all-reduce twice a ring, or up and down a tree where that is less;
/// - all-reduce within the innermost level, where its switch reduces: `S (1 + 1 / n)` over what the switch takes, if faster;
/// - all-to-all: on every level what crosses it, over each rank's own share of the link.
pub fn seconds(spread: &Spread, collective: Collective, received: f64) -> Seconds {
    let n = spread.ranks as f64;
    if spread.ranks < 2 {
        return Seconds::ZERO;
    }
    let ring = received / spread.ring_rate();
    let (latency, transfer) = match collective {
        Collective::AllReduce => {
            let size = received * n / (2.0 * (n - 1.0));
            let within = spread.tiers.iter().all(|tier| tier.depth == 0 || tier.hops == 0);
            let switch = match spread.own.switch {
                rate if within && rate > 0.0 => size * (1.0 + 1.0 / n) / (rate * 1e9),
                _ => f64::INFINITY,
            };
            (2.0 * spread.around().min(spread.up()), ring.min(switch))
        }
        Collective::ReduceScatter | Collective::AllGather => (spread.around(), ring),
        Collective::AllToAll => (spread.around(), all_to_all(spread, received)),
    };
    let ramp = spread.own.ramp_us * received / (received + RAMP_BYTES);
    Seconds(latency + transfer) + Seconds::from_us(spread.own.begin_us + ramp)
}

/// A rank's partners are spread evenly over the blocks of every level; levels carry their part at the same time.
fn all_to_all(spread: &Spread, received: f64) -> f64 {
    let n = spread.ranks as f64;
    let mut slowest = 0.0f64;
    for tier in spread.crossed() {
        // what comes from outside the block that the level inside is crosses this level or one further out
        let beyond = received * (n - tier.members as f64) / (n - 1.0);
        slowest = slowest.max(beyond / tier.link.rate.0);
    }
    slowest
}

#[cfg(test)]
mod tests {
    use partita_ir::layout::MeshAxis;

    use super::*;

    fn cluster(kind: &str, counts: &[u64], more: &str) -> Cluster {
        let levels = counts.iter().enumerate().map(|(n, count)| format!("[[level]]\nname = 'l{n}'\ncount = {count}\n"));
        let text = format!("name = 'x'\n[device]\nkind = '{kind}'\n{more}\n{}", levels.collect::<String>());
        Cluster::parse(&text, "x.toml").unwrap()
    }

    fn all_reduce(cluster: &Cluster, bytes: f64) -> f64 {
        let group: Vec<u64> = (0..cluster.ranks()).collect();
        let n = group.len() as f64;
        seconds(&Spread::new(cluster, &group), Collective::AllReduce, 2.0 * bytes * (n - 1.0) / n).0
    }

    #[test]
    fn a_group_spreads_over_levels() {
        let cluster = cluster("h100", &[8, 4, 2], "");
        let of = |group: Vec<u64>| {
            let tiers = Spread::new(&cluster, &group).tiers;
            tiers.iter().map(|tier| (tier.hops, tier.fan, tier.members)).collect::<Vec<_>>()
        };
        assert_eq!(of((0..8).collect()), [(7, 8, 1), (0, 1, 8), (0, 1, 8)]);
        // one member a node
        assert_eq!(of((0..64).step_by(8).collect()), [(0, 1, 1), (6, 4, 1), (1, 2, 4)]);
        assert_eq!(of((0..64).collect()), [(56, 8, 1), (6, 4, 8), (1, 2, 32)]);
        // two nodes, unevenly
        assert_eq!(of(vec![0, 1, 2, 8]), [(2, 3, 1), (1, 2, 1), (0, 1, 4)]);
    }

    /// Every group of every mesh against those that are told.
    #[test]
    fn no_group_lies_otherwise_than_told() {
        let (mut aligned, mut straddling) = (0, 0);
        let mut clusters: Vec<Cluster> =
            [&[4][..], &[4, 3], &[8, 4], &[3, 4, 2], &[6, 2]].iter().map(|counts| cluster("h100", counts, "")).collect();
        for groups in [&[&[4][..], &[4]][..], &[&[8], &[2, 2]], &[&[3, 2], &[6], &[2, 6]], &[&[5], &[7]]] {
            clusters.push(crate::cluster::mixed(groups));
        }
        for cluster in clusters {
            for sizes in [[2, 3], [3, 2], [2, 4], [4, 2], [1, 3], [3, 4], [2, 6], [4, 1], [2, 2]] {
                let ranks: u64 = sizes.iter().product();
                if !cluster.ranks().is_multiple_of(ranks) {
                    continue;
                }
                let axes = sizes.map(|size| MeshAxis { name: size.to_string(), size, time: false });
                let mesh = Mesh { axes: axes.to_vec() };
                for along in [&[0][..], &[1], &[0, 1]] {
                    let told = Spread::of_axes(&cluster, &mesh, along);
                    let mut seen: Vec<Spread> = Vec::new();
                    for stage in 0..cluster.ranks() / ranks {
                        for rank in 0..ranks {
                            let group: Vec<u64> = mesh.group(rank, along).iter().map(|rank| stage * ranks + rank).collect();
                            let spread = Spread::new(&cluster, &group);
                            if !seen.contains(&spread) {
                                seen.push(spread);
                            }
                        }
                    }
                    assert!(seen.len() == told.len() && seen.iter().all(|spread| told.contains(spread)), "{cluster:?} {sizes:?} {along:?}");
                    *(if told.len() == 1 { &mut aligned } else { &mut straddling }) += 1;
                }
            }
        }
        assert!(aligned > 40 && straddling > 5, "{aligned} {straddling}");
    }

    /// One message a rank: `t = 2 (p − 1) (latency + size / p / rate)` where nothing else counts.
    #[test]
    fn on_one_level_it_is_the_formula_of_a_ring() {
        let cluster = cluster("cpu-core", &[4], "");
        let (latency, rate) = (20e-6, 6e9);
        let expected = 2.0 * 3.0 * (latency + 1e6 / 4.0 / rate);
        assert!((all_reduce(&cluster, 1e6) / expected - 1.0).abs() < 1e-12);
    }

    /// A group of one rank a node has one card where one of whole nodes has all.
    #[test]
    fn groups_that_share_a_node_share_its_cards() {
        let cluster = cluster("h100", &[8, 4], "");
        let time = |group: Vec<u64>| {
            let received = 8e9;
            seconds(&Spread::new(&cluster, &group), Collective::AllGather, received).0
        };
        let (thin, half, whole) = (time((0..32).step_by(8).collect()), time((0..32).step_by(2).collect()), time((0..32).collect()));
        assert!(thin > 3.9 * half && half > 1.5 * whole, "{thin} {half} {whole}");
    }

    #[test]
    fn what_stays_in_the_node_of_an_all_to_all_is_free_beside_what_leaves() {
        let received = 1e9;
        let within = cluster("h100", &[8], "");
        let time = |cluster: &Cluster| {
            let group: Vec<u64> = (0..cluster.ranks()).collect();
            seconds(&Spread::new(cluster, &group), Collective::AllToAll, received).0
        };
        let across = cluster("h100", &[8, 8], "");
        // 56 of 63 parts leave the node, over one card a rank
        let expected = received * 56.0 / 63.0 / (50e9 * 0.955);
        assert!((time(&across) / expected - 1.0).abs() < 0.02, "{} {expected}", time(&across));
        assert!(time(&within) < time(&across) / 5.0);
    }

    /// Published curves of nccl-tests, on which the constants were fitted: from 1 GiB on within 12 %, and from 1 MiB, where
    /// latency and ramps count, 20 % off in the mean of their logarithms. The network of the two clusters of several nodes is
    /// set to what their own curves say: a latency for EFA, a bandwidth for the other.
    #[test]
    fn measured_all_reduces_are_met() {
        let data = std::env::var_os("PARTITA_DATA")
            .map_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), std::path::PathBuf::from);
        let Ok(text) = std::fs::read_to_string(data.join("collectives.jsonl")) else {
            return println!("skipped: there is no {}", data.join("collectives.jsonl").display());
        };
        let clusters = [
            ("A100-SXM4 (NVLink3)", cluster("a100-80gb", &[8], "")),
            ("H200-SXM (NVLink4, NVSwitch)", cluster("h200", &[8], "")),
            ("B200-SXM (NVLink5; AWS P6-B200, EFA v4 8x400Gb)", cluster("b200", &[8], "")),
            // the libfabric of EFA takes far longer than InfiniBand to send anything
            ("B200-SXM (NVLink5; AWS P6-B200, EFA v4 8x400Gb)", cluster("b200", &[8, 4], "nic_latency_us = 75")),
            ("4 nodes, 8x A100-80GB class", cluster("a100-80gb", &[8, 4], "nic_gb_per_s = 12.5")),
        ];
        let (mut large, mut ramp) = (Vec::new(), Vec::new());
        for row in text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()) {
            let (Some(bytes), Some(us)) = (row["bytes"].as_f64(), row["time_us"].as_f64()) else { continue };
            let gpu = row["gpu"].as_str().unwrap();
            let found = clusters.iter().find(|(name, cluster)| gpu.starts_with(name) && row["n_gpus"] == cluster.ranks());
            let (name, cluster) = found.unwrap_or_else(|| panic!("no cluster for {row}"));
            let off = (all_reduce(cluster, bytes) * 1e6 / us).ln();
            if bytes >= (1u64 << 30) as f64 {
                large.push((off.abs(), name, bytes));
            } else if bytes >= 1e6 {
                ramp.push(off.abs());
            }
        }
        let worst = large.iter().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        let mean = ramp.iter().sum::<f64>() / ramp.len() as f64;
        let most = ramp.iter().copied().fold(0.0, f64::max);
        println!("{} large ones, worst {worst:?}; {} others, {mean} in the mean, {most} at most", large.len(), ramp.len());
        assert!(large.len() == 25 && worst.0 < 0.12, "{worst:?}");
        assert!(ramp.len() == 50 && mean < 0.2, "{mean}");
    }
}
