//! Measuring this machine with the kernels and collectives that runs use.
//!
//! A *crowd* of ranks does the same acts at the same time, as ranks of a run do, and what one go takes is the median
//! of several rounds over all cases: what disturbs the machine for a moment spoils one of them.
//!
//! **Invariant:** nothing is computed here but by the runtime's own kernels and communicators.

mod acts;
mod crowd;
pub mod gpu;

use std::time::Duration;

use partita_ir::boxing::StepKind;
use partita_ir::formula::{Formula, index, lit, random, x};
use partita_ir::rule::Reduce;
use partita_ir::scalar::{Binary, Unary};
use partita_ir::work::{Act, LaneStep};

use acts::{Case, Lies};
use crowd::{Crowd, Gone};

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Sizes of the sides of matrix products.
    pub sizes: Vec<u64>,
    /// Bytes of collectives.
    pub bytes: Vec<u64>,
    /// Bytes that are used before memory is used again.
    pub distances: Vec<u64>,
    /// How long a case takes in each round at least.
    pub window: Duration,
    /// Rounds over all cases.
    pub rounds: usize,
}

impl Effort {
    /// Half a minute on two cores.
    pub fn whole() -> Self {
        let bytes = vec![4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];
        let distances = (18..28).map(|power| 1 << power).collect();
        Self { sizes: vec![8, 16, 32, 128, 1024], bytes, distances, window: Duration::from_millis(1), rounds: 5 }
    }

    /// A second or two: figures that are roughly right.
    pub fn quick() -> Self {
        let bytes = vec![4 << 10, 64 << 10, 1 << 20, 8 << 20];
        Self {
            sizes: vec![16, 128],
            bytes,
            distances: vec![256 << 10, 2 << 20, 16 << 20, 64 << 20],
            window: Duration::from_micros(600),
            rounds: 1,
        }
    }
}

/// What was measured of ranks that all compute.
#[derive(Clone, Debug)]
pub struct Measured {
    /// How many ranks.
    pub ranks: usize,
    /// Threads of each.
    pub threads: usize,
    /// Seconds to start a kernel.
    pub kernel: f64,
    /// Seconds to start a row of lanes.
    pub row: f64,
    /// Seconds to go on to one more block of lanes.
    pub block: f64,
    /// Seconds to start a step over a block.
    pub step: f64,
    /// Seconds of a step over one lane.
    pub lanes: Vec<(LaneStep, f64)>,
    /// FLOP/s of matrix products, plain, left turned and right turned, by places of m, n and k in the effort's sizes.
    pub matmul: [Vec<Vec<Vec<f64>>>; 3],
    /// Seconds to read and write a MiB with little arithmetic, by the bytes that were used since each was last used.
    pub reuse: Vec<(u64, f64)>,
    /// Seconds of collectives of all ranks by their bytes; none of one rank.
    pub collectives: Vec<(StepKind, Vec<(u64, f64)>)>,
    /// Seconds to send and receive a message by its bytes; of two ranks alone.
    pub send: Vec<(u64, f64)>,
}

/// Lanes of the kernels whose steps are measured: 256 KiB an operand, in a second-level cache.
const LANES: u64 = 1 << 16;
/// Rows that take as many lanes in two ways, to tell rows from lanes.
const SHORT_ROW: u64 = 128;
const LONG_ROW: u64 = 1024;
/// Steps of the kernels that tell steps from what a block takes beside.
const MORE: usize = 9;
const MIB: f64 = 1_048_576.0;

/// The numbers of ranks and threads that are worth measuring on a machine of so many cores: up to four ranks, each with one thread and
/// with its share of the cores.
pub fn levels(cores: usize) -> Vec<(usize, usize)> {
    let mut levels: Vec<(usize, usize)> = [1, 2, 4].into_iter().flat_map(|ranks| [(ranks, 1), (ranks, (cores / ranks).max(1))]).collect();
    levels.sort_unstable();
    levels.dedup();
    levels
}

