//! Clusters of several kinds of devices: their groups, what a device of any group can be relied on for, and what a stage sees.
//!
//! ```
//! # use partita_planner::cluster::Cluster;
//! let text = r#"
//!     name = "old and new"
//!     [[group]]
//!     device = { kind = "a100-80gb" }
//!     [[group.level]]                 # innermost first
//!     name = "nvlink"
//!     count = 8
//!     [[group]]
//!     device = { kind = "v100-32gb" }
//!     [[group.level]]
//!     name = "nvlink"
//!     count = 4
//!     [[level]]                       # joins the groups
//!     name = "ethernet"
//! "#;
//! let cluster = Cluster::parse(text, "mixed.toml").unwrap();
//! assert_eq!(cluster.ranks(), 12);
//! assert_eq!(cluster.device_of(8).kind, "v100-32gb"); // ranks are numbered group after group
//! assert_eq!(cluster.device.memory_bytes, cluster.device_of(8).memory_bytes);
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Cluster, Device, Level, Link};

/// Devices of one kind in a cluster of several, with the links between them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its name, for people; the kind of its devices where the file has none.
    pub name: String,
    /// What each of its ranks runs on.
    pub device: Device,
    /// Its levels of links, innermost first; never empty when parsed.
    pub levels: Vec<Level>,
}

/// Consecutive ranks on devices of one kind: a group, or all of a cluster that has none.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Its first rank.
    pub start: u64,
    /// What each of its ranks runs on.
    pub device: &'a Device,
    /// Its levels of links, innermost first.
    pub levels: &'a [Level],
}

impl Group {
    /// The number of its ranks.
    pub fn ranks(&self) -> u64 {
        ranks(&self.levels)
    }
}

fn ranks(levels: &[Level]) -> u64 {
    levels.iter().map(|level| level.count).product()
}

impl Part<'_> {
    /// The number of its ranks.
    pub fn ranks(&self) -> u64 {
        ranks(self.levels)
    }

    /// The rank after its last one.
    pub fn end(&self) -> u64 {
        self.start + self.ranks()
    }

    /// How many cores one rank computes with: less than 1 where ranks outnumber cores.
    pub fn cores_per_rank(&self) -> f64 {
        match (self.device.cores, self.levels.first()) {
            (Some(cores), Some(innermost)) => cores as f64 / innermost.count as f64,
            _ => 1.0,
        }
    }

    /// The ranks in one block of each level, innermost first.
    pub fn sizes(&self) -> impl Iterator<Item = u64> {
        self.levels.iter().scan(1, |size, level| {
            *size *= level.count;
            Some(*size)
        })
    }

    /// The innermost level whose size in ranks `holds`, or else the outermost one, while so many ranks of every block send.
    pub(super) fn link(&self, senders: u64, holds: impl Fn(u64) -> bool) -> Link {
        let found = self.levels.iter().zip(self.sizes()).find(|(_, size)| holds(*size));
        match found.or(self.levels.last().map(|level| (level, self.ranks()))) {
            Some((level, size)) => level.link_while(senders, size / level.count),
            None => self.device.link(),
        }
    }
}

impl Cluster {
    /// Its ranks by the kind of their device, in order: one part, or one for each group.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let alone = self.groups.is_empty().then_some((&self.device, &self.levels[..]));
        let groups = self.groups.iter().map(|group| (&group.device, &group.levels[..]));
        alone.into_iter().chain(groups).scan(0, |next, (device, levels)| {
            let part = Part { start: *next, device, levels };
            *next = part.end();
            Some(part)
        })
    }

    /// The level that joins the groups of a mixed cluster.
    pub fn joining(&self) -> Option<&Level> {
        if self.groups.is_empty() { None } else { self.levels.last() }
    }

    /// What one rank runs on.
    ///
    /// # Panics
    /// If the cluster has no such rank.
    pub fn device_of(&self, rank: u64) -> &Device {
        self.parts().find(|part| rank < part.end()).unwrap_or_else(|| panic!("there is no rank {rank} in {}", self.name)).device
    }

    /// What these ranks cost to rent, in US dollars an hour.
    pub fn usd_per_hour(&self, ranks: &Range<u64>) -> f64 {
        let of = |part: Part<'_>| part.end().min(ranks.end).saturating_sub(part.start.max(ranks.start)) as f64 * part.device.usd_per_hour;
        self.parts().map(of).sum()
    }

    /// The cluster as some ranks see it, one of equal runs that follow each other through it (a stage): only the groups that they
    /// lie in. It is the whole cluster where the run would not be one of those that begin with these groups.
    pub fn around(&self, ranks: &Range<u64>) -> Cow<'_, Cluster> {
        let lies_in = |part: &Part<'_>| part.start < ranks.end && ranks.start < part.end();
        let starts: Vec<(usize, u64)> =
            self.parts().enumerate().filter(|(_, part)| lies_in(part)).map(|(n, part)| (n, part.start)).collect();
        let groups = match starts[..] {
            [(first, start), ..] if starts.len() < self.groups.len() && (ranks.start - start).is_multiple_of(ranks.end - ranks.start) => {
                &self.groups[first..first + starts.len()]
            }
            _ => return Cow::Borrowed(self),
        };
        let mut seen = Cluster { name: self.name.clone(), device: combined(groups), levels: groups[0].levels.clone(), groups: Vec::new() };
        if groups.len() > 1 {
            seen.levels = self.levels.iter().map(|level| Level { count: groups.len() as u64, ..level.clone() }).collect();
            seen.groups = groups.to_vec();
        }
        Cow::Owned(seen)
    }
}

