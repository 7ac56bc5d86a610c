//! Where the ranks of one group meet: every collective of thread ranks is one meeting.
//!
//! Ranks often outnumber cores, so what a meeting costs is its context switches. All members but the last leave a
//! request (the addresses of their buffers) and sleep. The last one to arrive finds everybody's buffers resting and
//! cuts the work into tasks. If there is little it does all of it, results into the sleepers' buffers included, and
//! wakes them. If there is much it wakes as many helpers as there are cores, all claim tasks from a counter, and
//! whoever ends the last task wakes the rest. So a rank sleeps and wakes once a collective, and no data is copied to
//! be handed over.
//!
//! A member that must wait first offers its core to others a few times: where ranks outnumber cores the next rank runs
//! at once, and all have arrived before anybody sleeps.
//!
//! What a task computes depends on the members' order alone, never on who runs it, so results repeat bit by bit.
//!
//! **The protocol that makes the shared addresses sound.** `phase` is even while members arrive, odd while tasks run.
//! 1. A member writes its own slot before it counts itself into `arrived`; nobody else touches the slot until all
//!    have arrived.
//! 2. Tasks run only after all have arrived. Each task touches bytes that no other task of the meeting writes.
//! 3. A member leaves after `phase` moved on to the next even number, which happens after the last task ended; or
//!    before all have arrived, by setting `WITHDRAWN` in `arrived`, after which no task ever runs.
#![allow(unsafe_code, reason = "the buffers of sleeping ranks are read and written by the rank that is awake")]

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use partita_ir::dtype::DType;
use partita_ir::rule::Reduce;

use super::world::World;
use super::{CommError, ExchangePlan, merge};

/// Set in `arrived` when a member gave up.
const WITHDRAWN: usize = 1 << (usize::BITS - 1);

/// Up to this many bytes read and written, the last to arrive does all the work: waking a helper takes as long.
const ALONE: usize = 96 << 10;

/// Bytes of each member's buffer that one task of an all-reduce folds.
const TASK: usize = 64 << 10;

/// Bytes folded at a time, so that the running result stays in the first-level cache.
const PIECE: usize = 8 << 10;

/// What one member wants of a collective.
#[derive(Clone, Copy)]
pub(super) enum Request {
    /// To meet.
    Barrier,
    /// To reduce a buffer in place.
    AllReduce { op: Reduce, dtype: DType, row: usize, buffer: *mut u8, bytes: usize },
    /// To expose a source and fill a target.
    Exchange { source: *const u8, source_bytes: usize, target: *mut u8, target_bytes: usize, plan: *const ExchangePlan },
}

impl Request {
    /// What members must agree on.
    fn agrees(&self, other: &Request) -> bool {
        match (self, other) {
            (Request::Barrier, Request::Barrier) | (Request::Exchange { .. }, Request::Exchange { .. }) => true,
            (
                Request::AllReduce { op, dtype, row, bytes, .. },
                Request::AllReduce { op: op2, dtype: dtype2, row: row2, bytes: bytes2, .. },
            ) => (op, dtype, row, bytes) == (op2, dtype2, row2, bytes2),
            _ => false,
        }
    }

    fn describe(&self) -> String {
        match self {
            Request::Barrier => "a barrier".to_owned(),
            Request::AllReduce { op, dtype, row, bytes, .. } => {
                format!("an all-reduce ({}) of {bytes} bytes of {dtype} in rows of {row}", op.word())
            }
            Request::Exchange { .. } => "an exchange".to_owned(),
        }
    }
}

/// The shared state of one group.
pub(super) struct Meeting {
    ranks: Box<[usize]>,
    slots: Box<[UnsafeCell<Request>]>,
    /// Members that have arrived, and `WITHDRAWN`.
    arrived: AtomicUsize,
    phase: AtomicU64,
    /// Tasks of the running meeting, how many are claimed (or more), how many have not ended.
    tasks: AtomicUsize,
    claimed: AtomicUsize,
    open: AtomicUsize,
    /// Set for good when a task or the check before the tasks failed.
    failed: AtomicBool,
}

// SAFETY: the slots are the only part that is not shareable by itself. The protocol of the module's text orders every
// access to them: written by their member before it arrives, read by tasks, which run between the last arrival and the
// change of phase that lets the member go on. The same protocol covers what their addresses point at.
unsafe impl Send for Meeting {}
// SAFETY: as above.
unsafe impl Sync for Meeting {}

