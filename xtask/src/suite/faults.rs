//! Faults: what each lane does about a program's faults is what is expected of it.

use super::step::Step;
use hz3::Lane;

/// One step per lane.
pub fn steps() -> Vec<Step> {
    let step = |lane: Lane| {
        Step::new(format!("faults/{lane}"), move |session| {
            session.library(lane)?;
            Ok(session.evaluate(&["check-faults", lane.name()])?)
        })
    };
    Lane::ALL.map(step).into()
}