/// What every device of these groups is at least: the least of all memory and rates, the most of all latencies. Power and price are
/// the mean over ranks, so that the number of ranks times them is the sum. Groups of one kind have just that device.
pub(super) fn combined(groups: &[Group]) -> Device {
    let first = &groups[0].device;
    if groups.iter().all(|group| group.device == *first) {
        return first.clone();
    }
    let all = |field: &dyn Fn(&Device) -> f64| groups.iter().map(|group| field(&group.device)).collect::<Vec<_>>();
    let least = |field: &dyn Fn(&Device) -> f64| all(field).into_iter().fold(f64::INFINITY, f64::min);
    let most = |field: &dyn Fn(&Device) -> f64| all(field).into_iter().fold(0.0, f64::max);
    let fewest = |field: &dyn Fn(&Device) -> u64| groups.iter().map(|group| field(&group.device)).min().unwrap_or(0);
    let n_ranks: u64 = groups.iter().map(Group::ranks).sum();
    let mean = |field: &dyn Fn(&Device) -> f64| {
        groups.iter().map(|group| group.ranks() as f64 * field(&group.device)).sum::<f64>() / n_ranks as f64
    };
    let kinds = groups.iter().map(|group| group.device.kind.as_str());
    let kinds: Vec<&str> = kinds
        .clone()
        .enumerate()
        .filter(|(n, kind)| kinds.clone().take(*n).all(|earlier| earlier != *kind))
        .map(|(_, kind)| kind)
        .collect();
    let dtypes = groups.iter().flat_map(|group| group.device.flops.keys().copied());
    let flops: BTreeMap<_, _> = dtypes.map(|dtype| (dtype, least(&|device| device.peak(dtype).0))).collect();
    Device {
        kind: kinds.join(" + "),
        memory_bytes: fewest(&|device| device.memory_bytes),
        flops,
        compute_units: fewest(&|device| device.compute_units),
        memory_gb_per_s: least(&|device| device.memory_gb_per_s),
        launch_us: most(&|device| device.launch_us),
        link_gb_per_s: least(&|device| device.link_gb_per_s),
        link_latency_us: most(&|device| device.link_latency_us),
        link_efficiency: least(&|device| device.link_efficiency),
        nic_gb_per_s: least(&|device| device.nic_gb_per_s),
        nic_latency_us: most(&|device| device.nic_latency_us),
        nic_efficiency: least(&|device| device.nic_efficiency),
        collective_us: most(&|device| device.collective_us),
        collective_ramp_us: most(&|device| device.collective_ramp_us),
        switch_reduce_gb_per_s: least(&|device| device.switch_reduce_gb_per_s),
        host_memory_bytes: fewest(&|device| device.host_memory_bytes),
        host_link_gb_per_s: least(&|device| device.host_link_gb_per_s),
        nvme_bytes: fewest(&|device| device.nvme_bytes),
        nvme_gb_per_s: least(&|device| device.nvme_gb_per_s),
        power_w: mean(&|device| device.power_w),
        usd_per_hour: mean(&|device| device.usd_per_hour),
        cores: groups.iter().filter_map(|group| group.device.cores).min(),
        reach: BTreeMap::new(),
        curves: Vec::new(),
    }
}

#[cfg(test)]
pub(super) mod tests;