/// Measures the levels, several rounds over all of them: what disturbs the machine for some seconds spoils one round of a case, and the
/// median of the rounds counts. `told` hears of each level and round before it begins.
pub fn measure(levels: &[(usize, usize)], effort: &Effort, told: &mut dyn FnMut(usize, usize, usize)) -> Vec<Measured> {
    let all: Vec<Cases> = levels.iter().map(|(ranks, _)| Cases::new(*ranks, effort)).collect();
    let mut gone: Vec<Vec<Vec<Gone>>> = vec![Vec::new(); levels.len()];
    for round in 0..effort.rounds {
        for (at, (ranks, threads)) in levels.iter().enumerate() {
            told(round, *ranks, *threads);
            gone[at].push(crowd(*ranks, *threads, effort).run(&all[at].list));
        }
    }
    let mut measured: Vec<Measured> = Vec::new();
    for ((cases, rounds), (ranks, threads)) in all.into_iter().zip(gone).zip(levels) {
        let narrow = measured.iter().find(|known| known.ranks == *ranks && *threads > 1);
        let here = cases.measured(*ranks, *threads, &medians(rounds), effort, narrow);
        measured.push(here);
    }
    measured
}

fn crowd(ranks: usize, threads: usize, effort: &Effort) -> Crowd {
    // ranks that outnumber the cores take turns of some milliseconds
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let turns = u32::try_from((ranks * threads).div_ceil(cores)).unwrap_or(1);
    Crowd { ranks, threads, window: effort.window * turns }
}

/// Each case as it was in the median round.
fn medians(mut rounds: Vec<Vec<Gone>>) -> Vec<Gone> {
    let mut out = rounds.pop().unwrap_or_default();
    for (case, gone) in out.iter_mut().enumerate() {
        let mut seconds: Vec<f64> = rounds.iter().map(|round| round[case].seconds).chain([gone.seconds]).collect();
        seconds.sort_by(f64::total_cmp);
        gone.seconds = seconds[seconds.len() / 2];
    }
    out
}

/// What is measured of so many ranks: cases, and which of them tell what.
struct Cases {
    list: Vec<Case>,
    tiny: usize,
    /// Of one step and of [`MORE`], in short rows and in long ones.
    short: [usize; 2],
    long: [usize; 2],
    plain: usize,
    steps: Vec<(LaneStep, f64, usize)>,
    sweeps: Vec<usize>,
    products: Vec<usize>,
    collectives: Vec<(StepKind, Vec<usize>)>,
    sends: Vec<usize>,
}

impl Cases {
    fn new(ranks: usize, effort: &Effort) -> Self {
        let mut list = Vec::new();
        let mut add = |case: Case| {
            list.push(case);
            list.len() - 1
        };
        let sum = |n: usize| (1..n).fold(x(0) + x(1), |sum, n| sum + x(n % 2));
        let products = Lies::ALL.into_iter().flat_map(|lies| cube(&effort.sizes).map(move |(m, n, k)| Case::matmul(lies, [m, n, k])));
        let kinds = [StepKind::AllReduce, StepKind::AllGather, StepKind::ReduceScatter, StepKind::AllToAll];
        let bytes: Vec<u64> = [64].into_iter().chain(effort.bytes.iter().copied()).collect();
        Self {
            tiny: add(Case::map(16, x(0) + lit(1.0))),
            short: [1, MORE].map(|n| add(Case::rows(LANES / SHORT_ROW, SHORT_ROW, sum(n)))),
            long: [1, MORE].map(|n| add(Case::rows(LANES / LONG_ROW, LONG_ROW, sum(n)))),
            plain: add(Case::map(LANES, x(0) + lit(1.5))),
            steps: steps().into_iter().map(|(step, uses, case)| (step, uses, add(case))).collect(),
            sweeps: effort.distances.iter().map(|distance| add(Case::sweep(*distance))).collect(),
            products: products.map(&mut add).collect(),
            collectives: kinds
                .into_iter()
                .filter(|_| ranks > 1)
                .map(|kind| (kind, bytes.iter().map(|bytes| add(Case::Collective { kind, bytes: *bytes })).collect()))
                .collect(),
            sends: bytes.iter().filter(|_| ranks == 2).map(|bytes| add(Case::Send { bytes: *bytes })).collect(),
            list,
        }
    }

