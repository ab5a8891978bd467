//! The shared form: accepted ids in Redis, for all workers of one store and across their restarts.
//!
//! A page costs one round trip before it is handed over and one after the commit. Keys carry the store's epoch, so that
//! nothing is known to a store that did not commit it (a new file, a recovered backup, another courier on the same
//! Redis), and the connection as hash tag, so that a cluster keeps its ids together. Each call has a deadline, and a
//! breaker keeps pages from waiting for a Redis that is away. Whatever fails costs look-ups in the store, nothing else:
//! Redis may be flushed, stopped, full or evicting at any time.

mod breaker;
mod link;

use std::sync::{Mutex, MutexGuard, PoisonError};

use ::redis::{Client, FromRedisValue, Pipeline};
use async_trait::async_trait;
use courier_sdk::ConnectionName;
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;
use tokio::time::Instant;

use self::breaker::{Breaker, Ticket};
use self::link::{CALL_MAX, CONNECT_MAX, Failure, Link};
use super::{Dedup, REMEMBERED_MAX};
use crate::domain::identity::EventId;

/// What keys begin with. The number changes with what a key says, so that old keys are never read in a new sense.
const PREFIX: &str = "ehr-courier:1";

/// The most ids in one command: Redis does one command at a time for all its clients.
const COMMAND_IDS_MAX: usize = 1_000;

/// The address of a Redis that cannot be used. It is not repeated: it may hold a password.
#[derive(Debug, Error)]
#[error("not the address of a redis: {reason}")]
pub struct AddressError {
    reason: String,
}

/// Accepted ids in Redis.
pub struct RedisDedup {
    link: Link,
    namespace: String,
    condition: Mutex<Condition>,
}

/// How Redis fares.
struct Condition {
    breaker: Breaker,
    /// Why the breaker is open.
    away: Option<String>,
    /// What it does not do though it answers, such as taking ids when it is full.
    refused: [Option<String>; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Seen,
    Mark,
    Forget,
}

impl Operation {
    fn label(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Mark => "mark",
            Self::Forget => "forget",
        }
    }
}

impl RedisDedup {
    /// Makes a deduplication for the store of this epoch. Nothing is connected before the first call.
    ///
    /// # Errors
    /// [`AddressError`] for an address that the library cannot use.
    pub fn new(address: &SecretString, epoch: &str) -> Result<Self, AddressError> {
        let client = Client::open(address.expose_secret()).map_err(|error| AddressError {
            reason: error.category().to_owned(),
        })?;
        Ok(Self {
            link: Link::new(client),
            namespace: format!("{PREFIX}:{epoch}"),
            condition: Mutex::new(Condition {
                breaker: Breaker::untried(Instant::now()),
                away: None,
                refused: [None, None, None],
            }),
        })
    }

    fn key(&self, connection: &ConnectionName, id: &EventId) -> String {
        format!("{}:{{{connection}}}:{}", self.namespace, id.as_str())
    }

    /// Asks, if the breaker lets it, and notes how that went.
    async fn ask<T: FromRedisValue>(&self, operation: Operation, commands: &Pipeline) -> Option<T> {
        let admitted = self
            .condition()
            .breaker
            .admit(Instant::now(), CONNECT_MAX + CALL_MAX * 2);
        let Some(ticket) = admitted else {
            count(operation, "skipped");
            return None;
        };
        match self.link.query(commands).await {
            Ok(answer) => {
                count(operation, "ok");
                self.note_answer(ticket, operation);
                Some(answer)
            }
            Err(Failure::Refused(answer)) => {
                count(operation, "refused");
                self.note_refusal(ticket, operation, &answer);
                None
            }
            Err(Failure::Broken(reason)) => {
                count(operation, "failed");
                self.note_failure(ticket, reason);
                None
            }
        }
    }

    fn note_answer(&self, ticket: Ticket, operation: Operation) {
        let mut condition = self.condition();
        if let Some(refused) = condition.refused.get_mut(operation as usize) {
            *refused = None;
        }
        condition.note_back(ticket);
    }

