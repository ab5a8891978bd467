//! The refresh-token grant at the sandbox: it replaces the token at each use, and withdraws all where one is used twice.
//!
//! **Source**: RFC 6749, 6, and RFC 9700, 4.14.2 (rotation, and what a reuse means). It keeps no grace for a token that
//! was just replaced, so that whoever loses one is found out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode, header};
use jiff::Timestamp;
use serde_json::json;
use url::{Url, form_urlencoded};

use super::smart::{Grants, answer};
use super::{Answer, Request};

/// The one client that a sandbox knows, and the refresh token that it was given at its authorization.
#[derive(Clone)]
pub struct RefreshClient {
    /// The client's id.
    pub id: String,
    /// Its secret; a public client has none.
    pub secret: Option<String>,
    /// Its first refresh token.
    pub first: String,
    /// Whether each use replaces it.
    pub rotates: bool,
    /// How long access tokens hold.
    pub token_lifetime: Duration,
}

/// What is known of the tokens that descend from the first.
pub(super) struct Family {
    current: String,
    spent: BTreeSet<String>,
    withdrawn: bool,
}

impl Family {
    fn of(client: &RefreshClient) -> Self {
        Self {
            current: client.first.clone(),
            spent: BTreeSet::new(),
            withdrawn: false,
        }
    }
}

impl Grants {
    /// Answers the token endpoint, which stands outside the lock.
    pub(super) fn refreshed(
        &mut self,
        client: &RefreshClient,
        base_url: &Url,
        request: &Request,
        (now, draw): (Timestamp, u128),
    ) -> Option<Answer> {
        let prefix = base_url.path().trim_end_matches('/');
        let path = request.path.strip_prefix(prefix)?;
        if (&request.method, path) != (&Method::POST, "/auth/token") {
            return None;
        }
        Some(match self.refresh(client, request, draw) {
            Ok(next) => {
                let token = format!("{draw:032x}");
                self.grant_token(&token, now, client.token_lifetime);
                let mut body = json!({
                    "access_token": token, "token_type": "Bearer", "expires_in": client.token_lifetime.as_secs(),
                });
                if let (Some(next), Some(members)) = (next, body.as_object_mut()) {
                    members.insert("refresh_token".to_owned(), next.into());
                }
                answer(StatusCode::OK, &body)
            }
            Err((error, reason)) => {
                let body = json!({"error": error, "error_description": reason});
                answer(StatusCode::BAD_REQUEST, &body)
            }
        })
    }

    /// Takes the refresh token back; it is of no use from then on.
    pub(super) fn withdraw(&mut self) {
        if let Some(family) = &mut self.family {
            family.withdrawn = true;
        }
    }

    /// Uses a refresh token; answers the one that takes its place, if any.
    fn refresh(
        &mut self,
        client: &RefreshClient,
        request: &Request,
        draw: u128,
    ) -> Result<Option<String>, (&'static str, &'static str)> {
        let form: BTreeMap<String, String> = form_urlencoded::parse(&request.body).into_owned().collect();
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        if field("grant_type") != "refresh_token" {
            return Err(("unsupported_grant_type", "only refresh_token is offered"));
        }
        let shown = request.headers.get(header::AUTHORIZATION);
        let shown = shown.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let known = match &client.secret {
            Some(secret) => shown == format!("Basic {}", STANDARD.encode(format!("{}:{secret}", client.id))),
            None => field("client_id") == client.id,
        };
        if !known {
            return Err(("invalid_client", "the client is not known"));
        }
        let family = self.family.get_or_insert_with(|| Family::of(client));
        let token = field("refresh_token");
        if family.spent.contains(token) {
            // Two have it, and nobody can tell which of them is the client.
            family.withdrawn = true;
        }
        if family.withdrawn || token != family.current {
            return Err(("invalid_grant", "the refresh token is not in force"));
        }
        if !client.rotates {
            return Ok(None);
        }
        let next = format!("refresh-{:032x}", draw.rotate_left(64) ^ 0x5a5a);
        let spent = std::mem::replace(&mut family.current, next.clone());
        family.spent.insert(spent);
        Ok(Some(next))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    fn ask(grants: &mut Grants, client: &RefreshClient, token: &str, draw: u128) -> serde_json::Value {
        let request = Request {
            method: Method::POST,
            path: "/fhir/auth/token".to_owned(),
            query: String::new(),
            headers: HeaderMap::new(),
            body: Bytes::from(format!(
                "grant_type=refresh_token&client_id=courier&refresh_token={token}"
            )),
        };
        let base = Url::parse("http://127.0.0.1/fhir").unwrap();
        let answer = grants
            .refreshed(client, &base, &request, (Timestamp::UNIX_EPOCH, draw))
            .unwrap();
        serde_json::from_slice(&answer.body).unwrap()
    }

    #[test]
    fn a_token_that_is_used_twice_ends_all_that_descend_from_it() {
        let client = RefreshClient {
            id: "courier".to_owned(),
            secret: None,
            first: "one".to_owned(),
            rotates: true,
            token_lifetime: Duration::from_mins(5),
        };
        let mut grants = Grants::default();
        let granted = ask(&mut grants, &client, "one", 1);
        let two = granted["refresh_token"].as_str().unwrap().to_owned();
        assert_ne!(granted["refresh_token"], granted["access_token"]);
        let three = ask(&mut grants, &client, &two, 2)["refresh_token"]
            .as_str()
            .unwrap()
            .to_owned();
        for spent in ["one", three.as_str()] {
            assert_eq!(
                ask(&mut grants, &client, spent, 3)["error"],
                "invalid_grant",
                "{spent}"
            );
        }
        let steady = RefreshClient {
            rotates: false,
            ..client
        };
        let mut grants = Grants::default();
        for draw in 0..3 {
            let granted = ask(&mut grants, &steady, "one", draw);
            assert!(granted["access_token"].is_string() && granted["refresh_token"].is_null());
        }
    }
}
