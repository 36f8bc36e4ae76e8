//! Run lists: free runs of one kind, by length.
//!
//! ```text
//! root → | run of 7 pages | ⇄ run ⇄ …          lists of one length; the first run is a node
//!         ╱              ╲
//!    | 3 pages |      | 16 pages | ⇄ run       lengths below to the left, above to the right
//! ```
//!
//! The tree is a treap (Aragon, Seidel 1989): a length's rank is a hash of it, and no node ranks above the one over it.
//! So its shape depends on the lengths alone, and its depth is about twice the logarithm of their number. Protected by
//! the run lock.

use crate::pages::span::{Span, Spans, at};
use crate::platform::units::SpanId;

/// Free runs of one kind. Every method is given the table of all its runs' descriptors.
pub struct Lists {
    root: SpanId,
    /// Pages of all runs.
    pub pages: usize,
}

/// Where the tree refers to a node.
#[derive(Clone, Copy)]
enum Link {
    Root,
    Below(SpanId),
    Above(SpanId),
}

/// What orders the nodes from the root down.
fn rank(pages: u32) -> u32 {
    // Fibonacci hashing; a bijection, so that no two lengths have one rank.
    pages.wrapping_mul(0x9e37_79b9).rotate_left(16).wrapping_mul(0x85eb_ca6b)
}

#[allow(clippy::mut_from_ref, reason = "the run lock stands in for the exclusive borrow")]
fn span(spans: &Spans, id: SpanId) -> &mut Span {
    // SAFETY: the table handed out every id in the lists. The run lock, which callers hold, makes the reference
    // exclusive; none is kept across another call.
    unsafe { &mut *at(spans, id) }
}

fn pages_of(spans: &Spans, id: SpanId) -> u32 {
    span(spans, id).pages
}

impl Lists {
    /// No runs.
    pub const fn new() -> Self {
        Self { root: SpanId::NONE, pages: 0 }
    }

    fn get(&self, spans: &Spans, link: Link) -> SpanId {
        match link {
            Link::Root => self.root,
            Link::Below(id) => span(spans, id).branches().0,
            Link::Above(id) => span(spans, id).branches().1,
        }
    }

    fn set(&mut self, spans: &Spans, link: Link, to: SpanId) {
        let (id, is_below) = match link {
            Link::Root => return self.root = to,
            Link::Below(id) => (id, true),
            Link::Above(id) => (id, false),
        };
        let node = span(spans, id);
        let (below, above) = node.branches();
        node.set_branches(if is_below { to } else { below }, if is_below { above } else { to });
    }

    /// The link towards a length of `pages` from the node `id`.
    fn towards(spans: &Spans, id: SpanId, pages: u32) -> Link {
        if pages < pages_of(spans, id) { Link::Below(id) } else { Link::Above(id) }
    }

    /// The link to the node for `pages`, or where the search for it ends.
    fn link_of(&self, spans: &Spans, pages: u32) -> Link {
        let mut link = Link::Root;
        loop {
            let id = self.get(spans, link);
            if id.is_none() || pages_of(spans, id) == pages {
                return link;
            }
            link = Self::towards(spans, id, pages);
        }
    }

    /// The youngest run of the least length of at least `pages`; [`SpanId::NONE`] if there is none.
    pub fn at_least(&self, spans: &Spans, pages: usize) -> SpanId {
        let (mut id, mut best) = (self.root, SpanId::NONE);
        while !id.is_none() {
            let (below, above) = span(spans, id).branches();
            if pages_of(spans, id) as usize >= pages {
                (best, id) = (id, below);
            } else {
                id = above;
            }
        }
        best
    }

    /// The run after `id`: of the same length, or else of the next one.
    pub fn after(&self, spans: &Spans, id: SpanId) -> SpanId {
        let next = span(spans, id).next;
        if next.is_none() { self.at_least(spans, pages_of(spans, id) as usize + 1) } else { next }
    }

    /// Adds a run, which is in no list.
    pub fn link(&mut self, spans: &Spans, id: SpanId) {
        let pages = pages_of(spans, id);
        self.pages += pages as usize;
        let link = self.link_of(spans, pages);
        let first = self.get(spans, link);
        (span(spans, id).next, span(spans, id).previous) = (first, SpanId::NONE);
        if first.is_none() {
            return self.add_node(spans, id);
        }
        let (below, above) = span(spans, first).branches();
        span(spans, id).set_branches(below, above);
        span(spans, first).previous = id;
        self.set(spans, link, id);
    }

    fn add_node(&mut self, spans: &Spans, id: SpanId) {
        let pages = pages_of(spans, id);
        let mut link = Link::Root;
        let mut under = self.root;
        while !under.is_none() && rank(pages_of(spans, under)) > rank(pages) {
            link = Self::towards(spans, under, pages);
            under = self.get(spans, link);
        }
        self.set(spans, link, id);
        // What was there goes under the new node, split by length.
        span(spans, id).set_branches(SpanId::NONE, SpanId::NONE);
        let (mut below, mut above) = (Link::Below(id), Link::Above(id));
        while !under.is_none() {
            let (shorter, longer) = span(spans, under).branches();
            if pages_of(spans, under) < pages {
                self.set(spans, below, under);
                (below, under) = (Link::Above(under), longer);
            } else {
                self.set(spans, above, under);
                (above, under) = (Link::Below(under), shorter);
            }
        }
        self.set(spans, below, SpanId::NONE);
        self.set(spans, above, SpanId::NONE);
    }

    /// Takes out a run of these lists.
    pub fn unlink(&mut self, spans: &Spans, id: SpanId) {
        let (pages, next, previous) = (pages_of(spans, id), span(spans, id).next, span(spans, id).previous);
        self.pages -= pages as usize;
        if !next.is_none() {
            span(spans, next).previous = previous;
        }
        if !previous.is_none() {
            span(spans, previous).next = next;
            return;
        }
        let mut link = self.link_of(spans, pages);
        let (mut below, mut above) = span(spans, id).branches();
        if !next.is_none() {
            span(spans, next).set_branches(below, above);
            return self.set(spans, link, next);
        }
        // What was under the node grows together in its place.
        while !below.is_none() && !above.is_none() {
            if rank(pages_of(spans, below)) > rank(pages_of(spans, above)) {
                self.set(spans, link, below);
                (link, below) = (Link::Above(below), span(spans, below).branches().1);
            } else {
                self.set(spans, link, above);
                (link, above) = (Link::Below(above), span(spans, above).branches().0);
            }
        }
        self.set(spans, link, if below.is_none() { above } else { below });
    }

    /// Checks the order of the tree; returns its depth.
    ///
    /// # Errors
    /// The broken rule.
    pub fn check(&self, spans: &Spans) -> Result<usize, &'static str> {
        let (mut id, mut deepest) = (self.at_least(spans, 0), 0);
        while !id.is_none() {
            let pages = pages_of(spans, id);
            let (mut node, mut depth, mut least) = (self.root, 1, u32::MAX);
            while !node.is_none() && pages_of(spans, node) != pages {
                if rank(pages_of(spans, node)) > least {
                    return Err("a length that ranks above the one over it");
                }
                least = rank(pages_of(spans, node));
                node = self.get(spans, Self::towards(spans, node, pages));
                depth += 1;
            }
            if node != id {
                return Err("a length that is not found");
            }
            deepest = deepest.max(depth);
            id = self.at_least(spans, pages as usize + 1);
        }
        Ok(deepest)
    }
}

impl Default for Lists {
    fn default() -> Self {
        Self::new()
    }
}
