//! Ranks that do the same acts at the same time, and how long one go takes.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use partita_ir::work::Act as Work;

use super::acts::{ARENA, Case};
use crate::comm::{Communicator, ThreadCommunicator, World};
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
    pub tries: usize,
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

impl Crowd {
    /// Measures the cases one after the other.
    pub fn run(&self, cases: &[Case]) -> Vec<Gone> {
        let barrier = Barrier::new(self.ranks);
        let goes = AtomicUsize::new(1);
        let clock = Clock { epoch: Instant::now(), first: AtomicU64::new(0), last: AtomicU64::new(0) };
        std::thread::scope(|scope| {
            let ranks: Vec<_> = World::connect(self.ranks)
                .into_iter()
                .map(|communicator| scope.spawn(|| self.rank(communicator, cases, &barrier, &goes, &clock)))
                .collect();
            let mut found: Vec<Vec<Gone>> =
                ranks.into_iter().map(|rank| rank.join().expect("a rank that measures does not fail")).collect();
            found.swap_remove(0)
        })
    }

    fn rank(&self, communicator: ThreadCommunicator, cases: &[Case], barrier: &Barrier, goes: &AtomicUsize, clock: &Clock) -> Vec<Gone> {
        let (arena, scratch, pool) = (Arena::new(ARENA), Arena::new(SCRATCH), Pool::new(self.threads));
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
        // from the first rank's start to the last one's end: where ranks outnumber cores, this one may be neither
        let timed = |acts: &[Act], goes: usize| {
            if communicator.rank() == 0 {
                clock.first.store(u64::MAX, Ordering::Relaxed);
                clock.last.store(0, Ordering::Relaxed);
            }
            barrier.wait();
            clock.first.fetch_min(clock.now(), Ordering::Relaxed);
            (0..goes).for_each(|_| all(acts));
            clock.last.fetch_max(clock.now(), Ordering::Relaxed);
            barrier.wait();
            let nanoseconds = clock.last.load(Ordering::Relaxed) - clock.first.load(Ordering::Relaxed);
            barrier.wait();
            nanoseconds as f64 * 1e-9 / goes as f64
        };
        cases
            .iter()
            .map(|case| {
                let acts = case.acts(&communicator);
                timed(&acts, 1);
                let once = timed(&acts, 1);
                if communicator.rank() == 0 {
                    let wanted = (self.window.as_secs_f64() / once.max(1e-9)).ceil() as usize;
                    goes.store(wanted.clamp(1, 1 << 20), Ordering::Release);
                }
                barrier.wait();
                let goes = goes.load(Ordering::Acquire);
                let seconds = (0..self.tries).map(|_| timed(&acts, goes)).fold(f64::INFINITY, f64::min);
                Gone { seconds, acts: acts.iter().map(work).collect() }
            })
            .collect()
    }
}
