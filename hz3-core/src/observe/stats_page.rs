//! Page: layout of the shared statistics page, and conversion from and to counts.
//!
//! ```text
//! word   0  magic          1  version        2  bytes of the page   3  process id
//!        4  lane's name    5  created, ms    6  state               7  sequence
//!        8  number of the snapshot           9  when it was taken, ms
//!       10  microseconds that it took       11  milliseconds until the next, at least
//!       12  rows of `Stats::rows`, in order
//!        …  for each bin, the counts of `BIN_NAMES`
//! ```
//!
//! Words have 64 bits in native byte order; times are `CLOCK_BOOTTIME`. Words 0 to 5 never change. The
//! [`crate::platform::seqlock`] in word 7 protects words 8 and up.

use crate::observe::counts::{ROWS, Stats};
use crate::observe::stats::BinStats;
use crate::pages::bins::BINS;
use crate::platform::units::PAGE_BYTES;
use crate::record::heat::BinCounts;

/// Word 0: `hz3 page`.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"hz3 page");
/// Word 1: the version of this layout.
pub const VERSION: u64 = 3;
/// Words before the snapshot.
pub const HEAD_WORDS: usize = 8;
/// Index of the process id.
pub const PROCESS: usize = 3;
/// Index of the state.
pub const STATE: usize = 6;
/// Index of the seqlock's sequence number.
pub const SEQUENCE: usize = 7;
/// State while the process runs.
pub const LIVE: u64 = 1;
/// State after the process ended by `exit`; the snapshot is the last.
pub const ENDED: u64 = 2;

/// Names of a bin's counts, in order.
pub const BIN_NAMES: [&str; 14] = [
    "slot_bytes",
    "span_bytes",
    "slots",
    "live",
    "in_threads",
    "in_depots",
    "refills",
    "refilled",
    "spills",
    "freed",
    "foreign",
    "adopted",
    "batches",
    "batched",
];

const TIMING_WORDS: usize = 4;
/// Words of a snapshot.
pub const SNAPSHOT_WORDS: usize = TIMING_WORDS + ROWS + BINS * BIN_NAMES.len();
/// Bytes of the shared page: a multiple of the system's page.
pub const BYTES: usize = ((HEAD_WORDS + SNAPSHOT_WORDS) * size_of::<u64>()).next_multiple_of(PAGE_BYTES);

/// The words before the snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Process id, as the process itself sees it.
    pub process: u64,
    /// Name of the lane, padded with zeros.
    pub lane: [u8; 8],
    /// Creation time.
    pub created_ms: u64,
    /// [`LIVE`] or [`ENDED`].
    pub state: u64,
}

/// Why words are not a readable page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Too short, or without the magic.
    NoPage,
    /// Another version, or the same with another number of rows or bins.
    Version(u64),
}

impl Head {
    /// The head of a live page; keeps the first eight bytes of `lane`.
    pub fn new(process: u64, lane: &str, created_ms: u64) -> Head {
        let mut name = [0; 8];
        for (place, byte) in name.iter_mut().zip(lane.bytes()) {
            *place = byte;
        }
        Head { process, lane: name, created_ms, state: LIVE }
    }

    /// The head as words, with sequence number 0.
    pub fn words(&self) -> [u64; HEAD_WORDS] {
        let lane = u64::from_ne_bytes(self.lane);
        [MAGIC, VERSION, BYTES as u64, self.process, lane, self.created_ms, self.state, 0]
    }

    /// Parses the head at the start of `words`.
    ///
    /// # Errors
    /// Not a page, or one with another layout.
    pub fn read(words: &[u64]) -> Result<Head, Refused> {
        match *words {
            [MAGIC, VERSION, bytes, process, lane, created_ms, state, _, ..] if bytes == BYTES as u64 => {
                Ok(Head { process, lane: lane.to_ne_bytes(), created_ms, state })
            }
            [MAGIC, version, ..] => Err(Refused::Version(version)),
            _ => Err(Refused::NoPage),
        }
    }
}

/// When and how a snapshot was taken.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Timing {
    /// Number of the snapshot, from 1.
    pub number: u64,
    /// When it was taken.
    pub taken_ms: u64,
    /// Microseconds spent counting.
    pub took_us: u64,
    /// Least milliseconds until the next one.
    pub pause_ms: u64,
}

/// Contents of a page at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// When and how it was taken.
    pub timing: Timing,
    /// Counts of the whole allocator.
    pub stats: Stats,
    /// Counts by bin, in the order of [`BIN_NAMES`]; bin 0 is unused.
    pub bins: [[u64; BIN_NAMES.len()]; BINS],
}

