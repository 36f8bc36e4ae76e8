//! System: settings of this machine and this shell that bend what an allocator can do.
//!
//! Outside rules: proc_sys_vm(5), getrlimit(2), Documentation/admin-guide/mm/transhuge.rst of the kernel.

use super::finding::Finding;
use crate::record::machine::{chosen, text_of};
use rustix::process::{Resource, getrlimit};
use std::path::Path;

/// The sizes of pages with which the library works.
const PAGE_BYTES: [usize; 3] = [4096, 16_384, 65_536];
/// The kernel's default of `vm.max_map_count`.
const USUAL_MAP_COUNT: u64 = 65_530;
/// What the library makes usable at once, at the least and at the most.
const STEPS_MIB: (u64, u64) = (8, 256);
/// The library reserves this share of a limited address space.
const SHARE_OF_LIMIT: u64 = 16;
/// Below this limit of address space, or of strict commit, a program hardly runs.
const TIGHT_MIB: u64 = 256;
/// Threads whose stacks follow a limit below this are small.
const SMALL_STACK_KIB: u64 = 1024;

const MIB: u64 = 1 << 20;

/// The settings, as they are for programs started from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    page_bytes: usize,
    huge_pages: String,
    overcommit: u64,
    /// What may still be committed in bytes, where overcommit is strict.
    commit_left: Option<u64>,
    map_count: u64,
    address_space: Option<u64>,
    data: Option<u64>,
    stack: Option<u64>,
    /// The control group's limit on memory.
    memory: Option<u64>,
    /// The options of the shell that limit memory, as `NAME=value`.
    limits: Vec<String>,
    preloaded: Option<String>,
    preloaded_everywhere: String,
}