    /// What the seconds of the cases tell. Of several threads, rows, blocks and lanes are shared out as they take in `narrow`, the same
    /// ranks with one thread each; what waking the threads costs is in `kernel`.
    fn measured(self, ranks: usize, threads: usize, gone: &[Gone], effort: &Effort, narrow: Option<&Measured>) -> Measured {
        let Self { tiny, short: [short, short_more], long: [long, long_more], plain, steps, sweeps, products, collectives, sends, .. } =
            self;
        let seconds = |case: usize| gone[case].seconds;
        // what one more step takes is lanes · arithmetic + blocks · step, for short blocks and for long ones
        let blocks = |case: usize| blocks(&gone[case].acts);
        let more = |few: usize, many: usize| (seconds(many) - seconds(few)) / (MORE - 1) as f64;
        let (of_short, of_long) = (more(short, short_more), more(long, long_more));
        let step = ((of_short - of_long) / (blocks(short) - blocks(long)).max(1.0)).max(0.0);
        let arithmetic = ((of_long - blocks(long) * step) / LANES as f64).max(1e-12);
        // what a row and its block take beside, and what a block alone does
        let fewer = (blocks(short) - blocks(long)).max(1.0);
        let both = ((seconds(short) - seconds(long)) / fewer - step).max(0.0);
        let own = seconds(plain) - seconds(tiny) - LANES as f64 * arithmetic;
        let block = (own / blocks(plain) - step).clamp(0.0, both);
        let shared = |seconds: f64| seconds / threads as f64;
        let (row, block, step) =
            narrow.map_or((both - block, block, step), |narrow| (shared(narrow.row), shared(narrow.block), shared(narrow.step)));
        // a small kernel runs on one thread; of one that does not, all that is not its work
        let started = match narrow {
            None => seconds(tiny) - row - block - step,
            Some(narrow) => seconds(plain) - shared(LANES as f64 * narrow.lanes[0].1) - blocks(plain) * (block + step) - row,
        };
        let kernel = started.max(0.0);
        let mut lanes = vec![(LaneStep::Arithmetic, arithmetic)];
        let known = |lanes: &[(LaneStep, f64)], acts: &[Act], without: Option<LaneStep>| -> f64 {
            let cost = |kind: LaneStep| lanes.iter().find(|known| known.0 == kind).map_or(0.0, |known| known.1);
            let of = |act: &Act| match act {
                Act::Kernel(work) => {
                    let steps = work.lanes.iter().filter(|(kind, _)| Some(*kind) != without);
                    let starts = work.rows as f64 * row + work.blocks as f64 * block + work.steps as f64 * step;
                    kernel + starts + steps.map(|(kind, n)| cost(*kind) * *n as f64).sum::<f64>()
                }
                _ => 0.0,
            };
            acts.iter().map(of).sum()
        };
        for (kind, uses, case) in steps {
            if let Some(narrow) = narrow {
                lanes = narrow.lanes.iter().map(|(kind, seconds)| (*kind, shared(*seconds))).collect();
                break;
            }
            let rest = known(&lanes, &gone[case].acts, Some(kind));
            lanes.push((kind, ((seconds(case) - rest) / (uses * LANES as f64)).max(0.0)));
        }
        let reuse = effort.distances.iter().zip(sweeps).map(|(distance, case)| {
            let each = seconds(case) / gone[case].acts.len() as f64 - kernel;
            // no memory is faster than this
            (*distance, MIB * (each / acts::swept(*distance) as f64).max(1e-12))
        });
        // of several threads, what work takes on what lies nearest is that of one thread, shared out
        let nearest = narrow.and_then(|narrow| narrow.reuse.first()).map(|(distance, seconds)| (distance / 2, shared(*seconds)));
        let reuse = nearest.into_iter().chain(reuse).collect();
        let mut rates = cube(&effort.sizes).cycle().zip(products).map(|((m, n, k), case)| {
            let batch = acts::batch([m, n, k]);
            2.0 * (m * n * k * batch) as f64 / (seconds(case) - kernel).max(1e-9)
        });
        let n = effort.sizes.len();
        let mut grid = || -> Vec<Vec<Vec<f64>>> { (0..n).map(|_| (0..n).map(|_| rates.by_ref().take(n).collect()).collect()).collect() };
        let matmul = [grid(), grid(), grid()];
        let bytes_of = |case: usize| match gone[case].acts.first() {
            Some(Act::Collective { bytes, .. } | Act::Send { bytes, .. }) => *bytes,
            _ => 0,
        };
        let acts_of = |case: usize| gone[case].acts.len() as f64;
        let curve = |cases: Vec<usize>| cases.into_iter().map(|case| (bytes_of(case), seconds(case) / acts_of(case))).collect();
        Measured {
            ranks,
            threads,
            kernel,
            row,
            block,
            step,
            matmul,
            reuse,
            collectives: collectives.into_iter().map(|(kind, cases)| (kind, curve(cases))).collect(),
            send: curve(sends),
            lanes,
        }
    }
}

