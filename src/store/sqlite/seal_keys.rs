//! Which keys a file was sealed with: a wrong one is noticed when the file is opened, not at the first record.

use rusqlite::{OptionalExtension, params};
use tracing::{info, warn};

use super::connection::Connection;
use super::feed;
use super::rows::{Failure, damaged, stored};
use crate::store::StoreError;
use crate::wire::sealed::{KeyId, Place, Seals};

/// The text that each key seals once.
const PROOF: &[u8] = b"ehr-courier";
const PROOF_PLACE: Place<'static> = Place::new("proof", &[]);

/// What a file and the configured key come to.
enum Admission {
    /// The file's last key, or plain text on both sides.
    Known,
    /// A key that seals from now on.
    New {
        /// Whether the file is sealed with another one so far.
        before: Option<KeyId>,
    },
}

/// Whether a table of records holds anything that begins with a head (`?1`, its length is `?2`). Read oldest first: what a
/// key of old sealed is found at once.
const SEALED: [&str; 4] = [
    "SELECT EXISTS (SELECT 1 FROM event WHERE substr(body, 1, ?2) = ?1 OR substr(context, 1, ?2) = ?1)",
    "SELECT EXISTS (SELECT 1 FROM inbox WHERE substr(body, 1, ?2) = ?1)",
    "SELECT EXISTS (SELECT 1 FROM quarantine WHERE substr(body, 1, ?2) = ?1)",
    "SELECT EXISTS (SELECT 1 FROM stage WHERE substr(body, 1, ?2) = ?1)",
];

/// Makes sure that a file may be read and written with these keys, and notes a new one in it. Cursors and links, which
/// no sweep takes, are sealed anew with it.
///
/// # Errors
/// [`StoreError::WrongKey`] when it may not.
pub(super) fn admit(db: &Connection) -> Result<(), Failure> {
    let seals = db.seals();
    let admission = judge(db, seals)?;
    let Some(id) = seals.key_id() else {
        return Ok(());
    };
    let transaction = db.unchecked_transaction()?;
    if let Admission::New { .. } = admission {
        let proof = seals.seal(PROOF, PROOF_PLACE)?;
        db.prepare_cached(
            "INSERT OR REPLACE INTO seal_key (turn, id, proof)
             VALUES ((SELECT coalesce(max(turn), 0) + 1 FROM seal_key), ?1, ?2)",
        )?
        .execute(params![id.bytes(), proof])?;
    }
    forget_retired(db, seals)?;
    if feed::is_sealed_otherwise(db, &Seals::head(id))? {
        feed::reseal(db)?;
    }
    transaction.commit()?;
    match admission {
        Admission::New { before: Some(before) } => {
            info!(key = %id, %before, "the store moves on to another key; keep the one before until its rows are swept");
        }
        Admission::New { before: None } if holds_records(db)? => {
            warn!(
                key = %id,
                "the store was plain text: what is written from now on is encrypted, what was written before stays \
                 readable until it is swept"
            );
        }
        Admission::New { before: None } | Admission::Known => {}
    }
    Ok(())
}

/// Forgets the keys that are configured no longer: once, by a look at all that is sealed.
///
/// # Errors
/// [`StoreError::WrongKey`] when one of them sealed something that is still there.
fn forget_retired(db: &Connection, seals: &Seals) -> Result<(), Failure> {
    let mut select = db.prepare_cached("SELECT id FROM seal_key ORDER BY turn")?;
    let noted: Vec<Vec<u8>> = select
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in noted {
        let key = KeyId::from_bytes(&id).ok_or_else(|| damaged("key id"))?;
        if seals.knows(key) {
            continue;
        }
        info!(%key, "looking for what a key sealed that is configured no longer");
        if is_in_use(db, &Seals::head(key))? {
            return Err(wrong(format!(
                "the store still holds what key {key} sealed: write that key in `state.previous_keys` until its rows \
                 are swept, and its dead letters and quarantined changes redriven"
            )));
        }
        db.execute("DELETE FROM seal_key WHERE id = ?1", [id])?;
        info!(%key, "nothing is left that this key sealed");
    }
    Ok(())
}

/// Whether anything in the file begins with this head.
fn is_in_use(db: &Connection, head: &[u8]) -> Result<bool, Failure> {
    let length = stored(head.len() as u64);
    for sql in SEALED {
        if db.query_row(sql, params![head, length], |row| row.get(0))? {
            return Ok(true);
        }
    }
    feed::is_sealed_with(db, head)
}

/// Makes sure that a file may be read with these keys; writes nothing.
///
/// # Errors
/// [`StoreError::WrongKey`] when it may not.
pub(super) fn check(db: &Connection) -> Result<(), Failure> {
    judge(db, db.seals()).map(drop)
}

fn judge(db: &Connection, seals: &Seals) -> Result<Admission, Failure> {
    let mut select = db.prepare_cached("SELECT id, proof FROM seal_key ORDER BY turn DESC LIMIT 1")?;
    let last: Option<(Vec<u8>, Vec<u8>)> = select
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((id, proof)) = last else {
        return Ok(match seals.key_id() {
            Some(_) => Admission::New { before: None },
            None => Admission::Known,
        });
    };
    let last = KeyId::from_bytes(&id).ok_or_else(|| damaged("key id"))?;
    let Some(current) = seals.key_id() else {
        return Err(wrong(format!(
            "the store is encrypted with key {last}, and the configuration says `none`: write that key as `state.key`"
        )));
    };
    if !seals.knows(last) {
        return Err(wrong(format!(
            "the store is encrypted with key {last}, `state.key` names key {current}: write the former as `state.key`, \
             or, to go on with the new one, in `state.previous_keys`"
        )));
    }
    if seals.open(&proof, PROOF_PLACE)? != PROOF {
        return Err(damaged("proof of a key"));
    }
    Ok(if current == last {
        Admission::Known
    } else {
        Admission::New { before: Some(last) }
    })
}

fn holds_records(db: &Connection) -> Result<bool, Failure> {
    let sql = "SELECT EXISTS (SELECT 1 FROM feed) OR EXISTS (SELECT 1 FROM event)";
    Ok(db.query_row(sql, [], |row| row.get(0))?)
}

fn wrong(reason: String) -> Failure {
    Failure::Answer(StoreError::WrongKey { reason })
}
