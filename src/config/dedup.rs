//! The section `[dedup]`: which Redis stands in front of the store, if any.
//!
//! Its address may hold a password, and such a one stands in a variable or a file. The address guard does not judge it:
//! like the store it is the operator's own, not named by a source or a receiver.

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::environment::Overrides;
use super::problem::Origin;
use super::raw::RawDedup;
use super::resolve::{Context, scalar};
use super::value::{self, Refusal, refusal};
use super::{Dedup, Secrets};

const KEY: &str = "dedup.url";

const HELP: &str = "write url = \"redis://redis.example:6379/0\", or \"rediss://…\" for TLS";

/// Reads the section; without one a cache of the process does.
pub(super) fn resolve(
    raw: Option<&RawDedup>,
    overrides: &Overrides,
    context: &mut Context<'_>,
) -> Option<Dedup> {
    let Some((text, origin)) = scalar(KEY, raw.and_then(|raw| raw.url.as_ref()), overrides) else {
        return match raw {
            None => Some(Dedup::InProcess),
            Some(_) => context.missing(Origin::File, KEY, HELP),
        };
    };
    let read = read(text, &origin, context);
    let address = context.accept(read, origin, KEY)?;
    Some(Dedup::Redis { address })
}

fn read(text: &str, origin: &Origin, context: &Context<'_>) -> Result<SecretString, Refusal> {
    if value::secret_reference(text).is_err() {
        return address(text, matches!(origin, Origin::Variable(_))).map(|()| SecretString::from(text));
    }
    if context.surroundings.secrets != Secrets::Required {
        return Ok(SecretString::default());
    }
    let secret = value::secret(text, context.folder, context.surroundings.environment)?;
    address(secret.expose_secret(), true).map(|()| secret)
}

/// Checks an address. What is wrong is said without repeating it.
fn address(text: &str, may_hold_a_password: bool) -> Result<(), Refusal> {
    let Ok(url) = Url::parse(text) else {
        return Err(refusal("not the address of a Redis", HELP));
    };
    match url.scheme() {
        "redis" | "rediss" => {}
        "redis-cluster" | "rediss-cluster" => {
            return Err(refusal("a Redis cluster is not built yet", HELP));
        }
        _ => return Err(refusal("neither redis nor rediss", HELP)),
    }
    if url.password().is_some() && !may_hold_a_password {
        return Err(refusal(
            "a password must not stand in the configuration",
            "write url = \"env:NAME\" or \"file:PATH\" and keep the whole address there",
        ));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refusal("the address names no host", HELP));
    }
    let database = url.path().trim_start_matches('/');
    if !database.is_empty() && database.parse::<u16>().is_err() {
        return Err(refusal(
            "what follows the host is not the number of a database",
            HELP,
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refusal(
            "options are not taken here",
            "remove the `?` or `#` and what follows",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_host_and_at_most_a_database() {
        for good in [
            "redis://redis.example",
            "redis://127.0.0.1:6379/2",
            "rediss://courier@redis.example/",
            "redis://[::1]:6379",
        ] {
            assert!(address(good, false).is_ok(), "{good}");
        }
        for bad in [
            "",
            "redis.example:6379",
            "redis://",
            "redis://:hunter2@redis.example",
            "redis-cluster://redis.example",
            "unix:///run/redis.sock",
            "redis://redis.example/first",
            "rediss://redis.example/#insecure",
            "redis://redis.example/?protocol=resp3",
        ] {
            assert!(address(bad, false).is_err(), "{bad}");
        }
        assert!(address("redis://:hunter2@redis.example", true).is_ok());
    }
}
