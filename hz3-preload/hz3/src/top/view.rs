//! View: what a snapshot says, as text for people and as JSON for programs.

use super::page_file::Reading;
use hz3_core::observe::stats_page::{BIN_NAMES, Snapshot};
use serde_json::{Map, Value, json};
use std::fmt::Write;

const BAR: usize = 24;

/// What a view is of.
pub struct Subject {
    /// The process id.
    pub id: u32,
    /// Its program's name.
    pub name: String,
    /// The lane.
    pub lane: String,
    /// What the kernel counts of it now.
    pub resident_bytes: Option<u64>,
}

/// A bin's counts by name.
fn count(bin: &[u64; BIN_NAMES.len()], name: &str) -> u64 {
    BIN_NAMES.iter().position(|known| *known == name).map_or(0, |at| bin[at])
}

/// What happened between two snapshots, per second.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    /// Between the snapshots.
    pub seconds: f64,
    /// Slots that entered threads' caches, that left them because these were full, and of those other shards', by bin.
    bins: Vec<[f64; 3]>,
    /// Magazines that entered and left.
    magazines: [f64; 2],
}

/// The names of what is counted for rates, in order.
const MOVED: [&str; 3] = ["refilled", "freed", "foreign"];

impl Rates {
    /// `None` where both are the same snapshot.
    pub fn between(before: &Snapshot, after: &Snapshot) -> Option<Rates> {
        let seconds = after.taking.taken_ms.checked_sub(before.taking.taken_ms).filter(|&ms| ms > 0)? as f64 / 1000.0;
        let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
        let of = |at: usize, name| rate(count(&before.bins[at], name), count(&after.bins[at], name));
        let bins = (0..after.bins.len()).map(|at| MOVED.map(|name| of(at, name))).collect();
        let magazines = ["refills", "spills"].map(|name| (0..after.bins.len()).map(|at| of(at, name)).sum());
        Some(Rates { seconds, bins, magazines })
    }

    /// Of all bins together.
    fn sums(&self) -> [f64; 3] {
        [0, 1, 2].map(|at| self.bins.iter().map(|bin| bin[at]).sum())
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// A number in few characters: 999, 12.3k, 4.56M.
fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        _ if value >= 1e9 => (value / 1e9, "G"),
        _ if value >= 1e6 => (value / 1e6, "M"),
        _ if value >= 1e4 => (value / 1e3, "k"),
        _ => return format!("{value:.0}"),
    };
    format!("{scaled:.*}{unit}", if scaled < 10.0 { 2 } else { 1 })
}

/// A bar of parts, each with its own character, of a whole.
fn bar(parts: &[(u64, char)], whole: u64) -> String {
    let mut text = String::new();
    let (mut sum, mut drawn) = (0, 0);
    for &(part, character) in parts {
        sum += part;
        let end = (sum as f64 / whole.max(1) as f64 * BAR as f64).round() as usize;
        // A part that is there is seen.
        let end = if part > 0 { end.max(drawn + 1) } else { end }.min(BAR);
        text.extend(std::iter::repeat_n(character, end.saturating_sub(drawn)));
        drawn = drawn.max(end);
    }
    text
}

/// How old the snapshot is, and what that means.
fn age(reading: &Reading) -> String {
    let seconds = reading.age_ms as f64 / 1000.0;
    let taking = reading.snapshot.taking;
    let state = match () {
        () if reading.has_ended => "; the process has ended",
        () if reading.age_ms > 4 * taking.pause_ms.max(250) => "; since then too few slow paths for a new one",
        () => "",
    };
    format!("snapshot {}, {seconds:.1} s old, counted in {} µs{state}", taking.number, taking.took_us)
}

