//! What the documents promise, held against what is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use courier_sdk::{ConnectionName, RecordId, RecordKey, RecordType};
use ehr_courier::config::{self, Environment, Secrets, Surroundings};
use ehr_courier::domain::canonical::ContentHash;
use ehr_courier::domain::identity::{EventId, VersionKey};
use ehr_courier::sandbox;
use jiff::Timestamp;

use super::report;
use super::source::{ends_in, root, sources, texts};

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// A link that leads nowhere says that the document was not read when the file moved.
#[test]
fn every_relative_link_of_a_document_leads_somewhere() {
    let mut offences = Vec::new();
    for (path, text) in texts().iter().filter(|(path, _)| ends_in(path, "md")) {
        let folder = root().join(Path::new(path).parent().unwrap());
        for (at, _) in text.match_indices("](") {
            let link = text[at + 2..].split(')').next().unwrap();
            let target = link.split('#').next().unwrap();
            let leaves = target.contains("://") || target.starts_with("mailto:");
            if !target.is_empty() && !leaves && !folder.join(target).exists() {
                offences.push(format!("{path}: {link}"));
            }
        }
    }
    report("these links lead nowhere", &offences);
}

/// The map is worth something only while it is whole.
#[test]
fn the_map_shows_every_module_and_every_crate() {
    let map = read("ARCHITECTURE.md");
    let mut missing = BTreeSet::new();
    for file in sources() {
        let words: Vec<&str> = file.words().collect();
        let place = match words.as_slice() {
            ["src", "main" | "lib"] => continue,
            ["src", module] => format!("src/{module}"),
            ["connectors", name, ..] => format!("connectors/{name}"),
            _ => continue,
        };
        if !map.contains(&format!("`{place}")) {
            missing.insert(place);
        }
    }
    report("ARCHITECTURE.md does not show", &Vec::from_iter(missing));
}

/// A switch that nobody can find is not tried.
#[test]
fn every_switch_of_the_sandbox_is_described() {
    let page = read("docs/sandbox.md");
    let names = sandbox::DIALECT_NAMES.iter().chain(&sandbox::FAULT_NAMES);
    let missing = names.filter(|name| !page.contains(&format!("`{name}`")));
    report(
        "docs/sandbox.md does not describe",
        &missing.map(ToString::to_string).collect::<Vec<_>>(),
    );
}

/// Each dependency is somebody's code in our process: it has a reason, written down.
#[test]
fn every_dependency_has_its_line() {
    let map = read("ARCHITECTURE.md");
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let missing: Vec<String> = manifest["workspace"]["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .filter(|name| !name.starts_with("ehr-courier") && !map.contains(&format!("`{name}`")))
        .cloned()
        .collect();
    report("ARCHITECTURE.md has no line on", &missing);
}

/// Others derive ids by this description: a changed id would make every version an event again.
#[test]
fn the_published_id_vectors_are_what_the_code_derives() {
    let map = read("ARCHITECTURE.md");
    let time: Timestamp = "2026-11-20T10:00:12.345Z".parse().unwrap();
    let hash = ContentHash::of_bytes(b"{}");
    let vectors = [
        ("mercy", "Appointment", "17", VersionKey::of_version_id("3")),
        ("mercy", "Patient", "p-1", VersionKey::of_time(time, &hash)),
        ("st_anne", "Observation", "a.b", VersionKey::of_content(&hash, 2)),
    ];
    for (connection, record_type, id, version) in vectors {
        let key = RecordKey {
            record_type: RecordType::parse(record_type).unwrap(),
            id: RecordId::parse(id).unwrap(),
        };
        let event_id = EventId::derive(&ConnectionName::parse(connection).unwrap(), &key, &version);
        let row = format!("| `{connection}` | `{record_type}` | `{id}` | `{version}` | `{event_id}` |");
        assert!(map.contains(&row), "{row}");
    }
}

/// What is copied from page one must run.
#[test]
fn the_readmes_configuration_is_valid() {
    let readme = read("README.md");
    let block = readme
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    let secret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let environment: Environment = [("SCHEDULING_SECRET".to_owned(), secret.to_owned())]
        .into_iter()
        .collect();
    let surroundings = Surroundings {
        environment: &environment,
        known_profiles: &courier_fhir::Profile::names(),
        includable: courier_fhir::includable,
        now: "2026-11-20T10:00:00Z".parse().unwrap(),
        secrets: Secrets::Required,
    };
    let read = config::from_text(Path::new("courier.toml"), block, &surroundings);
    assert!(read.is_ok(), "{}", read.unwrap_err());
    assert_eq!(
        block,
        read_without_head("deploy/examples/minimal.toml"),
        "page one and the smallest example are one text"
    );
}

/// An example without the comment at its head.
fn read_without_head(path: &str) -> String {
    let text = read(path);
    let body: Vec<&str> = text
        .lines()
        .skip_while(|line| line.starts_with('#') || line.is_empty())
        .collect();
    format!("{}\n", body.join("\n"))
}
