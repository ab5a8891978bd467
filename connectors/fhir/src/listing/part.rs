//! The parts of a listing: what each request asks for, and how a part that finds too much is cut. Pure.

use courier_sdk::{DateWindow, Ids, RecordId};
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::profile::WindowRule;

/// A date without a zone means a day of the server's own, which may begin so much before or after UTC's: a day on either
/// side covers every zone, and every change of clocks.
const ZONE_DAYS: i32 = 1;

const DAY_SECONDS: u64 = 86_400;

/// What is still to be asked for, the part under way first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Parts {
    /// All records of the type, at once; `true` once they were asked for.
    Whole(bool),
    /// Stretches of days.
    Days(Vec<Days>),
    /// A list of patients or records, so many at once.
    List(Place),
}

/// From one day to another, which is not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Days {
    from: Day,
    to: Day,
}

/// A day as listings store it: `2026-11-20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Day(Date);

impl TryFrom<String> for Day {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl From<Day> for String {
    fn from(day: Day) -> Self {
        day.0.to_string()
    }
}

/// A place in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    pub(super) at: usize,
    /// How many the part under way asks for.
    pub(super) size: usize,
    /// How many there are.
    length: usize,
    /// Tells whether the list is still the same.
    digest: u64,
}

impl Parts {
    /// The stretches of a window around an instant.
    pub(super) fn days(window: &DateWindow, rule: &WindowRule, now: Timestamp) -> Self {
        let days = |asked: Option<std::time::Duration>, default: u16| {
            let asked =
                asked.map(|asked| i32::try_from(asked.as_secs().div_ceil(DAY_SECONDS)).unwrap_or(i32::MAX));
            asked
                .unwrap_or_else(|| i32::from(default))
                .saturating_add(ZONE_DAYS)
        };
        let today = now.to_zoned(TimeZone::UTC).date();
        let from = today.saturating_sub(days(window.past, rule.past_days).days());
        // The last day is not among them.
        let to = today.saturating_add(days(window.future, rule.future_days).saturating_add(1).days());
        let step = if rule.part_days == 0 {
            i32::MAX
        } else {
            i32::from(rule.part_days)
        };
        let mut parts = Vec::new();
        let mut begin = from;
        while begin < to {
            let end = begin.saturating_add(step.min(1_000_000).days()).min(to);
            parts.push(Days {
                from: Day(begin),
                to: Day(end),
            });
            begin = end;
        }
        parts.reverse();
        Self::Days(parts)
    }

    /// A list, so many at once.
    pub(super) fn list(ids: &Ids, size: usize) -> Self {
        Self::List(Place {
            at: 0,
            size: size.max(1),
            length: ids.0.len(),
            digest: mark(ids),
        })
    }

    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Whole(asked) => *asked,
            Self::Days(days) => days.is_empty(),
            Self::List(place) => place.at >= place.length,
        }
    }

    /// Leaves the part under way behind.
    pub(super) fn pass(&mut self) {
        match self {
            Self::Whole(asked) => *asked = true,
            Self::Days(days) => {
                days.pop();
            }
            Self::List(place) => place.at = place.at.saturating_add(place.size),
        }
    }

    /// Whether the part under way is one of a list.
    pub(super) fn asks_for_one(&self) -> bool {
        match self {
            Self::List(place) => place.size.min(place.length.saturating_sub(place.at)) == 1,
            Self::Whole(_) | Self::Days(_) => false,
        }
    }

    /// Goes on one by one through a list, if it did not.
    pub(super) fn singly(&mut self) -> bool {
        match self {
            Self::List(place) if place.size > 1 => {
                place.size = 1;
                true
            }
            Self::Whole(_) | Self::Days(_) | Self::List(_) => false,
        }
    }

    /// Cuts the part under way in halves, if there is less to ask for.
    pub(super) fn split(&mut self) -> bool {
        match self {
            Self::Days(days) => {
                let Some(last) = days.last_mut() else {
                    return false;
                };
                let length = last.from.0.until(last.to.0).map_or(0, |span| span.get_days());
                if length < 2 {
                    return false;
                }
                let middle = Day(last.from.0.saturating_add((length / 2).days()));
                let first = Days {
                    from: last.from,
                    to: middle,
                };
                last.from = middle;
                days.push(first);
                true
            }
            Self::List(place) if place.size > 1 => {
                place.size = place
                    .size
                    .min(place.length - place.at.min(place.length))
                    .div_ceil(2)
                    .max(1);
                true
            }
            Self::Whole(_) | Self::List(_) => false,
        }
    }
}

