//! Claims: what the documents list, beside what the sources have.
//!
//! ```text
//!   lanes      names, shards and first arena: docs/choosing-a-lane.md beside lane.rs
//!   options    names and defaults: docs/options.md beside options.rs
//!   counters   names, in order: docs/statistics.md beside counts.rs
//!   files      those of hz3-core that the design names, and that each walk enters as few as it should
//! ```
//!
//! A source file is found by its name, wherever it lies under its crate. That every text names only options that exist
//! is [`super::documents`]'.

use super::step::Step;
use crate::files::files_with;
use anyhow::{Context, Result, ensure};
use regex_lite::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const LANES_PAGE: &str = "docs/choosing-a-lane.md";
const OPTIONS_PAGE: &str = "docs/options.md";
const COUNTERS_PAGE: &str = "docs/statistics.md";
const FILES_PAGES: [&str; 2] = ["docs/design.md", WALKS_PAGE];
const WALKS_PAGE: &str = "docs/life-of-a-block.md";
/// The walks, and how many files each may enter.
const WALKS: [(&str, usize); 4] =
    [("## A malloc miss", 9), ("## A remote free", 8), ("## The end of a thread", 7), ("## A large free", 6)];
/// The heading under which the counters stand.
const COUNTERS_HEADING: &str = "## The counts";

/// One step per list.
pub fn steps() -> Vec<Step> {
    vec![
        Step::new("claims/lanes", |session| Ok(check_lanes(&session.workspace.root)?)),
        Step::new("claims/options", |session| Ok(check_options(&session.workspace.root)?)),
        Step::new("claims/counters", |session| Ok(check_counters(&session.workspace.root)?)),
        Step::new("claims/files", |session| Ok(check_files(&session.workspace.root)?)),
    ]
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a valid pattern")
}

fn page(root: &Path, name: &str) -> Result<String> {
    std::fs::read_to_string(root.join(name)).with_context(|| name.to_owned())
}

/// The one file `name` under `folder`, without its tests.
fn source(root: &Path, folder: &str, name: &str) -> Result<String> {
    let folder = root.join(folder);
    let mut files = files_with("rs", &folder)?;
    files.retain(|file| file.file_name().is_some_and(|found| found == name));
    ensure!(files.len() == 1, "{} has {} files {name}, not one", folder.display(), files.len());
    let text = std::fs::read_to_string(folder.join(files.remove(0))).with_context(|| name.to_owned())?;
    Ok(text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned())
}

/// What stands under a heading, up to the next one.
fn section<'a>(text: &'a str, heading: &str) -> Result<&'a str> {
    let (_, after) = text.split_once(&format!("{heading}\n")).with_context(|| format!("no heading {heading:?}"))?;
    Ok(after.split("\n## ").next().unwrap_or_default())
}

/// The cells of the table's row that begins with `first`.
fn row<'a>(text: &'a str, first: &str) -> Result<Vec<&'a str>> {
    let line = text.lines().find(|line| line.starts_with(&format!("| {first} |")));
    let line = line.with_context(|| format!("no row {first:?}"))?;
    Ok(line.trim_matches('|').split('|').map(str::trim).skip(1).collect())
}

