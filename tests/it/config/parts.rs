//! `courier.d`: what stands in several files is one configuration; and what a reload compares.

use std::fs;
use std::net::SocketAddr;

use courier_sdk::ConnectionName;
use ehr_courier::config::{self, Audit, Config, ConfigErrors};
use ehr_courier::domain::name::DestinationName;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::{CANARY, example, with};

const CONNECTION: &str =
    "base_url = \"https://ehr.harbor.example/\"\n[[connections.harbor.feeds]]\nrecord = \"Patient\"\n";

/// A folder with the minimal example as main file, and these files in `courier.d`.
fn folder(parts: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "courier.toml", &example("minimal.toml"));
    fs::create_dir(folder.path().join("courier.d")).unwrap();
    for (name, text) in parts {
        write(&folder, &format!("courier.d/{name}"), text);
    }
    folder
}

fn write(folder: &TempDir, name: &str, text: &str) {
    fs::write(folder.path().join(name), text).unwrap();
}

fn load(folder: &TempDir) -> Result<Config, ConfigErrors> {
    let path = folder.path().join("courier.toml");
    with(&[], |surroundings| config::load(&path, surroundings))
}

/// What refuses the folder, without its path.
fn refused(folder: &TempDir) -> String {
    let errors = load(folder).unwrap_err().to_string();
    assert!(!errors.contains(CANARY), "{errors}");
    errors.replace(&format!("{}/", folder.path().display()), "")
}

fn harbor() -> String {
    format!("[connections.harbor]\n{CONNECTION}")
}