impl Place {
    /// The ids of the part under way; nothing where the list is another by now.
    pub(super) fn of<'a>(&self, ids: &'a Ids) -> Option<&'a [RecordId]> {
        self.cut(ids, (self.at, self.size))
    }

    /// The ids of the part under way and of those after it, at most so many parts; nothing where the list is another by
    /// now.
    pub(super) fn next<'a>(&self, ids: &'a Ids, parts: usize) -> Option<Vec<&'a [RecordId]>> {
        let all = self.cut(ids, (self.at, self.size.saturating_mul(parts)))?;
        Some(all.chunks(self.size.max(1)).collect())
    }

    /// The one id at a place; nothing where the list is another by now.
    pub(super) fn one<'a>(&self, ids: &'a Ids, at: usize) -> Option<&'a [RecordId]> {
        self.cut(ids, (at, 1))
    }

    /// The places of the part under way.
    pub(super) fn places(&self) -> std::ops::Range<usize> {
        self.at..self.at.saturating_add(self.size).min(self.length)
    }

    fn cut<'a>(&self, ids: &'a Ids, (from, size): (usize, usize)) -> Option<&'a [RecordId]> {
        if ids.0.len() != self.length || mark(ids) != self.digest {
            return None;
        }
        let end = from.saturating_add(size).min(self.length);
        ids.0.get(from..end)
    }
}

impl Days {
    /// The search parameters that choose these days.
    pub(super) fn parameters(self, name: &str) -> Vec<String> {
        vec![
            format!("{name}=ge{}", self.from.0),
            format!("{name}=lt{}", self.to.0),
        ]
    }
}

fn mark(ids: &Ids) -> u64 {
    let parts: Vec<&[u8]> = ids.0.iter().map(|id| id.as_str().as_bytes()).collect();
    digest::of(&parts)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::profile::Profile;

    fn ids(texts: &[&str]) -> Ids {
        Ids(texts.iter().map(|text| RecordId::parse(text).unwrap()).collect())
    }

    fn shown(parts: &Parts) -> Vec<String> {
        let Parts::Days(days) = parts else {
            return Vec::new();
        };
        days.iter()
            .rev()
            .map(|days| format!("{} {}", days.from.0, days.to.0))
            .collect()
    }

    #[test]
    fn a_window_reaches_a_day_further_on_both_sides_and_is_asked_for_in_parts() {
        let now: Timestamp = "2026-11-20T23:30:00Z".parse().unwrap();
        let rule = |part_days| WindowRule {
            past_days: 2,
            future_days: 3,
            part_days,
            ..Profile::builtin("generic").unwrap().window
        };
        let own = DateWindow {
            future: Some(Duration::from_hours(24)),
            ..DateWindow::default()
        };
        let whole = Parts::days(&DateWindow::default(), &rule(0), now);
        assert_eq!(shown(&whole), ["2026-11-17 2026-11-25"]);
        let parts = Parts::days(&own, &rule(4), now);
        assert_eq!(shown(&parts), ["2026-11-17 2026-11-21", "2026-11-21 2026-11-23"]);
    }

    #[test]
    fn what_finds_too_much_is_cut_down_to_a_day_or_one_of_a_list() {
        let now: Timestamp = "2026-11-20T10:00:00Z".parse().unwrap();
        let rule = WindowRule {
            past_days: 0,
            future_days: 0,
            ..Profile::builtin("generic").unwrap().window
        };
        let mut days = Parts::days(&DateWindow::default(), &rule, now);
        assert!(days.split());
        assert_eq!(shown(&days), ["2026-11-19 2026-11-20", "2026-11-20 2026-11-22"]);
        assert!(!days.split(), "a day is the least");
        days.pass();
        assert!(days.split(), "the rest can still be cut");
        let list = ids(&["a", "b", "c", "d", "e"]);
        let mut parts = Parts::list(&list, 50);
        assert!(parts.split());
        let Parts::List(place) = parts else { panic!() };
        assert_eq!(place.of(&list).unwrap().len(), 3);
        parts.pass();
        let Parts::List(place) = parts else { panic!() };
        assert_eq!(place.of(&list).unwrap().len(), 2);
        parts.pass();
        assert!(parts.is_over());
        assert!(!Parts::list(&list, 1).split());
        assert!(!Parts::Whole(false).split());
    }

    #[test]
    fn a_list_that_changed_meanwhile_is_another() {
        let Parts::List(place) = Parts::list(&ids(&["a", "b"]), 1) else {
            panic!()
        };
        assert!(place.of(&ids(&["a", "b"])).is_some());
        assert!(place.of(&ids(&["a", "c"])).is_none());
        assert!(place.of(&ids(&["a"])).is_none());
    }
}
