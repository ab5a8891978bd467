//! The canary test: a name, a record number, a token and a signing key go in, and come out in notifications only.

use std::path::Path;
use std::process::Output;

use ehr_courier::config::Environment;
use serde_json::{Value, json};

use super::leaks::{self, MRN, NAME, TOKEN, found_in};
use super::scene::{Receiver, Scene, Source, terminate};
use crate::composed;

pub(super) fn record() -> Value {
    json!({
        "resourceType": "Appointment", "id": "a1", "status": "booked",
        "meta": { "versionId": "1", "lastUpdated": "2026-01-01T00:00:11.000Z" },
        "identifier": [{ "system": "urn:synthetic", "value": MRN }],
        "subject": { "display": NAME },
        "text": { "div": format!("<div>{NAME} {MRN} {TOKEN}</div>") },
    })
}

/// Everything that came out, each with where from.
#[derive(Default)]
pub(super) struct Outputs(pub(super) Vec<(String, Vec<u8>)>);

impl Outputs {
    pub(super) fn add(&mut self, from: &str, bytes: impl Into<Vec<u8>>) {
        self.0.push((from.to_owned(), bytes.into()));
    }

    pub(super) fn add_output(&mut self, from: &str, output: Output) {
        self.add(&format!("{from}: standard output"), output.stdout);
        self.add(&format!("{from}: standard error"), output.stderr);
    }

    pub(super) fn hold_no_canary(&self) {
        for (from, bytes) in &self.0 {
            let found = found_in(bytes);
            // The canary itself is not repeated here: this message is searched too.
            assert!(found.is_empty(), "{from}: {} spellings of canaries", found.len());
        }
    }
}

struct Case {
    source: Source,
    receiver: Receiver,
    log: &'static str,
    feed: String,
}

/// Runs the service at the lowest level of logging, asks every page, then every command that lists.
async fn outputs(case: &Case) -> (Scene, Outputs) {
    let scene = Scene::raise(record()).await;
    scene.with(|seen| {
        seen.source = case.source;
        seen.receiver = case.receiver;
    });
    let telemetry = format!(
        "[telemetry]\nlog = \"{}\"\notlp_endpoint = \"{}\"",
        case.log, scene.base
    );
    scene.configure(&telemetry, &case.feed, "[\"1s\"]");
    let secret = leaks::signing_secret();
    let environment = [("SOURCE_TOKEN", TOKEN), ("HOOK_SECRET", secret.as_str())];
    let service = scene.start(&["run", "--log", "trace"], &environment);
    let notifies = case.source == Source::Well;
    scene
        .until("requests", |seen| {
            // Two attempts are the whole schedule: after the second there is a dead letter.
            let attempts = if case.receiver == Receiver::Echoes { 2 } else { 1 };
            // A connection that is not authorised is set aside after its first request.
            let polls = if case.source == Source::Unauthorized { 1 } else { 2 };
            seen.asked >= polls && (!notifies || seen.notified.len() >= attempts)
        })
        .await;
    let mut outputs = Outputs::default();
    for path in ["/metrics", "/readyz", "/healthz", "/no-such-page"] {
        outputs.add(path, scene.page(path).await);
    }
    terminate(service).await;
    let log = scene.log();
    assert!(log.contains("lease acquired"), "it was logged");
    assert_eq!(
        log.trim_start().starts_with('{'),
        case.log == "json",
        "in the format asked for"
    );
    outputs.add("the log", log);
    for json in [false, true] {
        for command in [
            &["check"][..],
            &["poll", "--connection", "mercy"],
            &["events", "list"],
            &["events", "list", "--record", "Appointment/a1"],
            &["dead-letters", "list"],
            &["quarantine", "list"],
            &["cursors", "show"],
            &["dead-letters", "redrive"],
            &["quarantine", "redrive", "--connection", "mercy"],
        ] {
            let mut arguments = command.to_vec();
            arguments.extend(["--log", "trace"]);
            if json {
                arguments.push("--json");
            }
            let ended = scene.run(&arguments, &environment).await;
            outputs.add_output(&command.join(" "), ended);
        }
    }
    scene.with(|seen| {
        for bytes in &seen.exported {
            outputs.add("a trace", bytes.to_vec());
        }
    });
    (scene, outputs)
}

async fn leaks_nothing(source: Source, receiver: Receiver) -> Scene {
    let mut last = None;
    for log in ["text", "json"] {
        let fetch = if source == Source::Unreadable {
            "fetch = \"read\"\n"
        } else {
            ""
        };
        // The query of every search holds the number too.
        let feed = format!("where = \"identifier={MRN}\"\n{fetch}");
        let case = Case {
            source,
            receiver,
            log,
            feed,
        };
        let (scene, outputs) = outputs(&case).await;
        assert!(outputs.0.len() > 30);
        outputs.hold_no_canary();
        last = Some(scene);
    }
    last.unwrap()
}

#[tokio::test]
async fn a_day_without_faults_leaks_nothing_and_the_notification_says_it_all() {
    let scene = leaks_nothing(Source::Well, Receiver::Accepts).await;
    let (headers, body) = scene.with(|seen| seen.notified[0].clone());
    assert!(found_in(&body).len() >= 3, "the canaries were there to leak");
    assert!(found_in(format!("{headers:?}").as_bytes()).is_empty());
    assert!(scene.with(|seen| !seen.exported.is_empty()), "traces were sent");
    let listed = scene.run(&["events", "list", "--json"], &[]).await;
    let row: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let id = row["id"].as_str().unwrap().to_owned();
    let shown = scene.run(&["events", "show", &id], &[]).await;
    assert!(shown.status.success());
    assert!(found_in(&shown.stdout).is_empty());
    // The control: what is asked for is shown, and the search finds it.
    let body = scene.run(&["events", "show", &id, "--body"], &[]).await;
    assert!(!found_in(&body.stdout).is_empty());
}