impl System {
    /// Reads the settings.
    pub fn read() -> System {
        let number = |path: &str| text_of(path).parse().unwrap_or(0);
        System {
            page_bytes: rustix::param::page_size(),
            huge_pages: chosen(&text_of("/sys/kernel/mm/transparent_hugepage/enabled")),
            overcommit: number("/proc/sys/vm/overcommit_memory"),
            commit_left: commit_left(&text_of("/proc/meminfo")),
            map_count: number("/proc/sys/vm/max_map_count"),
            address_space: getrlimit(Resource::As).current,
            data: getrlimit(Resource::Data).current,
            stack: getrlimit(Resource::Stack).current,
            memory: memory_limit(&text_of("/proc/self/cgroup"), Path::new("/sys/fs/cgroup")),
            limits: ["HZ3_SOFT_LIMIT", "HZ3_HARD_LIMIT"]
                .into_iter()
                .filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)))
                .collect(),
            preloaded: std::env::var("LD_PRELOAD").ok().filter(|value| !value.is_empty()),
            preloaded_everywhere: text_of("/etc/ld.so.preload"),
        }
    }

    /// What follows for hz3, whose commands are named `caller …`.
    pub fn findings(&self, caller: &str) -> Vec<Finding> {
        let (least, most) = STEPS_MIB;
        let mut findings = Vec::new();
        if !PAGE_BYTES.contains(&self.page_bytes) {
            findings.push(Finding::stops(
                format!("the system's pages have {} bytes", self.page_bytes),
                "The library works with pages of 4, 16 and 64 KiB.".to_owned(),
                "use a kernel with pages of one of these sizes.",
            ));
        }
        if self.huge_pages == "always" {
            findings.push(Finding::bends(
                "transparent huge pages: always",
                "The kernel backs the allocator's memory with 2 MiB pages: fewer page faults, often more resident memory.",
                "compare peak memory with HZ3_THP=0, which asks for none.",
            ));
        }
        if self.overcommit == 2 {
            let left = self.commit_left.unwrap_or(0) / MIB;
            let meaning = format!(
                "The reservation is made without access rights and costs nothing here; what is made usable, {least} to \
                 {most} MiB at a time, counts against the system's limit, of which {left} MiB are left."
            );
            findings.push(if left < TIGHT_MIB {
                let remedy = "raise vm.overcommit_ratio or vm.overcommit_kbytes, or add swap.";
                Finding::bends("overcommit is strict (mode 2) and little is left", meaning, remedy)
            } else {
                Finding::note("overcommit is strict (mode 2)", meaning, "nothing.")
            });
        }
        if let Some(limit) = self.address_space {
            findings.push(limited_address_space(limit / MIB));
        }
        if let Some(limit) = self.data {
            findings.push(Finding::note(
                format!("writable memory is limited to {} MiB (ulimit -d)", limit / MIB),
                format!("What the library makes usable, {least} to {most} MiB at a time, counts against it; its reservation does not."),
                "nothing, as long as the program's own memory leaves that room.",
            ));
        }
        if let Some(limit) = self.memory {
            findings.push(Finding::note(
                format!("the control group's memory is limited to {} MiB", limit / MIB),
                "Once 32 MiB are in use, the library gives all free memory back before it grows past seven eighths of that.",
                "nothing; HZ3_SOFT_LIMIT sets another limit, or none.",
            ));
        }
        if !self.limits.is_empty() {
            findings.push(Finding::note(
                format!("{} in this shell", self.limits.join(" and ")),
                "Past the soft limit the library gives free memory back, past the hard one malloc fails.",
                "nothing, if it is meant.",
            ));
        }
        if self.map_count < USUAL_MAP_COUNT {
            findings.push(Finding::bends(
                format!("vm.max_map_count is {}, below the usual {USUAL_MAP_COUNT}", self.map_count),
                "Every block from 32 MiB on is a mapping of its own, and so is every thread's stack; at the limit \
                 allocations of that size fail.",
                format!("sysctl vm.max_map_count={USUAL_MAP_COUNT}."),
            ));
        }
        if let Some(limit) = self.stack.filter(|limit| limit / 1024 < SMALL_STACK_KIB) {
            findings.push(Finding::note(
                format!("threads start with stacks of {} KiB (ulimit -s)", limit / 1024),
                "The library takes 8 bytes of thread-local storage out of each and needs little stack. A size that the \
                 program sets itself (pthread_attr_setstacksize) can't be seen from outside.",
                "nothing, unless threads crash under any allocator.",
            ));
        }
        if let Some(others) = &self.preloaded {
            findings.push(Finding::note(
                format!("LD_PRELOAD is set already: {others}"),
                "The library must come before another allocator there.",
                format!("put it first, as {caller} run does."),
            ));
        }
        if !self.preloaded_everywhere.is_empty() {
            findings.push(Finding::note(
                format!("/etc/ld.so.preload has {}", self.preloaded_everywhere.replace('\n', " ")),
                "It is loaded after what LD_PRELOAD names.",
                "nothing.",
            ));
        }
        findings
    }
}

fn limited_address_space(limit_mib: u64) -> Finding {
    let share = limit_mib / SHARE_OF_LIMIT;
    let what = format!("address space is limited to {limit_mib} MiB (ulimit -v)");
    let meaning = format!(
        "In place of some GiB the library reserves a sixteenth of the limit at first ({share} MiB), and as much again \
         each time that it is used up."
    );
    if limit_mib < TIGHT_MIB {
        Finding::bends(
            what,
            meaning,
            "raise the limit, or expect allocations to fail a little earlier than under glibc.",
        )
    } else {
        Finding::note(what, meaning, "nothing; HZ3_ARENA_SIZE sets an upper bound of the first reservation.")
    }
}

