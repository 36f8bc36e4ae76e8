//! Mutants: copies of hz3-core with one seeded fault each, which a model must find.
//!
//! A model that passes whatever the code does proves nothing. Each mutant weakens one order or drops one step
//! of the real source, by text, so that none can fall behind it: a text that is no longer there once fails.

use super::session::Session;
use super::step::{Step, Stop};
use crate::files::files_in;
use anyhow::{Context, Result};
use hz3::process;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Compiling hz3-core and one model, and the model until it fails, stay far below this.
const TIME_LIMIT: Duration = Duration::from_secs(300);

struct Mutant {
    name: &'static str,
    /// A file of `hz3-core/src`.
    file: &'static str,
    original: &'static str,
    fault: &'static str,
    /// The file of the model that finds it, and the model.
    model: (&'static str, &'static str),
}

const CONTENTS: (&str, &str) = ("loom_depot", "contents_travel_with_the_magazine");
const ABA: (&str, &str) = ("loom_depot", "a_magazine_that_was_popped_and_pushed_again_is_not_taken_twice");
const IN_ORDER: (&str, &str) = ("loom_depot", "whoever_takes_all_gets_them_in_the_order_in_which_they_came");
const IN_SIGHT: (&str, &str) = ("loom_depot", "a_magazine_pushed_while_the_last_one_is_taken_stays_in_sight");
const LOCK: (&str, &str) = ("loom_lock", "a_locked_value_is_one_threads_at_a_time_and_no_sleeper_is_forgotten");
const FORK: (&str, &str) = ("loom_lock", "a_lock_freed_after_a_fork_wakes_a_thread_that_a_handler_started");
const TRANSIT: (&str, &str) = ("loom_lock", "a_fork_leaves_nothing_of_other_threads_in_transit");
const KEY: (&str, &str) = ("loom_hooks", "one_key_is_left_and_every_thread_has_it");
const NO_KEY: (&str, &str) = ("loom_hooks", "without_a_key_every_thread_goes_on");
const TAGS: (&str, &str) = ("loom_growth", "a_look_at_any_address_meets_mapped_tags_only");
const INSIDE: (&str, &str) = ("loom_growth", "a_growth_inside_a_growth_gets_pages_of_its_own");
const AT_ONCE: (&str, &str) = ("loom_growth", "threads_that_grow_at_once_get_pages_of_their_own_whatever_is_refused");
const ONE_WRITING: (&str, &str) = ("loom_sequence", "what_is_read_is_of_one_writing");
const UNITS: (&str, &str) = ("loom_growth", "units_below_the_end_are_mapped_and_no_id_is_handed_out_twice");
const ONE_OWNER: (&str, &str) = ("loom_threads", "a_heap_is_one_threads_at_a_time_and_serves_the_next");
const WALK: (&str, &str) = ("loom_threads", "who_walks_over_the_heaps_meets_mapped_ones_only");
const CHILD: (&str, &str) = ("loom_threads", "a_child_adopts_what_a_gone_thread_left_settled");
const FREE_ONE: (&str, &str) = ("loom_threads", "a_thread_without_a_heap_forks");
const ONCE: (&str, &str) = ("loom_threads", "an_orphan_is_adopted_once_and_no_living_threads_heap_is");
const WITHIN: (&str, &str) = ("loom_threads", "a_fork_within_an_adoption_leaves_no_slot_twice");
const POPPED: (&str, &str) = ("loom_resting", "a_slot_is_popped_or_taken_and_never_both");
const HALF_WAY: (&str, &str) = ("loom_resting", "a_pop_that_is_stopped_half_way_has_its_slot");
const SLOW: (&str, &str) = ("loom_resting", "a_slow_path_and_a_taker_exclude_each_other");
const EXCHANGED: (&str, &str) = ("loom_resting", "a_last_slot_is_popped_or_exchanged_or_in_doubt");

