//! Schedule: the order of the runs, and how long the rest of them will take.
//!
//! Rows run one after the other; within a row the rounds are interleaved (A B C, A B C, …), so that
//! what slows the machine for a while slows every allocator alike.

use hz3::record::{Row, Run};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// One run that is still to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// The row's id.
    pub row: String,
    /// The allocator's name.
    pub allocator: String,
    /// 0 for the warm-up round, then 1 to the number of counted rounds.
    pub round: u32,
}

/// The runs that are still to do, in their order, with what is known about their length.
pub struct Schedule {
    steps: std::collections::VecDeque<Step>,
    durations: HashMap<(String, String), (Duration, u32)>,
    guesses: HashMap<String, f64>,
}

/// How long one iteration of the benchmark takes where nothing has been measured yet.
const SECONDS_PER_ITERATION: f64 = 60e-9;

/// How long a run takes where nothing at all is known.
const SECONDS_PER_RUN: f64 = 2.0;

impl Schedule {
    /// The runs of `rows` × rounds × `allocators` that are not among `done`.
    pub fn new(rows: &[Row], rounds: u32, allocators: &[String], done: &[Run]) -> Schedule {
        let done: HashSet<Step> = done
            .iter()
            .map(|run| Step { row: run.row.clone(), allocator: run.allocator.clone(), round: run.round })
            .collect();
        let mut steps = std::collections::VecDeque::new();
        for row in rows {
            for round in 0..=rounds {
                for allocator in allocators {
                    let step = Step { row: row.id.clone(), allocator: allocator.clone(), round };
                    if !done.contains(&step) {
                        steps.push_back(step);
                    }
                }
            }
        }
        let guess = |row: &Row| {
            let iterations = row.arguments.as_ref().map(hz3::record::row::Arguments::total_iterations);
            iterations.map_or(SECONDS_PER_RUN, |iterations| iterations * SECONDS_PER_ITERATION)
        };
        let guesses = rows.iter().map(|row| (row.id.clone(), guess(row))).collect();
        Schedule { steps, durations: HashMap::new(), guesses }
    }

    /// The next run.
    pub fn next(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// The number of runs that are left.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Takes out every run of one row under one allocator, which has shown that it does not end.
    pub fn give_up(&mut self, row: &str, allocator: &str) {
        self.steps.retain(|step| step.row != row || step.allocator != allocator);
    }

    /// The row of the next run.
    pub fn next_row(&self) -> Option<&str> {
        self.steps.front().map(|step| step.row.as_str())
    }

    /// Notes how long a run took.
    pub fn took(&mut self, step: &Step, duration: Duration) {
        let (sum, count) = self.durations.entry((step.row.clone(), step.allocator.clone())).or_default();
        *sum += duration;
        *count += 1;
    }

    /// The expected time of all runs that are left: what the same pair took so far; else what other
    /// allocators took in the same row; else the row's guess, corrected by how far guesses were off.
    pub fn time_left(&self) -> Duration {
        let mut of_row: HashMap<&str, (f64, f64)> = HashMap::new();
        let (mut measured, mut guessed) = (0.0, 0.0);
        for ((row, _), (sum, count)) in &self.durations {
            let entry = of_row.entry(row).or_default();
            entry.0 += sum.as_secs_f64();
            entry.1 += f64::from(*count);
            measured += sum.as_secs_f64();
            guessed += self.guesses[row] * f64::from(*count);
        }
        let correction = if guessed > 0.0 { measured / guessed } else { 1.0 };
        let seconds = self.steps.iter().map(|step| {
            let pair = self.durations.get(&(step.row.clone(), step.allocator.clone()));
            match (pair, of_row.get(step.row.as_str())) {
                (Some((sum, count)), _) => sum.as_secs_f64() / f64::from(*count),
                (None, Some((sum, count))) => sum / count,
                (None, None) => self.guesses[&step.row] * correction,
            }
        });
        Duration::from_secs_f64(seconds.sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::record::row::remote_matrix;

    fn names() -> Vec<String> {
        vec!["a".to_owned(), "b".to_owned()]
    }

    fn all(mut schedule: Schedule) -> Vec<Step> {
        std::iter::from_fn(|| schedule.next()).collect()
    }

    fn done(step: &Step) -> Run {
        Run { row: step.row.clone(), allocator: step.allocator.clone(), round: step.round, ..Run::default() }
    }

    #[test]
    fn rounds_are_interleaved_within_a_row() {
        let rows = &remote_matrix()[..2];
        let steps = all(Schedule::new(rows, 1, &names(), &[]));
        let order: Vec<_> = steps.iter().map(|step| (&step.row[..], step.round, &step.allocator[..])).collect();
        let of_row = |row| [(row, 0, "a"), (row, 0, "b"), (row, 1, "a"), (row, 1, "b")];
        assert_eq!(order, [of_row("t1-r0"), of_row("t2-r0")].concat());
    }

    #[test]
    fn an_interrupted_schedule_goes_on_with_exactly_the_runs_that_are_missing() {
        let rows = remote_matrix();
        let steps = all(Schedule::new(&rows, 3, &names(), &[]));
        for interruption in [0, 1, 7, steps.len()] {
            let runs: Vec<Run> = steps[..interruption].iter().map(done).collect();
            assert_eq!(all(Schedule::new(&rows, 3, &names(), &runs)), steps[interruption..]);
        }
    }

    #[test]
    fn time_left_follows_the_pair_then_the_row_then_the_guess() {
        let rows = &remote_matrix()[..1];
        let mut schedule = Schedule::new(rows, 1, &names(), &[]);
        let guess = 250_000.0 * SECONDS_PER_ITERATION;
        assert!((schedule.time_left().as_secs_f64() - 4.0 * guess).abs() < 1e-6);
        let first = schedule.next().unwrap();
        schedule.took(&first, Duration::from_secs(3));
        assert!((schedule.time_left().as_secs_f64() - 9.0).abs() < 1e-6);
        let second = schedule.next().unwrap();
        schedule.took(&second, Duration::from_secs(5));
        assert!((schedule.time_left().as_secs_f64() - 8.0).abs() < 1e-6);
    }

    #[test]
    fn a_pair_that_hangs_is_given_up_and_the_others_go_on() {
        let rows = &remote_matrix()[..2];
        let mut schedule = Schedule::new(rows, 2, &names(), &[]);
        schedule.give_up("t1-r0", "a");
        assert_eq!(schedule.len(), 9);
        assert!(all(schedule).iter().all(|step| step.row != "t1-r0" || step.allocator != "a"));
    }
}
