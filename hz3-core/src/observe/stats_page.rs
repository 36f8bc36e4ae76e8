//! Page: the layout of the shared statistics page, and its contents from and to counts. Who makes the file, and who
//! reads it, is elsewhere.
//!
//! ```text
//! word   0  magic          1  version        2  bytes of the page   3  process id
//!        4  lane's name    5  created, ms    6  state               7  sequence
//!        8  number of the snapshot           9  when it was taken, ms
//!       10  microseconds that it took       11  milliseconds until the next at the soonest
//!       12  rows of `Stats::rows`, in order
//!        …  for each bin, the counts of `BIN_NAMES`
//! ```
//!
//! A word has 64 bits, in the machine's order; times are those of the clock that goes on while the system sleeps
//! (`CLOCK_BOOTTIME`). Words 0 to 5 never change. From word 8 on they change under the [`crate::platform::seqlock`] in word 7.

use crate::observe::counts::{ROWS, Stats};
use crate::observe::stats::BinStats;
use crate::pages::bins::BINS;
use crate::platform::units::PAGE_BYTES;
use crate::record::heat::BinCounts;

/// Word 0: `hz3 page`.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"hz3 page");
/// Word 1: the version of this layout.
pub const VERSION: u64 = 1;
/// Words before the snapshot.
pub const HEAD_WORDS: usize = 8;
/// The word of the process id.
pub const PROCESS: usize = 3;
/// The word of the state.
pub const STATE: usize = 6;
/// The word of the sequence.
pub const SEQUENCE: usize = 7;
/// Word 6 while the process goes on.
pub const LIVES: u64 = 1;
/// Word 6 once the process ends by `exit`; the snapshot is the last.
pub const ENDED: u64 = 2;

/// The counts of a bin, in order.
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

const TAKING: usize = 4;
/// Words of a snapshot.
pub const SNAPSHOT_WORDS: usize = TAKING + ROWS + BINS * BIN_NAMES.len();
/// Bytes of the page: whole pages of the system.
pub const BYTES: usize = ((HEAD_WORDS + SNAPSHOT_WORDS) * size_of::<u64>()).next_multiple_of(PAGE_BYTES);

/// The first words of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The process id, as the process itself sees it.
    pub process: u64,
    /// Name of the lane, zeros behind it.
    pub lane: [u8; 8],
    /// When the page was made.
    pub created_ms: u64,
    /// [`LIVES`] or [`ENDED`].
    pub state: u64,
}

/// Why what was read is no page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It is too short, or does not begin as one.
    NoPage,
    /// A page of another version, or with other numbers of rows and bins.
    Version(u64),
}

impl Head {
    /// The head of a page of lane `lane`, of which eight bytes are kept.
    pub fn new(process: u64, lane: &str, created_ms: u64) -> Head {
        let mut name = [0; 8];
        for (place, byte) in name.iter_mut().zip(lane.bytes()) {
            *place = byte;
        }
        Head { process, lane: name, created_ms, state: LIVES }
    }

    /// Its words.
    pub fn words(&self) -> [u64; HEAD_WORDS] {
        let lane = u64::from_ne_bytes(self.lane);
        [MAGIC, VERSION, BYTES as u64, self.process, lane, self.created_ms, self.state, 0]
    }

    /// The head of what begins with `words`.
    ///
    /// # Errors
    /// It is no page, or one that this version does not know.
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
pub struct Taking {
    /// Number of the snapshot, from 1.
    pub number: u64,
    /// When it was taken.
    pub taken_ms: u64,
    /// Microseconds that the counting took.
    pub took_us: u64,
    /// Milliseconds until the next one, at the soonest.
    pub pause_ms: u64,
}

/// What a page says at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// When and how it was taken.
    pub taking: Taking,
    /// The counts of all.
    pub stats: Stats,
    /// Those of each bin, by number, in the order of [`BIN_NAMES`]. The first is none.
    pub bins: [[u64; BIN_NAMES.len()]; BINS],
}

/// Writes a snapshot into `words`.
pub fn write(
    words: &mut [u64; SNAPSHOT_WORDS],
    taking: Taking,
    stats: &Stats,
    bins: &[BinStats; BINS],
    heat: impl Fn(usize) -> BinCounts,
) {
    let head = [taking.number, taking.taken_ms, taking.took_us, taking.pause_ms];
    let rows = stats.rows();
    let rows = rows.iter().map(|&(_, value)| value as u64);
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

/// The snapshot in `words`; `None` where they are too few.
pub fn read(words: &[u64]) -> Option<Snapshot> {
    let (&[number, taken_ms, took_us, pause_ms], rest) = words.split_first_chunk()?;
    let (rows, rest) = rest.split_first_chunk::<ROWS>()?;
    let mut bins = [[0; BIN_NAMES.len()]; BINS];
    let (chunks, _) = rest.as_chunks::<{ BIN_NAMES.len() }>();
    if chunks.len() < BINS {
        return None;
    }
    for (place, chunk) in bins.iter_mut().zip(chunks) {
        *place = *chunk;
    }
    Some(Snapshot { taking: Taking { number, taken_ms, took_us, pause_ms }, stats: Stats::from_rows(rows), bins })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_and_another_one_refused() {
        let head = Head::new(77, "hardened", 12345);
        assert_eq!((head.lane, head.state), (*b"hardened", LIVES));
        let words = head.words();
        assert_eq!((words[PROCESS], words[STATE], words[SEQUENCE]), (77, LIVES, 0));
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
        let taking = Taking { number: 9, taken_ms: 8, took_us: 7, pause_ms: 250 };
        let mut words = [u64::MAX; SNAPSHOT_WORDS];
        let heat = |number| if number == 3 { counts } else { BinCounts::default() };
        write(&mut words, taking, &stats, &bins, heat);
        let snapshot = read(&words).expect("enough words");
        assert_eq!(snapshot.taking, taking);
        assert_eq!(snapshot.stats.rows(), stats.rows());
        assert_eq!(snapshot.bins[3], [48, 4096, 85, 25, 10, 5, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(snapshot.bins.iter().enumerate().all(|(number, bin)| number == 3 || *bin == [0; BIN_NAMES.len()]));
        assert!(read(&words[1..]).is_none());
    }

    #[test]
    fn the_page_has_room_for_a_snapshot_in_whole_pages() {
        assert!(BYTES.is_multiple_of(PAGE_BYTES) && BYTES >= (HEAD_WORDS + SNAPSHOT_WORDS) * 8);
    }
}
