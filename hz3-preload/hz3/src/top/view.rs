//! View: what a snapshot says, as text for people and as JSON for programs.

use super::page_file::Reading;
use hz3_core::observe::counts::Stats;
use hz3_core::observe::stats_page::{BIN_NAMES, Snapshot};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Stylize};
use ratatui::text::{Line, Span, Text};
use serde_json::{Map, Value, json};
use std::iter::repeat_n;

/// Characters of a full bar.
const BAR: usize = 24;
const LIVE: Color = Color::Green;
const CACHED: Color = Color::Yellow;
const FREE: Color = Color::DarkGray;

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
        let seconds = after.timing.taken_ms.checked_sub(before.timing.taken_ms).filter(|&ms| ms > 0)? as f64 / 1000.0;
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

/// A bar of parts, each with its own character and colour, of a whole, and blanks to `width` of them.
fn bar(parts: &[(u64, char, Color)], whole: u64, width: usize) -> Vec<Span<'static>> {
    let mut spans = Vec::new();
    let (mut sum, mut drawn) = (0, 0);
    for &(part, character, colour) in parts {
        sum += part;
        let end = (sum as f64 / whole.max(1) as f64 * BAR as f64).round() as usize;
        // A part that is there is seen.
        let end = if part > 0 { end.max(drawn + 1) } else { end }.min(BAR);
        spans.push(Span::styled(String::from_iter(repeat_n(character, end.saturating_sub(drawn))), colour));
        drawn = drawn.max(end);
    }
    spans.push(Span::raw(" ".repeat(width.saturating_sub(drawn))));
    spans
}

/// How old the snapshot is, and what that means.
fn age(reading: &Reading) -> String {
    let seconds = reading.age_ms as f64 / 1000.0;
    let timing = reading.snapshot.timing;
    let state = match () {
        () if reading.has_ended => "; the process has ended",
        () if reading.age_ms > 4 * timing.pause_ms.max(250) => "; since then too few slow paths for a new one",
        () => "",
    };
    format!("snapshot {}, {seconds:.1} s old, counted in {} µs{state}", timing.number, timing.took_us)
}

