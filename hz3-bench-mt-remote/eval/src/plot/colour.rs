//! Colour: which allocator has which.

use hz3::record::{Results, Role};
use hz3::report::canvas::PEER_COLOURS;

/// The style class of an allocator's colour: lanes have their own, peers follow their order.
pub fn colour(results: &Results, allocator: &str) -> String {
    let peers: Vec<&str> = results.names(Role::Peer).collect();
    match peers.iter().position(|name| *name == allocator) {
        Some(index) => format!("peer{}", index % PEER_COLOURS),
        None => allocator.to_owned(),
    }
}
