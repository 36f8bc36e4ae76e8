//! Watch: carries `top` out: finds or starts the process, and reads its page again and again.

use super::arguments::Arguments;
use super::page_file::{self, PageFile, Process, Reading, VARIABLE};
use super::view::{self, Rates, Subject};
use crate::home::Home;
use crate::usage::UsageError;
use crate::{process, run};
use anyhow::{Context, Result, bail};
use hz3_core::observe::stats_page::Snapshot;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::crossterm::terminal;
use std::fs::File;
use std::io::{IsTerminal, Write, stdout};
use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use wait_timeout::ChildExt;

/// How often the keyboard's interrupt and the process's end are looked for.
const TICK: Duration = Duration::from_millis(50);
/// How long a program may take until it has a page.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long a program may take to end when it is asked to.
const END_LIMIT: Duration = Duration::from_secs(5);

/// `top`.
pub fn command(arguments: &Arguments, home: &dyn Home) -> Result<ExitCode> {
    // A terminal without a size, as some containers have, shows nothing.
    let has_screen = stdout().is_terminal() && terminal::size().is_ok_and(|(columns, rows)| columns > 0 && rows > 0);
    let is_live = has_screen && !arguments.once && !arguments.json;
    process::catch_interrupts()?;
    let mut started = if arguments.run { Some(Started::new(arguments, is_live, home)?) } else { None };
    let id = started.as_ref().map_or(arguments.process, |started| Some(started.child.id()));
    let outcome = look(arguments, id.context("a process")?, started.as_mut(), is_live);
    // The program ends with the view, whatever became of that.
    let ended = started.map_or(Ok(()), Started::end);
    outcome?;
    ended?;
    Ok(ExitCode::SUCCESS)
}

fn look(arguments: &Arguments, id: u32, started: Option<&mut Started>, is_live: bool) -> Result<()> {
    let (process, page) = match started {
        Some(started) => started.wait_for_page()?,
        None => {
            let process = Process::find(id)?;
            let page = PageFile::of(&process)?;
            (process, page)
        }
    };
    let mut watch = Watch { process, page, before: None, rates: None };
    let interval = Duration::from_secs_f64(arguments.interval);
    if is_live { watch.live(interval) } else { watch.once(interval, arguments.json) }
}

/// A program of ours.
struct Started {
    child: Child,
    /// What it writes, while the terminal shows the view.
    output: Option<File>,
    /// Where its page is.
    _folder: TempDir,
}

impl Started {
    fn new(arguments: &Arguments, is_live: bool, home: &dyn Home) -> Result<Started> {
        let (program, mut command) = run::preloaded(&arguments.program, arguments.lane, home)?;
        let folder = tempfile::Builder::new().prefix("hz3-top-").tempdir().context("a folder for the page")?;
        command.env(VARIABLE, page_file::value_for(folder.path()));
        let mut output = None;
        if is_live {
            let file = tempfile::tempfile().context("a file for the program's output")?;
            command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file.try_clone()?);
            output = Some(file);
        } else {
            // What is printed is the view alone.
            command.stdout(std::io::stderr());
        }
        let child = command.spawn().map_err(|error| UsageError(format!("can't run {}: {error}", program.display())))?;
        Ok(Started { child, output, _folder: folder })
    }

    /// Waits until the program has a page.
    fn wait_for_page(&mut self) -> Result<(Process, PageFile)> {
        let begin = Instant::now();
        loop {
            let found = Process::find(self.child.id()).and_then(|process| {
                let page = PageFile::of(&process)?;
                page.read()?;
                Ok((process, page))
            });
            if let Some(status) = self.child.try_wait()? {
                bail!(UsageError(format!("the program ended before it had a page: {status}")));
            }
            match found {
                Ok(found) => return Ok(found),
                Err(error) if begin.elapsed() >= START_LIMIT || process::interrupted() => return Err(error),
                Err(_) => std::thread::sleep(TICK / 5),
            }
        }
    }

    /// Ends the program if it goes on, and shows what it wrote.
    fn end(mut self) -> Result<()> {
        let id = Pid::from_raw(i32::try_from(self.child.id()).context("a process id")?);
        let mut status = self.child.try_wait()?;
        if status.is_none() {
            // Fails only where it has ended just now.
            let _ = kill(id, Signal::SIGTERM);
            status = self.child.wait_timeout(END_LIMIT)?;
        }
        let status = match status {
            Some(status) => status,
            None => {
                self.child.kill()?;
                self.child.wait()?
            }
        };
        if let Some(output) = &mut self.output {
            stdout().write_all(&process::contents(output)?)?;
            println!("the program: {status}");
        }
        Ok(())
    }
}

