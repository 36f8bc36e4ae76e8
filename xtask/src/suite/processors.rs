//! Processors: hz3 built for others than this one, and run under qemu-user.
//!
//! ```text
//! unit         hz3-core's own tests: system calls, stacks, unwinding, thread-local words
//! LANE         the library's shape, and programs of the C and C++ interface
//! LANE/16k     some of them with pages of 16 KiB, LANE/64k with 64
//! all/CRATE    all programs of a test crate in every lane, but for [`left_out`]; most only where a filter names them
//! 16k/all/CRATE  the same with pages of 16 KiB, 64k/all/CRATE with 64
//! benchmark    the benchmark, a second of it
//! ```
//!
//! AArch64 has all of them. Debian has no Rust with RISC-V's standard library, and its kernels have no larger pages: there
//! the lanes are built with a `core` of its sources.
//!
//! An emulator's memory and time are not the program's, so tests that measure either are left out, as are those that
//! qemu 7.2 fails with glibc's malloc too: threads in a child of a threaded process, and a signal handler that forks. It
//! shows no weak ordering: docs/ordering.md has the models for that.

use super::debian_rust;
use super::left_out::{self, Tests};
use super::package::{self, Package};
use super::rust_checks::{Cases, expect_all_but, expect_cases, expect_tests};
use super::session::Session;
use super::step::{Step, Stop};
use crate::library_shape::Library;
use hz3::record::tuning_variables;
use hz3::workspace::{BUILD_TIME_LIMIT, variable_of_target};
use hz3::{Lane, process};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A processor, and what builds and emulates for it.
pub struct Processor {
    name: &'static str,
    /// Cargo's target.
    pub target: &'static str,
    compiler: Package,
    cxx_compiler: Package,
    emulator: Package,
    /// The C library's headers and, for the emulator, its loader.
    c_library: (&'static str, &'static str),
    /// The emulator's command line.
    pub emulated: &'static str,
    /// Its name where Debian has a Rust standard library for it.
    debian: Option<&'static str>,
    /// Bytes of the larger pages that its kernels may have.
    large_pages: &'static [usize],
}

/// AArch64.
pub const AARCH64: Processor = Processor {
    name: "aarch64",
    target: "aarch64-unknown-linux-gnu",
    compiler: Package { command: "aarch64-linux-gnu-gcc", name: "gcc-aarch64-linux-gnu" },
    cxx_compiler: Package { command: "aarch64-linux-gnu-g++", name: "g++-aarch64-linux-gnu" },
    emulator: Package { command: "qemu-aarch64", name: "qemu-user" },
    c_library: ("/usr/aarch64-linux-gnu/include/stdio.h", "libc6-dev-arm64-cross"),
    emulated: "qemu-aarch64 -L /usr/aarch64-linux-gnu",
    debian: Some("arm64"),
    large_pages: &LARGE_PAGES,
};
const RISCV64: Processor = Processor {
    name: "riscv64",
    target: "riscv64gc-unknown-linux-gnu",
    compiler: Package { command: "riscv64-linux-gnu-gcc", name: "gcc-riscv64-linux-gnu" },
    cxx_compiler: Package { command: "riscv64-linux-gnu-g++", name: "g++-riscv64-linux-gnu" },
    emulator: Package { command: "qemu-riscv64", name: "qemu-user" },
    c_library: ("/usr/riscv64-linux-gnu/include/stdio.h", "libc6-dev-riscv64-cross"),
    emulated: "qemu-riscv64 -L /usr/riscv64-linux-gnu",
    debian: None,
    large_pages: &[],
};

const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Test crates of hz3-preload, what stands before the lane in the names of their tests, and cases: what has code of its own
/// for a processor, threads and forks.
const CASES: [Cases; 4] = [
    (
        "preload_abi",
        "",
        &[
            "blocks_from_libc_functions_can_be_freed",
            "blocks_pass_between_private_and_usual_names",
            "calloc_fails_with_enomem_when_the_product_overflows",
            "every_name_comes_from_the_preloaded_library",
            "every_name_has_an_address_of_its_own",
            "free_keeps_errno",
            "live_blocks_of_every_size_do_not_overlap",
            "null_is_accepted_by_every_form",
            "operator_new_works_without_a_cxx_runtime",
            "posix_memalign_honours_every_power_of_two",
            "realloc_of_null_is_malloc",
            "usable_size_covers_every_entry_point",
        ],
    ),
    (
        "preload_cxx",
        "cxx17::",
        &[
            "a_handler_that_throws_makes_the_nothrow_forms_return_null",
            "aligned_forms_pair_with_every_delete",
            "bad_alloc_unwinds_through_frames_that_own_memory",
            "every_operator_comes_from_the_preloaded_library",
            "nothrow_forms_return_null",
            "the_handlers_exception_reaches_the_caller",
            "threads_throw_at_once",
            "throwing_forms_throw_bad_alloc",
        ],
    ),
    (
        "preload_process",
        "",
        &[
            "allocation_is_no_cancellation_point",
            "blocks_outlive_the_thread_that_took_them",
            "constructors_and_destructors_allocate",
            "destructors_allocate_and_free_in_every_round",
            "exit_handlers_allocate",
            "libraries_that_allocate_come_and_go",
            "many_children_live_at_once",
        ],
    ),
    ("preload_stack", "", &["coroutines_of_four_kibibytes_allocate", "reports_take_little_stack"]),
];

