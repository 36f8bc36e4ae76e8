//! Fault outcome: what became of a fault of memory, told by how the process ended.

use nix::sys::signal::Signal;

/// What the program's exit statuses mean; they stand at the top of misuse_cases.c.
const EXIT_TWICE: i32 = 3;
const EXIT_CHANGED: i32 = 4;
const EXIT_NOT_OFFERED: i32 = 77;

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// SIGABRT and a message.
    Caught,
    /// Another signal, or SIGABRT without a word.
    Crash,
    /// An address was served twice at a time.
    Twice,
    /// A block that was taken afterwards did not keep its bytes.
    Changed,
    /// A message, and the program went on.
    Warned,
    /// Nothing.
    Silent,
    /// No end within the time limit.
    Hang,
    /// The allocator has not got the function.
    NotOffered,
}

impl Outcome {
    /// Its word in the table.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Caught => "caught",
            Outcome::Crash => "crash",
            Outcome::Twice => "twice",
            Outcome::Changed => "changed",
            Outcome::Warned => "warned",
            Outcome::Silent => "silent",
            Outcome::Hang => "hang",
            Outcome::NotOffered => "–",
        }
    }

    /// `code` or `signal` is how the process ended; `None` for what is no answer of the allocator.
    pub fn of(code: Option<i32>, signal: Option<i32>, has_message: bool) -> Option<Outcome> {
        match (code, signal) {
            (None, Some(signal)) if signal == Signal::SIGABRT as i32 && has_message => Some(Outcome::Caught),
            (None, Some(_)) => Some(Outcome::Crash),
            (Some(0), None) if has_message => Some(Outcome::Warned),
            (Some(0), None) => Some(Outcome::Silent),
            (Some(EXIT_TWICE), None) => Some(Outcome::Twice),
            (Some(EXIT_CHANGED), None) => Some(Outcome::Changed),
            (Some(EXIT_NOT_OFFERED), None) => Some(Outcome::NotOffered),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abort_without_a_message_is_a_crash_and_a_failure_of_the_program_is_no_outcome() {
        let abort = Some(Signal::SIGABRT as i32);
        assert_eq!(Outcome::of(None, abort, true), Some(Outcome::Caught));
        assert_eq!(Outcome::of(None, abort, false), Some(Outcome::Crash));
        assert_eq!(Outcome::of(None, Some(Signal::SIGSEGV as i32), true), Some(Outcome::Crash));
        assert_eq!(Outcome::of(Some(EXIT_TWICE), None, false), Some(Outcome::Twice));
        assert_eq!(Outcome::of(Some(0), None, true), Some(Outcome::Warned));
        assert_eq!(Outcome::of(Some(1), None, true), None);
    }
}
