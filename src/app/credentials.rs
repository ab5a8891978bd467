//! From what a connection's configuration says of credentials to what its requests show.

use std::sync::Arc;

use async_trait::async_trait;
use courier_auth::{Client, ClientKey, Endpoint, Settings, Tokens};
use courier_sdk::{Clock, ConnectorError, Credentials, Fixed, Http, Renewal};
use http::{HeaderMap, HeaderName};
use secrecy::ExposeSecret as _;

use crate::config::{self, Auth};

/// Makes a connection's credentials. Tokens are asked for through its own client, so under its own address rules.
///
/// # Errors
/// What is wrong with a key or a value, in words, without showing it.
pub(super) fn of(
    entry: &config::Connection,
    http: Arc<dyn Http>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Credentials>, String> {
    let tokens = |client, endpoint, scope: &String| -> Arc<dyn Credentials> {
        Arc::new(Tokens::new(Settings {
            client,
            endpoint,
            scope: scope.clone(),
            http,
            clock: Arc::clone(clock),
            nonce: rand::random,
        }))
    };
    let fixed = match &entry.auth {
        Auth::None => Ok(Fixed::none()),
        Auth::Basic { user, password } => courier_auth::basic(user, password),
        Auth::Bearer { token } => courier_auth::bearer(token),
        Auth::ApiKey { header, value } => {
            let name = HeaderName::from_bytes(header.as_bytes()).map_err(|error| error.to_string())?;
            Fixed::header(name, value.expose_secret())
        }
        Auth::OAuth2 {
            client_id,
            client_secret,
            token_url,
            scope,
        } => {
            let client = Client::Secret {
                id: client_id.clone(),
                secret: client_secret.clone(),
            };
            return Ok(tokens(client, Endpoint::At(token_url.clone()), scope));
        }
        Auth::Smart {
            client_id,
            key,
            key_id,
            token_url,
            scope,
        } => {
            let key =
                ClientKey::parse(key, key_id.as_deref()).map_err(|error| format!("auth.key: {error}"))?;
            let client = Client::Key {
                id: client_id.clone(),
                key,
            };
            let endpoint = match token_url {
                Some(url) => Endpoint::At(url.clone()),
                None => Endpoint::Discovered(entry.base_url.clone()),
            };
            return Ok(tokens(client, endpoint, scope));
        }
        Auth::Unread => return Ok(Arc::new(Unread)),
    };
    fixed
        .map(|fixed| -> Arc<dyn Credentials> { Arc::new(fixed) })
        .map_err(|error| error.to_string())
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
