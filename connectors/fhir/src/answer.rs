//! Turns statuses, headers and broken transfers into what the caller does next. Pure.

use std::time::Duration;

use courier_sdk::{ConnectorError, HttpError, HttpResponse};
use http::header::{AGE, DATE, HeaderName, RETRY_AFTER};
use jiff::Timestamp;

use crate::bundle::{self, BodyError};
use crate::instant;

/// The longest pause that a source may ask for. Sources have been seen to send days by mistake; an hour is
/// longer than any rate window that a vendor publishes.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// The oldest answer whose `Age` is believed: no cache on the way is configured to keep a search for longer.
const AGE_MAX: Duration = Duration::from_hours(24);

/// What a request was for, as far as its failure depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked<'a> {
    /// A search that we built.
    Search,
    /// A link that the source gave, with the statuses by which it says that the link has expired.
    PageLink(&'a [u16]),
    /// One record.
    Read,
}

/// The source's own time when it made the answer: `Date` less `Age`, where that is no more than a day.
pub(crate) fn server_time(response: &HttpResponse) -> Option<Timestamp> {
    let date = instant::parse_http_date(text(response, &DATE)?)?;
    let age = text(response, &AGE).and_then(|age| age.trim().parse::<u64>().ok());
    let age = age.map(Duration::from_secs).filter(|age| *age <= AGE_MAX);
    Some(instant::back(date, age.unwrap_or_default()))
}

/// The error of an answer whose status is not 200.
pub(crate) fn refusal(
    operation: String,
    response: &HttpResponse,
    asked: Asked<'_>,
    now: Timestamp,
) -> ConnectorError {
    let status = response.status.as_u16();
    if let Asked::PageLink(expired) = asked
        && expired.contains(&status)
    {
        return ConnectorError::PageExpired { operation, status };
    }
    match status {
        // 403 is about one record type or filter, so that it sets one feed aside; 401 is about who we are.
        401 => ConnectorError::Unauthorized {
            operation,
            reason: "the source refuses the credentials (status 401)".to_owned(),
        },
        429 => ConnectorError::Throttled {
            operation,
            retry_after: retry_after(response, now),
        },
        // With a time it is a pause that the whole source asks for. Without one, that of a read may concern this record
        // alone, which must not hold back the others for ever; a page's is taken for the source's.
        503 if asked != Asked::Read || retry_after(response, now).is_some() => ConnectorError::Throttled {
            operation,
            retry_after: retry_after(response, now),
        },
        408 | 425 | 500 | 502..=599 => ConnectorError::Transient {
            operation,
            reason: format!("status {status}"),
        },
        // Nothing of ours is known to the caller: a 304 says nothing.
        304 => ConnectorError::Unreadable {
            operation,
            reason: "status 304 to a request without a condition".to_owned(),
        },
        300..=399 => {
            let reason = "redirects are not followed".to_owned();
            ConnectorError::Refused {
                operation,
                status,
                reason,
            }
        }
        400..=499 | 501 => ConnectorError::Refused {
            operation,
            status,
            reason: reason(response),
        },
        _ => ConnectorError::Unreadable {
            operation,
            reason: format!("unexpected status {status}"),
        },
    }
}

/// The error of a request without a complete answer.
pub(crate) fn broken(operation: String, error: &HttpError) -> ConnectorError {
    let reason = error.to_string();
    match error {
        HttpError::Held { wait } => ConnectorError::Held {
            operation,
            wait: *wait,
        },
        HttpError::Blocked { .. } => ConnectorError::Forbidden { operation, reason },
        HttpError::Connect { .. } | HttpError::Timeout { .. } | HttpError::Broken { .. } => {
            ConnectorError::Transient { operation, reason }
        }
        HttpError::TooLarge { .. } => ConnectorError::Unreadable { operation, reason },
    }
}

/// The error of a 200 whose body is not what was asked for.
pub(crate) fn unusable(operation: String, error: &BodyError) -> ConnectorError {
    let reason = error.to_string();
    match error {
        BodyError::Unreadable(_) => ConnectorError::Unreadable { operation, reason },
        BodyError::Outcome(_) => ConnectorError::Transient { operation, reason },
    }
}

/// Seconds, or a date against the answer's own clock (ours if it names none); anything else is ignored.
pub(crate) fn retry_after(response: &HttpResponse, now: Timestamp) -> Option<Duration> {
    let value = text(response, &RETRY_AFTER)?.trim();
    let asked = if value.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(value.parse().ok()?)
    } else {
        let until = instant::parse_http_date(value)?;
        let from = text(response, &DATE)
            .and_then(instant::parse_http_date)
            .unwrap_or(now);
        Duration::try_from(until.duration_since(from)).ok()?
    };
    Some(asked.min(RETRY_AFTER_MAX))
}

fn reason(response: &HttpResponse) -> String {
    // An error's body is read for its issue code only; 64 levels is the depth limit of every answer.
    let code = bundle::outcome_code(&response.body, 64);
    code.map_or_else(
        || "no reason given".to_owned(),
        |code| format!("the source says: {code}"),
    )
}

