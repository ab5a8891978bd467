//! The configuration loader: what it refuses and how it says so, what it reads, and its schema.
//!
//! `config/*.toml` are broken configurations, each beside the exact text that refuses it. The texts and the
//! schema are rewritten only on request: `UPDATE_GOLDEN=1` and `UPDATE_SCHEMAS=1`.

mod overrides;
mod parts;

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use courier_sdk::{ConnectionName, FetchMode, Ids, Roster, Start};
use ehr_courier::config::{
    self, Auth, Config, ConfigErrors, Environment, Key, Secrets, Surroundings, Target,
};
use ehr_courier::domain::fan_out::{ConnectionSet, ContentLevel, From, Topic};
use ehr_courier::domain::ledger::Unchanged;
use jiff::Timestamp;
use proptest::prelude::*;
use secrecy::ExposeSecret;

const PROFILES: [&str; 3] = ["generic", "hapi", "medplum"];

/// A text that stands wherever a test puts a secret; no message may hold it.
const CANARY: &str = "hunter2";

fn environment(extra: &[(&str, &str)]) -> Environment {
    let signing_key = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let base = [
        ("SCHEDULING_SECRET", signing_key),
        ("WAREHOUSE_SECRET", signing_key),
        ("MERCY_PASSWORD", CANARY),
        ("HARBOR_TOKEN", CANARY),
        ("EMPTY", ""),
        ("SHORT_STATE_KEY", "aHVudGVyMg=="),
        ("ONE_BYTE_KEY", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="),
        ("SHORT_KEY", "whsec_aHVudGVyMg=="),
        ("ODD_KEY", "whsec_hunter2!"),
        ("AMQP_URL", "amqps://courier:hunter2@mq.mercy.example/ehr"),
        ("PRIVATE_AMQP_URL", "amqp://courier:hunter2@10.1.2.3/ehr"),
        ("ODD_AMQP_URL", "https://courier:hunter2@mq.mercy.example/ehr"),
        ("FACE_TOKEN", "hunter2-hunter2-hunter2"),
        ("SHORT_TOKEN", "hunter2"),
        ("ODD_TOKEN", "hunter2 hunter2 hunter2"),
    ];
    base.iter()
        .chain(extra)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn with<T>(extra: &[(&str, &str)], run: impl FnOnce(&Surroundings<'_>) -> T) -> T {
    let environment = environment(extra);
    let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
    run(&Surroundings {
        environment: &environment,
        known_profiles: &PROFILES,
        includable: courier_fhir::includable,
        now,
        secrets: Secrets::Required,
    })
}

fn read(text: &str, extra: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    with(extra, |surroundings| {
        config::from_text(Path::new("courier.toml"), text, surroundings)
    })
}

fn refused(text: &str, extra: &[(&str, &str)]) -> String {
    read(text, extra).unwrap_err().to_string()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    found
}

fn example(name: &str) -> String {
    fs::read_to_string(root().join("deploy/examples").join(name)).unwrap()
}

/// Tells whether someone asked for expected texts to be rewritten.
fn asked(name: &str) -> bool {
    std::env::vars_os().any(|(found, value)| found == name && value == "1")
}

#[test]
fn every_broken_configuration_is_refused_with_file_line_key_and_remedy() {
    let folder = root().join("tests/it/config");
    let broken = files(&folder, "toml");
    assert!(broken.len() >= 25, "{} broken configurations", broken.len());
    for path in broken {
        let name = path.file_name().unwrap().to_str().unwrap();
        let errors = with(&[], |surroundings| config::load(&path, surroundings))
            .expect_err(name)
            .to_string()
            .replace(&format!("{}/", folder.display()), "");
        let golden = path.with_extension("stderr");
        if asked("UPDATE_GOLDEN") {
            fs::write(&golden, &errors).unwrap();
        }
        assert_eq!(errors, fs::read_to_string(&golden).unwrap_or_default(), "{name}");
        assert!(!errors.contains(CANARY), "{name} shows a secret");
        assert!(errors.starts_with(name), "{name} does not name the file");
        let heads = errors.lines().filter(|line| line.starts_with(name)).count();
        let remedies = errors.lines().filter(|line| line.starts_with("  help: ")).count();
        assert_eq!(heads, remedies, "{name}: each problem has a remedy");
    }
}

#[test]
fn windows_rosters_and_lists_are_read_into_the_feeds() {
    let folder = root().join("tests/it/config");
    let text = example("minimal.toml").replace(
        "[[connections.mercy.feeds]]",
        "roster = \"file:ids.txt\"\n\n[[connections.mercy.feeds]]\nname = \"listed\"\nids = \"file:ids.txt\"\n\
         record = \"Task\"\n\n[[connections.mercy.feeds]]\nwindow = { parameter = \"date\", past = \"2d\" }",
    );
    let config = with(&[], |surroundings| {
        config::from_text(&folder.join("courier.toml"), &text, surroundings)
    });
    let config = config.unwrap();
    let feeds = &config.connections.values().next().unwrap().feeds;
    let ids = |ids: &Ids| ids.0.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        ids(&feeds[0].scope.ids),
        ["ap-1", "ap-2"],
        "each once, without comments"
    );
    let window = &feeds[1].scope.window;
    assert_eq!(window.parameter.as_deref(), Some("date"));
    assert_eq!(
        (window.past, window.future),
        (Some(Duration::from_hours(48)), None)
    );
    for feed in feeds {
        let Roster::Patients(patients) = &feed.scope.roster else {
            panic!()
        };
        assert_eq!(ids(patients).len(), 2);
    }
}

#[test]
fn what_is_left_out_takes_the_documented_default() {
    let config = read(&example("minimal.toml"), &[]).unwrap();
    assert_eq!(config.state.database, PathBuf::from("courier.db"));
    assert_eq!(config.state.retention, Duration::from_hours(7 * 24));
    assert!(matches!(config.state.key, Key::PlainText));
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
    let mercy = &config.connections[&ConnectionName::parse("mercy").unwrap()];
    assert_eq!(mercy.profile, "generic");
    assert_eq!(mercy.every, Duration::from_mins(1));
    assert!(matches!(mercy.auth, Auth::None));
    assert_eq!(mercy.limits.requests_per_second, None);
    assert_eq!(mercy.limits.concurrent.get(), 2);
    assert_eq!(mercy.limits.storm.map(NonZeroU32::get), Some(10));
    let feed = &mercy.feeds[0];
    assert_eq!(feed.name.as_str(), "Appointment");
    assert_eq!(feed.every, Duration::from_mins(1));
    assert_eq!(
        (feed.filter.as_str(), feed.start, feed.fetch),
        ("", Start::Now, FetchMode::FromPage)
    );
    assert_eq!((feed.overlap, feed.adapts), (Duration::from_mins(5), true));
    assert_eq!(feed.reconcile, Some(Duration::from_hours(24)));
    assert_eq!(feed.unchanged, Unchanged::Tell);
    assert_eq!(feed.spec().record_type.as_str(), "Appointment");
    let destination = config.destinations.values().next().unwrap();
    assert_eq!(destination.retry.len(), 10);
    assert_eq!(destination.retry[9], Duration::from_hours(24));
    let Target::Webhook { secret, .. } = &destination.target else {
        panic!("{destination:?}")
    };
    assert_eq!(secret.expose_secret().len(), 32);
    let subscription = config.subscriptions.values().next().unwrap();
    assert_eq!(subscription.connections, ConnectionSet::All);
    assert_eq!(subscription.topic, Topic::Any);
    assert_eq!(
        (subscription.from, subscription.content),
        (From::Now, ContentLevel::IdOnly)
    );
    assert_eq!(config.audits.len(), 1, "{:?}", config.audits);
}

#[test]
fn a_feed_takes_over_from_its_connection_what_becomes_of_unchanged_versions() {
    let text = example("minimal.toml").replace("record = ", "unchanged = \"tell\"\nrecord = ");
    let of = |text: &str| {
        let config = read(text, &[]).unwrap();
        config.connections.values().next().unwrap().feeds[0].unchanged
    };
    let suppressed = text.replace("base_url = ", "unchanged = \"suppress\"\nbase_url = ");
    assert_eq!(of(&suppressed), Unchanged::Tell);
    assert_eq!(
        of(&suppressed.replace("unchanged = \"tell\"\n", "")),
        Unchanged::Suppress
    );
    let wrong = refused(&text.replace("\"tell\"", "\"drop\""), &[]);
    assert!(
        wrong.contains("feeds[0].unchanged") && wrong.contains("\"suppress\""),
        "{wrong}"
    );
}

#[test]
fn a_storm_is_a_multiple_of_the_usual_or_never() {
    let text = |storm: &str| {
        example("minimal.toml").replace(
            "base_url = ",
            &format!("limits = {{ storm = {storm} }}\nbase_url = "),
        )
    };
    let of = |storm: &str| {
        let config = read(&text(storm), &[]).unwrap();
        let limits = &config.connections.values().next().unwrap().limits;
        limits.storm.map(NonZeroU32::get)
    };
    assert_eq!([of("0"), of("2"), of("1000")], [None, Some(2), Some(1_000)]);
    for wrong in ["1", "1001", "-1"] {
        assert!(refused(&text(wrong), &[]).contains("limits.storm"), "{wrong}");
    }
}

#[test]
fn what_is_written_is_what_is_read() {
    let config = read(&example("two-connections.toml"), &[]).unwrap();
    let mercy = &config.connections[&ConnectionName::parse("mercy").unwrap()];
    let Auth::Basic { user, password } = &mercy.auth else {
        panic!("{:?}", mercy.auth)
    };
    assert_eq!((user.as_str(), password.expose_secret()), ("courier", CANARY));
    assert_eq!(mercy.limits.requests_per_second.unwrap().get(), 5);
    assert_eq!(mercy.feeds[0].every, Duration::from_secs(30));
    assert_eq!(mercy.feeds[1].fetch, FetchMode::ByRead);
    assert_eq!(mercy.feeds[1].filter, "category=laboratory");
    let harbor = &config.connections[&ConnectionName::parse("harbor").unwrap()];
    assert_eq!(
        harbor.feeds[0].start,
        Start::At("2026-01-01T00:00:00Z".parse().unwrap())
    );
    let audits: Vec<String> = config.audits.iter().map(ToString::to_string).collect();
    assert_eq!(audits.len(), 5, "{audits:#?}");
    assert!(!format!("{config:?}").contains(CANARY));
    assert!(
        !format!("{config:?}").contains("category"),
        "search parameters can name patients"
    );
}

#[test]
fn no_slip_of_one_character_makes_a_literal_secret_visible() {
    let secrets =
        "auth = { type = \"basic\", user = \"courier\", password = \"hunter2\" } # hunter2\n\n[[connections";
    let text = example("minimal.toml").replacen("\n[[connections", secrets, 1);
    let text = text.replace("env:SCHEDULING_SECRET", "\"\"\nhunter2 = hunter2=\nhunter2==\"\"");
    let (_, text) = text.split_once("[state]").unwrap();
    assert!(read(text, &[]).is_err());
    for (at, old) in text.char_indices() {
        for new in ["", "\"", "=", "\n", "#", "[", "'"] {
            let slip = format!("{}{new}{}", &text[..at], &text[at + old.len_utf8()..]);
            let errors = refused(&slip, &[]);
            assert!(!errors.contains(CANARY), "{errors}");
        }
    }
}

#[test]
fn deeply_nested_text_is_refused() {
    for (open, close) in [("[", "]"), ("{ a = ", " }")] {
        let text = format!("x = {}1{}", open.repeat(10_000), close.repeat(10_000));
        assert!(refused(&text, &[]).contains("not TOML"));
    }
    assert!(read(&format!("[{}]", vec!["a"; 10_000].join(".")), &[]).is_err());
}

#[test]
fn a_file_that_cannot_be_read_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("courier.toml");
    let refuse = || {
        with(&[], |surroundings| config::load(&path, surroundings))
            .unwrap_err()
            .to_string()
    };
    assert!(
        refuse().contains("courier.toml: the file cannot be read: entity not found"),
        "{}",
        refuse()
    );
    fs::write(&path, b"[state]\nurl = \"\xff\"\n").unwrap();
    assert!(
        refuse().contains("courier.toml: line 2 is not UTF-8"),
        "{}",
        refuse()
    );
    fs::write(&path, example("minimal.toml")).unwrap();
    assert!(with(&[], |surroundings| config::load(&path, surroundings)).is_ok());
}

#[test]
fn a_secret_file_lies_beside_the_configuration_and_loses_one_newline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("courier.toml");
    let auth = "auth = { type = \"bearer\", token = \"file:token\" }\n\n[[connections";
    fs::write(
        &path,
        example("minimal.toml").replacen("\n[[connections", auth, 1),
    )
    .unwrap();
    let load = || with(&[], |surroundings| config::load(&path, surroundings));
    assert!(
        load()
            .unwrap_err()
            .to_string()
            .contains("the file cannot be read")
    );
    for (content, expected) in [
        ("abc", Some("abc")),
        ("abc\n", Some("abc")),
        ("abc\r\n", Some("abc")),
        ("abc\n\n", None),
        ("\n", None),
        ("", None),
    ] {
        fs::write(folder.path().join("token"), content).unwrap();
        let config = load();
        let found = config.as_ref().ok().map(|config| {
            let auth = &config.connections.values().next().unwrap().auth;
            let Auth::Bearer { token } = auth else {
                panic!("the token is not used: {auth:?}");
            };
            token.expose_secret().to_owned()
        });
        assert_eq!(found.as_deref(), expected, "{content:?}");
        if let Ok(config) = config {
            assert_eq!(config.state.database, folder.path().join("courier.db"));
        }
    }
}

