//! Thread ranks: a world of communicators in one process.
#![allow(unsafe_code, reason = "hands the addresses of borrowed buffers to a meeting for the length of a call")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Thread, ThreadId};

use partita_ir::dtype::DType;
use partita_ir::rule::Reduce;

use super::channel::Channel;
use super::meeting::{Meeting, Request};
use super::{CommError, Communicator, ExchangePlan, Group, merge};
use crate::wait::Patience;

/// Messages that a channel holds unless the world was told otherwise.
pub const CHANNEL_CAPACITY: usize = 2;

/// What the thread ranks of a run share.
pub struct World {
    poisoned: AtomicBool,
    reason: Mutex<String>,
    /// How many ranks have ended, and which.
    departures: AtomicUsize,
    departed: Box<[AtomicBool]>,
    /// The thread that each rank last called from.
    threads: Box<[Mutex<Option<Thread>>]>,
    meetings: Mutex<BTreeMap<Vec<usize>, Arc<Meeting>>>,
    /// By sender, receiver and channel.
    channels: Mutex<BTreeMap<(usize, usize, u64), Arc<Channel>>>,
    channel_capacity: usize,
    cores: usize,
    pub(super) message_bytes: AtomicU64,
}

/// Locks a mutex whose data no panic can leave broken.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// A world of `n` ranks, one communicator each, in rank order. Give each to the thread that plays the rank.
    ///
    /// ```
    /// use partita_ir::{dtype::DType, rule::Reduce};
    /// use partita_runtime::comm::{Communicator, World};
    ///
    /// std::thread::scope(|scope| {
    ///     for communicator in World::connect(3) {
    ///         scope.spawn(move || {
    ///             let everyone = communicator.group(&[0, 1, 2]).unwrap();
    ///             let mut x = (communicator.rank() as f32).to_ne_bytes();
    ///             communicator.all_reduce(&everyone, Reduce::Sum, DType::F32, 1, &mut x).unwrap();
    ///             assert_eq!(f32::from_ne_bytes(x), 3.0);
    ///         });
    ///     }
    /// });
    /// ```
    pub fn connect(n: usize) -> Vec<ThreadCommunicator> {
        World::connect_with(n, CHANNEL_CAPACITY)
    }

    /// The same, with channels that hold `channel_capacity` messages (at least one) before a sender waits.
    pub fn connect_with(n: usize, channel_capacity: usize) -> Vec<ThreadCommunicator> {
        let world = Arc::new(World {
            poisoned: AtomicBool::new(false),
            reason: Mutex::default(),
            departures: AtomicUsize::new(0),
            departed: (0..n).map(|_| AtomicBool::new(false)).collect(),
            threads: (0..n).map(|_| Mutex::new(None)).collect(),
            meetings: Mutex::default(),
            channels: Mutex::default(),
            channel_capacity,
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            message_bytes: AtomicU64::new(0),
        });
        (0..n)
            .map(|rank| ThreadCommunicator {
                world: Arc::clone(&world),
                rank,
                registered: Cell::new(None),
                scratch: RefCell::default(),
                channels: RefCell::default(),
            })
            .collect()
    }

    /// Ends all calls of all ranks, now and from now on, with [`CommError::Poisoned`]. The first reason stands.
    pub fn poison(&self, reason: &str) {
        {
            let mut first = lock(&self.reason);
            if self.poisoned.load(Ordering::Acquire) {
                return;
            }
            *first = reason.to_owned();
            self.poisoned.store(true, Ordering::Release);
        }
        self.wake_all();
    }

    /// The error of a poisoned world.
    pub fn poisoned(&self) -> Option<CommError> {
        self.poisoned.load(Ordering::Acquire).then(|| CommError::Poisoned { reason: lock(&self.reason).clone() })
    }

    /// Why a group can meet no more, if so.
    pub(super) fn trouble(&self, ranks: &[usize]) -> Option<CommError> {
        self.poisoned().or_else(|| {
            let any = self.departures.load(Ordering::Acquire) > 0;
            let gone = any.then(|| ranks.iter().find(|rank| self.departed(**rank))).flatten();
            gone.map(|rank| CommError::Departed { rank: *rank })
        })
    }

    pub(super) fn departed(&self, rank: usize) -> bool {
        self.departed[rank].load(Ordering::Acquire)
    }

    /// A wait of a rank.
    pub(super) fn patience(&self) -> Patience {
        Patience::new(self.departed.len() > self.cores)
    }

    pub(super) fn cores(&self) -> usize {
        self.cores
    }

    /// Wakes a rank if it sleeps; if not, its next sleep ends at once, and it looks again.
    pub(super) fn wake(&self, rank: usize) {
        if let Some(thread) = &*lock(&self.threads[rank]) {
            thread.unpark();
        }
    }

    fn wake_all(&self) {
        (0..self.threads.len()).for_each(|rank| self.wake(rank));
    }

    fn meeting(&self, ranks: &[usize]) -> Arc<Meeting> {
        Arc::clone(lock(&self.meetings).entry(ranks.to_vec()).or_insert_with(|| Arc::new(Meeting::new(ranks))))
    }

    fn channel(&self, from: usize, to: usize, channel: u64) -> Arc<Channel> {
        let mut channels = lock(&self.channels);
        Arc::clone(channels.entry((from, to, channel)).or_insert_with(|| Arc::new(Channel::new(from, to, self.channel_capacity))))
    }
}

