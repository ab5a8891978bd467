//! How a feed's changes are found, and what that way of finding them cannot see.

use crate::change::PageOrder;

/// What a configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detect {
    /// The best that the source says it offers.
    #[default]
    Auto,
    /// Its history, whatever it says of itself.
    History,
    /// A search by the time of the last change.
    LastUpdated,
}

/// A way of finding changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strategy {
    /// The source lists every version of every record, deletes included.
    History,
    /// The source shows each record's current state, searched by the time of its last change.
    LastUpdated,
}

impl Strategy {
    /// The word that configurations, tables and metrics use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::History => "history",
            Self::LastUpdated => "last-updated",
        }
    }
}

/// When deletes become known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteSight {
    /// The source lists them.
    Listed,
    /// Only where a changed record is read by itself and is gone by then.
    OnRead,
    /// Never.
    Unseen,
}

impl DeleteSight {
    /// In words, for a table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::OnRead => "on read",
            Self::Unseen => "unseen",
        }
    }
}

/// How a feed's changes will be found, and what will be missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// The way that was chosen.
    pub strategy: Strategy,
    /// Why, as one sentence for an operator; no PHI.
    pub why: String,
    /// In which order the source shows versions.
    pub order: PageOrder,
    /// When deletes become known.
    pub deletes: DeleteSight,
    /// What stays unseen, one sentence each; empty for nothing known.
    pub blind_spots: Vec<&'static str>,
}
