//! Options: `HZ3_*` variables of the environment, read once, before the allocator's first request for memory.
//!
//! Unknown names and malformed values are ignored, each with one line on standard error. A process with another user's
//! rights (`AT_SECURE`: set user or group id, file capabilities) reads none: its environment is not trusted.
//!
//! Sources: environ(7), getauxval(3).

use crate::platform::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
use crate::platform::os::Os;
use crate::platform::units::PAGE_BYTES;
use core::ptr::NonNull;

/// The purge delay that means "never".
pub const NEVER: u32 = u32::MAX;
const LONGEST_DELAY_MS: u64 = 3_600_000;
const ARENA_BYTES: core::ops::RangeInclusive<usize> = 4 << 20..=16 << 40;
/// Longest path in an option, in bytes.
pub const PATH_BYTES: usize = 1000;
const PATH_EXPECTED: &[u8] = b"a path of up to 1000 bytes, in which % comes before p alone, for the process id";
/// Default path of the statistics page: in memory, the same for every user.
pub const PAGE_PLACE: &[u8] = b"/dev/shm/hz3-%p.page";
const PROFILE_INTERVAL_BYTES: core::ops::RangeInclusive<usize> = 1..=1 << 40;
/// Default mean distance between samples. Chosen: jemalloc's; a sample then costs next to nothing per byte.
const DEFAULT_PROFILE_INTERVAL_BYTES: usize = 512 << 10;
/// Limits on memory in bytes. Chosen: less could not start a program.
const LIMIT_BYTES: core::ops::RangeInclusive<usize> = 1 << 20..=1 << 46;
/// [`SoftLimit`] in a word: bytes; or hundredths, up to 100; or these.
const NO_LIMIT: usize = 0;
const AUTO_LIMIT: usize = usize::MAX;
const PREFIX: &[u8] = b"HZ3_";
/// Most bytes of a malformed value that its line shows, so that the line says what is expected. Chosen: they fit.
const SHOWN_BYTES: usize = 40;

/// The allocator's choice of huge pages for its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HugePages {
    /// None: the system's setting applies.
    System,
    /// No huge pages.
    Never,
    /// Huge pages.
    Always,
}

/// When there is a background thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Background {
    /// Never.
    Never,
    /// From the start.
    Always,
    /// Once the program has had two threads and enough memory.
    Auto,
}

/// How much memory may be in use before free memory goes back at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SoftLimit {
    /// Any.
    None,
    /// What the system allows the process, less an eighth.
    Auto,
    /// So many bytes.
    Bytes(usize),
    /// This part of what the system allows the process, or of the machine's memory, in hundredths.
    Percent(u32),
}

impl SoftLimit {
    fn word(self) -> usize {
        match self {
            SoftLimit::None => NO_LIMIT,
            SoftLimit::Auto => AUTO_LIMIT,
            SoftLimit::Percent(percent) => (percent as usize).clamp(1, 100),
            SoftLimit::Bytes(bytes) => bytes.clamp(PAGE_BYTES, AUTO_LIMIT - 1),
        }
    }

    /// Whether it follows from the system's limit.
    fn is_of_system(self) -> bool {
        matches!(self, SoftLimit::Auto | SoftLimit::Percent(_))
    }
}

/// What becomes of `RTLD_DEEPBIND` in the C libraries' `dlopen`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deepbind {
    /// Cleared: libraries find hz3's `malloc`.
    Clear,
    /// Passed on.
    Keep,
}

/// A path, copied because the program may overwrite its environment. Empty if not set.
pub struct Path {
    bytes: [AtomicU8; PATH_BYTES],
    used: AtomicUsize,
}

impl Path {
    const fn none() -> Self {
        Self { bytes: [const { AtomicU8::new(0) }; PATH_BYTES], used: AtomicUsize::new(0) }
    }

