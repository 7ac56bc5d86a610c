//! Collectives of thread ranks against serial references.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use partita_ir::dtype::DType;
use partita_ir::random::uniform;
use partita_ir::rule::Reduce;

use super::{CommError, Communicator, CopyBox, ExchangePlan, Pull, PullOp, ThreadCommunicator, World, merge};

/// Runs `body` once a rank; gives what each returned, in rank order.
fn run<T: Send>(n: usize, body: impl Fn(ThreadCommunicator) -> T + Sync) -> Vec<T> {
    let body = &body;
    std::thread::scope(|scope| {
        let threads: Vec<_> = World::connect(n).into_iter().map(|rank| scope.spawn(move || body(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn draw(salt: u64, n: u64) -> u64 {
    (uniform(salt.wrapping_mul(0x9E37), n) * 1e6) as u64
}

/// `count` elements as bytes, integers small enough to be exact in every type or arbitrary reals.
fn elements(dtype: DType, count: usize, salt: u64) -> Vec<u8> {
    (0..count as u64)
        .flat_map(|n| {
            let x = uniform(salt, n) - 0.5;
            match dtype {
                DType::F64 => x.to_ne_bytes().to_vec(),
                DType::F32 => (x as f32).to_ne_bytes().to_vec(),
                DType::I32 => ((x * 1e6) as i32).to_ne_bytes().to_vec(),
                DType::Bf16 => half::bf16::from_f64(x).to_ne_bytes().to_vec(),
                _ => half::f16::from_f64(x).to_ne_bytes().to_vec(),
            }
        })
        .collect()
}

/// Folds whole buffers in order; those of 16 bits as f32, rounded at the end.
fn reference(op: Reduce, dtype: DType, row: usize, buffers: &[Vec<u8>]) -> Vec<u8> {
    if matches!(dtype, DType::Bf16 | DType::Fp16) {
        let is_bf16 = dtype == DType::Bf16;
        let wide = |x: [u8; 2]| if is_bf16 { half::bf16::from_ne_bytes(x).to_f32() } else { half::f16::from_ne_bytes(x).to_f32() };
        let all: Vec<Vec<u8>> =
            buffers.iter().map(|buffer| buffer.as_chunks::<2>().0.iter().flat_map(|x| wide(*x).to_ne_bytes()).collect()).collect();
        let folded = reference(op, DType::F32, row, &all);
        let narrow = |x: f32| if is_bf16 { half::bf16::from_f32(x).to_ne_bytes() } else { half::f16::from_f32(x).to_ne_bytes() };
        return folded.as_chunks::<4>().0.iter().flat_map(|x| narrow(f32::from_ne_bytes(*x))).collect();
    }
    let mut all = buffers[0].clone();
    buffers[1..].iter().for_each(|other| merge::merge(op, dtype, row, &mut all, other));
    all
}

const OPS: [(Reduce, usize); 7] = [
    (Reduce::Sum, 1),
    (Reduce::Max, 1),
    (Reduce::Min, 1),
    (Reduce::LogSumExp, 1),
    (Reduce::ArgMax, 2),
    (Reduce::Softmax, 2),
    (Reduce::Softmax, 65),
];

#[test]
fn all_reduce_is_the_serial_fold_to_the_bit() {
    for n in 1..=8 {
        let ranks: Vec<usize> = (0..n).collect();
        let mut cases = Vec::new();
        for (op, row) in OPS {
            for dtype in [DType::F32, DType::F64, DType::I32, DType::Bf16, DType::Fp16] {
                if merge::check(op, dtype, row).is_err() {
                    continue;
                }
                // none, fewer rows than ranks, some, and enough for helpers
                let some = 7 + draw(n as u64, row as u64) as usize % 90;
                for rows in [0, 1, n - 1, some, 18_000 / row] {
                    let salt = |rank: usize| (cases.len() * 10 + rank) as u64;
                    let buffers: Vec<_> = ranks.iter().map(|rank| elements(dtype, rows * row, salt(*rank))).collect();
                    let want = reference(op, dtype, row, &buffers);
                    cases.push((op, dtype, row, buffers, want));
                }
            }
        }
        // twice: runs agree too
        for _ in 0..2 {
            let totals = run(n, |comm| {
                let everyone = comm.group(&ranks).unwrap();
                let mut total = 0;
                for (op, dtype, row, buffers, want) in &cases {
                    let mut mine = buffers[comm.rank()].clone();
                    total += comm.all_reduce(&everyone, *op, *dtype, *row, &mut mine).unwrap();
                    assert!(mine == *want, "{op:?} of {} bytes of {dtype} in rows of {row} on {n} ranks", mine.len());
                }
                total
            });
            assert_eq!(totals[0] == 0, n == 1);
        }
    }
}

#[test]
fn all_reduce_counts_bytes_as_a_ring_does() {
    for (n, rows, row) in [(4, 100, 1), (3, 20, 2), (6, 20, 1), (8, 5, 1), (2, 0, 1)] {
        let ranks: Vec<usize> = (0..n).collect();
        let op = if row == 1 { Reduce::Sum } else { Reduce::Softmax };
        let received = run(n, |comm| {
            let mut buffer = elements(DType::F64, rows * row, comm.rank() as u64);
            comm.all_reduce(&comm.group(&ranks).unwrap(), op, DType::F64, row, &mut buffer).unwrap()
        });
        let bytes = (rows * row * 8) as u64;
        assert_eq!(received.iter().sum::<u64>(), 2 * bytes * (n as u64 - 1), "all ranks together");
        if rows % n == 0 {
            assert!(received.iter().all(|each| *each == 2 * bytes * (n as u64 - 1) / n as u64));
        }
    }
    // 20 rows over 6 are 4 4 3 3 3 3: others' four partial chunks, then the rest
    let ranks: Vec<usize> = (0..6).collect();
    let received = run(6, |comm| comm.all_reduce(&comm.group(&ranks).unwrap(), Reduce::Sum, DType::F32, 1, &mut [0; 80]).unwrap());
    assert_eq!(received, [5 * 16 + 64, 5 * 16 + 64, 5 * 12 + 68, 5 * 12 + 68, 5 * 12 + 68, 5 * 12 + 68]);
}

#[test]
fn groups_of_a_mesh_meet_at_the_same_time() {
    // ranks of a 2 × 2 × 2 mesh; each reduces along every axis, along pairs of axes and over all, in its own pace
    let along = |rank: usize, axes: &[usize]| -> Vec<usize> {
        let mask: usize = axes.iter().map(|axis| 4 >> axis).sum();
        (0..8).filter(|other| other & !mask == rank & !mask).collect()
    };
    let sets: [&[usize]; 7] = [&[0], &[1], &[2], &[0, 1], &[1, 2], &[0, 2], &[0, 1, 2]];
    run(8, |comm| {
        let groups: Vec<_> = sets.iter().map(|axes| comm.group(&along(comm.rank(), axes)).unwrap()).collect();
        for round in 0..200u64 {
            for (n, group) in groups.iter().enumerate() {
                let value = |rank: usize| round * 100 + n as u64 * 10 + rank as u64;
                let count = if round % 50 == 0 { 30_000 } else { 3 };
                let mut buffer: Vec<u8> = (0..count).flat_map(|_| (value(comm.rank()) as f64).to_ne_bytes()).collect();
                comm.all_reduce(group, Reduce::Sum, DType::F64, 1, &mut buffer).unwrap();
                let want: u64 = group.ranks().iter().map(|rank| value(*rank)).sum();
                assert!(buffer.as_chunks::<8>().0.iter().all(|x| f64::from_ne_bytes(*x) == want as f64));
            }
        }
    });
}

#[test]
fn ten_thousand_tiny_all_reduces_end() {
    let ranks: Vec<usize> = (0..8).collect();
    run(8, |comm| {
        let everyone = comm.group(&ranks).unwrap();
        for n in 0..10_000 {
            let mut x = (comm.rank() as i32 + n).to_ne_bytes();
            comm.all_reduce(&everyone, Reduce::Max, DType::I32, 1, &mut x).unwrap();
            assert_eq!(i32::from_ne_bytes(x), 7 + n);
        }
    });
}

/// One contiguous box.
fn stretch(from: usize, op: PullOp, source_offset: u64, target_offset: u64, size: u64) -> Pull {
    let boxes = vec![CopyBox { source_offset, target_offset, sizes: vec![size], source_strides: vec![1], target_strides: vec![1] }];
    Pull { from, op, boxes }
}

/// Balanced chunk `part` of `n` over `parts`: (start, size).
fn chunk(n: u64, parts: u64, part: u64) -> (u64, u64) {
    let (size, more) = (n / parts, n % parts);
    (part * size + part.min(more), size + u64::from(part < more))
}

#[test]
fn reduce_scatter_then_all_gather_is_all_reduce() {
    for n in [2usize, 3, 8] {
        for count in [0u64, 1, n as u64 - 1, 1000, 50_001] {
            let ranks: Vec<usize> = (0..n).collect();
            let received = run(n, |comm| {
                let everyone = comm.group(&ranks).unwrap();
                let source = elements(DType::F32, count as usize, comm.rank() as u64);
                let mut whole = source.clone();
                let bytes = comm.all_reduce(&everyone, Reduce::Sum, DType::F32, 1, &mut whole).unwrap();

                let (start, size) = chunk(count, n as u64, comm.rank() as u64);
                let pulls: Vec<_> = ranks.iter().map(|from| stretch(*from, PullOp::Merge(Reduce::Sum), start, 0, size)).collect();
                let scatter = ExchangePlan::new(DType::F32, 1, Some(Reduce::Sum), &pulls).unwrap();
                let mut part = vec![0xAA; size as usize * 4];
                let mut pulled = comm.exchange(&everyone, &source, &mut part, &scatter).unwrap();

                let pulls: Vec<_> = ranks
                    .iter()
                    .map(|from| {
                        let (start, size) = chunk(count, n as u64, *from as u64);
                        stretch(*from, PullOp::Copy, 0, start, size)
                    })
                    .collect();
                let gather = ExchangePlan::new(DType::F32, 1, None, &pulls).unwrap();
                let mut gathered = vec![0xAA; count as usize * 4];
                pulled += comm.exchange(&everyone, &part, &mut gathered, &gather).unwrap();
                assert!(gathered == whole, "{count} over {n}");
                assert_eq!(pulled, bytes, "an exchange counts what an all-reduce counts");
                pulled
            });
            assert_eq!(received.iter().sum::<u64>(), 2 * 4 * count * (n as u64 - 1));
        }
    }
}

#[test]
fn random_boxes_match_a_serial_copy() {
    // every rank pulls random strided boxes from random members, merges among them
    let n = 5usize;
    let ranks: Vec<usize> = (0..n).collect();
    run(n, |comm| {
        let everyone = comm.group(&ranks).unwrap();
        for round in 0..60u64 {
            let sources: Vec<Vec<u8>> = ranks.iter().map(|rank| elements(DType::F64, 600, round * 10 + *rank as u64)).collect();
            let seed = round * 100 + comm.rank() as u64;
            let pick = |n: u64, below: u64| draw(seed, n) % below;
            let pulls: Vec<Pull> = (0..1 + pick(0, 6))
                .map(|p| {
                    let op = [PullOp::Copy, PullOp::Merge(Reduce::Sum), PullOp::Merge(Reduce::LogSumExp)][pick(10 + p, 3) as usize];
                    let sizes: Vec<u64> = (0..pick(20 + p, 4)).map(|d| pick(30 + 4 * p + d, 6)).collect();
                    let dense = |order: bool| -> Vec<u64> {
                        let dims = sizes.len();
                        let outside = |d: usize| if order { &sizes[d + 1..] } else { &sizes[..d] };
                        (0..dims).map(|d| outside(d).iter().product::<u64>() + u64::from(dims == 1)).collect()
                    };
                    let each = CopyBox {
                        source_offset: pick(60 + p, 40),
                        target_offset: pick(70 + p, 40),
                        sizes: sizes.clone(),
                        source_strides: dense(pick(80 + p, 2) == 0),
                        target_strides: dense(pick(90 + p, 3) != 0),
                    };
                    Pull { from: pick(100 + p, n as u64) as usize, op, boxes: vec![each] }
                })
                .collect();
            let fill = [None, Some(Reduce::Sum), Some(Reduce::Max)][pick(1, 3) as usize];
            let mut target = elements(DType::F64, 500, 77);
            let mut want = target.clone();
            if let Some(op) = fill {
                merge::fill(op, DType::F64, 1, &mut want);
            }
            let mut bytes = 0;
            for pull in &pulls {
                let each = &pull.boxes[0];
                for index in 0..each.sizes.iter().product::<u64>() {
                    let (mut rest, mut from, mut to) = (index, each.source_offset, each.target_offset);
                    for d in (0..each.sizes.len()).rev() {
                        from += rest % each.sizes[d] * each.source_strides[d];
                        to += rest % each.sizes[d] * each.target_strides[d];
                        rest /= each.sizes[d];
                    }
                    let element = &sources[pull.from][from as usize * 8..][..8];
                    let place = &mut want[to as usize * 8..][..8];
                    match pull.op {
                        PullOp::Copy => place.copy_from_slice(element),
                        PullOp::Merge(op) => merge::merge(op, DType::F64, 1, place, element),
                    }
                    bytes += if pull.from == comm.rank() { 0 } else { 8 };
                }
            }
            let plan = ExchangePlan::new(DType::F64, 1, fill, &pulls).unwrap();
            let received = comm.exchange(&everyone, &sources[comm.rank()], &mut target, &plan).unwrap();
            assert_eq!(target, want);
            assert_eq!(received, bytes);
        }
    });
}

#[test]
fn sources_rest_until_all_have_pulled() {
    // every rank overwrites its source as soon as its call returns
    let ranks: Vec<usize> = (0..8).collect();
    run(8, |comm| {
        let everyone = comm.group(&ranks).unwrap();
        let count = 4096;
        let pulls: Vec<_> = ranks.iter().map(|from| stretch(*from, PullOp::Copy, 0, *from as u64 * count, count)).collect();
        let plan = ExchangePlan::new(DType::I32, 1, None, &pulls).unwrap();
        let mut source = vec![0u8; count as usize * 4];
        let mut target = vec![0u8; count as usize * 32];
        for round in 0..100u8 {
            source.fill(round ^ (comm.rank() as u8) << 4);
            comm.exchange(&everyone, &source, &mut target, &plan).unwrap();
            source.fill(0xFF);
            for (from, part) in target.chunks_exact(count as usize * 4).enumerate() {
                assert!(part.iter().all(|byte| *byte == round ^ (from as u8) << 4));
            }
        }
    });
}

#[test]
fn messages_arrive_in_order_and_reuse_buffers() {
    let bytes = run(3, |comm| {
        // a ring, two channels, messages of growing and shrinking size
        let (next, previous) = ((comm.rank() + 1) % 3, (comm.rank() + 2) % 3);
        let message = |rank: usize, round: usize, channel: u64| vec![(round + rank * 7 + channel as usize) as u8; 10 + round % 100];
        let mut total = 0;
        for round in 0..1000 {
            for channel in [5, 9] {
                comm.send(next, channel, &message(comm.rank(), round, channel)).unwrap();
            }
            for channel in [9, 5] {
                let want = message(previous, round, channel);
                let mut got = vec![0; want.len()];
                total += comm.receive(previous, channel, &mut got).unwrap();
                assert_eq!(got, want);
            }
        }
        assert_eq!(total, (0..1000).map(|round| 2 * (10 + round % 100)).sum::<u64>());
        comm.barrier(&comm.group(&[0, 1, 2]).unwrap()).unwrap();
        comm.message_bytes()
    });
    assert!(bytes[0] <= 3 * 2 * 2 * 109, "3 senders, 2 channels, 2 buffers of the longest message, not {}", bytes[0]);
}

#[test]
fn a_full_channel_blocks_its_sender() {
    run(2, |comm| {
        let everyone = comm.group(&[0, 1]).unwrap();
        if comm.rank() == 0 {
            let start = Instant::now();
            (0..3).for_each(|n| comm.send(1, 0, &[n]).unwrap());
            assert!(start.elapsed() >= Duration::from_millis(40), "the third message waits for the first to be read");
        } else {
            std::thread::sleep(Duration::from_millis(50));
            for n in 0..3 {
                let mut byte = [9];
                comm.receive(0, 0, &mut byte).unwrap();
                assert_eq!(byte, [n]);
            }
        }
        comm.barrier(&everyone).unwrap();
    });
}

#[test]
fn poison_wakes_everybody() {
    // two wait in a collective, one in a receive, one in a send, one comes later, and one poisons
    let ended = AtomicUsize::new(0);
    let errors = run(6, |comm| {
        let result = match comm.rank() {
            0 | 1 => comm.barrier(&comm.group(&[0, 1, 5]).unwrap()),
            2 => comm.receive(5, 1, &mut [0]).map(drop),
            3 => (0..10).try_for_each(|_| comm.send(5, 2, &[0])),
            4 => {
                std::thread::sleep(Duration::from_millis(60));
                comm.all_reduce(&comm.group(&[4, 5]).unwrap(), Reduce::Sum, DType::F32, 1, &mut [0; 4]).map(drop)
            }
            _ => {
                std::thread::sleep(Duration::from_millis(30));
                comm.world().poison("the disk is full");
                Ok(())
            }
        };
        ended.fetch_add(1, Ordering::AcqRel);
        // nobody drops a communicator, which would wake the others too
        let start = Instant::now();
        while ended.load(Ordering::Acquire) < 6 {
            assert!(start.elapsed() < Duration::from_secs(20), "somebody sleeps on");
            std::thread::sleep(Duration::from_millis(1));
        }
        result
    });
    let poisoned = CommError::Poisoned { reason: "the disk is full".to_owned() };
    assert_eq!(errors[..5], vec![Err(poisoned); 5]);
}

#[test]
fn a_rank_that_panics_or_leaves_wakes_everybody() {
    for panics in [true, false] {
        let errors = std::thread::scope(|scope| {
            let threads: Vec<_> = World::connect(4)
                .into_iter()
                .map(|comm| {
                    scope.spawn(move || {
                        let everyone = comm.group(&[0, 1, 2, 3]).unwrap();
                        comm.barrier(&everyone).unwrap();
                        if comm.rank() == 2 {
                            std::thread::sleep(Duration::from_millis(10));
                            // quietly: no panic message in the output of the tests
                            return if panics { std::panic::resume_unwind(Box::new("on purpose")) } else { Ok(0) };
                        }
                        comm.all_reduce(&everyone, Reduce::Sum, DType::F32, 1, &mut [0; 400])
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(0))).collect::<Vec<_>>()
        });
        let failed: Vec<_> = errors.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
        assert_eq!(failed.len(), 3);
        let said = if panics { "rank 2 panicked" } else { "rank 2 ended" };
        assert!(failed.iter().all(|text| text.contains(said)), "{failed:?}");
    }
}

#[test]
fn poison_at_any_moment_ends_cleanly() {
    // helpers, sleepers and late members are all caught somewhere
    for delay in 0..60u64 {
        let ends = run(6, |comm| {
            let everyone = comm.group(&[0, 1, 2, 3, 4, 5]).unwrap();
            let mut buffer = vec![0u8; 200_000];
            for n in 0u64.. {
                if comm.rank() == 3 && n == delay / 3 {
                    std::thread::sleep(Duration::from_micros(delay * 20));
                    comm.world().poison("enough");
                }
                if comm.all_reduce(&everyone, Reduce::Sum, DType::F32, 1, &mut buffer).is_err() {
                    return n;
                }
            }
            0
        });
        let (least, most) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
        assert!(most - least <= 1, "{ends:?}");
    }
}

#[test]
fn members_that_disagree_are_told() {
    let errors = run(3, |comm| {
        let everyone = comm.group(&[0, 1, 2]).unwrap();
        let mut buffer = vec![0; if comm.rank() == 1 { 8 } else { 4 }];
        comm.all_reduce(&everyone, Reduce::Sum, DType::F32, 1, &mut buffer).unwrap_err().to_string()
    });
    assert!(
        errors.iter().all(|text| text.contains("rank 0 calls an all-reduce (sum) of 4 bytes") && text.contains("rank 1")),
        "{errors:?}"
    );
}

#[test]
fn what_does_not_fit_is_an_error() {
    let short = run(2, |comm| {
        let everyone = comm.group(&[0, 1]).unwrap();
        let plan = ExchangePlan::new(DType::F32, 1, None, &[stretch(1, PullOp::Copy, 0, 0, 5)]).unwrap();
        // member 1 exposes 4 elements where 5 are pulled
        comm.exchange(&everyone, &[0; 16], &mut [0; 20], &plan).unwrap_err().to_string()
    });
    assert!(short.iter().all(|text| text.contains("reads up to byte 20 of member 1, which exposes 16")), "{short:?}");

    let alone = &World::connect(1)[0];
    let me = alone.group(&[0]).unwrap();
    assert!(alone.group(&[1]).is_err());
    assert!(alone.group(&[0, 0]).is_err());
    let plan = ExchangePlan::new(DType::F32, 1, None, &[stretch(0, PullOp::Copy, 0, 0, 5)]).unwrap();
    assert!(alone.exchange(&me, &[0; 20], &mut [0; 16], &plan).is_err(), "a short target");

    let alone = &World::connect(1)[0];
    let me = alone.group(&[0]).unwrap();
    assert!(alone.all_reduce(&me, Reduce::Sum, DType::F32, 1, &mut [0; 6]).is_err(), "half an element");
    let other = &World::connect(1)[0];
    assert!(matches!(other.all_reduce(&me, Reduce::Sum, DType::Fp8, 1, &mut [0; 6]), Err(CommError::Unsupported { .. })));
}

#[test]
fn a_group_of_another_rank_is_refused() {
    let ranks = World::connect(2);
    let group = ranks[0].group(&[0, 1]).unwrap();
    assert!(matches!(ranks[1].barrier(&group), Err(CommError::BadGroup { .. })));
}

#[test]
fn a_message_of_another_length_is_an_error() {
    let errors = run(2, |comm| {
        if comm.rank() == 0 {
            comm.send(1, 3, &[0; 8]).unwrap();
            comm.receive(1, 4, &mut [0]).unwrap_err().to_string()
        } else {
            comm.receive(0, 3, &mut [0; 4]).unwrap_err().to_string()
        }
    });
    assert!(errors.iter().all(|text| text.contains("rank 0 sent 8 bytes on channel 3 where rank 1 receives 4")), "{errors:?}");
}
