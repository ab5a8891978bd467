//! The in-process form: two generations of a set bounded in number and age, for one worker.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use courier_sdk::ConnectionName;
use tokio::time::Instant;

use super::{Dedup, REMEMBERED_MAX};
use crate::domain::identity::EventId;

/// How many ids one generation holds: with two generations some 60 MB at the most.
const GENERATION_IDS_MAX: usize = 200_000;

/// Remembers between one and two generations of the ids marked last.
#[derive(Debug, Default)]
pub struct MemoryDedup {
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: BTreeSet<(ConnectionName, EventId)>,
    old: BTreeSet<(ConnectionName, EventId)>,
    /// When the young generation began; absent while nothing was ever marked.
    since: Option<Instant>,
}

impl Generations {
    /// Begins a new generation when the young one is full or half as old as an id may become.
    fn turn(&mut self, now: Instant) {
        let half = REMEMBERED_MAX / 2;
        let since = self.since.unwrap_or(now);
        let age = now.duration_since(since);
        self.since = Some(if age >= REMEMBERED_MAX {
            self.young.clear();
            self.old.clear();
            now
        } else if age >= half {
            self.old = std::mem::take(&mut self.young);
            since + half
        } else if self.young.len() >= GENERATION_IDS_MAX {
            self.old = std::mem::take(&mut self.young);
            now
        } else {
            since
        });
    }
}

#[async_trait]
impl Dedup for MemoryDedup {
    async fn seen(&self, connection: &ConnectionName, ids: &[EventId]) -> Vec<bool> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.turn(Instant::now());
        let known = |id: &EventId| {
            let entry = (connection.clone(), id.clone());
            generations.young.contains(&entry) || generations.old.contains(&entry)
        };
        ids.iter().map(known).collect()
    }

    async fn mark(&self, connection: &ConnectionName, ids: &[EventId]) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        for id in ids {
            generations.turn(now);
            generations.young.insert((connection.clone(), id.clone()));
        }
    }

    async fn forget(&self, connection: &ConnectionName, ids: &[EventId]) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            let entry = (connection.clone(), id.clone());
            generations.young.remove(&entry);
            generations.old.remove(&entry);
        }
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}

#[cfg(test)]
mod tests {
    use courier_sdk::{RecordId, RecordKey, RecordType};

    use super::*;
    use crate::domain::identity::VersionKey;

    fn ids(connection: &ConnectionName, range: std::ops::Range<usize>) -> Vec<EventId> {
        let key = RecordKey {
            record_type: RecordType::parse("Patient").unwrap(),
            id: RecordId::parse("1").unwrap(),
        };
        range
            .map(|n| EventId::derive(connection, &key, &VersionKey::of_version_id(&n.to_string())))
            .collect()
    }

    #[tokio::test]
    async fn it_knows_what_was_marked_for_that_connection_only_and_stays_bounded() {
        let (dedup, a, b) = (MemoryDedup::default(), "a", "b");
        let (a, b) = (
            ConnectionName::parse(a).unwrap(),
            ConnectionName::parse(b).unwrap(),
        );
        let all = ids(&a, 0..GENERATION_IDS_MAX * 2 + 10);
        dedup.mark(&a, &all).await;
        assert_eq!(dedup.seen(&a, &all[all.len() - 2..]).await, [true, true]);
        assert_eq!(dedup.seen(&b, &all[all.len() - 1..]).await, [false]);
        assert_eq!(
            dedup.seen(&a, &all[..1]).await,
            [false],
            "the oldest was forgotten"
        );
    }
    #[tokio::test(start_paused = true)]
    async fn what_is_shown_on_and_on_comes_through_to_the_store_once_a_day() {
        let dedup = MemoryDedup::default();
        let connection = ConnectionName::parse("a").unwrap();
        let id = ids(&connection, 0..1);
        dedup.mark(&connection, &id).await;
        let hour = std::time::Duration::from_hours(1);
        let mut hours = 0;
        while dedup.seen(&connection, &id).await == [true] {
            tokio::time::advance(hour).await;
            hours += 1;
        }
        assert!((12..=24).contains(&hours), "forgotten after {hours} hours");
        dedup.mark(&connection, &id).await;
        tokio::time::advance(hour * 11).await;
        assert_eq!(dedup.seen(&connection, &id).await, [true]);
        tokio::time::advance(hour * 48).await;
        assert_eq!(dedup.seen(&connection, &id).await, [false]);
    }
}
