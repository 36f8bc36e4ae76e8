//! Report: `mallinfo`, `mallinfo2`, `malloc_stats`, `malloc_info` and the banner.
//!
//! Nothing here allocates: text is formatted in a buffer and written at once. All but the smallest runs on a stack of its
//! own: the caller's may be small.

use crate::output::File;
use core::fmt::Write;
use hz3_core::Lane;
use hz3_core::observe::counts::{ROWS, Stats};
use hz3_core::observe::stats::{BinStats, collect, collect_with_bins};
use hz3_core::pages::bins::BINS;
use hz3_core::platform::linux::Linux;
use hz3_core::platform::options::{Background, HugePages, NEVER, Options, SoftLimit};
use hz3_core::platform::os::Os;
use hz3_core::platform::own_stack::{self, Signals};

/// Bytes of the longest report: a line, with room to spare, per row, head and foot.
const TEXT_BYTES: usize = (ROWS + 3) * 80;

/// Bounded text; the excess is dropped.
struct Text {
    bytes: [u8; TEXT_BYTES],
    used: usize,
}

impl Text {
    const fn new() -> Self {
        Self { bytes: [0; TEXT_BYTES], used: 0 }
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or(&[])
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for &byte in text.as_bytes() {
            let place = self.bytes.get_mut(self.used).ok_or(core::fmt::Error)?;
            *place = byte;
            self.used += 1;
        }
        Ok(())
    }
}

