//! Who may know whom: the direction of dependencies, read from the paths that the code names.
//!
//! main → cli → app → everything; pipeline → traits, domain, wire; wire → domain → sdk; connectors → sdk; sdk → nothing.
//! A crate split would enforce this too, at the price of slower builds and public seams nobody else needs.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::{joined, module_of, named};
use super::report;
use super::source::{Source, root, sources};

/// A top-level module of `src/`, those of ours that it may name, and why no more.
const MODULES: [(&str, &[&str], &str); 17] = [
    (
        "domain",
        &[],
        "rules without I/O cannot fail and are tested by tables; they know no wire format and no store",
    ),
    (
        "clock",
        &[],
        "the one place that reads the machine's time has no other business",
    ),
    (
        "wire",
        &["domain"],
        "formats change for receivers and disks, not for whoever stores or sends them",
    ),
    (
        "dedup",
        &["domain"],
        "it may forget everything at any time: nothing may rest on it",
    ),
    (
        "store",
        &["domain", "wire"],
        "a store loads, asks the domain, writes; it starts nothing and sends nothing",
    ),
    (
        "egress",
        &[],
        "the guard judges addresses for connectors and webhooks alike",
    ),
    (
        "destination",
        &["domain", "egress", "wire"],
        "one bounded attempt: no store, no schedule, no memory; what does not speak HTTP dials through the guard",
    ),
    (
        "pipeline",
        &["dedup", "destination", "domain", "store", "wire"],
        "the stages see traits only, so that the simulation can put any store and destination behind them",
    ),
    (
        "operate",
        &["destination", "domain", "store", "wire"],
        "two ways lead in: it knows neither HTTP nor the command line",
    ),
    (
        "config",
        &["domain", "egress", "wire"],
        "it is complete before anything is opened; addresses are judged by the guard's own rule, templates by what fills them",
    ),
    ("sandbox", &[], "the witness shares no code with the accused"),
    (
        "receiver",
        &["destination", "domain"],
        "it checks what a stranger would check: the signature and the id",
    ),
    (
        "telemetry",
        &["domain"],
        "how logs, metrics and spans leave, not what they say",
    ),
    (
        "face",
        &[
            "dedup",
            "destination",
            "domain",
            "operate",
            "pipeline",
            "store",
            "telemetry",
            "wire",
        ],
        "it shows a worker, and lets operators ask it",
    ),
    (
        "app",
        &[
            "clock",
            "config",
            "dedup",
            "destination",
            "domain",
            "egress",
            "face",
            "operate",
            "pipeline",
            "store",
            "telemetry",
            "wire",
        ],
        "composition knows every part and nothing of the command line",
    ),
    (
        "cli",
        &[
            "app",
            "clock",
            "config",
            "dedup",
            "destination",
            "domain",
            "egress",
            "face",
            "operate",
            "pipeline",
            "receiver",
            "sandbox",
            "store",
            "telemetry",
            "wire",
        ],
        "the outermost layer",
    ),
    ("lib", &[], "it declares the modules"),
];

/// What a module's parts must not name though the module may name what holds it: traits, not implementations.
const TRAITS_ONLY: [(&str, &[&str]); 3] = [
    (
        "pipeline",
        &[
            "store::memory",
            "store::sqlite",
            "store::postgres",
            "dedup::memory",
            "dedup::redis",
            "destination::webhook",
            "destination::amqp",
            "destination::signature",
        ],
    ),
    ("face", &["store::memory", "store::sqlite", "store::postgres"]),
    ("receiver", &["destination::amqp"]),
];

/// Implementations of one trait: each can be removed without a look at the others.
const SIBLINGS: [(&str, &[&str]); 3] = [
    ("store", &["memory", "sqlite", "postgres"]),
    ("destination", &["webhook", "amqp"]),
    ("dedup", &["memory", "redis"]),
];

/// A library of others and the only places that may name it, so that replacing it stays a small change.
const LIBRARIES: [(&str, &[&str]); 15] = [
    ("async_compat", &["src/destination/amqp"]),
    ("lapin", &["src/destination/amqp"]),
    ("rusqlite", &["src/store/sqlite"]),
    // The collector of traces is the operator's own: it is reached past the guard.
    ("reqwest", &["src/egress", "src/telemetry/otlp"]),
    ("redis", &["src/dedup/redis", "src/app/dedup"]),
    ("jsonwebtoken", &["src/sandbox/smart"]),
    ("axum", &["src/face", "src/receiver", "src/sandbox"]),
    ("clap", &["src/cli"]),
    ("zstd", &["src/wire"]),
    ("schemars", &["src/config"]),
    ("metrics_exporter_prometheus", &["src/telemetry", "src/face"]),
    ("tracing_subscriber", &["src/telemetry"]),
    ("opentelemetry", &["src/telemetry/otlp"]),
    ("opentelemetry_otlp", &["src/telemetry/otlp"]),
    ("opentelemetry_sdk", &["src/telemetry/otlp"]),
];

/// The domain's functions take instants and draws as arguments and return values; a word of these would end that.
const NOT_IN_DOMAIN: [&str; 10] = [
    "async fn",
    ".await",
    "tokio",
    "tracing::",
    "std::fs",
    "std::net",
    "std::env",
    "serde::",
    "rand::",
    "Clock",
];

fn ours() -> Vec<Source> {
    let mut files = sources();
    files.retain(|file| file.path.starts_with("src/") && !file.is_test && file.path != "src/main.rs");
    files
}

