//! Layers of the suite: every package keeps to the rules for its imports.

use super::step::{Step, Stop};
use crate::layers;

/// A step for each package of the workspace, and one that proves that they can fail.
pub fn steps() -> Vec<Step> {
    let packages = match layers::packages() {
        Ok(packages) => packages,
        Err(error) => {
            let reason = format!("{error:#}");
            return vec![Step::new("layers", move |_| Err(Stop::failed(reason.clone())))];
        }
    };
    let mut steps = Vec::new();
    for package in packages {
        if package.name == layers::ORDERED {
            let package = package.clone();
            steps.push(Step::new("layers/planted", move |_| Ok(layers::check_planted(&package)?)));
        }
        steps.push(Step::new(format!("layers/{}", package.name), move |_| Ok(layers::check(&package)?)));
    }
    steps
}
