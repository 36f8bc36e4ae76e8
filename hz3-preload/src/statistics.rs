//! Statistics: the report at exit, if the options ask for it: as a table or as JSON, from the same counts.
//!
//! ```text
//! counts      every count of `stats`
//! where       uses of hz3's memory, adding up to what is mapped, each with what changes it
//! resident    resident bytes of the arenas and of the process (mincore(2), proc(5))
//! bins        each bin with spans
//! shards      spans, depots and inboxes
//! heat        who frees whose slots
//! ```
//!
//! Nothing here allocates, and all of it runs on a stack of its own: the thread that calls `exit` may have a small one.
//! Outside rules: mincore(2); proc(5), `/proc/self/statm`.

use crate::output::{self, File};
use crate::report::write_counts;
use core::ffi::c_int;
use core::fmt::Write;
use hz3_core::Lane;
use hz3_core::observe::counts::{Stats, Use};
use hz3_core::observe::stats::{BinStats, ShardStats, collect_shard, collect_with_bins};
use hz3_core::pages::bins::BINS;
use hz3_core::platform::options::{Options, Path};
use hz3_core::platform::own_stack::{self, Signals};
use hz3_core::platform::system_page;
use hz3_core::platform::units::{Bin, PAGE_BYTES};
use hz3_core::record::heat::SHARDS;

type Format = fn(&mut File, &Counts);

struct Counts {
    stats: Stats,
    bins: [BinStats; BINS],
    process_resident: usize,
    arenas_resident: usize,
}

impl Counts {
    fn take<L: Lane>() -> Self {
        let mut bins = [BinStats::default(); BINS];
        Counts {
            stats: collect_with_bins::<L>(&mut bins),
            bins,
            process_resident: process_resident(),
            arenas_resident: arenas_resident::<L>(),
        }
    }
}

/// At exit: writes the reports that the options ask for. `_exit`, `quick_exit`, exec and signals skip it.
pub fn at_exit<L: Lane>() {
    let options = L::allocator().read_options();
    if options.reports_at_exit() {
        own_stack::call(Signals::Pass, || write_reports::<L>(options));
    }
}

fn write_reports<L: Lane>(options: &Options) {
    let counts = Counts::take::<L>();
    if options.shows_stats() {
        let mut file = File::borrowed(libc::STDERR_FILENO);
        write_table::<L>(&mut file, &counts);
        // Standard error failed, so there is nowhere to report it.
        let _ = file.finish();
    }
    let formats: [(&[u8], _, Format); 2] = [
        (b"HZ3_STATS_FILE: the file can't be written", options.stats_file(), write_table::<L>),
        (b"HZ3_STATS_JSON: the file can't be written", options.stats_json(), write_json::<L>),
    ];
    for (failure, path, format) in formats {
        if !path.is_none()
            && let Err(error) = write_file(path, &counts, format)
        {
            output::cannot(options, failure, error, path);
        }
    }
}

fn write_file(path: &Path, counts: &Counts, format: Format) -> Result<(), c_int> {
    let mut file = File::create(path)?;
    format(&mut file, counts);
    file.finish()
}

