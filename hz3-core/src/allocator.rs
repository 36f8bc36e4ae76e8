//! Allocator: all the state of a lane, and how slots move between its shards and spans.
//!
//! ```text
//! heap ⇄ depot of its shard ⇄ depots of the others      whole magazines, one exchange each
//!  ↓ stash                                              batches of one owner and bin
//! inbox / spans of the owner → runs → operating system
//! ```

use crate::hardening::free_mark;
use crate::lane::{Lane, Shards};
use crate::pages::bins::{self, BINS};
use crate::pages::guards::Held;
use crate::pages::large::Directs;
use crate::pages::page_tag::PageTag;
use crate::pages::runs::Runs;
use crate::pages::span::{Kind, NotReturned, at};
use crate::platform::abort;
use crate::platform::options::Options;
use crate::platform::os::Os;
use crate::platform::sync::{AtomicU32, AtomicU64, Mutex, Ordering};
use crate::platform::units::{Bin, PAGE_BYTES, ShardId, SpanId, elapsed_ms};
use crate::record::heat::Heat;
use crate::record::observer::Publisher;
use crate::record::profile::Profile;
use crate::thread::heap::Heaps;
use crate::thread::hooks::Hooks;
use crate::transfer::depot::{Links, Stocked};
use crate::transfer::magazine::{CLASSES, Magazine, Magazines, shape};
use crate::transfer::shard::Shard;
use crate::upkeep::round::Upkeep;
use core::ptr::{NonNull, null_mut};

/// Largest slot whose pages are made present ahead: larger ones may never be written in the middle.
const POPULATED_SLOT_BYTES: u32 = 2048;

/// A lane's allocator.
pub struct Allocator<L: Lane> {
    /// Pages.
    pub runs: Runs<L::Os>,
    /// Magazines.
    pub magazines: Magazines,
    /// Threads' heaps.
    pub heaps: Heaps<L>,
    /// Blocks mapped on their own.
    pub directs: Directs<L::Os>,
    shards: L::Shards,
    /// Per bin, which shards may have full magazines.
    stocked: [Stocked; BINS],
    /// Per bin, a bit for each shard that has slots at home. Sync: a shard's bit is written under its lock.
    roomy: [AtomicU32; BINS],
    /// Empty magazines that no shard's stack had room for, by class.
    spare_magazines: Mutex<[u32; CLASSES], L::Os>,
    next_shard: AtomicU32,
    /// When upkeep is due and how far it has come.
    pub upkeep: Upkeep,
    /// Bytes purged so far.
    pub purged_bytes: AtomicU64,
    /// Trims asked for so far. Threads see it at their next slow path, and empty their caches.
    trims: AtomicU32,
    /// The process-wide hooks.
    pub hooks: Hooks<L::Os>,
    /// Who frees whose slots, where the options ask for it.
    pub heat: Heat,
    /// Runs that may not be used yet.
    pub held: Held<L::Os>,
    /// Which stacks the program's memory comes from, if that was asked for.
    pub profile: Profile<L::Os>,
    /// Who is told that time passes.
    pub publisher: Publisher,
}

impl<L: Lane> Allocator<L> {
    /// An allocator that has asked the system for nothing yet.
    #[allow(clippy::new_without_default, reason = "only a lane's static is one")]
    pub const fn new() -> Self {
        Self {
            runs: Runs::new(Options::new(L::PURGE_DELAY_MS, L::FIRST_ARENA_BYTES)),
            magazines: Magazines::new(),
            heaps: Heaps::new(),
            directs: Directs::new(),
            shards: L::FRESH_SHARDS,
            stocked: [const { Stocked::new() }; BINS],
            roomy: [const { AtomicU32::new(0) }; BINS],
            spare_magazines: Mutex::new([0; CLASSES]),
            next_shard: AtomicU32::new(0),
            upkeep: Upkeep::new(),
            purged_bytes: AtomicU64::new(0),
            trims: AtomicU32::new(0),
            hooks: Hooks::new(),
            heat: Heat::new(),
            held: Held::new(),
            profile: Profile::new(),
            publisher: Publisher::nobody(),
        }
    }

