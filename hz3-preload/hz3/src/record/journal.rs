//! Journal: the results file of a measurement that is under way, one JSON value per line.
//!
//! ```text
//!   {"header": …}     before the first run
//!   {"run": …}        appended when a run has finished, warm-up and void runs included
//!   {"run": …}
//! ```
//!
//! An interruption costs at most the last line. A complete measurement replaces the journal with one
//! JSON document of the same data; [`load`] reads both.

use super::results::{Header, Results, SCHEMA};
use super::run::Run;
use crate::usage::UsageError;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// An open journal; each [`Journal::append`] reaches the file before it returns.
pub struct Journal {
    path: PathBuf,
    file: File,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line<H, R> {
    Header(H),
    Run(R),
}

/// What a results file holds.
pub struct Loaded {
    /// The data.
    pub results: Results,
    /// Whether the measurement reached its end.
    pub complete: bool,
    /// The length of the well-formed part of the file in bytes.
    length: u64,
}

impl Journal {
    /// Begins a new journal, together with the folder it lies in.
    ///
    /// # Errors
    /// A file that exists already is a [`UsageError`]: results are never overwritten.
    pub fn create(path: &Path, header: &Header) -> Result<Journal> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
        }
        // A device (`/dev/full`) always exists and holds no results.
        let is_device = path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
        let file = match OpenOptions::new().append(true).create_new(!is_device).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let message = format!("{} exists; give another file or --resume", path.display());
                return Err(UsageError(message).into());
            }
            Err(error) => return Err(error).with_context(|| format!("can't create {}", path.display())),
        };
        let mut journal = Journal { path: path.to_owned(), file };
        journal.write(&Line::<_, Run>::Header(header))?;
        Ok(journal)
    }

    /// Goes on with the journal that [`load`] read; what an interruption left of a half-written
    /// line is cut off.
    pub fn reopen(path: &Path, loaded: &Loaded) -> Result<Journal> {
        let open = || -> std::io::Result<File> {
            let file = OpenOptions::new().append(true).open(path)?;
            file.set_len(loaded.length)?;
            Ok(file)
        };
        let file = open().with_context(|| format!("can't append to {}", path.display()))?;
        Ok(Journal { path: path.to_owned(), file })
    }

    /// Records one finished run.
    pub fn append(&mut self, run: &Run) -> Result<()> {
        self.write(&Line::<Header, _>::Run(run))
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.flush());
        written.with_context(|| format!("can't write to {}", self.path.display()))
    }

    /// Replaces the journal with one document that holds `results`.
    pub fn complete(self, results: &Results) -> Result<()> {
        let mut draft = self.path.clone().into_os_string();
        draft.push(".new");
        std::fs::write(&draft, document(results)?)
            .and_then(|()| std::fs::rename(&draft, &self.path))
            .with_context(|| format!("can't write {}", self.path.display()))
    }
}

/// The document: the header spread out for readers, then one run per line for line-based tools.
fn document(results: &Results) -> Result<String> {
    let header = serde_json::to_string_pretty(&results.header)?;
    let header = header.trim_end_matches(['\n', '}']);
    let runs: Result<Vec<String>, _> = results.runs.iter().map(serde_json::to_string).collect();
    Ok(format!("{header},\n  \"runs\": [\n{}\n  ]\n}}\n", runs?.join(",\n")))
}

/// Reads a results file, complete or not.
///
/// # Errors
/// A file that is missing, no results file, or of another schema is a [`UsageError`].
pub fn load(path: &Path) -> Result<Loaded> {
    let text =
        std::fs::read_to_string(path).map_err(|error| UsageError(format!("can't read {}: {error}", path.display())))?;
    let loaded = match serde_json::from_str::<Results>(&text) {
        Ok(results) => Loaded { results, complete: true, length: text.len() as u64 },
        Err(_) => {
            read_lines(&text).map_err(|error| UsageError(format!("{} is no results file: {error}", path.display())))?
        }
    };
    let schema = loaded.results.header.schema;
    if schema != SCHEMA {
        let message = format!("{} has schema {schema}, this version reads {SCHEMA}", path.display());
        return Err(UsageError(message).into());
    }
    Ok(loaded)
}

fn read_lines(text: &str) -> Result<Loaded> {
    let mut header = None;
    let mut runs = Vec::new();
    let mut length = 0;
    // Without its newline the last line was cut off by an interruption.
    for (index, line) in text.split_inclusive('\n').filter(|line| line.ends_with('\n')).enumerate() {
        match serde_json::from_str::<Line<Header, Run>>(line) {
            Ok(Line::Header(value)) if header.is_none() => header = Some(value),
            Ok(Line::Run(run)) if header.is_some() => runs.push(run),
            Ok(_) => bail!("line {} is out of order", index + 1),
            Err(error) => bail!("line {}: {error}", index + 1),
        }
        length += line.len() as u64;
    }
    let header = header.context("it holds no header")?;
    Ok(Loaded { results: Results { header, runs }, complete: false, length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::results::Role;
    use crate::record::results::synthetic::synthetic;

    fn some_results() -> Results {
        synthetic(&[("scale", Role::Lane), ("peer", Role::Peer)], 2, |_, _, round| (1e6 * f64::from(round + 1), 1.5))
    }

    #[test]
    fn an_interrupted_journal_loses_only_its_half_written_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/results.json");
        let results = some_results();
        let mut journal = Journal::create(&path, &results.header).unwrap();
        for run in &results.runs[..5] {
            journal.append(run).unwrap();
        }
        journal.file.write_all(br#"{"run":{"row":"t1"#).unwrap();

        let loaded = load(&path).unwrap();
        assert!(!loaded.complete);
        assert_eq!(loaded.results.runs, results.runs[..5]);

        let mut journal = Journal::reopen(&path, &loaded).unwrap();
        for run in &results.runs[5..] {
            journal.append(run).unwrap();
        }
        assert_eq!(load(&path).unwrap().results, results);
    }

    #[test]
    fn a_complete_measurement_becomes_one_document_with_the_same_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        let results = some_results();
        let journal = Journal::create(&path, &results.header).unwrap();
        journal.complete(&results).unwrap();
        let loaded = load(&path).unwrap();
        assert!(loaded.complete);
        assert_eq!(loaded.results, results);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn results_are_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        std::fs::write(&path, "precious").unwrap();
        let error = Journal::create(&path, &some_results().header).err().unwrap();
        assert!(error.downcast_ref::<UsageError>().is_some());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_full_disk_is_one_line_that_names_the_file() {
        let error = Journal::create(Path::new("/dev/full"), &some_results().header).err().unwrap();
        let line = format!("{error:#}");
        assert!(line.contains("/dev/full") && line.contains("No space left"), "{line}");
        assert!(!line.contains('\n'));
    }

    #[test]
    fn a_file_that_is_no_results_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.json");
        for text in ["", "{}\n", "{\"run\":{\"row\":\"a\",\"allocator\":\"b\",\"round\":1}}\n"] {
            std::fs::write(&path, text).unwrap();
            let error = load(&path).err().unwrap();
            assert!(error.downcast_ref::<UsageError>().is_some());
            assert!(error.to_string().contains("notes.json"), "{error}");
        }
    }

    #[test]
    fn another_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        let mut results = some_results();
        results.header.schema = SCHEMA + 1;
        Journal::create(&path, &results.header).unwrap().complete(&results).unwrap();
        assert!(load(&path).err().unwrap().to_string().contains("schema 2"));
    }
}
