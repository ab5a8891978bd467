//! The `[state]` section: the database, how long it keeps what, and the key that protects it.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use super::environment::Overrides;
use super::problem::Origin;
use super::raw::{RawState, Texts};
use super::resolve::{Context, scalar};
use super::value::{self, Refusal, refusal};
use super::{Audit, Key, State};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const RETENTION_DEFAULT: Duration = Duration::from_hours(7 * 24);
/// AES-256 takes a key of this size, in bytes.
const KEY_BYTES: usize = 32;
/// Each key is tried for nothing but what it sealed; more than a few are a mistake.
const PREVIOUS_KEYS_MAX: usize = 8;

pub(super) fn resolve(raw: &RawState, overrides: &Overrides, context: &mut Context<'_>) -> Option<State> {
    let help = "write url = \"sqlite://courier.db\" below [state]";
    let database = match scalar("state.url", raw.url.as_ref(), overrides) {
        Some((text, origin)) => {
            let database = database(text, context);
            context.accept(database, origin, "state.url")
        }
        None => context.missing(Origin::File, "state.url", help),
    };
    let retention = match scalar("state.retention", raw.retention.as_ref(), overrides) {
        Some((text, origin)) => {
            let retention = value::duration(text, &(HOUR..=DAY * 3_650), "1h and 3650d");
            context.accept(retention, origin, "state.retention")
        }
        None => Some(RETENTION_DEFAULT),
    };
    let key = key(raw, overrides, context);
    Some(State {
        database: database?,
        retention: retention?,
        key: key?,
    })
}

fn database(text: &str, context: &Context<'_>) -> Result<PathBuf, Refusal> {
    let help = "write \"sqlite://courier.db\" (beside this file) or \"sqlite:///var/lib/courier/courier.db\"";
    let Some(path) = text.strip_prefix("sqlite://") else {
        let postgres = text.starts_with("postgres://") || text.starts_with("postgresql://");
        return Err(refusal(
            if postgres {
                "PostgreSQL is not built yet"
            } else {
                "not a store"
            },
            help,
        ));
    };
    let odd = path.is_empty() || path.ends_with('/') || path.contains(['?', '#', '%', ':', '\0']);
    if odd {
        return Err(refusal(
            "not the path of a file; options are not taken here",
            help,
        ));
    }
    Ok(context.folder.join(path))
}

fn key(raw: &RawState, overrides: &Overrides, context: &mut Context<'_>) -> Option<Key> {
    let help = "write key = \"file:PATH\" or \"env:NAME\" below [state], or \"none\": you accept that bodies are \
                kept in plain text";
    let previous = previous(raw.previous_keys.as_ref(), context);
    let Some((text, origin)) = scalar("state.key", raw.key.as_ref(), overrides) else {
        return context.missing(Origin::File, "state.key", help);
    };
    if text == "none" {
        if raw.previous_keys.is_some() {
            let help = "write the key that seals from now on, or remove `previous_keys`";
            return context.accept(
                Err(refusal("previous keys without a key", help)),
                origin,
                "state.key",
            );
        }
        context.audits.push(Audit::PlainTextState);
        return Some(Key::PlainText);
    }
    if !(text.starts_with("file:") || text.starts_with("env:")) {
        return context.accept(
            Err(refusal("a key must not stand here", help)),
            origin,
            "state.key",
        );
    }
    if !context.reads("state.key") {
        return Some(Key::Unread);
    }
    let key = read(text, context);
    Some(Key::Encrypted {
        key: context.accept(key, origin, "state.key")?,
        previous: previous?,
    })
}

fn previous(texts: Option<&Texts>, context: &mut Context<'_>) -> Option<Vec<SecretSlice<u8>>> {
    let path = "state.previous_keys";
    let Some(texts) = texts else {
        return Some(Vec::new());
    };
    if texts.get_ref().len() > PREVIOUS_KEYS_MAX {
        let refused = refusal(
            format!("more than {PREVIOUS_KEYS_MAX} keys"),
            "keep those that sealed what is still retained",
        );
        return context.accept(Err(refused), texts, path);
    }
    let mut keys = Vec::new();
    for text in texts.get_ref() {
        let key = if context.reads(path) {
            read(text.get_ref(), context)
        } else {
            value::secret_reference(text.get_ref()).map(|()| SecretSlice::default())
        };
        keys.push(context.accept(key, text, path));
    }
    keys.into_iter().collect()
}

fn read(text: &str, context: &Context<'_>) -> Result<SecretSlice<u8>, Refusal> {
    let found = value::secret(text, context.folder, context.surroundings.environment)?;
    bytes(&found)
}

/// 32 bytes in base64. A pass phrase is none: it would be guessed.
fn bytes(text: &SecretString) -> Result<SecretSlice<u8>, Refusal> {
    let help = "make one with: openssl rand -base64 32 > courier.key";
    match STANDARD.decode(text.expose_secret().trim()) {
        Ok(bytes) if bytes.len() != KEY_BYTES => Err(refusal(
            format!("the key has {} bytes, not {KEY_BYTES}", bytes.len()),
            help,
        )),
        Ok(bytes) if bytes.iter().all(|byte| Some(byte) == bytes.first()) => {
            Err(refusal("the key is one byte over and over", help))
        }
        Ok(bytes) => Ok(SecretSlice::from(bytes)),
        Err(_) => Err(refusal("the key is not base64", help)),
    }
}
