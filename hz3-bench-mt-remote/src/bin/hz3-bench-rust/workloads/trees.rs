//! Trees: versions of ordered trees whose nodes are shared, by reference counts, between the threads of a ring.
//!
//! Each thread takes its neighbour's version, inserts by copying the way to each new node, and offers the result to
//! its other neighbour. What is no longer in any version is dropped by whichever thread lets go of it last. Snapshots
//! in databases, configurations and syntax trees live like this.

use super::work::{Random, in_threads, mix, mix_bytes};
use std::sync::{Arc, Barrier, Mutex};

/// Nodes that each thread inserts per round.
const INSERTIONS: usize = 2_000; // chosen
/// Rounds after which a thread begins with an empty tree again.
const GENERATION: usize = 16; // chosen

struct Node {
    key: u64,
    text: String,
    left: Tree,
    right: Tree,
}

type Tree = Option<Arc<Node>>;

/// Runs `rounds` rounds of all threads in step.
pub fn run(threads: usize, rounds: usize) -> u64 {
    let offers: Vec<Mutex<Tree>> = (0..threads).map(|_| Mutex::new(None)).collect();
    let barrier = Barrier::new(threads);
    in_threads(threads, |index| {
        let mut random = Random::new(index);
        let mut checksum = 0;
        for round in 0..rounds {
            let neighbour = &offers[(index + 1) % threads];
            let mut tree = neighbour.lock().expect("no holder panics").clone();
            // Nobody offers before everybody has taken.
            barrier.wait();
            if round % GENERATION == 0 {
                tree = None;
            }
            for _ in 0..INSERTIONS {
                tree = Some(insert(tree.as_ref(), random.number(), &mut random));
            }
            checksum = mix(checksum, walk(tree.as_ref()));
            let before = offers[index].lock().expect("no holder panics").replace(tree.expect("it has nodes"));
            barrier.wait();
            // The neighbour on the other side may hold it still, or parts of it.
            drop(before);
        }
        checksum
    })
}

/// The tree with one node more; nodes beside the way are shared with the old one.
fn insert(tree: Option<&Arc<Node>>, key: u64, random: &mut Random) -> Arc<Node> {
    let Some(node) = tree else {
        return Arc::new(Node { key, text: random.word(40), left: None, right: None });
    };
    let (mut left, mut right) = (node.left.clone(), node.right.clone());
    if key < node.key {
        left = Some(insert(left.as_ref(), key, random));
    } else {
        right = Some(insert(right.as_ref(), key, random));
    }
    Arc::new(Node { key: node.key, text: node.text.clone(), left, right })
}

fn walk(tree: Option<&Arc<Node>>) -> u64 {
    let Some(node) = tree else { return 1 };
    let left = walk(node.left.as_ref());
    mix(mix_bytes(mix(left, node.key), node.text.as_bytes()), walk(node.right.as_ref()))
}
