//! What the courier left in Redis: nothing that it had not committed.

use std::collections::BTreeSet;
use std::path::Path;

use redis::Connection;

#[expect(
    clippy::disallowed_methods,
    reason = "which Redis to test with is said by the environment"
)]
pub(crate) fn address() -> String {
    std::env::var("COURIER_TEST_REDIS_URL").expect(
        "COURIER_TEST_REDIS_URL names no Redis: run tests/run, or tests/services cargo test --test crash",
    )
}

/// The event ids that Redis remembers for the store in this file; they are taken out.
pub(crate) fn remembered(database: &Path) -> BTreeSet<String> {
    let file = rusqlite::Connection::open(database).unwrap();
    let epoch: String = file
        .query_row("SELECT epoch FROM store", [], |row| row.get(0))
        .unwrap();
    let mut connection = redis::Client::open(address()).unwrap().get_connection().unwrap();
    let keys = keys(&mut connection, &format!("ehr-courier:1:{epoch}:*"));
    for some in keys.chunks(1_000) {
        let () = redis::cmd("DEL").arg(some).query(&mut connection).unwrap();
    }
    keys.iter()
        .map(|key| key.rsplit(':').next().unwrap().to_owned())
        .collect()
}

fn keys(connection: &mut Connection, pattern: &str) -> Vec<String> {
    let mut keys = BTreeSet::new();
    let mut cursor = 0_u64;
    loop {
        let (next, some): (u64, Vec<String>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(pattern)
            .arg("COUNT")
            .arg(1_000)
            .query(connection)
            .unwrap();
        keys.extend(some);
        cursor = next;
        if cursor == 0 {
            return keys.into_iter().collect();
        }
    }
}
