//! Compiler: turns a source file of this folder into a program or a shared library, once per test
//! run.

use super::run::Limit;
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

/// `-fno-builtin` keeps the compiler from merging or dropping allocation calls. Little optimisation,
/// for short compilations; a failed check names its own line, so no debug information either.
const FLAGS: [&str; 4] = ["-O1", "-fno-builtin", "-pthread", "-fPIC"];

/// For C++ besides: forms of operator new and delete that some compilers switch on in their later
/// standards only.
const CXX_FLAGS: [&str; 2] = ["-fsized-deallocation", "-faligned-new"];

/// A test program: its source, how it is compiled, and what it is run with.
#[derive(Clone, Copy)]
pub struct Program {
    source: &'static str,
    flags: &'static [&'static str],
    plugin: Option<&'static str>,
    limit: Option<Limit>,
}

impl Program {
    /// The program of the source file `source`, a path in the tests' folder.
    pub const fn new(source: &'static str) -> Program {
        Program { source, flags: &[], plugin: None, limit: None }
    }

    /// With further flags for the compiler.
    pub const fn flags(self, flags: &'static [&'static str]) -> Program {
        Program { flags, ..self }
    }

    /// With the path of a shared library, built from the source file `plugin`, as its argument.
    pub const fn plugin(self, plugin: &'static str) -> Program {
        Program { plugin: Some(plugin), ..self }
    }

    /// With a limit on its resources from its first instruction on.
    pub const fn limit(self, limit: Limit) -> Program {
        Program { limit: Some(limit), ..self }
    }

    pub(super) fn source(&self) -> &'static str {
        self.source
    }

    pub(super) fn resource_limit(&self) -> Option<Limit> {
        self.limit
    }

    /// The program's executable.
    pub fn build(&self) -> PathBuf {
        compiled(self.source, self.flags)
    }

    /// The shared library that the program takes as its argument.
    pub fn build_plugin(&self) -> Option<PathBuf> {
        self.plugin.map(|source| compiled(source, &["-shared"]))
    }
}

type Artifacts = Mutex<BTreeMap<String, Arc<OnceLock<PathBuf>>>>;

/// The file that `source` compiles to. The first to ask compiles, the others wait.
pub(super) fn compiled(source: &str, flags: &[&str]) -> PathBuf {
    static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(Artifacts::default);
    let name = file_name(format!("{source} {}", flags.join(" ")).trim_end());
    let artifact = {
        let mut artifacts = ARTIFACTS.lock().expect("no compilation runs under the lock");
        Arc::clone(artifacts.entry(name.clone()).or_default())
    };
    artifact.get_or_init(|| compile(source, flags, &name)).clone()
}

/// `text` as the name of a file.
fn file_name(text: &str) -> String {
    text.replace(|character: char| !character.is_ascii_alphanumeric(), "_")
}

fn compile(source: &str, flags: &[&str], name: &str) -> PathBuf {
    let (variable, default, language_flags): (_, _, &[&str]) =
        if source.ends_with(".cpp") { ("CXX", "c++", &CXX_FLAGS) } else { ("CC", "cc", &[]) };
    let compiler = env::var(variable).unwrap_or_else(|_| default.to_owned());
    // Another test run at this moment may be one for another processor.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME")).join(file_name(&compiler));
    fs::create_dir_all(&folder).expect("cargo's folder for tests is writable");
    // Compiled under a name of its own and then moved: another test run may be using the old file.
    let target = folder.join(name);
    let fresh = folder.join(format!("{name}.{}", process::id()));
    let mut words = compiler.split_whitespace();
    let output = Command::new(words.next().unwrap_or(default))
        .args(words)
        .args(FLAGS)
        .args(language_flags)
        .args(flags)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(source))
        .arg("-o")
        .arg(&fresh)
        .arg("-ldl")
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}; set {variable} to a compiler"));
    assert!(output.status.success(), "{compiler} can't compile {source}:\n{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&fresh, &target).expect("a file can be renamed within its folder");
    target
}
