//! Arguments: what one run does, as read from the command line.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fmt;

/// The name under which the program introduces itself, in its output and its error messages.
pub const NAME: &str = "bench_random_mixed_mt_remote_malloc";

use clap::error::ErrorKind;
use clap::{Parser, ValueEnum};

/// Largest accepted `ring_slots`; a ring of that size maps 1 GiB of address space.
pub const RING_SLOTS_MAX: u64 = 1 << 27;

/// Which bytes of a fresh block are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Touch {
    /// None: the allocator's own work alone.
    None,
    /// The first and the last byte: each block costs the cache lines and pages of its two ends.
    Ends,
    /// Every byte.
    All,
}

/// Who allocates and who frees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    /// Every thread allocates, frees, and sends to its right neighbour.
    Ring,
    /// Threads 0, 2, 4 … allocate and send every block to threads 1, 3, 5 …, which only free.
    Asymmetric,
}

/// The command line.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(
    name = NAME,
    version,
    about = "Measures the malloc and free that serve this process, under cross-thread frees",
    after_help = "Measure another allocator by running the program with LD_PRELOAD=<its library>."
)]
pub struct Arguments {
    /// Number of threads, 1 to 10000
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub threads: u32,
    /// Iterations of each thread, at least 1
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 48))]
    pub iters: u64,
    /// Slots of each thread (its working set in blocks), at least 1
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    pub ws: u32,
    /// Smallest block in bytes, at least 1
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub min: u32,
    /// Largest block in bytes, at least <MIN>, below 4 GiB
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub max: u32,
    /// Share of the frees that another thread does, in percent; every free with --pattern asymmetric
    #[arg(value_parser = clap::value_parser!(u32).range(0..=100))]
    pub remote_pct: u32,
    /// Messages that a ring between two threads holds, a power of two up to 134217728
    #[arg(default_value_t = 65_536, value_parser = clap::value_parser!(u64).range(1..=RING_SLOTS_MAX))]
    pub ring_slots: u64,
    /// Seed of all random choices; equal seeds make equal choices
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Bytes of each fresh block that are written
    #[arg(long, value_enum, default_value_t = Touch::Ends)]
    pub touch: Touch,
    /// Times every single malloc and free and prints percentiles; ops/s is lower in such a run
    #[arg(long)]
    pub latency: bool,
    /// Who allocates and who frees
    #[arg(long, value_enum, default_value_t = Pattern::Ring)]
    pub pattern: Pattern,
}

/// Why no run follows from a command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `--help` or `--version`: the text to print.
    Shown(String),
    /// A bad argument: one line that names it.
    Wrong(String),
}

impl Arguments {
    /// Reads a command line, whose first word is the program's own name.
    ///
    /// # Errors
    /// [`Refusal::Wrong`] for an argument that is missing, unknown or out of its range, for `min` above
    /// `max`, for ring slots that are no power of two, and for an odd number of threads where the
    /// pattern needs pairs.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, Refusal> {
        let arguments = Self::try_parse_from(words).map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Refusal::Shown(error.to_string()),
            _ => Refusal::Wrong(first_paragraph(&error.to_string())),
        })?;
        arguments.check().map_err(Refusal::Wrong)?;
        Ok(arguments)
    }

    /// Rules between arguments, which the parser cannot know.
    fn check(&self) -> Result<(), String> {
        if self.min > self.max {
            return Err(format!("<MIN> ({}) is above <MAX> ({})", self.min, self.max));
        }
        if !self.ring_slots.is_power_of_two() {
            return Err(format!("[RING_SLOTS] ({}) is not a power of two", self.ring_slots));
        }
        if self.pattern == Pattern::Asymmetric && !self.threads.is_multiple_of(2) {
            return Err(format!("--pattern asymmetric needs an even number of <THREADS>, not {}", self.threads));
        }
        Ok(())
    }

    /// The share of frees that the threads try to make remote, in percent: 0 with a single thread, which
    /// has no neighbour.
    pub fn target_pct(&self) -> u32 {
        match self.pattern {
            Pattern::Asymmetric => 100,
            Pattern::Ring if self.threads == 1 => 0,
            Pattern::Ring => self.remote_pct,
        }
    }
}