/// The view as text, with at most `bins` size classes: those with most memory.
pub fn text(subject: &Subject, reading: &Reading, rates: Option<&Rates>, bins: usize) -> String {
    let stats = &reading.snapshot.stats;
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = writeln!(text, "{} ({}), lane {}; {}", subject.id, subject.name, subject.lane, age(reading));
    let uses = stats.uses();
    let held: u64 = uses.iter().map(|one| one.held_bytes as u64).sum();
    let resident = subject.resident_bytes.map_or("unknown".to_owned(), |bytes| format!("{:.1} MiB", mib(bytes)));
    let _ = writeln!(text, "resident {resident}, the whole process, now; of hz3's memory at most {:.1} MiB", mib(held));
    let _ = writeln!(text, "\nuse                  MiB  holds ≤ MiB");
    for one in uses.iter().filter(|one| one.bytes > 0) {
        let bar = bar(&[(one.held_bytes as u64, '█')], held);
        let _ = writeln!(
            text,
            "{:<14}{:>10.1}{:>13.1}  {bar}",
            one.name,
            mib(one.bytes as u64),
            mib(one.held_bytes as u64)
        );
    }
    let _ = writeln!(text, "{:<14}{:>10.1}{:>13.1}", "mapped", mib(stats.mapped_bytes() as u64), mib(held));
    match rates {
        Some(rates) => {
            let [malloc, free, remote] = rates.sums().map(short);
            let [refills, spills] = rates.magazines.map(short);
            let _ = writeln!(
                text,
                "\nper second, in the last {:.1} s, small slots that moved in magazines: malloc ≥ {malloc}, free ≥ {free}, \
                 of them remote {remote}; {refills} refills, {spills} spills",
                rates.seconds
            );
        }
        None => {
            let _ = writeln!(text, "\nper second: known from the second snapshot on");
        }
    }
    let mut shown: Vec<usize> =
        (1..reading.snapshot.bins.len()).filter(|&at| count(&reading.snapshot.bins[at], "span_bytes") > 0).collect();
    let all = shown.len();
    shown.sort_by_key(|&at| std::cmp::Reverse(count(&reading.snapshot.bins[at], "span_bytes")));
    shown.truncate(bins);
    shown.sort_unstable();
    let _ = writeln!(text, "\n bytes      live    cached       MiB  █ live ▒ cached ░ free     in/s   out/s  remote/s");
    for &at in &shown {
        let bin = &reading.snapshot.bins[at];
        let (live, slots) = (count(bin, "live"), count(bin, "slots"));
        let cached = count(bin, "in_threads") + count(bin, "in_depots");
        let bar = bar(&[(live, '█'), (cached, '▒'), (slots.saturating_sub(live + cached), '░')], slots);
        let [entered, left, remote] = rates.map_or_else(Default::default, |rates| rates.bins[at].map(short));
        let _ = writeln!(
            text,
            "{:>6}{live:>10}{cached:>10}{:>10.1}  {bar:<BAR$}{entered:>9}{left:>8}{remote:>10}",
            count(bin, "slot_bytes"),
            mib(count(bin, "span_bytes"))
        );
    }
    if all > shown.len() {
        let _ = writeln!(text, "and {} size classes with less memory", all - shown.len());
    }
    text
}