/// Kernels that tell the cost of a step, with how often they do it on each lane. Each is known but for its own step.
fn steps() -> Vec<(LaneStep, f64, Case)> {
    let map = |formula: Formula| Case::map(LANES, formula);
    vec![
        (LaneStep::Choose, 2.0, map(x(0).at_most(lit(1.0)).select(x(0), lit(2.0)))),
        (LaneStep::Index, 1.0, map(x(0) + index(0))),
        (LaneStep::Divide, 1.0, map(lit(1.5) / x(0))),
        (LaneStep::Exp, 1.0, map(x(0).exp())),
        (LaneStep::Sigmoid, 1.0, map(x(0).sigmoid())),
        (LaneStep::Log, 1.0, map(x(0).log())),
        (LaneStep::Tanh, 1.0, map(x(0).tanh())),
        (LaneStep::Erf, 1.0, map(x(0).unary(Unary::Erf))),
        (LaneStep::Sine, 1.0, map(x(0).unary(Unary::Sin))),
        (LaneStep::Power, 1.0, map(x(0).binary(Binary::Pow, lit(1.7)))),
        (LaneStep::Draw, 1.0, map(x(0) + random(7, vec![0]))),
        (LaneStep::Read, 1.0, Case::whole_numbers(LANES)),
        (LaneStep::Fold, 1.0, Case::fold(LANES / LONG_ROW, LONG_ROW, Reduce::Sum)),
        (LaneStep::ReadFar, 1.0, Case::across(LANES / 256, 256)),
        (LaneStep::Turn, 1.0, Case::turn(LANES / 256, 256)),
    ]
}

fn cube(sizes: &[u64]) -> impl Iterator<Item = (u64, u64, u64)> + Clone {
    sizes.iter().flat_map(move |m| sizes.iter().flat_map(move |n| sizes.iter().map(move |k| (*m, *n, *k))))
}

fn blocks(acts: &[Act]) -> f64 {
    let of = |act: &Act| if let Act::Kernel(work) = act { work.blocks as f64 } else { 0.0 };
    acts.iter().map(of).sum::<f64>().max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_look_has_figures_of_everything() {
        let effort = Effort {
            sizes: vec![16, 48],
            bytes: vec![4096, 1 << 20],
            distances: vec![1 << 16, 1 << 21],
            window: Duration::from_micros(10),
            rounds: 1,
        };
        for measured in measure(&[(1, 1), (1, 2), (2, 1)], &effort, &mut |_, _, _| {}) {
            assert_eq!(measured.lanes.len(), LaneStep::ALL.len());
            let rates: Vec<f64> = measured.matmul.iter().flatten().flatten().flatten().copied().collect();
            assert!(rates.len() == 24 && rates.iter().all(|rate| rate.is_finite() && *rate > 0.0), "{rates:?}");
            assert!(measured.reuse.iter().all(|(_, seconds)| *seconds > 0.0));
            assert_eq!(measured.collectives.len(), if measured.ranks > 1 { 4 } else { 0 });
            let points = measured.collectives.iter().flat_map(|(_, curve)| curve).chain(&measured.send);
            assert!(points.clone().all(|(bytes, seconds)| *bytes > 0 && *seconds > 0.0));
            assert!(measured.collectives.iter().all(|(_, curve)| curve.windows(2).all(|pair| pair[0].0 < pair[1].0)));
        }
    }

    /// A round that something disturbed does not count.
    #[test]
    fn the_median_of_the_rounds_counts() {
        let round = |seconds: [f64; 2]| seconds.map(|seconds| Gone { seconds, acts: Vec::new() }).to_vec();
        let found = medians(vec![round([1.0, 9.0]), round([1.2, 2.0]), round([8.0, 2.1])]);
        assert_eq!([found[0].seconds, found[1].seconds], [1.2, 2.1]);
    }

    #[test]
    fn levels_have_one_thread_and_all_cores() {
        assert_eq!(levels(2), [(1, 1), (1, 2), (2, 1), (4, 1)]);
        assert_eq!(levels(1), [(1, 1), (2, 1), (4, 1)]);
        assert_eq!(levels(8), [(1, 1), (1, 8), (2, 1), (2, 4), (4, 1), (4, 2)]);
    }
}