fn text<'a>(response: &'a HttpResponse, name: &HeaderName) -> Option<&'a str> {
    response.headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, StatusCode};

    type Headers = &'static [(HeaderName, &'static str)];

    const DATE_TEXT: &str = "Fri, 20 Nov 2026 10:00:00 GMT";

    fn response(status: u16, headers: &[(HeaderName, &'static str)]) -> HttpResponse {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name, HeaderValue::from_static(value));
        }
        HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: map,
            body: Bytes::new(),
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn each_status_says_what_to_do_next() {
        let rows = [
            (Asked::Search, 400, "refused"),
            (Asked::Search, 404, "refused"),
            (Asked::Search, 501, "refused"),
            (Asked::Search, 302, "refused"),
            (Asked::Search, 304, "unreadable"),
            (Asked::Read, 304, "unreadable"),
            (Asked::Search, 401, "unauthorized"),
            (Asked::Search, 403, "refused"),
            (Asked::PageLink(&[404, 410]), 403, "refused"),
            (Asked::Read, 401, "unauthorized"),
            (Asked::Search, 408, "transient"),
            (Asked::Search, 429, "throttled"),
            (Asked::Search, 500, "transient"),
            (Asked::Search, 503, "throttled"),
            (Asked::PageLink(&[404, 410]), 503, "throttled"),
            (Asked::Read, 503, "transient"),
            (Asked::Search, 504, "transient"),
            (Asked::Search, 206, "unreadable"),
            (Asked::Search, 410, "refused"),
            (Asked::PageLink(&[404, 410]), 410, "page_expired"),
            (Asked::PageLink(&[404, 410]), 404, "page_expired"),
            (Asked::PageLink(&[404, 410]), 400, "refused"),
        ];
        for (asked, status, class) in rows {
            let error = refusal(
                "x".to_owned(),
                &response(status, &[]),
                asked,
                Timestamp::UNIX_EPOCH,
            );
            assert_eq!(error.class(), class, "{asked:?} {status}");
        }
    }

    #[test]
    fn unavailable_with_a_time_is_a_pause() {
        let answer = response(503, &[(RETRY_AFTER, "7")]);
        let error = refusal("x".to_owned(), &answer, Asked::Read, Timestamp::UNIX_EPOCH);
        assert_eq!(error.class(), "throttled");
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_garbage_is_ignored() {
        let rows: [(Headers, Option<u64>); 13] = [
            (&[], None),
            (&[(RETRY_AFTER, "7")], Some(7)),
            (&[(RETRY_AFTER, "0")], Some(0)),
            (&[(RETRY_AFTER, "99999999")], Some(3600)),
            (&[(RETRY_AFTER, "99999999999999999999999")], None),
            (&[(RETRY_AFTER, "-5")], None),
            (&[(RETRY_AFTER, "soon")], None),
            (
                &[(RETRY_AFTER, "Fri, 20 Nov 2026 10:00:30 GMT"), (DATE, DATE_TEXT)],
                Some(30),
            ),
            (&[(RETRY_AFTER, "Fri, 20 Nov 2026 10:00:30 GMT")], Some(20)),
            (
                &[(RETRY_AFTER, "Fri, 20 Nov 2026 09:00:00 GMT"), (DATE, DATE_TEXT)],
                None,
            ),
            (
                &[(RETRY_AFTER, "Thu, 31 Dec 2099 23:59:59 GMT"), (DATE, DATE_TEXT)],
                Some(3600),
            ),
            (&[(RETRY_AFTER, "Fri, 31 Dec 9999 23:59:59 GMT")], None),
            (&[(RETRY_AFTER, "Fri, 20 Nov 2026 10:00:10 GMT")], Some(0)),
        ];
        for (headers, seconds) in rows {
            let found = retry_after(&response(429, headers), at("2026-11-20T10:00:10Z"));
            assert_eq!(found, seconds.map(Duration::from_secs), "{headers:?}");
        }
    }

    #[test]
    fn the_sources_time_is_its_date_less_its_age() {
        let rows: [(Headers, Option<&str>); 6] = [
            (&[(DATE, DATE_TEXT)], Some("2026-11-20T10:00:00Z")),
            (&[(DATE, DATE_TEXT), (AGE, "90")], Some("2026-11-20T09:58:30Z")),
            (&[(DATE, DATE_TEXT), (AGE, "old")], Some("2026-11-20T10:00:00Z")),
            (&[(DATE, DATE_TEXT), (AGE, "86400")], Some("2026-11-19T10:00:00Z")),
            (&[(DATE, DATE_TEXT), (AGE, "86401")], Some("2026-11-20T10:00:00Z")),
            (&[(DATE, "today")], None),
        ];
        for (headers, expected) in rows {
            assert_eq!(
                server_time(&response(200, headers)),
                expected.map(at),
                "{headers:?}"
            );
        }
    }

    #[test]
    fn a_transfer_that_breaks_is_tried_again_and_one_too_large_is_not() {
        let limit = HttpError::TooLarge { limit: 9 };
        assert!(broken("x".to_owned(), &limit).to_string().contains("9 bytes"));
        assert_eq!(broken("x".to_owned(), &limit).class(), "unreadable");
        let cut = HttpError::Broken {
            reason: "eof".to_owned(),
        };
        assert_eq!(broken("x".to_owned(), &cut).class(), "transient");
        let blocked = HttpError::Blocked {
            reason: "private".to_owned(),
        };
        assert_eq!(broken("x".to_owned(), &blocked).class(), "forbidden");
    }

    #[test]
    fn an_outcome_in_a_good_answer_is_transient() {
        let outcome = unusable("x".to_owned(), &BodyError::Outcome("timeout".to_owned()));
        assert_eq!(outcome.class(), "transient");
    }
}
