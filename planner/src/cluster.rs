//! A cluster: what one device does, and the levels of links that join devices.
//!
//! A cluster file is TOML:
//! ```
//! # use partita_planner::cluster::Cluster;
//! let text = r#"
//!     name = "two boxes"
//!     [device]
//!     kind = "cpu-core"           # from the catalogue; any field may be overridden
//!     memory_bytes = 8e9
//!     flops = { f32 = 90e9 }
//!     [[level]]                   # innermost first
//!     name = "threads"
//!     count = 4
//!     [[level]]
//!     name = "network"
//!     count = 2
//!     bandwidth_gb_per_s = 1.2    # per device and direction
//!     latency_us = 30
//! "#;
//! let cluster = Cluster::parse(text, "two.toml").unwrap();
//! assert_eq!(cluster.ranks(), 8);
//! assert_eq!(cluster.link(1, 4).rate.to_string(), "6 GB/s"); // the device's own link
//! assert_eq!(cluster.link(4, 2).rate.to_string(), "1.2 GB/s");
//! ```
//! What kernels reach of a device's peaks may be given too, in the words of [`crate::estimate::constants::Reach`]: estimates take it.
//! ```toml
//! [device.reach]
//! gemm = 0.68      # of the 16-bit peak, in large matrix products
//! memory = 0.9     # of the memory bandwidth, in streaming kernels
//! ```
//! A device may have curves, which `partita profile` measures: a table for each number of ranks that compute at once, every key but
//! `ranks` optional. Compiled plans are priced by them ([`crate::price`]).
//! ```toml
//! [[device.curves]]
//! ranks = 2                                       # compute at the same time,
//! threads = 1                                     # each with so many threads; left out: 1
//! kernel_us = 0.4                                 # starting a kernel, a row of lanes, a block of lanes, a step over a block
//! row_ns = 25
//! block_ns = 20
//! step_ns = 30
//! lane_ns = { arithmetic = 0.04, exp = 0.5 }      # a step over one lane, by kind
//! sizes = [8, 64, 512]                            # of the sides of matrix products, ascending
//! matmul_plain_gflop_per_s = [[[…]]]              # by m, n and k: (m k), (k n) -> (m n), all contiguous along the last
//! matmul_left_turned_gflop_per_s = [[[…]]]        # the left matrix contiguous along m
//! matmul_right_turned_gflop_per_s = [[[…]]]       # the right one along k
//! reuse_us = [[262144, 12], [67108864, 50]]       # a MiB read and written, by the bytes that were used since it was last used
//! all_reduce_us = [[4, 3], [1048576, 200]]        # of `ranks` members; bytes of the buffer
//! all_gather_us = [[4, 3], [1048576, 200]]        # and `reduce_scatter_us`, `all_to_all_us`: bytes that a member reads and writes
//! send_us = [[4, 3], [1048576, 200]]              # sent and received; bytes of the message
//! ```
//! Sizes ascend and times never fall.
//!
//! Ranks are numbered so that consecutive ones fill the innermost level first. A cluster of several kinds of devices has
//! [groups](Group) in place of `[device]`; its one `[[level]]` joins them.

pub mod curves;
mod groups;
mod read;

use std::collections::BTreeMap;
use std::ops::Range;

use partita_ir::dtype::DType;
use serde::{Deserialize, Serialize};

use curves::Curves;
#[cfg(test)]
pub(crate) use groups::tests::mixed;
pub use groups::{Group, Part};

use crate::units::{Bytes, BytesPerSecond, FlopsPerSecond, Seconds};

/// More ranks than any cluster has; a larger product of counts is a slip of the pen.
pub const MAX_RANKS: u64 = 1_000_000;

/// Devices and the links between them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name, for people.
    pub name: String,
    /// What each rank runs on. Of a mixed cluster, what every device is at least: the smallest memory, the slowest rate of each kind
    /// (power and price: the mean). [`Cluster::device_of`] tells one rank's.
    pub device: Device,
    /// The levels of links, innermost first; never empty when parsed. Of a mixed cluster, the one level that joins the groups.
    pub levels: Vec<Level>,
    /// The groups of a mixed cluster, in the order of their ranks; empty where all devices are of one kind. What depends on neither
    /// goes through [`Cluster::parts`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
}