#[tokio::test]
async fn a_receiver_that_echoes_what_it_is_sent_leaks_nothing() {
    let scene = leaks_nothing(Source::Well, Receiver::Echoes).await;
    let dead = scene.run(&["dead-letters", "list", "--json"], &[]).await;
    // They were redriven by the commands: owed again, in the words of the last attempt.
    assert!(dead.status.success());
    assert!(scene.with(|seen| seen.notified.len()) >= 2);
}

#[tokio::test]
async fn a_source_that_echoes_credentials_with_401_leaks_nothing() {
    leaks_nothing(Source::Unauthorized, Receiver::Accepts).await;
}

#[tokio::test]
async fn a_source_that_fails_with_the_record_in_its_answer_leaks_nothing() {
    leaks_nothing(Source::Broken, Receiver::Accepts).await;
}

#[tokio::test]
async fn an_answer_that_is_no_json_leaks_nothing() {
    leaks_nothing(Source::Malformed, Receiver::Accepts).await;
}

#[tokio::test]
async fn a_record_that_may_not_be_read_leaks_nothing() {
    leaks_nothing(Source::Unreadable, Receiver::Accepts).await;
}

/// Secrets written where references belong, and files that cannot be read at all.
#[tokio::test]
async fn a_refused_configuration_repeats_no_secret() {
    let scene = Scene::raise(record()).await;
    scene.configure("", "", "[\"1s\"]");
    let path = scene.folder.path().join("courier.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    let secret = leaks::signing_secret();
    let broken = [
        good.replace("env:SOURCE_TOKEN", TOKEN),
        good.replace("env:HOOK_SECRET", &secret),
        good.replace("token = \"env:SOURCE_TOKEN\"", &format!("tokn = \"{TOKEN}\"")),
        good.replace("/hook/a-path", &format!("/hook#{TOKEN}")),
        good.replace("http://127.0.0.1", &format!("http://user:{TOKEN}@127.0.0.1")),
        good.replace(
            "name = \"appointments\"",
            &format!("where = \"identifier={MRN}&_count={NAME}\""),
        ),
        format!("{good}\ntoken = \"{TOKEN}"),
    ];
    let mut outputs = Outputs::default();
    for (number, text) in broken.into_iter().enumerate() {
        assert_ne!(text, good, "case {number} breaks something");
        std::fs::write(&path, text).unwrap();
        for command in [&["check"][..], &["run"], &["poll", "--connection", "mercy"]] {
            let ended = scene
                .run(command, &[("SOURCE_TOKEN", TOKEN), ("HOOK_SECRET", &secret)])
                .await;
            assert_eq!(ended.status.code(), Some(78), "case {number}, {command:?}");
            outputs.add_output(&format!("case {number}, {}", command.join(" ")), ended);
        }
    }
    std::fs::write(&path, &good).unwrap();
    for environment in [
        // Not a key at all, and keys that are not the kind they should be.
        [("SOURCE_TOKEN", "\u{7}"), ("HOOK_SECRET", leaks::SIGNING_KEY)],
        [("COURIER__HTTP__TOKENS", TOKEN), ("HOOK_SECRET", &secret)],
        [("COURIER__STATE__KEY", TOKEN), ("COURIER__STATE__URL", TOKEN)],
        [("OTEL_EXPORTER_OTLP_ENDPOINT", TOKEN), ("HOOK_SECRET", &secret)],
    ] {
        let ended = scene.run(&["check", "--log", "trace"], &environment).await;
        assert!(!ended.status.success());
        outputs.add_output(&format!("with {}", environment[0].0), ended);
    }
    let listening = scene.start(&["listen", "--port", "0", "--secret", &secret], &[]);
    let started = async {
        while std::fs::read_to_string(scene.folder.path().join("stdout.log"))
            .unwrap_or_default()
            .is_empty()
            && scene.log().is_empty()
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(super::scene::PATIENCE, started)
        .await
        .unwrap();
    terminate(listening).await;
    outputs.add(
        "listen",
        std::fs::read(scene.folder.path().join("stdout.log")).unwrap(),
    );
    outputs.add("listen", scene.log());
    outputs.hold_no_canary();
}

/// What a panic prints is what `Debug` shows.
#[test]
fn debug_shows_no_canary() {
    let secret = leaks::signing_secret();
    let environment: Environment = [("SOURCE_TOKEN", TOKEN), ("HOOK_SECRET", &secret)]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let text = "[state]\nurl = \"sqlite://courier.db\"\nkey = \"none\"\n\
                [connections.mercy]\nbase_url = \"https://ehr.example.com/\"\n\
                auth = { type = \"bearer\", token = \"env:SOURCE_TOKEN\" }\n\
                [[connections.mercy.feeds]]\nrecord = \"Patient\"\n\
                [destinations.hook]\ntype = \"webhook\"\nurl = \"https://hooks.example.com/\"\nsecret = \"env:HOOK_SECRET\"\n";
    let config = composed::config(Path::new("courier.toml"), text, &environment);
    let body = bytes::Bytes::from(record().to_string());
    let rendered = ehr_courier::wire::Rendered {
        content_type: Some("application/cloudevents+json"),
        body: body.clone(),
        mode: ehr_courier::wire::Mode::Structured,
        attributes: Vec::new(),
    };
    let shown = [
        format!("{config:?}"),
        format!("{environment:?}"),
        format!("{:?}", courier_sdk::Record::new(body)),
        format!("{rendered:?}"),
    ];
    for text in shown {
        assert!(found_in(text.as_bytes()).is_empty());
    }
}
