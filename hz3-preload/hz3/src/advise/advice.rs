//! Advice: what the runs of one program say about its best allocator, in one line and a table.

use super::sequential::{MARGIN, Standing};
use crate::lane::Lane;
use crate::record::allocator::SYSTEM;
use crate::record::markdown::{markdown_table, with_spread};
use crate::record::metric::Metric;
use crate::record::results::{Results, Role};
use crate::record::statistics::{Interval, Ratio, median, median_of_ratios, show_ratio};
use anyhow::{Context, Result};

/// One look at the results of one program.
pub struct Look<'a> {
    results: &'a Results,
    row: &'a str,
    /// What each interval may err.
    error: f64,
    /// What all of them together are right with, for the reader.
    confidence: f64,
}

/// What the look says.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// One line.
    pub line: String,
    /// Whether more rounds would hardly change it.
    pub is_settled: bool,
}

/// Two allocators compared.
struct Comparison {
    time: Option<Ratio>,
    memory: Option<Ratio>,
}

impl Comparison {
    fn standing(&self) -> Standing {
        Standing::of(self.time)
    }
}

impl<'a> Look<'a> {
    /// A look at the only row of `results`, with an error for each of its intervals.
    pub fn new(results: &'a Results, error: f64, confidence: f64) -> Result<Look<'a>> {
        let row = &results.header.rows.first().context("there is a row")?.id;
        Ok(Look { results, row, error, confidence })
    }

    /// What is best for the program.
    pub fn advice(&self) -> Advice {
        let Some(lane) = self.subject() else {
            let line = format!("advice: {}: the program does not do its work under hz3", named(SYSTEM));
            return Advice { line, is_settled: true };
        };
        let lane_name = named(lane);
        let system = self.compare(lane, SYSTEM);
        let peer = self.results.best_peer(self.row, Metric::WallSeconds).map(|(peer, _)| peer);
        let against_peer = peer.map(|peer| (peer, self.compare(lane, peer)));
        let peer_standing = against_peer.as_ref().map_or(Standing::Less, |(_, comparison)| comparison.standing());
        let is_settled = system.standing() != Standing::Open && peer_standing != Standing::Open;
        let line = match (&against_peer, system.standing()) {
            (Some((peer, comparison)), _)
                if peer_standing == Standing::More && self.compare(peer, SYSTEM).standing() == Standing::Less =>
            {
                let saved = self.faster(inverse(comparison.time), lane);
                format!(
                    "{}: {saved}{}; {lane_name}: {}",
                    named(peer),
                    memory(inverse(comparison.memory), Some(&lane_name)),
                    self.against_system(&system)
                )
            }
            (_, Standing::Less) => {
                format!("{lane_name}: {}{}", self.against_system(&system), self.peer_clause(against_peer.as_ref()))
            }
            (_, Standing::Same) if Standing::of(system.memory) == Standing::Less => format!(
                "{lane_name}, for its memory: {}{}",
                self.against_system(&system),
                self.peer_clause(against_peer.as_ref())
            ),
            (_, Standing::Open) => format!(
                "UNDECIDED: {lane_name}: {}{}",
                self.against_system(&system),
                self.peer_clause(against_peer.as_ref())
            ),
            (_, Standing::Same | Standing::More) => {
                format!("{}: {lane_name} is {}", named(SYSTEM), self.against_system(&system))
            }
        };
        Advice { line: format!("advice: {line}"), is_settled }
    }

    /// The lane that is spoken of: scale, unless fast is clearly faster or alone.
    fn subject(&self) -> Option<&'static str> {
        let (fast, scale) = (Lane::Fast.name(), Lane::Scale.name());
        let has = |lane: &str| !self.results.values(self.row, lane, Metric::WallSeconds).is_empty();
        match (has(scale), has(fast)) {
            (true, true) if self.compare(fast, scale).standing() == Standing::Less => Some(fast),
            (true, _) => Some(scale),
            (false, true) => Some(fast),
            (false, false) => None,
        }
    }

    fn compare(&self, first: &str, second: &str) -> Comparison {
        let ratio = |metric| median_of_ratios(&self.results.pairs(self.row, first, second, metric), self.error);
        Comparison { time: ratio(Metric::WallSeconds), memory: ratio(Metric::PeakRss) }
    }

    fn against_system(&self, comparison: &Comparison) -> String {
        let time = match comparison.standing() {
            Standing::Less => self.faster(comparison.time, SYSTEM),
            Standing::More => self.slower(comparison.time, SYSTEM),
            Standing::Same => format!("within {:.0} % of {} in time", MARGIN * 100.0, named(SYSTEM)),
            Standing::Open => match comparison.time {
                Some(Ratio { interval: Some(Interval { low, high }), .. }) => {
                    format!("within noise of {}, {low:.2}–{high:.2} times its time ({})", named(SYSTEM), self.percent())
                }
                _ => format!("too few rounds against {}", named(SYSTEM)),
            },
        };
        format!("{time}{}", memory(comparison.memory, None))
    }

