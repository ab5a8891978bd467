//! How a long world's time passes: hours at a clinic's pace, then calm until every listing has been through once more.

use std::sync::atomic::Ordering;
use std::time::Duration;

use courier_sdk::Clock as _;
use rand::RngExt as _;

use super::{World, revive};
use crate::dice::fork;
use crate::plan::LongCourse;
use crate::rhythm::Pulse;

/// A world that has not seen enough after so many times its length never will.
const LENGTHS_MAX: u32 = 3;

impl World {
    /// The sources change at a clinic's pace until the time is over, enough was seen and the script is at its end.
    pub(super) async fn long_day(&self, course: &LongCourse) {
        let mut dice = fork(self.plan.seed, "revivals");
        let mut pulses: Vec<_> = self
            .clinics
            .iter()
            .map(|(name, ehr)| {
                let dice = fork(self.plan.seed, &format!("pulse {name}"));
                (ehr, Pulse::new(course.rhythm.clone(), dice), Duration::ZERO)
            })
            .collect();
        loop {
            let elapsed = self.clock.elapsed();
            if elapsed >= course.length && self.blows_left.load(Ordering::Relaxed) == 0 {
                let shown = self.book.open().versions_shown().len();
                if shown >= self.plan.versions_min {
                    return;
                }
                if elapsed > course.length * LENGTHS_MAX {
                    let what = format!("the world saw {shown} versions only");
                    return self.book.violation(what);
                }
            }
            for (ehr, pulse, due) in &mut pulses {
                if *due <= elapsed {
                    drop(ehr.step());
                    if dice.random_bool(0.01) {
                        revive(ehr, &mut dice);
                    }
                    *due = elapsed + pulse.pause(self.clock.now());
                }
            }
            let next = pulses.iter().map(|(.., due)| *due).min().unwrap();
            tokio::time::sleep(next.saturating_sub(elapsed).max(Duration::from_millis(1))).await;
        }
    }
}
