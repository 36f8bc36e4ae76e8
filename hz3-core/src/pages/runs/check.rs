//! Check: walks over the runs and their lists that find what disagrees. For tests and debug builds.

use super::Runs;
use crate::pages::arena::Stretch;
use crate::pages::page_tag::PageTag;
use crate::pages::run_lists::{CLASSES, class_of};
use crate::pages::span::{Kind, Span};
use crate::platform::os::Os;
use crate::platform::units::PAGE_BYTES;

impl<O: Os> Runs<O> {
    /// Calls `look` with each span and free run of every arena, by address, under the run lock; checks on the
    /// way that they cover every committed page once and that the page tags say so. For tests and debug builds,
    /// at a moment when no span is in transit.
    ///
    /// # Errors
    /// Names the broken rule, or hands on the first error of `look`.
    pub fn walk(&self, mut look: impl FnMut(&Span) -> Result<(), &'static str>) -> Result<(), &'static str> {
        let _index = self.index.lock();
        self.arenas.each_committed(|Stretch { start, pages }| {
            let (mut address, end) = (start, start + pages * PAGE_BYTES);
            while address < end {
                let tag = self.arenas.tag_value(address);
                if tag.span().is_none() {
                    return Err("a page that belongs to nothing");
                }
                let span = &*self.span(tag.span());
                if span.start != address || span.pages == 0 || span.bytes() > end - address {
                    return Err("a page whose descriptor is another's");
                }
                let last = span.pages as usize - 1;
                for page in 0..=last {
                    let expected = match span.kind {
                        Kind::Small => PageTag::small(span.bin, span.owner, tag.span()),
                        Kind::Large | Kind::Dirty | Kind::Clean | Kind::Held if page == 0 || page == last => {
                            PageTag::edge(span.kind, tag.span())
                        }
                        Kind::Large | Kind::Dirty | Kind::Clean | Kind::Held => PageTag::NONE,
                        Kind::Transit | Kind::None => return Err("a span that is in use by nobody"),
                    };
                    if self.arenas.tag_value(address + page * PAGE_BYTES) != expected {
                        return Err("a page with a wrong tag");
                    }
                }
                look(span)?;
                address += span.bytes();
            }
            Ok(())
        })
    }

    /// Checks every list against the descriptors and the tags; for tests and debug builds.
    ///
    /// # Errors
    /// Names the broken rule.
    pub fn check(&self) -> Result<(), &'static str> {
        let mut index = self.index.lock();
        for kind in [Kind::Dirty, Kind::Clean] {
            let mut pages = 0;
            for class in 0..CLASSES {
                let mut id = index.lists(kind).head(class);
                while !id.is_none() {
                    let span = self.span(id);
                    if span.kind != kind || class_of(span.pages as usize) != class {
                        return Err("run in the wrong list");
                    }
                    for edge in [span.start, span.start + span.bytes() - PAGE_BYTES] {
                        if self.arenas.tag_value(edge) != PageTag::edge(kind, id) {
                            return Err("run without its tag");
                        }
                    }
                    if self.arenas.tag_value(span.start + span.bytes()).kind() == kind {
                        return Err("neighbours that did not merge");
                    }
                    pages += span.pages as usize;
                    id = span.next;
                }
            }
            if pages != index.lists(kind).pages {
                return Err("page count of the lists");
            }
        }
        let mut aged = 0;
        let mut id = index.oldest;
        while !id.is_none() {
            aged += self.span(id).pages as usize;
            id = self.span(id).younger;
        }
        if aged == index.dirty.pages { Ok(()) } else { Err("dirty runs and their ages") }
    }
}