    fn set(&self, path: &[u8]) -> Option<()> {
        let mut rest = path;
        while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
            rest = rest.get(at + 1..)?.strip_prefix(b"p")?;
        }
        if path.is_empty() || path.len() > PATH_BYTES {
            return None;
        }
        // Relaxed, both: see [`Options`].
        for (place, &byte) in self.bytes.iter().zip(path) {
            place.store(byte, Ordering::Relaxed);
        }
        self.used.store(path.len(), Ordering::Relaxed);
        Some(())
    }

    /// The path's bytes.
    pub fn bytes(&self) -> impl Iterator<Item = u8> + '_ {
        // Relaxed, both: see [`Options`].
        self.bytes.iter().take(self.used.load(Ordering::Relaxed)).map(|byte| byte.load(Ordering::Relaxed))
    }

    /// Whether it contains `%p`, the process id.
    pub fn names_process(&self) -> bool {
        self.bytes().any(|byte| byte == b'%')
    }

    /// Whether the option is not set.
    pub fn is_none(&self) -> bool {
        self.used.load(Ordering::Relaxed) == 0
    }
}

/// One allocator's options.
///
/// Sync, every field: each thread that needs unread options writes all of them, with the same values. Relaxed is
/// enough for readers, since each has passed [`Options::read`].
pub struct Options {
    is_read: AtomicU32,
    purge_delay_ms: AtomicU32,
    arena_bytes: AtomicUsize,
    /// The least limit of the process's control group; `usize::MAX`: none, or not asked for.
    system_bytes: AtomicUsize,
    /// Whether that limit may be asked for again: the user wants to follow it.
    follows_system: AtomicU32,
    soft_limit: AtomicUsize,
    hard_limit_bytes: AtomicUsize,
    huge_pages: AtomicU32,
    name_maps: AtomicU32,
    small_cores: AtomicU32,
    background_thread: AtomicU32,
    verbose: AtomicU32,
    show_stats: AtomicU32,
    hide_errors: AtomicU32,
    stats_file: Path,
    stats_json: Path,
    stats_page: Path,
    /// Whether `show_stats` or one of the three paths above is set. Written last.
    counts_heat: AtomicU32,
    profile: Path,
    profile_interval_bytes: AtomicUsize,
    deepbind: AtomicU32,
}

/// An option: its name without the prefix, its valid values, and its setter (`None`: malformed).
struct Known {
    name: &'static [u8],
    expected: &'static [u8],
    apply: fn(&Options, &[u8]) -> Option<()>,
}

