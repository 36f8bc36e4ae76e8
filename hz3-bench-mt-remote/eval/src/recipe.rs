//! Recipe: how one peer is compiled from its sys crate's sources.

use anyhow::{Context, Result, bail};
use hz3::process;
use hz3::workspace::BUILD_TIME_LIMIT;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How one peer is compiled.
pub struct Recipe {
    /// The peer's name.
    pub name: &'static str,
    /// The allocator and its own version.
    allocator: &'static str,
    /// The sys crate that carries its sources.
    pub package: &'static str,
    /// That crate's version, pinned: the recipe follows its folder layout.
    pub package_version: &'static str,
    /// Programs that the build runs; the compiler comes first.
    pub tools: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    /// Whether it is a build for finding faults, which is no match in speed.
    pub checked: bool,
    /// Compiles from the crate's folder, in a folder of its own, and returns the library.
    pub build: fn(source: &Path, work: &Path) -> Result<PathBuf>,
}

/// Every peer that can be built.
pub const RECIPES: [Recipe; 8] = [
    Recipe {
        name: "mimalloc3",
        allocator: "mimalloc 3.3.2",
        package: "libmimalloc-sys",
        package_version: "0.1.49",
        tools: &["gcc"],
        environment: &[],
        checked: false,
        build: build_mimalloc,
    },
    Recipe {
        name: "snmalloc",
        allocator: "snmalloc 0.7.6",
        package: "snmalloc-sys",
        package_version: "0.7.6",
        tools: &["clang++", "cmake", "make"],
        environment: &[],
        checked: false,
        build: build_snmalloc,
    },
    Recipe {
        name: "jemalloc53",
        allocator: "jemalloc 5.3.1",
        package: "tikv-jemalloc-sys",
        package_version: "0.7.1",
        tools: &["gcc", "g++", "make"],
        environment: &[],
        checked: false,
        build: build_jemalloc,
    },
    Recipe {
        name: "tcmalloc-google",
        allocator: "Google tcmalloc",
        package: "libtcmalloc-sys",
        package_version: "0.1.14",
        tools: &["clang++"],
        // Its per-CPU caches need a restartable sequence of their own; while glibc holds the thread's
        // only one they stay off.
        environment: &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")],
        checked: false,
        build: build_tcmalloc,
    },
    Recipe {
        name: "rpmalloc",
        allocator: "rpmalloc 1.4.3",
        package: "rpmalloc-sys",
        package_version: "0.2.3",
        tools: &["clang"],
        environment: &[],
        checked: false,
        build: build_rpmalloc,
    },
    Recipe {
        name: "mimalloc3-secure",
        allocator: "mimalloc 3.3.2 with MI_SECURE=4",
        package: "libmimalloc-sys",
        package_version: "0.1.49",
        tools: &["gcc"],
        environment: &[],
        checked: true,
        build: build_secure_mimalloc,
    },
    Recipe {
        name: "snmalloc-checks",
        allocator: "snmalloc 0.7.6 with checks",
        package: "snmalloc-sys",
        package_version: "0.7.6",
        tools: &["clang++", "cmake", "make"],
        environment: &[],
        checked: true,
        build: build_checked_snmalloc,
    },
    Recipe {
        name: "hardened-malloc",
        allocator: "GrapheneOS's hardened_malloc",
        package: "hardened-malloc-sys",
        package_version: "16.0.2026071503",
        tools: &["gcc"],
        environment: &[],
        checked: true,
        build: build_hardened_malloc,
    },
];

/// Flags of every compiler call that is ours.
const FLAGS: [&str; 4] = ["-O3", "-DNDEBUG", "-fPIC", "-ftls-model=initial-exec"];

impl Recipe {
    /// The library's file name.
    pub fn library(&self) -> String {
        format!("{}.so", self.name)
    }

    /// Version and origin of the result.
    pub fn version(&self) -> String {
        format!("{}, built from {} {}", self.allocator, self.package, self.package_version)
    }