    /// What the environment says.
    #[inline]
    pub fn options(&self) -> &Options {
        &self.runs.arenas.options
    }

    /// Every shard.
    pub fn shards(&self) -> &[Shard<L::Os>] {
        self.shards.all()
    }

    /// The shard `id`; ids beyond the last wrap around.
    #[inline]
    pub fn shard(&self, id: ShardId) -> &Shard<L::Os> {
        let index = usize::from(id.0) & (L::SHARD_COUNT - 1);
        // SAFETY: every lane's array holds SHARD_COUNT shards, a power of two.
        unsafe { self.shards.all().get_unchecked(index) }
    }

    /// Shards that threads have been assigned to so far, the lowest ids; no other one has a slot. At least one, the
    /// shard that threads without a heap use.
    pub fn used_shards(&self) -> impl Iterator<Item = ShardId> + use<L> {
        // Relaxed: what a thread that comes in just now has is not old.
        let assigned = self.next_shard.load(Ordering::Relaxed) as usize;
        (0..assigned.clamp(1, L::SHARD_COUNT) as u8).map(ShardId)
    }

    /// The shard for the next thread: each in turn.
    pub fn assign_shard(&self) -> ShardId {
        // Relaxed: any value does.
        ShardId((self.next_shard.fetch_add(1, Ordering::Relaxed) as usize & (L::SHARD_COUNT - 1)) as u8)
    }

    pub(crate) fn stocked(&self, bin: Bin) -> &Stocked {
        let index = usize::from(bin.0);
        &self.stocked[if index < BINS { index } else { 0 }]
    }

    /// Most magazines of `bin` in one depot.
    #[inline]
    fn depot_limit(bin: Bin) -> u32 {
        let bytes = usize::from(shape(L::shapes(), bin).capacity) * bins::info(bin).slot_bytes as usize;
        ((L::DEPOT_BYTES / bytes.max(1)) as u32).clamp(1, L::DEPOT_MAGAZINES)
    }

    // ---- magazines ----

    /// An empty magazine for `bin`, from `shard`'s spent ones if there are any; null where memory has run
    /// out.
    pub fn empty_magazine(&self, shard: ShardId, bin: Bin) -> *mut Magazine {
        let shape = shape(L::shapes(), bin);
        let magazine = match self.shard(shard).empty(shape.class).pop(&self.magazines) {
            // SAFETY: ids in stacks are magazines'.
            Some(id) => unsafe { self.magazines.get(id) },
            None => match self.spare_magazine(shape.class).or_else(|| self.magazines.create::<L::Os>(shape.class)) {
                Some(magazine) => magazine,
                None => return null_mut(),
            },
        };
        // SAFETY: the magazine is this thread's now.
        unsafe {
            (*magazine).count = 0;
            (*magazine).capacity = shape.capacity;
            (*magazine).origin = shard;
            Magazine::fetch(magazine);
        }
        magazine
    }

    /// Sends an empty magazine back to where full ones come from: its origin.
    ///
    /// # Safety
    /// The caller owns `magazine`, and no longer does afterwards.
    pub unsafe fn return_empty(&self, magazine: *mut Magazine) {
        // SAFETY: the caller's promise.
        let (id, class, origin) = unsafe { ((*magazine).id, (*magazine).class, (*magazine).origin) };
        if !self.shard(origin).empty(class).push(&self.magazines, id, u32::MAX) {
            let mut spare = self.spare_magazines.lock();
            if let Some(first) = spare.get_mut(usize::from(class)) {
                // Relaxed: under the lock.
                self.magazines.next(id).store(*first, Ordering::Relaxed);
                *first = id;
            }
        }
    }

    fn spare_magazine(&self, class: u8) -> Option<*mut Magazine> {
        let mut spare = self.spare_magazines.lock();
        let first = spare.get_mut(usize::from(class))?;
        if *first == 0 {
            return None;
        }
        // SAFETY: ids in the list are magazines'.
        let magazine = unsafe { self.magazines.get(*first) };
        // Relaxed: under the lock.
        *first = self.magazines.next(*first).load(Ordering::Relaxed);
        Some(magazine)
    }

