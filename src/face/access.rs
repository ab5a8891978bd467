//! Who may ask: static bearer tokens, where the configuration names any.
//!
//! Tokens are kept and compared as SHA-256 digests, all of them and in constant time, so that neither a length nor a
//! common beginning shows in how long a refusal takes. What was sent is never repeated.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use tokio::sync::watch;

/// The tokens that open the face. Without any it is open: the configuration sees to it that it then listens on
/// loopback only.
pub struct Access {
    tokens: Vec<Digest>,
}

impl Access {
    /// Keeps the digests of the tokens.
    #[must_use]
    pub fn new(tokens: &[SecretString]) -> Self {
        let digest = |token: &SecretString| digest(&SHA256, token.expose_secret().as_bytes());
        Self {
            tokens: tokens.iter().map(digest).collect(),
        }
    }

    /// Whether a request with these headers may pass.
    fn admits(&self, headers: &HeaderMap) -> bool {
        if self.tokens.is_empty() {
            return true;
        }
        let Some(shown) = headers.get(AUTHORIZATION).and_then(bearer) else {
            return false;
        };
        let shown = digest(&SHA256, shown);
        let equal = |token: &Digest| verify_slices_are_equal(token.as_ref(), shown.as_ref()).is_ok();
        // Every token is compared, also after one that fits.
        self.tokens.iter().filter(|token| equal(token)).count() > 0
    }
}

/// The token of an `Authorization` header; the scheme's name is compared without case (RFC 9110, 11.1).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, rest) = value.as_bytes().split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

/// Lets a request pass, or answers 401 without a word on what was wrong with the token.
pub(super) async fn required(
    State(access): State<watch::Receiver<Arc<Access>>>,
    request: Request,
    next: Next,
) -> Response {
    let admitted = access.borrow().admits(request.headers());
    if admitted {
        return next.run(request).await;
    }
    metrics::counter!("courier_face_refused_total").increment(1);
    let challenge = [(WWW_AUTHENTICATE, "Bearer")];
    let body = json!({ "error": "a token is required: Authorization: Bearer …" });
    (StatusCode::UNAUTHORIZED, challenge, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_passes_with_one_of_the_tokens_only() {
        let access = Access::new(&["the-first-token-1".into(), "the-second-token-2".into()]);
        let admits = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            access.admits(&headers)
        };
        for (value, expected) in [
            (Some("Bearer the-first-token-1"), true),
            (Some("bearer the-second-token-2"), true),
            (Some("Bearer  the-second-token-2"), true),
            (Some("Bearer the-first-token-"), false),
            (Some("Bearer the-first-token-12"), false),
            (Some("Bearer "), false),
            (Some("Bearer"), false),
            (Some("Basic the-first-token-1"), false),
            (Some("the-first-token-1"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(admits(value), expected, "{value:?}");
        }
    }

    #[test]
    fn without_tokens_everybody_passes() {
        assert!(Access::new(&[]).admits(&HeaderMap::new()));
    }
}
