//! What the rows of a history show of its order and of `_since`. Pure.
//!
//! A lone row too old proves nothing: in a history that is sorted by commits, one of a node whose clock lags stands
//! among newer ones, and is as new as they are. Many in a row, with nothing newer after them, are a source that
//! ignores `_since`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::instant::{self, Stored};
use crate::last_updated::PRECISION;

/// So many rows too old in a row prove that `_since` is ignored. One node out of several commits fewer without
/// another in between; and fewer than this are announced for nothing, once, where `_since` is ignored.
const IGNORED_ROWS_MIN: usize = 20;

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
    lower.is_some_and(|lower| stamp < instant::back(lower, PRECISION))
}