/// Bytes of larger pages.
const LARGE_PAGES: [usize; 2] = [16 << 10, 64 << 10];
/// Cases with them. Others run natively: [`super::large_pages`].
const CASES_OF_LARGE_PAGES: [Cases; 2] = [
    (
        "preload_abi",
        "",
        &[
            "blocks_from_libc_functions_can_be_freed",
            "live_blocks_of_every_size_do_not_overlap",
            "valloc_and_pvalloc_align_to_the_page",
        ],
    ),
    ("preload_process", "", &["blocks_outlive_the_thread_that_took_them", "many_children_live_at_once"]),
];

/// The emulator makes a record of each page that a window may reach over, at each start: with the default, six times as long.
/// Scale's named cases have that.
const ARENA: (&str, &str) = ("HZ3_ARENA_SIZE", "64M");

/// Threads, iterations, slots, smallest and largest size, percentage of remote frees, ring slots.
const BENCHMARK: [&str; 7] = ["4", "5000", "400", "16", "2048", "50", "65536"];

/// The steps of AArch64.
pub fn aarch64_steps() -> Vec<Step> {
    let mut steps = vec![Step::new("emulated/aarch64/unit", |session| AARCH64.unit(session))];
    steps.extend(interface_steps(&AARCH64));
    for lane in Lane::ALL {
        for bytes in LARGE_PAGES {
            let name = format!("emulated/aarch64/{lane}/{}k", bytes >> 10);
            steps.push(Step::new(name, move |session| AARCH64.large_pages(session, lane, bytes)));
        }
    }
    steps.extend(AARCH64.steps_of_crates());
    steps.push(Step::new("emulated/aarch64/benchmark", |session| AARCH64.benchmark(session)));
    steps
}

/// The steps of RISC-V.
pub fn riscv64_steps() -> impl Iterator<Item = Step> {
    interface_steps(&RISCV64).chain(RISCV64.steps_of_crates())
}

fn interface_steps(processor: &'static Processor) -> impl Iterator<Item = Step> {
    Lane::ALL.into_iter().map(move |lane| {
        let name = format!("emulated/{}/{lane}", processor.name);
        Step::new(name, move |session| processor.interface(session, lane))
    })
}

impl Processor {
    /// What makes cargo build for it, quickly, with all parts there. On the processor itself there is nothing to emulate.
    pub fn variables(&self, session: &Session) -> Result<Vec<(String, OsString)>, Stop> {
        if std::env::consts::ARCH == self.name {
            return Err(Stop::Skipped(format!("the other steps run on {} here", self.name)));
        }
        package::require(&[self.compiler, self.cxx_compiler, self.emulator])?;
        package::require_file(Path::new(self.c_library.0), self.c_library.1)?;
        let mut variables: Vec<(String, OsString)> = Vec::new();
        if !debian_rust::has_standard_library(self.target) {
            let compiler = match self.debian {
                Some(name) => debian_rust::compiler(session, None, Some(name)),
                None => debian_rust::compiler_with_sources(session),
            };
            variables.push(("RUSTC".to_owned(), compiler?.into()));
        }
        let mut set = |name: &str, value: &str| variables.push((name.to_owned(), value.into()));
        set(&variable_of_target(self.target, "LINKER"), self.compiler.command);
        set(&variable_of_target(self.target, "RUNNER"), self.emulated);
        for (option, value) in [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("DEBUG", "false")] {
            set(&format!("CARGO_PROFILE_RELEASE_{option}"), value);
        }
        Ok(variables)
    }

    /// Where the results lie, apart from those of other compilers and profiles.
    pub fn folder(&self, session: &Session) -> PathBuf {
        session.workspace.target.join(self.name)
    }

    /// A cargo that builds for it.
    fn cargo(&self, session: &Session) -> Result<Command, Stop> {
        let mut command = session.workspace.cargo();
        command.envs(self.variables(session)?);
        Ok(command)
    }

    /// Adds what says what to build, and where.
    fn build(&self, command: &mut Command, session: &Session, words: &[&str]) -> Result<PathBuf, Stop> {
        command.args(words).args(["--release", "--target", self.target, "--target-dir"]).arg(self.folder(session));
        if self.debian.is_none() && !debian_rust::has_standard_library(self.target) {
            command.arg("-Zbuild-std=core,alloc").env("RUSTC_BOOTSTRAP", "1");
        }
        process::expect_success(command, BUILD_TIME_LIMIT)?;
        Ok(self.folder(session).join(self.target).join("release"))
    }

