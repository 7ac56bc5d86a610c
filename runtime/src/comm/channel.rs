//! Messages from one rank to another: a bounded queue whose buffers are allocated once and used again.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use super::CommError;
use super::world::{World, lock};

/// The queue of one (sender, receiver, channel).
pub(super) struct Channel {
    from: usize,
    to: usize,
    capacity: usize,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Sent and not yet received, oldest first.
    full: VecDeque<Vec<u8>>,
    /// Buffers to write next.
    free: Vec<Vec<u8>>,
    /// Buffers in `full`, in `free` or being copied.
    allocated: usize,
}

impl Channel {
    pub(super) fn new(from: usize, to: usize, capacity: usize) -> Channel {
        Channel { from, to, capacity: capacity.max(1), queue: Mutex::default() }
    }

    pub(super) fn send(&self, world: &World, data: &[u8]) -> Result<(), CommError> {
        // the message is copied outside the lock, so that the two ends copy at the same time
        let mut buffer = self.wait(world, self.to, |queue| {
            queue.free.pop().or_else(|| {
                let room = queue.allocated < self.capacity;
                queue.allocated += usize::from(room);
                room.then(Vec::new)
            })
        })?;
        let before = buffer.capacity();
        buffer.clear();
        buffer.reserve_exact(data.len());
        buffer.extend_from_slice(data);
        world.message_bytes.fetch_add((buffer.capacity() - before) as u64, Ordering::Relaxed);
        lock(&self.queue).full.push_back(buffer);
        world.wake(self.to);
        Ok(())
    }

    pub(super) fn receive(&self, world: &World, channel: u64, data: &mut [u8]) -> Result<u64, CommError> {
        let buffer = self.wait(world, self.from, |queue| queue.full.pop_front())?;
        let (from, to, sent, wanted) = (self.from, self.to, buffer.len(), data.len());
        let fits = sent == wanted;
        if fits {
            data.copy_from_slice(&buffer);
        }
        lock(&self.queue).free.push(buffer);
        world.wake(self.from);
        if fits {
            Ok(sent as u64)
        } else {
            Err(CommError::DoesNotFit(format!("rank {from} sent {sent} bytes on channel {channel} where rank {to} receives {wanted}")))
        }
    }

    /// Sleeps until `take` finds something. `other` is the rank that can change that.
    fn wait<T>(&self, world: &World, other: usize, take: impl Fn(&mut Queue) -> Option<T>) -> Result<T, CommError> {
        let mut patience = world.patience();
        loop {
            if let Some(reason) = world.poisoned() {
                return Err(reason);
            }
            // asked before the queue is looked at: what a rank sent before it ended is still received
            let gone = world.departed(other);
            if let Some(found) = take(&mut lock(&self.queue)) {
                return Ok(found);
            }
            if gone {
                return Err(CommError::Departed { rank: other });
            }
            if self.from == self.to {
                let rank = self.from;
                return Err(CommError::DoesNotFit(format!("rank {rank} waits for itself on a channel of {} messages", self.capacity)));
            }
            if !patience.goes_on() {
                std::thread::park();
            }
        }
    }
}