    fn peer_clause(&self, against: Option<&(&str, Comparison)>) -> String {
        let Some((peer, comparison)) = against else { return String::new() };
        let words = match comparison.standing() {
            Standing::Less => self.faster(comparison.time, peer) + ", the fastest other one",
            Standing::More => self.slower(comparison.time, peer),
            Standing::Same => format!("within {:.0} % of {}", MARGIN * 100.0, named(peer)),
            Standing::Open if comparison.time.is_none_or(|ratio| ratio.interval.is_none()) => {
                format!("too few rounds against {}", named(peer))
            }
            Standing::Open => format!("within noise of {}", named(peer)),
        };
        format!("; {words}")
    }

    fn faster(&self, time: Option<Ratio>, than: &str) -> String {
        self.more(inverse(time), "faster", "as fast as", than)
    }

    fn slower(&self, time: Option<Ratio>, than: &str) -> String {
        self.more(time, "slower", "as slow as", than)
    }

    /// `ratio`, above 1, in words: `12 % faster than …`, from a factor of 2 on `2.50 times as fast as …`.
    fn more(&self, ratio: Option<Ratio>, comparative: &str, positive: &str, than: &str) -> String {
        let Some(Ratio { estimate, interval }) = ratio else { return format!("no pair of runs with {}", named(than)) };
        let Interval { low, high } = interval.unwrap_or(Interval { low: estimate, high: estimate });
        let (than, percent) = (named(than), self.percent());
        if estimate < 2.0 {
            let of = |ratio: f64| (ratio - 1.0) * 100.0;
            let digits = usize::from(of(estimate) < 10.0);
            let (estimate, low, high) = (of(estimate), of(low), of(high));
            format!("{estimate:.digits$} % {comparative} than {than} ({percent}: {low:.digits$}–{high:.digits$} %)")
        } else {
            format!("{estimate:.2} times {positive} {than} ({percent}: {low:.2}–{high:.2})")
        }
    }

    fn percent(&self) -> String {
        // 0.999 is 99.9 %, and 0.95 must not become 95.00000000000001 %.
        let percent = (self.confidence * 1e5).round() / 1e3;
        format!("{percent} %")
    }

    /// A line per allocator, with its ratios to the system's malloc.
    pub fn table(&self) -> String {
        let (time, memory) = (Metric::WallSeconds, Metric::PeakRss);
        let over_system = "÷ system".to_owned();
        let header = [
            "allocator".to_owned(),
            time.label(),
            over_system.clone(),
            Metric::CpuSeconds.label(),
            memory.label(),
            over_system,
            "runs".to_owned(),
        ];
        let rows = self.results.header.allocators.iter().map(|record| {
            let name = record.name.as_str();
            let figure = |metric| {
                let values = self.results.values(self.row, name, metric);
                median(&values).map_or_else(absent, |median| with_spread(metric, median, &values))
            };
            let comparison = self.compare(name, SYSTEM);
            let ratio = |ratio: Option<Ratio>| match ratio {
                Some(ratio) if record.role != Role::System => show_ratio(ratio),
                _ => absent(),
            };
            vec![
                name.to_owned(),
                figure(time),
                ratio(comparison.time),
                figure(Metric::CpuSeconds),
                figure(memory),
                ratio(comparison.memory),
                self.results.values(self.row, name, time).len().to_string(),
            ]
        });
        markdown_table(&header, rows)
    }
}

/// Peak memory in words; nothing where it was too small to be measured.
fn memory(ratio: Option<Ratio>, of: Option<&str>) -> String {
    let of = of.map_or_else(String::new, |name| format!(" that of {name}"));
    match ratio {
        Some(Ratio { estimate, interval: Some(Interval { low, high }) }) => {
            format!(", peak memory {estimate:.2} times{of} ({low:.2}–{high:.2})")
        }
        Some(Ratio { estimate, interval: None }) => format!(", peak memory {estimate:.2} times{of}"),
        None => ", peak memory too small to measure".to_owned(),
    }
}

fn inverse(ratio: Option<Ratio>) -> Option<Ratio> {
    ratio.map(|Ratio { estimate, interval }| Ratio {
        estimate: 1.0 / estimate,
        interval: interval.map(|Interval { low, high }| Interval { low: 1.0 / high, high: 1.0 / low }),
    })
}

/// An allocator in a sentence.
fn named(name: &str) -> String {
    match name {
        SYSTEM => "the system malloc".to_owned(),
        _ if Lane::ALL.iter().any(|lane| lane.name() == name) => format!("{name} lane"),
        _ => name.to_owned(),
    }
}