    /// A magazine with slots of `bin`: from the depot of `shard`, its inbox, or another shard's. The flag
    /// says whether it was another's.
    pub fn take_full(&self, shard: ShardId, bin: Bin) -> Option<(*mut Magazine, bool)> {
        let own = Self::bit(shard);
        let mask = self.stocked(bin).mask();
        if mask == 0 {
            return None;
        }
        if mask & own != 0
            && let Some(magazine) = self.take_full_of(shard, bin)
        {
            return Some((magazine, false));
        }
        Self::in_turn(mask & !own, shard).find_map(|other| Some((self.take_full_of(other, bin)?, true)))
    }

    /// The shards of `mask` in turn, beginning with `first`, so that threads of different shards spread out.
    fn in_turn(mask: u32, first: ShardId) -> impl Iterator<Item = ShardId> {
        let mut left = mask.rotate_right(u32::from(first.0));
        core::iter::from_fn(move || {
            let next = ShardId(((left.trailing_zeros() + u32::from(first.0)) % 32) as u8);
            let is_one = left != 0;
            left &= left.wrapping_sub(1);
            is_one.then_some(next)
        })
    }

    /// As [`Allocator::take_full`], from the depot or inbox of `shard` alone.
    pub fn take_full_of(&self, shard: ShardId, bin: Bin) -> Option<*mut Magazine> {
        let depot = self.shard(shard).depot(bin);
        let id = depot.full.pop(&self.magazines).or_else(|| depot.inbox.pop(&self.magazines));
        depot.note_taken();
        self.stocked(bin).note_taken(Self::bit(shard), || depot.count() == 0);
        // SAFETY: ids in stacks are magazines', and this one is this thread's now.
        id.map(|id| unsafe {
            let magazine = self.magazines.get(id);
            (*magazine).origin = shard;
            magazine
        })
    }

    /// Puts a magazine of slots of `bin` into a stack of `shard`; false, and nothing done, where the stack
    /// holds as much as it may.
    ///
    /// # Safety
    /// The caller owns `magazine`, and no longer does after a success.
    pub unsafe fn put_full(&self, shard: ShardId, bin: Bin, magazine: *mut Magazine, inbox: bool) -> bool {
        let depot = self.shard(shard).depot(bin);
        let stack = if inbox { &depot.inbox } else { &depot.full };
        // SAFETY: the caller's promise.
        let pushed = stack.push(&self.magazines, unsafe { (*magazine).id }, Self::depot_limit(bin));
        if pushed {
            self.stocked(bin).note_pushed(Self::bit(shard));
        }
        pushed
    }

    /// Notes slots of `bin` that a thread of `shard` hands on, as [`Heat::note_freed`], if that is asked for.
    #[inline]
    pub fn note_freed(&self, shard: ShardId, bin: Bin, adopted: bool, slots: &[*mut u8]) {
        if self.options().counts_heat() {
            let owners = slots.iter().map(|slot| self.runs.arenas.tag_value(slot.addr()).owner());
            self.heat.note_freed(shard, bin, adopted, owners);
        }
    }

    /// As [`Allocator::note_freed`], a full magazine with `slots`.
    #[inline]
    pub fn note_spill(&self, shard: ShardId, bin: Bin, adopted: bool, slots: &[*mut u8]) {
        if self.options().counts_heat() {
            self.heat.note_spill(bin);
            self.note_freed(shard, bin, adopted, slots);
        }
    }

    /// Notes a magazine of `slots` slots of `bin` that a thread got, as [`Heat::note_refill`], if that is asked for.
    #[inline]
    pub fn note_refill(&self, bin: Bin, slots: usize) {
        if self.options().counts_heat() {
            self.heat.note_refill(bin, slots);
        }
    }

    // ---- spans ----