/// A process that is looked at.
struct Watch {
    process: Process,
    page: PageFile,
    before: Option<Snapshot>,
    rates: Option<Rates>,
}

impl Watch {
    /// Reads the page again, which is another one where the process has become another program.
    fn read(&mut self) -> Result<Reading> {
        if let Ok(page) = PageFile::of(&self.process)
            && page.head != self.page.head
        {
            self.page = page;
            (self.before, self.rates) = (None, None);
        }
        let reading = self.page.read()?;
        if let Some(before) = &self.before
            && let Some(rates) = Rates::between(before, &reading.snapshot)
        {
            self.rates = Some(rates);
        }
        self.before = Some(reading.snapshot);
        Ok(reading)
    }

    fn subject(&self) -> Subject {
        Subject {
            id: self.process.id,
            name: self.process.name.clone(),
            lane: self.page.lane(),
            resident_bytes: self.process.resident_bytes(),
        }
    }

    /// One view, at the end of an interval, for the rates in it; sooner where the process ends or the user interrupts.
    fn once(&mut self, interval: Duration, as_json: bool) -> Result<()> {
        self.read()?;
        let begin = Instant::now();
        while begin.elapsed() < interval && self.process.lives() && !process::interrupted() {
            std::thread::sleep(TICK.min(interval.saturating_sub(begin.elapsed())));
        }
        let reading = self.read()?;
        let (subject, rates) = (self.subject(), self.rates.as_ref());
        let text = if as_json {
            format!("{}\n", view::json(&subject, &reading, rates))
        } else {
            format!("{}\n", view::text(&subject, &reading, rates, usize::MAX))
        };
        Ok(stdout().write_all(text.as_bytes())?)
    }

    /// One view after the other, until the process ends or the user has seen enough.
    fn live(&mut self, interval: Duration) -> Result<()> {
        let mut terminal = ratatui::try_init().context("the terminal")?;
        let outcome = self.views(&mut terminal, interval);
        ratatui::restore();
        let mut last = outcome?;
        // The last view stays on the usual screen.
        if !self.process.lives() {
            if let Ok(reading) = self.read() {
                last = reading;
            }
            println!("{}\n", view::text(&self.subject(), &last, self.rates.as_ref(), usize::MAX));
            println!("process {} has ended", self.process.id);
        }
        Ok(())
    }

    /// Draws views; the last one's reading.
    fn views(&mut self, terminal: &mut DefaultTerminal, interval: Duration) -> Result<Reading> {
        loop {
            let reading = self.read()?;
            terminal.draw(|frame| view::draw(frame, &self.subject(), &reading, self.rates.as_ref()))?;
            let begin = Instant::now();
            while let Some(left) = interval.checked_sub(begin.elapsed()) {
                let event = if event::poll(TICK.min(left))? { Some(event::read()?) } else { None };
                if event.as_ref().is_some_and(ends) || !self.process.lives() || process::interrupted() {
                    return Ok(reading);
                }
                if matches!(event, Some(Event::Resize(..))) {
                    break;
                }
            }
        }
    }
}

/// Whether the user has seen enough: a terminal that shows single keys sends no signal.
fn ends(event: &Event) -> bool {
    event.as_key_press_event().is_some_and(|key| match key.code {
        KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
        code => code == KeyCode::Char('q'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::crossterm::event::KeyEvent;

    #[test]
    fn q_and_control_c_end_the_view_and_nothing_else_does() {
        let pressed = |code, modifiers| ends(&Event::Key(KeyEvent::new(code, modifiers)));
        assert!(pressed(KeyCode::Char('q'), KeyModifiers::NONE));
        assert!(pressed(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!pressed(KeyCode::Char('c'), KeyModifiers::NONE));
        assert!(!pressed(KeyCode::Enter, KeyModifiers::NONE) && !ends(&Event::Resize(80, 24)));
    }
}
