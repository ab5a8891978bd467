//! Which keys a file was sealed with: a wrong one is noticed when the file is opened, not at the first record.

use rusqlite::{Connection, OptionalExtension, params};
use tracing::{info, warn};

use super::rows::{Failure, damaged};
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

/// Makes sure that a file may be read and written with these keys, and notes a new one in it.
///
/// # Errors
/// [`StoreError::WrongKey`] when it may not.
pub(super) fn admit(db: &Connection, seals: &Seals) -> Result<(), Failure> {
    let Admission::New { before } = judge(db, seals)? else {
        return Ok(());
    };
    let Some(id) = seals.key_id() else {
        return Ok(());
    };
    let proof = seals.seal(PROOF, PROOF_PLACE)?;
    db.prepare_cached(
        "INSERT OR REPLACE INTO seal_key (turn, id, proof)
         VALUES ((SELECT coalesce(max(turn), 0) + 1 FROM seal_key), ?1, ?2)",
    )?
    .execute(params![id.bytes(), proof])?;
    match before {
        Some(before) => {
            info!(key = %id, %before, "the store moves on to another key; keep the one before until its rows are swept");
        }
        None if holds_records(db)? => {
            warn!(
                key = %id,
                "the store was plain text: what is written from now on is encrypted, what was written before stays \
                 readable until it is swept"
            );
        }
        None => {}
    }
    Ok(())
}

/// Makes sure that a file may be read with these keys; writes nothing.
///
/// # Errors
/// [`StoreError::WrongKey`] when it may not.
pub(super) fn check(db: &Connection, seals: &Seals) -> Result<(), Failure> {
    judge(db, seals).map(drop)
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
