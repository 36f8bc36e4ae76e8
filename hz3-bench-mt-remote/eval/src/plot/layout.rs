//! Layout: where every text of a plot lies, for the test that each is on the canvas and over no other.

use super::plots;
use hz3::record::results::synthetic::synthetic;
use hz3::record::{Results, Role, load};
use hz3::report::heat;
use hz3::report::statistics_file::StatisticsFile;
use hz3::report::text::{RISE, font, width};
use serde_json::json;
use std::path::{Path, PathBuf};
use svg::node::element::tag::Type;
use svg::parser::Event;

/// A text and its box.
#[derive(Debug)]
struct Placed {
    text: String,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Placed {
    fn new(attributes: &svg::node::Attributes, text: &str) -> Placed {
        let value = |name: &str| attributes.get(name).map_or("", |value| value);
        let number = |name: &str| -> f64 { value(name).parse().expect(name) };
        let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
        let width = width(value("class"), &text);
        let share = match value("text-anchor") {
            "start" => 0.0,
            "middle" => 0.5,
            _ => 1.0,
        };
        let (left, [rise, fall]) = (number("x") - share * width, RISE.map(|part| part * font(value("class")).0));
        Placed { text, left, right: left + width, top: number("y") - rise, bottom: number("y") + fall }
    }

    fn meets(&self, other: &Placed) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }
}

/// Each text of a document, and the document's width and height.
fn texts(document: &str) -> (Vec<Placed>, [f64; 2]) {
    let (mut placed, mut size, mut open) = (Vec::new(), [0.0; 2], None);
    for event in svg::read(document).unwrap() {
        match event {
            Event::Tag("svg", Type::Start, attributes) => {
                size = ["width", "height"].map(|name| attributes[name].parse().unwrap());
            }
            Event::Tag("text", Type::Start, attributes) => open = Some(attributes),
            Event::Tag("text", ..) => open = None,
            Event::Text(text) => placed.extend(open.as_ref().map(|attributes| Placed::new(attributes, text.trim()))),
            _ => {}
        }
    }
    (placed, size)
}

pub fn assert_legible(name: &str, document: &str) {
    let (texts, [width, height]) = texts(document);
    assert!(texts.len() > 3, "{name}: {texts:?}");
    for (index, text) in texts.iter().enumerate() {
        let is_inside = text.left >= 0.0 && text.right <= width && text.top >= 0.0 && text.bottom <= height;
        assert!(is_inside, "{name}, {width} by {height}: {text:?}");
        for other in &texts[..index] {
            assert!(!text.meets(other), "{name}: {text:?} over {other:?}");
        }
    }
}

fn assert_all_legible(what: &str, results: &Results) {
    for plot in plots(results) {
        assert_legible(&format!("{} of {what}", plot.name), &plot.svg);
    }
}

/// The results that are kept with the sources: every kind of measurement.
fn committed() -> Vec<(PathBuf, Results)> {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("docs/results"));
    let folder = folders.find(|folder| folder.is_dir()).expect("docs/results");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join("data.json"));
    let found: Vec<_> =
        files.filter(|file| file.is_file()).map(|file| (file.clone(), load(&file).unwrap().results)).collect();
    assert!(found.len() >= 5, "{}", found.len());
    found
}

/// Renames every allocator but the lanes.
fn rename(results: &mut Results, name: impl Fn(&str) -> String) {
    for record in results.header.allocators.iter_mut().filter(|record| record.role != Role::Lane) {
        let renamed = name(&record.name);
        for run in results.runs.iter_mut().filter(|run| run.allocator == record.name) {
            run.allocator = renamed.clone();
        }
        record.name = renamed;
    }
}

#[test]
fn no_text_of_the_committed_results_leaves_the_canvas_or_lies_over_another() {
    for (file, results) in committed() {
        assert_all_legible(&file.display().to_string(), &results);
    }
}

#[test]
fn nor_does_one_of_names_much_longer_or_shorter() {
    for (file, mut results) in committed() {
        let what = file.display().to_string();
        rename(&mut results, |name| format!("{name}-WITH-a-much-longer-name"));
        for row in &mut results.header.rows {
            row.label = format!("{}, and {} once MORE: a label @ 100 %", row.label, row.label);
        }
        assert_all_legible(&what, &results);
        results.header.rows.truncate(1);
        results.header.rows[0].label = "x".to_owned();
        rename(&mut results, |name| name[..2].to_owned());
        assert_all_legible(&what, &results);
    }
}

#[test]
fn nor_does_one_of_many_allocators_or_of_great_figures() {
    let names: Vec<String> = (0..40).map(|index| format!("allocator-{index}")).collect();
    let field: Vec<(&str, Role)> = names.iter().map(|name| (name.as_str(), Role::Peer)).collect();
    let field = [[("fast", Role::Lane), ("scale", Role::Lane), ("hardened", Role::Lane)].as_slice(), &field].concat();
    assert_all_legible("many", &synthetic(&field, 8, |_, name, _| (1e6 + name.len() as f64, 1.25)));
    assert_all_legible(
        "great",
        &synthetic(&field[..5], 8, |row, _, round| (3e14 * row.len() as f64, 7e9 * f64::from(round))),
    );
}

/// Statistics of `shards` shards whose first frees the last one's slots alone.
fn statistics(shards: usize, freed: u64) -> StatisticsFile {
    let shard = |index: usize| {
        let mut flow = vec![0; shards];
        flow[shards - 1] = if index == 0 { freed } else { 0 };
        json!({"span_bytes": 0, "out_bytes": 0, "depot_bytes": 0, "inbox_bytes": 0, "freed_by_owner": flow})
    };
    let bin = |slot_bytes: u64| {
        json!({"slot_bytes": slot_bytes, "live": 0, "span_bytes": 0, "in_threads": 0, "in_depots": 0, "freed": freed,
               "foreign": freed, "adopted": 0, "batches": 0, "batched": 0})
    };
    let text = json!({"schema": 1, "version": "0", "lane": "scale", "pid": 4_194_304, "counts": {"mapped_bytes": 0},
                      "uses": {"depots": 0}, "resident": {"process": 0, "arenas": 0}, "bins": [bin(16), bin(32768)],
                      "shards": (0..shards).map(shard).collect::<Vec<_>>()});
    StatisticsFile::read(&text.to_string()).unwrap()
}

#[test]
fn the_heat_report_is_legible_with_any_number_of_shards_and_leaves_out_what_is_empty() {
    for (shards, freed) in [(1, 1), (3, u64::MAX), (64, 12_345), (1000, 12_345)] {
        let document = heat::draw(&statistics(shards, freed / 100));
        assert_legible(&format!("heat of {shards} shards"), &document);
    }
    let shown: Vec<String> = texts(&heat::draw(&statistics(64, 9))).0.into_iter().map(|placed| placed.text).collect();
    assert_eq!(["0", "63", "1", "62"].map(|label| shown.iter().any(|text| text == label)), [true, true, false, false]);
}