    /// Takes up to `out.len()` slots of `bin` into the front of `out`: those at home in spans of `shard` or, failing
    /// that, of others, then fresh ones of `shard`, from a fresh span if need be. 0 when memory has run out.
    pub fn carve(&self, shard: ShardId, bin: Bin, out: &mut [*mut u8]) -> usize {
        match self.carve_home(shard, bin, out) {
            0 => self.carve_own(shard, bin, out),
            taken => {
                Self::populate(bin, out.get(..taken).unwrap_or(&[]));
                taken
            }
        }
    }

    /// As [`Allocator::carve`], of `shard` alone.
    pub fn carve_own(&self, shard: ShardId, bin: Bin, out: &mut [*mut u8]) -> usize {
        let mut taken = self.shard(shard).owned().lock().carve(&self.runs.spans, bin, out);
        if taken == 0
            && !out.is_empty()
            && let Some(id) = self.runs.allocate(usize::from(bins::info(bin).span_pages) + L::GUARD_PAGES, 1)
        {
            self.tag_span(id, PageTag::small(bin, shard, id), |span| span.become_small(bin, shard));
            if L::HARDENED {
                self.guard_end(id);
            }
            taken = self.shard(shard).owned().lock().add(&self.runs.spans, bin, id, L::Os::now_ms(), out);
        }
        let carved = out.get(..taken).unwrap_or(&[]);
        Self::populate(bin, carved);
        if L::HARDENED {
            self.wipe_fresh(bin, carved);
        }
        taken
    }

    /// Makes freshly carved slots read as slots that were freed: what lay there before must not be taken for a write
    /// after free.
    fn wipe_fresh(&self, bin: Bin, slots: &[*mut u8]) {
        for &slot in slots {
            // SAFETY: the slot was just taken, and is this thread's alone, so that its span's descriptor is fixed.
            unsafe {
                let span = self.runs.arenas.tag_value(slot.addr()).span();
                if (*at(&self.runs.spans, span)).zeroed {
                    free_mark::set(slot);
                } else {
                    free_mark::wipe(slot, bins::info(bin).slot_bytes as usize);
                }
            }
        }
    }

    /// The slots at home of [`Allocator::carve`]: a shard that has some spares another one fresh pages.
    fn carve_home(&self, shard: ShardId, bin: Bin, out: &mut [*mut u8]) -> usize {
        let mut taken = 0;
        // Relaxed, here and below: a hint; a shard's bit and its slots are written under its lock.
        for other in Self::in_turn(self.roomy(bin).load(Ordering::Relaxed), shard) {
            if taken == out.len() {
                break;
            }
            // Nobody waits for another shard's lock.
            if let Some(mut owned) = self.shard(other).owned().try_lock()
                && let Some(places) = out.get_mut(taken..)
            {
                taken += owned.carve_home(&self.runs.spans, bin, places);
                if !owned.has_home(&self.runs.spans, bin) {
                    self.roomy(bin).fetch_and(!Self::bit(other), Ordering::Relaxed);
                }
            }
        }
        taken
    }

    fn roomy(&self, bin: Bin) -> &AtomicU32 {
        let index = usize::from(bin.0);
        &self.roomy[if index < BINS { index } else { 0 }]
    }

    /// The bit that stands for `shard`.
    #[inline]
    pub(crate) fn bit(shard: ShardId) -> u32 {
        1 << (usize::from(shard.0) & (L::SHARD_COUNT - 1))
    }

    /// Has the pages of freshly carved slots made present at once where a whole magazine was asked for:
    /// the thread has used up as many already and will write to these too.
    fn populate(bin: Bin, slots: &[*mut u8]) {
        let info = bins::info(bin);
        if info.slot_bytes > POPULATED_SLOT_BYTES || slots.len() < usize::from(shape(L::shapes(), bin).capacity) {
            return;
        }
        let (Some(last), Some(first)) = (slots.first(), slots.last()) else { return };
        let bytes = last.addr().wrapping_sub(first.addr()).wrapping_add(info.slot_bytes as usize);
        // Fresh slots adjoin; slots that were at home before lie anywhere, and their pages are present.
        if bytes != slots.len() * info.slot_bytes as usize || bytes < 2 * PAGE_BYTES {
            return;
        }
        let start = first.addr().next_multiple_of(PAGE_BYTES);
        let end = last.addr() + info.slot_bytes as usize;
        if let Some(start_pointer) = NonNull::new(core::ptr::with_exposed_provenance_mut(start)) {
            // SAFETY: the whole pages between the first and the last slot lie in a committed span.
            unsafe { L::Os::populate(start_pointer, end / PAGE_BYTES * PAGE_BYTES - start) };
        }
    }

