//! From what a connection's configuration says of credentials to what its requests show.

use std::sync::Arc;

use async_trait::async_trait;
use courier_auth::{Client, ClientKey, Endpoint, Grant, PublicKey, Settings, Tokens};
use courier_sdk::{Clock, ConnectorError, Credentials, Fixed, Http, Renewal};
use http::{HeaderMap, HeaderName};
use secrecy::ExposeSecret as _;

use super::AppError;
use super::kept::KeptToken;
use crate::config::{self, Auth, Config, NamedKey, OAuth, Proof};

/// Makes a connection's credentials. Tokens are asked for through its own client, so under its own address rules.
///
/// # Errors
/// What is wrong with a key or a value, in words, without showing it.
pub(super) fn of(
    entry: &config::Connection,
    http: Arc<dyn Http>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Credentials>, String> {
    let fixed = match &entry.auth {
        Auth::None => Ok(Fixed::none()),
        Auth::Basic { user, password } => courier_auth::basic(user, password),
        Auth::Bearer { token } => courier_auth::bearer(token),
        Auth::ApiKey { header, value } => {
            let name = HeaderName::from_bytes(header.as_bytes()).map_err(|error| error.to_string())?;
            Fixed::header(name, value.expose_secret())
        }
        Auth::OAuth(oauth) => return Ok(Arc::new(tokens(entry, oauth, http, clock)?)),
        Auth::Unread => return Ok(Arc::new(Unread)),
    };
    fixed
        .map(|fixed| -> Arc<dyn Credentials> { Arc::new(fixed) })
        .map_err(|error| error.to_string())
}

fn tokens(
    entry: &config::Connection,
    oauth: &OAuth,
    http: Arc<dyn Http>,
    clock: &Arc<dyn Clock>,
) -> Result<Tokens, String> {
    let id = oauth.client_id.clone();
    let client = match &oauth.proof {
        Proof::Secret(secret) => Client::Secret {
            id,
            secret: secret.clone(),
        },
        Proof::Key(key) => Client::Key {
            id,
            key: signing(key)?,
        },
        Proof::Public => Client::Public { id },
    };
    let grant = match &oauth.refresh {
        None => Grant::ClientCredentials,
        Some(refresh) => {
            let seals = super::seals(&refresh.key).map_err(|error| error.to_string())?;
            Grant::RefreshToken(Arc::new(KeptToken::new(refresh, seals)))
        }
    };
    let endpoint = match &oauth.token_url {
        Some(url) => Endpoint::At(url.clone()),
        None => Endpoint::Discovered(entry.base_url.clone()),
    };
    Ok(Tokens::new(Settings {
        client,
        grant,
        endpoint,
        scope: oauth.scope.clone(),
        http,
        clock: Arc::clone(clock),
        nonce: rand::random,
    }))
}

fn signing(key: &NamedKey) -> Result<ClientKey, String> {
    ClientKey::parse(&key.pem, key.id.as_deref()).map_err(|error| format!("auth.key: {error}"))
}

/// The key set that all connections of a configuration publish; none where no connection signs.
///
/// # Errors
/// [`AppError::Compose`] for a key that cannot be read, and for two keys under one name.
pub(super) fn key_set(config: &Config) -> Result<Option<Arc<str>>, AppError> {
    let mut keys = Vec::new();
    for entry in config.connections.values() {
        let Auth::OAuth(oauth) = &entry.auth else { continue };
        let Proof::Key(key) = &oauth.proof else { continue };
        let refused = |reason: String| AppError::Compose {
            what: format!("connection {}", entry.name),
            reason,
        };
        keys.push(signing(key).map_err(refused)?.public().clone());
        for (index, other) in oauth.other_keys.iter().enumerate() {
            let read = PublicKey::parse(&other.pem, other.id.as_deref());
            keys.push(read.map_err(|error| refused(format!("auth.other_keys[{index}]: {error}")))?);
        }
    }
    if keys.is_empty() {
        return Ok(None);
    }
    let set = courier_auth::key_set(&keys).map_err(|error| AppError::Compose {
        what: "the published keys".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Some(set.into()))
}

/// Credentials of a command that asks the source nothing.
struct Unread;

#[async_trait]
impl Credentials for Unread {
    async fn present(&self, operation: &str) -> Result<HeaderMap, ConnectorError> {
        Err(ConnectorError::Forbidden {
            operation: operation.to_owned(),
            reason: "the credentials were not read".to_owned(),
        })
    }

    fn refused(&self, _shown: &HeaderMap) -> Renewal {
        Renewal::Pointless
    }
}
