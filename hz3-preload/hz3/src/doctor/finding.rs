//! Finding: one thing that stops or bends `LD_PRELOAD`, with what it means and what to do about it.

use std::fmt;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The library is not loaded, or not used.
    Stops,
    /// It works, but otherwise than one would expect.
    Bends,
    /// Worth knowing.
    Note,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// What follows from it.
    pub meaning: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Severity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Severity::Stops => "stops",
            Severity::Bends => "bends",
            Severity::Note => "note",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:<6} {}", self.severity, self.what)?;
        writeln!(out, "       {}", self.meaning)?;
        write!(out, "       what to do: {}", self.remedy)
    }
}

impl Finding {
    /// Something that stops `LD_PRELOAD`.
    pub fn stops(what: impl Into<String>, meaning: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding::of(Severity::Stops, what, meaning, remedy)
    }

    /// Something that bends it.
    pub fn bends(what: impl Into<String>, meaning: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding::of(Severity::Bends, what, meaning, remedy)
    }

    /// Something worth knowing.
    pub fn note(what: impl Into<String>, meaning: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding::of(Severity::Note, what, meaning, remedy)
    }

    fn of(
        severity: Severity,
        what: impl Into<String>,
        meaning: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { severity, what: what.into(), meaning: meaning.into(), remedy: remedy.into() }
    }
}