fn absent() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::results::synthetic::synthetic;
    use crate::record::run::ProcessFigures;

    const FIELD: [(&str, Role); 4] =
        [("fast", Role::Lane), ("scale", Role::Lane), (SYSTEM, Role::System), ("jemalloc", Role::Peer)];

    /// What is said of a program whose time (s) and peak memory (MB) under each allocator of [`FIELD`] are
    /// given, each run off by up to half of `noise`.
    fn advice(figures: [(f64, f64); 4], noise: f64) -> Advice {
        advice_after(24, figures, noise)
    }

    fn advice_after(rounds: u32, figures: [(f64, f64); 4], noise: f64) -> Advice {
        let mut results = synthetic(&FIELD, rounds, |_, _, _| (1.0, 1.0));
        results.header.rows.truncate(1);
        let row = results.header.rows[0].id.clone();
        results.runs.retain(|run| run.row == row);
        for (index, run) in results.runs.iter_mut().enumerate() {
            let place = FIELD.iter().position(|(name, _)| *name == run.allocator).unwrap();
            let (time, memory) = figures[place];
            let off = 1.0 + noise * (index as f64 * 0.618).fract() - noise / 2.0;
            run.process = Some(ProcessFigures {
                wall_seconds: time * off,
                peak_rss_mb: Some(memory),
                ..ProcessFigures::default()
            });
        }
        Look::new(&results, 0.001, 0.95).unwrap().advice()
    }

    #[test]
    fn a_faster_lane_is_advised_with_its_interval_and_its_memory() {
        let advice = advice([(0.90, 20.0), (0.89, 18.6), (1.0, 20.0), (0.89, 21.0)], 0.001);
        let expected = "advice: scale lane: 12 % faster than the system malloc (95 %: 12–12 %), peak memory 0.93 times \
                        (0.93–0.93); within 2 % of jemalloc";
        assert_eq!(advice, Advice { line: expected.to_owned(), is_settled: true });
    }

    #[test]
    fn the_fast_lane_is_spoken_of_only_where_it_is_clearly_faster() {
        let line = advice([(0.40, 20.0), (0.50, 20.0), (1.0, 20.0), (0.9, 20.0)], 0.001).line;
        assert!(line.starts_with("advice: fast lane: 2.50 times as fast as the system malloc"), "{line}");
        assert!(line.contains("2.25 times as fast as jemalloc (95 %: 2.25–2.25), the fastest other one"), "{line}");
    }

    #[test]
    fn a_faster_peer_is_advised_honestly() {
        let line = advice([(0.90, 20.0), (0.90, 20.0), (1.0, 20.0), (0.75, 30.0)], 0.001).line;
        assert!(line.starts_with("advice: jemalloc: 20 % faster than scale lane"), "{line}");
        assert!(line.contains("peak memory 1.50 times that of scale lane"), "{line}");
        assert!(line.contains("scale lane: 11 % faster than the system malloc"), "{line}");
    }

    #[test]
    fn no_gain_means_the_system_malloc_unless_memory_is_saved() {
        let equal = advice([(1.0, 20.0), (1.0, 20.0), (1.0, 20.0), (1.0, 20.0)], 0.001);
        assert!(equal.is_settled);
        let expected = "advice: the system malloc: scale lane is within 2 % of the system malloc in time, peak memory \
                        1.00 times (1.00–1.00)";
        assert_eq!(equal.line, expected);
        let slower = advice([(1.1, 20.0), (1.1, 20.0), (1.0, 20.0), (1.2, 20.0)], 0.001).line;
        assert!(slower.starts_with("advice: the system malloc: scale lane is 10 % slower than"), "{slower}");
        let smaller = advice([(1.0, 15.0), (1.0, 15.0), (1.0, 20.0), (1.0, 20.0)], 0.001).line;
        assert!(smaller.starts_with("advice: scale lane, for its memory: within 2 %"), "{smaller}");
    }

    #[test]
    fn noise_that_covers_the_difference_is_undecided_and_not_settled() {
        let advice = advice([(0.98, 20.0), (0.98, 20.0), (1.0, 20.0), (0.9, 20.0)], 0.5);
        assert!(!advice.is_settled);
        let expected = "advice: UNDECIDED: scale lane: within noise of the system malloc, 0.";
        assert!(advice.line.starts_with(expected), "{}", advice.line);
    }

    #[test]
    fn too_few_rounds_are_called_so_however_clear_they_look() {
        let advice = advice_after(3, [(0.5, 20.0), (0.5, 20.0), (1.0, 20.0), (0.9, 20.0)], 0.001);
        assert!(!advice.is_settled);
        let expected = "advice: UNDECIDED: scale lane: too few rounds against the system malloc, peak memory 1.00 \
                        times; too few rounds against jemalloc";
        assert_eq!(advice.line, expected);
    }
}