    fn tag_span(&self, id: SpanId, tag: PageTag, change: impl FnOnce(&mut crate::pages::span::Span)) {
        // SAFETY: the span is this thread's alone: just taken from the runs, or without a live slot.
        let span = unsafe { &mut *at(&self.runs.spans, id) };
        change(span);
        for page in 0..span.pages as usize {
            self.runs.arenas.set_tag(span.start + page * PAGE_BYTES, tag);
        }
    }

    /// Puts `slots`, all of `bin` and owned by `owner`, into their spans, and gives up spans that are empty
    /// then. A slot that is at home already, or none, stops the process in the name of `free`. Whether the slots
    /// were `idle` until now is what [`Owned::restore`](crate::transfer::shard::Owned::restore) asks.
    pub fn deliver(&self, owner: ShardId, bin: Bin, slots: &[*mut u8], idle: bool) {
        let mut emptied = SpanId::NONE;
        let mut refused = None;
        {
            let mut owned = self.shard(owner).owned().lock();
            for &slot in slots {
                let tag = self.runs.arenas.tag_value(slot.addr());
                if tag.kind() != Kind::Small || tag.bin() != bin || tag.owner() != owner {
                    refused = Some((NotReturned::NotASlot, slot));
                    break;
                }
                match owned.restore(&self.runs.spans, tag.span(), slot, idle) {
                    Ok(false) => {}
                    Ok(true) => {
                        // SAFETY: the span has left the lists and is this thread's alone.
                        unsafe { (*at(&self.runs.spans, tag.span())).next = emptied };
                        emptied = tag.span();
                    }
                    Err(reason) => {
                        refused = Some((reason, slot));
                        break;
                    }
                }
            }
            // Relaxed: as in `carve_home`. Tested first so that a bit that stands costs no write to a shared line.
            if owned.has_home(&self.runs.spans, bin) && self.roomy(bin).load(Ordering::Relaxed) & Self::bit(owner) == 0
            {
                self.roomy(bin).fetch_or(Self::bit(owner), Ordering::Relaxed);
            }
        }
        // Not before the lock is free: a handler of the program's for SIGABRT may allocate.
        if let Some((reason, slot)) = refused {
            let fault = match reason {
                NotReturned::AlreadyFree => "double free of",
                NotReturned::NotASlot => "invalid pointer",
            };
            abort::misuse_in_bin::<L::Os>("free()", fault, slot.addr(), bins::info(bin).slot_bytes as usize);
        }
        while !emptied.is_none() {
            // SAFETY: chained above; this thread's alone.
            let next = unsafe { (*at(&self.runs.spans, emptied)).next };
            self.release_small(emptied, idle);
            emptied = next;
        }
    }

    /// Whether `address`, of a page tagged `tag`, is the first byte of a slot, free or not.
    #[inline]
    pub fn is_slot(&self, tag: PageTag, address: usize) -> bool {
        // SAFETY: where a block of the page is live its span's descriptor is fixed; where not, the number read
        // decides at most between two ways to stop the process.
        tag.kind() == Kind::Small
            && bins::info(tag.bin())
                .slot_at(address.wrapping_sub(unsafe { (*at(&self.runs.spans, tag.span())).start }))
                .is_some()
    }

    /// The first of `slots`, all freed as blocks of `bin`, that is no slot of it.
    pub fn first_stranger(&self, bin: Bin, slots: &[*mut u8]) -> Option<*mut u8> {
        slots.iter().copied().find(|slot| {
            let tag = self.runs.arenas.tag_value(slot.addr());
            tag.bin() != bin || !self.is_slot(tag, slot.addr())
        })
    }

