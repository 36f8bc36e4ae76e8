//! Target: the file that the system will load for a program, once scripts are followed to their interpreters.

use crate::usage::UsageError;
use anyhow::Result;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Scripts that may interpret each other; the kernel goes no further than this either.
const DEEPEST: usize = 5;

/// The longest `#!` line that is read; the kernel looks at 256 bytes.
const LONGEST_LINE: u64 = 4096;

/// What a program's name leads to.
#[derive(Debug, PartialEq)]
pub struct Target {
    /// The files on the way, the one that was asked for first and the one that is loaded last.
    pub files: Vec<PathBuf>,
    /// What is at the end.
    pub end: End,
}

/// What is at the end of the way.
#[derive(Debug, PartialEq)]
pub enum End {
    /// An ELF file.
    Elf,
    /// A text without a `#!` line, which shells run themselves and the kernel refuses.
    Text,
    /// Something that the kernel hands to a helper (`binfmt_misc`), or refuses.
    Unknown,
    /// A script whose interpreter is not there.
    NoInterpreter(String),
    /// More scripts than the kernel follows.
    TooDeep,
}

impl Target {
    /// Looks the program up as a shell does and follows its scripts.
    pub fn find(name: &OsStr) -> Result<Target> {
        let usage = |message: String| -> anyhow::Error { UsageError(message).into() };
        let first = which::which(name).map_err(|_| {
            let what = match Path::new(name).metadata() {
                Ok(metadata) if metadata.is_dir() => "is a folder, not a program",
                Ok(_) if name.as_bytes().contains(&b'/') => "is not an executable file",
                _ => "was not found",
            };
            usage(format!("{} {what}", name.display()))
        })?;
        let mut files = vec![first];
        loop {
            let file = files.last().expect("there is one");
            let mut start = Vec::new();
            let read = std::fs::File::open(file).and_then(|file| file.take(LONGEST_LINE).read_to_end(&mut start));
            read.map_err(|error| usage(format!("can't read {}: {error}", file.display())))?;
            let end = match kind_of(&start) {
                Kind::Script(words) => match interpreter_of(&words) {
                    Some(path) if files.len() <= DEEPEST => {
                        files.push(path);
                        continue;
                    }
                    Some(_) => End::TooDeep,
                    None => {
                        End::NoInterpreter(words.first().map_or_else(String::new, |word| word.display().to_string()))
                    }
                },
                Kind::Elf => End::Elf,
                Kind::Text => End::Text,
                Kind::Unknown => End::Unknown,
            };
            return Ok(Target { files, end });
        }
    }

    /// The file that was asked for.
    pub fn asked(&self) -> &Path {
        &self.files[0]
    }

    /// The file that is loaded.
    pub fn loaded(&self) -> &Path {
        &self.files[self.files.len() - 1]
    }
}

#[derive(Debug, PartialEq)]
enum Kind {
    Elf,
    /// The interpreter and its arguments. The kernel passes all that follows the interpreter as one
    /// argument; only `env -S` splits it, so that splitting harms nothing here.
    Script(Vec<OsString>),
    Text,
    Unknown,
}

fn kind_of(start: &[u8]) -> Kind {
    if start.starts_with(b"\x7fELF") {
        return Kind::Elf;
    }
    if let Some(rest) = start.strip_prefix(b"#!") {
        let line = rest.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let words = line.split(|byte| b" \t\r".contains(byte)).filter(|word| !word.is_empty());
        return Kind::Script(words.map(|word| OsString::from_vec(word.to_vec())).collect());
    }
    // A shell decides like this as well: a zero byte early on means no text.
    if start.iter().take(128).any(|&byte| byte == 0) { Kind::Unknown } else { Kind::Text }
}

/// The program that a `#!` line leads to: its own, or the one that `env` looks up. `None` where it is missing.
fn interpreter_of(words: &[OsString]) -> Option<PathBuf> {
    let (interpreter, arguments) = words.split_first()?;
    let path = Path::new(interpreter);
    if path.file_name() == Some(OsStr::new("env"))
        && let Some(name) = looked_up_by_env(arguments)
    {
        return which::which(name).ok();
    }
    path.is_file().then(|| path.to_owned())
}

/// The name after `env`'s options and assignments.
fn looked_up_by_env(arguments: &[OsString]) -> Option<&OsString> {
    arguments.iter().find(|word| !word.as_bytes().starts_with(b"-") && !word.as_bytes().contains(&b'='))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_script_leads_to_its_interpreter_through_env_and_other_scripts() {
        let folder = tempfile::tempdir().unwrap();
        let inner = script(folder.path(), "inner", "#! /bin/sh -e\n");
        let outer = script(folder.path(), "outer", &format!("#!{} x\n", inner.display()));
        let target = Target::find(outer.as_os_str()).unwrap();
        assert_eq!(target.files, [outer, inner, PathBuf::from("/bin/sh")]);
        assert_eq!(target.end, End::Elf);
        let through_env = script(folder.path(), "env", "#!/usr/bin/env -S A=1 sh -e\n");
        let target = Target::find(through_env.as_os_str()).unwrap();
        assert_eq!(target.loaded(), which::which("sh").unwrap());
    }

    #[test]
    fn a_circle_of_scripts_ends_and_a_missing_interpreter_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("circle");
        let circle = script(folder.path(), "circle", &format!("#!{}\n", own.display()));
        assert_eq!(Target::find(circle.as_os_str()).unwrap().end, End::TooDeep);
        let orphan = script(folder.path(), "orphan", "#!/no/such/interpreter\n");
        let end = Target::find(orphan.as_os_str()).unwrap().end;
        assert_eq!(end, End::NoInterpreter("/no/such/interpreter".to_owned()));
    }

    #[test]
    fn text_and_other_formats_are_told_apart() {
        assert_eq!(kind_of(b"echo x\n"), Kind::Text);
        assert_eq!(kind_of(b"MZ\x90\0"), Kind::Unknown);
        assert_eq!(kind_of(b"\x7fELF\x02"), Kind::Elf);
    }

    #[test]
    fn what_is_no_program_is_a_usage_error_that_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "x").unwrap();
        for (name, part) in [
            (folder.path().as_os_str(), "is a folder"),
            (plain.as_os_str(), "is not an executable file"),
            (OsStr::new("hz3-no-such-program"), "was not found"),
        ] {
            let error = Target::find(name).unwrap_err();
            assert!(error.downcast_ref::<UsageError>().is_some());
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