    fn unit(&self, session: &mut Session) -> Result<(), Stop> {
        let mut command = self.cargo(session)?;
        // Not optimised for release: the order of locks is checked too.
        command.args(["test", "--package", "hz3-core", "--lib", "--target", self.target, "--target-dir"]);
        expect_tests(command.arg(self.folder(session))).map(drop)
    }

    fn library(&self, session: &Session, lane: Lane) -> Result<PathBuf, Stop> {
        let mut command = self.cargo(session)?;
        if self.debian.is_some() {
            // As it is shipped.
            for option in ["LTO", "CODEGEN_UNITS"] {
                command.env_remove(format!("CARGO_PROFILE_RELEASE_{option}"));
            }
        }
        let results = self.build(&mut command, session, &["build", "--package", &lane.package()])?;
        Ok(results.join(lane.library()))
    }

    fn interface(&self, session: &mut Session, lane: Lane) -> Result<(), Stop> {
        let library = self.library(session, lane)?;
        Library::read(&library)?.check(&lane.library())?;
        self.run(session, lane, &library, self.emulated, &CASES)
    }

    /// One step for each test crate and length of pages.
    fn steps_of_crates(&'static self) -> impl Iterator<Item = Step> {
        let lengths = [None].into_iter().chain(self.large_pages.iter().copied().map(Some));
        lengths.flat_map(move |large| left_out::CRATES.iter().map(move |tests| self.step_of_crate(tests, large)))
    }

    fn step_of_crate(&'static self, tests: &'static Tests, large_pages: Option<usize>) -> Step {
        let pages = large_pages.map(|bytes| format!("{}k/", bytes >> 10)).unwrap_or_default();
        let name = format!("emulated/{}/{pages}all/{}", self.name, tests.name.trim_start_matches("preload_"));
        let step = Step::new(name, move |session| self.all_but(session, tests, large_pages));
        if tests.is_in_ci(large_pages) { step } else { step.by_hand() }
    }

    /// All programs of the crate but those left out.
    fn all_but(&self, session: &Session, tests: &Tests, large_pages: Option<usize>) -> Result<(), Stop> {
        let mut folder = PathBuf::new();
        for lane in Lane::ALL {
            let library = self.library(session, lane)?;
            folder = library.parent().unwrap_or(&library).to_owned();
        }
        let emulator = large_pages.map_or_else(|| self.emulated.to_owned(), |bytes| self.emulated_with(bytes));
        expect_all_but(session, &folder, tests.name, &tests.names(large_pages), |command| {
            self.prepare(command.env(ARENA.0, ARENA.1), &emulator);
        })
    }

    /// Programs on a system whose pages have `bytes`.
    fn large_pages(&self, session: &mut Session, lane: Lane, bytes: usize) -> Result<(), Stop> {
        let library = self.library(session, lane)?;
        self.run(session, lane, &library, &self.emulated_with(bytes), &CASES_OF_LARGE_PAGES)
    }

    /// The emulator's command line for pages of `bytes`.
    fn emulated_with(&self, bytes: usize) -> String {
        let (emulator, system) = self.emulated.split_once(' ').unwrap_or((self.emulated, ""));
        format!("{emulator} -p {bytes} {system}")
    }

    fn run(&self, session: &Session, lane: Lane, library: &Path, emulator: &str, cases: &[Cases]) -> Result<(), Stop> {
        expect_cases(session, lane, library.parent().unwrap_or(library), cases, |command| {
            if lane != Lane::Scale {
                command.env(ARENA.0, ARENA.1);
            }
            self.prepare(command, emulator);
        })
    }

    /// Tells tests how to compile programs and run them.
    fn prepare(&self, tests: &mut Command, emulator: &str) {
        tests.env("PRELOAD_TEST_EMULATOR", emulator);
        tests.env("CC", self.compiler.command).env("CXX", self.cxx_compiler.command);
    }

    fn benchmark(&self, session: &mut Session) -> Result<(), Stop> {
        let library = self.library(session, Lane::Scale)?;
        let words = ["build", "--package", "hz3-bench-mt-remote", "--bin", "hz3-bench-mt-remote"];
        let results = self.build(&mut self.cargo(session)?, session, &words)?;
        let mut words = self.emulated.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        for variable in tuning_variables() {
            command.env_remove(variable);
        }
        command.args(words).args(["-E", &format!("LD_PRELOAD={}", library.display())]);
        command.env_remove("LD_PRELOAD").arg(results.join("hz3-bench-mt-remote")).args(BENCHMARK);
        let text = process::expect_success(&mut command, TIME_LIMIT)?.text();
        if text.contains(&Lane::Scale.library()) { Ok(()) } else { Err(Stop::failed(text)) }
    }
}
