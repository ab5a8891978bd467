//! Which records a feed looks at, for the ways of finding changes that list records instead of asking what changed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::id::RecordId;

/// Which records a feed looks at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// What its polls are for.
    pub aim: Aim,
    /// The stretch of dates that [`Detect::Window`](crate::Detect::Window) lists.
    pub window: DateWindow,
    /// The patients whose records [`Detect::Roster`](crate::Detect::Roster) lists.
    pub roster: Roster,
    /// The records that [`Detect::Read`](crate::Detect::Read) reads.
    pub ids: Ids,
}

/// What a feed's polls are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Aim {
    /// To find what changed since the last one.
    #[default]
    Changes,
    /// The same, but without a cursor it begins at the source's present, wherever the feed starts: what lies before is
    /// told by a backfill beside it. Nothing that the first answer shows and a later one may leave out is silent.
    Present,
    /// To show the current version of every record that changed last between the feed's start and this instant by the
    /// source's clock: a backfill. A poll may end earlier, with a cursor that says how far it came; what it shows of
    /// after the instant is left to the feed beside it.
    Past {
        /// Up to and including this instant; where it does not lie after the cursor, nothing is left.
        until: Timestamp,
    },
    /// To list every record with its version, so that what all other polls missed is found: a reconcile sweep.
    Everything,
}

/// A stretch of dates around today. What is absent is the profile's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DateWindow {
    /// The search parameter that holds the date.
    pub parameter: Option<String>,
    /// How far back it reaches, in whole days.
    pub past: Option<Duration>,
    /// How far ahead it reaches, in whole days.
    pub future: Option<Duration>,
}

/// Whose records are listed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Roster {
    /// Nobody named any.
    #[default]
    None,
    /// These patients'.
    Patients(Ids),
    /// Those of the members of one of the source's groups, as it stands at the beginning of each poll.
    Group(RecordId),
}

/// Record ids, shared. `Debug` counts them only.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Ids(pub Arc<[RecordId]>);

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ids({})", self.0.len())
    }
}
