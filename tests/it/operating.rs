//! Operating the real binary: through the control socket while it runs, on the store itself while it does not.

mod recovering;
mod slices;
mod ward;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;
use ward::{PATIENCE, Ward, mode, said};

#[tokio::test(flavor = "multi_thread")]
async fn the_control_socket_is_the_owners_alone_and_a_stale_one_is_replaced() {
    let ward = Ward::raise("1h").await;
    let socket = ward.path("courier.db.sock");
    let mut killed = ward.start().await;
    assert_eq!(mode(&socket), 0o600);
    assert!(!ward.path("courier.db.sock.d").exists());
    killed.kill().await.unwrap();
    assert!(socket.exists(), "a killed service leaves its socket");
    ward.rows(&["subscriptions", "list"]).await;

    let service = ward.start().await;
    assert_eq!(mode(&socket), 0o600);
    ward.rows(&["subscriptions", "pause", "all"]).await;
    ward.end(service).await;
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_a_socket_is_replaced_and_a_path_too_long_is_refused() {
    let ward = Ward::raise("1h").await;
    let socket = ward.path("courier.db.sock");
    std::fs::write(&socket, "somebody's notes").unwrap();
    let refused = ward.ask(&["run"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("is not a socket"), "{}", said(&refused));
    assert_eq!(std::fs::read(&socket).unwrap(), b"somebody's notes");

    let deep = TempDir::new().unwrap();
    let path = deep.path().join("a".repeat(100)).join("courier.db");
    let folder = path.parent().unwrap();
    std::fs::create_dir(folder).unwrap();
    let text = std::fs::read_to_string(ward.path("courier.toml")).unwrap();
    let elsewhere = text.replace("sqlite://courier.db", &format!("sqlite://{}", path.display()));
    std::fs::write(ward.path("courier.toml"), elsewhere).unwrap();
    let refused = ward.ask(&["run"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("shorter path"), "{}", said(&refused));
}

/// What reads, what finds nothing, and what is refused: nothing that changes a later answer.
fn questions(id: &str) -> Vec<Vec<&str>> {
    vec![
        vec!["events", "list"],
        vec!["events", "list", "--record", "Location/r1", "--limit", "1"],
        vec![
            "events",
            "list",
            "--connection",
            "mercy",
            "--since",
            "2100-01-01T00:00:00Z",
        ],
        vec!["events", "list", "--connection", "nowhere"],
        vec!["events", "list", "--limit", "0"],
        vec!["events", "show", id],
        vec!["events", "show", id, "--body"],
        vec!["events", "show", "ev_abcdefghijklmnopqrstuvwxyz234567"],
        vec!["events", "show", "ev 1"],
        vec!["events", "replay", id, "--subscription", "nobody"],
        vec!["dead-letters", "list"],
        vec!["dead-letters", "list", "--destination", "nobody"],
        vec!["dead-letters", "redrive"],
        vec!["quarantine", "list"],
        vec!["quarantine", "redrive", "--connection", "mercy"],
        vec!["cursors", "show"],
        vec![
            "cursors",
            "set",
            "--connection",
            "mercy",
            "--feed",
            "beds",
            "--back",
            "1h",
        ],
        vec![
            "cursors",
            "set",
            "--connection",
            "mercy",
            "--feed",
            "rooms",
            "--to",
            "2100-01-01T00:00:00Z",
        ],
        vec!["subscriptions", "list"],
        vec!["subscriptions", "resume", "all"],
        vec!["subscriptions", "pause", "nobody"],
        vec!["destinations", "test", "nobody"],
        vec!["audit"],
    ]
}

/// Command line, exit code, output and errors of each question, as tables and as JSON.
async fn answers(ward: &Ward, asked: &[Vec<&str>]) -> Vec<(String, Option<i32>, String, String)> {
    let mut answers = Vec::new();
    for arguments in asked {
        for json in [false, true] {
            let mut arguments = arguments.clone();
            if json {
                arguments.push("--json");
            }
            let output = ward.ask(&arguments).await;
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            answers.push((arguments.join(" "), output.status.code(), printed, said(&output)));
        }
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_answer_the_same_with_and_without_a_service() {
    let mut ward = Ward::raise("1h").await;
    let id = ward.write("r1", "Synthetic room one");
    let service = ward.start().await;
    assert_eq!(ward.next().await.id, id);
    ward.until(&["events", "list"], "done", 1).await;
    let asked = questions(&id);
    let with = answers(&ward, &asked).await;
    ward.end(service).await;
    let without = answers(&ward, &asked).await;
    for (with, without) in with.iter().zip(&without) {
        assert_eq!(with, without);
    }
    let code = |index: usize| with[2 * index].1;
    assert_eq!(
        [code(0), code(3), code(4), code(8)],
        [Some(0), Some(1), Some(64), Some(64)]
    );
    assert!(with[6].3.contains("there are mercy"), "{}", with[6].3);
    let row: Value = serde_json::from_str(&with[1].2).unwrap();
    assert_eq!((&row["done"], &row["pending"]), (&json!(1), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_paused_and_resumed_through_the_socket() {
    let mut ward = Ward::raise("1s").await;
    let service = ward.start().await;
    ward.write("r1", "Synthetic room one");
    assert_eq!(ward.next().await.sequence, 1);
    let paused = ward.rows(&["subscriptions", "pause", "all"]).await;
    assert_eq!(
        paused[0],
        json!({ "subscription": "all", "state": "paused", "changed": true })
    );
    ward.write("r2", "Synthetic room two");
    let list = ["subscriptions", "list"];
    ward.until(&list, "last_number", 2).await;
    ward.end(service).await;

    let service = ward.start().await;
    ward.write("r1", "Synthetic room one, painted");
    ward.until(&list, "last_number", 3).await;
    let row = &ward.rows(&list).await[0];
    assert_eq!((&row["state"], &row["pending"]), (&json!("paused"), &json!(2)));
    assert!(ward.is_quiet(), "a pause outlives the service");
    ward.rows(&["subscriptions", "resume", "all"]).await;
    let mut numbers = [ward.next().await.sequence, ward.next().await.sequence];
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3], "numbers went on");
    ward.until(&list, "pending", 0).await;
    ward.end(service).await;
    let trail = ward.rows(&["audit"]).await;
    let actions: Vec<&str> = trail.iter().map(|row| row["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["subscriptions resume", "subscriptions pause"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_moved_under_a_running_service_and_forward_only_with_a_further_word() {
    let mut ward = Ward::raise("1s").await;
    let service = ward.start().await;
    ward.write("r1", "Synthetic room one");
    ward.next().await;
    let place = ["--connection", "mercy", "--feed", "rooms"];
    let set = |aim: &[&'static str]| [&["cursors", "set"][..], &place, aim].concat();
    let moved = ward.rows(&set(&["--to", "2020-01-01T00:00:00Z"])).await;
    assert_eq!(moved[0]["to"], "2020-01-01T00:00:00Z");
    assert_eq!(moved[0]["skipped"], false);
    // The feed is shown again from there, knows what it shows, and comes forward again.
    timeout(PATIENCE, async {
        while ward.rows(&["cursors", "show"]).await[0]["cursor"] == "2020-01-01T00:00:00Z" {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    ward.write("r2", "Synthetic room two");
    assert_eq!(
        ward.next().await.subject,
        "Location/r2",
        "what is known is not announced again"
    );
    ward.end(service).await;

    let forward = ward.ask(&set(&["--to", "2026-01-01T00:00:00Z"])).await;
    assert!(forward.status.success(), "back again: {}", said(&forward));
    let forward = ward.ask(&set(&["--to", "2026-01-02T00:00:00Z"])).await;
    assert_eq!(forward.status.code(), Some(1));
    assert!(said(&forward).contains("--yes"), "{}", said(&forward));
    let forward = ward.rows(&set(&["--to", "2026-01-02T00:00:00Z", "--yes"])).await;
    assert_eq!(forward[0]["skipped"], true);
    let usage = ward.ask(&set(&[])).await;
    assert_eq!(usage.status.code(), Some(64));
    let trail = ward.rows(&["audit", "--limit", "1"]).await;
    assert_eq!(trail[0]["subject"], "mercy/rooms");
    assert_eq!(
        trail[0]["detail"],
        "from 2026-01-01T00:00:00Z to 2026-01-02T00:00:00Z"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_is_tested_with_a_signed_sample_of_synthetic_data() {
    let mut ward = Ward::raise("1h").await;
    let service = ward.start().await;
    let with = ward.rows(&["destinations", "test", "hook"]).await;
    assert_eq!(
        (&with[0]["accepted"], &with[0]["detail"]),
        (&json!(true), &json!("204"))
    );
    let arrived = ward.next().await;
    assert_eq!(arrived.subject, "Basic/ehr-courier-test");
    assert_eq!(with[0]["id"], arrived.id);
    ward.end(service).await;

    let without = ward.rows(&["destinations", "test", "hook"]).await;
    assert_eq!(without[0]["id"], ward.next().await.id);
    assert_ne!(with[0]["id"], without[0]["id"], "each sample is a new one");
    assert!(
        ward.rows(&["events", "list"]).await.is_empty(),
        "a sample is no event"
    );

    let text = std::fs::read_to_string(ward.path("courier.toml")).unwrap();
    let hook = text.find("[destinations.hook]").unwrap();
    let (head, tail) = text.split_at(hook);
    let nowhere = tail.replacen("http://127.0.0.1:", "http://127.0.0.1:1/not-", 1);
    std::fs::write(ward.path("courier.toml"), format!("{head}{nowhere}")).unwrap();
    let failed = ward.ask(&["destinations", "test", "hook"]).await;
    assert_eq!(failed.status.code(), Some(1));
    assert!(said(&failed).contains("did not accept"), "{}", said(&failed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_with_connect_names_how_each_feed_is_found_and_who_does_not_answer() {
    let ward = Ward::raise("1h").await;
    // The sandbox offers a type once it has a record of it.
    ward.write("r1", "Synthetic room one");
    let good = ward.rows(&["check", "--connect"]).await;
    let feed = good
        .iter()
        .find(|row| row["feed"] == "rooms" && row["outcome"] == "ok")
        .unwrap();
    for name in ["detection", "why", "order", "deletes"] {
        assert!(!feed[name].as_str().unwrap().is_empty(), "{name}: {feed}");
    }
    let hook = good.iter().find(|row| row["destination"] == "hook").unwrap();
    assert_eq!(hook["reached"], true);

    let text = std::fs::read_to_string(ward.path("courier.toml")).unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let more = format!(
        "[connections.closed]\nbase_url = \"http://{silent}/\"\nallow_networks = [\"127.0.0.0/8\"]\n\
         [[connections.closed.feeds]]\nrecord = \"Patient\"\n"
    );
    std::fs::write(ward.path("courier.toml"), format!("{text}{more}")).unwrap();
    let mixed = ward.ask(&["check", "--connect"]).await;
    assert_eq!(mixed.status.code(), Some(1));
    let printed = String::from_utf8(mixed.stdout.clone()).unwrap();
    assert!(printed.contains("closed/Patient: failed"), "{printed}");
    assert!(
        printed.contains("mercy/rooms: "),
        "the others are asked all the same: {printed}"
    );
    assert!(said(&mixed).contains("1 of 3"), "{}", said(&mixed));
}
