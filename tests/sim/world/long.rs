//! How a long world's time passes: hours at a clinic's pace, then calm until every listing has been through once more.

use std::sync::atomic::Ordering;
use std::time::Duration;

use courier_sdk::Clock as _;
use ehr_courier::sandbox::Ehr;
use jiff::Timestamp;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::World;
use crate::dice::fork;
use crate::plan::LongCourse;
use crate::rhythm::Pulse;

/// A world that has not seen enough after so many times its length never will.
const LENGTHS_MAX: u32 = 3;

/// When a record that lives again takes place.
const SOON: Duration = Duration::from_hours(72);

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
                        revive(ehr, &mut dice, self.clock.now());
                    }
                    *due = elapsed + pulse.pause(self.clock.now());
                }
            }
            let next = pulses.iter().map(|(.., due)| *due).min().unwrap();
            tokio::time::sleep(next.saturating_sub(elapsed).max(Duration::from_millis(1))).await;
        }
    }
}

/// Lets a deleted record live again, as one that belongs to a patient and takes place soon.
fn revive(ehr: &Ehr, dice: &mut StdRng, now: Timestamp) {
    let kept = ehr.kept();
    let ends = kept.iter().enumerate().filter(|(index, version)| {
        let next = kept.get(index + 1);
        version.deleted && next.is_none_or(|next| next.id != version.id)
    });
    let gone: Vec<_> = ends.map(|(_, version)| version).collect();
    if gone.is_empty() {
        return;
    }
    let chosen = gone[dice.random_range(0..gone.len())];
    let note = dice.random_range(0..1000);
    let (patient, soon) = (r#"{"reference":"Patient/pat-00001"}"#, now + SOON);
    let members = match chosen.record_type.as_str() {
        "Appointment" => {
            format!(r#""status":"booked","start":"{soon:.0}","participant":[{{"actor":{patient}}}]"#)
        }
        _ => format!(r#""effectiveDateTime":"{now:.0}","subject":{patient}"#),
    };
    let text = format!(r#"{{"note":"lives again {note}",{members}}}"#);
    ehr.write(&chosen.record_type, &chosen.id, &text).unwrap();
}
