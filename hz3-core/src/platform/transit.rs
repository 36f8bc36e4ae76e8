//! Transit: what threads took out of a locked value and will put back.

/// Things in transit out of one value. Sync: the value's lock.
pub struct Transit {
    count: u32,
    /// Sum of their threads' identities.
    threads: usize,
}

impl Transit {
    /// Nothing.
    pub const fn new() -> Self {
        Self { count: 0, threads: 0 }
    }

    /// Counts a thing that `thread` takes out.
    pub fn begin(&mut self, thread: usize) {
        self.count += 1;
        self.threads = self.threads.wrapping_add(thread);
    }

    /// Counts one that `thread` puts back, or keeps.
    pub fn end(&mut self, thread: usize) {
        // A child may have forgotten it.
        if self.count > 0 {
            self.count -= 1;
            self.threads = self.threads.wrapping_sub(thread);
        }
    }

    /// Whether anything is in transit.
    pub fn is_any(&self) -> bool {
        self.count > 0
    }

    /// Whether `thread` took out all that is in transit. Other threads' sum may be the same by a rare chance; then a child
    /// loses what they took out.
    pub fn is_only_of(&self, thread: usize) -> bool {
        self.threads == thread.wrapping_mul(self.count as usize)
    }

    /// Forgets what a forked child, of which `thread` is the only one, lost.
    pub fn forget_others(&mut self, thread: usize) {
        if !self.is_only_of(thread) {
            *self = Self::new();
        }
    }
}

impl Default for Transit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_knows_its_own_from_others_and_a_child_forgets_what_it_lost() {
        let (mine, other) = (0x7000_1000, 0x7000_2000);
        let mut transit = Transit::new();
        assert!(transit.is_only_of(mine) && !transit.is_any());
        transit.begin(mine);
        transit.begin(mine);
        assert!(transit.is_only_of(mine) && !transit.is_only_of(other));
        transit.begin(other);
        assert!(!transit.is_only_of(mine) && !transit.is_only_of(other));
        transit.end(other);
        transit.forget_others(mine);
        transit.end(mine);
        assert!(transit.is_only_of(mine) && transit.is_any());
        transit.begin(other);
        transit.forget_others(mine);
        assert!(!transit.is_any());
        // What was forgotten may still end.
        transit.end(mine);
        assert!(!transit.is_any() && transit.is_only_of(other));
    }
}
