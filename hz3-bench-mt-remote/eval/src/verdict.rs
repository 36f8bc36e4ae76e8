//! Verdict: whether a rule of the evaluation holds in the data: GO, NO-GO, or UNDECIDED.
//!
//! A rule bounds a ratio of medians. It holds when the ratio's whole confidence interval lies inside
//! the bounds, fails when the whole interval lies outside, and is undecided when the interval covers
//! a bound or the data are too few for an interval.

use hz3::record::{FALLBACK_LIMIT_PERCENT, Metric, Ratio, Results, Role, paired_ratio, show_ratio};
use std::fmt;
use std::process::ExitCode;

/// Resident memory a lane may use beyond that of the most frugal peer.
const MEMORY_LIMIT: f64 = 1.10;

/// The decision on one rule or on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// The rule holds.
    Go,
    /// The spread covers the threshold, or there are too few rounds.
    Undecided,
    /// The rule fails.
    NoGo,
}

/// One rule with the data that decide it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Whose rule it is.
    pub origin: Origin,
    /// The rule in words, threshold included.
    pub rule: String,
    /// The data in words.
    pub evidence: String,
    /// What follows.
    pub decision: Decision,
}

/// Whose rule it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The C original's GO rules.
    Original,
    /// This project's floors against the best peer of each row.
    Floor,
}

/// Bounds of a ratio; `None` means unbounded on that side.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    low: Option<f64>,
    high: Option<f64>,
}

/// Speed floors (row, scale, fast) against the best peer of the row; `None` where a lane is not made
/// for the row, so that only the ratio is shown.
const SPEED_FLOORS: [(&str, Option<f64>, Option<f64>); 15] = [
    ("t1-r0", Some(1.05), Some(1.08)),
    ("t2-r0", Some(1.05), Some(1.08)),
    ("t2-r50", Some(1.05), Some(0.90)),
    ("t2-r90", Some(1.05), Some(0.90)),
    ("t8-r0", Some(1.20), Some(1.20)),
    ("t8-r50", Some(1.30), Some(0.90)),
    ("t8-r90", Some(1.60), None),
    ("t32-r0", Some(1.15), Some(1.15)),
    ("t32-r50", Some(1.40), Some(0.80)),
    ("t32-r90", Some(1.50), None),
    ("t8-r50-32k", Some(1.20), None),
    ("t32-r0-32k", Some(1.40), Some(1.40)),
    ("t32-r50-32k", Some(1.20), None),
    ("t2-asym", Some(1.00), None),
    ("t8-asym", Some(1.00), None),
];

impl fmt::Display for Decision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Decision::Go => "GO",
            Decision::Undecided => "UNDECIDED",
            Decision::NoGo => "NO-GO",
        })
    }
}

impl Decision {
    /// The exit code of `--check`: 0 for GO, 1 for NO-GO, 3 for UNDECIDED (2 is for wrong arguments).
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Decision::Go => 0,
            Decision::NoGo => 1,
            Decision::Undecided => 3,
        })
    }
}

impl Bounds {
    const fn at_least(low: f64) -> Bounds {
        Bounds { low: Some(low), high: None }
    }

    const fn at_most(high: f64) -> Bounds {
        Bounds { low: None, high: Some(high) }
    }

    fn decide(self, ratio: Option<Ratio>) -> Decision {
        let Some(interval) = ratio.and_then(|ratio| ratio.interval) else {
            return Decision::Undecided;
        };
        let low = self.low.unwrap_or(f64::NEG_INFINITY);
        let high = self.high.unwrap_or(f64::INFINITY);
        if low <= interval.low && interval.high <= high {
            Decision::Go
        } else if interval.high < low || high < interval.low {
            Decision::NoGo
        } else {
            Decision::Undecided
        }
    }
}

/// The speed floor of a lane in a row.
pub fn speed_floor(row: &str, lane: &str) -> Option<f64> {
    let &(_, scale, fast) = SPEED_FLOORS.iter().find(|(id, ..)| *id == row)?;
    match lane {
        "scale" => scale,
        "fast" => fast,
        _ => None,
    }
}

/// The verdicts on every rule whose row and allocators were part of the measurement.
pub fn judge(results: &Results) -> Vec<Verdict> {
    let mut verdicts = original_rules(results);
    for row in &results.header.rows {
        for lane in results.names(Role::Lane) {
            verdicts.extend(floors(results, &row.id, &row.label, lane));
        }
    }
    verdicts
}