/// What one rank runs on. Fields bear the names and units of the cluster file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// The kind in the catalogue that the other fields started from.
    pub kind: String,
    /// Memory that one rank may fill.
    pub memory_bytes: u64,
    /// Sustained FLOP/s of matrix products by element type.
    pub flops: BTreeMap<DType, f64>,
    /// Units that compute side by side and take whole tiles of a matrix product: streaming multiprocessors, cores.
    pub compute_units: u64,
    /// Memory bandwidth, reads and writes together.
    pub memory_gb_per_s: f64,
    /// Time to start one kernel.
    pub launch_us: f64,
    /// Bandwidth of the link between devices of the innermost level, per device and direction.
    pub link_gb_per_s: f64,
    /// Latency of that link.
    pub link_latency_us: f64,
    /// The part of that bandwidth which a large transfer reaches.
    pub link_efficiency: f64,
    /// Bandwidth of the usual network card, as a device's share, per direction.
    pub nic_gb_per_s: f64,
    /// Latency of that network.
    pub nic_latency_us: f64,
    /// The part of its bandwidth which a large transfer reaches.
    pub nic_efficiency: f64,
    /// Time to begin a collective; 0 where ranks are threads.
    pub collective_us: f64,
    /// What a large collective takes longer because its chunks do not flow at once.
    pub collective_ramp_us: f64,
    /// What a switch of the innermost level that reduces takes from each device; 0 where it only forwards.
    pub switch_reduce_gb_per_s: f64,
    /// Memory of the host that a device may offload to, as its share; 0 where there is none beside its own.
    pub host_memory_bytes: u64,
    /// Bandwidth between device and host memory, per direction.
    pub host_link_gb_per_s: f64,
    /// Room on NVMe disks that a device may offload to, as its share; 0 where there are none.
    pub nvme_bytes: u64,
    /// Bandwidth of those disks, as a device's share, per direction.
    pub nvme_gb_per_s: f64,
    /// What it may draw, sustained.
    pub power_w: f64,
    /// What it costs to rent.
    pub usd_per_hour: f64,
    /// Cores that all ranks of one innermost level share; absent where each device is its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u64>,
    /// What kernels reach of its peaks, where it is not what [`crate::estimate::constants`] has for its kind: by that name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reach: BTreeMap<String, f64>,
    /// What it was measured to do, by how many ranks compute at once; of devices that share cores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<Curves>,
}

/// One level of the link hierarchy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Its name, for people: threads, node, rack.
    pub name: String,
    /// How many of the level inside (devices, for the innermost) it joins.
    pub count: u64,
    /// Bandwidth across it, per device and direction.
    pub bandwidth_gb_per_s: f64,
    /// Latency across it.
    pub latency_us: f64,
    /// The part of the bandwidth which a large transfer reaches.
    pub efficiency: f64,
    /// How many times more bandwidth comes from the blocks that it joins than its switches carry between them, from 1: what is left
    /// of the bandwidth when all ranks send across it at once is so many times less.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub oversubscription: f64,
}

fn one() -> f64 {
    1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(number: &f64) -> bool {
    *number == 1.0
}

/// What carries a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Time before the first byte arrives.
    pub latency: Seconds,
    /// Bytes per second that a large transfer reaches, per device and direction.
    pub rate: BytesPerSecond,
}

impl Device {
    /// The speed of matrix products in `dtype`; a type that is not listed computes as f32 does.
    pub fn peak(&self, dtype: DType) -> FlopsPerSecond {
        FlopsPerSecond(self.flops.get(&dtype).or_else(|| self.flops.get(&DType::F32)).copied().unwrap_or(0.0))
    }

    /// The memory that one rank may fill.
    pub fn memory(&self) -> Bytes {
        Bytes(self.memory_bytes)
    }

    /// The bandwidth of its memory.
    pub fn memory_rate(&self) -> BytesPerSecond {
        BytesPerSecond::from_gb_per_s(self.memory_gb_per_s)
    }

    /// The time to start one kernel.
    pub fn launch(&self) -> Seconds {
        Seconds::from_us(self.launch_us)
    }

    /// Its own link to its neighbours.
    fn link(&self) -> Link {
        Link {
            latency: Seconds::from_us(self.link_latency_us),
            rate: BytesPerSecond::from_gb_per_s(self.link_gb_per_s * self.link_efficiency),
        }
    }
}

impl Link {
    /// What both can be relied on for.
    fn slower(self, other: Link) -> Link {
        Link { latency: self.latency.max(other.latency), rate: self.rate.min(other.rate) }
    }
}

impl Level {
    /// What carries a message across it while all ranks send across it.
    pub fn link(&self) -> Link {
        self.link_while(1, 1)
    }

