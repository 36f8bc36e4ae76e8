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

use crate::platform::units::SpanId;

/// Free runs of one kind. Every method is given the descriptors of all runs.
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

/// What the lists read and write of runs' descriptors, under the run lock.
pub trait Runs {
    /// Pages of a run.
    fn pages(&self, id: SpanId) -> u32;
    /// The runs after and before it in its list.
    fn neighbours(&self, id: SpanId) -> (SpanId, SpanId);
    /// Stores [`Runs::neighbours`].
    fn set_neighbours(&self, id: SpanId, next: SpanId, previous: SpanId);
    /// The nodes below and above it.
    fn branches(&self, id: SpanId) -> (SpanId, SpanId);
    /// Stores [`Runs::branches`].
    fn set_branches(&self, id: SpanId, below: SpanId, above: SpanId);
}

impl Lists {
    /// No runs.
    pub const fn new() -> Self {
        Self { root: SpanId::NONE, pages: 0 }
    }

    fn get(&self, runs: &impl Runs, link: Link) -> SpanId {
        match link {
            Link::Root => self.root,
            Link::Below(id) => runs.branches(id).0,
            Link::Above(id) => runs.branches(id).1,
        }
    }

    fn set(&mut self, runs: &impl Runs, link: Link, to: SpanId) {
        let (id, is_below) = match link {
            Link::Root => return self.root = to,
            Link::Below(id) => (id, true),
            Link::Above(id) => (id, false),
        };
        let (below, above) = runs.branches(id);
        runs.set_branches(id, if is_below { to } else { below }, if is_below { above } else { to });
    }

    /// The link towards a length of `pages` from the node `id`.
    fn towards(runs: &impl Runs, id: SpanId, pages: u32) -> Link {
        if pages < runs.pages(id) { Link::Below(id) } else { Link::Above(id) }
    }

    /// The link to the node for `pages`, or where the search for it ends.
    fn link_of(&self, runs: &impl Runs, pages: u32) -> Link {
        let mut link = Link::Root;
        loop {
            let id = self.get(runs, link);
            if id.is_none() || runs.pages(id) == pages {
                return link;
            }
            link = Self::towards(runs, id, pages);
        }
    }

    /// The youngest run of the least length of at least `pages`; [`SpanId::NONE`] if there is none.
    pub fn at_least(&self, runs: &impl Runs, pages: usize) -> SpanId {
        let (mut id, mut best) = (self.root, SpanId::NONE);
        while !id.is_none() {
            let (below, above) = runs.branches(id);
            if runs.pages(id) as usize >= pages {
                (best, id) = (id, below);
            } else {
                id = above;
            }
        }
        best
    }

    /// The run after `id`: of the same length, or else of the next one.
    pub fn after(&self, runs: &impl Runs, id: SpanId) -> SpanId {
        let (next, _) = runs.neighbours(id);
        if next.is_none() { self.at_least(runs, runs.pages(id) as usize + 1) } else { next }
    }

    /// Adds a run, which is in no list.
    pub fn link(&mut self, runs: &impl Runs, id: SpanId) {
        let pages = runs.pages(id);
        self.pages += pages as usize;
        let link = self.link_of(runs, pages);
        let first = self.get(runs, link);
        runs.set_neighbours(id, first, SpanId::NONE);
        if first.is_none() {
            return self.add_node(runs, id);
        }
        let (below, above) = runs.branches(first);
        runs.set_branches(id, below, above);
        runs.set_neighbours(first, runs.neighbours(first).0, id);
        self.set(runs, link, id);
    }

    fn add_node(&mut self, runs: &impl Runs, id: SpanId) {
        let pages = runs.pages(id);
        let mut link = Link::Root;
        let mut under = self.root;
        while !under.is_none() && rank(runs.pages(under)) > rank(pages) {
            link = Self::towards(runs, under, pages);
            under = self.get(runs, link);
        }
        self.set(runs, link, id);
        // What was there goes under the new node, split by length.
        runs.set_branches(id, SpanId::NONE, SpanId::NONE);
        let (mut below, mut above) = (Link::Below(id), Link::Above(id));
        while !under.is_none() {
            let (shorter, longer) = runs.branches(under);
            if runs.pages(under) < pages {
                self.set(runs, below, under);
                (below, under) = (Link::Above(under), longer);
            } else {
                self.set(runs, above, under);
                (above, under) = (Link::Below(under), shorter);
            }
        }
        self.set(runs, below, SpanId::NONE);
        self.set(runs, above, SpanId::NONE);
    }

    /// Takes out a run of these lists.
    pub fn unlink(&mut self, runs: &impl Runs, id: SpanId) {
        let (pages, (next, previous)) = (runs.pages(id), runs.neighbours(id));
        self.pages -= pages as usize;
        if !next.is_none() {
            runs.set_neighbours(next, runs.neighbours(next).0, previous);
        }
        if !previous.is_none() {
            runs.set_neighbours(previous, next, runs.neighbours(previous).1);
            return;
        }
        let mut link = self.link_of(runs, pages);
        let (mut below, mut above) = runs.branches(id);
        if !next.is_none() {
            runs.set_branches(next, below, above);
            return self.set(runs, link, next);
        }
        // What was under the node grows together in its place.
        while !below.is_none() && !above.is_none() {
            if rank(runs.pages(below)) > rank(runs.pages(above)) {
                self.set(runs, link, below);
                (link, below) = (Link::Above(below), runs.branches(below).1);
            } else {
                self.set(runs, link, above);
                (link, above) = (Link::Below(above), runs.branches(above).0);
            }
        }
        self.set(runs, link, if below.is_none() { above } else { below });
    }

    /// Checks the order of the tree; returns its depth.
    ///
    /// # Errors
    /// The broken rule.
    pub fn check(&self, runs: &impl Runs) -> Result<usize, &'static str> {
        let (mut id, mut deepest) = (self.at_least(runs, 0), 0);
        while !id.is_none() {
            let pages = runs.pages(id);
            let (mut node, mut depth, mut least) = (self.root, 1, u32::MAX);
            while !node.is_none() && runs.pages(node) != pages {
                if rank(runs.pages(node)) > least {
                    return Err("a length that ranks above the one over it");
                }
                least = rank(runs.pages(node));
                node = self.get(runs, Self::towards(runs, node, pages));
                depth += 1;
            }
            if node != id {
                return Err("a length that is not found");
            }
            deepest = deepest.max(depth);
            id = self.at_least(runs, pages as usize + 1);
        }
        Ok(deepest)
    }
}

impl Default for Lists {
    fn default() -> Self {
        Self::new()
    }
}