/// The decision on all rules together: one failure fails it, one open rule leaves it open. Without
/// any rule there is nothing to be sure of.
pub fn overall(verdicts: &[Verdict]) -> Decision {
    verdicts.iter().map(|verdict| verdict.decision).max().unwrap_or(Decision::Undecided)
}

fn original_rules(results: &Results) -> Vec<Verdict> {
    let has_row = |id: &str| results.header.rows.iter().any(|row| row.id == id);
    let has = |name: &str| results.header.allocators.iter().any(|record| record.name == name);
    let mut verdicts = Vec::new();
    let mut compare = |row: &str, other: &str, bounds: Bounds, rule: &str| {
        if has_row(row) && has("scale") && has(other) {
            let ratio = paired_ratio(&results.pairs(row, "scale", other, Metric::OpsPerSecond));
            verdicts.push(Verdict {
                origin: Origin::Original,
                rule: rule.to_owned(),
                evidence: format!("scale ÷ {other} = {}", evidence(ratio)),
                decision: bounds.decide(ratio),
            });
        }
    };
    let within_a_tenth = Bounds { low: Some(0.90), high: Some(1.10) };
    compare("t1-r0", "fast", within_a_tenth, "T=1 R=0: scale within ±10 % of fast");
    compare("t8-r50", "fast", Bounds::at_least(1.10), "T=8 R=50: scale at least 10 % above fast");
    compare("t32-r50", "tcmalloc", Bounds::at_least(1.00), "T=32 R=50: scale at least tcmalloc");
    verdicts.extend(low_fallback(results));
    verdicts
}

/// Of the runs of both lanes, none may have fallen back often, and none may be void.
fn low_fallback(results: &Results) -> Option<Verdict> {
    let lanes: Vec<&str> = results.names(Role::Lane).collect();
    let runs: Vec<_> = results.runs.iter().filter(|run| lanes.contains(&run.allocator.as_str())).collect();
    let void = runs.iter().filter(|run| run.void.is_some()).count();
    let highest = runs.iter().filter_map(|run| run.benchmark.as_ref()?.fallback_percent).reduce(f64::max);
    let decision = match highest {
        _ if void > 0 => Decision::NoGo,
        Some(highest) if highest >= FALLBACK_LIMIT_PERCENT => Decision::NoGo,
        Some(_) => Decision::Go,
        None => return None,
    };
    let highest = highest.unwrap_or(0.0);
    Some(Verdict {
        origin: Origin::Original,
        rule: format!("fallback rate below {FALLBACK_LIMIT_PERCENT:.2} %, no void run of a lane"),
        evidence: format!("highest {highest:.3} %, {void} of {} runs void", runs.len()),
        decision,
    })
}

fn floors(results: &Results, row: &str, label: &str, lane: &str) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let mut compare = |metric: Metric, bounds: Bounds, rule: String| {
        if let Some((peer, _)) = results.best_peer(row, metric) {
            let ratio = paired_ratio(&results.pairs(row, lane, peer, metric));
            verdicts.push(Verdict {
                origin: Origin::Floor,
                rule,
                evidence: format!("÷ {peer} = {}", evidence(ratio)),
                decision: bounds.decide(ratio),
            });
        }
    };
    if let Some(floor) = speed_floor(row, lane) {
        let rule = format!("{label}: {lane} at least {floor:.2} × the fastest peer");
        compare(Metric::OpsPerSecond, Bounds::at_least(floor), rule);
        let rule = format!("{label}: {lane} at most {MEMORY_LIMIT:.2} × the smallest peer's resident ÷ live");
        compare(Metric::RssOverLive, Bounds::at_most(MEMORY_LIMIT), rule);
    }
    verdicts
}

