//! Tidy: what the project's text must keep and no compiler checks. Each rule says why it is there.
//!
//! The direction of dependencies stands in [`layers`]; what documents promise is checked in [`documents`].

mod documents;
mod layers;
mod paths;
mod source;

use source::texts;
pub(crate) use source::{Source, root, sources};

/// A file longer than this is about more than one subject: it is no longer read, only searched.
const LINES_MAX: usize = 500;

/// Names under which anything can hide.
const NAMELESS: [&str; 7] = ["utils", "util", "helpers", "common", "misc", "manager", "handler"];

fn report(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn no_file_is_longer_than_one_subject() {
    let over = |file: &&Source| file.text.lines().count() > LINES_MAX;
    let offences: Vec<String> = sources()
        .iter()
        .filter(over)
        .map(|file| file.path.clone())
        .collect();
    report("cut these files in two by subject", &offences);
}

#[test]
fn every_file_has_a_name_that_says_what_it_is() {
    let offences: Vec<String> = sources()
        .iter()
        .filter(|file| file.path.ends_with("/mod.rs") || file.words().any(|word| NAMELESS.contains(&word)))
        .map(|file| file.path.clone())
        .collect();
    report("these files need a name of their own", &offences);
}

/// A module's head is where its reader learns what it guarantees and what it must not know.
#[test]
fn every_file_says_at_its_head_what_it_is() {
    let offences: Vec<String> = sources()
        .iter()
        .filter(|file| !file.is_test && !file.text.trim().is_empty() && !file.text.starts_with("//!"))
        .map(|file| file.path.clone())
        .collect();
    report("these files begin without //!", &offences);
}

/// A panic in a stage ends the process: outside tests every failure is a value. Clippy refuses most of these; it does
/// not see code behind a `cfg`.
#[test]
fn nothing_panics_on_purpose_outside_tests() {
    let banned = [".unwrap()", "todo!(", "unimplemented!(", "panic!(", "dbg!("];
    let mut offences = Vec::new();
    for file in sources().iter().filter(|file| !file.is_test) {
        for (number, line) in file.code() {
            for word in banned.iter().filter(|word| line.contains(**word)) {
                offences.push(format!("{}:{number}: {word}", file.path));
            }
        }
    }
    report("return an error instead", &offences);
}

/// A test that does not run proves nothing and looks as if it did.
#[test]
fn every_test_runs() {
    let mark = concat!("#[ign", "ore");
    let offences: Vec<String> = sources()
        .iter()
        .filter(|file| file.text.lines().any(|line| line.trim_start().starts_with(mark)))
        .map(|file| file.path.clone())
        .collect();
    report("run or delete the ignored tests of these files", &offences);
}

/// The project must build and read the same on every machine.
#[test]
fn no_text_names_a_folder_of_one_machine() {
    let folders = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
        concat!("/Us", "ers/"),
        concat!("/tm", "p/"),
        concat!("C:", "\\"),
    ];
    let mut offences = Vec::new();
    for (path, text) in texts() {
        for (number, line) in (1..).zip(text.lines()) {
            let starts_a_path = |at: usize| {
                let before = line.get(..at).and_then(|head| head.chars().next_back());
                // A longer relative path (`tests/work/…`) or an address is another thing.
                !before.is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | '>'))
            };
            let named = |folder: &&str| line.match_indices(*folder).any(|(at, _)| starts_a_path(at));
            if folders.iter().any(named) {
                offences.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    report("these lines name a folder that only one machine has", &offences);
}

#[test]
fn the_walk_finds_the_project() {
    let files = sources();
    for path in ["src/lib.rs", "connectors/sdk/src/lib.rs", "tests/it/tidy.rs"] {
        assert!(files.iter().any(|file| file.path == path), "{path}");
    }
    assert!(files.len() > 60 && root().join("Cargo.toml").exists());
}