    /// What carries a message across it while `senders` ranks of each block of `block` that it joins send: a rank has its own card,
    /// and its share of what the switches carry.
    ///
    /// `rate = bandwidth · efficiency / max(1, oversubscription · senders / block)`
    pub fn link_while(&self, senders: u64, block: u64) -> Link {
        let crowd = (self.oversubscription * senders.min(block) as f64 / block as f64).max(1.0);
        let gb_per_s = self.bandwidth_gb_per_s * self.efficiency / crowd;
        Link { latency: Seconds::from_us(self.latency_us), rate: BytesPerSecond::from_gb_per_s(gb_per_s) }
    }
}

impl Cluster {
    /// Reads a cluster file; `file` is its name for messages. An error holds everything that is wrong with it.
    pub fn parse(text: &str, file: &str) -> Result<Cluster, ClusterError> {
        read::cluster(text).map_err(|problems| ClusterError { file: file.to_owned(), problems })
    }

    /// The number of ranks.
    pub fn ranks(&self) -> u64 {
        self.parts().map(|part| part.ranks()).sum()
    }

    /// The slowest link inside the groups that a mesh axis of `extent` ranks, `stride` apart, cuts the cluster into, while every
    /// rank sends to the next of its group.
    pub fn link(&self, stride: u64, extent: u64) -> Link {
        // a group spans an aligned block of ranks, and stays inside a level whose size the block divides; otherwise
        // some group straddles two of that level
        let block = (stride * extent).max(1);
        let stays = |size: u64| extent <= 1 || size.is_multiple_of(block);
        match self.joining() {
            Some(level) if !self.parts().all(|part| stays(part.ranks())) => level.link_while(stride, self.smallest_group()),
            _ => {
                let links = self.parts().map(|part| part.link(stride, stays));
                links.reduce(Link::slower).expect("a cluster has a part")
            }
        }
    }

    /// The link between two ranks that no others cross.
    pub fn link_between(&self, a: u64, b: u64) -> Link {
        let part = self.parts().find(|part| a.min(b) < part.end());
        match (part, self.joining()) {
            (Some(part), Some(level)) if a.max(b) >= part.end() => level.link_while(1, self.smallest_group()),
            (Some(part), _) => part.link(1, |size| (a - part.start) / size == (b - part.start) / size),
            (None, _) => self.levels.last().map_or(self.device.link(), Level::link),
        }
    }

    /// How many cores one rank computes with, at the least: less than 1 where ranks outnumber cores.
    pub fn cores_per_rank(&self) -> f64 {
        self.parts().map(|part| part.cores_per_rank()).fold(f64::INFINITY, f64::min)
    }

    /// Ranks of the smallest group.
    fn smallest_group(&self) -> u64 {
        self.groups.iter().map(Group::ranks).min().unwrap_or(1)
    }
}

/// Everything that is wrong with one cluster file, in order of place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.shown())]
pub struct ClusterError {
    /// The file's name.
    pub file: String,
    /// At least one problem.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong with a cluster file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable code such as `partita::cluster::unknown_key`.
    pub code: &'static str,
    /// The place in the file, in bytes.
    pub span: Range<usize>,
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong, with the key's path and the numbers.
    pub message: String,
    /// What would fix it.
    pub help: String,
}

