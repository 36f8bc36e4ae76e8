//! Limits of the allocator's own, by its options, its function and the process's control group, in each lane.

mod harness;

use harness::compiler::Program;
use harness::run::Run;
use harness::{Lane, any_malloc};
use std::fs;
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};

const PROGRAM: Program = Program::new("c/limits.c");
const LANES: [Lane; 3] = [Lane::Fast, Lane::Scale, Lane::Hardened];

/// One test per case, for the three lanes, with what is set.
macro_rules! limit_tests {
    ($($case:ident [$($variable:literal = $value:literal),*];)+) => {
        $(
            #[test]
            fn $case() {
                for lane in LANES {
                    let run = Run::new(&PROGRAM).argument(stringify!($case))$(.variable($variable, $value))*;
                    run.preload(&lane.library()).finish().expect_success();
                }
            }
        )+

        #[test]
        fn every_case_of_the_program_is_run() {
            harness::lists_every_case(&PROGRAM, &[$(stringify!($case),)+ IN_A_GROUP, FOLLOWED]);
        }
    };
}

limit_tests! {
    every_size_meets_the_limit_and_comes_back ["HZ3_HARD_LIMIT" = "64M", "HZ3_BACKGROUND_THREAD" = "0"];
    a_block_that_can_t_grow_stays_as_it_is ["HZ3_HARD_LIMIT" = "65536K"];
    threads_meet_the_limit_together_and_recover ["HZ3_HARD_LIMIT" = "67108864"];
    limits_change_while_the_program_runs [];
    phases_stay_within_the_soft_limit ["HZ3_SOFT_LIMIT" = "190M"];
    blocks_beyond_the_soft_limit_are_served ["HZ3_SOFT_LIMIT" = "80M"];
    a_heap_of_scattered_blocks_beyond_the_soft_limit_is_served [];
    blocks_at_the_hard_limit_are_resized [];
}

const IN_A_GROUP: &str = "phases_live_in_a_limit_of_the_system_s";
const FOLLOWED: &str = "a_change_of_the_system_s_limit_is_followed";

/// A control group with a limit, and one in it for the process. Removed in the end.
struct Group {
    limit: PathBuf,
    outer: PathBuf,
    inner: PathBuf,
}

impl Group {
    /// In the version that this machine lets us use; else why not.
    fn new(name: &str, bytes: u64) -> Result<Group, String> {
        let root = Path::new("/sys/fs/cgroup");
        let (root, limit, swap) = if root.join("memory/memory.limit_in_bytes").exists() {
            (root.join("memory"), "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        } else {
            (root.to_owned(), "memory.max", "memory.swap.max")
        };
        let outer = root.join(format!("hz3-{name}-{}", std::process::id()));
        let group = Group { limit: outer.join(limit), inner: outer.join("inner"), outer };
        let made = fs::create_dir(&group.outer)
            .and_then(|()| fs::write(&group.limit, bytes.to_string()))
            .and_then(|()| fs::create_dir(&group.inner));
        // Not every kernel counts swap.
        let _ =
            fs::write(group.outer.join(swap), if limit == "memory.max" { "0".to_owned() } else { bytes.to_string() });
        made.map_err(|error| format!("{}: {error}", group.outer.display()))?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.inner);
        let _ = fs::remove_dir(&self.outer);
    }
}

/// Runs the case in a group of 192 MiB around the process's own, in each lane.
fn run_in_a_group(case: &str, setting: Option<&str>) {
    if any_malloc() {
        return;
    }
    for lane in LANES {
        let group = match Group::new("limit", 192 << 20) {
            Ok(group) => group,
            Err(why) => {
                let _ = writeln!(stderr(), "SKIPPED {case}: no control group can be made: {why}");
                return;
            }
        };
        let mut run = Run::new(&PROGRAM).argument(case).group(&group.inner);
        if let Some(setting) = setting {
            run = run.variable("HZ3_SOFT_LIMIT", setting).variable("LIMIT_FILE", &group.limit.display().to_string());
        }
        run.preload(&lane.library()).finish().expect_success();
    }
}

/// The limit is a fifth above what is live. Without a soft limit, each lane's process is killed there: it comes to 245 MiB
/// and more.
#[test]
fn phases_live_in_a_limit_of_the_system_s() {
    run_in_a_group(IN_A_GROUP, None);
}

#[test]
fn a_change_of_the_system_s_limit_is_followed() {
    run_in_a_group(FOLLOWED, Some("auto"));
}
