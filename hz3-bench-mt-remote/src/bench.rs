//! Bench: one run from its arguments to its result: the threads, what they share, and the clock.
#![forbid(unsafe_code)]

use std::io;
use std::thread::{Builder, ScopedJoinHandle, scope};
use std::time::Duration;

use crate::arguments::{Arguments, Pattern};
use crate::block::{Block, SizeUnit};
use crate::clock::Clock;
use crate::draw::{Choices, Draws};
use crate::latency::{Latencies, Probe, Timed, Untimed};
use crate::live::LiveBytes;
use crate::mapping::Mapping;
use crate::memory::{self, Figure};
use crate::ring::Rings;
use crate::start_line::StartLine;
use crate::worker::{Outcome, Role, Tally, Worker};

/// Stack of each thread: room for a preloaded library's thread-local storage, which comes out of it.
const STACK_BYTES: usize = 1 << 20; // chosen

/// Slots of two threads never share a page.
const SLOTS_PER_PAGE: usize = 4096 / size_of::<Option<Block>>(); // derived: 512

/// What came of a run.
#[derive(Debug)]
pub struct RunResult {
    /// All threads' work.
    pub tally: Tally,
    /// From the common start to the last thread's end, drains included.
    pub time: Duration,
    /// Resident memory and live bytes.
    pub memory: MemoryUse,
    /// Times of single calls, if they were asked for.
    pub latencies: Option<Latencies>,
}

/// Memory figures of a run, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Largest resident size of the process up to the end of the run.
    pub peak_rss: u64,
    /// Resident size before the threads were created.
    pub rss_before: u64,
    /// Largest sum of live blocks' sizes.
    pub peak_live: u64,
    /// Address space of rings, slots and counters.
    pub harness_mapped: u64,
    /// The part of it that was resident at the end of the run.
    pub harness_resident: u64,
}

/// Does the run that `arguments` describe.
///
/// # Errors
/// The kernel's, when it refuses memory for the rings and slots or a thread, or when `/proc` can't be read.
/// A failed allocation of the allocator under test is no error but counted in the tally.
pub fn run(arguments: &Arguments) -> io::Result<RunResult> {
    if arguments.latency { run_probed::<Timed>(arguments) } else { run_probed::<Untimed>(arguments) }
}

fn run_probed<P: Probe>(arguments: &Arguments) -> io::Result<RunResult> {
    let threads = arguments.threads as usize;
    let unit = SizeUnit::for_max(arguments.max);
    let choices = Choices::new(arguments.ws, arguments.min, arguments.max, arguments.target_pct());
    let slots_stride = (arguments.ws as usize).next_multiple_of(SLOTS_PER_PAGE);

    let setting_up = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    let mut slots = Mapping::<Option<Block>>::zeroed(threads * slots_stride)
        .map_err(|error| setting_up("mapping the threads' slots", error))?;
    let mut rings =
        Rings::new(threads, arguments.ring_slots as usize).map_err(|error| setting_up("mapping the rings", error))?;
    let live = LiveBytes::new(threads, unit).map_err(|error| setting_up("mapping the counters", error))?;
    let harness_mapped = slots.mapped_bytes() + rings.mapped_bytes() + live.mapped_bytes();

    // Ring i leads to thread i, from its left neighbour: thread i sends into ring i + 1.
    let (mut senders, receivers): (Vec<_>, Vec<_>) = rings.handles().unzip();
    senders.rotate_left(1);
    let workers: Vec<_> = slots
        .chunks_mut(slots_stride)
        .zip(senders.into_iter().zip(receivers))
        .zip(live.shares().zip(Draws::of_threads(arguments.seed, choices)))
        .enumerate()
        .map(|(index, ((slots, (outbound, inbound)), (share, draws)))| Worker {
            role: role(arguments.pattern, index),
            iters: arguments.iters,
            draws,
            slots: &mut slots[..arguments.ws as usize],
            outbound,
            inbound,
            live: &live,
            share,
            touch: arguments.touch,
            unit,
            probe: P::new(),
            tally: Tally::default(),
            peak_live_bytes: 0,
        })
        .collect();

    let rss_before = memory::of_this_process(Figure::Resident)?;
    let (outcomes, start) = {
        let start_line = StartLine::default();
        scope(|scope| {
            let mut handles = Vec::with_capacity(threads);
            for worker in workers {
                let start_line = &start_line;
                match Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, move || worker.run(start_line)) {
                    Ok(handle) => handles.push(handle),
                    Err(error) => {
                        start_line.cancel();
                        let number = handles.len() + 1;
                        return Err(setting_up(&format!("creating thread {number} of {threads}"), error));
                    }
                }
            }
            let start = start_line.start(threads);
            let outcomes: Vec<Outcome<P>> = handles.into_iter().filter_map(join).collect();
            Ok((outcomes, start))
        })?
    };
    let peak_rss = memory::of_this_process(Figure::PeakResident)?;
    let harness_resident = slots.resident_bytes() + rings.resident_bytes() + live.resident_bytes();

    let mut tally = Tally::default();
    let mut probe = P::new();
    let (mut end, mut peak_live) = (start, 0);
    for outcome in outcomes {
        tally += outcome.tally;
        probe.merge(outcome.probe);
        end = end.max(outcome.end);
        peak_live = peak_live.max(outcome.peak_live_bytes.unsigned_abs());
    }
    Ok(RunResult {
        tally,
        time: end - start,
        memory: MemoryUse {
            peak_rss,
            rss_before,
            peak_live,
            harness_mapped: harness_mapped as u64,
            harness_resident: harness_resident as u64,
        },
        latencies: probe.into_latencies(Clock::measure),
    })
}

