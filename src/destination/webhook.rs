//! The webhook destination: one signed POST per attempt.
//!
//! Only 2xx is acceptance, however its body ends. What the receiver writes back never leaves this module: it can echo PHI.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use courier_sdk::{AtLimit, Http, HttpError, HttpRequest, HttpResponse};
use data_encoding::HEXUPPER;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, InvalidHeaderValue, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use url::Url;

use super::signature::{HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, SigningKey, sign};
use super::{Attempt, Destination, Notification};
use crate::domain::delivery::Replay;
use crate::wire::{Mode, Rendered};

/// Marks a notification that is sent again at an operator's wish.
pub const HEADER_REPLAY: &str = "courier-replay";

/// What the names of headers begin with that carry an event's attributes (CloudEvents HTTP protocol binding 1.0.2).
pub const HEADER_ATTRIBUTE_PREFIX: &str = "ce-";

/// Ties the receiver's trace to ours (W3C Trace Context): ids drawn by chance, nothing of the record.
pub const HEADER_TRACE: &str = "traceparent";

/// The total deadline of one attempt: a receiver that works longer should answer first and work later.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// How much of an answer is read. Only its status counts; reading a little keeps the connection usable.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

/// A longer wait than this is not meant (year 9999) and is not heeded. The retry schedule bounds it further.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// What a webhook needs.
#[derive(Clone)]
pub struct Settings {
    /// Where notifications go. Its path can be a secret.
    pub url: Url,
    /// The keys to sign with, the current one first; at least one.
    pub keys: Vec<SigningKey>,
    /// The way out.
    pub http: Arc<dyn Http>,
    /// The total deadline of one attempt, usually [`DEADLINE`].
    pub deadline: Duration,
}

/// Posts notifications to one address.
#[derive(Clone)]
pub struct Webhook {
    settings: Settings,
}

impl Webhook {
    /// Makes the destination.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    fn headers(&self, notification: &Notification, now: Timestamp) -> Result<HeaderMap, InvalidHeaderValue> {
        let id = notification.event_id.as_str();
        let signature = sign(&self.settings.keys, id, now, &notification.rendered.body);
        let mut headers = attribute_headers(&notification.rendered)?;
        if let Some(content_type) = notification.rendered.content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(HeaderName::from_static(HEADER_ID), HeaderValue::from_str(id)?);
        headers.insert(
            HeaderName::from_static(HEADER_TIMESTAMP),
            HeaderValue::from(now.as_second()),
        );
        headers.insert(
            HeaderName::from_static(HEADER_SIGNATURE),
            HeaderValue::from_str(&signature)?,
        );
        match notification.replay {
            Replay::Original => {}
            Replay::Replayed => {
                headers.insert(
                    HeaderName::from_static(HEADER_REPLAY),
                    HeaderValue::from_static("true"),
                );
            }
        }
        if let Some(trace) = notification.trace {
            let value = HeaderValue::from_str(&trace.to_string())?;
            headers.insert(HeaderName::from_static(HEADER_TRACE), value);
        }
        Ok(headers)
    }
}

impl fmt::Debug for Webhook {
    /// Shows the host only: the path can be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Webhook({})", self.settings.url.host_str().unwrap_or("-"))
    }
}

#[async_trait]
impl Destination for Webhook {
    async fn deliver(&self, notification: &Notification, now: Timestamp) -> Attempt {
        if self.settings.keys.is_empty() {
            return failed("no signing key");
        }
        let Ok(headers) = self.headers(notification, now) else {
            return failed("the event id does not fit a header");
        };
        let request = HttpRequest {
            method: Method::POST,
            url: self.settings.url.clone(),
            headers,
            body: notification.rendered.body.clone(),
            deadline: self.settings.deadline,
            response_bytes_max: RESPONSE_BYTES_MAX,
            at_limit: AtLimit::Cut,
        };
        match self.settings.http.send(request).await {
            Ok(answer) => judge(&answer, now),
            Err(error) => failed(&describe(&error)),
        }
    }

    /// A `HEAD` to the address: any answer shows that somebody is there; few receivers answer it with 2xx.
    async fn probe(&self) -> Attempt {
        let request = HttpRequest {
            method: Method::HEAD,
            url: self.settings.url.clone(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            deadline: self.settings.deadline,
            response_bytes_max: RESPONSE_BYTES_MAX,
            at_limit: AtLimit::Cut,
        };
        match self.settings.http.send(request).await {
            Ok(answer) => Attempt::Accepted {
                detail: format!("it answers (status {} to HEAD)", answer.status.as_u16()),
            },
            Err(error) => failed(&describe(&error)),
        }
    }
}

/// The headers of an event whose attributes are not in its body.
///
/// Source: CloudEvents HTTP protocol binding 1.0.2, section 3.1.3: `ce-` and the name; of the value what is not visible
/// ASCII, the quotation mark and the percent sign are percent-encoded.
fn attribute_headers(rendered: &Rendered) -> Result<HeaderMap, InvalidHeaderValue> {
    let mut headers = HeaderMap::new();
    match rendered.mode {
        Mode::Structured => {}
        Mode::Binary => {
            for (name, value) in &rendered.attributes {
                // The names are constants of lower-case letters: each is a header's name.
                if let Ok(name) = HeaderName::try_from(format!("{HEADER_ATTRIBUTE_PREFIX}{name}")) {
                    headers.insert(name, HeaderValue::try_from(percent_encoded(value))?);
                }
            }
        }
    }
    Ok(headers)
}

fn percent_encoded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&HEXUPPER.encode(&[byte]));
        }
    }
    out
}

fn failed(detail: &str) -> Attempt {
    Attempt::Failed {
        detail: detail.to_owned(),
        retry_after: None,
    }
}

fn judge(answer: &HttpResponse, now: Timestamp) -> Attempt {
    let status = answer.status;
    if status.is_success() {
        return Attempt::Accepted {
            detail: status.as_u16().to_string(),
        };
    }
    let mut detail = format!("status {}", status.as_u16());
    if status.is_redirection() {
        detail.push_str(", redirects are not followed");
    }
    let waits = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
    Attempt::Failed {
        detail,
        retry_after: waits.then(|| retry_after(&answer.headers, now)).flatten(),
    }
}

fn describe(error: &HttpError) -> String {
    match error {
        HttpError::Held { .. }
        | HttpError::Blocked { .. }
        | HttpError::Connect { .. }
        | HttpError::Timeout { .. }
        | HttpError::Broken { .. } => error.to_string(),
        HttpError::TooLarge { .. } => "the answer is too large".to_owned(),
    }
}

/// Reads `Retry-After`, seconds or an HTTP date; what cannot be meant is as good as absent.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(text.parse().ok()?)
    } else {
        let date = jiff::fmt::rfc2822::DateTimeParser::new()
            .parse_timestamp(text)
            .ok()?;
        // A date that has passed asks for no wait.
        Duration::try_from(date.duration_since(now)).unwrap_or_default()
    };
    (wait <= RETRY_AFTER_MAX).then_some(wait)
}

#[cfg(test)]
mod tests;