/// Encodes a snapshot into `words`; `heat` gives the counts of a bin.
pub fn write(
    words: &mut [u64; SNAPSHOT_WORDS],
    timing: Timing,
    stats: &Stats,
    bins: &[BinStats; BINS],
    heat: impl Fn(usize) -> BinCounts,
) {
    let head = [timing.number, timing.taken_ms, timing.took_us, timing.pause_ms];
    let rows = stats.rows().map(|(_, value)| value as u64);
    let bins = bins.iter().enumerate().flat_map(|(number, bin)| bin_words(bin, heat(number)));
    for (word, value) in words.iter_mut().zip(head.into_iter().chain(rows).chain(bins)) {
        *word = value;
    }
}

fn bin_words(bin: &BinStats, heat: BinCounts) -> [u64; BIN_NAMES.len()] {
    let BinStats { slot_bytes, span_bytes, slots, out: _, in_threads, in_depots } = *bin;
    let counts = [slot_bytes, span_bytes, slots, bin.live(), in_threads, in_depots].map(|value| value as u64);
    let [slot_bytes, span_bytes, slots, live, in_threads, in_depots] = counts;
    let BinCounts { refills, refilled, spills, freed, foreign, adopted, batches, batched } = heat;
    [
        slot_bytes, span_bytes, slots, live, in_threads, in_depots, refills, refilled, spills, freed, foreign, adopted,
        batches, batched,
    ]
}

/// Decodes the snapshot in `words`; `None` if they are too few.
pub fn read(words: &[u64]) -> Option<Snapshot> {
    let (&[number, taken_ms, took_us, pause_ms], rest) = words.split_first_chunk()?;
    let (rows, rest) = rest.split_first_chunk::<ROWS>()?;
    let mut bins = [[0; BIN_NAMES.len()]; BINS];
    let mut chunks = rest.chunks_exact(BIN_NAMES.len());
    for place in &mut bins {
        *place = chunks.next()?.try_into().ok()?;
    }
    Some(Snapshot { timing: Timing { number, taken_ms, took_us, pause_ms }, stats: Stats::from_rows(rows), bins })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_and_another_one_refused() {
        let head = Head::new(77, "hardened", 12345);
        assert_eq!((head.lane, head.state), (*b"hardened", LIVE));
        let words = head.words();
        assert_eq!((words[PROCESS], words[STATE], words[SEQUENCE]), (77, LIVE, 0));
        assert_eq!(Head::read(&words), Ok(head));
        let changed = |at: usize, value| {
            let mut words = words;
            words[at] = value;
            Head::read(&words)
        };
        assert_eq!(changed(0, 1), Err(Refused::NoPage));
        assert_eq!(changed(1, 9), Err(Refused::Version(9)));
        assert_eq!(changed(2, 4096), Err(Refused::Version(VERSION)));
        assert_eq!(Head::read(&words[..7]), Err(Refused::Version(VERSION)));
        assert_eq!(Head::read(&[]), Err(Refused::NoPage));
    }

    #[test]
    fn a_snapshot_is_read_as_it_was_written() {
        let mut rows = [0; ROWS];
        for (row, value) in rows.iter_mut().zip(100..) {
            *row = value;
        }
        let stats = Stats::from_rows(&rows);
        let mut bins = [BinStats::default(); BINS];
        bins[3] = BinStats { slot_bytes: 48, span_bytes: 4096, slots: 85, out: 40, in_threads: 10, in_depots: 5 };
        let counts =
            BinCounts { refills: 1, refilled: 2, spills: 3, freed: 4, foreign: 5, adopted: 6, batches: 7, batched: 8 };
        let timing = Timing { number: 9, taken_ms: 8, took_us: 7, pause_ms: 250 };
        let mut words = [u64::MAX; SNAPSHOT_WORDS];
        let heat = |number| if number == 3 { counts } else { BinCounts::default() };
        write(&mut words, timing, &stats, &bins, heat);
        let snapshot = read(&words).expect("enough words");
        assert_eq!(snapshot.timing, timing);
        assert!(snapshot.stats.rows().eq(stats.rows()));
        assert_eq!(snapshot.bins[3], [48, 4096, 85, 25, 10, 5, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(snapshot.bins.iter().enumerate().all(|(number, bin)| number == 3 || *bin == [0; BIN_NAMES.len()]));
        assert!(read(&words[1..]).is_none());
    }

    #[test]
    fn the_page_has_room_for_a_snapshot_in_whole_pages() {
        const { assert!(BYTES % PAGE_BYTES == 0 && BYTES >= (HEAD_WORDS + SNAPSHOT_WORDS) * 8) }
    }
}
