//! A program with threads whose allocator is hz3: words are counted in parallel, and one thread drops what the
//! others allocated.

use hz3_core::Hz3;
use std::collections::HashMap;
use std::sync::mpsc::channel;

#[global_allocator]
static GLOBAL: Hz3 = Hz3::new();

fn main() {
    GLOBAL.start_background_thread();
    let (sender, receiver) = channel::<HashMap<String, usize>>();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for part in 0..1000 {
                    let mut counts = HashMap::new();
                    for word in 0..50 {
                        *counts.entry(format!("word {}", (thread + part * word) % 23)).or_insert(0) += 1;
                    }
                    sender.send(counts).expect("main receives until all senders are gone");
                }
            })
        })
        .collect();
    drop(sender);
    let mut total = HashMap::<String, usize>::new();
    for (word, count) in receiver.into_iter().flatten() {
        *total.entry(word).or_default() += count;
    }
    for thread in threads {
        thread.join().expect("no thread panics");
    }
    assert_eq!(total.values().sum::<usize>(), 4 * 1000 * 50);
    let stats = GLOBAL.stats();
    println!("{} words; lane {}, {} bytes live", total.len(), GLOBAL.lane(), stats.live_bytes());
}