/// 0 if `whole` is 0.
fn percent(part: u64, whole: u64) -> u64 {
    (part * 100).checked_div(whole).unwrap_or(0)
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

fn bins_in_use(counts: &Counts) -> impl Iterator<Item = (Bin, &BinStats)> {
    counts.bins.iter().enumerate().filter(|(_, bin)| bin.span_bytes > 0).map(|(number, bin)| (Bin(number as u8), bin))
}

fn shards<L: Lane>() -> impl Iterator<Item = (usize, ShardStats)> {
    (0..SHARDS).map_while(|index| Some((index, collect_shard::<L>(index)?)))
}

/// Write errors are dropped, here and below: `finish` returns the first one.
fn write_table<L: Lane>(file: &mut File, counts: &Counts) {
    write_counts::<L>(file, &counts.stats);
    let _ = writeln!(file, "\nwhere the memory is           MiB    what changes it");
    for Use { name, bytes, knob, .. } in counts.stats.uses() {
        let _ = writeln!(file, "{name:<22}{:>11.1}    {knob}", mib(bytes));
    }
    let _ = writeln!(file, "{:<22}{:>11.1}    the sum", "mapped", mib(counts.stats.mapped_bytes()));
    let _ = writeln!(
        file,
        "{:<22}{:>11.1}    of the arenas, holds memory now",
        "arenas_resident",
        mib(counts.arenas_resident)
    );
    let _ = writeln!(
        file,
        "{:<22}{:>11.1}    code, stacks and files included",
        "process_resident",
        mib(counts.process_resident)
    );
    let _ = writeln!(file, "\n  bytes       live    threads     depots      spans MiB  unused %");
    for (_, bin) in bins_in_use(counts) {
        let unused = percent(bin.unused_bytes() as u64, bin.span_bytes as u64);
        let (bytes, live) = (bin.slot_bytes, bin.live());
        let _ = writeln!(
            file,
            "{bytes:>7} {live:>10} {:>10} {:>10} {:>14.1} {unused:>9}",
            bin.in_threads,
            bin.in_depots,
            mib(bin.span_bytes)
        );
    }
    let _ = writeln!(file, "\n  shard  spans MiB   out MiB  depots MiB  inboxes MiB");
    for (index, shard) in shards::<L>().filter(|(_, shard)| shard.span_bytes + shard.depot_bytes > 0) {
        let _ = writeln!(
            file,
            "{index:>7} {:>10.1} {:>9.1} {:>11.1} {:>12.1}",
            mib(shard.span_bytes),
            mib(shard.out_bytes),
            mib(shard.depot_bytes),
            mib(shard.inbox_bytes)
        );
    }
    write_heat::<L>(file, counts);
}

fn write_heat<L: Lane>(file: &mut File, counts: &Counts) {
    let heat = &L::allocator().exchange.heat;
    let _ = writeln!(file, "\nslots that threads handed on, and of them other shards'");
    let _ = writeln!(file, "  bytes      freed    foreign      %    adopted   per batch");
    for (number, bin) in bins_in_use(counts) {
        let heat = heat.counts(number);
        if heat.freed > 0 || heat.batches > 0 {
            let per_batch = heat.batched as f64 / heat.batches.max(1) as f64;
            let _ = writeln!(
                file,
                "{:>7} {:>10} {:>10} {:>6} {:>10} {per_batch:>11.1}",
                bin.slot_bytes,
                heat.freed,
                heat.foreign,
                percent(heat.foreign, heat.freed),
                heat.adopted
            );
        }
    }
    let _ = writeln!(file, "freed by threads of shard: by owner");
    for shard in 0..L::SHARD_COUNT {
        if (0..L::SHARD_COUNT).any(|owner| heat.flow(shard, owner) > 0) {
            let _ = write!(file, "{shard:>7}:");
            for owner in (0..L::SHARD_COUNT).filter(|&owner| heat.flow(shard, owner) > 0) {
                let _ = write!(file, " {owner}={}", heat.flow(shard, owner));
            }
            let _ = writeln!(file);
        }
    }
}

fn write_list<T>(file: &mut File, items: impl Iterator<Item = T>, mut write: impl FnMut(&mut File, T)) {
    for (index, item) in items.enumerate() {
        if index > 0 {
            let _ = file.write_str(",");
        }
        write(file, item);
    }
}

fn write_rows(file: &mut File, stats: &Stats) {
    write_list(file, stats.rows(), |file, (name, value)| {
        let _ = write!(file, "\"{name}\":{value}");
    });
}

/// docs/statistics.md names the members.
fn write_json<L: Lane>(file: &mut File, counts: &Counts) {
    let heat = &L::allocator().exchange.heat;
    // SAFETY: no preconditions.
    let process = unsafe { libc::getpid() };
    let version = env!("CARGO_PKG_VERSION");
    let _ = write!(file, "{{\"schema\":1,\"version\":\"{version}\",\"lane\":\"{}\",\"pid\":{process},", L::NAME);
    let _ = write!(file, "\"counts\":{{");
    write_rows(file, &counts.stats);
    let _ = write!(file, "}},\"uses\":{{");
    write_list(file, counts.stats.uses().into_iter(), |file, Use { name, bytes, .. }| {
        let _ = write!(file, "\"{name}\":{bytes}");
    });
    let (process_bytes, arenas_bytes) = (counts.process_resident, counts.arenas_resident);
    let _ = write!(file, "}},\"resident\":{{\"process\":{process_bytes},\"arenas\":{arenas_bytes}}},\"bins\":[");
    write_list(file, bins_in_use(counts), |file, (number, bin)| {
        let (bytes, live, spans) = (bin.slot_bytes, bin.live(), bin.span_bytes);
        let heat = heat.counts(number);
        let _ = write!(file, "{{\"slot_bytes\":{bytes},\"live\":{live},\"span_bytes\":{spans},");
        let _ = write!(file, "\"in_threads\":{},\"in_depots\":{},", bin.in_threads, bin.in_depots);
        let _ = write!(file, "\"freed\":{},\"foreign\":{},\"adopted\":{},", heat.freed, heat.foreign, heat.adopted);
        let _ = write!(file, "\"batches\":{},\"batched\":{}}}", heat.batches, heat.batched);
    });
    let _ = write!(file, "],\"shards\":[");
    write_list(file, shards::<L>(), |file, (index, shard)| {
        let _ = write!(file, "{{\"span_bytes\":{},\"out_bytes\":{},", shard.span_bytes, shard.out_bytes);
        let _ = write!(file, "\"depot_bytes\":{},\"inbox_bytes\":{},", shard.depot_bytes, shard.inbox_bytes);
        let _ = write!(file, "\"freed_by_owner\":[");
        write_list(file, 0..L::SHARD_COUNT, |file, owner| {
            let _ = write!(file, "{}", heat.flow(index, owner));
        });
        let _ = write!(file, "]}}");
    });
    let _ = writeln!(file, "]}}");
}

/// 0 if unknown.
fn process_resident() -> usize {
    let mut text = [0_u8; 128];
    // SAFETY: the path is a C string, the buffer has that many bytes, and the descriptor is closed once.
    let read = unsafe {
        let file = libc::open(c"/proc/self/statm".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return 0;
        }
        let read = libc::read(file, text.as_mut_ptr().cast(), text.len());
        libc::close(file);
        read
    };
    let text = text.get(..usize::try_from(read).unwrap_or(0)).and_then(|text| core::str::from_utf8(text).ok());
    let pages = text.and_then(|text| text.split(' ').nth(1)).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * system_page::bytes()
}

fn arenas_resident<L: Lane>() -> usize {
    let (mut pages, page_bytes) = ([0_u8; 4096], system_page::bytes());
    let mut resident = 0;
    let _ = L::allocator().pages.runs.arenas.each_committed(|stretch| {
        let all = stretch.pages * PAGE_BYTES / page_bytes;
        for first in (0..all).step_by(pages.len()) {
            let count = pages.len().min(all - first);
            let start = core::ptr::with_exposed_provenance_mut(stretch.start + first * page_bytes);
            // SAFETY: the buffer has a byte for each of the pages.
            if unsafe { libc::mincore(start, count * page_bytes, pages.as_mut_ptr()) } != 0 {
                // The end of a window was unmapped meanwhile.
                continue;
            }
            resident += pages.iter().take(count).filter(|&&page| page & 1 != 0).count() * page_bytes;
        }
        Ok::<(), ()>(())
    });
    resident
}
