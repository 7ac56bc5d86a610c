//! Mixed clusters against uniform ones, and against figures worked out by hand.

use partita_ir::dtype::DType;
use partita_ir::layout::Mesh;

use super::*;
use crate::collective::{Collective, Spread, seconds};
use crate::cost::{Work, compute_seconds};
use crate::units::BytesPerSecond;

const COLLECTIVES: [Collective; 4] = [Collective::AllReduce, Collective::ReduceScatter, Collective::AllGather, Collective::AllToAll];

/// Levels whose links all differ, below the key `header`.
fn level_tables(header: &str, counts: &[u64], from: usize) -> String {
    let level = |(n, count): (usize, &u64)| {
        let n = n + from;
        format!(
            "[[{header}]]\nname = 'l{n}'\ncount = {count}\nbandwidth_gb_per_s = {}\nlatency_us = {}\nefficiency = 0.9\noversubscription = {}\n",
            7.3 / (n + 1) as f64,
            1.7 * (n + 1) as f64,
            1.0 + 0.3 * n as f64
        )
    };
    counts.iter().enumerate().map(level).collect()
}

/// Groups of these counts, H100s and V100s by turns.
pub(crate) fn mixed(groups: &[&[u64]]) -> Cluster {
    let group = |(n, counts): (usize, &&[u64])| {
        let kind = ["h100", "v100-32gb"][n % 2];
        format!("[[group]]\ndevice = {{ kind = '{kind}' }}\n{}", level_tables("group.level", counts, n))
    };
    let groups: String = groups.iter().enumerate().map(group).collect();
    parsed(&format!("{groups}[[level]]\nname = 'all'\n"))
}

fn parsed(text: &str) -> Cluster {
    Cluster::parse(&format!("name = 'x'\n{text}"), "x.toml").unwrap_or_else(|error| panic!("{error}"))
}

/// The slowest of the groups along axes.
fn slowest(cluster: &Cluster, mesh: &Mesh, along: &[usize], collective: Collective, received: f64) -> f64 {
    let spreads = Spread::of_axes(cluster, mesh, along);
    spreads.iter().map(|spread| seconds(spread, collective, received).0).fold(0.0, f64::max)
}