/// A line whose middle is a bar.
fn with_bar(before: String, bar: Vec<Span<'static>>, after: String) -> Line<'static> {
    std::iter::once(Span::raw(before)).chain(bar).chain([Span::raw(after)]).collect()
}

/// What counts for the limits, and the limits.
fn limits(stats: &Stats) -> String {
    let limit = |name, bytes: usize, met: usize| match bytes {
        0 => format!("no {name} limit"),
        _ => format!("{name} limit {:.1} MiB, met {met} times", mib(bytes as u64)),
    };
    let soft = limit("soft", stats.soft_limit_bytes, stats.soft_limit_met);
    let hard = limit("hard", stats.hard_limit_bytes, stats.hard_limit_met);
    format!("counted {:.1} MiB; {soft}; {hard}", mib(stats.counted_bytes as u64))
}

/// What regions hold, of how many.
fn regions(stats: &Stats) -> String {
    let [held, live] = [stats.region_bytes, stats.region_live_bytes].map(|bytes| mib(bytes as u64));
    let (number, blocks) = (stats.regions, stats.region_live_blocks);
    format!("regions {number}, hold {held:.1} MiB, part of live; blocks {blocks}, {live:.1} MiB")
}

/// The view as text, with at most `bins` size classes: those with most memory.
pub fn text(subject: &Subject, reading: &Reading, rates: Option<&Rates>, bins: usize) -> Text<'static> {
    let stats = &reading.snapshot.stats;
    let title = format!("{} ({}), lane {}", subject.id, subject.name, subject.lane).bold();
    let uses = stats.uses();
    let held: u64 = uses.iter().map(|one| one.held_bytes as u64).sum();
    let resident = subject.resident_bytes.map_or("unknown".to_owned(), |bytes| format!("{:.1} MiB", mib(bytes)));
    let mut lines = vec![
        Line::from(vec![title, format!("; {}", age(reading)).into()]),
        format!("resident {resident}, the whole process, now; of hz3's memory at most {:.1} MiB", mib(held)).into(),
        Line::default(),
        Line::from("use                  MiB  holds ≤ MiB".bold()),
    ];
    let of_use = |name: &str, bytes, held| format!("{name:<14}{:>10.1}{:>13.1}", mib(bytes), mib(held));
    for one in uses.iter().filter(|one| one.bytes > 0) {
        let bar = bar(&[(one.held_bytes as u64, '█', LIVE)], held, 0);
        let before = of_use(one.name, one.bytes as u64, one.held_bytes as u64);
        lines.push(with_bar(before + "  ", bar, String::new()));
    }
    lines.push(of_use("mapped", stats.mapped_bytes() as u64, held).into());
    lines.push(limits(stats).into());
    if stats.regions > 0 {
        lines.push(regions(stats).into());
    }
    lines.push(Line::default());
    lines.push(Line::from(match rates {
        Some(rates) => {
            let [malloc, free, remote] = rates.sums().map(short);
            let [refills, spills] = rates.magazines.map(short);
            format!(
                "per second, in the last {:.1} s, small slots that moved in magazines: malloc ≥ {malloc}, free ≥ {free}, \
                 of them remote {remote}; {refills} refills, {spills} spills",
                rates.seconds
            )
        }
        None => "per second: known from the second snapshot on".to_owned(),
    }));
    let mut shown: Vec<usize> =
        (1..reading.snapshot.bins.len()).filter(|&at| count(&reading.snapshot.bins[at], "span_bytes") > 0).collect();
    let all = shown.len();
    shown.sort_by_key(|&at| std::cmp::Reverse(count(&reading.snapshot.bins[at], "span_bytes")));
    shown.truncate(bins);
    shown.sort_unstable();
    lines.push(Line::default());
    let heading = " bytes      live    cached       MiB  █ live ▒ cached ░ free     in/s   out/s  remote/s";
    lines.push(Line::from(heading.bold()));
    for &at in &shown {
        let bin = &reading.snapshot.bins[at];
        let (live, slots) = (count(bin, "live"), count(bin, "slots"));
        let cached = count(bin, "in_threads") + count(bin, "in_depots");
        let free = slots.saturating_sub(live + cached);
        let bar = bar(&[(live, '█', LIVE), (cached, '▒', CACHED), (free, '░', FREE)], slots, BAR);
        let [entered, left, remote] = rates.map_or_else(Default::default, |rates| rates.bins[at].map(short));
        let (bytes, spans) = (count(bin, "slot_bytes"), mib(count(bin, "span_bytes")));
        let before = format!("{bytes:>6}{live:>10}{cached:>10}{spans:>10.1}  ");
        lines.push(with_bar(before, bar, format!("{entered:>9}{left:>8}{remote:>10}")));
    }
    if all > shown.len() {
        lines.push(format!("and {} size classes with less memory", all - shown.len()).into());
    }
    Text::from(lines)
}

/// Draws the view on a screen, with as many size classes as it has lines for.
pub fn draw(frame: &mut Frame, subject: &Subject, reading: &Reading, rates: Option<&Rates>) {
    let [view, foot] = Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    let others = text(subject, reading, rates, 0).height();
    frame.render_widget(text(subject, reading, rates, usize::from(view.height).saturating_sub(others).max(1)), view);
    frame.render_widget("q or Ctrl-C ends".dim(), foot);
}

