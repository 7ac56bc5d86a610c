//! Small programs, priced by hand.

use partita_ir::boxing::StepKind;
use partita_ir::work::{Act, KernelWork, LaneStep, Matmul, Reuse};

use super::{Price, step};
use crate::cluster::Cluster;

const FILE: &str = "name = 'x'\n[device]\nkind = 'cpu-core'\ncores = 2\n\
     [[device.curves]]\nranks = 1\nkernel_us = 1\nrow_ns = 10\nblock_ns = 20\nstep_ns = 5\nlane_ns = { exp = 2 }\nsizes = [10, 100]\n\
     matmul_plain_gflop_per_s = [[[1, 1], [1, 1]], [[1, 1], [1, 2]]]\nreuse_us = [[1000, 1048.576]]\n\
     [[device.curves]]\nranks = 2\nkernel_us = 2\nreuse_us = [[1000, 2097.152]]\nall_reduce_us = [[4, 5], [1000, 10]]\nsend_us = [[1000, 4]]\n\
     [[level]]\nname = 'threads'\ncount = 2\n";

fn price(acts: &[Vec<Act>]) -> Price {
    let price = step(acts, &Cluster::parse(FILE, "x.toml").unwrap()).unwrap();
    let parts = price.compute + price.communication + price.waiting;
    assert!((parts - price.step).abs() < 1e-12, "{price:?}");
    Price { step: price.step * 1e6, compute: price.compute * 1e6, communication: price.communication * 1e6, waiting: price.waiting * 1e6 }
}

fn near(price: Price, [compute, communication, waiting]: [f64; 3]) {
    let off = [price.compute - compute, price.communication - communication, price.waiting - waiting];
    assert!(off.iter().all(|off| off.abs() < 1e-6), "{price:?} us");
}

/// 1000 bytes: 2 us while one rank computes, 4 us while two do.
fn stream() -> Act {
    Act::Kernel(KernelWork { bytes: 1000, ..KernelWork::default() })
}

fn all_reduce() -> Act {
    Act::Collective { kind: StepKind::AllReduce, members: vec![0, 1], bytes: 1000 }
}

#[test]
fn a_kernel_is_its_start_its_bytes_its_rows_and_its_lanes() {
    let walk = KernelWork { bytes: 2000, rows: 100, blocks: 50, steps: 200, lanes: vec![(LaneStep::Exp, 1000)], ..KernelWork::default() };
    // 1 + 1 + 1 + 1 + 2: what it touches is as near as what was measured
    near(price(&[vec![Act::Kernel(walk)]]), [6.0, 0.0, 0.0]);
    let matmul = Matmul { sizes: [100, 100, 100], calls: 3, left_turned: false, right_turned: false };
    // 1 + 3 · 2e6 FLOP at 2 GFLOP/s
    near(price(&[vec![Act::Kernel(KernelWork { matmul: Some(matmul), ..KernelWork::default() })]]), [3001.0, 0.0, 0.0]);
    // a copy of one thread
    near(price(&[vec![Act::Move(500)]]), [1.5, 0.0, 0.0]);
}

/// 1 ns a byte in the nearest cache, 3 ns far away.
#[test]
fn memory_takes_what_its_distance_says() {
    let file = FILE.replace("reuse_us = [[1000, 1048.576]]", "reuse_us = [[1000, 1048.576], [5000, 3145.728]]");
    let cluster = Cluster::parse(&file, "x.toml").unwrap();
    let used = |bytes: u64, distance: u64| Reuse { bytes, distance };
    let seconds = |work: KernelWork| super::alone(&Act::Kernel(work), &cluster, 1, 1).unwrap() * 1e6;
    let matmul = Matmul { sizes: [100, 100, 100], calls: 1, left_turned: false, right_turned: false };
    let lanes = vec![(LaneStep::Exp, 1000)];
    for (work, expected) in [
        // arithmetic is measured on what is near: only the rest is beside it
        (KernelWork { lanes: lanes.clone(), bytes: 1000, reuse: vec![used(1000, 500)], ..KernelWork::default() }, 1.0 + 2.0),
        (KernelWork { lanes: lanes.clone(), bytes: 1000, reuse: vec![used(1000, 3000)], ..KernelWork::default() }, 1.0 + 2.0 + 1.0),
        (KernelWork { lanes: lanes.clone(), bytes: 3000, reuse: vec![used(1000, 9000), used(2000, 0)], ..KernelWork::default() }, 5.0),
        // a table of which a tenth is looked up
        (KernelWork { lanes, bytes: 1000, reuse: vec![used(10_000, 9000)], ..KernelWork::default() }, 1.0 + 2.0 + 2.0),
        (KernelWork { matmul: Some(matmul), reuse: vec![used(1000, 9000)], ..KernelWork::default() }, 1.0 + 1000.0 + 2.0),
        // a copy does nothing else
        (KernelWork { bytes: 1000, reuse: vec![used(1000, 9000)], ..KernelWork::default() }, 1.0 + 3.0),
    ] {
        let found = seconds(work.clone());
        assert!((found - expected).abs() < 1e-6, "{work:?}: {found} us and not {expected}");
    }
}

#[test]
fn a_rank_alone_is_faster_and_a_collective_waits_for_the_last() {
    // both: 4 us; then rank 1 alone: 2 us; then 10 us together
    let acts = [vec![stream(), all_reduce()], vec![stream(), stream(), all_reduce()]];
    let price = price(&acts);
    assert!((price.step - 16.0).abs() < 1e-6, "{price:?}");
}

#[test]
fn stages_take_turns() {
    let send = Act::Send { to: 1, channel: 3, bytes: 1000 };
    let receive = Act::Receive { from: 0, channel: 3, bytes: 1000 };
    let back = Act::Send { to: 0, channel: 4, bytes: 1000 };
    let taken = Act::Receive { from: 1, channel: 4, bytes: 1000 };
    // 2 us alone, 2 us each to send, to receive, 2 us alone, to send, to receive
    let acts = [vec![stream(), send, taken], vec![receive, stream(), back]];
    let price = price(&acts);
    assert!((price.step - 12.0).abs() < 1e-6, "{price:?}");
    assert!((price.compute - 2.0).abs() < 1e-6 && (price.communication - 4.0).abs() < 1e-6 && (price.waiting - 6.0).abs() < 1e-6);
}

#[test]
fn without_curves_there_is_no_price() {
    let plain = Cluster::parse("name = 'x'\n[device]\nkind = 'cpu-core'\n[[level]]\nname = 'threads'\ncount = 1\n", "x.toml").unwrap();
    assert_eq!(step(&[vec![stream()]], &plain), None);
}