    /// Variables that the peer is run with beside `LD_PRELOAD`.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

/// mimalloc is one C file that includes the others; the defines are those of its release build as an
/// overriding shared library.
fn build_mimalloc(source: &Path, work: &Path) -> Result<PathBuf> {
    build_mimalloc_with(source, work, &[])
}

/// As [`build_mimalloc`], with guard pages, encoded links and checks for double frees.
fn build_secure_mimalloc(source: &Path, work: &Path) -> Result<PathBuf> {
    build_mimalloc_with(source, work, &["MI_SECURE=4"])
}

fn build_mimalloc_with(source: &Path, work: &Path, further: &[&str]) -> Result<PathBuf> {
    let root = source.join("c_src/mimalloc/v3");
    let library = work.join("libmimalloc.so");
    let mut command = Command::new("gcc");
    command.args(FLAGS).args(["-std=gnu11", "-shared", "-fvisibility=hidden", "-fno-builtin-malloc"]);
    let defines = ["MI_BUILD_RELEASE", "MI_MALLOC_OVERRIDE", "MI_SHARED_LIB", "MI_SHARED_LIB_EXPORT"];
    command.args(defines.iter().chain(further).map(|define| format!("-D{define}")));
    command.arg("-I").arg(root.join("include")).arg(root.join("src/static.c"));
    command.arg("-o").arg(&library).args(["-lpthread", "-lrt", "-latomic"]);
    process::expect_success(&mut command, BUILD_TIME_LIMIT)?;
    Ok(library)
}

/// snmalloc's own release build of its preload shim without checks, with the compiler it recommends.
fn build_snmalloc(source: &Path, work: &Path) -> Result<PathBuf> {
    build_snmalloc_shim(source, work, "snmallocshim")
}

/// As [`build_snmalloc`], the shim with checks.
fn build_checked_snmalloc(source: &Path, work: &Path) -> Result<PathBuf> {
    build_snmalloc_shim(source, work, "snmallocshim-checks")
}

fn build_snmalloc_shim(source: &Path, work: &Path, shim: &str) -> Result<PathBuf> {
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(source.join("upstream")).arg("-B").arg(work).args([
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_CXX_COMPILER=clang++",
        "-DSNMALLOC_BUILD_TESTING=OFF",
    ]);
    process::expect_success(&mut configure, BUILD_TIME_LIMIT)?;
    let mut make = Command::new("cmake");
    make.arg("--build").arg(work).args(["--target", shim, "--parallel"]);
    process::expect_success(&mut make, BUILD_TIME_LIMIT)?;
    Ok(work.join(format!("lib{shim}.so")))
}

/// jemalloc's own configure and make, in a copy of its sources; the sys crate keeps the generated
/// configure script in a folder beside them, and the version after the `+` of its own.
fn build_jemalloc(source: &Path, work: &Path) -> Result<PathBuf> {
    let build = work.join("build");
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(source.join("jemalloc")).arg(&build);
    process::expect_success(&mut copy, BUILD_TIME_LIMIT)?;
    std::fs::copy(source.join("configure/configure"), build.join("configure"))?;
    let version = source
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.split_once('+'))
        .map(|(_, version)| version)
        .context("the sys crate's folder does not name jemalloc's version")?;
    let mut configure = Command::new("sh");
    configure
        .current_dir(&build)
        .arg("configure")
        .arg(format!("--with-version={version}"))
        .args(["--disable-static", "--enable-doc=no"])
        .env("CFLAGS", "-O3 -DNDEBUG");
    process::expect_success(&mut configure, BUILD_TIME_LIMIT)?;
    let mut make = Command::new("make");
    make.current_dir(&build).arg(format!("-j{}", processors())).arg("build_lib_shared");
    process::expect_success(&mut make, BUILD_TIME_LIMIT)?;
    Ok(build.join("lib/libjemalloc.so.2"))
}

/// Google's tcmalloc has a Bazel build only; the sys crate's build script lists the files that make
/// it up. They are compiled as they are, with the entry points that the crate leaves out.
fn build_tcmalloc(source: &Path, work: &Path) -> Result<PathBuf> {
    let script = std::fs::read_to_string(source.join("build.rs"))?;
    let mut files: Vec<String> =
        listed_sources(&script).filter(|file| !file.contains("_bridge.")).map(str::to_owned).collect();
    if files.len() < 100 {
        bail!("the sys crate's build script lists only {} source files", files.len());
    }
    files.push("c_src/tcmalloc/tcmalloc/tcmalloc.cc".to_owned());
    let compile = |index: usize, file: &str| {
        let object = work.join(format!("{index}.o"));
        let mut command = Command::new("clang++");
        command.current_dir(source).args(FLAGS);
        command.args(["-std=c++17", "-w", "-DTCMALLOC_INTERNAL_8K_PAGES"]);
        command.args(["-I", "c_src/abseil-cpp", "-I", "c_src/tcmalloc", "-c", file, "-o"]).arg(object);
        command
    };
    compile_all(&files, compile)?;
    let library = work.join("libtcmalloc.so");
    let mut link = Command::new("clang++");
    link.args(["-shared", "-Wl,-z,defs", "-o"]).arg(&library);
    link.args((0..files.len()).map(|index| work.join(format!("{index}.o")))).arg("-lpthread");
    process::expect_success(&mut link, BUILD_TIME_LIMIT)?;
    Ok(library)
}

