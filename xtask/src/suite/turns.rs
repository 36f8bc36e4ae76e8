//! Turns: the steps that run beside others, and the sessions in which they run.
//!
//! ```text
//! waiting    steps in the order of the suite; the next one is the first whose turn is nobody's
//! idle       the sessions of the turns that are nobody's: whoever takes a step takes its turn's session with it
//! ```
//!
//! A turn has one session, whoever runs its steps: they find the same folders.

use super::session::Session;
use super::step::Step;
use anyhow::Result;
use hz3::process;
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};

/// Sync: shared by those that run the steps.
pub struct Turns<'a> {
    state: Mutex<State<'a>>,
    /// A session has become idle.
    given_back: Condvar,
}

struct State<'a> {
    waiting: Vec<&'a Step>,
    idle: HashMap<&'static str, Session>,
}

impl<'a> Turns<'a> {
    /// Of those steps that have a turn.
    pub fn of(steps: Vec<&'a Step>) -> Result<Turns<'a>> {
        let mut idle = HashMap::new();
        for turn in steps.iter().filter_map(|step| step.turn) {
            if !idle.contains_key(turn) {
                idle.insert(turn, Session::start()?);
            }
        }
        let waiting = steps.into_iter().filter(|step| step.turn.is_some()).collect();
        Ok(Turns { state: Mutex::new(State { waiting, idle }), given_back: Condvar::new() })
    }

    /// The next step and its session, which must be given back. Waits while there are only steps whose turn is somebody's;
    /// `None` when there are none, or after an interrupt.
    pub fn take(&self) -> Option<(&'a Step, Session)> {
        let mut state = self.state();
        while !state.waiting.is_empty() && !process::interrupted() {
            let State { waiting, idle } = &mut *state;
            let free = waiting.iter().position(|step| step.turn.is_some_and(|turn| idle.contains_key(turn)));
            if let Some(free) = free {
                let step = waiting.remove(free);
                let session = step.turn.and_then(|turn| idle.remove(turn));
                return session.map(|session| (step, session));
            }
            state = self.given_back.wait(state).expect("no step runs under the lock");
        }
        None
    }

    /// The step has run.
    pub fn give_back(&self, step: &Step, session: Session) {
        self.state().idle.extend(step.turn.map(|turn| (turn, session)));
        self.given_back.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().expect("no step runs under the lock")
    }
}
