//! The figures of docs and papers, and what holds for every schedule.

use std::collections::HashSet;

use super::order::WorkKind::{Backward, Forward, Input, Weight};
use super::order::{OrderError, Orders, Piece, Placement, Times, Work, WorkKind, orders};
use super::simulate::{Costs, LinkCosts, Needed, Pass, Run, Sending, SimulationError, StageCosts, Timeline, Transfer, Waiting, simulate};
use crate::pins::ScheduleKind;
use crate::units::{Bytes, Seconds};

const EQUAL: [f64; 3] = [1.0, 1.0, 1.0];
const UNEQUAL: [f64; 3] = [10.0, 12.0, 8.0];

fn times([forward, input, weight]: [f64; 3]) -> Times {
    Times { forward: Seconds(forward), input: Seconds(input), weight: Seconds(weight) }
}

/// A stage that stores one byte for each micro-batch until its weight gradient.
fn stage([forward, input, weight]: [f64; 3]) -> StageCosts {
    StageCosts {
        forward: Seconds(forward),
        input: Seconds(input),
        weight: Seconds(weight),
        both: Seconds(forward + input + weight),
        until_input: Bytes(0),
        until_weight: Bytes(1),
    }
}

fn link(time: f64) -> LinkCosts {
    LinkCosts { forward: Seconds(time), backward: Seconds(time) }
}

fn chunks_of(kind: ScheduleKind) -> &'static [u64] {
    match kind {
        ScheduleKind::Interleaved => &[1, 2, 3, 4],
        ScheduleKind::ZbV | ScheduleKind::DualPipeV => &[2],
        _ => &[1],
    }
}

fn run(orders: &Orders, unit: [f64; 3], link_time: f64, sending: Sending) -> Result<Timeline, SimulationError> {
    let stages = vec![stage(unit); orders.placement.stages() as usize];
    let links = vec![link(link_time); stages.len() - 1];
    simulate(orders, &Costs { stages: &stages, links: &links, sending })
}

/// The timeline of a schedule whose sends take no time.
fn timeline(kind: ScheduleKind, p: u64, m: u64, v: u64, unit: [f64; 3]) -> Timeline {
    run(&orders(kind, p, m, v, &times(unit)).unwrap(), unit, 0.0, Sending::Beside).unwrap()
}

fn for_all(mut check: impl FnMut(ScheduleKind, u64, u64, u64)) {
    for (kind, _) in ScheduleKind::ALL {
        for v in chunks_of(kind) {
            for p in [1, 2, 3, 4, 5, 7, 8] {
                for m in [1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 24, 33] {
                    check(kind, p, m, *v);
                }
            }
        }
    }
}

#[test]
fn gpipe_and_one_f_one_b_wait_for_a_filling_and_a_draining() {
    for unit @ [f, b, w] in [EQUAL, UNEQUAL] {
        for (p, m) in [(1, 3), (2, 2), (4, 8), (8, 16), (8, 32)] {
            for kind in [ScheduleKind::GPipe, ScheduleKind::OneFOneB] {
                let timeline = timeline(kind, p, m, 1, unit);
                assert_eq!(timeline.bubble(), Seconds((p - 1) as f64 * (f + b + w)), "{kind} {p} {m}");
                assert_eq!(timeline.span, Seconds((m + p - 1) as f64 * (f + b + w)), "{kind} {p} {m}");
                let peak = if kind == ScheduleKind::GPipe { m } else { m.min(p) };
                assert_eq!(timeline.peak(), Bytes(peak));
                assert_eq!(timeline.ranks[0].peak.stored, Bytes(peak));
            }
        }
    }
}

#[test]
fn one_f_one_b_holds_p_minus_r_micro_batches() {
    for (p, m) in [(1, 4), (2, 4), (4, 8), (4, 2), (8, 32)] {
        let timeline = timeline(ScheduleKind::OneFOneB, p, m, 1, UNEQUAL);
        let held: Vec<Bytes> = timeline.ranks.iter().map(|rank| rank.peak.stored).collect();
        assert_eq!(held, (0..p).map(|rank| Bytes((p - rank).min(m))).collect::<Vec<_>>());
    }
}