impl Meeting {
    pub(super) fn new(ranks: &[usize]) -> Meeting {
        Meeting {
            ranks: ranks.into(),
            slots: ranks.iter().map(|_| UnsafeCell::new(Request::Barrier)).collect(),
            arrived: AtomicUsize::new(0),
            phase: AtomicU64::new(0),
            tasks: AtomicUsize::new(0),
            claimed: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
        }
    }

    /// Takes part as member `position`. Returns when the collective is done for this member, or will never be.
    ///
    /// # Safety
    /// The addresses in `request` are valid for their lengths until this returns or unwinds, nothing else accesses the
    /// writable ones meanwhile, nothing writes the readable ones, and `position` is this rank's and no other's.
    pub(super) unsafe fn attend(&self, world: &World, position: usize, request: Request, scratch: &mut Vec<u8>) -> Result<(), CommError> {
        world.trouble(&self.ranks).map_or(Ok(()), Err)?;
        // even, and it stays so while this member has not arrived
        let waiting = self.phase.load(Ordering::Acquire);
        // SAFETY: rule 1: before this member's arrival no other thread touches its slot.
        unsafe { *self.slots[position].get() = request };
        // with `WITHDRAWN` set this is no number of members, and all who wait find out why
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.ranks.len() {
            self.begin(world, position, waiting, scratch)?;
        }
        self.wait(world, position, waiting, scratch)
    }

    /// Sleeps until the meeting that was `waiting` is over, and helps while tasks are open.
    fn wait(&self, world: &World, position: usize, waiting: u64, scratch: &mut Vec<u8>) -> Result<(), CommError> {
        let mut may_withdraw = true;
        let mut patience = world.patience();
        loop {
            let phase = self.phase.load(Ordering::Acquire);
            if phase > waiting + 1 {
                return if self.failed.load(Ordering::Acquire) { Err(self.given_up(world)) } else { Ok(()) };
            }
            if phase == waiting + 1 {
                if self.help(world, position, waiting, scratch) {
                    continue;
                }
            } else if may_withdraw && let Some(trouble) = world.trouble(&self.ranks) {
                let arrived = self.arrived.fetch_or(WITHDRAWN, Ordering::AcqRel) & !WITHDRAWN;
                if arrived == self.ranks.len() {
                    // too late: tasks may be at this member's buffers, and will end
                    may_withdraw = false;
                    continue;
                }
                // either nobody will ever run tasks here, or the meeting has just ended
                if self.phase.load(Ordering::Acquire) == waiting {
                    return Err(trouble);
                }
                continue;
            }
            if !patience.goes_on() {
                std::thread::park();
            }
        }
    }

    /// What to say when the group can meet no more.
    fn given_up(&self, world: &World) -> CommError {
        world.trouble(&self.ranks).unwrap_or_else(|| CommError::Poisoned { reason: "a rank left a collective".to_owned() })
    }

