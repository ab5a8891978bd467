//! What several searches at once leave to be asked for by itself: further pages, and patients whose search came to
//! nothing. Pure.

use serde::{Deserialize, Serialize};

use super::part::Parts;
use super::{Doubt, Fill, Listing, Rules, Seen, Step};

/// A part that is asked for out of the list's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Aside {
    /// The one at this place of the list.
    One(usize),
    /// The further pages of a search, and how many matches its first page had.
    Rest { link: String, matches: u64 },
}

/// What one of several searches brought.
#[derive(Debug, Clone)]
pub(super) enum Came {
    Page(Seen),
    /// The source does not show what was asked for.
    Passed,
    /// Nothing that says anything: each of the part is asked for by itself.
    Nothing,
}

impl Listing {
    /// Takes in what several searches brought, in the order of the list, and says what follows.
    pub(super) fn absorb_several(mut self, several: Vec<Came>, rules: Rules) -> Step {
        let mut aside = Vec::new();
        for came in several {
            let places = match &self.parts {
                Parts::List(place) => place.places(),
                Parts::Whole(_) | Parts::Days(_) => 0..0,
            };
            match came {
                Came::Page(seen) => aside.extend(self.rest_of(&seen, places)),
                Came::Passed => {}
                Came::Nothing => aside.extend(places.map(Aside::One)),
            }
            self.parts.pass();
        }
        // The first of the list is asked for first.
        aside.reverse();
        self.aside = aside;
        self.enter(rules)
    }

    /// What one search's first page leaves to be asked for.
    fn rest_of(&mut self, seen: &Seen, places: std::ops::Range<usize>) -> Vec<Aside> {
        self.note(&seen.stamps);
        let matches = seen.matches;
        if let Some(link) = &seen.next {
            if seen.entries == 0 {
                self.suspect(Doubt::EmptyPage);
                return Vec::new();
            }
            let link = link.clone();
            return vec![Aside::Rest { link, matches }];
        }
        let cut = seen.total.is_some_and(|total| total > matches);
        if !cut && seen.fill == Fill::Whole {
            return Vec::new();
        }
        // By itself each may be asked for with a larger page.
        places.map(Aside::One).collect()
    }
}
