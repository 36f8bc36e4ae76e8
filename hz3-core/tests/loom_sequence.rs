//! A model of the sequence lock: a writer that writes over zeros and a reader, explored exhaustively by loom.
#![cfg(loom)]

use hz3_core::platform::atomic::AtomicU64;
use hz3_core::platform::seqlock;
use loom::sync::Arc;
use loom::thread;

struct Page {
    count: AtomicU64,
    words: [AtomicU64; 2],
}

#[test]
fn what_is_read_is_of_one_writing() {
    loom::model(|| {
        let page = Arc::new(Page { count: AtomicU64::new(0), words: [AtomicU64::new(0), AtomicU64::new(0)] });
        let writer = {
            let page = page.clone();
            thread::spawn(move || {
                seqlock::write(&page.count, &page.words, &[1, 1]);
            })
        };
        let mut values = [7, 8];
        if seqlock::read(&page.count, &page.words, &mut values) {
            assert_eq!(values[0], values[1], "a word of each of two writings");
        }
        writer.join().unwrap();
        // Nobody writes now: a reading succeeds and has the last.
        assert!(seqlock::read(&page.count, &page.words, &mut values));
        assert_eq!(values, [1, 1]);
    });
}
