//! Allocator: one candidate of the evaluation, that is a preload library with its environment, and
//! how candidates are found.

use super::machine::output_of;
use super::results::{AllocatorRecord, Missing, Role};
use crate::home::Home;
use crate::lane::Lane;
use crate::preload;
use crate::usage::UsageError;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of the C library's own malloc.
pub const SYSTEM: &str = "system";

/// A candidate that can be run.
#[derive(Clone, Debug)]
pub struct Allocator {
    /// What results files say about it.
    pub record: AllocatorRecord,
    /// The library to preload; `None` for the system's malloc.
    pub library: Option<PathBuf>,
}

/// The names of those that take part.
#[derive(clap::Args, Clone, Debug)]
pub struct Wanted {
    /// hz3's lanes to measure, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Lane::FOR_SPEED)]
    pub lanes: Vec<Lane>,
    /// The other allocators to measure by name, separated by commas: only these of those found
    /// [default: system and every peer found]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub peers: Vec<String>,
}

/// Which candidates take part.
#[derive(clap::Args, Clone, Debug)]
pub struct Selection {
    /// By name.
    #[command(flatten)]
    pub wanted: Wanted,
    /// A further peer, given by its preload library
    #[arg(long = "peer", value_name = "NAME=PATH")]
    pub given: Vec<String>,
    /// Whether builds for finding faults take part without being named
    #[arg(skip)]
    pub checked: bool,
}

/// Further candidates: each one, or why it is missing.
pub type Peers = Vec<std::result::Result<Allocator, Missing>>;

impl Wanted {
    /// Whether the allocator of that name, no lane, takes part.
    pub fn has(&self, name: &str) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|peer| peer == name)
    }

    /// Checks that every name that was given is one of `known`.
    ///
    /// # Errors
    /// A [`UsageError`] that names the first that is not and lists the known ones.
    pub fn check(&self, known: &[&str]) -> Result<()> {
        match self.peers.iter().find(|peer| !known.contains(&peer.as_str())) {
            None => Ok(()),
            Some(unknown) => {
                let message = format!("no peer is named '{unknown}'; the peers are {}", known.join(", "));
                Err(UsageError(message).into())
            }
        }
    }
}

/// A peer that the distribution offers.
struct Packaged {
    name: &'static str,
    /// File names, the preferred one first.
    files: &'static [&'static str],
    package: &'static str,
}

const PACKAGED: [Packaged; 3] = [
    Packaged { name: "tcmalloc", files: &["libtcmalloc_minimal.so.4"], package: "libtcmalloc-minimal4" },
    Packaged { name: "jemalloc", files: &["libjemalloc.so.2"], package: "libjemalloc2" },
    Packaged { name: "mimalloc2", files: &["libmimalloc.so.2", "libmimalloc.so.2.0"], package: "libmimalloc2.0" },
];

/// Folders in which a distribution keeps its libraries, beside those of `/usr/lib/<architecture>`.
const LIBRARY_FOLDERS: [&str; 4] = ["/usr/local/lib", "/usr/lib64", "/usr/lib", "/lib"];

/// Environment variables with these beginnings tune one allocator or another; no run inherits them.
const TUNING_PREFIXES: [&str; 9] =
    ["LD_", "GLIBC_TUNABLES", "MALLOC_", "MIMALLOC_", "TCMALLOC_", "_RJEM_", "SNMALLOC_", "RPMALLOC_", "HZ3_"];

impl Allocator {
    /// A candidate that is preloaded from `library`.
    pub fn preloaded(name: &str, role: Role, version: String, library: PathBuf) -> Result<Allocator> {
        let bytes = std::fs::read(&library).with_context(|| format!("can't read {}", library.display()))?;
        let record = AllocatorRecord {
            name: name.to_owned(),
            role,
            version,
            library: library.file_name().map(|file| file.to_string_lossy().into_owned()),
            fingerprint: Some(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes))),
            environment: Vec::new(),
        };
        Ok(Allocator { record, library: Some(library) })
    }

    /// The environment of a run under this allocator: the variables to set.
    pub fn environment(&self) -> Result<Vec<(String, std::ffi::OsString)>> {
        let own = self.record.environment.iter().map(|(key, value)| (key.clone(), value.into()));
        let mut variables: Vec<_> = own.collect();
        if let Some(library) = &self.library {
            variables.push(("LD_PRELOAD".to_owned(), preload::with_preloaded(library, None)?));
        }
        Ok(variables)
    }

    /// Gives `command` this allocator's environment, free of what would tune any of them.
    pub fn apply(&self, command: &mut Command) -> Result<()> {
        for variable in tuning_variables() {
            command.env_remove(variable);
        }
        command.envs(self.environment()?);
        Ok(())
    }
}

/// The variables of this process that would tune an allocator.
pub fn tuning_variables() -> impl Iterator<Item = std::ffi::OsString> {
    std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| TUNING_PREFIXES.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)))
}