const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "push-unordered",
        file: "transfer/depot.rs",
        original: "compare_exchange_weak(word, new, Ordering::Release, Ordering::Relaxed)",
        fault: "compare_exchange_weak(word, new, Ordering::Relaxed, Ordering::Relaxed)",
        model: CONTENTS,
    },
    Mutant {
        name: "take-all-unordered",
        file: "transfer/depot.rs",
        original: "compare_exchange_weak(word, new, Ordering::Acquire, Ordering::Relaxed)",
        fault: "compare_exchange_weak(word, new, Ordering::Relaxed, Ordering::Relaxed)",
        model: IN_ORDER,
    },
    Mutant {
        name: "no-version",
        file: "transfer/depot.rs",
        original: "const VERSION_MASK: u64 = !(VERSION_ONE - 1);",
        fault: "const VERSION_MASK: u64 = 0;",
        model: ABA,
    },
    Mutant {
        name: "hint-not-looked-at-again",
        file: "transfer/depot.rs",
        original: "if !is_empty() {",
        fault: "if false {",
        model: IN_SIGHT,
    },
    Mutant {
        name: "hint-without-fences",
        file: "platform/atomic.rs",
        original: "pub fn fence_after_exchange() {\n    #[cfg(loom)]\n    loom::sync::atomic::fence(Ordering::SeqCst);",
        fault: "pub fn fence_after_exchange() {",
        model: IN_SIGHT,
    },
    Mutant {
        name: "unlock-unordered",
        file: "platform/lock.rs",
        original: "self.word.swap(FREE, Ordering::Release)",
        fault: "self.word.swap(FREE, Ordering::Relaxed)",
        model: LOCK,
    },
    Mutant {
        name: "unlock-dropped",
        file: "platform/lock.rs",
        original: "if self.owns_lock {",
        fault: "if !self.owns_lock {",
        model: LOCK,
    },
    Mutant {
        name: "wake-dropped",
        file: "platform/lock.rs",
        original: "W::wake((&raw const self.word).cast());",
        fault: "",
        model: LOCK,
    },
    Mutant {
        name: "fork-wakes-nobody",
        file: "platform/lock.rs",
        original: "self.held_for_fork.store(0, Ordering::Relaxed);\n        self.unlock();",
        fault: "self.word.store(FREE, Ordering::Release);",
        model: FORK,
    },
    Mutant {
        name: "fork-waits-for-nobody",
        file: "platform/lock.rs",
        original: "value.transit().is_none_or(|transit| transit.is_only_of(W::this_thread()))",
        fault: "value.transit().is_none_or(|_| true)",
        model: TRANSIT,
    },
    Mutant {
        name: "key-unordered",
        file: "thread/hooks.rs",
        original: "compare_exchange(UNHOOKED, state, Ordering::Release, Ordering::Acquire)",
        fault: "compare_exchange(UNHOOKED, state, Ordering::Relaxed, Ordering::Acquire)",
        model: KEY,
    },
    Mutant {
        name: "key-taken-for-none",
        file: "thread/hooks.rs",
        original: "const HOOKED: u32 = 2;",
        fault: "const HOOKED: u32 = 1;",
        model: NO_KEY,
    },
    Mutant {
        name: "key-left-twice",
        file: "thread/hooks.rs",
        original: "made.map(delete_key);",
        fault: "let _ = delete_key;",
        model: KEY,
    },
    Mutant {
        name: "pages-published-unordered",
        file: "pages/page_map.rs",
        original: "self.pages.store(pages, Ordering::Release);",
        fault: "self.pages.store(pages, Ordering::Relaxed);",
        model: TAGS,
    },
    Mutant {
        name: "pages-read-unordered",
        file: "pages/page_map.rs",
        original: "let pages = self.pages.load(Ordering::Acquire);",
        fault: "let pages = self.pages.load(Ordering::Relaxed);",
        model: TAGS,
    },
    Mutant {
        name: "claim-not-noted",
        file: "pages/page_map.rs",
        original: "self.end.store(end | CLAIMED, Ordering::Relaxed);",
        fault: "",
        model: INSIDE,
    },
    Mutant {
        name: "published-end-not-moved",
        file: "pages/page_map.rs",
        original: "self.end.store(end, Ordering::Relaxed);",
        fault: "self.end.store(claim.end, Ordering::Relaxed);",
        model: AT_ONCE,
    },
    Mutant {
        name: "claim-never-given-up",
        file: "pages/page_map.rs",
        original: "self.end.store(claim.end, Ordering::Relaxed);",
        fault: "let _ = claim;",
        model: AT_ONCE,
    },
    Mutant {
        name: "chunk-unordered",
        file: "platform/table.rs",
        original: "compare_exchange(null_mut(), chunk.as_ptr(), Ordering::Release, Ordering::Relaxed)",
        fault: "compare_exchange(null_mut(), chunk.as_ptr(), Ordering::Relaxed, Ordering::Relaxed)",
        model: UNITS,
    },
    Mutant {
        name: "end-unordered",
        file: "platform/table.rs",
        original: "self.next.load(Ordering::Acquire)",
        fault: "self.next.load(Ordering::Relaxed)",
        model: UNITS,
    },
    Mutant {
        name: "odd-count-unordered",
        file: "platform/seqlock.rs",
        original: "fence(Ordering::Release);",
        fault: "",
        model: ONE_WRITING,
    },
    Mutant {
        name: "second-look-unordered",
        file: "platform/seqlock.rs",
        original: "fence(Ordering::Acquire);",
        fault: "",
        model: ONE_WRITING,
    },
    Mutant {
        name: "even-count-unordered",
        file: "platform/seqlock.rs",
        original: "odd.wrapping_add(1), Ordering::Release",
        fault: "odd.wrapping_add(1), Ordering::Relaxed",
        model: ONE_WRITING,
    },
    Mutant {
        name: "no-second-look",
        file: "platform/seqlock.rs",
        original: "count.load(Ordering::Relaxed) == before",
        fault: "true",
        model: ONE_WRITING,
    },
    Mutant {
        name: "heap-taken-and-left-in-the-list",
        file: "thread/registry.rs",
        original: "unused.0 = members.state(id).next_unused.load(Ordering::Relaxed);",
        fault: "",
        model: ONE_OWNER,
    },
    Mutant {
        name: "heap-given-without-link",
        file: "thread/registry.rs",
        original: "heap.next_unused.store(first.0, Ordering::Relaxed);",
        fault: "",
        model: ONE_OWNER,
    },
    Mutant {
        name: "heap-list-unordered",
        file: "platform/lock.rs",
        original: "self.word.swap(FREE, Ordering::Release)",
        fault: "self.word.swap(FREE, Ordering::Relaxed)",
        model: ONE_OWNER,
    },
    Mutant {
        name: "second-heap",
        file: "thread/registry.rs",
        original: "Stage::Left => None,",
        fault: "Stage::Left => take(),",
        model: ONE_OWNER,
    },
    Mutant {
        name: "left-too-late",
        file: "thread/registry.rs",
        original: "pointer.set_stage(Stage::Left);\n        give(heap);",
        fault: "give(heap);\n        pointer.set_stage(Stage::Left);",
        model: ONE_OWNER,
    },
    Mutant {
        name: "heaps-end-unordered",
        file: "platform/table.rs",
        original: "self.next.load(Ordering::Acquire)",
        fault: "self.next.load(Ordering::Relaxed)",
        model: WALK,
    },
    Mutant {
        name: "orphan-adopted-twice",
        file: "thread/registry.rs",
        original: "self.next_orphan.store(if next < end { next } else { 0 }, Ordering::Relaxed);",
        fault: "let _ = next;",
        model: ONCE,
    },
    Mutant {
        name: "generation-unchecked",
        file: "thread/registry.rs",
        original: "if heap.generation.load(Ordering::Relaxed) == self.generation.load(Ordering::Relaxed) {",
        fault: "if false {",
        model: ONCE,
    },
    Mutant {
        name: "generation-not-taken",
        file: "thread/registry.rs",
        original: "heap.generation.store(self.generation.load(Ordering::Relaxed), Ordering::Relaxed);",
        fault: "",
        model: ONCE,
    },
    Mutant {
        name: "own-heap-orphaned",
        file: "thread/registry.rs",
        original: "own.generation.store(generation, Ordering::Relaxed);",
        fault: "let _ = own;",
        model: CHILD,
    },
    Mutant {
        name: "heap-not-in-use",
        file: "thread/registry.rs",
        original: "heap.state.store(IN_USE, Ordering::Relaxed);",
        fault: "",
        model: CHILD,
    },
    Mutant {
        name: "free-heap-in-use",
        file: "thread/registry.rs",
        original: "heap.state.store(UNUSED, Ordering::Relaxed);",
        fault: "",
        model: FREE_ONE,
    },
    Mutant {
        name: "half-changed-heap-adopted",
        file: "thread/registry.rs",
        original: "if heap.claim.is_unsettled() {",
        fault: "if false {",
        model: CHILD,
    },
    Mutant {
        name: "change-unannounced",
        file: "thread/claim.rs",
        original: "self.busy.store(1, Ordering::Relaxed);",
        fault: "",
        model: WITHIN,
    },
    Mutant {
        name: "change-beside-a-taker",
        file: "thread/claim.rs",
        original: "let is_busy = self.busy.load(Ordering::Acquire) != 0;",
        fault: "let is_busy = false;",
        model: SLOW,
    },
    Mutant {
        name: "no-wait-for-a-taker",
        file: "thread/claim.rs",
        original: "if word & STATE != TAKING\n",
        fault: "if true\n",
        model: SLOW,
    },
    Mutant {
        name: "popped-below-the-base",
        file: "thread/loaded.rs",
        original: "if top <= plain(&(*this).base) {",
        fault: "if top == plain(&(*this).base) {",
        model: POPPED,
    },
    Mutant {
        name: "taken-at-the-top",
        file: "thread/loaded.rs",
        original: "self.top.load(Ordering::Acquire) < base.wrapping_add(KEPT)",
        fault: "self.top.load(Ordering::Acquire) < base",
        model: HALF_WAY,
    },
    Mutant {
        name: "taken-without-a-look",
        file: "thread/loaded.rs",
        original: "self.top.load(Ordering::Acquire) < base.wrapping_add(KEPT)",
        fault: "false",
        model: HALF_WAY,
    },
    Mutant {
        name: "exchanged-and-read",
        file: "thread/loaded.rs",
        original: "top > base && unsafe { address(base) } == other",
        fault: "top > base",
        model: EXCHANGED,
    },
    Mutant {
        name: "exchanged-and-popped",
        file: "thread/loaded.rs",
        original: "top > base && unsafe { address(base) } == other",
        fault: "unsafe { address(base) } == other",
        model: EXCHANGED,
    },
];