/// The view as one JSON object; docs/top.md names its members.
pub fn json(subject: &Subject, reading: &Reading, rates: Option<&Rates>) -> Value {
    let Snapshot { taking, stats, bins } = &reading.snapshot;
    let object = |pairs: &mut dyn Iterator<Item = (&'static str, u64)>| -> Map<String, Value> {
        pairs.map(|(name, value)| (name.to_owned(), value.into())).collect()
    };
    let held: usize = stats.uses().iter().map(|one| one.held_bytes).sum();
    let rates = rates.map(|rates| {
        let [refilled, freed, foreign] = rates.sums();
        let [refills, spills] = rates.magazines;
        json!({"seconds": rates.seconds, "refilled": refilled, "freed": freed, "foreign": foreign,
               "refills": refills, "spills": spills})
    });
    let in_use = bins.iter().filter(|bin| count(bin, "span_bytes") > 0);
    json!({
        "schema": 1,
        "pid": subject.id,
        "program": subject.name,
        "lane": subject.lane,
        "resident_bytes": subject.resident_bytes,
        "held_bytes": held,
        "snapshot": {"number": taking.number, "age_ms": reading.age_ms, "took_us": taking.took_us,
                     "pause_ms": taking.pause_ms, "is_last": reading.has_ended},
        "counts": object(&mut stats.rows().iter().map(|&(name, value)| (name, value as u64))),
        "uses": object(&mut stats.uses().iter().map(|one| (one.name, one.bytes as u64))),
        "held": object(&mut stats.uses().iter().map(|one| (one.name, one.held_bytes as u64))),
        "rates": rates,
        "bins": in_use.map(|bin| object(&mut BIN_NAMES.into_iter().zip(*bin))).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3_core::observe::stats::Stats;
    use hz3_core::observe::stats_page::Taking;

    fn snapshot(number: u64, taken_ms: u64, moved: u64) -> Snapshot {
        let mut bins = [[0; BIN_NAMES.len()]; hz3_core::pages::bins::BINS];
        bins[4] = [64, 1 << 20, 16384, 8192, 4096, 0, moved, moved * 60, moved, moved * 50, moved * 20, 0, 0, 0];
        let mut stats = Stats { committed_bytes: 3 << 20, small_live_bytes: 1 << 20, ..Stats::default() };
        (stats.clean_bytes, stats.dirty_bytes) = (1 << 20, 1 << 20);
        Snapshot { taking: Taking { number, taken_ms, took_us: 80, pause_ms: 250 }, stats, bins }
    }

    fn subject() -> Subject {
        Subject { id: 42, name: "redis".into(), lane: "scale".into(), resident_bytes: Some(5 << 20) }
    }

    fn reading(snapshot: Snapshot, age_ms: u64) -> Reading {
        Reading { snapshot, has_ended: false, age_ms }
    }

    #[test]
    fn rates_are_per_second_between_two_snapshots() {
        let (before, after) = (snapshot(1, 1000, 100), snapshot(5, 3000, 300));
        let rates = Rates::between(&before, &after).unwrap();
        assert_eq!((rates.seconds, rates.sums(), rates.magazines), (2.0, [6000.0, 5000.0, 2000.0], [100.0, 100.0]));
        assert_eq!(Rates::between(&before, &before), None);
    }

    #[test]
    fn the_text_has_the_sums_the_bars_and_the_age() {
        let (before, after) = (snapshot(1, 1000, 0), snapshot(5, 2000, 1000));
        let rates = Rates::between(&before, &after);
        let text = text(&subject(), &reading(after, 100), rates.as_ref(), 10);
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).expect(start).to_owned();
        assert!(line("42 (redis), lane scale").ends_with("snapshot 5, 0.1 s old, counted in 80 µs"));
        assert_eq!(line("resident"), "resident 5.0 MiB, the whole process, now; of hz3's memory at most 2.0 MiB");
        assert_eq!(line("clean_runs").split_whitespace().collect::<Vec<_>>(), ["clean_runs", "1.0", "0.0"]);
        assert_eq!(line("mapped").split_whitespace().collect::<Vec<_>>(), ["mapped", "3.0", "2.0"]);
        assert!(line("per second").contains("malloc ≥ 60.0k, free ≥ 50.0k, of them remote 20.0k"), "{text}");
        let bin = line("    64");
        assert!(bin.contains(&format!("{}{}{}", "█".repeat(12), "▒".repeat(6), "░".repeat(6))), "{text}");
    }

    #[test]
    fn an_old_snapshot_is_said_to_be_old_and_classes_that_do_not_fit_are_counted() {
        let text = text(&subject(), &reading(snapshot(1, 1000, 0), 60_000), None, 0);
        assert!(text.contains("60.0 s old") && text.contains("too few slow paths"), "{text}");
        assert!(text.contains("and 1 size classes with less memory") && text.contains("second snapshot"), "{text}");
    }

    #[test]
    fn a_part_that_is_there_is_seen_in_the_bar() {
        assert_eq!(bar(&[(1, 'a'), (999_998, 'b'), (1, 'c')], 1_000_000), format!("a{}", "b".repeat(BAR - 1)));
        assert_eq!(bar(&[(0, 'a')], 0), "");
        assert_eq!(bar(&[(5, 'a')], 5), "a".repeat(BAR));
    }

    #[test]
    fn the_json_has_the_numbers_of_the_page() {
        let (before, after) = (snapshot(1, 1000, 0), snapshot(5, 2000, 10));
        let value = json(&subject(), &reading(after, 7), Rates::between(&before, &after).as_ref());
        assert_eq!(
            (&value["pid"], &value["lane"], &value["snapshot"]["age_ms"]),
            (&42.into(), &"scale".into(), &7.into())
        );
        assert_eq!((&value["counts"]["mapped_bytes"], &value["held_bytes"]), (&(3 << 20).into(), &(2 << 20).into()));
        assert_eq!((&value["rates"]["refilled"], &value["rates"]["spills"]), (&600.0.into(), &10.0.into()));
        let bins = value["bins"].as_array().unwrap();
        assert_eq!((bins.len(), &bins[0]["live"], &bins[0]["foreign"]), (1, &8192.into(), &200.into()));
        assert!(json(&subject(), &reading(before, 7), None)["rates"].is_null());
    }
}
