//! Which clinics tell of their changes by histories, and whose records travel with their context.

use courier_sdk::{Detect, FetchMode};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{Kind, SourcePlan};
use crate::dice::pick;

/// Faults of searches, which would never strike a source that is asked for histories only.
const OF_SEARCHES: [&str; 3] = ["descending_pages", "stale_cache", "wrong_sort"];

/// Lets a clinic speak history, and some of its appointments travel with the records that they refer to.
pub(super) fn choose(source: &mut SourcePlan, dice: &mut StdRng) {
    let Kind::Clinic { names, expired, .. } = &mut source.kind else {
        return;
    };
    let speaks = !names.iter().any(|name| OF_SEARCHES.contains(name)) && dice.random_bool(0.5);
    let includes = dice.random_bool(0.25);
    if speaks {
        *expired = pick(dice, &[0.0, 0.05, 0.15]);
        let detect = pick(dice, &[Detect::History, Detect::Auto]);
        for feed in &mut source.feeds {
            feed.detect = detect;
            // Every version comes with its record.
            feed.fetch = FetchMode::FromPage;
        }
    }
    for feed in &mut source.feeds {
        if includes && feed.record_type == "Appointment" {
            feed.include = vec!["Appointment:patient", "Appointment:practitioner"];
        }
    }
}