    fn note_refusal(&self, ticket: Ticket, operation: Operation, answer: &str) {
        let mut condition = self.condition();
        condition.note_back(ticket);
        let Some(refused) = condition.refused.get_mut(operation as usize) else {
            return;
        };
        let reason = format!("{} is refused: {answer}", operation.label());
        if refused.is_none() {
            tracing::warn!(reason, "redis refuses; the store decides alone");
        }
        *refused = Some(reason);
    }

    fn note_failure(&self, ticket: Ticket, reason: String) {
        let mut condition = self.condition();
        if !condition.breaker.failed(ticket, Instant::now()) {
            return;
        }
        // An answer that comes too late must not be taken for the next one's.
        self.link.forget();
        metrics::gauge!("courier_dedup_available").set(0.0);
        if condition.away.is_none() {
            tracing::warn!(reason, "redis does not answer; the store decides alone");
        }
        condition.away = Some(reason);
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    fn note_back(&mut self, ticket: Ticket) {
        if self.breaker.succeeded(ticket) {
            metrics::gauge!("courier_dedup_available").set(1.0);
            self.away = None;
            tracing::info!("redis answers");
        }
    }
}

#[async_trait]
impl Dedup for RedisDedup {
    async fn seen(&self, connection: &ConnectionName, ids: &[EventId]) -> Vec<bool> {
        let unknown = vec![false; ids.len()];
        if ids.is_empty() {
            return unknown;
        }
        let mut commands = Pipeline::new();
        for some in ids.chunks(COMMAND_IDS_MAX) {
            commands.cmd("MGET");
            for id in some {
                commands.arg(self.key(connection, id));
            }
        }
        let answers: Option<Vec<Vec<Option<i64>>>> = self.ask(Operation::Seen, &commands).await;
        let seen: Vec<bool> = answers
            .into_iter()
            .flatten()
            .flatten()
            .map(|value| value.is_some())
            .collect();
        // Answers that cannot be told apart answer nothing.
        if seen.len() == ids.len() { seen } else { unknown }
    }

    async fn mark(&self, connection: &ConnectionName, ids: &[EventId]) {
        if ids.is_empty() {
            return;
        }
        let mut commands = Pipeline::new();
        for id in ids {
            let key = self.key(connection, id);
            let set = commands.cmd("SET").arg(key).arg(1);
            set.arg("EX").arg(REMEMBERED_MAX.as_secs()).ignore();
        }
        let _marked: Option<()> = self.ask(Operation::Mark, &commands).await;
    }

    async fn forget(&self, connection: &ConnectionName, ids: &[EventId]) {
        if ids.is_empty() {
            return;
        }
        let mut commands = Pipeline::new();
        for id in ids {
            commands.cmd("DEL").arg(self.key(connection, id)).ignore();
        }
        let _forgotten: Option<()> = self.ask(Operation::Forget, &commands).await;
    }

    fn name(&self) -> &'static str {
        "redis"
    }

    fn trouble(&self) -> Option<String> {
        let condition = self.condition();
        let refused = condition.refused.iter().flatten().next();
        let first = condition.away.as_ref().or(refused);
        first.map(|reason| format!("redis: {reason}"))
    }
}

fn count(operation: Operation, outcome: &'static str) {
    let labels = [("operation", operation.label()), ("outcome", outcome)];
    metrics::counter!("courier_dedup_calls_total", &labels).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_carry_the_epoch_and_the_connection_as_hash_tag() {
        let address = SecretString::from("redis://:hunter2@127.0.0.1:1/3");
        let dedup = RedisDedup::new(&address, "0badcafe").unwrap();
        let connection = ConnectionName::parse("mercy").unwrap();
        let id = EventId::parse("ev_n7dupfsfpcb42hcyuzd7b5e3c3uobn6i").unwrap();
        assert_eq!(
            dedup.key(&connection, &id),
            "ehr-courier:1:0badcafe:{mercy}:ev_n7dupfsfpcb42hcyuzd7b5e3c3uobn6i"
        );
    }

    #[test]
    fn an_address_that_cannot_be_used_is_not_repeated() {
        for text in ["redis://:hunter2@", "http://:hunter2@redis.example", "hunter2"] {
            let error = RedisDedup::new(&SecretString::from(text), "e").err().unwrap();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }
}