    /// The requests of all members.
    ///
    /// # Safety
    /// All have arrived and the phase has not moved on to the next even number.
    unsafe fn requests(&self) -> impl ExactSizeIterator<Item = Request> + '_ {
        // SAFETY: by the caller's promise no member writes its slot now (rule 1).
        self.slots.iter().map(|slot| unsafe { *slot.get() })
    }

    /// Runs in the last member to arrive.
    fn begin(&self, world: &World, position: usize, waiting: u64, scratch: &mut Vec<u8>) -> Result<(), CommError> {
        // SAFETY: all have arrived, and the phase moves on in `end` below or later.
        let (tasks, work) = match unsafe { self.survey() } {
            Ok(work) => work,
            Err(error) => {
                self.fail(world, &error.to_string());
                self.end(world, position, waiting);
                return Err(error);
            }
        };
        if tasks <= 1 || work <= ALONE {
            let mut panic = None;
            for task in 0..tasks {
                panic = panic.or(self.run_guarded(world, task, scratch));
            }
            self.end(world, position, waiting);
            panic.map_or(Ok(()), |payload| resume_unwind(payload))
        } else {
            self.tasks.store(tasks, Ordering::Relaxed);
            self.open.store(tasks, Ordering::Relaxed);
            self.claimed.store(0, Ordering::Relaxed);
            self.phase.store(waiting + 1, Ordering::Release);
            let helpers = (world.cores() - 1).min(tasks - 1).min(self.ranks.len() - 1);
            let others = self.ranks.iter().enumerate().filter(|(member, _)| *member != position);
            others.take(helpers).for_each(|(_, rank)| world.wake(*rank));
            Ok(())
        }
    }

    /// Claims and runs tasks until none is left; returns whether this member ended the last one.
    fn help(&self, world: &World, position: usize, waiting: u64, scratch: &mut Vec<u8>) -> bool {
        let tasks = self.tasks.load(Ordering::Relaxed);
        let (mut panic, mut ended) = (None, false);
        loop {
            let task = self.claimed.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                break;
            }
            panic = panic.or(self.run_guarded(world, task, scratch));
            if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.end(world, position, waiting);
                ended = true;
                break;
            }
        }
        if let Some(payload) = panic {
            // this member's buffers may be in use by others' tasks until the meeting is over
            while self.phase.load(Ordering::Acquire) == waiting + 1 {
                std::thread::park();
            }
            resume_unwind(payload);
        }
        ended
    }

    /// Lets everybody go.
    fn end(&self, world: &World, position: usize, waiting: u64) {
        // keeps `WITHDRAWN`; the next meeting counts from 0
        self.arrived.fetch_sub(self.ranks.len(), Ordering::AcqRel);
        self.phase.store(waiting + 2, Ordering::Release);
        let others = self.ranks.iter().enumerate().filter(|(member, _)| *member != position);
        others.for_each(|(_, rank)| world.wake(*rank));
    }

    fn fail(&self, world: &World, reason: &str) {
        self.failed.store(true, Ordering::Release);
        world.poison(reason);
    }

    /// Checks that requests agree; gives the number of tasks and the bytes that they read and write.
    ///
    /// # Safety
    /// As [`Meeting::requests`].
    unsafe fn survey(&self) -> Result<(usize, usize), CommError> {
        // SAFETY: the caller's promise.
        let mut requests = unsafe { self.requests() };
        let first = requests.next().expect("a group has members");
        // SAFETY: the caller's promise.
        for (member, request) in unsafe { self.requests() }.enumerate() {
            if !request.agrees(&first) {
                return Err(CommError::Disagree {
                    ranks: self.ranks.to_vec(),
                    first: self.ranks[0],
                    first_call: first.describe(),
                    second: self.ranks[member],
                    second_call: request.describe(),
                });
            }
        }
        let members = self.ranks.len();
        Ok(match first {
            Request::Barrier => (0, 0),
            Request::AllReduce { dtype, row, bytes, .. } => (bytes.div_ceil(task_bytes(row * merge::width(dtype)?)), 2 * members * bytes),
            Request::Exchange { .. } => {
                // SAFETY: the caller's promise; a plan outlives the call that its member sleeps in.
                let moved = unsafe { self.requests() }.map(|request| match request {
                    Request::Exchange { plan, target_bytes, .. } => unsafe { (*plan).work(target_bytes) },
                    _ => 0,
                });
                (members, moved.fold(0, usize::saturating_add))
            }
        })
    }

    /// Runs a task; one that fails or panics poisons the world. Returns what a panic carried.
    fn run_guarded(&self, world: &World, task: usize, scratch: &mut Vec<u8>) -> Option<Box<dyn Any + Send>> {
        // SAFETY: called between the last arrival and the end of the meeting, once a task.
        match catch_unwind(AssertUnwindSafe(|| unsafe { self.run(task, scratch) })) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => {
                self.fail(world, &error.to_string());
                None
            }
            Err(payload) => {
                self.fail(world, "a collective panicked");
                Some(payload)
            }
        }
    }

    /// Runs one task.
    ///
    /// # Safety
    /// As [`Meeting::requests`], and no task is run twice in a meeting.
    unsafe fn run(&self, task: usize, scratch: &mut Vec<u8>) -> Result<(), CommError> {
        // SAFETY: the caller's promise.
        match unsafe { *self.slots[0].get() } {
            Request::Barrier => Ok(()),
            Request::AllReduce { op, dtype, row, bytes, .. } => {
                let row_bytes = row * merge::width(dtype)?;
                let size = task_bytes(row_bytes);
                let piece = whole_rows(PIECE, row_bytes);
                // what has 16 bits is folded, and before that laid out, as f32
                let is_wide = merge::wide(dtype) == dtype;
                let needed = if is_wide { piece } else { 4 * piece };
                if scratch.len() < needed {
                    scratch.resize(needed, 0);
                }
                let task_end = bytes.min((task + 1) * size);
                let mut start = task * size;
                while start < task_end {
                    let len = piece.min(task_end - start);
                    let (folded, other) = scratch.split_at_mut(if is_wide { len } else { 2 * len });
                    // SAFETY: the caller's promise.
                    for (member, buffer) in unsafe { self.requests() }.map(Request::buffer).enumerate() {
                        // SAFETY: `start + len <= bytes`, the length that all members' buffers have (see `survey`);
                        // their owners sleep, and this range belongs to this task.
                        let mine = unsafe { std::slice::from_raw_parts(buffer.add(start), len) };
                        match (is_wide, member) {
                            (true, 0) => folded.copy_from_slice(mine),
                            (true, _) => merge::merge(op, dtype, row, folded, mine),
                            (false, 0) => merge::widen(dtype, mine, folded),
                            (false, _) => {
                                let other = &mut other[..2 * len];
                                merge::widen(dtype, mine, other);
                                merge::merge(op, DType::F32, row, folded, other);
                            }
                        }
                    }
                    let folded = if is_wide {
                        &*folded
                    } else {
                        merge::narrow(dtype, folded, &mut other[..len]);
                        &other[..len]
                    };
                    // SAFETY: the caller's promise.
                    for buffer in unsafe { self.requests() }.map(Request::buffer) {
                        // SAFETY: as above; no shared slice of the range is alive any more.
                        unsafe { std::slice::from_raw_parts_mut(buffer.add(start), len) }.copy_from_slice(folded);
                    }
                    start += len;
                }
                Ok(())
            }
            Request::Exchange { .. } => {
                // SAFETY: the caller's promise.
                let Request::Exchange { target, target_bytes, plan, .. } = (unsafe { *self.slots[task].get() }) else {
                    unreachable!("`survey` found that all members exchange");
                };
                // SAFETY: the member sleeps in the call that holds its plan and its target, and this task alone writes
                // that target.
                let (plan, target) = unsafe { (&*plan, std::slice::from_raw_parts_mut(target, target_bytes)) };
                plan.run(target, |from| {
                    // SAFETY: the caller's promise; `from` is a member, which `attend`'s callers check.
                    match unsafe { *self.slots[from].get() } {
                        // SAFETY: that member sleeps in the call that holds its source, which nobody writes.
                        Request::Exchange { source, source_bytes, .. } => unsafe { std::slice::from_raw_parts(source, source_bytes) },
                        _ => unreachable!("`survey` found that all members exchange"),
                    }
                })
            }
        }
    }
}