#[test]
fn the_schema_file_is_the_one_that_the_code_generates() {
    let path = root().join("schemas/config.schema.json");
    let generated = format!("{}\n", serde_json::to_string_pretty(&config::schema()).unwrap());
    if asked("UPDATE_SCHEMAS") {
        fs::write(&path, &generated).unwrap();
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap_or_default(),
        generated,
        "run with UPDATE_SCHEMAS=1"
    );
}

#[test]
fn every_example_fits_the_schema_and_loads() {
    let validator = jsonschema::validator_for(&config::schema()).unwrap();
    let examples = files(&root().join("deploy/examples"), "toml");
    assert!(examples.len() >= 2);
    for path in examples {
        let text = fs::read_to_string(&path).unwrap();
        let value: serde_json::Value = toml::from_str(&text).unwrap();
        let problems: Vec<String> = validator
            .iter_errors(&value)
            .map(|error| error.to_string())
            .collect();
        assert_eq!(problems, Vec::<String>::new(), "{}", path.display());
        with(&[], |surroundings| config::load(&path, surroundings)).unwrap();
    }
}

#[test]
fn every_key_of_the_schema_is_documented() {
    let page = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let mut keys = BTreeSet::new();
    collect_keys(&config::schema(), &mut keys);
    assert!(keys.len() > 30, "{keys:?}");
    for key in &keys {
        let named = page.contains(&format!("`{key}`")) || page.contains(&format!(".{key}`"));
        assert!(
            named || page.contains(&format!("[{key}")),
            "{key} is not documented"
        );
    }
}

