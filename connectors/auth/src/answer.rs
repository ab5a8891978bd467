//! What a token endpoint answers: a token, a refusal, or a wish for patience. Pure.

use std::time::Duration;

use courier_sdk::credentials::sensitive;
use courier_sdk::{ConnectorError, HttpError, HttpResponse};
use http::HeaderValue;
use http::header::{DATE, RETRY_AFTER};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

/// What SMART recommends; assumed where an answer does not say how long its token holds.
const LIFETIME_ASSUMED: Duration = Duration::from_mins(5);

/// No token is believed to hold longer: a day is the longest that a vendor documents.
const LIFETIME_MAX: Duration = Duration::from_hours(24);

/// The longest pause that is granted to a token endpoint, as to sources.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// Clocks that disagree by more are told of: an assertion has a minute to spare.
const SKEW_TOLD: Duration = Duration::from_secs(30);

/// A granted token.
pub(crate) struct Granted {
    pub(crate) header: HeaderValue,
    pub(crate) lifetime: Duration,
    /// What takes the place of the refresh token that was shown; absent where that one stays in force.
    pub(crate) refresh_token: Option<SecretString>,
}

/// How the token was asked for, as far as it changes what a refusal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ClientCredentials,
    RefreshToken,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Whoever grants it is away.
    Away(String),
    /// Our own budget gives no leave to ask.
    Held(Duration),
    /// It asks for patience.
    Busy(Option<Duration>),
    /// It refuses us, or its answer is no use: asking again will not help before someone acts.
    Refused(String),
}

