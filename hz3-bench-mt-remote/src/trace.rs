//! Trace: resident and live memory over time, written to a file while a crew works.
#![forbid(unsafe_code)]

use crate::live::LiveBytes;
use crate::memory::{Figure, of_this_process};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time between two lines.
const STEP: Duration = Duration::from_millis(10);

static FILE: Mutex<Option<File>> = Mutex::new(None);

/// Makes the next crew write a line every 10 ms: seconds, resident and live bytes, with tabs between.
pub fn write_to(file: File) {
    *FILE.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(file);
}

/// The file, once.
pub(crate) fn take() -> Option<File> {
    FILE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
}

/// Writes lines until `is_over`. Uses no heap.
pub(crate) fn record(mut file: File, live: &LiveBytes, is_over: &AtomicBool) -> io::Result<()> {
    let start = Instant::now();
    // Relaxed: a hint; one line more does not matter.
    while !is_over.load(Ordering::Relaxed) {
        if let Some(live) = live.sample() {
            let resident = of_this_process(Figure::Resident)?;
            writeln!(file, "{:.3}\t{resident}\t{}", start.elapsed().as_secs_f64(), live.max(0))?;
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}
