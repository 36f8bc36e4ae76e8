//! What each plug-in does for its host, `hz3-preload/tests/c/plug_ins.c`.

/// Does without memory.
#[unsafe(no_mangle)]
pub extern "C" fn plug_in_answer() -> u32 {
    42
}

/// Allocates and frees in the calling thread, which so gets a heap.
#[unsafe(no_mangle)]
pub extern "C" fn plug_in_work(seed: u32) -> u32 {
    let numbers: Vec<u32> = (0..1000).map(|number| number ^ seed).collect();
    let texts: Vec<String> = numbers.iter().map(u32::to_string).collect();
    texts.iter().map(|text| text.len() as u32).sum()
}
