//! The in-process form: two generations of a bounded set, for one worker.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use courier_sdk::ConnectionName;

use super::Dedup;
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
}

#[async_trait]
impl Dedup for MemoryDedup {
    async fn seen(&self, connection: &ConnectionName, ids: &[EventId]) -> Vec<bool> {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |id: &EventId| {
            let entry = (connection.clone(), id.clone());
            generations.young.contains(&entry) || generations.old.contains(&entry)
        };
        ids.iter().map(known).collect()
    }

    async fn mark(&self, connection: &ConnectionName, ids: &[EventId]) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            if generations.young.len() >= GENERATION_IDS_MAX {
                generations.old = std::mem::take(&mut generations.young);
            }
            generations.young.insert((connection.clone(), id.clone()));
        }
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
}
