//! Activity: what a program does that is not idle but has little to do, while its memory may go back.
//!
//! Every few milliseconds, some hundreds of its small blocks are replaced at random. An allocator that
//! gives memory back on its own calls gets its occasions; one that never does shows that.
#![forbid(unsafe_code)]

use hz3_bench_mt_remote::crew::Member;
use hz3_bench_mt_remote::piece::Slots;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Blocks that the activity holds.
const BLOCKS: usize = 500; // chosen
/// Blocks replaced at a time.
const REPLACED: usize = 150; // chosen: 300 calls
const MIN_BYTES: usize = 16;
const MAX_BYTES: usize = 1024;
/// Between two times.
const PAUSE: Duration = Duration::from_millis(5); // chosen

/// How long to wait for memory to go back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wait {
    /// The most.
    pub most: Duration,
    /// Whether the wait ends as soon as the memory has gone.
    pub poll: bool,
}

/// One thread's small blocks.
#[derive(Debug)]
pub struct Activity(Slots);

impl Activity {
    /// No blocks yet.
    ///
    /// # Errors
    /// The kernel's, when it refuses the memory for their places.
    pub fn new() -> io::Result<Self> {
        Slots::new(BLOCKS).map(Self)
    }

    /// Is lightly active until `is_over`, which is asked after each time.
    ///
    /// # Errors
    /// That of `is_over`.
    pub fn go_on(
        &self,
        member: &mut Member<'_>,
        mut is_over: impl FnMut(&mut Member<'_>) -> io::Result<bool>,
    ) -> io::Result<()> {
        loop {
            for _ in 0..REPLACED {
                let index = member.draw(0..BLOCKS);
                if let Some(old) = self.0.take(index) {
                    member.free(old);
                }
                let bytes = member.draw(MIN_BYTES..MAX_BYTES + 1);
                let fresh = member.allocate(bytes);
                self.0.swap(index, fresh);
            }
            sleep(PAUSE);
            if is_over(member)? {
                return Ok(());
            }
        }
    }

    /// Is lightly active for as long as `wait` says; `has_gone` tells whether the memory has gone back.
    ///
    /// # Errors
    /// That of `has_gone`.
    pub fn wait(
        &self,
        member: &mut Member<'_>,
        wait: Wait,
        mut has_gone: impl FnMut(&Member<'_>) -> io::Result<bool>,
    ) -> io::Result<()> {
        let start = Instant::now();
        self.go_on(member, |member| Ok(start.elapsed() >= wait.most || wait.poll && has_gone(member)?))
    }

    /// Frees its blocks.
    pub fn end(&self, member: &mut Member<'_>) {
        for index in 0..BLOCKS {
            if let Some(piece) = self.0.take(index) {
                member.free(piece);
            }
        }
    }

    /// Bytes of the places that are resident.
    pub fn resident_bytes(&self) -> usize {
        self.0.resident_bytes()
    }
}