/// The part of thread `index`.
fn role(pattern: Pattern, index: usize) -> Role {
    match pattern {
        Pattern::Ring => Role::Exchanger,
        Pattern::Asymmetric if index.is_multiple_of(2) => Role::Producer,
        Pattern::Asymmetric => Role::Consumer,
    }
}

/// A worker's outcome; a panic in it goes on in the caller.
fn join<P>(handle: ScopedJoinHandle<Option<Outcome<P>>>) -> Option<Outcome<P>> {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Touch;

    fn arguments(threads: u32, remote_pct: u32, pattern: Pattern) -> Arguments {
        Arguments {
            threads,
            iters: 20_000,
            ws: 100,
            min: 16,
            max: 2048,
            remote_pct,
            ring_slots: 65_536,
            seed: 3,
            touch: Touch::Ends,
            latency: false,
            pattern,
        }
    }

    #[test]
    fn every_block_is_freed_once_and_every_sent_block_received() {
        for (threads, pattern) in [(1, Pattern::Ring), (3, Pattern::Ring), (4, Pattern::Asymmetric)] {
            let tally = run(&arguments(threads, 50, pattern)).unwrap().tally;
            assert_eq!(tally.mallocs, tally.frees(), "{tally:?}");
            assert_eq!(tally.sent, tally.received, "{tally:?}");
            assert_eq!(tally.failed, 0);
        }
    }

    #[test]
    fn each_iteration_is_one_malloc_or_one_release() {
        let tally = run(&arguments(3, 50, Pattern::Ring)).unwrap().tally;
        assert_eq!(tally.mallocs + tally.local + tally.sent + tally.fallbacks, 3 * 20_000);
    }

    #[test]
    fn the_remote_share_is_the_one_asked_for() {
        let tally = run(&arguments(2, 30, Pattern::Ring)).unwrap().tally;
        let share = tally.sent as f64 / (tally.sent + tally.local) as f64;
        assert!((share - 0.3).abs() < 0.02, "{tally:?}");
        assert_eq!(run(&arguments(1, 30, Pattern::Ring)).unwrap().tally.sent, 0);
    }

    #[test]
    fn a_full_ring_is_counted_as_fallback_and_nothing_is_lost() {
        let mut arguments = arguments(2, 100, Pattern::Ring);
        arguments.ring_slots = 1;
        let tally = run(&arguments).unwrap().tally;
        assert!(tally.fallbacks > 0, "{tally:?}");
        assert_eq!((tally.mallocs, tally.sent), (tally.frees(), tally.received));
    }

    #[test]
    fn only_the_even_threads_of_the_asymmetric_pattern_iterate_and_all_is_sent() {
        let tally = run(&arguments(4, 0, Pattern::Asymmetric)).unwrap().tally;
        assert_eq!((tally.local, tally.cleared), (0, 0));
        assert_eq!(tally.mallocs, tally.sent + tally.fallbacks);
        assert!((15_000..=20_000 + 200).contains(&tally.mallocs), "{tally:?}");
    }

    #[test]
    fn equal_seeds_do_equal_work() {
        let first = run(&arguments(2, 50, Pattern::Ring)).unwrap().tally;
        assert_eq!(first, run(&arguments(2, 50, Pattern::Ring)).unwrap().tally);
    }

    #[test]
    fn peak_live_bytes_are_those_of_the_occupied_slots() {
        let mut arguments = arguments(1, 0, Pattern::Ring);
        (arguments.ws, arguments.min, arguments.max) = (1000, 1024, 1024);
        let peak = run(&arguments).unwrap().memory.peak_live;
        // Half of the slots are occupied on average; the peak lies a few deviations of 16 above.
        assert!((500 * 1024..600 * 1024).contains(&peak), "{peak}");
    }
}
