//! What one attempt sends, and what it makes of each answer.

use std::sync::Mutex;

use bytes::Bytes;
use courier_sdk::{ConnectionName, RecordId, RecordKey, RecordType};

use super::*;
use crate::destination::signature::verify;
use crate::domain::event::EventKind;
use crate::domain::identity::EventId;
use crate::wire::{Mode, Rendered};

/// Answers each request with what it was given, and keeps the request.
struct Answer {
    answer: Mutex<Option<Result<HttpResponse, HttpError>>>,
    seen: Mutex<Vec<HttpRequest>>,
}

impl Answer {
    fn with(answer: Result<HttpResponse, HttpError>) -> Arc<Self> {
        Arc::new(Self {
            answer: Mutex::new(Some(answer)),
            seen: Mutex::new(Vec::new()),
        })
    }
}

#[async_trait]
impl Http for Answer {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.seen.lock().unwrap().push(request);
        self.answer.lock().unwrap().take().unwrap()
    }
}

fn now() -> Timestamp {
    "1994-11-06T08:49:37Z".parse().unwrap()
}

fn keys() -> Vec<SigningKey> {
    vec![SigningKey::from_bytes(&[9; 32]).unwrap()]
}

fn notification(replay: Replay) -> Notification {
    Notification {
        event_id: EventId::parse("ev_abcdefghijklmnopqrstuvwxyz234567").unwrap(),
        connection: ConnectionName::parse("mercy").unwrap(),
        key: RecordKey {
            record_type: RecordType::parse("Appointment").unwrap(),
            id: RecordId::parse("17").unwrap(),
        },
        kind: EventKind::Updated,
        rendered: Rendered {
            content_type: Some("application/cloudevents+json"),
            body: Bytes::from_static(b"{\"synthetic\":true}"),
            mode: Mode::Structured,
            attributes: Vec::new(),
        },
        replay,
        trace: None,
    }
}

fn webhook(http: &Arc<Answer>) -> Webhook {
    let http: Arc<dyn Http> = Arc::<Answer>::clone(http);
    Webhook::new(Settings {
        url: Url::parse("https://hooks.example.com/secret-path").unwrap(),
        keys: keys(),
        http,
        deadline: DEADLINE,
    })
}

fn status(code: u16, headers: &[(&'static str, &'static str)]) -> HttpResponse {
    HttpResponse {
        status: StatusCode::from_u16(code).unwrap(),
        headers: headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect(),
        body: Bytes::from_static(b"Jane Synthetic, echoed"),
    }
}

async fn attempt(answer: Result<HttpResponse, HttpError>) -> Attempt {
    let http = Answer::with(answer);
    webhook(&http)
        .deliver(&notification(Replay::Original), now())
        .await
}

#[tokio::test]
async fn an_attempt_is_one_signed_post_of_the_frozen_body() {
    for (replay, marked) in [(Replay::Original, None), (Replay::Replayed, Some("true"))] {
        let http = Answer::with(Ok(status(204, &[])));
        webhook(&http).deliver(&notification(replay), now()).await;
        let seen = http.seen.lock().unwrap();
        let [request] = seen.as_slice() else {
            panic!("one request, not {}", seen.len());
        };
        let header = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(request.method, Method::POST);
        assert_eq!(request.body, notification(replay).rendered.body);
        assert_eq!(header("content-type"), Some("application/cloudevents+json"));
        assert_eq!(header("accept-encoding"), Some("identity"));
        assert_eq!(header(HEADER_REPLAY), marked);
        assert_eq!(request.response_bytes_max, 16 * 1024);
        assert_eq!(request.at_limit, AtLimit::Cut);
        let verified = verify(&keys(), &request.headers, &request.body, now()).unwrap();
        assert_eq!(verified.id, notification(replay).event_id.as_str());
        assert_eq!(verified.timestamp, now());
    }
}

#[tokio::test]
async fn only_2xx_is_acceptance_and_no_detail_shows_the_answer() {
    let reason = || "synthetic".to_owned();
    let deadline = DEADLINE;
    let rows = [
        (Ok(status(200, &[])), "ok 200"),
        (Ok(status(204, &[])), "ok 204"),
        (Ok(status(299, &[])), "ok 299"),
        (Ok(status(304, &[])), "status 304, redirects are not followed"),
        (
            Ok(status(307, &[("location", "https://10.0.0.1/")])),
            "status 307, redirects are not followed",
        ),
        (Ok(status(400, &[])), "status 400"),
        (Ok(status(410, &[])), "status 410"),
        (Ok(status(500, &[])), "status 500"),
        (
            Err(HttpError::Blocked { reason: reason() }),
            "address refused: synthetic",
        ),
        (
            Err(HttpError::Connect { reason: reason() }),
            "cannot connect: synthetic",
        ),
        (
            Err(HttpError::Timeout { deadline }),
            "no complete answer within 15000 ms",
        ),
        (Err(HttpError::TooLarge { limit: 1 }), "the answer is too large"),
        (
            Err(HttpError::Broken { reason: reason() }),
            "the answer broke off: synthetic",
        ),
    ];
    for (answer, expected) in rows {
        let said = match attempt(answer).await {
            Attempt::Accepted { detail } => format!("ok {detail}"),
            Attempt::Failed { detail, retry_after } => {
                assert_eq!(retry_after, None);
                detail
            }
        };
        assert_eq!(said, expected);
    }
}

#[tokio::test]
async fn a_wait_is_heeded_when_it_can_be_meant() {
    let rows = [
        (429, "120", Some(120)),
        (503, "0", Some(0)),
        (503, " 3600 ", Some(3600)),
        (429, "86400", Some(86400)),
        (429, "86401", None),
        (429, "99999999999999999999999", None),
        (429, "-5", None),
        (429, "1.5", None),
        (429, "soon", None),
        (429, "", None),
        (429, "Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
        (429, "Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
        (429, "Fri, 31 Dec 9999 23:59:59 GMT", None),
        (500, "120", None),
        (302, "120", None),
    ];
    for (code, value, expected) in rows {
        let Attempt::Failed { retry_after, .. } = attempt(Ok(status(code, &[("retry-after", value)]))).await
        else {
            panic!("{code} is no acceptance");
        };
        assert_eq!(retry_after, expected.map(Duration::from_secs), "{code} {value}");
    }
}

#[tokio::test]
async fn without_a_key_nothing_is_sent() {
    let http = Answer::with(Ok(status(204, &[])));
    let mut webhook = webhook(&http);
    webhook.settings.keys.clear();
    let said = webhook.deliver(&notification(Replay::Original), now()).await;
    assert_eq!(said, failed("no signing key"));
    assert!(http.seen.lock().unwrap().is_empty());
}

#[test]
fn debug_shows_the_host_and_not_the_path() {
    let http = Answer::with(Ok(status(204, &[])));
    assert_eq!(format!("{:?}", webhook(&http)), "Webhook(hooks.example.com)");
}
