//! How long a thread looks again before it sleeps.

use std::time::{Duration, Instant};

/// How long a thread that has a core of its own waits awake. A sleep and a wake cost 10 to 80 us on virtual machines, and what
/// comes next in a step mostly comes sooner. Measured on 2 cores: gpt's usual size on one rank of 2 threads takes 71 to 87 ms a
/// step if helpers sleep at once.
const AWAKE: Duration = Duration::from_micros(200);
/// Looks before the core is offered to others.
const LOOKS: u32 = 64;
/// Offers of threads that share cores. Measured on 2 cores: an all-reduce of 4 bytes by 4 and 8 ranks takes 42 and 53 us if
/// ranks sleep at once, 5 and 10 us this way.
const OFFERS: u32 = 16;

/// A wait for other threads. Looks at what it waits for whenever [`Patience::goes_on`] returns.
#[derive(Debug)]
pub(crate) struct Patience {
    crowded: bool,
    rests: u32,
    began: Option<Instant>,
}

impl Patience {
    /// A wait of a thread; `crowded` if there are more threads than cores.
    pub(crate) fn new(crowded: bool) -> Self {
        Self { crowded, rests: 0, began: None }
    }

    /// Waits a little, and says whether to go on so; else it is time to sleep.
    pub(crate) fn goes_on(&mut self) -> bool {
        self.rests = self.rests.saturating_add(1);
        if self.crowded {
            std::thread::yield_now();
            return self.rests <= OFFERS;
        }
        if self.rests <= LOOKS {
            std::hint::spin_loop();
            return true;
        }
        let began = *self.began.get_or_insert_with(Instant::now);
        std::thread::yield_now();
        began.elapsed() < AWAKE
    }
}

/// Whether so many threads have to share cores.
pub(crate) fn is_crowded(threads: usize) -> bool {
    threads > std::thread::available_parallelism().map_or(1, usize::from)
}
