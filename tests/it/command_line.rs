//! The binary as scripts and operators see it: lines, exit codes, and which secrets a command asks for.

mod source;

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use courier_sdk::{Clock, ConnectionName, RecordId, RecordKey, RecordType};
use ehr_courier::clock::SystemClock;
use ehr_courier::destination::signature::SigningKey;
use ehr_courier::destination::webhook::{Settings, Webhook};
use ehr_courier::destination::{Attempt, Destination, Notification};
use ehr_courier::domain::delivery::Replay;
use ehr_courier::domain::event::EventKind;
use ehr_courier::domain::identity::EventId;
use ehr_courier::egress::client::{ClientOptions, GuardedClient};
use ehr_courier::egress::guard::AddressPolicy;
use ehr_courier::wire::{Mode, Rendered};
use serde_json::Value;
use source::{Pages, Scene, TOKEN};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const EVENT: &str = "ev_abcdefghijklmnopqrstuvwxyz234567";
const PATIENCE: Duration = Duration::from_secs(30);

/// The binary, in a folder, without the surroundings' settings.
fn binary(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ehr-courier"));
    command
        .current_dir(folder)
        .env_clear()
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn ended(mut command: Command) -> Output {
    timeout(PATIENCE, command.output()).await.unwrap().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Each line of the output, which must be JSON.
fn lines(output: &Output) -> Vec<Value> {
    let printed = text(&output.stdout);
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
    printed.lines().map(parse).collect()
}

fn succeeded(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

async fn poll(scene: &Scene, json: bool, environment: &[(&str, &str)]) -> Output {
    let mut arguments = vec!["poll", "--connection", "mercy", "--since", "2026-01-01T00:00:10Z"];
    if json {
        arguments.push("--json");
    }
    let mut command = binary(scene.folder.path(), &arguments);
    command.envs(environment.iter().copied());
    ended(command).await
}

#[tokio::test]
async fn a_dry_poll_needs_the_secrets_of_its_own_connection_only() {
    let scene = Scene::raise(Pages::One, "").await;
    let without = poll(&scene, true, &[]).await;
    assert_eq!(without.status.code(), Some(78));
    let said = text(&without.stderr);
    assert!(
        said.contains("SOURCE_TOKEN") && !said.contains("HOOK_SECRET"),
        "{said}"
    );
    let with = poll(&scene, true, &[("SOURCE_TOKEN", TOKEN)]).await;
    succeeded(&with);
    assert_eq!(lines(&with)[0]["record"], "Appointment/a11");
}

#[tokio::test]
async fn a_dry_poll_shows_no_row_from_before_the_instant_asked_for() {
    let scene = Scene::raise(Pages::Early, "").await;
    let rows = lines(&poll(&scene, true, &[("SOURCE_TOKEN", TOKEN)]).await);
    let records: Vec<&str> = rows.iter().map(|row| row["record"].as_str().unwrap()).collect();
    // The unstamped one cannot be judged, so it is shown.
    assert_eq!(records, ["Appointment/unstamped", "Appointment/a11"]);
}

#[tokio::test]
async fn a_dry_poll_says_that_it_stopped_at_its_page_limit_and_keeps_to_the_budget() {
    let scene = Scene::raise(Pages::Endless, "limits = { requests_per_second = 10 }\n").await;
    let begun = Instant::now();
    let polled = poll(&scene, true, &[("SOURCE_TOKEN", TOKEN)]).await;
    succeeded(&polled);
    assert_eq!(lines(&polled).len(), 20);
    let said = text(&polled.stderr);
    assert!(
        said.contains("note: appointments: stopped after 20 pages"),
        "{said}"
    );
    // A burst of ten, then ten more at ten a second.
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_dry_poll_shows_what_it_found_before_an_error() {
    let scene = Scene::raise(Pages::Broken, "").await;
    let polled = poll(&scene, true, &[("SOURCE_TOKEN", TOKEN)]).await;
    assert_eq!(polled.status.code(), Some(1));
    assert_eq!(lines(&polled)[0]["record"], "Appointment/a11");
    assert!(text(&polled.stderr).contains("500"), "{}", text(&polled.stderr));
}

#[tokio::test]
async fn listing_asks_for_no_secret_and_json_is_a_line_each() {
    let scene = Scene::raise(Pages::One, "").await;
    let folder = scene.folder.path();
    scene.deliver_one().await;

    let json = async |arguments: &[&str]| {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        ended(binary(folder, &arguments)).await
    };
    let listed = json(&["events", "list"]).await;
    succeeded(&listed);
    let id = lines(&listed)[0]["id"].as_str().unwrap().to_owned();

    let shown = json(&["events", "show", &id, "--body"]).await;
    succeeded(&shown);
    let shown = lines(&shown);
    assert_eq!(shown.len(), 1, "{shown:#?}");
    let body: Value = serde_json::from_str(shown[0]["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["id"], "a11");
    let bare = lines(&json(&["events", "show", &id]).await);
    assert_eq!(bare[0].get("body"), None);

    for arguments in [&["dead-letters", "list"][..], &["cursors", "show"]] {
        succeeded(&json(arguments).await);
    }
    succeeded(&json(&["events", "replay", &id]).await);
    for arguments in [&["dead-letters", "redrive"][..], &["events", "replay", EVENT]] {
        let nothing = json(arguments).await;
        assert_eq!(nothing.status.code(), Some(1), "{arguments:?}");
        assert!(!nothing.stderr.is_empty());
    }
}

#[tokio::test]
async fn a_listing_still_refuses_a_secret_that_stands_in_the_configuration() {
    let scene = Scene::raise(Pages::One, "").await;
    let path = scene.folder.path().join("courier.toml");
    let written = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, written.replace("env:HOOK_SECRET", "hunter2")).unwrap();
    let listed = ended(binary(scene.folder.path(), &["events", "list"])).await;
    assert_eq!(listed.status.code(), Some(78));
    assert!(text(&listed.stderr).contains("a secret must not stand in the configuration"));
}

#[tokio::test]
async fn check_shows_the_hours_in_which_a_source_is_spared() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[state]\nurl = \"sqlite://courier.db\"\nkey = \"none\"\n[connections.mercy]\n\
                base_url = \"https://ehr.example.com/fhir\"\n[connections.mercy.limits]\n\
                peak = { hours = \"07:00-19:00\", days = \"mon-fri\", zone = \"America/Chicago\", every = \"5m\" }\n\
                maintenance = [{ hours = \"23:30-01:00\", zone = \"UTC\" }]\n\
                [[connections.mercy.feeds]]\nrecord = \"Patient\"\n";
    std::fs::write(folder.path().join("courier.toml"), text).unwrap();
    let checked = ended(binary(folder.path(), &["check"])).await;
    succeeded(&checked);
    let said = self::text(&checked.stdout);
    for line in [
        "mercy: peak 07:00-19:00 mon,tue,wed,thu,fri America/Chicago, polled every 300s at most",
        "mercy: maintenance 23:30-01:00 every day UTC, not asked",
    ] {
        assert!(said.contains(line), "{said}");
    }
}

#[tokio::test]
async fn checked_configurations_list_what_weakens_protection_as_json_too() {
    let scene = Scene::raise(Pages::One, "").await;
    let mut command = binary(scene.folder.path(), &["check", "--json"]);
    command.env("SOURCE_TOKEN", TOKEN).env("HOOK_SECRET", SECRET);
    let checked = ended(command).await;
    succeeded(&checked);
    let notes: Vec<Value> = lines(&checked)
        .into_iter()
        .filter(|row| row.get("note").is_some())
        .collect();
    assert_eq!(notes.len(), 3, "{notes:#?}");
    assert_eq!(notes[0]["note"], "state.key: bodies are kept in plain text");
}

#[tokio::test]
async fn a_schema_is_one_line_of_json_when_lines_are_asked_for() {
    let folder = TempDir::new().unwrap();
    for which in ["config", "notification", "profile"] {
        let printed = ended(binary(folder.path(), &["schema", which, "--json"])).await;
        assert_eq!(lines(&printed).len(), 1);
    }
}

#[tokio::test]
async fn a_listener_prints_json_lines_only_and_says_where_it_is_beside_them() {
    let folder = TempDir::new().unwrap();
    let arguments = ["listen", "--port", "0", "--secret", SECRET, "--json", "--body"];
    let mut command = binary(folder.path(), &arguments);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let banner = timeout(PATIENCE, said.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let address = banner.strip_prefix("listening at ").unwrap().to_owned();

    assert!(matches!(post(&address).await, Attempt::Accepted { .. }));
    let mut printed = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = timeout(PATIENCE, printed.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&value["id"], &value["body"]),
        (&EVENT.into(), &"{\"synthetic\": 1.10}".into())
    );
    child.kill().await.unwrap();
}

#[tokio::test]
async fn a_sandbox_says_where_it_is_beside_its_json_lines() {
    let folder = TempDir::new().unwrap();
    let mut command = binary(folder.path(), &["sandbox", "--port", "0", "--json"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let banner = timeout(PATIENCE, said.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(banner.starts_with("sandbox EHR at http://127.0.0.1:"), "{banner}");
    child.kill().await.unwrap();
}

/// Posts a signed notification.
async fn post(address: &str) -> Attempt {
    let policy = AddressPolicy {
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        plain_http_networks: Vec::new(),
    };
    let webhook = Webhook::new(Settings {
        url: address.parse().unwrap(),
        keys: vec![SigningKey::parse(SECRET).unwrap()],
        http: Arc::new(GuardedClient::new(policy, &ClientOptions::default())),
        deadline: PATIENCE,
    });
    let notification = Notification {
        event_id: EventId::parse(EVENT).unwrap(),
        connection: ConnectionName::parse("mercy").unwrap(),
        key: RecordKey {
            record_type: RecordType::parse("Appointment").unwrap(),
            id: RecordId::parse("17").unwrap(),
        },
        kind: EventKind::Updated,
        rendered: Rendered {
            content_type: Some("application/cloudevents+json"),
            body: Bytes::from_static(b"{\"synthetic\": 1.10}"),
            mode: Mode::Structured,
            attributes: Vec::new(),
        },
        replay: Replay::Original,
        trace: None,
    };
    webhook.deliver(&notification, SystemClock.now()).await
}
