//! Every call to the system allocates in its turn, as where another library stands in the place of libc's functions:
//! nothing waits for itself, no block is handed out twice, and in the end the books add up.

use hz3_core::api::block;
use hz3_core::api::block::trim;
use hz3_core::observe::books::check_accounts;
use hz3_core::platform::fake::Fake;
use hz3_core::platform::rank;
use hz3_core::{Lane, Tiny, TinyHardened, TinyHome};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

struct Block {
    address: usize,
    bytes: usize,
    fill: u8,
}

fn take<L: Lane>(bytes: usize, fill: u8) -> Block {
    let pointer = block::malloc::<L>(bytes);
    assert!(!pointer.is_null(), "out of memory at {bytes} bytes");
    // SAFETY: a fresh block of that size.
    unsafe { pointer.write_bytes(fill, bytes) };
    Block { address: pointer.expose_provenance(), bytes, fill }
}

fn free<L: Lane>(block: Block) {
    let pointer = std::ptr::with_exposed_provenance_mut::<u8>(block.address);
    // SAFETY: a live block, filled when it was taken, and given up here.
    unsafe {
        let bytes = std::slice::from_raw_parts(pointer, block.bytes);
        assert!(bytes.iter().all(|&byte| byte == block.fill), "{} bytes were overwritten", block.bytes);
        block::free::<L>(pointer);
    }
}

fn random_bytes(rng: &mut impl Rng) -> usize {
    match rng.random_range(0..100) {
        0..80 => rng.random_range(1..400),
        80..95 => rng.random_range(1..20_000),
        95..99 => rng.random_range(1..300_000),
        _ => rng.random_range(1..5 << 20),
    }
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static KEPT: RefCell<(Xoshiro256PlusPlus, Vec<Block>)> = RefCell::new((Xoshiro256PlusPlus::seed_from_u64(5), vec![]));
}

static CALLS: AtomicUsize = AtomicUsize::new(0);

fn allocate_inside<L: Lane>() {
    if INSIDE.replace(true) {
        return;
    }
    assert!(rank::is_none_held(), "a call with a lock held");
    // Relaxed: a count.
    CALLS.fetch_add(1, Ordering::Relaxed);
    KEPT.with_borrow_mut(|(rng, kept)| {
        for _ in 0..3 {
            let bytes = random_bytes(rng);
            kept.push(take::<L>(bytes, rng.random()));
        }
        while kept.len() > 20 {
            let at = rng.random_range(0..kept.len());
            free::<L>(kept.swap_remove(at));
        }
    });
    INSIDE.set(false);
}

fn works_while_calls_allocate<L: Lane>(seed: u64) {
    // Before the thread's heap is there, so that its own making is met too.
    KEPT.with_borrow(|_| ());
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut live = Vec::new();
    for step in 0..4000 {
        if live.len() < 200 && rng.random_range(0..10) < 6 || live.is_empty() {
            live.push(take::<L>(random_bytes(&mut rng), rng.random()));
        } else {
            let at = rng.random_range(0..live.len());
            free::<L>(live.swap_remove(at));
        }
        if step % 1000 == 999 {
            trim::<L>();
            // A turn of upkeep is due.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    live.into_iter().for_each(free::<L>);
    INSIDE.set(true);
    KEPT.with_borrow_mut(|(_, kept)| kept.drain(..).for_each(free::<L>));
}

fn threads_work_while_calls_allocate<L: Lane>() {
    Fake::call_at_calls(allocate_inside::<L>);
    for threads in [1, 4] {
        let threads: Vec<_> =
            (0..threads).map(|seed| std::thread::spawn(move || works_while_calls_allocate::<L>(seed))).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }
    INSIDE.set(true);
    trim::<L>();
    assert_eq!(check_accounts::<L>(), Ok(()));
    INSIDE.set(false);
    // Relaxed: all other threads have ended.
    assert!(CALLS.swap(0, Ordering::Relaxed) > 100);
}

/// One test: what the fake system calls is the process's.
#[test]
fn calls_to_the_system_allocate_and_nothing_waits_for_itself_or_gets_lost() {
    apart!();
    threads_work_while_calls_allocate::<Tiny>();
    threads_work_while_calls_allocate::<TinyHome>();
    threads_work_while_calls_allocate::<TinyHardened>();
}