#[test]
fn interleaving_divides_the_bubble() {
    for unit @ [f, b, w] in [EQUAL, UNEQUAL] {
        for (p, m) in [(4, 8), (8, 16), (8, 32)] {
            for v in [2, 4] {
                let timeline = timeline(ScheduleKind::Interleaved, p, m, v, unit);
                // the unit is a chunk, a v-th of a rank's layers
                assert_eq!(timeline.bubble(), Seconds((p - 1) as f64 * (f + b + w)), "{p} {m} {v}");
                assert_eq!(timeline.peak(), Bytes(p * v + p - 1), "{p} {m} {v}");
                assert_eq!(timeline.ranks[0].peak.stored, timeline.peak());
            }
        }
    }
}

#[test]
fn zero_bubble_trades_memory_for_the_bubble() {
    for unit @ [f, b, w] in [EQUAL, UNEQUAL] {
        for (p, m) in [(1, 4), (2, 8), (4, 8), (4, 12), (8, 16), (8, 32)] {
            let ranks = (p - 1) as f64;
            for (kind, bubble, peak) in
                [(ScheduleKind::ZbH1, ranks * (f + b - w), p), (ScheduleKind::ZbH2, ranks * (f + b - 2.0 * w), 2 * p - 1)]
            {
                let timeline = timeline(kind, p, m, 1, unit);
                assert_eq!(timeline.bubble(), Seconds(bubble), "{kind} {p} {m}");
                assert!(timeline.ranks.iter().all(|rank| rank.peak.stored == Bytes(peak)), "{kind} {p} {m}");
            }
        }
    }
}

#[test]
fn every_piece_runs_forward_and_back_once() {
    for_all(|kind, p, m, v| {
        let orders = orders(kind, p, m, v, &times(UNEQUAL)).unwrap();
        for order in &orders.ranks {
            let (mut forward, mut input, mut weight) = (HashSet::new(), HashSet::new(), HashSet::new());
            for work in order {
                // an overlapped pair is of different pieces
                assert!(work.input().is_none_or(|piece| forward.contains(&piece)), "{kind} {p} {m} {v}");
                assert!(work.forward().is_none_or(|piece| forward.insert(piece)));
                assert!(work.input().is_none_or(|piece| input.insert(piece)));
                assert!(work.weight().is_none_or(|piece| input.contains(&piece) && weight.insert(piece)));
            }
            let all: HashSet<Piece> = (0..v as u32).flat_map(|chunk| (0..m).map(move |micro_batch| Piece { chunk, micro_batch })).collect();
            assert!(forward == all && input == all && weight == all, "{kind} {p} {m} {v}");
        }
    });
}

#[test]
fn no_rank_waits_for_ever() {
    for_all(|kind, p, m, v| {
        for unit in [EQUAL, UNEQUAL, [3.0, 0.0, 7.0], [0.0, 0.0, 0.0]] {
            let orders = orders(kind, p, m, v, &times(unit)).unwrap();
            for sending in [Sending::Beside, Sending::Instead] {
                if let Err(error) = run(&orders, UNEQUAL, 2.0, sending) {
                    panic!("{kind} {p} {m} {v}: {error}");
                }
            }
        }
    });
}

#[test]
fn equal_arguments_give_equal_results() {
    for_all(|kind, p, m, v| {
        let once = orders(kind, p, m, v, &times(UNEQUAL)).unwrap();
        assert_eq!(once, orders(kind, p, m, v, &times(UNEQUAL)).unwrap());
        let timeline = || run(&once, UNEQUAL, 1.5, Sending::Instead).unwrap();
        assert_eq!(timeline(), timeline());
    });
}

#[test]
fn folded_zero_bubble_waits_only_while_the_pipeline_fills() {
    for (p, m) in [(1, 4), (2, 8), (3, 9), (4, 8), (4, 12), (5, 20), (6, 13), (7, 21), (8, 16), (8, 32), (10, 25), (12, 40), (16, 64)] {
        let timeline = timeline(ScheduleKind::ZbV, p, m, 2, EQUAL);
        // the last rank cannot start before p - 1 forward passes, and has six passes of each micro-batch to do
        assert_eq!(timeline.span, Seconds((6 * m + p - 1) as f64), "{p} {m}");
        assert_eq!(timeline.peak(), Bytes(2 * p), "{p} {m}");
        // the paper's is none: up to 6 ranks it is the passes of one chunk at most, on more the last gradients come late to rank 0
        let most = 3.0_f64.max(p as f64 - 3.0);
        assert!(timeline.bubble() <= Seconds(most), "{p} {m}: {:?}", timeline.bubble());
    }
}