/// The view as one JSON object; docs/top.md names its members.
pub fn json(subject: &Subject, reading: &Reading, rates: Option<&Rates>) -> Value {
    let Snapshot { timing, stats, bins } = &reading.snapshot;
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
        "snapshot": {"number": timing.number, "age_ms": reading.age_ms, "took_us": timing.took_us,
                     "pause_ms": timing.pause_ms, "is_last": reading.has_ended},
        "counts": object(&mut stats.rows().map(|(name, value)| (name, value as u64))),
        "uses": object(&mut stats.uses().iter().map(|one| (one.name, one.bytes as u64))),
        "held": object(&mut stats.uses().iter().map(|one| (one.name, one.held_bytes as u64))),
        "rates": rates,
        "bins": in_use.map(|bin| object(&mut BIN_NAMES.into_iter().zip(*bin))).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3_core::observe::stats_page::Timing;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn snapshot(number: u64, taken_ms: u64, moved: u64) -> Snapshot {
        let mut bins = [[0; BIN_NAMES.len()]; hz3_core::pages::bins::BINS];
        bins[4] = [64, 1 << 20, 16384, 8192, 4096, 0, moved, moved * 60, moved, moved * 50, moved * 20, 0, 0, 0];
        let mut stats = Stats::default();
        (stats.committed_bytes, stats.small_live_bytes) = (3 << 20, 1 << 20);
        (stats.clean_bytes, stats.dirty_bytes) = (1 << 20, 1 << 20);
        Snapshot { timing: Timing { number, taken_ms, took_us: 80, pause_ms: 250 }, stats, bins }
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
        let (before, mut after) = (snapshot(1, 1000, 0), snapshot(5, 2000, 1000));
        assert!(!text(&subject(), &reading(after, 100), None, 10).to_string().contains("regions"));
        (after.stats.regions, after.stats.region_bytes) = (3, 2 << 20);
        (after.stats.region_live_bytes, after.stats.region_live_blocks) = (1 << 20, 7);
        let rates = Rates::between(&before, &after);
        let text = text(&subject(), &reading(after, 100), rates.as_ref(), 10).to_string();
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).expect(start).to_owned();
        assert!(line("42 (redis), lane scale").ends_with("snapshot 5, 0.1 s old, counted in 80 µs"));
        assert_eq!(line("resident"), "resident 5.0 MiB, the whole process, now; of hz3's memory at most 2.0 MiB");
        assert_eq!(line("clean_runs").split_whitespace().collect::<Vec<_>>(), ["clean_runs", "1.0", "0.0"]);
        assert_eq!(line("mapped").split_whitespace().collect::<Vec<_>>(), ["mapped", "3.0", "2.0"]);
        assert_eq!(line("regions"), "regions 3, hold 2.0 MiB, part of live; blocks 7, 1.0 MiB");
        assert!(line("per second").contains("malloc ≥ 60.0k, free ≥ 50.0k, of them remote 20.0k"), "{text}");
        let bin = line("    64");
        assert!(bin.contains(&format!("{}{}{}", "█".repeat(12), "▒".repeat(6), "░".repeat(6))), "{text}");
    }

    #[test]
    fn an_old_snapshot_is_said_to_be_old_and_classes_that_do_not_fit_are_counted() {
        let text = text(&subject(), &reading(snapshot(1, 1000, 0), 60_000), None, 0).to_string();
        assert!(text.contains("60.0 s old") && text.contains("too few slow paths"), "{text}");
        assert!(text.contains("and 1 size classes with less memory") && text.contains("second snapshot"), "{text}");
    }

    #[test]
    fn a_part_that_is_there_is_seen_in_the_bar() {
        let bar = |parts: &[(u64, char)], whole, width| -> String {
            let parts: Vec<_> = parts.iter().map(|&(part, character)| (part, character, LIVE)).collect();
            bar(&parts, whole, width).iter().map(|span| span.content.as_ref()).collect()
        };
        assert_eq!(bar(&[(1, 'a'), (999_998, 'b'), (1, 'c')], 1_000_000, BAR), format!("a{}", "b".repeat(BAR - 1)));
        assert_eq!(bar(&[(0, 'a')], 0, 0), "");
        assert_eq!(bar(&[(0, 'a')], 0, BAR), " ".repeat(BAR));
        assert_eq!(bar(&[(5, 'a')], 5, BAR), "a".repeat(BAR));
    }

    #[test]
    fn a_screen_shows_the_classes_that_it_has_lines_for_and_how_to_leave() {
        let mut before = snapshot(1, 1000, 0);
        before.bins[5] = before.bins[4];
        before.bins[6] = before.bins[4];
        let drawn = |height| {
            let mut terminal = Terminal::new(TestBackend::new(60, height)).unwrap();
            let reading = reading(before, 7);
            terminal.draw(|frame| draw(frame, &subject(), &reading, None)).unwrap();
            terminal.backend().to_string()
        };
        let classes = |screen: &str| screen.lines().filter(|line| line.contains("8192")).count();
        let others = text(&subject(), &reading(before, 7), None, 0).height() as u16;
        assert_eq!([others + 2, others + 3, others + 9].map(|height| classes(&drawn(height))), [1, 2, 3]);
        assert!(drawn(others + 2).contains("Ctrl-C ends") && drawn(2).contains("redis"));
        assert!(!drawn(0).contains("redis"), "no lines");
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
