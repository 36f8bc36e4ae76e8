//! Process: a child in a process group of its own, with captured output and a time limit.
//!
//! Output goes to unnamed files, not to pipes: a grandchild that outlives its parent can neither
//! block it nor keep us waiting. At the time limit, and when the user interrupts us, the whole group
//! is killed.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use wait_timeout::ChildExt;

/// How often we look for an interrupt, and a waiting caller is told that the child still runs.
const TICK: Duration = Duration::from_millis(100);

/// Set by the first interrupt.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How a child ended and what it wrote.
#[derive(Debug)]
pub struct Captured {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}

impl Captured {
    /// Standard output as text; invalid UTF-8 is replaced.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text; invalid UTF-8 is replaced.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Both outputs, for a person.
    pub fn text(&self) -> String {
        let text = format!("{}\n{}", self.stdout_text().trim_end(), self.stderr_text().trim_end());
        text.trim().to_owned()
    }
}

/// From now on an interrupt (SIGINT, SIGTERM, SIGHUP) makes [`interrupted`] true and has running
/// children's groups killed, instead of ending this process at once.
pub fn catch_interrupts() -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::SeqCst)).context("signal handler")
}

/// Whether an interrupt has come.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Runs the child to its end. A child that can't be started, or takes longer than `limit`, is an
/// error; one that fails is not.
pub fn capture(command: &mut Command, limit: Duration) -> Result<Captured> {
    capture_while(command, limit, |_| {})
}

/// As [`capture`], and calls `waiting` about ten times a second with the time since the start.
pub fn capture_while(command: &mut Command, limit: Duration, mut waiting: impl FnMut(Duration)) -> Result<Captured> {
    let mut stdout = tempfile::tempfile().context("temporary file")?;
    let mut stderr = tempfile::tempfile().context("temporary file")?;
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?).process_group(0);
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("can't start {}", line_of(command)))?;
    let group = i32::try_from(child.id()).context("process id")?;
    let status = loop {
        if let Some(status) = child.wait_timeout(TICK)? {
            break Some(status);
        }
        if interrupted() {
            kill_group(group);
        }
        if start.elapsed() >= limit {
            kill_group(group);
            child.wait()?;
            break None;
        }
        waiting(start.elapsed());
    };
    if interrupted() {
        bail!("interrupted");
    }
    let (stdout, stderr) = (contents(&mut stdout)?, contents(&mut stderr)?);
    match status {
        Some(status) => Ok(Captured { status, stdout, stderr }),
        None => bail!(
            "no end after {} s, killed: {}\n{}{}",
            limit.as_secs(),
            line_of(command),
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        ),
    }
}

/// Runs the child to its end and returns what it wrote; its failure is an error that shows it.
pub fn expect_success(command: &mut Command, limit: Duration) -> Result<Captured> {
    let captured = capture(command, limit)?;
    if !captured.status.success() {
        bail!("{}: {}\n{}", captured.status, line_of(command), captured.text());
    }
    Ok(captured)
}

/// The command as a person would type it: of the environment only what is preloaded.
pub fn line_of(command: &Command) -> String {
    let preload = command.get_envs().find(|(name, _)| *name == "LD_PRELOAD").and_then(|(_, value)| value);
    let mut words: Vec<String> =
        preload.map(|library| format!("LD_PRELOAD={}", library.display())).into_iter().collect();
    words.push(command.get_program().display().to_string());
    words.extend(command.get_args().map(|argument| argument.display().to_string()));
    words.join(" ")
}

/// All that was written to a file which is open for it.
pub fn contents(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn kill_group(group: i32) {
    if group > 0 {
        // Fails only when the whole group has ended by itself, which is what is wanted.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn both_outputs_and_the_exit_code_are_captured() {
        let captured = capture(&mut shell("echo out; echo err >&2; exit 3"), LIMIT).unwrap();
        assert_eq!(captured.status.code(), Some(3));
        assert_eq!(captured.stdout_text(), "out\n");
        assert_eq!(captured.stderr_text(), "err\n");
    }

    #[test]
    fn a_failing_child_is_an_error_that_shows_its_output() {
        let error = expect_success(&mut shell("echo reason; exit 1"), LIMIT).unwrap_err();
        assert!(error.to_string().contains("reason"), "{error}");
    }

    #[test]
    fn a_command_line_shows_what_is_preloaded() {
        let mut command = shell("exit");
        command.env("OTHER", "x").env("LD_PRELOAD", "a.so").env_remove("HOME");
        assert_eq!(line_of(&command), "LD_PRELOAD=a.so sh -c exit");
    }

    #[test]
    fn a_hanging_child_is_killed_with_its_children() {
        let mut command = shell("sleep 1000 & echo $!; wait");
        let error = capture(&mut command, Duration::from_millis(300)).unwrap_err().to_string();
        let grandchild: i32 = error.lines().nth(1).and_then(|line| line.parse().ok()).expect(&error);
        // A killed orphan stays a zombie until its new parent reaps it, so ask for its state.
        let start = Instant::now();
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                break;
            }
            assert!(start.elapsed() < LIMIT, "still running: {stat}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_grandchild_that_stays_does_not_hold_us_up() {
        let start = Instant::now();
        let captured = capture(&mut shell("sleep 3 & echo done"), LIMIT).unwrap();
        assert_eq!(captured.stdout_text(), "done\n");
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}
