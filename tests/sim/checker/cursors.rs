//! Cursors: at every blow, and at the end, what a cursor had covered was durable.

use super::Findings;
use super::shown::View;
use crate::book::Pages;
use crate::world::World;

pub(super) fn check(world: &World, pages: &Pages, view: &View, findings: &mut Findings) {
    for (tick, feed, watermark) in &pages.cursors {
        let Ok(covered) = watermark.checked_sub(world.plan.overlap()) else {
            continue;
        };
        let showings = view.counted.iter();
        let before = showings.filter(|it| it.feed == *feed && it.tick < *tick && it.handed < *tick);
        for (record, number, _) in before
            .flat_map(|it| &it.versions)
            .filter(|(_, _, stamp)| *stamp <= covered)
        {
            let durable = pages.durable.get(&(record.clone(), *number));
            if durable.is_none_or(|since| *since > *tick) {
                findings.violations.push(format!(
                    "the cursor of {feed:?} covers {record:?} {number}, which is nowhere"
                ));
            }
        }
    }
}