impl ClusterError {
    fn shown(&self) -> String {
        let show =
            |problem: &Problem| format!("{}:{}: {} ({})\n  help: {}", self.file, problem.line, problem.message, problem.code, problem.help);
        self.problems.iter().map(show).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(counts: &[u64]) -> Cluster {
        let mut text = "name = 'x'\n[device]\nkind = 'cpu-core'\n".to_owned();
        for (n, count) in counts.iter().enumerate() {
            // a level's bandwidth is its number, so that a link tells its level
            text += &format!("[[level]]\nname = 'l{n}'\ncount = {count}\nbandwidth_gb_per_s = {}\n", n + 1);
        }
        Cluster::parse(&text, "x.toml").unwrap()
    }

    /// The level of [`Cluster::link`] against the pairs of every group.
    #[test]
    fn the_link_of_an_axis_is_the_slowest_of_its_pairs() {
        for counts in [&[4][..], &[2, 3], &[3, 2, 2], &[1, 4], &[4, 1, 3]] {
            let cluster = levels(counts);
            let ranks = cluster.ranks();
            for stride in (1..=ranks).filter(|stride| ranks.is_multiple_of(*stride)) {
                for extent in (2..=ranks / stride).filter(|extent| ranks.is_multiple_of(stride * extent)) {
                    let pairs = (0..ranks - stride).filter(|rank| rank / stride % extent + 1 < extent);
                    // bandwidth is the level's number, so the widest is the outermost
                    let slowest =
                        pairs.map(|rank| cluster.link_between(rank, rank + stride).rate).fold(BytesPerSecond::ZERO, BytesPerSecond::max);
                    assert_eq!(cluster.link(stride, extent).rate, slowest, "{counts:?} stride {stride} extent {extent}");
                }
            }
        }
    }

    #[test]
    fn a_rank_alone_needs_no_outer_link() {
        assert_eq!(levels(&[2, 3]).link(2, 1).rate, BytesPerSecond(1e9));
    }

    #[test]
    fn cores_are_shared_by_the_innermost_level() {
        let text = "name = 'x'\n[device]\nkind = 'cpu-core'\ncores = 2\n[[level]]\nname = 'threads'\ncount = 4\n";
        assert_eq!(Cluster::parse(text, "x.toml").unwrap().cores_per_rank(), 0.5);
        assert_eq!(levels(&[4]).cores_per_rank(), 1.0);
    }

    #[test]
    fn the_clusters_of_the_repository_are_read() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../clusters");
        let files = [
            ("local.toml", 4),
            ("local-1.toml", 1),
            ("local-2.toml", 2),
            ("local-3.toml", 3),
            ("local-8.toml", 8),
            ("dgx-a100.toml", 32),
            ("dgx-h100.toml", 128),
            ("h800.toml", 2048),
            ("p3.16xlarge.toml", 64),
            ("gb200-nvl72.toml", 288),
            ("rtx4090.toml", 8),
            ("mixed-a100-v100.toml", 32),
        ];
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), files.len(), "every file is read here");
        for (file, ranks) in files {
            let text = std::fs::read_to_string(folder.join(file)).unwrap();
            assert_eq!(Cluster::parse(&text, file).unwrap_or_else(|error| panic!("{error}")).ranks(), ranks);
        }
    }

    #[test]
    fn nvlink_joins_the_72_devices_of_a_rack_and_a_quarter_of_a_tray_is_each_ones_host() {
        let rack = Cluster::parse(include_str!("../../clusters/gb200-nvl72.toml"), "gb200-nvl72.toml").unwrap();
        assert_eq!(rack.levels[0].count, 72);
        assert_eq!(rack.link_between(0, 71).rate, rack.link_between(0, 1).rate);
        assert!(rack.link_between(71, 72).rate.0 < rack.link_between(0, 71).rate.0 / 10.0);
        // two Grace of 480 GB, each at 450 GB/s to its two devices
        let tray = 4 * rack.device.host_memory_bytes;
        assert!((940_000_000_000..=960_000_000_000).contains(&tray), "{tray}");
        assert_eq!(rack.device.host_link_gb_per_s * 2.0, 450.0);
    }

    /// Of a leaf of 8 devices only a quarter of their bandwidth leads out.
    #[test]
    fn a_crowd_shares_an_oversubscribed_level() {
        let text = "name = 'x'\n[device]\nkind = 'cpu-core'\n[[level]]\nname = 'leaf'\ncount = 8\n[[level]]\nname = 'spine'\ncount = 4\n\
                    bandwidth_gb_per_s = 8\nefficiency = 0.5\noversubscription = 4\n";
        let cluster = Cluster::parse(text, "x.toml").unwrap();
        let gb = |link: Link| link.rate.0 / 1e9;
        assert_eq!(gb(cluster.levels[1].link()), 1.0);
        // to the next rank only the last of a leaf crosses, which one quarter of the bandwidth is enough for
        for (stride, expected) in [(1, 4.0), (2, 4.0), (4, 2.0), (8, 1.0), (16, 1.0)] {
            assert_eq!(gb(cluster.link(stride, 32 / stride)), expected, "{stride}");
        }
        assert_eq!(gb(cluster.link_between(0, 8)), 4.0);
        assert_eq!(gb(cluster.link(1, 8)), 6.0);
    }

    #[test]
    fn clusters_of_older_plans_are_read() {
        let cluster = levels(&[4, 2]);
        let json = serde_json::to_string(&cluster).unwrap();
        assert!(!json.contains("groups") && !json.contains("oversubscription"), "{json}");
    }

    #[test]
    fn a_cluster_survives_json() {
        let cluster = levels(&[4, 2]);
        let json = serde_json::to_string(&cluster).unwrap();
        assert_eq!(serde_json::from_str::<Cluster>(&json).unwrap(), cluster);
        assert!(json.contains(r#""f32":60000000000.0"#), "{json}");
    }
}