const KNOWN: [Known; 17] = [
    Known {
        name: b"PURGE_DELAY_MS",
        expected: b"milliseconds from 0 (at once) to 3600000, or -1 (never)",
        apply: |options, value| {
            let delay = match value {
                b"-1" => NEVER,
                _ => number(value).filter(|&delay| delay <= LONGEST_DELAY_MS)? as u32,
            };
            // Relaxed, in all setters: see [`Options`].
            options.purge_delay_ms.store(delay, Ordering::Relaxed);
            Some(())
        },
    },
    Known {
        name: b"ARENA_SIZE",
        expected: b"a size from 4M to 16T, such as 512M",
        apply: |options, value| {
            let bytes = size(value).filter(|bytes| ARENA_BYTES.contains(bytes))?;
            options.arena_bytes.store(bytes, Ordering::Relaxed);
            Some(())
        },
    },
    Known {
        name: b"SOFT_LIMIT",
        expected: b"a size from 1M to 64T, such as 512M, 1% to 100%, auto, or 0 (none)",
        apply: |options, value| {
            let limit = match (value, value.strip_suffix(b"%")) {
                (b"auto", _) => SoftLimit::Auto,
                (_, Some(percent)) => {
                    SoftLimit::Percent(number(percent).filter(|percent| (1..=100).contains(percent))? as u32)
                }
                _ => match limit(value)? {
                    NO_LIMIT => SoftLimit::None,
                    bytes => SoftLimit::Bytes(bytes),
                },
            };
            options.soft_limit.store(limit.word(), Ordering::Relaxed);
            options.set_follows_system(limit.is_of_system());
            Some(())
        },
    },
    Known {
        name: b"HARD_LIMIT",
        expected: b"a size from 1M to 64T, such as 512M, or 0 (none)",
        apply: |options, value| {
            options.hard_limit_bytes.store(limit(value)?, Ordering::Relaxed);
            Some(())
        },
    },
    Known {
        name: b"THP",
        expected: b"0 or 1",
        apply: |options, value| {
            let wanted = if switch(value)? { HugePages::Always } else { HugePages::Never };
            options.huge_pages.store(wanted as u32, Ordering::Relaxed);
            Some(())
        },
    },
    Known {
        name: b"BACKGROUND_THREAD",
        expected: b"0, 1 or auto",
        apply: |options, value| {
            let wanted = match value {
                b"auto" => Background::Auto,
                _ if switch(value)? => Background::Always,
                _ => Background::Never,
            };
            options.background_thread.store(wanted as u32, Ordering::Relaxed);
            Some(())
        },
    },
    Known {
        name: b"NAME_MAPS",
        expected: b"0 or 1",
        apply: |options, value| {
            options.name_maps.store(u32::from(switch(value)?), Ordering::Relaxed);
            Some(())
        },
    },
    Known {
        name: b"SMALL_CORES",
        expected: b"0 or 1",
        apply: |options, value| {
            options.small_cores.store(u32::from(switch(value)?), Ordering::Relaxed);
            Some(())
        },
    },
    Known {
        name: b"VERBOSE",
        expected: b"0 or 1",
        apply: |options, value| {
            options.verbose.store(u32::from(switch(value)?), Ordering::Relaxed);
            Some(())
        },
    },
    Known {
        name: b"SHOW_STATS",
        expected: b"0 or 1",
        apply: |options, value| {
            options.show_stats.store(u32::from(switch(value)?), Ordering::Relaxed);
            Some(())
        },
    },
    Known {
        name: b"SHOW_ERRORS",
        expected: b"0 or 1",
        apply: |options, value| {
            options.hide_errors.store(u32::from(!switch(value)?), Ordering::Relaxed);
            Some(())
        },
    },
    Known {
        name: b"DEEPBIND",
        expected: b"clear or keep",
        apply: |options, value| {
            let wanted = match value {
                b"clear" => Deepbind::Clear,
                b"keep" => Deepbind::Keep,
                _ => return None,
            };
            options.deepbind.store(wanted as u32, Ordering::Relaxed);
            Some(())
        },
    },
    Known { name: b"STATS_FILE", expected: PATH_EXPECTED, apply: |options, value| options.stats_file.set(value) },
    Known { name: b"STATS_JSON", expected: PATH_EXPECTED, apply: |options, value| options.stats_json.set(value) },
    Known {
        name: b"STATS_PAGE",
        expected: b"1, or a path of up to 1000 bytes, in which % comes before p alone, for the process id",
        apply: |options, value| options.stats_page.set(if value == b"1" { PAGE_PLACE } else { value }),
    },
    Known { name: b"PROFILE", expected: PATH_EXPECTED, apply: |options, value| options.profile.set(value) },
    Known {
        name: b"PROFILE_INTERVAL",
        expected: b"bytes from 1 to 1T, such as 512K",
        apply: |options, value| {
            let bytes = size(value).filter(|bytes| PROFILE_INTERVAL_BYTES.contains(bytes))?;
            options.profile_interval_bytes.store(bytes, Ordering::Relaxed);
            Some(())
        },
    },
];

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// Bytes, or KiB, MiB, GiB or TiB with the suffix `K`, `M`, `G` or `T`; `None` if malformed or too large.
fn size(text: &[u8]) -> Option<usize> {
    let (digits, unit) = match text.split_last()? {
        (b'K' | b'k', digits) => (digits, 1 << 10),
        (b'M' | b'm', digits) => (digits, 1 << 20),
        (b'G' | b'g', digits) => (digits, 1 << 30),
        (b'T' | b't', digits) => (digits, 1 << 40),
        _ => (text, 1),
    };
    usize::try_from(number(digits)?).ok()?.checked_mul(unit)
}

