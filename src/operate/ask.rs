//! What can be asked. Names come as they were written: whoever answers parses them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One thing asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Events, newest first.
    Events(EventFilter),
    /// One event with its deliveries.
    Event {
        /// Its id.
        id: String,
        /// Whether the record itself is wanted, which is patient data.
        body: bool,
    },
    /// An event's settled deliveries, owed again.
    Replay {
        /// The event's id.
        id: String,
        /// Only to this subscription.
        subscription: Option<String>,
    },
    /// Dead letters, oldest first.
    DeadLetters(DeadLetterFilter),
    /// Dead letters, owed again.
    Redrive(DeadLetterFilter),
    /// Changes in quarantine.
    Quarantine {
        /// The most rows.
        limit: usize,
    },
    /// A connection's quarantined changes, put back.
    RedriveQuarantine {
        /// The connection.
        connection: String,
    },
    /// How far each feed has been handed over.
    Cursors,
    /// A cursor, moved.
    SetCursor(SetCursor),
    /// The subscriptions in force.
    Subscriptions,
    /// A subscription, paused or resumed.
    SetFlow {
        /// The subscription.
        subscription: String,
        /// Which of both.
        flow: FlowWord,
    },
    /// One sample notification, sent.
    TestDestination {
        /// Where to.
        destination: String,
    },
    /// What operators changed, newest first.
    Audit {
        /// The most rows.
        limit: usize,
    },
}

impl Ask {
    /// Whether the store is only looked at.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        match self {
            Self::Events(_)
            | Self::Event { .. }
            | Self::DeadLetters(_)
            | Self::Quarantine { .. }
            | Self::Cursors
            | Self::Subscriptions
            | Self::TestDestination { .. }
            | Self::Audit { .. } => true,
            Self::Replay { .. }
            | Self::Redrive(_)
            | Self::RedriveQuarantine { .. }
            | Self::SetCursor(_)
            | Self::SetFlow { .. } => false,
        }
    }
}

/// Which events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFilter {
    /// Only this connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// Only this record (`Appointment/17`) or type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    /// Only events recorded from this instant on, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The most rows, from 1 to 1,000,000.
    #[serde(default = "fifty")]
    pub limit: usize,
}

/// Which dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterFilter {
    /// Only this delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<u64>,
    /// Only this destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Only this subscription.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// The most rows; 0 for all.
    #[serde(default)]
    pub limit: usize,
}

/// Where a cursor shall move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetCursor {
    /// The connection.
    pub connection: String,
    /// The feed.
    pub feed: String,
    /// Where to.
    pub target: Target,
    /// What happens when that skips changes.
    pub skip: Skip,
}

/// Where to, by the source's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To this instant, RFC 3339.
    To(String),
    /// Back by so long from where it stands.
    Back(Duration),
}

/// What happens when a move skips what was not seen yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It is refused.
    Refuse,
    /// It is meant.
    Meant,
}

/// Whether a subscription shall flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowWord {
    /// It is attempted.
    Flowing,
    /// It waits, and is numbered on.
    Paused,
}

fn fifty() -> usize {
    50
}
