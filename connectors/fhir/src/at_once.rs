//! How many of a record type one request may ask for: what the profile says, or fewer for a while where the server
//! turned out to take no more. What it remembers only spares requests.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use courier_sdk::RecordType;
use jiff::Timestamp;

/// How long a server that does not take such requests, or only smaller ones, is taken at its word.
const REMEMBERED: Duration = Duration::from_hours(1);

/// The record types of which fewer are asked for, and until when.
#[derive(Debug, Default)]
pub(crate) struct AtOnce(Mutex<BTreeMap<RecordType, (usize, Timestamp)>>);

impl AtOnce {
    /// How many of a type to ask for, of at most so many.
    pub(crate) fn of(&self, record_type: &RecordType, most: usize, now: Timestamp) -> usize {
        let fewer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match fewer.get(record_type) {
            Some((fewer, until)) if now < *until => most.min(*fewer),
            Some(_) | None => most,
        }
    }

    /// Notes that no more than so many of a type should be asked for at once for a while.
    pub(crate) fn remember(&self, record_type: &RecordType, most: usize, now: Timestamp) {
        let until = now.saturating_add(REMEMBERED).unwrap_or(Timestamp::MAX);
        let mut fewer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fewer.insert(record_type.clone(), (most.max(1), until));
    }
}