#[test]
fn dual_pipe_waits_as_its_formula_says() {
    for unit @ [f, b, w] in [EQUAL, UNEQUAL] {
        for (p, m) in [(1, 4), (2, 8), (4, 8), (4, 12), (8, 16), (8, 32), (16, 64)] {
            let timeline = timeline(ScheduleKind::DualPipeV, p, m, 2, unit);
            let bubble = (p - 1) as f64 * ((f + b + w) + (b + w) - 3.0 * w);
            assert!((timeline.bubble().0 - bubble).abs() <= f + b + w, "{p} {m}: {:?}, not {bubble}", timeline.bubble());
            assert_eq!(timeline.peak(), Bytes(2 * p + 1), "{p} {m}");
        }
    }
}

#[test]
fn overlapped_pairs_take_their_own_time() {
    let (p, m) = (4, 16);
    let orders = orders(ScheduleKind::DualPipeV, p, m, 2, &times(EQUAL)).unwrap();
    let faster = StageCosts { both: Seconds(2.5), ..stage(EQUAL) };
    let costs = Costs { stages: &[faster; 8], links: &[link(0.0); 7], sending: Sending::Beside };
    let timeline = simulate(&orders, &costs).unwrap();
    for (order, rank) in orders.ranks.iter().zip(&timeline.ranks) {
        let pairs = order.iter().filter(|work| matches!(work.kind, WorkKind::Both { .. })).count();
        assert!(pairs >= (m - p) as usize);
        assert_eq!(rank.busy, Seconds((6 * m) as f64 - 0.5 * pairs as f64));
    }
    let bubble = (p - 1) as f64 * (2.5 + 2.0 - 3.0);
    assert!((timeline.bubble().0 - bubble).abs() <= 3.0, "{:?}", timeline.bubble());
}

#[test]
fn every_stage_lies_on_one_rank() {
    for placement in [Placement::Round { ranks: 3, chunks: 4 }, Placement::Fold { ranks: 5 }, Placement::Fold { ranks: 1 }] {
        let mut stages = Vec::new();
        for rank in 0..placement.ranks() {
            for chunk in 0..placement.chunks() {
                stages.push(placement.stage(rank, chunk));
                assert_eq!(placement.rank(placement.stage(rank, chunk)), rank);
            }
        }
        stages.sort_unstable();
        assert_eq!(stages, (0..placement.stages()).collect::<Vec<_>>());
    }
    assert_eq!(Placement::Round { ranks: 4, chunks: 2 }.stage(1, 1), 5);
    assert_eq!(Placement::Fold { ranks: 4 }.stage(1, 1), 6);
}

#[test]
fn orders_that_cannot_be_are_refused() {
    let unit = times(EQUAL);
    assert_eq!(orders(ScheduleKind::GPipe, 0, 4, 1, &unit), Err(OrderError::Nothing { ranks: 0, micro_batches: 4 }));
    assert_eq!(orders(ScheduleKind::GPipe, 4, 0, 1, &unit), Err(OrderError::Nothing { ranks: 4, micro_batches: 0 }));
    for (kind, chunks) in
        [(ScheduleKind::OneFOneB, 2), (ScheduleKind::Interleaved, 0), (ScheduleKind::ZbV, 1), (ScheduleKind::ZbV, 1 << 40)]
    {
        assert_eq!(orders(kind, 4, 8, chunks, &unit), Err(OrderError::Chunks { kind, chunks }));
    }
    let too_many = OrderError::TooMany { ranks: 2, chunks: 1, micro_batches: u64::MAX };
    assert_eq!(orders(ScheduleKind::GPipe, 2, u64::MAX, 1, &unit), Err(too_many));
    let negative = times([1.0, -1.0, 1.0]);
    assert_eq!(orders(ScheduleKind::ZbV, 2, 4, 2, &negative), Err(OrderError::Times(negative)));
}

