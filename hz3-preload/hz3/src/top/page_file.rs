//! Page file: the statistics page of a running process, found by its environment and read without its help.
//!
//! The page is read with `pread`, never mapped: a file that somebody cuts short is then an error and no signal. A
//! reading is good if the sequence count was even and the same before and after it; the kernel copies from the very
//! memory that the process writes, so that the argument of `hz3_core::platform::seqlock` holds, with a fence behind each call.

use crate::usage::UsageError;
use anyhow::{Context, Result, bail};
use hz3_core::observe::stats_page::{
    self, BYTES, ENDED, HEAD_WORDS, Head, Refused, SEQUENCE, SNAPSHOT_WORDS, Snapshot,
};
use hz3_core::platform::options::PAGE_PLACE;
use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

/// What the variable is called.
pub const VARIABLE: &str = "HZ3_STATS_PAGE";
const WORD_BYTES: usize = size_of::<u64>();
/// Readings until a page counts as one whose writer was stopped in the middle. A writing takes microseconds.
const TRIES: u32 = 200;
/// By how much the kernel's time of a process's start may be later than it was.
const START_SLACK_MS: u64 = 50;

/// A process, as `/proc` shows it.
pub struct Process {
    /// Its number.
    pub id: u32,
    /// The number by which it knows itself, another one in a container.
    own_id: u32,
    /// Its program's name.
    pub name: String,
    started_ms: u64,
}

fn refuse<T>(line: String) -> Result<T> {
    Err(UsageError(line).into())
}

impl Process {
    /// Looks at process `id`.
    pub fn find(id: u32) -> Result<Process> {
        let Some(stat) = Stat::read(id).filter(|stat| !stat.has_ended) else {
            let left = place(PAGE_PLACE, id);
            return match PageFile::at(&left, &left) {
                Ok(_) => refuse(format!("process {id} has ended, without an exit, and left {} behind", left.display())),
                Err(_) => refuse(format!("there is no process {id}")),
            };
        };
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let own_id = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().last()?.parse().ok())
            .unwrap_or(id);
        Ok(Process { id, own_id, name: stat.name, started_ms: stat.started_ms })
    }

    /// Whether it goes on.
    pub fn lives(&self) -> bool {
        Stat::read(self.id).is_some_and(|stat| !stat.has_ended && stat.started_ms == self.started_ms)
    }

    /// Bytes of it that hold memory, as the kernel counts them now.
    pub fn resident_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.id)).ok()?;
        let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }

    /// Where its page is, as the process itself names the place.
    fn page_path(&self) -> Result<PathBuf> {
        let environment = match fs::read(format!("/proc/{}/environ", self.id)) {
            Ok(environment) => environment,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return refuse(format!("process {} ({}) is another user's", self.id, self.name));
            }
            Err(error) => return refuse(format!("process {} ({}): {error}", self.id, self.name)),
        };
        match value_in(&environment) {
            Some(value) => Ok(place(value, self.own_id)),
            None => refuse(format!(
                "process {} ({}) has no statistics page: start the program on hz3 with {VARIABLE}=1, or by \
                 `cargo xtask top --run -- PROGRAM`",
                self.id, self.name
            )),
        }
    }
}

