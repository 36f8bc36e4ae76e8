//! Field: the candidates of a measurement, with the peers that were built from sources.

use crate::peer_build;
use crate::recipe::Recipe;
use anyhow::Result;
use hz3::Workspace;
use hz3::record::{Allocator, Missing, Peers, Role, Selection, allocator};

/// The candidates of a measurement.
pub struct Field {
    /// Those that can be run, in the order in which they run.
    pub found: Vec<Allocator>,
    /// Those that can't, and why.
    pub missing: Vec<Missing>,
    /// The names of those without which the measurement is not what was asked for.
    pub required: Vec<String>,
}

/// The built peers that take part, or why they are missing.
pub fn peers(workspace: &Workspace, selection: &Selection) -> Result<Peers> {
    let is_named = |recipe: &Recipe| selection.wanted.peers.iter().any(|peer| peer == recipe.name);
    let has_part = |recipe: &Recipe| selection.checked || !recipe.checked || is_named(recipe);
    let allocator = |built: peer_build::Built| {
        let mut allocator = Allocator::preloaded(&built.name, Role::Peer, built.version, built.library)?;
        allocator.record.environment = built.environment;
        Ok(allocator)
    };
    let built = peer_build::built(&workspace.target, has_part).into_iter();
    built.map(|built| built.map(allocator).map_or_else(|absent| Ok(Err(absent)), |found| found.map(Ok))).collect()
}

/// The candidates of a measurement, in the order in which they run, and those that are missing.
pub fn find(workspace: &Workspace, selection: &Selection) -> Result<(Vec<Allocator>, Vec<Missing>)> {
    allocator::find(workspace, selection, peers(workspace, selection)?)
}

impl Field {
    /// The preload libraries that were selected, and the system's malloc.
    pub fn of_preloaded(workspace: &Workspace, selection: &Selection) -> Result<Field> {
        let (found, missing) = find(workspace, selection)?;
        let lanes = selection.wanted.lanes.iter().map(|lane| lane.name().to_owned());
        let given = selection.given.iter().filter_map(|given| Some(given.split_once('=')?.0.to_owned()));
        Ok(Field { found, missing, required: lanes.chain(given).collect() })
    }
}