/// A limit in bytes, or 0.
fn limit(text: &[u8]) -> Option<usize> {
    size(text).filter(|bytes| *bytes == NO_LIMIT || LIMIT_BYTES.contains(bytes))
}

fn switch(text: &[u8]) -> Option<bool> {
    match text {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

impl Options {
    /// A lane's defaults.
    pub const fn new(purge_delay_ms: u32, arena_bytes: usize) -> Self {
        Self {
            is_read: AtomicU32::new(0),
            purge_delay_ms: AtomicU32::new(purge_delay_ms),
            arena_bytes: AtomicUsize::new(arena_bytes),
            system_bytes: AtomicUsize::new(usize::MAX),
            follows_system: AtomicU32::new(0),
            soft_limit: AtomicUsize::new(AUTO_LIMIT),
            hard_limit_bytes: AtomicUsize::new(0),
            huge_pages: AtomicU32::new(HugePages::System as u32),
            name_maps: AtomicU32::new(0),
            small_cores: AtomicU32::new(0),
            background_thread: AtomicU32::new(Background::Auto as u32),
            verbose: AtomicU32::new(0),
            show_stats: AtomicU32::new(0),
            hide_errors: AtomicU32::new(0),
            stats_file: Path::none(),
            stats_json: Path::none(),
            stats_page: Path::none(),
            counts_heat: AtomicU32::new(0),
            profile: Path::none(),
            profile_interval_bytes: AtomicUsize::new(DEFAULT_PROFILE_INTERVAL_BYTES),
            deepbind: AtomicU32::new(Deepbind::Clear as u32),
        }
    }

    /// Reads the environment on the first call, after `check`. `warn` writes the parts of a line about an ignored option.
    #[inline]
    pub fn read<O: Os>(&self, check: fn(), warn: fn(&[&[u8]])) {
        // Acquire: pairs with the Release in `read_now`.
        if self.is_read.load(Ordering::Acquire) == 0 {
            check();
            self.read_now::<O>(warn);
        }
    }

    /// Threads that arrive together all read, and store the same values; none waits.
    #[cold]
    fn read_now<O: Os>(&self, warn: fn(&[&[u8]])) {
        O::begin();
        // First, because it decides whether the others are reported.
        O::for_each_variable(|variable| {
            if variable == b"HZ3_SHOW_ERRORS=0" {
                // Relaxed: see [`Options`].
                self.hide_errors.store(1, Ordering::Relaxed);
            }
        });
        O::for_each_variable(|variable| {
            if let Some(option) = variable.strip_prefix(PREFIX) {
                let split = option.iter().position(|&byte| byte == b'=').unwrap_or(option.len());
                let (name, value) = (option.get(..split).unwrap_or(b""), option.get(split + 1..).unwrap_or(b""));
                match self.set(name, value) {
                    Ok(()) => {}
                    Err(_) if !self.shows_errors() => {}
                    Err(Rejected::Unknown) => {
                        warn(&[PREFIX, name, b" is no option of this version; ignored"]);
                    }
                    Err(Rejected::Malformed { expected }) => {
                        let shown = value.get(..SHOWN_BYTES).unwrap_or(value);
                        let parts: [&[u8]; 7] = [PREFIX, name, b"=", shown, b": expected ", expected, b"; ignored"];
                        warn(&parts);
                    }
                }
            }
        });
        let counted = self.reports_at_exit() || !self.stats_page.is_none();
        self.counts_heat.store(u32::from(counted), Ordering::Relaxed);
        if self.names_maps() {
            O::name_mappings();
        }
        self.ask_system::<O>();
        // Release: publishes all options. Pairs with the Acquire in `read`.
        self.is_read.store(1, Ordering::Release);
    }

    fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Rejected> {
        let known = KNOWN.iter().find(|known| known.name == name).ok_or(Rejected::Unknown)?;
        (known.apply)(self, value).ok_or(Rejected::Malformed { expected: known.expected })
    }

    /// Milliseconds that free pages are kept; 0: purged at once; [`NEVER`].
    #[inline]
    pub fn purge_delay_ms(&self) -> u32 {
        self.purge_delay_ms.load(Ordering::Relaxed)
    }

    /// The least limit of the process's control group in bytes; `usize::MAX` if there is none.
    pub fn system_bytes(&self) -> usize {
        // Relaxed: see [`Options`].
        self.system_bytes.load(Ordering::Relaxed)
    }

    /// Asks the system for its limit on memory, if a soft limit follows it.
    pub fn ask_system<O: Os>(&self) {
        if self.soft_limit().is_of_system() {
            // Relaxed: see [`Options`].
            self.system_bytes.store(O::memory_limit(), Ordering::Relaxed);
        }
    }

    /// Whether the system may be asked again, which opens files: who has not said so may have a filter that kills for it.
    pub fn follows_system(&self) -> bool {
        self.follows_system.load(Ordering::Relaxed) == 1
    }

    /// Sets whether the system may be asked again.
    pub fn set_follows_system(&self, follows: bool) {
        self.follows_system.store(u32::from(follows), Ordering::Relaxed);
    }

    /// Whether mappings get names.
    pub fn names_maps(&self) -> bool {
        self.name_maps.load(Ordering::Relaxed) == 1
    }

    /// Whether core dumps leave out long ranges of free memory.
    pub fn has_small_cores(&self) -> bool {
        self.small_cores.load(Ordering::Relaxed) == 1
    }

    /// A sixteenth of the addresses that the first window may reach over.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes.load(Ordering::Relaxed)
    }

    /// The soft limit.
    pub fn soft_limit(&self) -> SoftLimit {
        match self.soft_limit.load(Ordering::Relaxed) {
            NO_LIMIT => SoftLimit::None,
            AUTO_LIMIT => SoftLimit::Auto,
            percent @ ..=100 => SoftLimit::Percent(percent as u32),
            bytes => SoftLimit::Bytes(bytes),
        }
    }

    /// Sets the soft limit; bytes and hundredths as [`Options::soft_limit`] can tell them apart.
    pub fn set_soft_limit(&self, limit: SoftLimit) {
        self.soft_limit.store(limit.word(), Ordering::Relaxed);
    }

    /// The hard limit in bytes; 0 if there is none.
    #[inline]
    pub fn hard_limit_bytes(&self) -> usize {
        self.hard_limit_bytes.load(Ordering::Relaxed)
    }

    /// Sets the hard limit in bytes; 0: none.
    pub fn set_hard_limit_bytes(&self, bytes: usize) {
        self.hard_limit_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The choice of huge pages.
    pub fn huge_pages(&self) -> HugePages {
        const NEVER: u32 = HugePages::Never as u32;
        const ALWAYS: u32 = HugePages::Always as u32;
        match self.huge_pages.load(Ordering::Relaxed) {
            NEVER => HugePages::Never,
            ALWAYS => HugePages::Always,
            _ => HugePages::System,
        }
    }

    /// Applies [`Options::huge_pages`] to fresh memory.
    ///
    /// # Safety
    /// The caller owns the range, reserved or mapped, in whole pages.
    pub unsafe fn advise<O: Os>(&self, start: NonNull<u8>, bytes: usize) {
        let huge = match self.huge_pages() {
            HugePages::System => return,
            HugePages::Never => false,
            HugePages::Always => true,
        };
        // SAFETY: the caller keeps the contract of `Os::prefer_huge`, which is the same.
        unsafe { O::prefer_huge(start, bytes, huge) }
    }

    /// Whether any statistics are written at exit.
    pub fn reports_at_exit(&self) -> bool {
        self.shows_stats() || !self.stats_file.is_none() || !self.stats_json.is_none()
    }

    /// Whether to keep the counts that only the exit statistics and the statistics page show.
    #[inline]
    pub fn counts_heat(&self) -> bool {
        self.counts_heat.load(Ordering::Relaxed) != 0
    }

    /// Path of the heap profile.
    pub fn profile(&self) -> &Path {
        &self.profile
    }

    /// Mean bytes between two samples of the heap profile.
    pub fn profile_interval_bytes(&self) -> usize {
        self.profile_interval_bytes.load(Ordering::Relaxed)
    }

    /// Whether `dlopen` passes `RTLD_DEEPBIND` on.
    pub fn keeps_deepbind(&self) -> bool {
        self.deepbind.load(Ordering::Relaxed) == Deepbind::Keep as u32
    }

    /// When a background thread purges while the program's threads are idle.
    pub fn background_thread(&self) -> Background {
        const NEVER: u32 = Background::Never as u32;
        const ALWAYS: u32 = Background::Always as u32;
        match self.background_thread.load(Ordering::Relaxed) {
            NEVER => Background::Never,
            ALWAYS => Background::Always,
            _ => Background::Auto,
        }
    }

    /// Whether the library reports its version and options at start.
    pub fn is_verbose(&self) -> bool {
        self.verbose.load(Ordering::Relaxed) != 0
    }

    /// Whether statistics are written to standard error at exit.
    pub fn shows_stats(&self) -> bool {
        self.show_stats.load(Ordering::Relaxed) != 0
    }

    /// Whether ignored options and unwritable files are reported.
    pub fn shows_errors(&self) -> bool {
        self.hide_errors.load(Ordering::Relaxed) == 0
    }

    /// Path of the table of statistics at exit.
    pub fn stats_file(&self) -> &Path {
        &self.stats_file
    }

    /// Path of the JSON statistics at exit.
    pub fn stats_json(&self) -> &Path {
        &self.stats_json
    }

    /// Path of the statistics page.
    pub fn stats_page(&self) -> &Path {
        &self.stats_page
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Rejected {
    Unknown,
    Malformed { expected: &'static [u8] },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options::new(1000, 4 << 30)
    }

    #[test]
    fn a_purge_delay_is_milliseconds_or_never() {
        let options = options();
        for (text, delay) in [("0", 0), ("250", 250), ("3600000", 3_600_000), ("-1", NEVER)] {
            assert_eq!(options.set(b"PURGE_DELAY_MS", text.as_bytes()), Ok(()));
            assert_eq!(options.purge_delay_ms(), delay);
        }
        for text in ["", "-2", "1s", "3600001", "99999999999999999999", "0x10", " 1"] {
            assert!(
                matches!(options.set(b"PURGE_DELAY_MS", text.as_bytes()), Err(Rejected::Malformed { .. })),
                "{text}"
            );
            assert_eq!(options.purge_delay_ms(), NEVER, "{text}");
        }
    }

    #[test]
    fn an_arena_s_size_has_a_unit() {
        let options = options();
        for (text, bytes) in [("4M", 4 << 20), ("8192K", 8 << 20), ("16t", 16 << 40), ("1073741824", 1 << 30)] {
            assert_eq!(options.set(b"ARENA_SIZE", text.as_bytes()), Ok(()));
            assert_eq!(options.arena_bytes(), bytes);
        }
        for text in ["", "M", "1M", "17T", "4GB", "99999999999999999T"] {
            assert!(matches!(options.set(b"ARENA_SIZE", text.as_bytes()), Err(Rejected::Malformed { .. })), "{text}");
        }
        assert_eq!(options.arena_bytes(), 1 << 30);
    }

    #[test]
    fn limits_are_sizes_and_the_soft_one_a_part_of_what_there_is_too() {
        let options = options();
        assert_eq!((options.soft_limit(), options.hard_limit_bytes()), (SoftLimit::Auto, 0));
        for (text, limit) in [
            ("1M", SoftLimit::Bytes(1 << 20)),
            ("64T", SoftLimit::Bytes(64 << 40)),
            ("1%", SoftLimit::Percent(1)),
            ("100%", SoftLimit::Percent(100)),
            ("0", SoftLimit::None),
            ("auto", SoftLimit::Auto),
            ("512m", SoftLimit::Bytes(512 << 20)),
        ] {
            assert_eq!((options.set(b"SOFT_LIMIT", text.as_bytes()), options.soft_limit()), (Ok(()), limit));
        }
        for text in ["", "%", "0%", "101%", "1000", "65T", "-1", "half", "50 %", "AUTO"] {
            assert!(matches!(options.set(b"SOFT_LIMIT", text.as_bytes()), Err(Rejected::Malformed { .. })), "{text}");
        }
        assert_eq!(options.soft_limit(), SoftLimit::Bytes(512 << 20));
        for (text, bytes) in [("0", 0), ("300M", 300 << 20)] {
            assert_eq!((options.set(b"HARD_LIMIT", text.as_bytes()), options.hard_limit_bytes()), (Ok(()), bytes));
        }
        for text in ["", "4095", "auto", "50%", "65T"] {
            assert!(matches!(options.set(b"HARD_LIMIT", text.as_bytes()), Err(Rejected::Malformed { .. })), "{text}");
        }
    }

    #[test]
    fn a_profile_has_an_interval() {
        let options = options();
        assert_eq!(options.profile_interval_bytes(), 512 << 10);
        for (text, bytes) in [("1", 1), ("64K", 64 << 10), ("1T", 1 << 40)] {
            assert_eq!(options.set(b"PROFILE_INTERVAL", text.as_bytes()), Ok(()));
            assert_eq!(options.profile_interval_bytes(), bytes);
        }
        for text in ["0", "", "2T", "-1"] {
            assert!(matches!(options.set(b"PROFILE_INTERVAL", text.as_bytes()), Err(Rejected::Malformed { .. })));
        }
    }

    #[test]
    fn switches_are_0_or_1_and_other_names_are_unknown() {
        let options = options();
        assert_eq!((options.huge_pages(), options.background_thread()), (HugePages::System, Background::Auto));
        for (text, wanted) in [("1", HugePages::Always), ("0", HugePages::Never)] {
            assert_eq!(options.set(b"THP", text.as_bytes()), Ok(()));
            assert_eq!(options.huge_pages(), wanted);
        }
        for (text, wanted) in [("1", Background::Always), ("0", Background::Never), ("auto", Background::Auto)] {
            assert_eq!(options.set(b"BACKGROUND_THREAD", text.as_bytes()), Ok(()));
            assert_eq!(options.background_thread(), wanted);
        }
        assert!(matches!(options.set(b"BACKGROUND_THREAD", b"yes"), Err(Rejected::Malformed { .. })));
        for (text, keeps) in [("keep", true), ("clear", false)] {
            assert_eq!(options.set(b"DEEPBIND", text.as_bytes()), Ok(()));
            assert_eq!(options.keeps_deepbind(), keeps);
        }
        assert!(matches!(options.set(b"DEEPBIND", b"1"), Err(Rejected::Malformed { .. })));
        assert_eq!(options.set(b"COLOUR", b"1"), Err(Rejected::Unknown));
        assert_eq!(options.set(b"TH", b"1"), Err(Rejected::Unknown));
    }

    #[test]
    fn a_path_is_copied_and_has_a_limit() {
        let options = options();
        assert!(options.stats_json().is_none());
        assert_eq!(options.set(b"STATS_JSON", b"/tmp/a-%p.json"), Ok(()));
        assert!(options.stats_json().bytes().eq(*b"/tmp/a-%p.json"));
        assert_eq!(options.set(b"STATS_JSON", b"short"), Ok(()));
        assert!(options.stats_json().bytes().eq(*b"short"));
        for rejected in [&b""[..], b"%", b"a%", b"%d", b"%%", b"a%pb%x", &[b'x'; PATH_BYTES + 1]] {
            assert!(matches!(options.set(b"STATS_JSON", rejected), Err(Rejected::Malformed { .. })));
        }
        assert!(options.stats_json().bytes().eq(*b"short"));
        assert!(options.stats_file().is_none());
        assert_eq!(options.set(b"STATS_PAGE", b"1"), Ok(()));
        assert!(options.stats_page().bytes().eq(PAGE_PLACE.iter().copied()) && options.stats_page().names_process());
        assert_eq!(options.set(b"STATS_PAGE", b"/tmp/1"), Ok(()));
        assert!(options.stats_page().bytes().eq(*b"/tmp/1"));
    }
}
