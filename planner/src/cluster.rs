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
//! Ranks are numbered so that consecutive ones fill the innermost level first.

mod read;

use std::collections::BTreeMap;
use std::ops::Range;

use partita_ir::dtype::DType;
use serde::{Deserialize, Serialize};

use crate::units::{Bytes, BytesPerSecond, FlopsPerSecond, Seconds};

/// More ranks than any cluster has; a larger product of counts is a slip of the pen.
pub const MAX_RANKS: u64 = 1_000_000;

/// Devices of one kind and the links between them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name, for people.
    pub name: String,
    /// What each rank runs on.
    pub device: Device,
    /// The levels of links, innermost first; never empty when parsed.
    pub levels: Vec<Level>,
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
}

impl Level {
    /// What carries a message across it.
    pub fn link(&self) -> Link {
        Link { latency: Seconds::from_us(self.latency_us), rate: BytesPerSecond::from_gb_per_s(self.bandwidth_gb_per_s * self.efficiency) }
    }
}

impl Cluster {
    /// Reads a cluster file; `file` is its name for messages. An error holds everything that is wrong with it.
    pub fn parse(text: &str, file: &str) -> Result<Cluster, ClusterError> {
        read::cluster(text).map_err(|problems| ClusterError { file: file.to_owned(), problems })
    }

    /// The number of ranks.
    pub fn ranks(&self) -> u64 {
        self.levels.iter().map(|level| level.count).product()
    }

    /// The slowest link inside the groups that a mesh axis of `extent` ranks, `stride` apart, cuts the cluster into.
    pub fn link(&self, stride: u64, extent: u64) -> Link {
        // a group spans an aligned block of ranks, and stays inside a level whose size the block divides; otherwise
        // some group straddles two of that level
        let block = (stride * extent).max(1);
        self.level(|size| extent <= 1 || size.is_multiple_of(block))
    }

    /// The link between two ranks.
    pub fn link_between(&self, a: u64, b: u64) -> Link {
        self.level(|size| a / size == b / size)
    }

    /// How many cores one rank computes with: less than 1 where ranks outnumber cores.
    pub fn cores_per_rank(&self) -> f64 {
        match (self.device.cores, self.levels.first()) {
            (Some(cores), Some(innermost)) => cores as f64 / innermost.count as f64,
            _ => 1.0,
        }
    }

    /// The innermost level whose size in ranks `holds`, or else the outermost one.
    fn level(&self, holds: impl Fn(u64) -> bool) -> Link {
        let sizes = self.levels.iter().scan(1, |size, level| {
            *size *= level.count;
            Some(*size)
        });
        let found = self.levels.iter().zip(sizes).find(|(_, size)| holds(*size)).map(|(level, _)| level);
        let own = Link {
            latency: Seconds::from_us(self.device.link_latency_us),
            rate: BytesPerSecond::from_gb_per_s(self.device.link_gb_per_s * self.device.link_efficiency),
        };
        found.or(self.levels.last()).map_or(own, Level::link)
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
        ];
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), files.len(), "every file is read here");
        for (file, ranks) in files {
            let text = std::fs::read_to_string(folder.join(file)).unwrap();
            assert_eq!(Cluster::parse(&text, file).unwrap_or_else(|error| panic!("{error}")).ranks(), ranks);
        }
    }

    #[test]
    fn a_cluster_survives_json() {
        let cluster = levels(&[4, 2]);
        let json = serde_json::to_string(&cluster).unwrap();
        assert_eq!(serde_json::from_str::<Cluster>(&json).unwrap(), cluster);
        assert!(json.contains(r#""f32":60000000000.0"#), "{json}");
    }
}
