//! Length tree: free runs of one length class, by their length.
//!
//! ```text
//!            130, rank 90
//!     128, rank 40     131, rank 77        in order by length, then by number; a parent's rank is its children's highest
//! ```
//!
//! A treap: ranks are a hash of the run's number, so that it is as deep as a logarithm of the runs, whatever their order.
//! Links lie in the runs' descriptors. Protected by the run lock.

use crate::platform::units::SpanId;

/// The descriptors of runs.
pub trait Nodes {
    /// Pages of the run `id`: constant while it is in a tree.
    fn pages(&self, id: SpanId) -> usize;
    /// What [`Nodes::set_links`] stored: the run's shorter and longer children.
    fn links(&self, id: SpanId) -> [SpanId; 2];
    /// Stores the run's children.
    fn set_links(&self, id: SpanId, links: [SpanId; 2]);
}

/// A child: 0 the shorter, 1 the longer.
type Side = usize;

/// Mixes the bits of a run's number.
fn rank(id: SpanId) -> u32 {
    let mut bits = id.0;
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x7feb_352d);
    bits = (bits ^ (bits >> 15)).wrapping_mul(0x846c_a68b);
    bits ^ (bits >> 16)
}

/// Where a node is linked.
#[derive(Clone, Copy)]
struct Place {
    /// [`SpanId::NONE`]: the root.
    parent: SpanId,
    side: Side,
}

/// The tree with this root.
pub struct Tree<'a, N> {
    /// Its first node; [`SpanId::NONE`] for none.
    pub root: SpanId,
    /// What it consists of.
    pub nodes: &'a N,
}

impl<N: Nodes> Tree<'_, N> {
    const ROOT: Place = Place { parent: SpanId::NONE, side: 0 };

    fn key(&self, id: SpanId) -> (usize, u32) {
        (self.nodes.pages(id), id.0)
    }

    fn child(&self, id: SpanId, side: Side) -> SpanId {
        self.nodes.links(id).get(side).copied().unwrap_or(SpanId::NONE)
    }

    fn put(&mut self, place: Place, id: SpanId) {
        if place.parent.is_none() {
            self.root = id;
            return;
        }
        let mut links = self.nodes.links(place.parent);
        if let Some(link) = links.get_mut(place.side) {
            *link = id;
        }
        self.nodes.set_links(place.parent, links);
    }

    /// Where `id` is, or belongs by its length and rank, and the node there.
    fn find(&self, id: SpanId) -> (Place, SpanId) {
        let (mut place, mut node) = (Self::ROOT, self.root);
        while !node.is_none() && node != id && rank(node) >= rank(id) {
            let side = usize::from(self.key(id) > self.key(node));
            (place, node) = (Place { parent: node, side }, self.child(node, side));
        }
        (place, node)
    }

    /// Adds the run `id`, which is not in it.
    pub fn insert(&mut self, id: SpanId) {
        let (place, mut below) = self.find(id);
        self.put(place, id);
        self.nodes.set_links(id, [SpanId::NONE; 2]);
        // What was there goes to both sides: the shorter ones left of `id`, each right of the last one, and vice versa.
        let mut open = [Place { parent: id, side: 0 }, Place { parent: id, side: 1 }];
        while !below.is_none() {
            let is_longer = self.key(below) > self.key(id);
            let (side, other) = if is_longer { (1, 0) } else { (0, 1) };
            let next = self.child(below, other);
            if let Some(place) = open.get_mut(side) {
                let parent = core::mem::replace(place, Place { parent: below, side: other });
                self.put(parent, below);
            }
            below = next;
        }
        for place in open {
            if place.parent != id {
                self.put(place, SpanId::NONE);
            }
        }
    }

    /// Removes the run `id`, which is in it.
    pub fn remove(&mut self, id: SpanId) {
        let (mut place, found) = self.find(id);
        debug_assert!(found == id, "not in its tree");
        let [mut shorter, mut longer] = self.nodes.links(id);
        while !shorter.is_none() && !longer.is_none() {
            if rank(shorter) >= rank(longer) {
                self.put(place, shorter);
                (place, shorter) = (Place { parent: shorter, side: 1 }, self.child(shorter, 1));
            } else {
                self.put(place, longer);
                (place, longer) = (Place { parent: longer, side: 0 }, self.child(longer, 0));
            }
        }
        self.put(place, if shorter.is_none() { longer } else { shorter });
    }

    /// The shortest run that has `pages`.
    pub fn at_least(&self, pages: usize) -> Option<SpanId> {
        let (mut best, mut node) = (None, self.root);
        while !node.is_none() {
            let fits = self.nodes.pages(node) >= pages;
            best = if fits { Some(node) } else { best };
            node = self.child(node, usize::from(!fits));
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    struct Table(RefCell<Vec<(usize, [SpanId; 2])>>);

    impl Nodes for Table {
        fn pages(&self, id: SpanId) -> usize {
            self.0.borrow()[id.0 as usize].0
        }

        fn links(&self, id: SpanId) -> [SpanId; 2] {
            self.0.borrow()[id.0 as usize].1
        }

        fn set_links(&self, id: SpanId, links: [SpanId; 2]) {
            self.0.borrow_mut()[id.0 as usize].1 = links;
        }
    }

    fn depth(table: &Table, id: SpanId) -> usize {
        if id.is_none() {
            return 0;
        }
        let [shorter, longer] = table.links(id);
        1 + depth(table, shorter).max(depth(table, longer))
    }

    #[test]
    fn the_shortest_of_those_that_fit_is_found_whatever_came_and_went() {
        let table = Table(RefCell::new((0..500).map(|number| (number * 7919 % 61, [SpanId::NONE; 2])).collect()));
        let (mut root, mut all, mut dice) = (SpanId::NONE, BTreeSet::new(), 1_u64);
        for _ in 0..20_000 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let id = SpanId(1 + (dice >> 33) as u32 % 499);
            let mut tree = Tree { root, nodes: &table };
            let key = (table.pages(id), id.0);
            if all.remove(&key) {
                tree.remove(id);
            } else {
                tree.insert(id);
                all.insert(key);
            }
            root = tree.root;
            let pages = (dice >> 20) as usize % 64;
            let wanted = all.range((pages, 0)..).next().map(|&(_, number)| SpanId(number));
            assert_eq!(Tree { root, nodes: &table }.at_least(pages), wanted);
        }
    }

    #[test]
    fn runs_that_come_in_order_make_no_deep_tree() {
        let table = Table(RefCell::new((0..100_001).map(|number| (number / 3, [SpanId::NONE; 2])).collect()));
        let mut tree = Tree { root: SpanId::NONE, nodes: &table };
        (1..=100_000).for_each(|number| tree.insert(SpanId(number)));
        assert!(depth(&table, tree.root) < 60, "{}", depth(&table, tree.root));
        (1..=99_999).for_each(|number| tree.remove(SpanId(number)));
        assert_eq!((tree.root, tree.at_least(33_334)), (SpanId(100_000), None));
    }
}