impl Failure {
    pub(crate) fn as_error(&self, operation: &str) -> ConnectorError {
        let operation = operation.to_owned();
        match self.clone() {
            Self::Away(reason) => ConnectorError::Transient {
                operation,
                reason: format!("no token: {reason}"),
            },
            Self::Held(wait) => ConnectorError::Held { operation, wait },
            Self::Busy(retry_after) => ConnectorError::Throttled {
                operation,
                retry_after,
            },
            Self::Refused(reason) => ConnectorError::Unauthorized {
                operation,
                reason: format!("no token: {reason}"),
            },
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    token_type: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<Value>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Reads the answer to a token request; `now` is our own time, `who` names the endpoint's host.
pub(crate) fn token(
    response: &HttpResponse,
    (who, way): (&str, Way),
    now: Timestamp,
) -> Result<Granted, Failure> {
    if !response.status.is_success() {
        return Err(failure(response, (who, way), now));
    }
    let unusable = |what: &str| Failure::Refused(format!("{who} answers {what}"));
    let answer: Answer =
        serde_json::from_slice(&response.body).map_err(|_| unusable("what is no token response"))?;
    let bearer = |kind: &String| kind.eq_ignore_ascii_case("bearer");
    if !answer.token_type.as_ref().is_none_or(bearer) {
        return Err(unusable("a token of another type than bearer"));
    }
    let text = answer
        .access_token
        .map(SecretString::from)
        .filter(|token| !token.expose_secret().is_empty())
        .ok_or_else(|| unusable("no access_token"))?;
    let value = SecretString::from(format!("Bearer {}", text.expose_secret()));
    let header =
        sensitive(value.expose_secret()).map_err(|_| unusable("a token that no header can carry"))?;
    Ok(Granted {
        header,
        lifetime: lifetime(answer.expires_in.as_ref()),
        // Nobody asked for one with client credentials: it is left where it is.
        refresh_token: answer
            .refresh_token
            .filter(|token| way == Way::RefreshToken && !token.is_empty())
            .map(SecretString::from),
    })
}

/// The failure that a status stands for; the source's description is left out, because nobody knows what it holds.
pub(crate) fn failure(response: &HttpResponse, (who, way): (&str, Way), now: Timestamp) -> Failure {
    let status = response.status.as_u16();
    match status {
        429 | 503 => Failure::Busy(retry_after(response, now)),
        408 | 500 | 502 | 504..=599 => Failure::Away(format!("{who} answers {status}")),
        300..=399 => Failure::Refused(format!("{who} answers {status}: redirects are not followed")),
        _ => {
            let said = serde_json::from_slice::<Refusal>(&response.body)
                .ok()
                .map(|refusal| refusal.error)
                .filter(|code| is_code(code))
                .map(|code| {
                    let hint = hint(&code, way);
                    format!(": {code}{hint}")
                })
                .unwrap_or_default();
            let skew = skew(response, now).unwrap_or_default();
            Failure::Refused(format!("{who} refuses with status {status}{said}{skew}"))
        }
    }
}

/// The failure of a request without a complete answer.
pub(crate) fn broken(error: &HttpError, who: &str) -> Failure {
    match error {
        HttpError::Held { wait } => Failure::Held(*wait),
        HttpError::Connect { .. } | HttpError::Timeout { .. } | HttpError::Broken { .. } => {
            Failure::Away(format!("{who}: {error}"))
        }
        HttpError::Blocked { .. } | HttpError::TooLarge { .. } => Failure::Refused(format!("{who}: {error}")),
    }
}

/// Codes are words of RFC 6749, 5.2, or of an extension; anything else is text that could hold anything.
fn is_code(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

fn hint(code: &str, way: Way) -> &'static str {
    match (code, way) {
        ("invalid_client", _) => {
            " (is the client id registered there, and with it this secret, or the public half of this key under its key id?)"
        }
        ("invalid_scope", _) => " (write the scopes that were granted to the client as `scope`)",
        ("invalid_grant", Way::RefreshToken) => {
            " (the refresh token has expired, was withdrawn, or was used elsewhere: authorize the courier there anew,              put the new token where `refresh_token` refers to, and reload)"
        }
        ("unauthorized_client" | "unsupported_grant_type", Way::ClientCredentials) => {
            " (is the client registered there for client_credentials?)"
        }
        ("unauthorized_client" | "unsupported_grant_type", Way::RefreshToken) => {
            " (is the client registered there for refresh tokens: offline_access?)"
        }
        _ => "",
    }
}

/// Seconds as a number, or as text: some servers quote them.
fn lifetime(value: Option<&Value>) -> Duration {
    let seconds = match value {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok(),
        Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) | None => None,
    };
    seconds.map_or(LIFETIME_ASSUMED, |seconds| {
        Duration::from_secs(seconds).min(LIFETIME_MAX)
    })
}

fn retry_after(response: &HttpResponse, now: Timestamp) -> Option<Duration> {
    let text = response.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => Duration::try_from(instant(text)?.duration_since(now)).ok()?,
    };
    Some(asked.min(RETRY_AFTER_MAX))
}

fn skew(response: &HttpResponse, now: Timestamp) -> Option<String> {
    let theirs = instant(response.headers.get(DATE)?.to_str().ok()?)?;
    let apart = now.duration_since(theirs);
    if apart.unsigned_abs() <= SKEW_TOLD {
        return None;
    }
    let word = if apart.is_positive() { "ahead of" } else { "behind" };
    let seconds = apart.unsigned_abs().as_secs();
    Some(format!(
        "; our clock is {seconds} s {word} theirs, which alone can be the reason"
    ))
}

fn instant(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn answered(status: u16, body: &str, date: &'static str) -> Result<Granted, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, HeaderValue::from_static(date));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        let response = HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        let now = "2026-11-20T10:00:00Z".parse().unwrap();
        token(&response, ("auth.example", Way::RefreshToken), now)
    }

    #[test]
    fn a_token_is_taken_with_its_lifetime_in_every_spelling_that_servers_use() {
        for (body, seconds) in [
            (
                r#"{"access_token":"t","token_type":"bearer","expires_in":300}"#,
                300,
            ),
            (
                r#"{"access_token":"t","token_type":"Bearer","expires_in":"3600"}"#,
                3600,
            ),
            (r#"{"access_token":"t"}"#, 300),
            (r#"{"access_token":"t","expires_in":999999999}"#, 86_400),
            (r#"{"access_token":"t","expires_in":-1}"#, 300),
        ] {
            let Ok(granted) = answered(200, body, "") else {
                panic!("{body}")
            };
            assert_eq!(granted.lifetime, Duration::from_secs(seconds), "{body}");
            assert_eq!(granted.header.to_str().unwrap(), "Bearer t");
            assert!(!format!("{:?}", granted.header).contains("Bearer t"));
        }
    }

    #[test]
    fn a_new_refresh_token_is_taken_only_where_one_was_shown() {
        use secrecy::ExposeSecret as _;
        let next = |body: &str| {
            let granted = answered(200, body, "").ok()?;
            granted
                .refresh_token
                .map(|token| token.expose_secret().to_owned())
        };
        let with = r#"{"access_token":"t","refresh_token":"r2"}"#;
        assert_eq!(next(with).as_deref(), Some("r2"));
        assert_eq!(next(r#"{"access_token":"t"}"#), None);
        assert_eq!(next(r#"{"access_token":"t","refresh_token":""}"#), None);
        let response = HttpResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from_static(with.as_bytes()),
        };
        let granted = token(&response, ("a", Way::ClientCredentials), Timestamp::UNIX_EPOCH);
        assert!(granted.is_ok_and(|granted| granted.refresh_token.is_none()));
    }

    #[test]
    fn what_is_no_token_is_a_refusal_that_shows_nothing_of_it() {
        for body in [
            "",
            "hunter2",
            "{}",
            r#"{"access_token":""}"#,
            r#"{"access_token":"hunter2\n"}"#,
            r#"{"access_token":"hunter2","token_type":"mac"}"#,
            r#"{"access_token":7}"#,
        ] {
            let Err(Failure::Refused(reason)) = answered(200, body, "") else {
                panic!("{body}")
            };
            assert!(!reason.contains("hunter2"), "{reason}");
        }
    }

    #[test]
    fn each_status_says_what_to_do_next_and_a_wrong_clock_is_told() {
        const SAME: &str = "Fri, 20 Nov 2026 10:00:01 GMT";
        const OTHER: &str = "Fri, 20 Nov 2026 09:50:00 GMT";
        let client = r#"{"error":"invalid_client","error_description":"no Jane Roe here"}"#;
        let failed = |status, body, date| answered(status, body, date).err().unwrap();
        assert_eq!(failed(503, "", SAME), Failure::Busy(Some(Duration::from_secs(7))));
        assert!(matches!(failed(500, "", SAME), Failure::Away(_)));
        assert!(matches!(failed(302, "", SAME), Failure::Refused(_)));
        let Failure::Refused(plain) = failed(400, client, SAME) else {
            panic!("not refused")
        };
        assert!(plain.contains("status 400: invalid_client") && !plain.contains("Jane"));
        assert!(!plain.contains("clock"), "{plain}");
        let Failure::Refused(skewed) = failed(400, client, OTHER) else {
            panic!("not refused")
        };
        assert!(skewed.contains("our clock is 600 s ahead of theirs"), "{skewed}");
        let Failure::Refused(spent) = failed(400, r#"{"error":"invalid_grant"}"#, SAME) else {
            panic!("not refused")
        };
        assert!(
            spent.contains("invalid_grant (the refresh token has expired"),
            "{spent}"
        );
        let Failure::Refused(odd) = failed(401, r#"{"error":"Jane Roe"}"#, SAME) else {
            panic!("not refused")
        };
        assert!(!odd.contains("Jane"));
    }
}
