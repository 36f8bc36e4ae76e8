//! Vacated spans: of a bin that has more of them than it needs, those with few slots out empty, and others take them.

use hz3_core::api::block;
use hz3_core::observe::books;
use hz3_core::pages::bins::bin_for;
use hz3_core::pages::fresh::LEAST_PAGES;
use hz3_core::pages::page_tag::Kind;
use hz3_core::platform::units::Bin;
use hz3_core::upkeep::round;
use hz3_core::{Fast, Hardened, Lane, Scale};
use std::collections::VecDeque;
use std::ptr::{null_mut, with_exposed_provenance_mut};
use std::sync::mpsc::sync_channel;

const BYTES: usize = 1000;

fn spans_of<L: Lane>(bin: Bin) -> u32 {
    L::allocator().exchange.shards().iter().map(|shard| shard.owned().lock().counts(bin).1).sum()
}

fn look<L: Lane>() {
    let allocator = L::allocator();
    allocator.pages.taken.note(LEAST_PAGES << 10);
    round::vacate_if_due(&allocator.pages, &allocator.exchange);
}

fn is_vacating<L: Lane>(block: *mut u8) -> bool {
    L::allocator().pages.is_vacating(block.expose_provenance())
}

#[test]
fn spans_with_few_slots_out_empty_in_one_turn_in_scale() {
    apart!();
    spans_with_few_slots_out_empty_in_one_turn::<Scale>();
}

#[test]
fn spans_with_few_slots_out_empty_in_one_turn_in_fast() {
    apart!();
    spans_with_few_slots_out_empty_in_one_turn::<Fast>();
}

#[test]
fn spans_with_few_slots_out_empty_in_one_turn_in_hardened() {
    apart!();
    spans_with_few_slots_out_empty_in_one_turn::<Hardened>();
}

/// A cache that is to use a quarter of its slots, and evicts its oldest block for each new one.
fn spans_with_few_slots_out_empty_in_one_turn<L: Lane>() {
    const BLOCKS: usize = 16_000;
    let bin = bin_for(BYTES + L::TRAILER_BYTES).expect("small");
    let all: Vec<*mut u8> = (0..BLOCKS).map(|_| block::malloc::<L>(BYTES)).collect();
    assert!(!all.contains(&null_mut()));
    let before = spans_of::<L>(bin);
    // Every fourth stays, so that no span empties.
    for (index, &one) in all.iter().enumerate() {
        if index % 4 > 0 {
            // SAFETY: live, and given up here.
            unsafe { block::free::<L>(one) };
        }
    }
    let mut blocks: VecDeque<*mut u8> = all.into_iter().step_by(4).collect();
    assert!(spans_of::<L>(bin) > before * 9 / 10, "{} of {before}", spans_of::<L>(bin));
    for turn in 0..3 * blocks.len() {
        if turn % 64 == 0 {
            look::<L>();
        }
        let oldest = blocks.pop_front().expect("a block");
        // SAFETY: live, and given up here.
        unsafe { block::free::<L>(oldest) };
        blocks.push_back(block::malloc::<L>(BYTES));
    }
    let after = spans_of::<L>(bin);
    assert!(after < before * 2 / 5, "{after} of {before} spans for a quarter of the blocks");
    books::check_accounts::<L>().expect("books");
    for block in blocks {
        // SAFETY: live, and given up here.
        unsafe { block::free::<L>(block) };
    }
}