/// The candidates of a measurement, in the order in which they run, and those that are missing; `peers` are those that
/// neither hz3 nor the distribution has.
///
/// Lanes are built where need be. A peer that was asked for by name and is not there is missing, one
/// given by path must exist.
pub fn find(home: &dyn Home, selection: &Selection, peers: Peers) -> Result<(Vec<Allocator>, Vec<Missing>)> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for &lane in &selection.wanted.lanes {
        let library = home.library(lane)?;
        let version = format!("hz3 {}", env!("CARGO_PKG_VERSION"));
        found.push(Allocator::preloaded(lane.name(), Role::Lane, version, library)?);
    }
    let mut others = vec![system()];
    for packaged in &PACKAGED {
        match packaged.find()? {
            Some(allocator) => others.push(allocator),
            None => missing.push(packaged.missing()),
        }
    }
    for peer in peers {
        match peer {
            Ok(allocator) => others.push(allocator),
            Err(absent) => missing.push(absent),
        }
    }
    let wanted = &selection.wanted;
    let names = others.iter().map(|allocator| allocator.record.name.as_str());
    wanted.check(&names.chain(missing.iter().map(|absent| absent.name.as_str())).collect::<Vec<_>>())?;
    others.retain(|allocator| wanted.has(&allocator.record.name));
    missing.retain(|absent| wanted.has(&absent.name));
    found.extend(others);
    for given in &selection.given {
        found.push(given_peer(given, &found)?);
    }
    Ok((found, missing))
}

fn system() -> Allocator {
    let version = output_of(Command::new("getconf").arg("GNU_LIBC_VERSION"));
    let record = AllocatorRecord {
        name: SYSTEM.to_owned(),
        role: Role::System,
        version,
        library: None,
        fingerprint: None,
        environment: Vec::new(),
    };
    Allocator { record, library: None }
}

fn given_peer(given: &str, found: &[Allocator]) -> Result<Allocator> {
    let usage = |message: String| -> anyhow::Error { UsageError(message).into() };
    let Some((name, path)) = given.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty()) else {
        return Err(usage(format!("--peer {given} is not NAME=PATH")));
    };
    if found.iter().any(|allocator| allocator.record.name == name) {
        return Err(usage(format!("--peer {given}: there is an allocator named '{name}' already")));
    }
    let library = Path::new(path).canonicalize().map_err(|error| usage(format!("--peer {given}: {error}")))?;
    if !library.is_file() {
        return Err(usage(format!("--peer {given}: not a file")));
    }
    Allocator::preloaded(name, Role::Peer, "given by path".to_owned(), library)
}

impl Packaged {
    fn find(&self) -> Result<Option<Allocator>> {
        let Some(library) = library_folders()
            .iter()
            .flat_map(|folder| self.files.iter().map(move |file| folder.join(file)))
            .find(|path| path.is_file())
        else {
            return Ok(None);
        };
        let library = library.canonicalize()?;
        let version = output_of(Command::new("dpkg-query").args(["-W", "-f", "${Version}", self.package]));
        let version = if version.is_empty() { "system library".to_owned() } else { format!("Debian {version}") };
        Allocator::preloaded(self.name, Role::Peer, version, library).map(Some)
    }

    fn missing(&self) -> Missing {
        let reason = format!("not installed: apt-get install {}", self.package);
        Missing { name: self.name.to_owned(), reason }
    }
}

fn library_folders() -> Vec<PathBuf> {
    let multiarch = Path::new("/usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    std::iter::once(multiarch).chain(LIBRARY_FOLDERS.map(PathBuf::from)).collect()
}

/// One line per missing candidate or row, for a person.
pub fn print_missing(missing: &[Missing]) {
    for absent in missing {
        eprintln!("missing: {}: {}", absent.name, absent.reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_no_name_and_path_is_a_usage_error() {
        for given in ["tcmalloc", "=x.so", "name=", "name=/no/such/file.so", "system=/dev/null", "name=/"] {
            let error = given_peer(given, &[system()]).unwrap_err();
            assert!(error.downcast_ref::<UsageError>().is_some(), "{given}");
            assert!(error.to_string().contains(given), "{error}");
        }
    }

    #[test]
    fn a_given_peer_is_told_apart_by_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libother.so");
        let fingerprint = |bytes: &str| {
            std::fs::write(&path, bytes).unwrap();
            let peer = given_peer(&format!("other={}", path.display()), &[]).unwrap();
            assert_eq!(peer.record.library.as_deref(), Some("libother.so"));
            peer.record.fingerprint.unwrap()
        };
        assert_ne!(fingerprint("one"), fingerprint("two"));
    }

    #[test]
    fn a_run_under_the_system_s_malloc_preloads_nothing() {
        assert!(system().environment().unwrap().is_empty());
    }
}
