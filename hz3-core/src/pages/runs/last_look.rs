//! Last look: at every free run that might do, once the system gives no more.
//!
//! A class holds runs of several lengths, and an aligned request fits some runs of a length and not others; the usual
//! search looks at a few and takes fresh pages before it looks at more.

use super::Runs;
use crate::pages::run_lists::class_of;
use crate::pages::span::Kind;
use crate::platform::os::Os;
use crate::platform::units::SpanId;

impl<O: Os> Runs<O> {
    /// A free run of `pages` aligned pages, if there is one. The index is locked for as long as that takes.
    #[cold]
    pub(super) fn take_any(&self, pages: usize, align_pages: usize) -> Option<SpanId> {
        let mut index = self.lock_with_spares()?;
        let (first, last) = (class_of(pages), class_of(pages + align_pages - 1));
        for (kind, class) in
            [Kind::Dirty, Kind::Clean].into_iter().flat_map(|kind| (first..=last).map(move |class| (kind, class)))
        {
            let mut id = index.lists(kind).head(class);
            while !id.is_none() {
                if let Some(start) = self.fit(id, pages, align_pages) {
                    return self.cut(&mut index, id, start, pages);
                }
                id = self.span(id).next;
            }
        }
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::pages::span::at;
    use crate::platform::options::Options;
    use crate::platform::os::Linux;

    #[test]
    fn one_run_that_fits_is_found_behind_many_that_do_not() {
        const SHORT: usize = 65;
        const LONG: usize = 67;
        assert_eq!(class_of(SHORT), class_of(LONG + 1), "lengths of one class");
        static RUNS: Runs<Linux> = Runs::new(Options::new(1000, 64 << 20));
        let run = |pages| {
            let id = RUNS.allocate(pages, 1).expect("memory");
            // What keeps it from growing together with the next one.
            RUNS.allocate(1, 1).expect("memory");
            id
        };
        let long = run(LONG);
        let short = [(); 40].map(|()| run(SHORT));
        // SAFETY: the span is the test's.
        let start = unsafe { (*at(&RUNS.spans, long)).start };
        RUNS.release(long, 0);
        short.into_iter().for_each(|id| RUNS.release(id, 0));
        assert_eq!(RUNS.take_any(LONG + 1, 1), None);
        let found = RUNS.take_any(LONG, 1).expect("the long one");
        // SAFETY: as above.
        assert_eq!(unsafe { (*at(&RUNS.spans, found)).start }, start);
        assert_eq!(RUNS.take_any(LONG, 1), None);
        assert!(RUNS.take_any(SHORT, 1).is_some());
        assert_eq!(RUNS.check(), Ok(()));
    }
}
