//! Collections and threads that send what they allocate to each other.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

fn next_number(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    *state >> 33
}

fn main() {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..4).map(|_| mpsc::channel::<Vec<u8>>()).unzip();
    let totals = Arc::new(Mutex::new(BTreeMap::new()));
    let consumers: Vec<_> = receivers
        .into_iter()
        .enumerate()
        .map(|(number, receiver)| {
            let totals = Arc::clone(&totals);
            thread::spawn(move || {
                let total: usize = receiver.iter().map(|block| block.len() + usize::from(block[0])).sum();
                totals.lock().unwrap().insert(number, total);
            })
        })
        .collect();
    let producers: Vec<_> = senders
        .into_iter()
        .enumerate()
        .map(|(number, sender)| {
            thread::spawn(move || {
                let mut state = number as u64 + 1;
                for _ in 0..50_000 {
                    let length = 1 + next_number(&mut state) as usize % 2000;
                    sender.send(vec![(length % 256) as u8; length]).unwrap();
                }
            })
        })
        .collect();
    for thread in producers.into_iter().chain(consumers) {
        thread.join().unwrap();
    }
    println!("{:?}", totals.lock().unwrap());

    let mut words: HashMap<String, Vec<u64>> = HashMap::new();
    let mut state = 99;
    for place in 0..100_000 {
        words.entry(format!("word {}", next_number(&mut state) % 5000)).or_default().push(place);
    }
    let longest = words.iter().max_by_key(|(word, places)| (places.len(), (*word).clone())).unwrap();
    println!("{} words, most frequent {} ({})", words.len(), longest.0, longest.1.len());
}