#[test]
fn a_module_names_only_modules_below_it() {
    let known: BTreeMap<&str, &[&str]> = MODULES.iter().map(|(name, may, _)| (*name, *may)).collect();
    let mut offences = BTreeSet::new();
    for file in ours() {
        let top = module_of(&file).first().copied().unwrap_or_default().to_owned();
        let Some(may) = known.get(top.as_str()) else {
            offences.insert(format!(
                "{}: add its module to the table, with its place",
                file.path
            ));
            continue;
        };
        for (number, line) in joined(&file) {
            for path in named(&file, &line) {
                let target = path.split("::").next().unwrap_or_default();
                let is_module = known.contains_key(target);
                if is_module && target != top && !may.contains(&target) {
                    offences.insert(format!("{}:{number}: {top} names {path}", file.path));
                }
            }
        }
    }
    report("dependencies point the wrong way", &Vec::from_iter(offences));
}

#[test]
fn parts_see_traits_and_never_each_other() {
    let mut offences = BTreeSet::new();
    for file in ours() {
        let module = module_of(&file);
        let (top, part) = (module.first().copied(), module.get(1).copied());
        let mut banned: Vec<String> = Vec::new();
        for (of, paths) in TRAITS_ONLY {
            if top == Some(of) {
                banned.extend(paths.iter().map(|path| (*path).to_owned()));
            }
        }
        for (of, parts) in SIBLINGS {
            if top == Some(of) && part.is_some_and(|part| parts.contains(&part)) {
                let others = parts.iter().filter(|other| Some(**other) != part);
                banned.extend(others.map(|other| format!("{of}::{other}")));
            }
        }
        for (number, line) in joined(&file) {
            for path in named(&file, &line) {
                let hits = |ban: &String| path == *ban || path.starts_with(&format!("{ban}::"));
                if banned.iter().any(hits) {
                    offences.insert(format!("{}:{number}: {path}", file.path));
                }
            }
        }
    }
    report(
        "name the trait, not another implementation",
        &Vec::from_iter(offences),
    );
}

/// The crates of ours that a file may name; `None` for files that no rule concerns.
fn crates_for(path: &str) -> Option<&'static [&'static str]> {
    let is_outermost = ["src/app", "src/cli"].iter().any(|place| path.starts_with(place));
    if path.starts_with("connectors/sdk/") {
        Some(&[])
    } else if path == "src/main.rs" {
        Some(&["ehr_courier"])
    } else if is_outermost {
        Some(&["courier_sdk", "courier_auth", "courier_fhir", "courier_rest"])
    } else if path.starts_with("src/") || path.starts_with("connectors/") {
        Some(&["courier_sdk"])
    } else {
        None
    }
}

/// Only composition and the command line choose connectors; all others see `courier_sdk`.
#[test]
fn connectors_know_the_contract_and_only_the_outermost_layers_know_connectors() {
    let own_crates = [
        "courier_sdk",
        "courier_auth",
        "courier_fhir",
        "courier_rest",
        "ehr_courier",
    ];
    let mut offences = Vec::new();
    for file in sources().iter().filter(|file| !file.is_test) {
        let Some(allowed) = crates_for(&file.path) else {
            continue;
        };
        for (number, line) in file.code() {
            let names = |name: &&&str| line.contains(&format!("{name}::"));
            for name in own_crates
                .iter()
                .filter(names)
                .filter(|name| !allowed.contains(name))
            {
                offences.push(format!("{}:{number}: {name}", file.path));
            }
        }
    }
    report(
        "these lines name a crate of ours that they must not know",
        &offences,
    );
}

/// The manifest decides what can be named at all: so it is held to the same rule.
#[test]
fn a_connectors_manifest_depends_on_the_contract_and_on_nothing_else_of_ours() {
    let mut offences = Vec::new();
    for entry in std::fs::read_dir(root().join("connectors")).unwrap() {
        let path = entry.unwrap().path().join("Cargo.toml");
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let manifest: toml::Table = toml::from_str(&text).unwrap();
        let name = manifest["package"]["name"].as_str().unwrap();
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let table = manifest.get(kind).and_then(toml::Value::as_table);
            for dependency in table.into_iter().flat_map(toml::Table::keys) {
                let is_contract = dependency == "ehr-courier-sdk" && name != "ehr-courier-sdk";
                if dependency.starts_with("ehr-courier") && !is_contract {
                    offences.push(format!("{name}: {dependency}"));
                }
            }
        }
    }
    report("a connector depends on the sdk only", &offences);
}

#[test]
fn each_library_is_named_in_its_own_place_only() {
    let mut offences = Vec::new();
    for file in ours() {
        for (number, line) in file.code() {
            for (library, places) in LIBRARIES {
                let at = line.find(&format!("{library}::"));
                let starts_a_word = |at: usize| {
                    !line
                        .get(..at)
                        .is_some_and(|head| head.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
                };
                let outside = !places.iter().any(|place| file.path.starts_with(place));
                if outside && at.is_some_and(starts_a_word) {
                    offences.push(format!("{}:{number}: {library}", file.path));
                }
            }
        }
    }
    report("these libraries leak out of their place", &offences);
}

#[test]
fn the_domain_has_no_io_no_clock_no_chance_and_no_wire_format() {
    let mut offences = Vec::new();
    for file in ours().iter().filter(|file| file.path.starts_with("src/domain")) {
        for (number, line) in file.code() {
            for word in NOT_IN_DOMAIN.iter().filter(|word| line.contains(**word)) {
                offences.push(format!("{}:{number}: {word}", file.path));
            }
        }
    }
    report("the domain is pure", &offences);
}