/// What a thread rank keeps with a group.
struct Membership {
    world: Arc<World>,
    rank: usize,
    meeting: Arc<Meeting>,
}

/// The communicator of one thread rank. It may move to another thread between calls.
///
/// Dropping it ends the rank: others that wait for it, then or later, get [`CommError::Departed`]. Dropping it in a
/// panic poisons the world.
pub struct ThreadCommunicator {
    world: Arc<World>,
    rank: usize,
    /// The thread that the world knows this rank to run on.
    registered: Cell<Option<ThreadId>>,
    scratch: RefCell<Vec<u8>>,
    /// This rank's channels: where messages come from or go to, so that each is looked up in the world once.
    channels: RefCell<BTreeMap<(usize, usize, u64), Arc<Channel>>>,
}

impl ThreadCommunicator {
    /// The world, to poison it from outside.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Lets the world know which thread to wake for this rank. Must precede every sleep.
    fn register(&self) {
        let thread = std::thread::current();
        if self.registered.get() != Some(thread.id()) {
            self.registered.set(Some(thread.id()));
            *lock(&self.world.threads[self.rank]) = Some(thread);
        }
    }

    /// An error of a call ends the run for all ranks.
    fn or_poison<T>(&self, result: Result<T, CommError>) -> Result<T, CommError> {
        result.inspect_err(|error| self.world.poison(&format!("rank {}: {error}", self.rank)))
    }

    /// # Safety
    /// As [`Meeting::attend`].
    unsafe fn meet(&self, group: &Group, request: Request) -> Result<(), CommError> {
        let membership = group.handle().downcast_ref::<Membership>();
        let membership = membership.filter(|member| member.rank == self.rank && Arc::ptr_eq(&member.world, &self.world));
        let Some(Membership { meeting, .. }) = membership else {
            let (ranks, rank, size) = (group.ranks().to_vec(), self.rank, self.size());
            return Err(CommError::BadGroup { ranks, rank, size, why: "another communicator made it" });
        };
        self.register();
        // SAFETY: the caller's promise; `group` is this rank's, so its position is too, and the communicator is in one
        // thread at a time.
        unsafe { meeting.attend(&self.world, group.position(), request, &mut self.scratch.borrow_mut()) }
    }

    fn channel(&self, from: usize, to: usize, channel: u64) -> Result<Arc<Channel>, CommError> {
        let size = self.size();
        if from >= size || to >= size {
            return Err(CommError::DoesNotFit(format!("a message from rank {from} to rank {to} in a world of {size}")));
        }
        self.register();
        let mut mine = self.channels.borrow_mut();
        let known = mine.entry((from, to, channel)).or_insert_with(|| self.world.channel(from, to, channel));
        Ok(Arc::clone(known))
    }

