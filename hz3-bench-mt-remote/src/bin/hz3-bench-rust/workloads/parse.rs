//! Parse: threads read pieces of a text into records and sort them; the thread that started them merges, writes and
//! drops what they made.
//!
//! Fork and join, as batch programs do: new threads each round, whose results outlive them and die elsewhere.

use super::work::{Random, mix, mix_bytes};
use std::fmt::Write;
use std::thread::scope;

/// Lines of the text that each thread reads in a round.
const LINES: usize = 20_000; // chosen

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    name: String,
    number: u64,
    tags: Vec<String>,
}

impl Record {
    /// Reads `number;name;tag,tag,…`.
    fn read(line: &str) -> Option<Record> {
        let mut fields = line.split(';');
        let number = fields.next()?.parse().ok()?;
        let name = fields.next()?.to_owned();
        let mut tags: Vec<String> = fields.next()?.split(',').map(str::to_owned).collect();
        tags.sort_unstable();
        Some(Record { name, number, tags })
    }
}

/// Runs `rounds` rounds of `threads` threads each.
pub fn run(threads: usize, rounds: usize) -> u64 {
    let texts: Vec<String> = (0..threads).map(text).collect();
    (0..rounds).fold(0, |checksum, round| mix(checksum, sorted(&texts, round as u64)))
}

fn text(seed: usize) -> String {
    let mut random = Random::new(seed);
    let mut text = String::new();
    for _ in 0..LINES {
        let number = random.below(1_000_000);
        let _ = write!(text, "{number};");
        random.append_word(&mut text, 16);
        text.push(';');
        for _ in 0..random.below(4) {
            random.append_word(&mut text, 10);
            text.push(',');
        }
        text.push_str("end\n");
    }
    text
}

/// The checksum of all texts' records in their order, of which no two rounds have the same.
fn sorted(texts: &[String], round: u64) -> u64 {
    let mut pieces: Vec<Vec<Record>> = scope(|scope| {
        let readers: Vec<_> = texts
            .iter()
            .map(|text| {
                scope.spawn(move || {
                    let mut records: Vec<Record> = text.lines().filter_map(Record::read).collect();
                    records.iter_mut().for_each(|record| record.number ^= round);
                    records.sort();
                    records
                })
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().expect("no reader panics")).collect()
    });
    while let Some(second) = pieces.pop() {
        let Some(first) = pieces.pop() else {
            return written(&second);
        };
        pieces.insert(0, merge(first, second));
    }
    0
}

fn merge(first: Vec<Record>, second: Vec<Record>) -> Vec<Record> {
    let mut merged = Vec::new();
    let (mut first, mut second) = (first.into_iter().peekable(), second.into_iter().peekable());
    while let (Some(one), Some(other)) = (first.peek(), second.peek()) {
        merged.extend(if one <= other { first.next() } else { second.next() });
    }
    merged.extend(first.chain(second));
    merged
}

fn written(records: &[Record]) -> u64 {
    let lines: Vec<String> =
        records.iter().map(|record| format!("{} {} {}", record.name, record.number, record.tags.join("+"))).collect();
    lines.iter().fold(lines.len() as u64, |checksum, line| mix_bytes(checksum, line.as_bytes()))
}