#[test]
fn the_files_of_courier_d_add_connections_destinations_and_subscriptions() {
    let subscription =
        "[[subscriptions]]\nname = \"harbor\"\nconnections = [\"harbor\"]\ndestination = \"other\"\n";
    let destination = "[destinations.other]\ntype = \"webhook\"\nurl = \"https://hooks.example.com/\"\nsecret = \"file:key\"\n";
    let folder = folder(&[
        // References hold in any order of the files.
        ("10-subscription.toml", subscription),
        ("20-destination.toml", destination),
        ("30-harbor.toml", &harbor()),
        ("harbor.toml~", "not TOML"),
        (".harbor.toml", "not TOML"),
        ("README", "not TOML"),
    ]);
    assert!(refused(&folder).contains("courier.d/20-destination.toml:4:10: destinations.other.secret"));
    // Beside the file that names it, not beside the main file.
    write(
        &folder,
        "courier.d/key",
        "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    );
    let config = load(&folder).unwrap();
    assert_eq!(config.connections.len(), 2);
    assert_eq!(config.destinations.len(), 2);
    assert_eq!(config.subscriptions.len(), 2);
    assert_eq!(config.state.database, folder.path().join("courier.db"));
}

#[test]
fn a_name_that_stands_in_two_files_is_refused_with_both_places() {
    let main = example("minimal.toml");
    let subscription = "\n[[subscriptions]]\nname = \"twice\"\ndestination = \"scheduling\"\n";
    let folder = folder(&[
        ("a.toml", &format!("{}{subscription}", harbor())),
        ("b.toml", &format!("# a comment\n{}{subscription}", harbor())),
    ]);
    let errors = refused(&folder);
    for expected in [
        "courier.d/b.toml:2:14: connections.harbor: also in courier.d/a.toml:1",
        "courier.d/b.toml:8:8: subscriptions[0].name: also in courier.d/a.toml:6",
        "  help: give each a name of its own, or remove one of the two",
    ] {
        assert!(errors.contains(expected), "{expected}\n{errors}");
    }
    assert!(main.contains("[destinations.scheduling]"));
}

#[test]
fn a_problem_in_a_part_is_shown_with_the_parts_file_and_line() {
    let folder = folder(&[
        (
            "a.toml",
            "[state]\nkey = \"none\"\n\n[http]\nlisten = \"0.0.0.0:1\"\n",
        ),
        (
            "b.toml",
            &format!("\n{}evry = \"5s\"\n", "[connections.harbor]\n"),
        ),
        (
            "c.toml",
            "[[subscriptions]]\nname = \"c\"\nconnections = [\"habor\"]\ndestination = \"scheduling\"\n",
        ),
        ("d.toml", "[[subscriptions]]\nname = \"hunter2\n"),
    ]);
    let errors = refused(&folder);
    for expected in [
        "courier.d/a.toml:1:2: state: not in courier.d",
        "help: move [state] to the main file; here stand connections, destinations, subscriptions",
        "courier.d/a.toml:4:2: http: not in courier.d",
        "courier.d/b.toml:3:1: connections.harbor.evry: unknown key",
        "courier.d/d.toml:2:",
    ] {
        assert!(errors.contains(expected), "{expected}\n{errors}");
    }
    // What a file that is not TOML might have said is not known: no more is said of the whole.
    assert!(!errors.contains("base_url"), "{errors}");
    write(&folder, "courier.d/d.toml", "");
    let errors = refused(&folder);
    for expected in [
        "courier.d/b.toml:2:14: connections.harbor.base_url: missing",
        "courier.d/c.toml:3:16: subscriptions[0].connections: there is no [connections.habor]",
        "help: write \"harbor\", or add [connections.habor]",
    ] {
        assert!(errors.contains(expected), "{expected}\n{errors}");
    }
}

#[test]
fn a_part_that_cannot_be_read_is_refused_with_the_reason() {
    let folder = folder(&[]);
    fs::create_dir(folder.path().join("courier.d/x.toml")).unwrap();
    assert!(refused(&folder).contains("courier.d/x.toml: this is a folder"));
    fs::remove_dir(folder.path().join("courier.d/x.toml")).unwrap();
    fs::write(folder.path().join("courier.d/y.toml"), b"\n\xff\n").unwrap();
    assert!(refused(&folder).contains("courier.d/y.toml: line 2 is not UTF-8"));
    fs::remove_dir_all(folder.path().join("courier.d")).unwrap();
    write(&folder, "courier.d", "a file");
    assert!(refused(&folder).contains("courier.toml: courier.d: the folder cannot be read"));
}

#[test]
fn with_tokens_the_listener_may_leave_loopback() {
    let text = example("minimal.toml");
    let http = "[http]\nlisten = \"0.0.0.0:8080\"\ntokens = [\"env:FACE_TOKEN\"]\n\n[connections";
    let config = super::read(&text.replacen("[connections", http, 1), &[]).unwrap();
    assert_eq!(config.http.listen, SocketAddr::from(([0, 0, 0, 0], 8080)));
    assert_eq!(config.http.tokens[0].expose_secret(), "hunter2-hunter2-hunter2");
    assert!(!format!("{config:?}").contains(CANARY));
}

#[test]
fn a_type_that_is_a_servers_own_is_noted() {
    let text = example("minimal.toml").replace("record = \"Appointment\"", "record = \"Bot\"");
    let config = super::read(&text, &[]).unwrap();
    let noted = |audit: &Audit| {
        audit
            .to_string()
            .contains("connections.mercy.feeds[0].record: FHIR knows no Bot")
    };
    assert!(config.audits.iter().any(noted), "{:?}", config.audits);
}

#[test]
fn a_reload_sees_what_changed_and_what_did_not() {
    let folder = folder(&[("harbor.toml", &harbor())]);
    let (mercy, harbor_name) = (
        ConnectionName::parse("mercy").unwrap(),
        ConnectionName::parse("harbor").unwrap(),
    );
    let scheduling = DestinationName::parse("scheduling").unwrap();
    let was = load(&folder).unwrap();
    assert!(was.is_same_as(&load(&folder).unwrap()));

    // Another place in another file is no change.
    fs::remove_file(folder.path().join("courier.d/harbor.toml")).unwrap();
    let main = example("minimal.toml");
    write(
        &folder,
        "courier.toml",
        &format!("# moved\n\n{main}\n{}", harbor()),
    );
    let moved = load(&folder).unwrap();
    assert!(was.is_same_as(&moved) && was.needs_restart(&moved).is_none());

    let edited = harbor().replace("[[", "every = \"5s\"\n[[");
    write(&folder, "courier.toml", &format!("{main}\n{edited}"));
    let now = load(&folder).unwrap();
    assert!(!was.is_same_as(&now));
    assert!(was.keeps_connection(&now, &mercy) && !was.keeps_connection(&now, &harbor_name));
    assert!(was.keeps_destination(&now, &scheduling));

    // A secret that changed behind its reference.
    let with_file = main.replace("env:SCHEDULING_SECRET", "file:key");
    write(
        &folder,
        "key",
        "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    );
    write(&folder, "courier.toml", &with_file);
    let was = load(&folder).unwrap();
    write(
        &folder,
        "key",
        "whsec_BBECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    );
    let now = load(&folder).unwrap();
    assert!(!was.keeps_destination(&now, &scheduling) && was.keeps_connection(&now, &mercy));

    // Tokens are taken over; what only a restart changes is refused with its place.
    let http = with_file.replacen(
        "[connections",
        "[http]\ntokens = [\"env:FACE_TOKEN\"]\n[connections",
        1,
    );
    write(&folder, "courier.toml", &http);
    let tokens = load(&folder).unwrap();
    assert!(!now.is_same_as(&tokens) && now.needs_restart(&tokens).is_none());
    let listen = http.replace("tokens =", "listen = \"127.0.0.1:9000\"\ntokens =");
    write(&folder, "courier.toml", &listen);
    let errors = now.needs_restart(&load(&folder).unwrap()).unwrap().to_string();
    assert!(
        errors.contains("http.listen: changed, which needs a restart\n"),
        "{errors}"
    );
    assert!(
        errors.contains("courier.toml:") && errors.contains("help: restart the service"),
        "{errors}"
    );
    let back = load(&folder).unwrap().needs_restart(&tokens).unwrap().to_string();
    assert!(
        back.contains("courier.toml: http.listen: changed, which needs a restart"),
        "{back}"
    );
}