/// The variable's value in an environment; of several, the last, which is the one that hz3 takes.
fn value_in(environment: &[u8]) -> Option<&[u8]> {
    let entries = environment.split(|&byte| byte == 0);
    let mut values = entries.filter_map(|entry| entry.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="));
    values.next_back().map(|value| if value == b"1" { PAGE_PLACE } else { value })
}

/// The path that an option's value means in process `id`.
fn place(value: &[u8], id: u32) -> PathBuf {
    let mut path = Vec::new();
    let mut rest = value;
    while let Some(at) = rest.windows(2).position(|two| two == b"%p") {
        path.extend_from_slice(&rest[..at]);
        path.extend_from_slice(id.to_string().as_bytes());
        rest = &rest[at + 2..];
    }
    path.extend_from_slice(rest);
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

/// The parts of `/proc/PID/stat` that matter here.
struct Stat {
    name: String,
    has_ended: bool,
    started_ms: u64,
}

impl Stat {
    fn read(id: u32) -> Option<Stat> {
        Stat::parse(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
    }

    /// proc_pid_stat(5): the name, in brackets, may hold anything; the state is field 3, the start, in ticks since
    /// boot, field 22.
    fn parse(text: &str) -> Option<Stat> {
        let (before, after) = text.rsplit_once(')')?;
        let name = before.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks: u64 = fields.get(19)?.parse().ok()?;
        let started_ms = ticks * 1000 / rustix::param::clock_ticks_per_second();
        Some(Stat { name, has_ended: matches!(*fields.first()?, "Z" | "X"), started_ms })
    }
}

/// An open page.
pub struct PageFile {
    file: File,
    /// Where it is, for people.
    pub path: PathBuf,
    /// What it says of itself.
    pub head: Head,
}

/// One good reading.
pub struct Reading {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Whether the process had ended by `exit` then; the snapshot is its last.
    pub has_ended: bool,
    /// How old the snapshot was, in milliseconds.
    pub age_ms: u64,
}

impl PageFile {
    /// Opens the page of a process. Every reason why that can't be is one line.
    pub fn of(process: &Process) -> Result<PageFile> {
        let path = process.page_path()?;
        // As the process sees its files: in a container, and where its folder is another one.
        let base = format!("/proc/{}/{}", process.id, if path.is_absolute() { "root" } else { "cwd" });
        let seen = Path::new(&base).join(path.strip_prefix("/").unwrap_or(&path));
        let (id, name) = (process.id, &process.name);
        let page = match PageFile::at(&seen, &path) {
            Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::NotFound) => {
                return refuse(format!(
                    "process {id} ({name}) has no page at {}: hz3 is not loaded in it, or it is a forked child that \
                     has hardly allocated",
                    path.display()
                ));
            }
            outcome => outcome?,
        };
        if page.head.process != u64::from(process.own_id) {
            return refuse(format!("{} is the page of process {}, not of {id}", path.display(), page.head.process));
        }
        if page.head.created_ms + START_SLACK_MS < process.started_ms {
            return refuse(format!("{} was left by an earlier process with the number {id}", path.display()));
        }
        Ok(page)
    }

    /// Opens the page at `seen`, which people call `path`.
    fn at(seen: &Path, path: &Path) -> Result<PageFile> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(seen) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return refuse(format!("no permission to read {}: it is another user's", path.display()));
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let mut bytes = [0; HEAD_WORDS * WORD_BYTES];
        let head = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Head::read(&words_of(&bytes)),
            Err(_) => Err(Refused::NoPage),
        };
        match head {
            Ok(head) => Ok(PageFile { file, path: path.to_owned(), head }),
            Err(Refused::NoPage) => refuse(format!("{} is no statistics page", path.display())),
            Err(Refused::Version(version)) => refuse(format!(
                "{} is a page of version {version}, or of another build; this xtask reads version {}: use that of the \
                 library's own build",
                path.display(),
                stats_page::VERSION
            )),
        }
    }

    /// Name of the lane.
    pub fn lane(&self) -> String {
        String::from_utf8_lossy(&self.head.lane).trim_end_matches('\0').to_owned()
    }

    /// Reads the page, all of it of one writing.
    pub fn read(&self) -> Result<Reading> {
        for _ in 0..TRIES {
            let before = self.count()?;
            // Acquire: the words after the count. Pairs with the Release store in `seqlock::write`.
            fence(Ordering::Acquire);
            let mut bytes = vec![0; (HEAD_WORDS + SNAPSHOT_WORDS) * WORD_BYTES];
            self.file.read_exact_at(&mut bytes, 0).with_context(|| self.path.display().to_string())?;
            // Acquire: the second count after the words. Pairs with the Release fence in `seqlock::write`.
            fence(Ordering::Acquire);
            // The very first writing leaves 2.
            if before != 0 && before.is_multiple_of(2) && self.count()? == before {
                let words = words_of(&bytes);
                let snapshot = stats_page::read(&words[HEAD_WORDS..]).context("a page that is too short")?;
                let age_ms = now_ms().saturating_sub(snapshot.timing.taken_ms);
                return Ok(Reading { snapshot, has_ended: words[stats_page::STATE] == ENDED, age_ms });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("{}: the process was stopped while it wrote", self.path.display());
    }

    fn count(&self) -> Result<u64> {
        let mut bytes = [0; WORD_BYTES];
        let at = (SEQUENCE * WORD_BYTES) as u64;
        self.file.read_exact_at(&mut bytes, at).with_context(|| self.path.display().to_string())?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

fn words_of(bytes: &[u8]) -> Vec<u64> {
    const { assert!(BYTES.is_multiple_of(WORD_BYTES)) }
    bytes.as_chunks().0.iter().map(|&word| u64::from_ne_bytes(word)).collect()
}

fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// The environment variable's value for a page in `folder`.
pub fn value_for(folder: &Path) -> std::ffi::OsString {
    folder.join(OsStr::from_bytes(b"%p.page")).into_os_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3_core::observe::counts::Stats;
    use hz3_core::observe::stats::BinStats;
    use hz3_core::observe::stats_page::{Timing, write};
    use hz3_core::pages::bins::BINS;
    use hz3_core::record::heat::BinCounts;

    fn page(words: &[u64]) -> (tempfile::NamedTempFile, Result<PageFile>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        fs::write(file.path(), bytes).unwrap();
        let page = PageFile::at(file.path(), Path::new("P"));
        (file, page)
    }

    fn words(count: u64) -> Vec<u64> {
        let mut words = Head::new(7, "scale", 5).words().to_vec();
        words[SEQUENCE] = count;
        let mut snapshot = [0; SNAPSHOT_WORDS];
        let timing = Timing { number: 3, ..Timing::default() };
        let bins = [BinStats::default(); BINS];
        write(&mut snapshot, timing, &Stats::default(), &bins, |_| BinCounts::default());
        words.extend(snapshot);
        words
    }

    #[test]
    fn a_whole_page_is_read_and_one_in_writing_is_not() {
        let (_file, page_file) = page(&words(8));
        let page_file = page_file.unwrap();
        let reading = page_file.read().unwrap();
        assert_eq!((reading.snapshot.timing.number, reading.has_ended, page_file.lane()), (3, false, "scale".into()));
        for count in [0, 9] {
            assert!(page(&words(count)).1.unwrap().read().is_err_and(|error| error.to_string().contains("stopped")));
        }
    }

    #[test]
    fn what_is_no_page_or_one_of_another_version_is_told_in_one_line() {
        let line = |words: &[u64]| {
            let error = page(words).1.err().expect("refused");
            assert!(error.downcast_ref::<UsageError>().is_some());
            format!("{error:#}")
        };
        assert_eq!(line(&[]), "P is no statistics page");
        assert_eq!(line(&[1; 1000]), "P is no statistics page");
        let mut other = words(8);
        other[1] = 99;
        assert!(line(&other).starts_with("P is a page of version 99"));
    }

    #[test]
    fn a_place_has_the_process_id_and_1_means_the_usual_one() {
        assert_eq!(value_in(b"A=1\0HZ3_STATS_PAGE=/x\0HZ3_STATS_PAGE=/y/%p-%p\0"), Some(&b"/y/%p-%p"[..]));
        assert_eq!(place(b"/y/%p-%p.", 12), Path::new("/y/12-12."));
        assert_eq!(value_in(b"HZ3_STATS_PAGE=1\0"), Some(PAGE_PLACE));
        assert_eq!(place(PAGE_PLACE, 5), Path::new("/dev/shm/hz3-5.page"));
        assert_eq!(value_in(b"HZ3_STATS_PAGES=1\0XHZ3_STATS_PAGE=2\0"), None);
    }

    #[test]
    fn a_process_s_name_may_hold_brackets() {
        let text = "42 (a) b) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 500 20 21";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.has_ended), ("a) b", false));
        assert_eq!(stat.started_ms, 500 * 1000 / rustix::param::clock_ticks_per_second());
        assert!(Stat::parse(&text.replace(" R ", " Z ")).unwrap().has_ended);
    }

    #[test]
    fn a_process_that_is_not_there_and_one_without_a_page_are_told_in_one_line() {
        let line = |error: anyhow::Error| {
            assert!(error.downcast_ref::<UsageError>().is_some());
            error.to_string()
        };
        assert_eq!(line(Process::find(u32::MAX).err().unwrap()), format!("there is no process {}", u32::MAX));
        let own = Process::find(std::process::id()).unwrap();
        assert!(own.lives() && own.resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(line(PageFile::of(&own).err().unwrap()).contains("HZ3_STATS_PAGE=1"));
    }
}