fn all_agree(faults: &[String]) -> Result<()> {
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

// ---- lanes ----

/// A lane's numbers as a page writes them.
#[derive(Debug, PartialEq, Eq)]
struct Numbers {
    shards: String,
    first_arena_bytes: u64,
    purge_delay: String,
}

/// `4 << 30`, as the sources write sizes.
fn shifted(text: &str) -> Result<u64> {
    let (number, shift) = text.split_once("<<").with_context(|| format!("{text:?} is no number that is shifted"))?;
    Ok(number.trim().parse::<u64>()? << shift.trim().parse::<u32>()?)
}

/// `4 GiB` or `4G`, as the pages write them.
fn size(text: &str) -> Option<u64> {
    let text = text.trim_matches('`');
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let unit = match text.get(digits..)?.trim() {
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => return None,
    };
    text.get(..digits)?.parse::<u64>().ok()?.checked_mul(unit)
}

/// The lanes that run on Linux: the others are for tests.
fn lanes(root: &Path) -> Result<BTreeMap<String, Numbers>> {
    let text = source(root, "hz3-core/src", "lane.rs")?;
    let instance = pattern(
        r#"label: "([a-z-]+)", os: Linux, shards: (\d+),[\s\S]*?first_arena: ([0-9 <]+),[\s\S]*?purge_delay_ms: (\d+)"#,
    );
    let mut lanes = BTreeMap::new();
    for found in instance.captures_iter(&text) {
        let numbers = Numbers {
            shards: found[2].to_owned(),
            first_arena_bytes: shifted(&found[3])?,
            purge_delay: found[4].to_owned(),
        };
        lanes.insert(found[1].to_owned(), numbers);
    }
    ensure!(!lanes.is_empty(), "lane.rs has no lanes as this check expects them");
    Ok(lanes)
}

fn check_lanes(root: &Path) -> Result<()> {
    let (lanes, text) = (lanes(root)?, page(root, LANES_PAGE)?);
    let header = text.lines().find(|line| line.starts_with("| | `")).context("no table of lanes")?;
    let listed: Vec<&str> =
        header.trim_matches('|').split('|').skip(1).map(|name| name.trim().trim_matches('`')).collect();
    let (shards, arenas) = (row(&text, "shards")?, row(&text, "arena size")?);
    let mut faults = Vec::new();
    for name in lanes.keys().filter(|name| !listed.contains(&name.as_str())) {
        faults.push(format!("{LANES_PAGE} lacks the lane {name}"));
    }
    for (place, name) in listed.iter().enumerate() {
        let Some(lane) = lanes.get(*name) else {
            faults.push(format!("{LANES_PAGE}: {name} is no lane"));
            continue;
        };
        let (said, arena) = (shards.get(place).copied().unwrap_or(""), arenas.get(place).copied().unwrap_or(""));
        if said != lane.shards {
            faults.push(format!("{LANES_PAGE}: {name} has {} shards, not {said:?}", lane.shards));
        }
        if size(arena) != Some(lane.first_arena_bytes) {
            faults
                .push(format!("{LANES_PAGE}: {name}'s arena size is {} bytes, not {arena:?}", lane.first_arena_bytes));
        }
    }
    all_agree(&faults)
}

// ---- options ----

/// A default that a page may write in more than one way.
#[derive(Debug)]
enum Default {
    /// These words.
    Words(String),
    /// A number of bytes.
    Bytes(u64),
    /// A size for each lane, by name.
    ByLane(BTreeMap<String, u64>),
}

impl Default {
    /// Whether `text` says so: for lanes, `4G fast, 16G scale and hardened`.
    fn is(&self, text: &str) -> bool {
        match self {
            Default::Words(words) => words == text,
            Default::Bytes(bytes) => size(text) == Some(*bytes),
            Default::ByLane(lanes) => {
                let mut said = BTreeMap::new();
                for part in text.split(',') {
                    let mut words = part.split_whitespace().filter(|word| *word != "and");
                    let Some(bytes) = words.next().and_then(size) else { return false };
                    said.extend(words.map(|name| (name.to_owned(), bytes)));
                }
                said == *lanes
            }
        }
    }
}

/// Every option and its default.
fn options(root: &Path) -> Result<BTreeMap<String, Default>> {
    let text = source(root, "hz3-core/src", "options.rs")?;
    let known = pattern(r#"name: b"([A-Z_]+)"[\s\S]*?options\s*\.([a-z_]+)\s*\.(?:store|set)\(([\s\S]*?)\n?\s*\}"#);
    let (_, new) =
        text.split_once("pub const fn new(").context("options.rs has no defaults as this check expects them")?;
    let mut options = BTreeMap::new();
    for found in known.captures_iter(&text) {
        let (name, field, is_inverted) = (&found[1], &found[2], found[3].contains("!switch"));
        let initial = pattern(&format!(r"\b{field}: (?:Path::(none)\(\)|Atomic[A-Z0-9a-z]+::new\(([^)]+)\))"));
        let initial = initial.captures(new).with_context(|| format!("{field} has no default"))?;
        let value = initial.get(1).or(initial.get(2)).map_or("", |value| value.as_str());
        options.insert(format!("HZ3_{name}"), default(root, &text, value, is_inverted)?);
    }
    ensure!(options.len() == text.matches("name: b\"").count(), "options.rs has options that this check does not see");
    Ok(options)
}

/// What `value`, an expression of options.rs, comes to.
fn default(root: &Path, text: &str, value: &str, is_inverted: bool) -> Result<Default> {
    Ok(match value {
        "purge_delay_ms" => {
            let delays: BTreeSet<_> = lanes(root)?.into_values().map(|lane| lane.purge_delay).collect();
            Default::Words(delays.into_iter().collect::<Vec<_>>().join(", "))
        }
        "arena_bytes" => {
            Default::ByLane(lanes(root)?.into_iter().map(|(name, lane)| (name, lane.first_arena_bytes)).collect())
        }
        "HugePages::System as u32" => Default::Words("the system's setting".to_owned()),
        "Background::Auto as u32" => Default::Words("`auto`".to_owned()),
        "AUTO_LIMIT" => Default::Words("`auto`".to_owned()),
        "Deepbind::Clear as u32" => Default::Words("`clear`".to_owned()),
        "0" | "1" => Default::Words(u8::from((value == "1") != is_inverted).to_string()),
        "none" => Default::Words(value.to_owned()),
        constant => {
            let found = pattern(&format!(r"const {constant}: usize = ([0-9 <]+);"));
            let found = found.captures(text).with_context(|| format!("{constant} is no constant of options.rs"))?;
            Default::Bytes(shifted(&found[1])?)
        }
    })
}

fn check_options(root: &Path) -> Result<()> {
    let (options, text) = (options(root)?, page(root, OPTIONS_PAGE)?);
    let listed: BTreeSet<String> =
        pattern(r"(?m)^\| `(HZ3_[A-Z_]+)` \|").captures_iter(&text).map(|name| name[1].to_owned()).collect();
    let mut faults = Vec::new();
    for name in listed.iter().filter(|name| !options.contains_key(*name)) {
        faults.push(format!("{OPTIONS_PAGE}: {name} is no option"));
    }
    for (name, default) in &options {
        if !listed.contains(name) {
            faults.push(format!("{OPTIONS_PAGE} lacks {name}"));
            continue;
        }
        let cells = row(&text, &format!("`{name}`"))?;
        let said = cells.get(1).copied().unwrap_or("");
        if !default.is(said) {
            faults.push(format!("{OPTIONS_PAGE}: the default of {name} is {default:?}, not {said:?}"));
        }
    }
    all_agree(&faults)
}

// ---- counters ----

fn check_counters(root: &Path) -> Result<()> {
    let text = source(root, "hz3-core/src", "counts.rs")?;
    let counted: Vec<String> = pattern(r#"(?m)^    (?:count|sum) [a-z_]+ as "([a-z_]+)";"#)
        .captures_iter(&text)
        .map(|name| name[1].to_owned())
        .collect();
    ensure!(counted.len() > 5, "counts.rs has no rows as this check expects them");
    let text = page(root, COUNTERS_PAGE)?;
    let listed: Vec<String> = pattern("(?m)^- `([a-z_]+)`:")
        .captures_iter(section(&text, COUNTERS_HEADING)?)
        .map(|name| name[1].to_owned())
        .collect();
    let mut faults = Vec::new();
    faults.extend(
        counted.iter().filter(|name| !listed.contains(name)).map(|name| format!("{COUNTERS_PAGE} lacks {name}")),
    );
    faults.extend(
        listed.iter().filter(|name| !counted.contains(name)).map(|name| format!("{COUNTERS_PAGE}: {name} is no count")),
    );
    if faults.is_empty() && listed != counted {
        faults.push(format!("{COUNTERS_PAGE} lists the counts in another order than counts.rs"));
    }
    all_agree(&faults)
}

// ---- files ----

fn check_files(root: &Path) -> Result<()> {
    let named =
        pattern(r"\b(?:api|process|observe|upkeep|thread|transfer|record|hardening|pages|platform)/[a-z_]+\.rs\b");
    let mut faults = Vec::new();
    for name in FILES_PAGES {
        for file in named.find_iter(&page(root, name)?) {
            if !root.join("hz3-core/src").join(file.as_str()).is_file() {
                faults.push(format!("{name}: hz3-core/src has no {}", file.as_str()));
            }
        }
    }
    let text = page(root, WALKS_PAGE)?;
    for (heading, most) in WALKS {
        let walk = section(&text, heading)?.split("```").nth(1).unwrap_or_default();
        let files: BTreeSet<&str> = named.find_iter(walk).map(|file| file.as_str()).collect();
        if files.is_empty() || files.len() > most {
            faults.push(format!("{WALKS_PAGE}: {heading:?} enters {} files, not 1 to {most}", files.len()));
        }
    }
    all_agree(&faults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::Workspace;

    /// A check of one page beside the sources.
    type Check = fn(&Path) -> Result<()>;

    /// The sources that the checks read, and `page` with `old` replaced by `new`.
    fn planted(page: &str, old: &str, new: &str) -> tempfile::TempDir {
        let (from, to) = (Workspace::locate().unwrap().root, tempfile::tempdir().unwrap());
        for folder in ["hz3-core/src", "hz3-preload/src"] {
            for file in files_with("rs", &from.join(folder)).unwrap() {
                let path = to.path().join(folder).join(&file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::copy(from.join(folder).join(&file), path).unwrap();
            }
        }
        let text = std::fs::read_to_string(from.join(page)).unwrap();
        assert!(text.contains(old), "{page} has no {old:?}");
        std::fs::create_dir_all(to.path().join("docs")).unwrap();
        for other in FILES_PAGES {
            std::fs::copy(from.join(other), to.path().join(other)).unwrap();
        }
        std::fs::write(to.path().join(page), text.replacen(old, new, 1)).unwrap();
        to
    }

    /// `check` passes over the page as it is, and says `fault` of the page with each planted claim.
    fn finds(check: Check, page: &str, claims: &[(&str, &str, &str)]) {
        check(planted(page, "", "").path()).unwrap();
        for (old, new, fault) in claims {
            let error = check(planted(page, old, new).path()).expect_err(new).to_string();
            assert!(error.contains(fault), "{error}");
        }
    }

    #[test]
    fn a_false_claim_about_a_lane_is_found() {
        finds(
            check_lanes,
            LANES_PAGE,
            &[
                ("| shards | 32 | 8 |", "| shards | 32 | 16 |", "fast has 8 shards, not \"16\""),
                ("| 16 GiB | 4 GiB |", "| 16 GiB | 4 MiB |", "fast's arena size is 4294967296 bytes, not \"4 MiB\""),
                ("| | `scale` | `fast` | `hardened` |", "| | `scale` | `fast` | `slow` |", "slow is no lane"),
                ("| | `scale` | `fast` | `hardened` |", "| | `scale` | `fast` |", "lacks the lane hardened"),
            ],
        );
    }

    #[test]
    fn a_false_claim_about_an_option_is_found() {
        finds(
            check_options,
            OPTIONS_PAGE,
            &[
                ("| 0 to 3600000; −1 | 1000 |", "| 0 to 3600000; −1 | 2000 |", "default of HZ3_PURGE_DELAY_MS"),
                ("`4G` fast, `16G` scale and hardened", "`4G` fast, `16G` scale", "default of HZ3_ARENA_SIZE"),
                ("| `HZ3_SHOW_ERRORS` | 0, 1 | 1 |", "| `HZ3_SHOW_ERRORS` | 0, 1 | 0 |", "default of HZ3_SHOW_ERRORS"),
                ("`512K`", "`64K`", "default of HZ3_PROFILE_INTERVAL"),
                ("| `HZ3_VERBOSE` |", "| `HZ3_LOUD` |", "HZ3_LOUD is no option\ndocs/options.md lacks HZ3_VERBOSE"),
            ],
        );
    }

    #[test]
    fn a_false_claim_about_a_counter_is_found() {
        finds(
            check_counters,
            COUNTERS_PAGE,
            &[
                ("- `steals`:", "- `thefts`:", "lacks steals\ndocs/statistics.md: thefts is no count"),
                ("- `dirty_bytes`: free runs that may hold memory, and kept mappings\n", "", "lacks dirty_bytes"),
                (
                    "- `dirty_bytes`: free runs that may hold memory, and kept mappings\n- `clean_bytes`:",
                    "- `clean_bytes`:\n- `dirty_bytes`:",
                    "in another order",
                ),
            ],
        );
    }

    #[test]
    fn a_file_that_is_gone_and_a_walk_that_is_too_long_are_found() {
        finds(
            check_files,
            WALKS_PAGE,
            &[
                ("api/refill.rs ", "api/slow.rs ", "hz3-core/src has no api/slow.rs"),
                ("api/large.rs ", "api/large.rs api/size.rs ", "\"## A large free\" enters 7 files, not 1 to 6"),
            ],
        );
    }
}
