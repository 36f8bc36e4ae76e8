//! Step: one named check of the suite.

use super::session::Session;

/// A check with a name like `program/bash/fast`.
pub struct Step {
    /// What the summary calls it.
    pub name: String,
    /// Its turn: steps of one turn run one after the other, and beside those of others. They neither measure nor wait; where
    /// two turns build in one folder, cargo's lock orders them. Without a turn a step has the machine to itself.
    pub turn: Option<&'static str>,
    /// Whether it runs only where a filter names it: it takes longer than CI has time for.
    pub is_by_hand: bool,
    check: Box<Check>,
}

type Check = dyn Fn(&mut Session) -> Result<(), Stop> + Sync;

/// Why a step has not passed.
#[derive(Debug)]
pub enum Stop {
    /// What is wrong, in as many lines as it takes.
    Failed(String),
    /// What is missing on this machine, in one line.
    Skipped(String),
}

impl Stop {
    /// A failure.
    pub fn failed(reason: impl Into<String>) -> Stop {
        Stop::Failed(reason.into())
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Stop {
        Stop::Failed(format!("{error:#}"))
    }
}

impl Step {
    /// A step that passes when `check` returns `Ok`.
    pub fn new(name: impl Into<String>, check: impl Fn(&mut Session) -> Result<(), Stop> + Sync + 'static) -> Step {
        Step { name: name.into(), turn: None, is_by_hand: false, check: Box::new(check) }
    }

    /// The step, in that turn.
    pub fn in_turn(self, turn: &'static str) -> Step {
        Step { turn: Some(turn), ..self }
    }

    /// The step, which runs only where a filter names it.
    pub fn by_hand(self) -> Step {
        Step { is_by_hand: true, ..self }
    }

    /// Runs the check. In CI nothing may be skipped: there a skipped step has failed.
    pub fn run(&self, session: &mut Session) -> Result<(), Stop> {
        match (self.check)(session) {
            Err(Stop::Skipped(reason)) if in_ci() => {
                Err(Stop::Failed(format!("nothing may be skipped in CI, but: {reason}")))
            }
            outcome => outcome,
        }
    }
}

/// Whether the suite runs in CI (`CI=true`).
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}