    fn reduce(&self, group: &Group, op: Reduce, dtype: DType, row: usize, buffer: &mut [u8]) -> Result<u64, CommError> {
        merge::check(op, dtype, row)?;
        let row_bytes = row * merge::width(dtype)?;
        if !buffer.len().is_multiple_of(row_bytes) {
            let bytes = buffer.len();
            return Err(CommError::DoesNotFit(format!("a buffer of {bytes} bytes does not hold whole rows of {row} {dtype}")));
        }
        let received = all_reduce_bytes(buffer.len(), row_bytes, group.size(), group.position());
        if group.size() > 1 {
            let (bytes, buffer) = (buffer.len(), buffer.as_mut_ptr());
            // SAFETY: the buffer is borrowed for this call, and not used by name until it returns.
            unsafe { self.meet(group, Request::AllReduce { op, dtype, row, buffer, bytes })? };
        }
        Ok(received)
    }

    fn pull(&self, group: &Group, source: &[u8], target: &mut [u8], plan: &ExchangePlan) -> Result<u64, CommError> {
        plan.check(target.len(), group.size())?;
        if group.size() == 1 {
            plan.run(target, |_| source)?;
            return Ok(0);
        }
        let request = Request::Exchange {
            source: source.as_ptr(),
            source_bytes: source.len(),
            target_bytes: target.len(),
            target: target.as_mut_ptr(),
            plan,
        };
        // SAFETY: source, target and plan are borrowed for this call, and not used by name until it returns. The plan
        // names members only: checked above.
        unsafe { self.meet(group, request)? };
        Ok(plan.received(group.position()))
    }
}

impl Communicator for ThreadCommunicator {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.world.threads.len()
    }

    fn group(&self, ranks: &[usize]) -> Result<Group, CommError> {
        Group::position_of(ranks, self.rank, self.size())?;
        let membership = Membership { world: Arc::clone(&self.world), rank: self.rank, meeting: self.world.meeting(ranks) };
        Group::new(ranks, self.rank, self.size(), Arc::new(membership))
    }

    fn all_reduce(&self, group: &Group, op: Reduce, dtype: DType, row: usize, buffer: &mut [u8]) -> Result<u64, CommError> {
        self.or_poison(self.reduce(group, op, dtype, row, buffer))
    }

    fn exchange(&self, group: &Group, source: &[u8], target: &mut [u8], plan: &ExchangePlan) -> Result<u64, CommError> {
        self.or_poison(self.pull(group, source, target, plan))
    }

    fn barrier(&self, group: &Group) -> Result<(), CommError> {
        // SAFETY: a barrier has no addresses.
        self.or_poison(if group.size() > 1 { unsafe { self.meet(group, Request::Barrier) } } else { Ok(()) })
    }

    fn send(&self, to: usize, channel: u64, data: &[u8]) -> Result<(), CommError> {
        self.or_poison(self.channel(self.rank, to, channel).and_then(|queue| queue.send(&self.world, data)))
    }

    fn receive(&self, from: usize, channel: u64, data: &mut [u8]) -> Result<u64, CommError> {
        self.or_poison(self.channel(from, self.rank, channel).and_then(|queue| queue.receive(&self.world, channel, data)))
    }

    fn message_bytes(&self) -> u64 {
        self.world.message_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for ThreadCommunicator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.world.poison(&format!("rank {} panicked", self.rank));
        }
        self.world.departed[self.rank].store(true, Ordering::Release);
        self.world.departures.fetch_add(1, Ordering::Release);
        self.world.wake_all();
    }
}

impl std::fmt::Debug for ThreadCommunicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.world.threads.len())
    }
}

/// Bytes that member `position` of `members` receives in an all-reduce of `bytes`: the others' parts of its own chunk,
/// then their reduced chunks. Chunks are whole rows, the first ones larger by one if they do not divide.
fn all_reduce_bytes(bytes: usize, row_bytes: usize, members: usize, position: usize) -> u64 {
    let rows = bytes / row_bytes;
    let chunk = (rows / members + usize::from(position < rows % members)) * row_bytes;
    ((members - 1) * chunk + bytes - chunk) as u64
}
