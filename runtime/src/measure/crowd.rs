//! Ranks that do the same acts at the same time, and how long one go takes.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use partita_ir::work::Act as Work;

use super::acts::{ARENA, Case};
use crate::comm::{ThreadCommunicator, World};
use crate::data;
use crate::pool::Pool;
use crate::run::arena::Arena;
use crate::run::execute::perform;
use crate::run::prepare::Act;
use crate::run::work::work;

/// How to measure.
pub(super) struct Crowd {
    pub ranks: usize,
    pub threads: usize,
    pub window: Duration,
}

/// A case that was measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Gone {
    /// Seconds of all its acts, until the last rank is done.
    pub seconds: f64,
    /// The acts, as sizes.
    pub acts: Vec<Work>,
}

/// When the first rank began and the last one ended, in nanoseconds since the epoch.
struct Clock {
    epoch: Instant,
    first: AtomicU64,
    last: AtomicU64,
}

impl Clock {
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Temporary memory of kernels.
const SCRATCH: usize = 4 << 20;
/// The part of a try that this process may wait for a core and the try still counts as one of a quiet machine.
const WAITED: f64 = 0.05;
/// Tries at most, where others are at work.
const PATIENCE: usize = 3;

/// What the ranks and who drives them share.
struct Stage {
    barrier: Barrier,
    /// Goes of the next try; 0 ends a case.
    goes: AtomicUsize,
    clock: Clock,
}

impl Crowd {
    /// Measures the cases one after the other.
    pub fn run(&self, cases: &[Case]) -> Vec<Gone> {
        let stage = Stage {
            barrier: Barrier::new(self.ranks + 1),
            goes: AtomicUsize::new(0),
            clock: Clock { epoch: Instant::now(), first: AtomicU64::new(0), last: AtomicU64::new(0) },
        };
        std::thread::scope(|scope| {
            let ranks: Vec<_> =
                World::connect(self.ranks).into_iter().map(|communicator| scope.spawn(|| self.rank(communicator, cases, &stage))).collect();
            let seconds: Vec<f64> = cases.iter().map(|case| self.drive(&stage, matches!(case, Case::Kernel { .. }))).collect();
            let mut acts: Vec<Vec<Vec<Work>>> =
                ranks.into_iter().map(|rank| rank.join().expect("a rank that measures does not fail")).collect();
            seconds.into_iter().zip(acts.swap_remove(0)).map(|(seconds, acts)| Gone { seconds, acts }).collect()
        })
    }

    /// Measures a case: seconds of a go on a machine that does nothing else, as far as that can be known.
    fn drive(&self, stage: &Stage, kernels: bool) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let used = cores.min(self.ranks * self.threads) as f64;
        let go = |goes: usize| {
            stage.goes.store(goes, Ordering::Relaxed);
            stage.clock.first.store(u64::MAX, Ordering::Relaxed);
            stage.clock.last.store(0, Ordering::Relaxed);
            let before = scheduled();
            stage.barrier.wait();
            stage.barrier.wait();
            // all ranks sleep, so that the system has written down what they used
            std::thread::sleep(Duration::from_micros(30));
            let after = scheduled();
            let wall = (stage.clock.last.load(Ordering::Relaxed) - stage.clock.first.load(Ordering::Relaxed)) as f64 * 1e-9;
            (wall, after.0 - before.0, after.1 - before.1)
        };
        go(1);
        let once = go(1).0;
        let goes = ((self.window.as_secs_f64() / once.max(1e-9)).ceil() as usize).clamp(1, 1 << 20);
        let mut least = f64::INFINITY;
        for _ in 0..PATIENCE {
            let (wall, ran, waited) = go(goes);
            // ranks that do nothing but compute on a core each, or on all cores, take their own time, whoever else is there
            let alone = kernels && self.threads == 1 && ran > 0.0;
            least = least.min(if alone { ran / used } else { wall });
            let expected = (self.ranks * self.threads) as f64 > used;
            if alone || expected || waited <= WAITED * wall {
                break;
            }
        }
        stage.goes.store(0, Ordering::Relaxed);
        stage.barrier.wait();
        // until all ranks have read it
        stage.barrier.wait();
        least / goes as f64
    }

    fn rank(&self, communicator: ThreadCommunicator, cases: &[Case], stage: &Stage) -> Vec<Vec<Work>> {
        let (arena, scratch, pool) = (Arena::new(ARENA), Arena::new(SCRATCH), Pool::beside(self.threads, self.ranks));
        // as many pages as elements, none of them the system's page of zeros; small whole numbers where read as such
        arena.bytes_of(0, ARENA).chunks_exact_mut(4).enumerate().for_each(|(n, bytes)| {
            bytes.copy_from_slice(&(0.5 + (n % 64) as f32 / 64.0).to_ne_bytes());
        });
        let data = data::open(None, 2, 1, 0).expect("there are two tokens");
        let all = |acts: &[Act]| {
            for act in acts {
                perform(act, &arena, &scratch, &pool, &communicator, &data, 1, 0, 0).expect("the acts of all ranks agree");
            }
        };
        let measured = cases.iter().map(|case| {
            let acts = case.acts(&communicator);
            loop {
                stage.barrier.wait();
                let goes = stage.goes.load(Ordering::Relaxed);
                if goes == 0 {
                    stage.barrier.wait();
                    return acts.iter().map(work).collect();
                }
                stage.clock.first.fetch_min(stage.clock.now(), Ordering::Relaxed);
                (0..goes).for_each(|_| all(&acts));
                stage.clock.last.fetch_max(stage.clock.now(), Ordering::Relaxed);
                stage.barrier.wait();
            }
        });
        measured.collect()
    }
}

/// Seconds that the threads of this process ran and that they waited for a core, as Linux counts; zeros where it does not say.
fn scheduled() -> (f64, f64) {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return (0.0, 0.0) };
    let texts = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok());
    texts.fold((0.0, 0.0), |(ran, waited), text| {
        let mut numbers = text.split_whitespace().map(|word| word.parse::<f64>().unwrap_or(0.0) * 1e-9);
        (ran + numbers.next().unwrap_or(0.0), waited + numbers.next().unwrap_or(0.0))
    })
}
