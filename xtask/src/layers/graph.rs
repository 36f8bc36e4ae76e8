//! Graph: which file uses which; its circles, its levels and its longest chain.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// Nodes are numbers; an edge leads from the user to the used and has the line of the first use.
#[derive(Default, Clone)]
pub struct Graph {
    edges: BTreeMap<(usize, usize), usize>,
}

/// An edge that closes a circle, and a shortest way back from its end to its start, both included.
pub struct Circle {
    pub from: usize,
    pub line: usize,
    pub way_back: Vec<usize>,
}

impl Graph {
    /// Adds an edge; of several between the same nodes the first line stays.
    pub fn add(&mut self, from: usize, to: usize, line: usize) {
        if from != to {
            let first = self.edges.entry((from, to)).or_insert(line);
            *first = line.min(*first);
        }
    }

    /// The edges: user, used, line.
    pub fn edges(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        self.edges.iter().map(|(&(from, to), &line)| (from, to, line))
    }

    /// Whether there is an edge.
    pub fn has(&self, from: usize, to: usize) -> bool {
        self.edges.contains_key(&(from, to))
    }

    /// Whether one can walk from one node to another.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        self.way(from, to).is_some()
    }

    /// The graph of the edges that `keep` wants.
    pub fn filtered(&self, keep: impl Fn(usize, usize) -> bool) -> Graph {
        let kept = self.edges.iter().filter(|((from, to), _)| keep(*from, *to));
        Graph { edges: kept.map(|(&edge, &line)| (edge, line)).collect() }
    }

    /// What a node uses, in the order of the lines.
    pub fn used_by(&self, node: usize) -> Vec<usize> {
        let mut used: Vec<(usize, usize)> =
            self.edges.range((node, 0)..=(node, usize::MAX)).map(|(&(_, to), &line)| (line, to)).collect();
        used.sort_unstable();
        used.into_iter().map(|(_, to)| to).collect()
    }

    /// The sets of nodes that reach each other, of two or more nodes each.
    pub fn knots(&self) -> Vec<Vec<usize>> {
        let reach: BTreeMap<usize, BTreeSet<usize>> =
            self.nodes().iter().map(|&node| (node, self.reached(node))).collect();
        let mut left = self.nodes();
        let mut knots = Vec::new();
        while let Some(node) = left.pop_first() {
            let knot: Vec<usize> = left
                .iter()
                .copied()
                .filter(|other| reach[&node].contains(other) && reach[other].contains(&node))
                .collect();
            if !knot.is_empty() {
                left.retain(|other| !knot.contains(other));
                knots.push([vec![node], knot].concat());
            }
        }
        knots
    }

    /// Few edges of a knot without which it has no circle, each with a shortest circle that it closes.
    pub fn circles(&self, knot: &[usize]) -> Vec<Circle> {
        let inside = self.filtered(|from, to| knot.contains(&from) && knot.contains(&to));
        let order = inside.users_first();
        let place: HashMap<usize, usize> = order.iter().enumerate().map(|(place, &node)| (node, place)).collect();
        let mut open = inside.filtered(|from, to| place[&from] < place[&to]);
        let mut circles = Vec::new();
        for (from, to, line) in inside.edges().filter(|(from, to, _)| place[from] > place[to]) {
            if !open.reaches(to, from) {
                open.add(from, to, line);
            } else {
                let way_back = inside.way(to, from).unwrap_or_default();
                circles.push(Circle { from, line, way_back });
            }
        }
        circles
    }

    /// The level of each node: 1 uses nothing, others stand one above the highest that they use. A knot counts as one
    /// node.
    pub fn levels(&self) -> BTreeMap<usize, usize> {
        let mut knot_of: BTreeMap<usize, usize> = self.nodes().into_iter().map(|node| (node, node)).collect();
        for knot in self.knots() {
            knot_of.extend(knot.iter().map(|&node| (node, knot[0])));
        }
        let mut levels: BTreeMap<usize, usize> = knot_of.values().map(|&knot| (knot, 1)).collect();
        loop {
            let mut changed = false;
            for (from, to, _) in self.edges() {
                let (from, to) = (knot_of[&from], knot_of[&to]);
                if from != to && levels[&from] <= levels[&to] {
                    levels.insert(from, levels[&to] + 1);
                    changed = true;
                }
            }
            if !changed {
                return knot_of.iter().map(|(&node, knot)| (node, levels[knot])).collect();
            }
        }
    }

    /// A longest chain, from the top down, one node for each level.
    pub fn longest_chain(&self) -> Vec<usize> {
        let levels = self.levels();
        let mut chain = Vec::new();
        let mut level = levels.values().copied().max().unwrap_or(0);
        let mut candidates: Vec<usize> = levels.keys().copied().collect();
        while level > 0 {
            let Some(&node) = candidates.iter().find(|&node| levels[node] == level) else { break };
            chain.push(node);
            // From a knot the chain may go on by any of its nodes.
            let knot = levels.keys().copied().filter(|&other| {
                other == node || (levels[&other] == level && self.reaches(node, other) && self.reaches(other, node))
            });
            candidates = knot.flat_map(|node| self.used_by(node)).collect();
            level -= 1;
        }
        chain
    }

    fn nodes(&self) -> BTreeSet<usize> {
        self.edges.keys().flat_map(|&(from, to)| [from, to]).collect()
    }

    fn reached(&self, start: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut waiting = vec![start];
        while let Some(node) = waiting.pop() {
            waiting.extend(self.used_by(node).into_iter().filter(|&used| reached.insert(used)));
        }
        reached
    }

    /// A shortest way between two nodes, both included.
    fn way(&self, start: usize, end: usize) -> Option<Vec<usize>> {
        let mut before = HashMap::from([(start, start)]);
        let mut waiting = VecDeque::from([start]);
        while let Some(node) = waiting.pop_front() {
            if node == end {
                let mut way = vec![end];
                while *way.last()? != start {
                    way.push(before[way.last()?]);
                }
                way.reverse();
                return Some(way);
            }
            for used in self.used_by(node) {
                before.entry(used).or_insert_with(|| {
                    waiting.push_back(used);
                    node
                });
            }
        }
        None
    }

    /// The nodes in an order in which few edges lead back, after Eades, Lin and Smyth: what nobody left uses goes to the
    /// front, what uses nobody left goes to the back, else the node with the most uses over users goes to the front.
    fn users_first(&self) -> Vec<usize> {
        let mut left = self.nodes();
        let (mut front, mut back) = (Vec::new(), Vec::new());
        while !left.is_empty() {
            let degrees = |node: usize| {
                let inside = |other: &usize| left.contains(other);
                let used = self.used_by(node).iter().filter(|&other| inside(other)).count();
                let users = self.edges().filter(|(from, to, _)| *to == node && inside(from)).count();
                (used.cast_signed(), users.cast_signed())
            };
            let found = left.iter().map(|&node| (node, degrees(node))).collect::<Vec<_>>();
            let (node, to_front) = match found.iter().find(|(_, (used, _))| *used == 0) {
                Some(&(node, _)) => (node, false),
                None => (
                    found
                        .iter()
                        .max_by_key(|(_, (used, users))| if *users == 0 { isize::MAX } else { used - users })
                        .map_or(0, |&(node, _)| node),
                    true,
                ),
            };
            left.remove(&node);
            if to_front { front.push(node) } else { back.push(node) }
        }
        back.reverse();
        front.extend(back);
        front
    }
}