/// rpmalloc is one file; the defines are those of its preload library.
fn build_rpmalloc(source: &Path, work: &Path) -> Result<PathBuf> {
    let library = work.join("librpmalloc.so");
    let mut command = Command::new("clang");
    command.args(FLAGS).args(["-std=gnu11", "-shared", "-D_GNU_SOURCE=1", "-DENABLE_PRELOAD=1", "-DENABLE_OVERRIDE=1"]);
    command.arg(source.join("rpmalloc/rpmalloc/rpmalloc.c")).arg("-o").arg(&library).arg("-lpthread");
    process::expect_success(&mut command, BUILD_TIME_LIMIT)?;
    Ok(library)
}

/// hardened_malloc is a few C files and, in a file of the sys crate, its default configuration as defines. The headers that
/// are included make keywords of C23 known to compilers that have them under their older names.
fn build_hardened_malloc(source: &Path, work: &Path) -> Result<PathBuf> {
    let root = source.join("vendor/hardened-malloc");
    let configuration = std::fs::read_to_string(source.join("config-default.conf"))?;
    let library = work.join("libhardened_malloc.so");
    let mut command = Command::new("gcc");
    command.args(["-O3", "-fPIC", "-std=c2x", "-shared", "-fvisibility=hidden", "-D_GNU_SOURCE"]);
    command.args(["stdalign.h", "stdbool.h", "assert.h"].iter().flat_map(|header| ["-include", header]));
    command.args(defines(&configuration).map(|define| format!("-D{define}")));
    for folder in [".", "include", "third_party"] {
        command.arg("-I").arg(root.join(folder));
    }
    command
        .args(["chacha", "h_malloc", "memory", "pages", "random", "util"].map(|file| root.join(format!("{file}.c"))));
    command.arg("-o").arg(&library);
    process::expect_success(&mut command, BUILD_TIME_LIMIT)?;
    Ok(library)
}

/// The lines `NAME=VALUE` of a configuration file.
fn defines(configuration: &str) -> impl Iterator<Item = &str> {
    configuration.lines().map(str::trim).filter(|line| !line.starts_with('#') && line.contains('='))
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The C++ and assembly files that a build script names in string literals.
fn listed_sources(script: &str) -> impl Iterator<Item = &str> {
    let literals = script.split('"').skip(1).step_by(2);
    literals.filter(|text| text.starts_with("c_src/") && (text.ends_with(".cc") || text.ends_with(".S")))
}

/// Compiles every file, as many at a time as there are processors; the first failure ends it.
fn compile_all(files: &[String], command: impl Fn(usize, &str) -> Command + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..processors() {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(file) = files.get(index) else { break };
                    let output = command(index, file).output();
                    let error = match output {
                        Ok(output) if output.status.success() => continue,
                        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
                        Err(error) => error.to_string(),
                    };
                    next.store(files.len(), Ordering::Relaxed);
                    *failure.lock().expect("no holder panics") = Some(format!("{file}: {error}"));
                }
            });
        }
    });
    match failure.into_inner().expect("no holder panics") {
        Some(error) => bail!("can't compile {error}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_file_s_lines_are_defines() {
        let text = "# A=1\n\n ZERO_ON_FREE=true\nN_ARENA=4\nnone\n";
        assert_eq!(defines(text).collect::<Vec<_>>(), ["ZERO_ON_FREE=true", "N_ARENA=4"]);
    }

    #[test]
    fn source_files_are_found_among_a_build_script_s_literals() {
        let script = r#"cc.files(["c_src/a.cc", "c_src/b.S", "c_src/headers"]); cc.define("X", None);"#;
        assert_eq!(listed_sources(script).collect::<Vec<_>>(), ["c_src/a.cc", "c_src/b.S"]);
    }

    #[test]
    fn one_file_that_does_not_compile_is_named() {
        let files: Vec<String> = ["good", "bad", "good"].map(str::to_owned).to_vec();
        let shell = |_: usize, file: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo reason >&2; test $0 = good", file]);
            command
        };
        let error = compile_all(&files, shell).unwrap_err().to_string();
        assert!(error.contains("bad") && error.contains("reason"), "{error}");
        assert!(compile_all(&files[..1], shell).is_ok());
    }
}
