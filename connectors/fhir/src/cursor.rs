//! A feed's durable cursor: how far it has been handed over, by the source's stamps, whichever way found its changes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::instant::Stored;
use crate::profile::Cut;

/// The form of stored cursors; raised when it changes.
const VERSION: u8 = 1;

/// What reads of single records are conditioned on, by record id.
pub(crate) type Tags = BTreeMap<String, String>;

/// A feed's durable cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CursorState {
    v: u8,
    pub(crate) watermark: Stored,
    pub(crate) start: Option<Stored>,
    /// Which strategy moved it here, or is known to go on from here. All may go on from it, because all mean the source's
    /// stamps.
    #[serde(default)]
    pub(crate) by: By,
    /// Whether the feed has begun here, and its first listing is still to come.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) begun: bool,
    /// What reads of single records are conditioned on, where records are read one by one.
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub(crate) tags: Tags,
}

/// Which strategy moved a cursor; cursors of before there was a choice do not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum By {
    #[default]
    LastUpdated,
    History,
    Listing,
}

impl CursorState {
    /// A cursor of one strategy.
    pub(crate) fn of(by: By, watermark: Timestamp, start: Option<Timestamp>) -> Self {
        Self {
            v: VERSION,
            watermark: Stored(watermark),
            start: start.map(Stored),
            by,
            begun: false,
            tags: Tags::new(),
        }
    }

    /// The cursor of a feed that begins at an instant by a listing which is not complete.
    pub(crate) fn begun_at(start: Timestamp) -> Self {
        Self {
            begun: true,
            ..Self::of(By::Listing, start, Some(start))
        }
    }

    /// The same cursor, gone on from by another way.
    pub(crate) fn gone_on_by(self, by: By) -> Self {
        Self { by, ..self }
    }

    /// The same cursor of a feed whose server writes stamps no finer than so: what changes later in the day, or second, of
    /// the start carries a stamp before it.
    pub(crate) fn starting_by(self, cut: Cut) -> Self {
        Self {
            start: self.start.map(|start| Stored(cut.earliest_stamp(start.0))),
            ..self
        }
    }

    /// The same cursor of a feed that starts elsewhere; `None` is at the beginning.
    pub(crate) fn since(self, start: Option<Timestamp>) -> Self {
        Self {
            start: start.map(Stored),
            ..self
        }
    }

    /// The same cursor with what reads are conditioned on.
    pub(crate) fn conditioned_on(self, tags: Tags) -> Self {
        Self { tags, ..self }
    }

    /// The same cursor at another instant; the feed's start stays, and every record is read anew.
    pub(crate) fn moved_to(self, instant: Timestamp) -> Self {
        Self {
            watermark: Stored(instant),
            tags: Tags::new(),
            ..self
        }
    }

    /// Reads the stored form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text)
            .ok()
            .filter(|state: &Self| state.v == VERSION)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_lies_before_every_stamp_that_a_later_change_can_carry() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let start = |cut, text| {
            let cursor = CursorState::of(By::LastUpdated, at(text), Some(at(text)));
            cursor.starting_by(cut).start.unwrap().0
        };
        let noon = "2026-11-20T12:30:15.750Z";
        assert_eq!(start(Cut::Fraction, noon), at("2026-11-20T12:30:15Z"));
        assert_eq!(start(Cut::Second, noon), at("2026-11-20T12:30:15Z"));
        // The day of the change may have begun fourteen hours ago in UTC's terms, or end twelve hours later.
        for midnight in [
            "2026-11-20T00:00:00Z",
            "2026-11-19T12:00:00Z",
            "2026-11-20T05:00:00Z",
        ] {
            assert!(start(Cut::Day, noon) <= at(midnight), "{midnight}");
        }
    }
}