/// Whatever is asked of them, to the last bit.
#[test]
fn equal_groups_are_the_uniform_cluster() {
    let mut compared = 0;
    for kind in ["kind = 'h100'", "kind = 'cpu-core', cores = 3", "kind = 'v100-32gb'"] {
        for (counts, n_groups) in [(&[4][..], 2), (&[2, 3], 2), (&[8, 2], 3), (&[3, 2, 2], 2), (&[1, 4], 4), (&[6], 1), (&[1], 5)] {
            let joining = level_tables("level", &[n_groups], counts.len());
            let uniform = parsed(&format!("device = {{ {kind} }}\n{}{joining}", level_tables("level", counts, 0)));
            let group = format!("[[group]]\ndevice = {{ {kind} }}\n{}", level_tables("group.level", counts, 0));
            let mixed = parsed(&format!("{}{joining}", group.repeat(usize::try_from(n_groups).unwrap())));
            let ranks = uniform.ranks();
            assert_eq!((mixed.ranks(), &mixed.device, mixed.cores_per_rank()), (ranks, &uniform.device, uniform.cores_per_rank()));
            let work = Work { gemm_flops: 1e9, bytes: 1e6 };
            assert_eq!(compute_seconds(&mixed, DType::Bf16, work), compute_seconds(&uniform, DType::Bf16, work));
            for (a, b) in (0..ranks).flat_map(|a| (0..ranks).map(move |b| (a, b))) {
                assert_eq!(mixed.link_between(a, b), uniform.link_between(a, b), "{counts:?} {n_groups} {a} {b}");
            }
            let sizes = (1..=ranks).flat_map(|inner| (1..=ranks / inner).map(move |outer| (outer, inner)));
            for (outer, inner) in sizes.filter(|(outer, inner)| ranks.is_multiple_of(outer * inner)) {
                assert_eq!(mixed.link(inner, outer), uniform.link(inner, outer), "{counts:?} {n_groups} {inner} {outer}");
                let mesh = Mesh::new(&[("outer", outer), ("inner", inner)]);
                for along in [&[0][..], &[1], &[0, 1]] {
                    for (collective, received) in COLLECTIVES.iter().flat_map(|kind| [(*kind, 1e3), (*kind, 1e9)]) {
                        let of = |cluster| slowest(cluster, &mesh, along, collective, received);
                        assert_eq!(of(&mixed), of(&uniform), "{counts:?} {n_groups} {mesh:?} {along:?} {collective:?}");
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared > 5_000, "{compared}");
}

#[test]
fn ranks_are_numbered_group_after_group() {
    let cluster = mixed(&[&[8], &[2, 2], &[3]]);
    let kinds: Vec<&str> = [0, 7, 8, 11, 12, 14].map(|rank| cluster.device_of(rank).kind.as_str()).into();
    assert_eq!(kinds, ["h100", "h100", "v100-32gb", "v100-32gb", "h100", "h100"]);
    let parts: Vec<(u64, u64)> = cluster.parts().map(|part| (part.start, part.end())).collect();
    assert_eq!(parts, [(0, 8), (8, 12), (12, 15)]);
    assert_eq!(cluster.groups[1].name, "v100-32gb");
    let json = serde_json::to_string(&cluster).unwrap();
    assert_eq!(serde_json::from_str::<Cluster>(&json).unwrap(), cluster);
}

#[test]
#[should_panic(expected = "there is no rank 8")]
fn a_rank_beyond_the_cluster_is_a_bug() {
    mixed(&[&[4], &[4]]).device_of(8);
}

#[test]
fn a_device_of_any_group_is_at_least_the_combined_one() {
    let cluster = mixed(&[&[6], &[2]]);
    let (new, old, all) = (cluster.device_of(0), cluster.device_of(6), &cluster.device);
    assert_eq!(all.kind, "h100 + v100-32gb");
    assert_eq!((all.memory_bytes, all.memory_gb_per_s, all.launch_us), (old.memory_bytes, old.memory_gb_per_s, old.launch_us));
    assert_eq!((all.peak(DType::Bf16), all.peak(DType::F32)), (old.peak(DType::Bf16), old.peak(DType::F32)));
    // the V100's switch only forwards
    assert!(new.switch_reduce_gb_per_s > 0.0 && all.switch_reduce_gb_per_s == 0.0);
    // the number of devices times their mean is the sum
    let sum = 6.0 * new.usd_per_hour + 2.0 * old.usd_per_hour;
    assert!((8.0 * all.usd_per_hour - sum).abs() < 1e-9 && (cluster.usd_per_hour(&(0..8)) - sum).abs() < 1e-9);
    assert_eq!(cluster.usd_per_hour(&(4..7)), 2.0 * new.usd_per_hour + old.usd_per_hour);
    assert_eq!(cluster.usd_per_hour(&(1..2)), new.usd_per_hour);
}

/// Each device is the slower at something.
#[test]
fn what_all_share_takes_the_time_of_the_slowest() {
    let device = |flops: f64, memory: f64| {
        format!(
            "[[group]]\ndevice = {{ kind = 'cpu-core', launch_us = 0, memory_gb_per_s = {memory}, flops = {{ f32 = {flops} }} }}\n[[group.level]]\nname = 'a'\ncount = 2\n"
        )
    };
    let cluster = parsed(&format!("{}{}[[level]]\nname = 'b'\n", device(1e9, 4.0), device(3e9, 2.0)));
    let time = |gemm_flops, bytes| compute_seconds(&cluster, DType::F32, Work { gemm_flops, bytes });
    assert_eq!((time(6e9, 0.0), time(0.0, 8e9)), (6.0, 4.0));
    // each stage has its own device's
    let on = |ranks| compute_seconds(&cluster.around(&ranks), DType::F32, Work { gemm_flops: 6e9, bytes: 8e9 });
    assert_eq!((on(0..2), on(2..4), on(0..4)), (6.0, 4.0, 6.0));
}

/// Rings of all-gathers in which nothing else counts.
#[test]
fn collectives_go_over_the_levels_of_their_group_and_the_one_that_joins() {
    let group = |gb: f64, counts: [u64; 2]| {
        let level = |(n, count): (usize, u64)| {
            let gb = gb / (1 + n) as f64;
            format!("[[group.level]]\nname = '{n}'\ncount = {count}\nbandwidth_gb_per_s = {gb}\nlatency_us = 0\n")
        };
        format!("[[group]]\ndevice = {{ kind = 'cpu-core' }}\n{}", counts.into_iter().enumerate().map(level).collect::<String>())
    };
    let joining = "[[level]]\nname = 'b'\nbandwidth_gb_per_s = 1\nlatency_us = 0\noversubscription = 2\n";
    let cluster = parsed(&format!("{}{}{joining}", group(8.0, [4, 2]), group(2.0, [2, 2])));
    let gather = |ranks: &[u64]| seconds(&Spread::new(&cluster, ranks), Collective::AllGather, 4e9).0;
    // in a block of each group; from block to block of the first, on one card and on two
    assert_eq!((gather(&[0, 1]), gather(&[8, 9]), gather(&[0, 4]), gather(&[0, 1, 4, 5])), (0.5, 2.0, 1.0, 0.5));
    // across, on one card, on two each, and on two where one side has four
    assert_eq!((gather(&[0, 8]), gather(&[0, 1, 8, 9]), gather(&[0, 1, 2, 3, 8, 9])), (8.0, 4.0, 4.0));
    // the data axis crosses, each tensor axis stays in its group, of which the second is slower
    let mesh = Mesh::new(&[("data", 6), ("tensor", 2)]);
    let of = |along: &[usize]| slowest(&cluster, &mesh, along, Collective::AllGather, 4e9);
    assert_eq!((of(&[0]), of(&[1])), (4.0, 2.0));
    assert_eq!(cluster.link(1, 2).rate, BytesPerSecond(2e9));
    assert_eq!(cluster.link(4, 3).rate, BytesPerSecond(5e8));
    assert_eq!(cluster.link(4, 2).rate, BytesPerSecond(5e8));
    assert_eq!((cluster.link_between(7, 8).rate, cluster.link_between(0, 4).rate), (BytesPerSecond(1e9), BytesPerSecond(4e9)));
}

/// However its ranks are numbered: blocks of a level are counted from the start of the group.
#[test]
fn a_collective_inside_a_group_costs_what_it_does_in_the_group_alone() {
    let cluster = mixed(&[&[3], &[4, 2], &[5], &[2, 3]]);
    let mut compared = 0;
    for part in cluster.parts() {
        let alone = cluster.around(&(part.start..part.end()));
        assert_eq!((alone.ranks(), alone.groups.len()), (part.ranks(), 0));
        let ranges = (0..part.ranks()).flat_map(|from| (from + 1..=part.ranks()).map(move |to| from..to));
        for (range, step) in ranges.flat_map(|range| [(range.clone(), 1), (range, 2)]) {
            let inside: Vec<u64> = range.step_by(step).collect();
            let here: Vec<u64> = inside.iter().map(|rank| part.start + rank).collect();
            let (alone, here) = (Spread::new(&alone, &inside), Spread::new(&cluster, &here));
            for collective in COLLECTIVES {
                assert_eq!(seconds(&here, collective, 1e6), seconds(&alone, collective, 1e6), "{inside:?} {collective:?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 400, "{compared}");
}

#[test]
fn a_stage_sees_the_groups_that_it_lies_in() {
    let cluster = mixed(&[&[8], &[4], &[4]]);
    let seen = |ranks: Range<u64>| {
        let seen = cluster.around(&ranks);
        (seen.ranks(), seen.groups.len(), seen.device.kind.clone())
    };
    let new = || "h100".to_owned();
    let both = || "h100 + v100-32gb".to_owned();
    assert_eq!(seen(4..8), (8, 0, new()));
    assert_eq!(seen(8..12), (4, 0, "v100-32gb".to_owned()));
    assert_eq!(seen(8..16), (8, 2, "v100-32gb + h100".to_owned()));
    assert_eq!(cluster.around(&(8..16)).joining().unwrap().count, 2);
    assert_eq!(seen(0..16), (16, 3, both()));
    // runs of 3 ranks begin with no group but the first
    assert_eq!((seen(3..6), seen(6..9), seen(9..12)), ((8, 0, new()), (12, 2, both()), (16, 3, both())));
    let uniform = parsed(&format!("device = {{ kind = 'h100' }}\n{}", level_tables("level", &[8, 2], 0)));
    assert_eq!(*uniform.around(&(8..16)), uniform);
}
