//! What the rows of a history show of its order and of `_since`. Pure.
//!
//! A lone row too old proves nothing: in a history that is sorted by commits, one of a node whose clock lags stands
//! among newer ones, and is as new as they are. Many in a row, with nothing newer after them, are a source that
//! ignores `_since`.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::instant::{self, Stored};
use crate::last_updated::PRECISION;

/// So many rows too old in a row prove that `_since` is ignored. One node out of several commits fewer without
/// another in between; and fewer than this are announced for nothing, once, where `_since` is ignored.
const IGNORED_ROWS_MIN: usize = 20;

/// All zones' days begin at multiples of so many seconds.
const ZONES_APART: i64 = 15 * 60;

/// The longest day, when clocks are set back, and some.
const DAY_MAX: Duration = Duration::from_hours(26);

/// Whether rows go on from new to old. Servers write one instant with different precision: what that explains is no
/// disorder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Descent {
    oldest: Option<Stored>,
    pub(super) broken: bool,
}

impl Descent {
    fn note(&mut self, stamp: Timestamp) {
        let at_least = instant::back(stamp, PRECISION);
        self.broken |= self.oldest.is_some_and(|oldest| at_least > oldest.0);
        let stamp = Stored(stamp);
        self.oldest = Some(self.oldest.map_or(stamp, |oldest| oldest.min(stamp)));
    }

    /// Takes in the rows that were asked for; those too old are the tail's.
    pub(super) fn take(&mut self, stamps: &[Option<Timestamp>], lower: Option<Timestamp>) {
        for stamp in stamps {
            match *stamp {
                Some(stamp) if is_too_old(stamp, lower) => {}
                Some(stamp) => self.note(stamp),
                None => self.broken = true,
            }
        }
    }
}

/// The rows too old with which all that was shown so far ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tail {
    pub(super) rows: usize,
    descent: Descent,
}

/// What a tail says of `_since`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// Nothing.
    Unsaid,
    /// It is ignored, and newest came first all the way down to it: nothing is missing before.
    IgnoredInOrder,
    /// It is ignored, and what comes later may be new.
    Ignored,
}

impl Tail {
    /// The tail after further rows.
    pub(super) fn after(mut self, stamps: &[Option<Timestamp>], lower: Option<Timestamp>) -> Self {
        for stamp in stamps {
            match *stamp {
                Some(stamp) if is_too_old(stamp, lower) => {
                    self.rows += 1;
                    self.descent.note(stamp);
                }
                Some(_) | None => self = Self::default(),
            }
        }
        self
    }

    /// What it says after rows of that order.
    pub(super) fn since(self, before: Descent) -> Since {
        if self.rows < IGNORED_ROWS_MIN {
            Since::Unsaid
        } else if before.broken || self.descent.broken {
            Since::Ignored
        } else {
            Since::IgnoredInOrder
        }
    }

    /// How many of a page's last rows nobody asked for; fewer than prove it are announced rather than lost.
    pub(super) fn left_out(self, page_rows: usize) -> usize {
        if self.rows < IGNORED_ROWS_MIN {
            0
        } else {
            self.rows.min(page_rows)
        }
    }
}

/// Whether a row lies before `_since` by more than servers' precision explains.
fn is_too_old(stamp: Timestamp, lower: Option<Timestamp>) -> bool {
    lower.is_some_and(|lower| stamp < instant::back(lower, PRECISION) && !is_its_day(stamp, lower))
}

/// Whether a stamp may be that of a whole day which was not over at an instant: a server that writes days, which its
/// profile need not know, stamps what changes later in the day by the day's beginning in its own zone.
fn is_its_day(stamp: Timestamp, at: Timestamp) -> bool {
    let begins_a_day = stamp.subsec_nanosecond() == 0 && stamp.as_second() % ZONES_APART == 0;
    begins_a_day && stamp >= instant::back(at, DAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stamped_by_whole_days_are_not_too_old_on_their_day() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let since = Some(at("2026-11-20T03:10:07Z"));
        for (stamp, too_old) in [
            ("2026-11-20T03:10:06.500Z", false),
            ("2026-11-20T03:09:00Z", true),
            ("2026-11-20T00:00:00Z", false),
            ("2026-11-19T10:15:00Z", false),
            ("2026-11-20T00:00:00.120Z", true),
            ("2026-11-19T00:00:00Z", true),
        ] {
            assert_eq!(is_too_old(at(stamp), since), too_old, "{stamp}");
        }
    }
}
