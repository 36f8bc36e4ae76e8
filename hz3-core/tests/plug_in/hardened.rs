//! A plug-in whose own allocator is the hardened lane.

#[path = "work.rs"]
mod work;

#[global_allocator]
static GLOBAL: hz3_core::Hz3<hz3_core::Hardened> = hz3_core::Hz3::new();

/// Starts the background thread, if the options ask for one.
#[unsafe(no_mangle)]
pub extern "C" fn plug_in_start_background_thread() {
    GLOBAL.start_background_thread();
}
