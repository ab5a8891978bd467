//! Notifications in CloudEvents' binary mode: attributes and body as the examples show them, whoever carries them.
//!
//! An example is a text: the content type and the attributes, a line each, an empty line, then the body.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use courier_sdk::{Http, HttpError, HttpRequest, HttpResponse, Meaning};
use ehr_courier::destination::signature::SigningKey;
use ehr_courier::destination::webhook::{DEADLINE, Settings, Webhook};
use ehr_courier::destination::{Destination as _, Notification};
use ehr_courier::domain::delivery::Replay;
use ehr_courier::domain::event::{EventKind, Timeliness};
use ehr_courier::domain::fan_out::{ContentLevel, Format};
use ehr_courier::wire::{self, Mode, Rendered};

use super::{body, delivery, event, root};

/// One example, rendered, with the attributes that its file shows.
pub(crate) struct Example {
    pub(crate) name: String,
    pub(crate) rendered: Rendered,
    pub(crate) attributes: Vec<(String, String)>,
}

fn rendered() -> Vec<(String, Rendered)> {
    let mut all = Vec::new();
    for kind in [
        EventKind::Created,
        EventKind::Updated,
        EventKind::Deleted,
        EventKind::Merged,
        EventKind::Unavailable,
    ] {
        for content in [
            ContentLevel::Empty,
            ContentLevel::IdOnly,
            ContentLevel::FullResource,
        ] {
            let mut delivery = delivery(content);
            delivery.format = Format::CloudEventsBinary;
            let name = format!("{}-{}.txt", kind.as_str(), content.as_str());
            all.push((name, wire::render(&event(kind, "17"), &delivery)));
        }
    }
    let mut late = event(EventKind::Updated, "a\"b|1");
    late.timeliness = Timeliness::Late;
    let mut delivery = delivery(ContentLevel::IdOnly);
    delivery.format = Format::CloudEventsBinary;
    all.push((
        "updated-id-only-late.txt".to_owned(),
        wire::render(&late, &delivery),
    ));
    let mut cancelled = event(EventKind::Updated, "17");
    cancelled.meaning = Some(Meaning::Cancelled);
    all.push((
        "updated-id-only-cancelled.txt".to_owned(),
        wire::render(&cancelled, &delivery),
    ));
    all
}

fn text(rendered: &Rendered) -> Vec<u8> {
    let mut head = String::new();
    writeln!(
        head,
        "content-type: {}",
        rendered.content_type.unwrap_or_default()
    )
    .unwrap();
    for (name, value) in &rendered.attributes {
        writeln!(head, "{name}: {value}").unwrap();
    }
    head.push('\n');
    [head.as_bytes(), &rendered.body].concat()
}

/// The examples, with their attributes read back from their files.
pub(crate) fn examples() -> Vec<Example> {
    rendered()
        .into_iter()
        .map(|(name, rendered)| {
            let golden = fs::read_to_string(root().join("schemas/examples-binary").join(&name)).unwrap();
            let (head, _) = golden.split_once("\n\n").unwrap();
            let attributes = head
                .lines()
                .skip(1)
                .map(|line| line.split_once(": ").unwrap())
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            Example {
                name,
                rendered,
                attributes,
            }
        })
        .collect()
}

#[test]
fn binary_notifications_are_byte_for_byte_what_the_examples_show() {
    let folder = root().join("schemas/examples-binary");
    for (name, rendered) in rendered() {
        assert_eq!(rendered.mode, Mode::Binary);
        let path = folder.join(&name);
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            fs::write(&path, text(&rendered)).unwrap();
        }
        let golden = fs::read(&path).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&text(&rendered)),
            String::from_utf8_lossy(&golden),
            "{name}"
        );
    }
    let kept: BTreeSet<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let made: BTreeSet<String> = rendered().into_iter().map(|(name, _)| name).collect();
    assert_eq!(kept, made);
}

#[test]
fn a_binary_body_is_the_data_of_the_structured_one_and_nothing_else() {
    let mut delivery = delivery(ContentLevel::FullResource);
    delivery.format = Format::CloudEventsBinary;
    let full = wire::render(&event(EventKind::Updated, "17"), &delivery);
    assert_eq!(full.body, body("3"));
    assert_eq!(full.content_type, Some("application/fhir+json"));
    delivery.content = ContentLevel::Empty;
    let empty = wire::render(&event(EventKind::Updated, "17"), &delivery);
    assert_eq!((empty.body.len(), empty.content_type), (0, None));
}

/// Keeps the one request that it is asked to send.
#[derive(Debug, Default)]
struct Kept(Mutex<Option<HttpRequest>>);

#[async_trait]
impl Http for Kept {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        *self.0.lock().unwrap() = Some(request);
        Ok(HttpResponse {
            status: http::StatusCode::NO_CONTENT,
            headers: http::HeaderMap::new(),
            body: Bytes::new(),
        })
    }
}

#[tokio::test]
async fn a_webhook_gets_binary_attributes_as_percent_encoded_ce_headers() {
    for example in examples() {
        let http = std::sync::Arc::new(Kept::default());
        let webhook = Webhook::new(Settings {
            url: "https://hooks.example.com/ehr".parse().unwrap(),
            keys: vec![SigningKey::from_bytes(&[5; 32]).unwrap()],
            http: std::sync::Arc::<Kept>::clone(&http),
            deadline: DEADLINE,
        });
        let event = event(EventKind::Updated, "17");
        let notification = Notification {
            event_id: event.id,
            connection: event.connection,
            key: event.key,
            kind: event.kind,
            rendered: example.rendered.clone(),
            replay: Replay::Original,
            trace: None,
        };
        webhook.deliver(&notification, event.recorded_at).await;
        let request = http.0.lock().unwrap().take().unwrap();
        assert_eq!(request.body, example.rendered.body);
        let header = |name: &str| {
            request
                .headers
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(header("content-type").as_deref(), example.rendered.content_type);
        let found: BTreeSet<(String, String)> = request
            .headers
            .iter()
            .filter_map(|(name, value)| {
                let name = name.as_str().strip_prefix("ce-")?;
                Some((name.to_owned(), value.to_str().unwrap().to_owned()))
            })
            .collect();
        let expected: BTreeSet<(String, String)> = example
            .attributes
            .iter()
            .map(|(name, value)| (name.clone(), value.replace('"', "%22")))
            .collect();
        assert_eq!(found, expected, "{}", example.name);
    }
}
