//! Faults: what each lane does about a program's faults is what is expected of it.

use super::step::Step;
use crate::evaluation;
use crate::lane::Lane;

/// One step per lane.
pub fn steps() -> Vec<Step> {
    let step = |lane: Lane| {
        Step::new(format!("faults/{lane}"), move |session| {
            let library = session.library(lane)?;
            Ok(evaluation::check_faults(&session.workspace, lane, &library)?)
        })
    };
    Lane::ALL.map(step).into()
}
