//! Start line: where all threads of a run wait until the clock starts.
//!
//! Threads wait by yielding, never by spinning: with more threads than cores, the one that everybody waits
//! for would get no core. They do not sleep either, because waking them one by one would stretch the start.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicU8, AtomicUsize};
use std::thread::yield_now;
use std::time::Instant;

use crossbeam_utils::CachePadded;

const WAITING: u8 = 0;
const STARTED: u8 = 1;
const CANCELLED: u8 = 2;

/// The line: threads wait at it, one other thread starts them.
#[derive(Debug, Default)]
pub struct StartLine {
    /// Threads that have arrived.
    arrived: CachePadded<AtomicUsize>,
    /// One of the three states above; leaves `WAITING` once.
    state: CachePadded<AtomicU8>,
}

impl StartLine {
    /// Arrives and waits. `true` when the run starts, `false` when it was cancelled.
    pub fn wait(&self) -> bool {
        // Release: what the thread has set up is done. Pairs with the Acquire in `start`.
        self.arrived.fetch_add(1, Release);
        loop {
            // Acquire: pairs with the Release in `start` and `cancel`.
            match self.state.load(Acquire) {
                WAITING => yield_now(),
                state => return state == STARTED,
            }
        }
    }

    /// Waits until `threads` threads have arrived, lets them go and returns the time of the start.
    pub fn start(&self, threads: usize) -> Instant {
        // Acquire: pairs with the Release in `wait`.
        while self.arrived.load(Acquire) < threads {
            yield_now();
        }
        let now = Instant::now();
        // Release: pairs with the Acquire in `wait`.
        self.state.store(STARTED, Release);
        now
    }

    /// Sends the threads home: not all of them could be created.
    pub fn cancel(&self) {
        // Release: pairs with the Acquire in `wait`.
        self.state.store(CANCELLED, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_starts_before_the_clock_and_before_all_have_arrived() {
        let line = StartLine::default();
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..5).map(|_| scope.spawn(|| (line.wait(), Instant::now()))).collect();
            let start = line.start(5);
            for thread in waiting {
                let (started, time) = thread.join().unwrap();
                assert!(started && time >= start);
            }
        });
    }

    #[test]
    fn a_cancelled_start_releases_the_threads() {
        let line = StartLine::default();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| line.wait());
            line.cancel();
            assert!(!thread.join().unwrap());
        });
    }
}