fn work(kind: WorkKind, micro_batch: u64) -> Work {
    Work { kind, chunk: 0, micro_batch }
}

/// Orders by hand, one chunk on each rank.
fn by_hand(micro_batches: u64, ranks: &[&[(WorkKind, u64)]]) -> Orders {
    let order = |order: &&[(WorkKind, u64)]| order.iter().map(|(kind, micro_batch)| work(*kind, *micro_batch)).collect();
    let placement = Placement::Round { ranks: ranks.len() as u64, chunks: 1 };
    Orders { placement, micro_batches, ranks: ranks.iter().map(order).collect() }
}

#[test]
fn ranks_that_wait_for_each_other_are_named() {
    let orders = by_hand(
        2,
        &[&[(Forward, 0), (Backward, 0), (Forward, 1), (Backward, 1)], &[(Forward, 0), (Forward, 1), (Backward, 0), (Backward, 1)]],
    );
    let error = run(&orders, EQUAL, 0.0, Sending::Beside).unwrap_err();
    let waits = |rank, index, work, needs| Waiting { rank, index, work, needs };
    assert_eq!(
        error,
        SimulationError::Deadlock(vec![
            waits(0, 1, work(Backward, 0), Needed::Input { stage: 1, micro_batch: 0 }),
            waits(1, 1, work(Forward, 1), Needed::Forward { stage: 0, micro_batch: 1 }),
        ])
    );
    assert_eq!(
        error.to_string(),
        "ranks wait for each other: rank 0 at work 1 with the backward of micro-batch 0 in chunk 0 for the input gradient of \
         micro-batch 0 on stage 1; rank 1 at work 1 with the forward of micro-batch 1 in chunk 0 for the forward of micro-batch 1 \
         on stage 0"
    );
    let weight_first = by_hand(1, &[&[(Forward, 0), (Weight, 0), (Input, 0)]]);
    let waiting = waits(0, 1, work(Weight, 0), Needed::Input { stage: 0, micro_batch: 0 });
    assert_eq!(run(&weight_first, EQUAL, 0.0, Sending::Beside), Err(SimulationError::Deadlock(vec![waiting])));
}

#[test]
fn orders_that_are_not_a_step_are_refused() {
    let error = |order: &[(WorkKind, u64)]| run(&by_hand(1, &[order]), EQUAL, 0.0, Sending::Beside).unwrap_err();
    for kind in [Forward, Input, Weight] {
        let twice = [(Forward, 0), (Backward, 0), (kind, 0)];
        assert_eq!(error(&twice), SimulationError::Twice { rank: 0, work: work(kind, 0) });
    }
    assert_eq!(error(&[(Forward, 1)]), SimulationError::NoSuch { rank: 0, piece: Piece { chunk: 0, micro_batch: 1 } });
    for (order, pass) in [(&[][..], Pass::Forward), (&[(Forward, 0)][..], Pass::Input), (&[(Forward, 0), (Input, 0)][..], Pass::Weight)] {
        assert_eq!(error(order), SimulationError::Missing { rank: 0, pass, done: 0, all: 1 });
    }
    let orders = by_hand(1, &[&[], &[]]);
    for (stages, links, what, placed, given) in [(1, 1, "stages", 2, 1), (2, 2, "boundaries", 1, 2)] {
        let costs = Costs { stages: &vec![stage(EQUAL); stages], links: &vec![link(0.0); links], sending: Sending::Beside };
        assert_eq!(simulate(&orders, &costs), Err(SimulationError::Count { what, placed, given }));
    }
}

#[test]
fn slow_stages_set_the_pace() {
    let stages = [stage([1.0, 1.0, 1.0]), stage([4.0, 4.0, 4.0]), stage([2.0, 2.0, 2.0])];
    let orders = orders(ScheduleKind::GPipe, 3, 5, 1, &times(EQUAL)).unwrap();
    let timeline = simulate(&orders, &Costs { stages: &stages, links: &[link(0.0); 2], sending: Sending::Beside }).unwrap();
    // each way: all stages once, then the slowest for each further micro-batch
    assert_eq!(timeline.span, Seconds((7.0 + 4.0 * 4.0) * 3.0));
    assert_eq!(timeline.ranks[1].busy, Seconds(60.0));
    assert_eq!(timeline.ranks[1].bubble, timeline.ranks[1].runs[9].end - Seconds(1.0) - Seconds(60.0));
}