/// A step for each mutant, which passes when the model fails.
pub fn steps() -> Vec<Step> {
    MUTANTS.iter().map(|mutant| Step::new(format!("mutant/{}", mutant.name), |session| find(session, mutant))).collect()
}

fn find(session: &mut Session, mutant: &Mutant) -> Result<(), Stop> {
    let copy = session.workspace.target.join("mutants");
    copy_package(&session.workspace.root, &copy)?;
    let path = copy.join("hz3-core/src").join(mutant.file);
    let source = read(&path)?;
    if source.matches(mutant.original).count() != 1 {
        return Err(Stop::failed(format!("{} has not exactly one {:?}", mutant.file, mutant.original)));
    }
    fs::write(&path, source.replace(mutant.original, mutant.fault)).with_context(|| path.display().to_string())?;
    let (file, model) = mutant.model;
    let mut command = super::rust_checks::loom_command(session);
    command.current_dir(&copy);
    // Each is built anew, of which little is compiled, and is found early. What it depends on stays as it is.
    command.env("CARGO_INCREMENTAL", "1");
    for setting in ["opt-level = 0", "codegen-units = 256", "debug = false"] {
        command.args(["--config", &format!("profile.release.package.hz3-core.{setting}")]);
    }
    command.args(["--test", file, "--", "--exact", model]);
    let captured = process::capture(&mut command, TIME_LIMIT)?;
    let text = captured.text();
    // The harness's own line is missing where a panic in a destructor has ended the process.
    if !captured.status.success() && text.contains(&format!("thread '{model}'")) && text.contains("panicked at") {
        return Ok(());
    }
    let outcome = if captured.status.success() { "not found by" } else { "did not get as far as" };
    Err(Stop::failed(format!("{outcome} {file}: {model}\n{text}")))
}

