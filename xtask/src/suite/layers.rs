//! Layers of the suite: every package keeps to the rules for its imports.

use super::step::Step;
use crate::layers;

/// A step for each package of the workspace.
pub fn steps() -> Vec<Step> {
    match layers::packages() {
        Ok(packages) => packages
            .into_iter()
            .map(|package| Step::new(format!("layers/{}", package.name), move |_| Ok(layers::check(&package)?)))
            .collect(),
        Err(error) => {
            let reason = format!("{error:#}");
            vec![Step::new("layers", move |_| Err(super::step::Stop::failed(reason.clone())))]
        }
    }
}
