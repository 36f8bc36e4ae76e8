//! Phases: a program whose sizes drift, and whose old blocks go while the new ones come.
//!
//! ```text
//!   phase      strings   nodes   mixed   …   large   …   strings
//!   live set   ▁▁▁▁▁▁▁▁▁▃▃▃▃▃▃▃▅▅▅▅▅▅▅▅▇▇▇▇▇▇▇▇▇▃▃▃▃▁▁▁▁▁▁▁▁     rest (one decay) after each
//! ```
//!
//! Each thread builds its part of the phase's live set, and meanwhile frees, in random order, what its
//! neighbour built in the phase before: memory of one size must become memory of another, across
//! threads. After each phase the threads are lightly active for as long as memory is allowed to take to
//! go back; then resident memory is held against live memory.
#![forbid(unsafe_code)]

use crate::activity::{Activity, Wait};
use crate::outcome::{Bound, Outcome, megabytes, peak_resident_without, ratio, resident_without};
use hz3_bench_mt_remote::crew::{self, Member};
use hz3_bench_mt_remote::piece::{MIN_BYTES, Slots};
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Barrier, Mutex};
use std::time::Duration;

/// Most resident memory at the end of a phase, in live memory.
const LIMIT: f64 = 1.5;

/// Sizes that occur in a phase: so many in a hundred blocks are of `min` to `max` bytes.
struct Sizes {
    percent: usize,
    min: usize,
    max: usize,
}

/// A phase.
struct Phase {
    name: &'static str,
    /// Its live set, in quarters of the largest one.
    quarters: usize,
    sizes: &'static [Sizes],
}

const fn sizes(percent: usize, min: usize, max: usize) -> Sizes {
    Sizes { percent, min, max }
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The trace. Chosen: from small to large and back, with mixtures in between, as a program that reads,
/// works and writes.
const PHASES: [Phase; 10] = [
    Phase { name: "strings", quarters: 1, sizes: &[sizes(100, 16, 64)] },
    Phase { name: "nodes", quarters: 2, sizes: &[sizes(100, 64, 256)] },
    Phase { name: "strings-and-pages", quarters: 3, sizes: &[sizes(95, 16, 128), sizes(5, 4 * KIB, 16 * KIB)] },
    Phase { name: "records", quarters: 2, sizes: &[sizes(100, 256, 2 * KIB)] },
    Phase { name: "buffers", quarters: 4, sizes: &[sizes(100, 10 * KIB, 64 * KIB)] },
    Phase { name: "images", quarters: 4, sizes: &[sizes(100, 100 * KIB, 800 * KIB)] },
    Phase { name: "tables", quarters: 3, sizes: &[sizes(100, MIB, 4 * MIB)] },
    Phase {
        name: "everything",
        quarters: 3,
        sizes: &[sizes(85, 64, KIB), sizes(12, 4 * KIB, 64 * KIB), sizes(3, 128 * KIB, MIB)],
    },
    Phase { name: "nodes-and-records", quarters: 2, sizes: &[sizes(90, 16, 256), sizes(10, KIB, 8 * KIB)] },
    Phase { name: "strings-again", quarters: 1, sizes: &[sizes(100, 16, 128)] },
];

/// Arguments of the scenario.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// The largest phase's live set in MiB, 16 to 1048576
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=1 << 20))]
    total_mb: u32,
    /// Milliseconds of light activity at the end of each phase: one decay
    #[arg(long, default_value_t = 1300, value_parser = clap::value_parser!(u32).range(0..=3_600_000))]
    decay_ms: u32,
    /// End the light activity as soon as the bound holds
    #[arg(long)]
    poll: bool,
    /// Number of threads, 1 to 256
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Phases to go through, 1 to 10
    #[arg(long, default_value_t = PHASES.len() as u32, value_parser = clap::value_parser!(u32).range(1..=PHASES.len() as i64))]
    phases: u32,
}

/// A phase's end.
#[derive(Clone, Copy, Debug)]
struct End {
    live: u64,
    resident: u64,
}

/// One thread's blocks of one phase.
struct Set {
    slots: Slots,
    count: AtomicUsize,
}

/// What the threads share.
struct Stage {
    /// Two sets per thread, used in turn.
    sets: Vec<[Set; 2]>,
    activities: Vec<Activity>,
    barrier: Barrier,
    wait: Wait,
    /// Phases whose end has been read.
    read: AtomicUsize,
    ends: Mutex<io::Result<Vec<End>>>,
}

impl Arguments {
    /// The arguments as the first line of the report shows them.
    pub fn shown(&self) -> String {
        let Self { total_mb, decay_ms, poll, threads, phases } = self;
        format!("name=phases total_mb={total_mb} decay_ms={decay_ms} poll={poll} threads={threads} phases={phases}")
    }

    /// A thread's part of a phase's live set.
    fn target(&self, phase: &Phase) -> usize {
        ((self.total_mb as usize) << 20) * phase.quarters / 4 / self.threads as usize
    }