/// A block of a vacated span is one like any other: it has its size, keeps its contents when it moves, and another thread
/// may free it. A bin that grows keeps its spans, rather than to take others.
#[test]
fn blocks_of_vacated_spans_are_as_others_and_growth_keeps_the_spans() {
    apart!();
    let bin = bin_for(BYTES).expect("small");
    let blocks: Vec<*mut u8> = (0..4096).map(|_| block::malloc::<Scale>(BYTES)).collect();
    for (index, &one) in blocks.iter().enumerate() {
        if index % 8 > 0 {
            // SAFETY: live, and given up here.
            unsafe { block::free::<Scale>(one) };
        }
    }
    let kept: Vec<*mut u8> = blocks.into_iter().step_by(8).collect();
    for _ in 0..50 {
        look::<Scale>();
    }
    let (vacated, others): (Vec<*mut u8>, Vec<*mut u8>) = kept.into_iter().partition(|&one| is_vacating::<Scale>(one));
    assert!(vacated.len() > 100, "{} of {}", vacated.len(), vacated.len() + others.len());
    books::check_accounts::<Scale>().expect("books");

    let [first, second, .., last] = vacated[..] else { panic!("too few") };
    let tag = Scale::allocator().pages.tag(first.expose_provenance());
    assert_eq!((tag.kind(), tag.bin()), (Kind::Small, bin));
    assert_eq!(hz3_core::api::size::usable_bytes_for::<Scale>("test", first), Some(1024));
    // SAFETY: live blocks of so many bytes; each is given up once, as is what replaces it.
    unsafe {
        first.write_bytes(7, BYTES);
        let moved = block::realloc::<Scale>(first, 3 * BYTES);
        assert!((0..BYTES).all(|index| moved.add(index).read() == 7));
        block::free::<Scale>(moved);
        let address = second.expose_provenance();
        std::thread::spawn(move || block::free::<Scale>(with_exposed_provenance_mut(address))).join().unwrap();
        block::free_sized::<Scale>(last, BYTES);
    }
    books::check_accounts::<Scale>().expect("books");

    let before = spans_of::<Scale>(bin);
    let more: Vec<*mut u8> = (0..3000).map(|_| block::malloc::<Scale>(BYTES)).collect();
    assert!(spans_of::<Scale>(bin) <= before, "{} after {before}", spans_of::<Scale>(bin));
    assert!(vacated.iter().skip(2).filter(|&&one| is_vacating::<Scale>(one)).count() < vacated.len() / 2);
    books::check_accounts::<Scale>().expect("books");
    for one in more.into_iter().chain(others).chain(vacated.into_iter().skip(2).filter(|&one| one != last)) {
        // SAFETY: live, and given up here.
        unsafe { block::free::<Scale>(one) };
    }
}

/// Threads that free what others allocate, while spans are vacated and kept all the time.
#[test]
fn threads_free_while_spans_are_vacated_in_scale() {
    apart!();
    threads_free_while_spans_are_vacated::<Scale>();
}

#[test]
fn threads_free_while_spans_are_vacated_in_fast() {
    apart!();
    threads_free_while_spans_are_vacated::<Fast>();
}

#[test]
fn threads_free_while_spans_are_vacated_in_hardened() {
    apart!();
    threads_free_while_spans_are_vacated::<Hardened>();
}

fn threads_free_while_spans_are_vacated<L: Lane>() {
    const THREADS: usize = 4;
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| sync_channel::<usize>(4096)).unzip();
    let threads = receivers.into_iter().enumerate().map(|(number, receiver)| {
        let next = senders[(number + 1) % THREADS].clone();
        std::thread::spawn(move || {
            let mut own = VecDeque::new();
            for turn in 0..60_000_usize {
                // The need for each size comes and goes.
                let bytes = 500 + (turn / 6000 % 3) * 500 + turn % 400;
                let one = block::malloc::<L>(bytes);
                // SAFETY: a live block of so many bytes.
                unsafe { one.write_bytes(bytes as u8, bytes) };
                own.push_back(one.expose_provenance());
                if turn % 97 == 0 {
                    look::<L>();
                }
                let oldest = if own.len() > 2000 { own.pop_front() } else { None };
                let foreign = oldest.and_then(|oldest| {
                    if turn % 3 == 0 && next.try_send(oldest).is_ok() { receiver.try_recv().ok() } else { Some(oldest) }
                });
                if let Some(address) = foreign {
                    // SAFETY: live, and given up here.
                    unsafe { block::free::<L>(with_exposed_provenance_mut(address)) };
                }
            }
            drop(next);
            for address in own {
                // SAFETY: live, and given up here.
                unsafe { block::free::<L>(with_exposed_provenance_mut(address)) };
            }
            // The others may send until they end.
            receiver
        })
    });
    let threads: Vec<_> = threads.collect();
    for receiver in threads.into_iter().map(|thread| thread.join().expect("a thread")) {
        for address in receiver.try_iter() {
            // SAFETY: live, and given up here.
            unsafe { block::free::<L>(with_exposed_provenance_mut(address)) };
        }
    }
    books::check_accounts::<L>().expect("books");
}