impl Request {
    fn buffer(self) -> *mut u8 {
        match self {
            Request::AllReduce { buffer, .. } => buffer,
            _ => unreachable!("`survey` found that all members reduce"),
        }
    }
}

/// About `bytes`, in whole rows.
fn whole_rows(bytes: usize, row_bytes: usize) -> usize {
    (bytes / row_bytes).max(1) * row_bytes
}

/// Bytes of one task of an all-reduce.
fn task_bytes(row_bytes: usize) -> usize {
    whole_rows(TASK, row_bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    /// Waits until `done` or fails.
    fn until(what: &str, done: impl Fn() -> bool) {
        let start = std::time::Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_member_leaves_a_poisoned_meeting_only_if_no_task_can_run() {
        for last_arrived in [true, false] {
            let ranks = super::super::World::connect(2);
            let (world, meeting) = (Arc::clone(ranks[0].world()), Meeting::new(&[0, 1]));
            let back = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let sleeper = scope.spawn(|| {
                    // SAFETY: a barrier has no addresses, and this thread alone is member 0.
                    let result = unsafe { meeting.attend(&world, 0, Request::Barrier, &mut Vec::new()) };
                    back.store(true, Ordering::Release);
                    result
                });
                until("member 0 arrives", || meeting.arrived.load(Ordering::Acquire) == 1);
                if last_arrived {
                    // member 1 has arrived and is about to run tasks on the buffers of member 0
                    meeting.arrived.fetch_add(1, Ordering::AcqRel);
                }
                world.poison("now");
                sleeper.thread().unpark();
                std::thread::sleep(Duration::from_millis(30));
                assert_eq!(back.load(Ordering::Acquire), !last_arrived);
                if last_arrived {
                    meeting.end(&world, 1, 0);
                    sleeper.thread().unpark();
                    assert_eq!(sleeper.join().unwrap(), Ok(()), "the meeting took place");
                } else {
                    assert!(sleeper.join().unwrap().is_err());
                    // SAFETY: as above, member 1.
                    assert!(unsafe { meeting.attend(&world, 1, Request::Barrier, &mut Vec::new()) }.is_err());
                }
            });
        }
    }
}