    /// Puts one slot into its span.
    pub fn deliver_one(&self, slot: *mut u8) {
        let tag = self.runs.arenas.tag_value(slot.addr());
        self.deliver(tag.owner(), tag.bin(), &[slot], false);
    }

    /// Gives up a small span without a slot that is out, which is in no list. Where its last slots were `idle`, its
    /// pages are as old as the last need of one of them.
    pub fn release_small(&self, id: SpanId, idle: bool) {
        let mut stamp = L::Os::now_ms();
        self.tag_span(id, PageTag::NONE, |span| {
            span.kind = Kind::Transit;
            if idle {
                stamp = stamp.wrapping_sub(elapsed_ms(span.stamp, stamp));
            }
        });
        if L::HARDENED && !self.unguard(id) {
            return self.hold_guarded(id);
        }
        self.runs.release(id, stamp);
        self.purge_if_at_once();
    }

    /// Returns a span's pages to the runs, as [`Runs::release`] says.
    pub fn release(&self, id: SpanId) {
        self.runs.release(id, L::Os::now_ms());
        self.purge_if_at_once();
    }

    /// Gives free pages back where they are to be kept for no time.
    pub fn purge_if_at_once(&self) {
        if self.options().purge_delay_ms() == 0 {
            self.purge(L::Os::now_ms(), 0, usize::MAX);
        }
    }

    // ---- time ----

    /// Trims asked for so far.
    #[inline]
    pub fn trims(&self) -> u32 {
        // Relaxed: a hint to other threads.
        self.trims.load(Ordering::Relaxed)
    }

    /// Asks every thread to empty its cache at its next slow path.
    pub fn ask_for_trim(&self) {
        // Relaxed: as above.
        self.trims.fetch_add(1, Ordering::Relaxed);
    }

    /// As [`Allocator::ask_for_trim`], once in a while: a thread that fails again and again does not cost the others
    /// their caches each time.
    pub fn ask_for_trim_now_and_then(&self) {
        if self.upkeep.may_ask(L::Os::now_ms()) {
            self.ask_for_trim();
        }
    }

    /// Gives dirty runs of at least `delay_ms` back, up to `most_bytes`; returns how many bytes went.
    pub fn purge(&self, now: u32, delay_ms: u32, most_bytes: usize) -> usize {
        let purged = self.runs.purge(now, delay_ms, most_bytes);
        // Relaxed: a count.
        self.purged_bytes.fetch_add(purged as u64, Ordering::Relaxed);
        purged
    }

    /// Every lock, in the order in which they may nest, for fork.
    pub fn acquire_for_fork(&self) {
        self.heaps.lock_for_fork().acquire();
        for shard in self.shards() {
            shard.acquire_for_fork();
        }
        self.directs.acquire_for_fork();
        self.held.acquire_for_fork();
        self.spare_magazines.acquire();
        self.profile.acquire_for_fork();
        self.runs.acquire_for_fork();
        L::Os::begin_fork();
    }

    /// Releases them, in the parent.
    ///
    /// # Safety
    /// The calling thread took them.
    pub unsafe fn release_after_fork(&self) {
        L::Os::end_fork();
        // SAFETY: the caller's promise.
        unsafe {
            self.runs.release_after_fork();
            self.profile.release_after_fork();
            self.spare_magazines.release();
            self.held.release_after_fork();
            self.directs.release_after_fork();
            for shard in self.shards() {
                shard.owned().release();
            }
            self.heaps.lock_for_fork().release();
        }
    }

    /// Frees them, in the child.
    ///
    /// # Safety
    /// The calling thread took them before the fork.
    pub unsafe fn reset_after_fork(&self) {
        L::Os::end_fork();
        // SAFETY: the caller's promise.
        unsafe {
            self.runs.reset_after_fork();
            self.profile.reset_after_fork();
            self.spare_magazines.reset_after_fork();
            self.held.reset_after_fork();
            self.directs.reset_after_fork();
            for shard in self.shards() {
                shard.owned().reset_after_fork();
            }
            self.heaps.lock_for_fork().reset_after_fork();
        }
    }
}
