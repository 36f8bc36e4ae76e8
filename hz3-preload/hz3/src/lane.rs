//! Lane: one of hz3's builds, each a preload library of its own.

use std::fmt;

/// A build of hz3.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Least fixed cost: few threads, mostly local frees
    Fast,
    /// Many threads, many cross-thread frees
    Scale,
    /// As scale, with every check for misuse, which costs speed
    Hardened,
}

impl Lane {
    /// Every lane, in the order in which they are built and tested.
    pub const ALL: [Lane; 3] = [Lane::Fast, Lane::Scale, Lane::Hardened];
    /// The lanes that are for speed: those measured, and held to what the hit paths may cost, unless asked otherwise.
    pub const FOR_SPEED: [Lane; 2] = [Lane::Fast, Lane::Scale];

    /// The lane's name on the command line and in file names.
    pub const fn name(self) -> &'static str {
        match self {
            Lane::Fast => "fast",
            Lane::Scale => "scale",
            Lane::Hardened => "hardened",
        }
    }

    /// The cargo package of the lane's library.
    pub fn package(self) -> String {
        format!("hz3-preload-{}", self.name())
    }

    /// The cargo target of the lane's library.
    pub fn target(self) -> String {
        format!("hakozuna_hz3_{}", self.name())
    }

    /// The library's file name, which is its SONAME too.
    pub fn library(self) -> String {
        format!("lib{}.so", self.target())
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