fn evidence(ratio: Option<Ratio>) -> String {
    ratio.map_or_else(|| "no valid rounds".to_owned(), show_ratio)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::record::results::synthetic::synthetic;

    const FIELD: [(&str, Role); 5] = [
        ("fast", Role::Lane),
        ("scale", Role::Lane),
        ("system", Role::System),
        ("tcmalloc", Role::Peer),
        ("jemalloc", Role::Peer),
    ];

    /// Results in which the lanes run at `fast` and `scale` times the fastest peer, each round off
    /// by up to `spread` either way, the lanes in the opposite sense to the peers.
    fn field(fast: f64, scale: f64, memory: f64, spread: f64) -> Results {
        synthetic(&FIELD, 12, |_, name, round| {
            let noise = 1.0 + spread * (f64::from(round * 5 % 12) - 5.5) / 5.5;
            match name {
                "fast" => (1e8 * fast * noise, memory),
                "scale" => (1e8 * scale * noise, memory),
                "system" => (2e7, 1.01),
                "tcmalloc" => (1e8 / noise, 1.2),
                _ => (9e7 / noise, 1.3),
            }
        })
    }

    fn decision(results: &Results, part: &str) -> Decision {
        let verdicts = judge(results);
        let found: Vec<_> = verdicts.iter().filter(|verdict| verdict.rule.contains(part)).collect();
        assert_eq!(found.len(), 1, "{part}: {found:?}");
        found[0].decision
    }

    #[test]
    fn clear_leads_are_go() {
        let results = field(1.6, 2.0, 1.25, 0.01);
        assert_eq!(decision(&results, "T=8 R=50: scale at least 10 %"), Decision::Go);
        assert_eq!(decision(&results, "scale at least tcmalloc"), Decision::Go);
        assert_eq!(decision(&results, "T=8 R=90: scale at least 1.60"), Decision::Go);
        assert_eq!(decision(&results, "T=1 R=0: scale at most 1.10"), Decision::Go);
        assert_eq!(decision(&results, "fallback"), Decision::Go);
    }

    #[test]
    fn clear_deficits_are_no_go() {
        let results = field(0.5, 0.5, 1.6, 0.01);
        assert_eq!(decision(&results, "scale at least tcmalloc"), Decision::NoGo);
        assert_eq!(decision(&results, "T=1 R=0: fast at least 1.08"), Decision::NoGo);
        assert_eq!(decision(&results, "T=1 R=0: fast at most 1.10"), Decision::NoGo);
        assert_eq!(overall(&judge(&results)), Decision::NoGo);
    }

    #[test]
    fn a_spread_over_the_threshold_is_undecided() {
        let results = field(1.08, 1.09, 1.32, 0.30);
        assert_eq!(decision(&results, "T=1 R=0: fast at least 1.08"), Decision::Undecided);
        assert_eq!(decision(&results, "T=1 R=0: scale at least 1.05"), Decision::Undecided);
    }

    #[test]
    fn the_range_around_fast_is_left_upwards_too() {
        assert_eq!(decision(&field(1.0, 1.0, 1.2, 0.01), "within ±10 %"), Decision::Go);
        assert_eq!(decision(&field(1.0, 1.3, 1.2, 0.01), "within ±10 %"), Decision::NoGo);
        assert_eq!(decision(&field(1.0, 0.7, 1.2, 0.01), "within ±10 %"), Decision::NoGo);
    }

    #[test]
    fn too_few_rounds_decide_nothing() {
        let results = synthetic(&FIELD, 3, |_, _, _| (1e8, 1.0));
        assert_eq!(decision(&results, "scale at least tcmalloc"), Decision::Undecided);
        assert_eq!(overall(&judge(&results)), Decision::Undecided);
    }

    #[test]
    fn a_void_run_of_a_lane_is_no_go_and_leaves_the_medians_alone() {
        let mut results = field(1.6, 2.0, 1.2, 0.01);
        let before = decision(&results, "T=32 R=50: scale at least tcmalloc");
        let run = results
            .runs
            .iter_mut()
            .find(|run| run.row == "t32-r50" && run.allocator == "scale" && run.round == 4)
            .unwrap();
        run.void = Some("fallback rate 3.00 %".to_owned());
        run.benchmark.as_mut().unwrap().ops_per_second = 1.0;
        assert_eq!(decision(&results, "fallback"), Decision::NoGo);
        assert_eq!(decision(&results, "T=32 R=50: scale at least tcmalloc"), before);
        assert!(overall(&judge(&results)) == Decision::NoGo);
    }

    #[test]
    fn rules_without_data_are_left_out_and_nothing_at_all_is_undecided() {
        let results = synthetic(&[("system", Role::System)], 8, |_, _, _| (1e8, 1.0));
        assert!(judge(&results).is_empty());
        assert_eq!(overall(&[]), Decision::Undecided);
    }

    #[test]
    fn every_row_of_the_matrix_has_a_floor_for_scale() {
        for row in hz3::record::row::remote_matrix() {
            assert!(speed_floor(&row.id, "scale").is_some(), "{}", row.id);
        }
    }
}