/// The least limit on memory, in bytes, of the control groups that `groups` names and of their ancestors, in the tree
/// mounted at `root`. As the library reads it.
fn memory_limit(groups: &str, root: &Path) -> Option<u64> {
    let fields = |line: &str| {
        let (number, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        Some((number == "0", controllers.split(',').any(|name| name == "memory"), path.to_owned()))
    };
    let all: Vec<_> = groups.lines().filter_map(fields).collect();
    let (root, names, group) = if let Some((.., group)) = all.iter().find(|(_, is_memory, _)| *is_memory) {
        (root.join("memory"), &["memory.limit_in_bytes"][..], group)
    } else {
        let (.., group) = all.iter().find(|(is_unified, ..)| *is_unified)?;
        (root.to_owned(), &["memory.max", "memory.high"][..], group)
    };
    let group = if group.contains("/..") { "" } else { group.trim_start_matches('/') };
    let numbers = Path::new(group).ancestors().flat_map(|group| {
        let read = |name| text_of(root.join(group).join(name).to_str()?).parse().ok();
        names.iter().filter_map(read).collect::<Vec<u64>>()
    });
    // "No limit" in version 1: the largest number of whole pages.
    numbers.min().filter(|&bytes| bytes < i64::MAX as u64 / 2)
}

/// What may still be committed: `CommitLimit` less `Committed_AS`.
fn commit_left(memory_information: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = memory_information.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(field("CommitLimit")?.saturating_sub(field("Committed_AS")?) * 1024)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn usual() -> System {
        System {
            page_bytes: 4096,
            huge_pages: "madvise".to_owned(),
            overcommit: 0,
            commit_left: None,
            map_count: USUAL_MAP_COUNT,
            address_space: None,
            data: None,
            stack: Some(8 << 20),
            memory: None,
            limits: Vec::new(),
            preloaded: None,
            preloaded_everywhere: String::new(),
        }
    }

    #[test]
    fn usual_settings_need_no_words() {
        for page_bytes in PAGE_BYTES {
            assert!(System { page_bytes, ..usual() }.findings("hz3").is_empty());
        }
    }

    #[test]
    fn each_unusual_setting_is_one_finding_of_its_severity() {
        use Severity::{Bends, Note, Stops};
        let cases = [
            (System { page_bytes: 131_072, ..usual() }, Stops, "131072 bytes"),
            (System { huge_pages: "always".to_owned(), ..usual() }, Bends, "huge pages"),
            (System { overcommit: 2, commit_left: Some(100 * MIB), ..usual() }, Bends, "little is left"),
            (System { overcommit: 2, commit_left: Some(9000 * MIB), ..usual() }, Note, "strict"),
            (System { address_space: Some(128 * MIB), ..usual() }, Bends, "128 MiB"),
            (System { address_space: Some(4096 * MIB), ..usual() }, Note, "4096 MiB"),
            (System { data: Some(64 * MIB), ..usual() }, Note, "ulimit -d"),
            (System { map_count: 1000, ..usual() }, Bends, "max_map_count"),
            (System { stack: Some(64 << 10), ..usual() }, Note, "64 KiB"),
            (System { memory: Some(300 * MIB), ..usual() }, Note, "300 MiB"),
            (System { limits: vec!["HZ3_HARD_LIMIT=1G".to_owned()], ..usual() }, Note, "HZ3_HARD_LIMIT=1G"),
            (System { preloaded: Some("/x.so".to_owned()), ..usual() }, Note, "/x.so"),
            (System { preloaded_everywhere: "/y.so".to_owned(), ..usual() }, Note, "/y.so"),
        ];
        for (system, severity, part) in cases {
            let findings = system.findings("hz3");
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].severity == severity && findings[0].what.contains(part), "{findings:?}");
        }
    }

    #[test]
    fn the_least_limit_of_all_ancestors_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        for group in ["a/b", "memory/x"] {
            std::fs::create_dir_all(root.join(group)).expect("a fresh folder");
        }
        let write = |file: &str, text: &str| std::fs::write(root.join(file), text).expect("writable");
        assert_eq!(memory_limit("0::/a/b\n", root), None);
        write("a/memory.max", "700000000\n");
        write("a/b/memory.max", "max\n");
        assert_eq!(memory_limit("0::/a/b\n", root), Some(700_000_000));
        write("a/b/memory.high", "5000\n");
        assert_eq!(memory_limit("0::/a/b\n", root), Some(5000));
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(memory_limit("4:cpu,memory:/x\n0::/a/b\n", root), None);
        write("memory/x/memory.limit_in_bytes", "8192\n");
        assert_eq!(memory_limit("4:cpu,memory:/x\n0::/a/b\n", root), Some(8192));
        assert_eq!(memory_limit("0::/../a\n", root), None);
        assert_eq!(memory_limit("", root), None);
    }

    #[test]
    fn what_may_still_be_committed_is_read_off_the_kernel_s_words() {
        let text = "MemTotal: 99 kB\nCommitLimit:     1000 kB\nCommitted_AS:     400 kB\n";
        assert_eq!(commit_left(text), Some(600 * 1024));
        assert_eq!(commit_left("MemTotal: 99 kB\n"), None);
    }
}