/// The parser's messages explain themselves in a first paragraph, which may list names line by line, and
/// go on with usage; only the first fits the rule of one line per error.
pub fn first_paragraph(message: &str) -> String {
    let paragraph = message.split("\n\n").next().unwrap_or_default();
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").map_or(line.clone(), str::to_owned)
}

impl fmt::Display for Touch {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(match self {
            Self::None => "none",
            Self::Ends => "ends",
            Self::All => "all",
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(match self {
            Self::Ring => "ring",
            Self::Asymmetric => "asymmetric",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Arguments, Refusal> {
        Arguments::read(std::iter::once("bench").chain(line.split_whitespace()).map(OsString::from))
    }

    fn wrong(line: &str) -> String {
        match read(line) {
            Err(Refusal::Wrong(message)) => message,
            other => panic!("{line:?} gave {other:?}"),
        }
    }

    #[test]
    fn the_documented_command_line_is_read_in_its_order() {
        let arguments = read("32 250000 400 16 2048 50 4096").unwrap();
        assert_eq!(
            arguments,
            Arguments {
                threads: 32,
                iters: 250_000,
                ws: 400,
                min: 16,
                max: 2048,
                remote_pct: 50,
                ring_slots: 4096,
                seed: 1,
                touch: Touch::Ends,
                latency: false,
                pattern: Pattern::Ring,
            }
        );
    }

    #[test]
    fn ring_slots_default_to_65536() {
        assert_eq!(read("1 1 1 1 1 0").unwrap().ring_slots, 65_536);
    }

    #[test]
    fn options_may_stand_before_and_after_the_numbers() {
        let arguments = read("--touch all 2 1 1 1 1 0 --latency --seed 9 --pattern asymmetric").unwrap();
        assert_eq!(
            (arguments.touch, arguments.latency, arguments.seed, arguments.pattern),
            (Touch::All, true, 9, Pattern::Asymmetric)
        );
    }

    #[test]
    fn every_wrong_argument_is_named_in_one_line() {
        for (line, part) in [
            ("", "<THREADS>"),
            ("1 1 1 1 1", "<REMOTE_PCT>"),
            ("0 1 1 1 1 0", "<THREADS>"),
            ("1 0 1 1 1 0", "<ITERS>"),
            ("1 1 0 1 1 0", "<WS>"),
            ("1 1 1 0 1 0", "<MIN>"),
            ("1 1 1 2 1 0", "<MIN> (2) is above <MAX> (1)"),
            ("1 1 1 1 4294967296 0", "<MAX>"),
            ("1 1 1 1 1 101", "<REMOTE_PCT>"),
            ("1 1 1 1 1 x", "'x'"),
            ("1 1 1 1 1 0 0", "[RING_SLOTS]"),
            ("1 1 1 1 1 0 3", "(3) is not a power of two"),
            ("1 1 1 1 1 0 8 9", "'9'"),
            ("1 1 1 1 1 0 --tuoch all", "--tuoch"),
            ("1 1 1 1 1 0 --touch some", "some"),
            ("3 1 1 1 1 0 --pattern asymmetric", "even number of <THREADS>, not 3"),
        ] {
            let message = wrong(line);
            assert!(message.contains(part), "{line:?} gave {message:?}, which lacks {part:?}");
            assert!(!message.contains('\n') && !message.starts_with("error"), "{message:?}");
        }
    }

    #[test]
    fn help_and_version_are_no_errors() {
        for option in ["--help", "--version"] {
            let Err(Refusal::Shown(text)) = read(option) else { panic!("{option} was not shown") };
            assert!(text.contains(NAME) || text.contains("Usage"), "{text}");
        }
    }

    #[test]
    fn the_target_is_what_the_threads_can_do() {
        assert_eq!(read("1 1 1 1 1 50").unwrap().target_pct(), 0);
        assert_eq!(read("2 1 1 1 1 50").unwrap().target_pct(), 50);
        assert_eq!(read("2 1 1 1 1 50 --pattern asymmetric").unwrap().target_pct(), 100);
    }
}