/// Defines a `struct mallinfo` of numbers of a type. The `libc` crate has them for glibc alone.
macro_rules! mallinfo {
    ($(#[$attribute:meta])* $name:ident: $number:ty) => {
        $(#[$attribute])*
        #[repr(C)]
        #[allow(missing_docs, reason = "the table of `mallinfo2` has the fields")]
        pub struct $name {
            pub arena: $number,
            pub ordblks: $number,
            pub smblks: $number,
            pub hblks: $number,
            pub hblkhd: $number,
            pub usmblks: $number,
            pub fsmblks: $number,
            pub uordblks: $number,
            pub fordblks: $number,
            pub keepcost: $number,
        }
    };
}

mallinfo! {
    /// mallinfo(3): `struct mallinfo`.
    Mallinfo: i32
}
mallinfo! {
    /// mallinfo(3): `struct mallinfo2`.
    Mallinfo2: usize
}

/// `mallinfo2`, with fields as close to glibc's as possible: `arena = uordblks + fordblks`, and `hblkhd` is separate.
/// Exact while no thread allocates or frees. Bytes, except for `hblks`.
///
/// | field | here |
/// |---|---|
/// | `arena` | committed bytes of arenas |
/// | `uordblks` | live blocks in arenas, with their whole slots or pages |
/// | `fordblks` | the rest of `arena`: cached slots, free slots in spans, free runs |
/// | `fsmblks` | part of `fordblks`: cached slots, in magazines, stashes, depots and quarantines |
/// | `keepcost` | part of `fordblks`: dirty runs, which `malloc_trim` purges |
/// | `hblks`, `hblkhd` | number and bytes of direct mappings |
/// | `ordblks`, `smblks`, `usmblks` | 0: not counted |
pub fn mallinfo2<L: Lane>() -> Mallinfo2 {
    let stats = collect::<L>();
    Mallinfo2 {
        arena: stats.committed_bytes,
        ordblks: 0,
        smblks: 0,
        hblks: stats.direct_blocks,
        hblkhd: stats.direct_bytes,
        usmblks: 0,
        fsmblks: stats.cached_bytes(),
        uordblks: stats.arena_live_bytes(),
        fordblks: stats.committed_bytes.saturating_sub(stats.arena_live_bytes()),
        keepcost: stats.dirty_bytes,
    }
}

/// `mallinfo`: [`mallinfo2`] in ints that wrap.
pub fn mallinfo<L: Lane>() -> Mallinfo {
    let wide = mallinfo2::<L>();
    Mallinfo {
        arena: wide.arena as i32,
        ordblks: wide.ordblks as i32,
        smblks: wide.smblks as i32,
        hblks: wide.hblks as i32,
        hblkhd: wide.hblkhd as i32,
        usmblks: wide.usmblks as i32,
        fsmblks: wide.fsmblks as i32,
        uordblks: wide.uordblks as i32,
        fordblks: wide.fordblks as i32,
        keepcost: wide.keepcost as i32,
    }
}

/// Writes a line for the library and one per count. Errors are dropped; `out` may keep them.
pub fn write_counts<L: Lane>(out: &mut impl Write, stats: &Stats) {
    let _ = writeln!(out, "hz3 {} lane {}", env!("CARGO_PKG_VERSION"), L::NAME);
    for (name, value) in stats.rows() {
        let _ = writeln!(out, "{name:<24}{value:>20}");
    }
}

/// `malloc_stats`: a line per count, to standard error.
pub fn malloc_stats<L: Lane>() {
    own_stack::call(Signals::Pass, || {
        let mut text = Text::new();
        write_counts::<L>(&mut text, &collect::<L>());
        Linux::write_error(text.as_bytes());
    });
}

/// Fills the first `size` bytes of `out`, whole counts only, in the order of [`Stats::rows`]: that of `struct
/// hz3_stats`, which grows at its end. Returns the bytes of all counts.
///
/// # Safety
/// `size` bytes at `out` are writable; it may be unaligned.
pub unsafe fn fill<L: Lane>(out: *mut usize, size: usize) -> usize {
    let wanted = size / size_of::<usize>();
    if wanted > 0 {
        own_stack::call(Signals::Pass, || {
            for (index, (_, value)) in collect::<L>().rows().enumerate().take(wanted) {
                // SAFETY: the count lies within the `size` writable bytes; unaligned writes are allowed.
                unsafe { out.add(index).write_unaligned(value) };
            }
        });
    }
    ROWS * size_of::<usize>()
}

/// Writes the table of [`malloc_stats`] to a descriptor: 0, or -1 and `errno`.
pub fn dump<L: Lane>(descriptor: i32) -> i32 {
    let outcome = own_stack::call(Signals::Pass, || {
        let mut file = File::borrowed(descriptor);
        write_counts::<L>(&mut file, &collect::<L>());
        file.finish()
    });
    match outcome {
        Some(Err(error)) => {
            // SAFETY: this thread's `errno`.
            unsafe { *libc::__errno_location() = error };
            -1
        }
        _ => 0,
    }
}

/// Writes nothing after the first failure.
struct Stream {
    stream: *mut libc::FILE,
    failed: bool,
}

impl Write for Stream {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        if !self.failed {
            // SAFETY: `text` has that many bytes, and `malloc_info`'s caller promises an open stream.
            self.failed = unsafe { libc::fwrite(text.as_ptr().cast(), 1, text.len(), self.stream) } != text.len();
        }
        if self.failed { Err(core::fmt::Error) } else { Ok(()) }
    }
}

/// `malloc_info`: an XML element per count, and a `size` element per bin with spans (docs/statistics.md). 0, or -1 and
/// `errno` if `options` is not 0 or the stream fails.
///
/// Counts everything before the first write, because the stream may allocate.
///
/// # Safety
/// `stream` is an open stream.
pub unsafe fn malloc_info<L: Lane>(options: i32, stream: *mut libc::FILE) -> i32 {
    if options != 0 {
        // SAFETY: this thread's `errno`.
        unsafe { *libc::__errno_location() = libc::EINVAL };
        return -1;
    }
    let outcome = own_stack::call(Signals::Pass, || {
        let mut bins = [BinStats::default(); BINS];
        let stats = collect_with_bins::<L>(&mut bins);
        let mut stream = Stream { stream, failed: false };
        write_xml::<L>(&mut stream, &stats, &bins)
    });
    if outcome == Some(Ok(())) { 0 } else { -1 }
}

fn write_xml<L: Lane>(out: &mut impl Write, stats: &Stats, bins: &[BinStats]) -> core::fmt::Result {
    writeln!(out, "<malloc version=\"hz3-{}\" lane=\"{}\">", env!("CARGO_PKG_VERSION"), L::NAME)?;
    for (name, value) in stats.rows() {
        writeln!(out, "  <count name=\"{name}\" value=\"{value}\"/>")?;
    }
    writeln!(out, "  <sizes>")?;
    // A bin serves sizes above the next smaller slot; the smallest also serves 0 bytes.
    let mut from = 0;
    for bin in bins.iter().filter(|bin| bin.slot_bytes > 0) {
        let (to, total) = (bin.slot_bytes, bin.span_bytes);
        if total > 0 {
            write!(out, "    <size from=\"{from}\" to=\"{to}\" total=\"{total}\" live=\"{}\"", bin.live())?;
            write!(out, " threads=\"{}\" depots=\"{}\"", bin.in_threads, bin.in_depots)?;
            writeln!(out, " spans=\"{}\" rest=\"{}\"/>", bin.free_in_spans(), bin.rest_bytes())?;
        }
        from = to + 1;
    }
    writeln!(out, "  </sizes>\n</malloc>")
}

/// At start: version, lane and options, if `HZ3_VERBOSE` asks for them.
pub fn banner<L: Lane>() {
    let options = L::allocator().read_options();
    if options.is_verbose() {
        own_stack::call(Signals::Pass, || show::<L>(options));
    }
}

fn show<L: Lane>(options: &Options) {
    let mut text = Text::new();
    let _ = writeln!(text, "hz3: version {} lane {}", env!("CARGO_PKG_VERSION"), L::NAME);
    let delay = options.purge_delay_ms();
    let _ = writeln!(text, "hz3: HZ3_PURGE_DELAY_MS={}", if delay == NEVER { -1 } else { i64::from(delay) });
    let _ = writeln!(text, "hz3: HZ3_ARENA_SIZE={}", options.arena_bytes());
    let _ = match options.soft_limit() {
        SoftLimit::None => writeln!(text, "hz3: HZ3_SOFT_LIMIT=0"),
        SoftLimit::Auto => writeln!(text, "hz3: HZ3_SOFT_LIMIT=auto"),
        SoftLimit::Bytes(bytes) => writeln!(text, "hz3: HZ3_SOFT_LIMIT={bytes}"),
        SoftLimit::Percent(percent) => writeln!(text, "hz3: HZ3_SOFT_LIMIT={percent}%"),
    };
    let _ = writeln!(text, "hz3: HZ3_HARD_LIMIT={}", options.hard_limit_bytes());
    let huge_pages = match options.huge_pages() {
        HugePages::System => "as the system has them",
        HugePages::Never => "0",
        HugePages::Always => "1",
    };
    let _ = writeln!(text, "hz3: HZ3_THP={huge_pages}");
    let background = match options.background_thread() {
        Background::Auto => "auto",
        Background::Never => "0",
        Background::Always => "1",
    };
    let _ = writeln!(text, "hz3: HZ3_BACKGROUND_THREAD={background}");
    let _ = writeln!(text, "hz3: HZ3_NAME_MAPS={}", u8::from(options.names_maps()));
    let _ = writeln!(text, "hz3: HZ3_SMALL_CORES={}", u8::from(options.has_small_cores()));
    let _ = writeln!(text, "hz3: HZ3_SHOW_ERRORS={}", u8::from(options.shows_errors()));
    let _ = writeln!(text, "hz3: HZ3_SHOW_STATS={}", u8::from(options.shows_stats()));
    let _ = writeln!(text, "hz3: HZ3_DEEPBIND={}", if options.keeps_deepbind() { "keep" } else { "clear" });
    for (name, path) in [
        ("STATS_FILE", options.stats_file()),
        ("STATS_JSON", options.stats_json()),
        ("STATS_PAGE", options.stats_page()),
        ("PROFILE", options.profile()),
    ] {
        let _ = write!(text, "hz3: HZ3_{name}=");
        // Shows the path's first 256 bytes; the whole of it is used.
        for byte in path.bytes().take(256) {
            let _ = text.write_char(if byte.is_ascii_graphic() { char::from(byte) } else { '?' });
        }
        let _ = text.write_char('\n');
    }
    let _ = writeln!(text, "hz3: HZ3_PROFILE_INTERVAL={}", options.profile_interval_bytes());
    Linux::write_error(text.as_bytes());
}