/// Makes `copy` what hz3-core's models are built from, as a workspace of one package. Files that are so already stay
/// untouched, so that cargo compiles again only what the mutant before had changed and this one changes.
fn copy_package(root: &Path, copy: &Path) -> Result<()> {
    // The manifest names what lies in each.
    for folder in ["src", "tests", "examples"] {
        copy_folder(&root.join("hz3-core").join(folder), &copy.join("hz3-core").join(folder))?;
    }
    for file in ["hz3-core/Cargo.toml", "hz3-core/build.rs", "Cargo.lock"] {
        update(&copy.join(file), &read(&root.join(file))?)?;
    }
    update(&copy.join("Cargo.toml"), &of_one_package(&read(&root.join("Cargo.toml"))?)?)
}

/// The workspace's manifest with hz3-core as its only member.
fn of_one_package(manifest: &str) -> Result<String> {
    let (before, rest) = manifest.split_once("members = [").context("no members in Cargo.toml")?;
    let (_, after) = rest.split_once(']').context("no end of the members in Cargo.toml")?;
    Ok(format!("{before}members = [\"hz3-core\"]{after}"))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// Writes the file, unless that is its text already.
fn update(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|now| now == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    let files = files_in(from)?;
    for gone in files_in(to)?.iter().filter(|file| !files.contains(file)) {
        fs::remove_file(to.join(gone)).with_context(|| gone.display().to_string())?;
    }
    for file in files {
        let copy = to.join(&file);
        fs::create_dir_all(copy.parent().context("a folder")?)?;
        update(&copy, &read(&from.join(file))?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copied_workspace_has_one_member() {
        let manifest = "[workspace]\nmembers = [\"hz3-core\", \"xtask\"]\n[profile.dev]\n";
        assert_eq!(of_one_package(manifest).unwrap(), "[workspace]\nmembers = [\"hz3-core\"]\n[profile.dev]\n");
    }

    #[test]
    fn every_mutant_changes_text_that_is_there_once_and_names_a_model_that_exists() {
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("hz3-core");
        for mutant in MUTANTS {
            let source = fs::read_to_string(package.join("src").join(mutant.file)).unwrap();
            assert_eq!(source.matches(mutant.original).count(), 1, "{}", mutant.name);
            let (file, model) = mutant.model;
            let models = fs::read_to_string(package.join("tests").join(format!("{file}.rs"))).unwrap();
            assert!(models.contains(&format!("fn {model}()")), "{}", mutant.name);
        }
    }
}
