//! What collectives between thread ranks cost: `cargo run --release --example collectives`.

use std::time::Instant;

use partita_ir::dtype::DType;
use partita_ir::rule::Reduce;
use partita_runtime::comm::{CommError, Communicator, CopyBox, ExchangePlan, Pull, PullOp, World};

/// Seconds per call of `body`, the slowest rank's, after one call to warm up.
fn time(n: usize, calls: usize, body: impl Fn(&dyn Communicator) -> Box<dyn FnMut() -> Result<(), CommError> + '_> + Sync) -> f64 {
    let body = &body;
    std::thread::scope(|scope| {
        let ranks: Vec<_> = World::connect(n)
            .into_iter()
            .map(|comm| {
                scope.spawn(move || {
                    let mut call = body(&comm);
                    call()?;
                    let start = Instant::now();
                    (0..calls).try_for_each(|_| call())?;
                    Ok::<f64, CommError>(start.elapsed().as_secs_f64() / calls as f64)
                })
            })
            .collect();
        let times = ranks.into_iter().map(|rank| rank.join().expect("no rank panics").expect("collectives work"));
        times.fold(0.0, f64::max)
    })
}

fn main() {
    println!(
        "{:>5}  {:>16}  {:>12}  {:>22}  {:>22}",
        "ranks", "all-reduce 4 B", "message 4 B", "all-reduce 1, 16 MB", "all-gather 1, 16 MB"
    );
    for n in [2usize, 4, 8] {
        let ranks: Vec<usize> = (0..n).collect();
        let reduce = |bytes: usize, calls| {
            time(n, calls, |comm| {
                let group = comm.group(&ranks).expect("the ranks ascend");
                let mut buffer = vec![0u8; bytes];
                Box::new(move || comm.all_reduce(&group, Reduce::Sum, DType::F32, 1, &mut buffer).map(drop))
            })
        };
        let gather = |bytes: usize, calls| {
            time(n, calls, |comm| {
                let group = comm.group(&ranks).expect("the ranks ascend");
                let part = bytes / n / 4;
                let pull = |from: usize| {
                    let (sizes, strides) = (vec![part as u64], vec![1]);
                    let target_offset = (from * part) as u64;
                    let each = CopyBox { source_offset: 0, target_offset, sizes, source_strides: strides.clone(), target_strides: strides };
                    Pull { from, op: PullOp::Copy, boxes: vec![each] }
                };
                let pulls: Vec<Pull> = (0..n).map(pull).collect();
                let plan = ExchangePlan::new(DType::F32, 1, None, &pulls).expect("the boxes are small");
                let (source, mut target) = (vec![0u8; part * 4], vec![0u8; bytes]);
                Box::new(move || comm.exchange(&group, &source, &mut target, &plan).map(drop))
            })
        };
        // a token that goes round the ring: what one message costs
        let message = time(n, 5000, |comm| {
            let (rank, size) = (comm.rank(), comm.size());
            Box::new(move || {
                let mut token = [0u8; 4];
                if rank > 0 {
                    comm.receive(rank - 1, 0, &mut token)?;
                }
                comm.send((rank + 1) % size, 0, &token)?;
                if rank == 0 { comm.receive(size - 1, 0, &mut token).map(drop) } else { Ok(()) }
            })
        }) / n as f64;
        // bytes of one rank's buffer per second
        let rate = |bytes: usize, seconds: f64| bytes as f64 / seconds / 1e9;
        let tiny = reduce(4, 20_000);
        let reduces = [(1 << 20, 300), (16 << 20, 20)].map(|(bytes, calls)| rate(bytes, reduce(bytes, calls)));
        let gathers = [(1 << 20, 300), (16 << 20, 20)].map(|(bytes, calls)| rate(bytes, gather(bytes, calls)));
        println!(
            "{n:>5}  {:>13.2} us  {:>9.2} us  {:>9.2}, {:>6.2} GB/s  {:>9.2}, {:>6.2} GB/s",
            tiny * 1e6,
            message * 1e6,
            reduces[0],
            reduces[1],
            gathers[0],
            gathers[1]
        );
    }
}
