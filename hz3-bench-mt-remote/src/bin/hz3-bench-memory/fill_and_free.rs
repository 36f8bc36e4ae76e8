//! Fill and free: memory is filled with blocks of one size, all are freed, and little happens after that.
//!
//! The blocks are freed in random order: no allocator can count on the last span to be free first.
//! Then the program is lightly active, as one whose busy hour is over. What is still resident after that,
//! without and then with `malloc_trim(0)`, is held against the peak.
#![forbid(unsafe_code)]

use crate::activity::{Activity, Wait};
use crate::outcome::{Bound, Outcome, megabytes, peak_resident_without, ratio, resident_without};
use crate::trim;
use hz3_bench_mt_remote::crew::{self, Member};
use hz3_bench_mt_remote::piece::{MIN_BYTES, Slots};
use std::io;
use std::sync::Mutex;
use std::time::Duration;

/// Most of the peak that may be resident after the light activity.
const AFTER_LIMIT: f64 = 0.10;
/// Most of it after `malloc_trim(0)`.
const AFTER_TRIM_LIMIT: f64 = 0.05;

/// Arguments of the scenario.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Size of the blocks in bytes, 16 to 268435456
    #[arg(long, value_parser = clap::value_parser!(u32).range(MIN_BYTES as i64..=256 << 20))]
    bytes: u32,
    /// Live blocks' bytes at the peak in MiB, 1 to 1048576
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    total_mb: u32,
    /// Seconds of light activity after the last free
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=3600))]
    seconds: u32,
    /// End the light activity as soon as the bound holds
    #[arg(long)]
    poll: bool,
}

/// What was resident, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Readings {
    peak: u64,
    after: u64,
    /// Absent where the allocator has no `malloc_trim`.
    after_trim: Option<u64>,
    harness: usize,
}

impl Arguments {
    /// The arguments as the first line of the report shows them.
    pub fn shown(&self) -> String {
        let Self { bytes, total_mb, seconds, poll } = self;
        format!("name=fill-and-free bytes={bytes} total_mb={total_mb} seconds={seconds} poll={poll}")
    }

    /// Runs the scenario in one thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn run(&self, seed: u64) -> io::Result<Outcome> {
        let bytes = self.bytes as usize;
        let slots = Slots::new((((self.total_mb as usize) << 20) / bytes).max(1))?;
        let activity = Activity::new()?;
        let wait = Wait { most: Duration::from_secs(self.seconds.into()), poll: self.poll };
        let readings = Mutex::new(Ok(Readings::default()));
        let outcome = crew::run(1, seed, |member| {
            let read = fill_and_free(member, &slots, bytes, &activity, wait);
            *readings.lock().expect("one thread only") = read;
        })?;
        let Readings { peak, after, after_trim, harness } = readings.into_inner().expect("its thread has ended")?;
        let mut bounds = vec![Bound::on_ratio("after", after, peak, AFTER_LIMIT)];
        bounds.extend(after_trim.map(|bytes| Bound::on_ratio("after-trim", bytes, peak, AFTER_TRIM_LIMIT)));
        let trimmed = after_trim.map_or_else(
            || "[TRIM] malloc_trim=absent".to_owned(),
            |bytes| format!("[TRIM] malloc_trim=called resident_mb={:.3}", megabytes(bytes)),
        );
        let lines = vec![
            format!(
                "[RETURN] peak_mb={:.3} after_mb={:.3} after_over_peak={:.4}",
                megabytes(peak),
                megabytes(after),
                ratio(after, peak)
            ),
            trimmed,
        ];
        Ok(Outcome {
            tally: outcome.tally,
            time: outcome.time,
            peak_resident: peak,
            peak_live: outcome.peak_live_bytes,
            harness: harness as u64,
            lines,
            bounds,
        })
    }
}

fn fill_and_free(
    member: &mut Member<'_>,
    slots: &Slots,
    bytes: usize,
    activity: &Activity,
    wait: Wait,
) -> io::Result<Readings> {
    for index in 0..slots.len() {
        let piece = member.allocate(bytes);
        if let Some(piece) = &piece {
            piece.touch_pages();
        }
        slots.swap(index, piece);
    }
    member.sample();
    slots.shuffle(slots.len(), |range| member.draw(range));
    let harness_at_peak = slots.resident_bytes();
    for index in 0..slots.len() {
        if let Some(piece) = slots.take(index) {
            member.free(piece);
        }
    }
    let peak = peak_resident_without(harness_at_peak)?;
    let resident = || resident_without(slots.resident_bytes() + activity.resident_bytes());
    activity.wait(member, wait, |_| Ok(Bound::on_ratio("after", resident()?, peak, AFTER_LIMIT).holds()))?;
    let after = resident()?;
    let after_trim = trim::everything().then(resident).transpose()?;
    activity.end(member);
    Ok(Readings { peak, after, after_trim, harness: harness_at_peak })
}
