//! Budget: how long one call may go on giving memory back.

use crate::platform::os::Os;

/// A point in time; work that is done in steps looks at it between two of them.
pub struct Budget {
    end_us: u64,
}

impl Budget {
    /// Ends in so many microseconds.
    pub fn of_us<O: Os>(us: u32) -> Self {
        Self { end_us: O::now_us() + u64::from(us) }
    }

    /// Has no end.
    pub const fn unbounded() -> Self {
        Self { end_us: u64::MAX }
    }

    /// Whether there is time for another step.
    pub fn is_left<O: Os>(&self) -> bool {
        self.end_us == u64::MAX || O::now_us() < self.end_us
    }
}