fn collect_keys(schema: &serde_json::Value, keys: &mut BTreeSet<String>) {
    if let Some(properties) = schema.get("properties").and_then(serde_json::Value::as_object) {
        for (key, child) in properties {
            keys.insert(key.clone());
            collect_keys(child, keys);
        }
    }
    for inner in ["additionalProperties", "items"] {
        if let Some(child) = schema.get(inner).filter(|child| child.is_object()) {
            collect_keys(child, keys);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_text_is_read_or_refused_but_never_panics(
        edits in prop::collection::vec((0..4000_usize, 0..40_usize, "[\\PC\n\"\\[\\]=#{},.]{0,6}"), 1..6)
    ) {
        let mut text: Vec<char> = example("two-connections.toml").chars().collect();
        for (at, removed, added) in edits {
            let at = at % text.len().max(1);
            let end = (at + removed).min(text.len());
            text.splice(at.min(end)..end, added.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = read(&text, &[]) {
            prop_assert!(errors.count() > 0);
            prop_assert!(!errors.to_string().contains(CANARY));
        }
    }

    #[test]
    fn swapped_words_are_read_or_refused_but_never_panic(
        swaps in prop::collection::vec((0..300_usize, 0..300_usize), 1..8)
    ) {
        let text = example("two-connections.toml");
        let mut words: Vec<&str> = text.split_inclusive([' ', '\n', '"', ',']).collect();
        for (from, to) in swaps {
            let (from, to) = (from % words.len(), to % words.len());
            words.swap(from, to);
        }
        if let Err(errors) = read(&words.concat(), &[]) {
            prop_assert!(errors.count() > 0);
        }
    }
}
