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
    /// All records within a stretch of dates, or all there are, compared with what is known.
    Window,
    /// All records of each patient of a roster, compared with what is known.
    Roster,
    /// The records of a list of ids, each read by itself.
    Read,
}

/// A way of finding changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strategy {
    /// The source lists every version of every record, deletes included.
    History,
    /// The source shows each record's current state, searched by the time of its last change.
    LastUpdated,
    /// The source lists the records within a stretch of dates, whether they changed or not.
    Window,
    /// The source lists the records of one patient after the other, whether they changed or not.
    Roster,
    /// Each record of a list is read by itself.
    Read,
}

impl Strategy {
    /// The word that configurations, tables and metrics use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::History => "history",
            Self::LastUpdated => "last-updated",
            Self::Window => "window",
            Self::Roster => "roster",
            Self::Read => "read",
        }
    }
}

/// How finely a source's own bounds cut what changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    /// To fractions of a second.
    Fraction,
    /// To whole seconds.
    Second,
    /// To whole days.
    Day,
    /// Not at all: every poll shows everything, and the ledger tells what is new.
    Unbounded,
}

impl Granularity {
    /// In words, for a table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fraction => "below a second",
            Self::Second => "second",
            Self::Day => "day",
            Self::Unbounded => "none",
        }
    }
}

/// When deletes become known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteSight {
    /// The source lists them.
    Listed,
    /// A record that a complete listing no longer shows is read by itself, and is gone.
    OnDisappearance,
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
            Self::OnDisappearance => "when they disappear",
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
    /// How finely its bounds cut.
    pub granularity: Granularity,
    /// In which order the source shows versions.
    pub order: PageOrder,
    /// When deletes become known.
    pub deletes: DeleteSight,
    /// What stays unseen, one sentence each; empty for nothing known.
    pub blind_spots: Vec<&'static str>,
}
