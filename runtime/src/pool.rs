//! The threads that one rank computes with.
//!
//! A [`Pool`] of n threads is the calling thread and n − 1 helpers. Between jobs helpers wait awake for a moment if there is a
//! core for every thread, and sleep then. A job is a number of parts; threads take the next part until none is left. What a part is
//! never depends on who runs it, so results do not depend on timing.
#![allow(unsafe_code, reason = "a job borrows from its caller's stack, which outlives it")]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use crate::wait::{Patience, is_crowded};

/// The threads of one rank; see the module's text.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// A job is there, or the pool closes.
    wake: Condvar,
    /// The last helper left the job.
    idle: Condvar,
    /// The next part that nobody has taken.
    next: AtomicUsize,
    /// `jobs` and `joined` of the state, for those who wait awake. Written under the lock.
    jobs: AtomicU64,
    joined: AtomicUsize,
    /// Whether threads share cores.
    crowded: bool,
}

#[derive(Default)]
struct State {
    job: Option<Job>,
    /// Jobs so far: a helper joins each at most once.
    jobs: u64,
    /// Helpers at work on the job.
    joined: usize,
    closing: bool,
    panic: Option<Box<dyn Any + Send>>,
}

#[derive(Clone, Copy)]
struct Job {
    call: *const (dyn Fn(usize) + Sync),
    n_parts: usize,
}

// SAFETY: the pointee is `Sync`, and `Pool::run` does not return before every helper has left the job.
unsafe impl Send for Job {}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // parts run outside the lock, so a poisoned lock still guards a whole state
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Runs parts until none is left; the first panic ends the job and is kept for the caller.
    fn work(&self, job: Job) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the caller of `Pool::run` waits for this thread, so the closure is alive.
            let call = unsafe { &*job.call };
            loop {
                // relaxed: the lock orders what parts read and write, the counter only hands out numbers
                let part = self.next.fetch_add(1, Ordering::Relaxed);
                if part >= job.n_parts {
                    return;
                }
                call(part);
            }
        }));
        if let Err(panic) = outcome {
            self.next.store(job.n_parts, Ordering::Relaxed);
            self.lock().panic.get_or_insert(panic);
        }
    }

    fn help(&self) {
        let (mut seen, mut awake) = (0, false);
        let mut state = self.lock();
        loop {
            match state.job {
                _ if state.closing => return,
                Some(job) if state.jobs != seen => {
                    seen = state.jobs;
                    state.joined += 1;
                    self.joined.store(state.joined, Ordering::Relaxed);
                    drop(state);
                    self.work(job);
                    state = self.lock();
                    state.joined -= 1;
                    self.joined.store(state.joined, Ordering::Relaxed);
                    if state.joined == 0 {
                        self.idle.notify_one();
                    }
                    awake = true;
                }
                _ if awake => {
                    let known = state.jobs;
                    drop(state);
                    let mut patience = Patience::new(self.crowded);
                    // relaxed: only a hint, the lock tells
                    while self.jobs.load(Ordering::Relaxed) == known && patience.goes_on() {}
                    awake = self.jobs.load(Ordering::Relaxed) != known;
                    state = self.lock();
                }
                _ => {
                    state = self.wake.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
                    awake = true;
                }
            }
        }
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller's among them; 0 counts as 1. The process has no other threads at work.
    pub fn new(threads: usize) -> Self {
        Self::beside(threads, 1)
    }

    /// One of as many pools of `threads` threads as are at work at once.
    pub fn beside(threads: usize, pools: usize) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            wake: Condvar::new(),
            idle: Condvar::new(),
            next: AtomicUsize::new(0),
            jobs: AtomicU64::new(0),
            joined: AtomicUsize::new(0),
            crowded: is_crowded(threads * pools),
        });
        let helpers = (1..threads)
            .map(|index| {
                let shared = Arc::clone(&shared);
                let builder = std::thread::Builder::new().name(format!("kernel-{index}"));
                builder.spawn(move || shared.help()).expect("the system can start a thread")
            })
            .collect();
        Self { shared, helpers }
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `part(0) .. part(n_parts - 1)`, each once, on any thread and in any order, and returns when all are done.
    /// A job started from within a part runs on that part's thread alone.
    ///
    /// # Panics
    /// When a part panics, with its message.
    pub fn run(&self, n_parts: usize, part: &(dyn Fn(usize) + Sync)) {
        if self.helpers.is_empty() || n_parts <= 1 {
            return (0..n_parts).for_each(part);
        }
        // SAFETY: only the lifetime changes; no helper holds the job when this function returns.
        let call = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(part) };
        let job = Job { call, n_parts };
        let mut state = self.shared.lock();
        // a helper may still be at work on the last parts of a job that its caller waits for
        if state.job.is_some() || state.joined > 0 {
            drop(state);
            return (0..n_parts).for_each(part);
        }
        self.shared.next.store(0, Ordering::Relaxed);
        state.job = Some(job);
        state.jobs += 1;
        self.shared.jobs.store(state.jobs, Ordering::Relaxed);
        drop(state);
        if n_parts > self.helpers.len() {
            self.shared.wake.notify_all();
        } else {
            (1..n_parts).for_each(|_| self.shared.wake.notify_one());
        }
        self.shared.work(job);
        // a helper that has not woken yet finds no job: nobody waits for a sleeper
        let mut state = self.shared.lock();
        state.job = None;
        if state.joined > 0 {
            drop(state);
            let mut patience = Patience::new(self.shared.crowded);
            // relaxed: only a hint, the lock tells
            while self.shared.joined.load(Ordering::Relaxed) > 0 && patience.goes_on() {}
            state = self.shared.lock();
        }
        while state.joined > 0 {
            state = self.shared.idle.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        if let Some(panic) = state.panic.take() {
            drop(state);
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closing = true;
            self.shared.jobs.store(u64::MAX, Ordering::Relaxed);
        }
        self.shared.wake.notify_all();
        for helper in self.helpers.drain(..) {
            // a helper catches the panics of its parts, and there is nobody left to tell
            let _ = helper.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for n_parts in [0, 1, 2, 3, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..n_parts).map(|_| AtomicUsize::new(0)).collect();
                pool.run(n_parts, &|part| {
                    counts[part].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_job_within_a_part_runs() {
        let pool = Pool::new(3);
        let count = AtomicUsize::new(0);
        pool.run(4, &|_| {
            pool.run(5, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(count.into_inner(), 20);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(3);
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(10, &|part| assert!(part != 7, "part 7 fails"))));
        assert!(outcome.is_err());
        let count = AtomicUsize::new(0);
        pool.run(10, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 10);
    }
}