#[test]
fn sends_take_the_time_of_their_boundary() {
    let all: [(WorkKind, u64); 4] = [(Forward, 0), (Forward, 1), (Backward, 0), (Backward, 1)];
    let orders = by_hand(2, &[&all, &all]);
    let links = [LinkCosts { forward: Seconds(3.0), backward: Seconds(0.5) }];
    let starts = |timeline: &Timeline, rank: usize| timeline.ranks[rank].runs.iter().map(|run| run.start.0).collect::<Vec<_>>();
    let sends = |timeline: &Timeline| -> Vec<_> {
        timeline.transfers.iter().map(|sent| (sent.from, sent.micro_batch, sent.start.0, sent.end.0)).collect()
    };

    let beside = simulate(&orders, &Costs { stages: &[stage(EQUAL); 2], links: &links, sending: Sending::Beside }).unwrap();
    // the second output is there at 2 and waits for the link until 4
    assert_eq!(sends(&beside), [(0, 0, 1.0, 4.0), (0, 1, 4.0, 7.0), (1, 0, 10.0, 10.5), (1, 1, 12.0, 12.5)]);
    assert_eq!(starts(&beside, 0), [0.0, 1.0, 10.5, 12.5]);
    assert_eq!(starts(&beside, 1), [4.0, 7.0, 8.0, 10.0]);
    assert_eq!(beside.transfers[0], Transfer { from: 0, to: 1, micro_batch: 0, start: Seconds(1.0), end: Seconds(4.0) });
    assert_eq!(beside.ranks[1].runs[0], Run { work: work(Forward, 0), start: Seconds(4.0), end: Seconds(5.0) });

    let instead = simulate(&orders, &Costs { stages: &[stage(EQUAL); 2], links: &links, sending: Sending::Instead }).unwrap();
    // rank 0 sends until 4 before it goes on; rank 1 is held up for 3 from 5 on, and rank 0 for half a second before each backward
    assert_eq!(sends(&instead), [(0, 0, 1.0, 4.0), (0, 1, 5.0, 8.0), (1, 0, 11.0, 11.5), (1, 1, 13.5, 14.0)]);
    assert_eq!(starts(&instead, 0), [0.0, 4.0, 11.5, 14.0]);
    assert_eq!(starts(&instead, 1), [4.0, 8.0, 9.0, 11.5]);
    assert_eq!(instead.span, Seconds(16.0));
}

#[test]
fn nothing_is_sent_within_a_rank() {
    let timeline = run(&orders(ScheduleKind::ZbV, 2, 4, 2, &times(EQUAL)).unwrap(), EQUAL, 100.0, Sending::Beside).unwrap();
    // of three boundaries the one in the middle is between the chunks of rank 1
    assert_eq!(timeline.transfers.len(), 2 * 2 * 4);
    assert!(timeline.transfers.iter().all(|sent| (sent.from, sent.to) != (1, 2) && (sent.from, sent.to) != (2, 1)));
}

#[test]
fn bytes_go_when_their_gradient_is_done() {
    let peak = |order: &[(WorkKind, u64)]| {
        let stage = StageCosts { until_input: Bytes(10), until_weight: Bytes(3), ..stage(UNEQUAL) };
        let costs = Costs { stages: &[stage], links: &[], sending: Sending::Beside };
        let peak = simulate(&by_hand(2, &[order]), &costs).unwrap().ranks[0].peak;
        (peak.stored.0, peak.index, peak.at.0)
    };
    assert_eq!(peak(&[(Forward, 0), (Forward, 1), (Input, 0), (Input, 1), (Weight, 0), (Weight, 1)]), (26, 1, 10.0));
    assert_eq!(peak(&[(Forward, 0), (Input, 0), (Forward, 1), (Weight, 0), (Input, 1), (Weight, 1)]), (16, 2, 22.0));
    assert_eq!(peak(&[(Forward, 0), (Backward, 0), (Forward, 1), (Backward, 1)]), (13, 0, 0.0));
}
