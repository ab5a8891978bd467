//! A feed's durable cursor: how far it has been handed over, by the source's stamps, whichever way found its changes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::instant::Stored;

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
            tags: Tags::new(),
        }
    }

    /// The same cursor, gone on from by another way.
    pub(crate) fn gone_on_by(self, by: By) -> Self {
        Self { by, ..self }
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
