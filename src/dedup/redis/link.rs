//! The connection to Redis: made at the first call, shared by all, thrown away when it fails.
//!
//! The library's own reconnecting connection is not used: its calls wait through its attempts, however long these
//! take. Here each wait has a deadline, and whoever is refused by the breaker does not wait at all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError};
use tokio::time::timeout;

/// How long connecting may take, TLS and authentication included.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(2);

/// How long an answer may take: some fifty times what a Redis nearby needs for a thousand ids. A page waits no longer.
pub(super) const CALL_MAX: Duration = Duration::from_millis(500);

/// Why there is no answer. `Display` holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection is of no use any more, or there is none.
    Broken(String),
    /// Redis answered that it will not.
    Refused(String),
}

/// One connection for all callers.
pub(super) struct Link {
    client: Client,
    connection: Mutex<Option<MultiplexedConnection>>,
    memory_was_checked: AtomicBool,
}

impl Link {
    /// Connects to nothing yet.
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            connection: Mutex::new(None),
            memory_was_checked: AtomicBool::new(false),
        }
    }

    /// Sends commands in one round trip and returns their answers.
    ///
    /// **Cancel safety.** Redis may carry the commands out although nobody waits for the answer.
    pub(super) async fn query<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, Failure> {
        let mut connection = self.connection().await?;
        match timeout(CALL_MAX, commands.query_async(&mut connection)).await {
            Ok(answer) => answer.map_err(|error| explained(&error)),
            Err(_elapsed) => Err(Failure::Broken(format!(
                "no answer within {} ms",
                CALL_MAX.as_millis()
            ))),
        }
    }

    /// Makes the next call connect anew.
    pub(super) fn forget(&self) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Failure> {
        let made = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(connection) = made {
            return Ok(connection);
        }
        // The deadlines are ours: see below and `query`.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = match timeout(CONNECT_MAX, connecting).await {
            Ok(connected) => connected.map_err(|error| broken(&error))?,
            Err(_elapsed) => {
                return Err(Failure::Broken(format!(
                    "no connection within {} s",
                    CONNECT_MAX.as_secs()
                )));
            }
        };
        self.check_memory(&mut connection).await;
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        Ok(connection)
    }

    /// Warns once of a Redis that would fill up. One that does not tell is taken as it is.
    async fn check_memory(&self, connection: &mut MultiplexedConnection) {
        if self.memory_was_checked.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut info = ::redis::cmd("INFO");
        let asking = info.arg("memory").query_async::<String>(connection);
        if let Ok(Ok(text)) = timeout(CALL_MAX, asking).await
            && let Some(reason) = unbounded(&text)
        {
            tracing::warn!(
                reason,
                "redis may run out of memory: set maxmemory and an evicting policy"
            );
        }
    }
}

/// Why memory is not bounded by evicting, as `INFO memory` tells it.
fn unbounded(info: &str) -> Option<&'static str> {
    let value = |name: &str| {
        let mut lines = info.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    if value("maxmemory") == Some("0") {
        Some("maxmemory is 0: there is no limit")
    } else if value("maxmemory_policy") == Some("noeviction") {
        Some("maxmemory-policy is noeviction: a full redis takes no more ids")
    } else {
        None
    }
}

/// What the server answered, or that the connection is gone.
fn explained(error: &RedisError) -> Failure {
    let answers = error.clone().into_server_errors();
    match answers.as_deref().and_then(<[_]>::first) {
        Some((_, answer)) => Failure::Refused(known_code(answer.code()).to_owned()),
        None => broken(error),
    }
}

/// The kind of error only: its text could repeat what was sent.
fn broken(error: &RedisError) -> Failure {
    let detail = if error.is_timeout() {
        "timed out"
    } else if error.is_connection_refusal() {
        "connection refused"
    } else {
        error.code().map_or_else(|| error.category(), known_code)
    };
    Failure::Broken(detail.to_owned())
}

/// A code as Redis spells its own: one word in capitals. Anything else is a text that could repeat what was sent.
fn known_code(code: &str) -> &str {
    let is_word = (1..=32).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    if is_word { code } else { "an error of its own" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_is_no_word_of_redis_is_not_repeated() {
        for code in ["WRONGPASS", "OOM", "MASTERDOWN", "NOAUTH"] {
            assert_eq!(known_code(code), code);
        }
        for text in ["", "hunter2", "HUNTER2", "A B", &"A".repeat(33)] {
            assert_eq!(known_code(text), "an error of its own");
        }
    }

    #[test]
    fn a_redis_that_never_evicts_is_noticed() {
        let info = |limit: u64, policy: &str| {
            format!(
                "# Memory\r\nused_memory:1024\r\nmaxmemory:{limit}\r\nmaxmemory_human:1M\r\nmaxmemory_policy:{policy}\r\n"
            )
        };
        assert!(
            unbounded(&info(0, "allkeys-lru"))
                .unwrap()
                .contains("maxmemory is 0")
        );
        assert!(
            unbounded(&info(1 << 20, "noeviction"))
                .unwrap()
                .contains("noeviction")
        );
        for evicting in ["allkeys-lru", "allkeys-random", "volatile-ttl"] {
            assert_eq!(unbounded(&info(1 << 20, evicting)), None);
        }
        assert_eq!(unbounded(""), None, "a server that does not tell");
    }
}