    /// Runs the scenario.
    ///
    /// # Errors
    /// The kernel's.
    pub fn run(&self, seed: u64) -> io::Result<Outcome> {
        let phases = &PHASES[..self.phases as usize];
        let most_blocks = phases.iter().map(|phase| self.target(phase) / smallest(phase) + 1).max().unwrap_or(1);
        let set = || io::Result::Ok(Set { slots: Slots::new(most_blocks)?, count: AtomicUsize::new(0) });
        let sets: io::Result<Vec<[Set; 2]>> = (0..self.threads).map(|_| Ok([set()?, set()?])).collect();
        let activities: io::Result<Vec<Activity>> = (0..self.threads).map(|_| Activity::new()).collect();
        let stage = Stage {
            sets: sets?,
            activities: activities?,
            barrier: Barrier::new(self.threads as usize),
            wait: Wait { most: Duration::from_millis(self.decay_ms.into()), poll: self.poll },
            read: AtomicUsize::new(0),
            ends: Mutex::new(Ok(Vec::with_capacity(phases.len()))),
        };
        let outcome = crew::run(self.threads, seed, |member| {
            for (number, phase) in phases.iter().enumerate() {
                stage.build(member, number, phase, self.target(phase));
                stage.rest(member, number);
            }
            stage.clear(member, phases.len() - 1);
        })?;
        let harness = stage.harness_bytes();
        let ends = stage.ends.into_inner().expect("the threads have ended")?;
        let ratios = ends.iter().map(|end| ratio(end.resident, end.live));
        let lines = phases.iter().zip(&ends).enumerate().map(|(number, (phase, end))| {
            format!(
                "[PHASE] number={} name={} live_mb={:.3} resident_mb={:.3} rss_over_live={:.4}",
                number + 1,
                phase.name,
                megabytes(end.live),
                megabytes(end.resident),
                ratio(end.resident, end.live)
            )
        });
        Ok(Outcome {
            tally: outcome.tally,
            time: outcome.time,
            peak_resident: peak_resident_without(harness)?,
            peak_live: outcome.peak_live_bytes,
            harness: harness as u64,
            lines: lines.collect(),
            bounds: vec![Bound { name: "phase-end", value: ratios.fold(0.0, f64::max), limit: LIMIT }],
        })
    }
}

fn smallest(phase: &Phase) -> usize {
    phase.sizes.iter().map(|sizes| sizes.min).min().unwrap_or(MIN_BYTES)
}

fn draw_size(member: &mut Member<'_>, phase: &Phase) -> usize {
    let mut percent = member.draw(0..100);
    for sizes in phase.sizes {
        if percent < sizes.percent {
            return member.draw(sizes.min..sizes.max + 1);
        }
        percent -= sizes.percent;
    }
    MIN_BYTES
}

impl Stage {
    /// Builds a thread's part of a phase while it frees its neighbour's part of the phase before.
    fn build(&self, member: &mut Member<'_>, number: usize, phase: &Phase, target: usize) {
        let fresh = &self.sets[member.index][number % 2];
        let old = &self.sets[(member.index + 1) % self.sets.len()][(number + 1) % 2];
        // Relaxed, here and below: a barrier lies between the phases.
        let old_count = old.count.load(Relaxed);
        let (mut built, mut count, mut freed) = (0, 0, 0);
        while built < target {
            let bytes = draw_size(member, phase);
            let piece = member.allocate(bytes);
            if let Some(piece) = &piece {
                piece.touch_pages();
            }
            fresh.slots.swap(count, piece);
            built += bytes;
            count += 1;
            // As large a part of the old set has gone as of the new one is there.
            let due = (old_count as u128 * built.min(target) as u128 / target as u128) as usize;
            for index in freed..due {
                if let Some(piece) = old.slots.take(index) {
                    member.free(piece);
                }
            }
            freed = due;
        }
        fresh.slots.shuffle(count, |range| member.draw(range));
        fresh.count.store(count, Relaxed);
        self.barrier.wait();
    }

    /// Is lightly active until the phase's end has been read, which the first thread does.
    fn rest(&self, member: &mut Member<'_>, number: usize) {
        let activity = &self.activities[member.index];
        if member.index > 0 {
            // Relaxed: the barrier below orders what follows.
            let over = activity.go_on(member, |_| Ok(self.read.load(Relaxed) > number));
            over.expect("nothing was asked of the kernel");
        } else {
            let end = self.read_end(member, activity);
            self.read.store(number + 1, Relaxed);
            let mut ends = self.ends.lock().expect("no thread panics");
            match end {
                Ok(end) => {
                    if let Ok(ends) = &mut *ends {
                        ends.push(end);
                    }
                }
                Err(error) => *ends = Err(error),
            }
        }
        self.barrier.wait();
    }

    fn read_end(&self, member: &mut Member<'_>, activity: &Activity) -> io::Result<End> {
        let harness = self.harness_bytes();
        let end = |member: &Member<'_>| Ok(End { live: member.live_bytes(), resident: resident_without(harness)? });
        activity.wait(member, self.wait, |member| {
            let End { live, resident } = end(member)?;
            Ok(Bound::on_ratio("phase-end", resident, live, LIMIT).holds())
        })?;
        end(member)
    }

    /// Frees everything of this thread's own.
    fn clear(&self, member: &mut Member<'_>, last: usize) {
        let set = &self.sets[member.index][last % 2];
        for index in 0..set.count.load(Relaxed) {
            if let Some(piece) = set.slots.take(index) {
                member.free(piece);
            }
        }
        self.activities[member.index].end(member);
    }

    fn harness_bytes(&self) -> usize {
        let sets = self.sets.iter().flatten().map(|set| set.slots.resident_bytes());
        let activities = self.activities.iter().map(Activity::resident_bytes);
        sets.chain(activities).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_s_shares_add_up_to_all_blocks() {
        for phase in &PHASES {
            assert_eq!(phase.sizes.iter().map(|sizes| sizes.percent).sum::<usize>(), 100, "{}", phase.name);
            assert!(smallest(phase) >= MIN_BYTES && (1..=4).contains(&phase.quarters), "{}", phase.name);
        }
    }
}
