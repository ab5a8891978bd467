//! The refresh-token grant against the sandbox, which replaces the token at each use and withdraws all at a reuse.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use ehr_courier::config::Environment;
use ehr_courier::sandbox::{Access, RefreshClient};
use futures_util::future::join_all;

use super::scene::{Scene, lines, poll, signal, start, until};

const FIRST: &str = "hunter2-first-refresh-token";

fn client(secret: Option<&str>, rotates: bool) -> Access {
    Access::Refresh(RefreshClient {
        id: "courier".to_owned(),
        secret: secret.map(str::to_owned),
        first: FIRST.to_owned(),
        rotates,
        token_lifetime: Duration::from_mins(5),
    })
}

/// The `auth` of a public client, with further keys.
fn auth(scene: &Scene, reference: &str, more: &str) -> String {
    format!(
        "{{ type = \"refresh-token\", client_id = \"courier\", token_url = \"{}/auth/token\", \
         refresh_token = \"{reference}\"{more} }}",
        scene.base_url
    )
}

#[tokio::test]
async fn a_refresh_token_that_changes_at_each_use_survives_restarts() {
    let scene = Scene::raise(client(Some("s"), true)).await;
    scene.write("first", FIRST);
    scene.write("secret", "s");
    let more = ", client_secret = \"file:secret\", scope = \"user/*.rs\"";
    let text = scene.text(&auth(&scene, "file:first", more), "none");
    for start in 1..=4 {
        let connection = scene.connection(&text);
        for polled in join_all((0..20).map(|_| poll(&connection))).await {
            assert!(polled.unwrap() > 0);
        }
        assert_eq!(
            scene.ehr.tokens_granted(),
            start,
            "twenty polls at once use it once"
        );
    }
    let connection = scene.connection(&text);
    poll(&connection).await.unwrap();
    scene.ehr.revoke_tokens();
    assert!(
        poll(&connection).await.unwrap() > 0,
        "a 401 is answered by one new token"
    );
    assert_eq!(scene.ehr.tokens_granted(), 6);
    assert_eq!(std::fs::read_to_string(scene.path("first")).unwrap(), FIRST);
}

#[tokio::test]
async fn a_server_that_leaves_the_refresh_token_as_it_is_is_asked_with_it_again() {
    let scene = Scene::raise(client(None, false)).await;
    scene.write("first", FIRST);
    let text = scene.text(&auth(&scene, "file:first", ""), "none");
    for _ in 0..3 {
        assert!(poll(&scene.connection(&text)).await.unwrap() > 0);
    }
    assert_eq!(scene.ehr.tokens_granted(), 3);
    assert!(
        !scene.path("courier.db.tokens/mercy").exists(),
        "there is nothing to keep"
    );
}

#[tokio::test]
async fn a_spent_refresh_token_is_refused_clearly_and_a_new_one_is_taken_up() {
    let scene = Scene::raise(client(None, true)).await;
    scene.write("first", FIRST);
    let text = scene.text(&auth(&scene, "file:first", ""), "none");
    poll(&scene.connection(&text)).await.unwrap();
    scene.ehr.withdraw_refresh_token();
    let refused = poll(&scene.connection(&text)).await.unwrap_err();
    assert_eq!(refused.class(), "unauthorized", "{refused}");
    let said = refused.to_string();
    assert!(
        said.contains("invalid_grant (the refresh token has expired, was withdrawn"),
        "{said}"
    );
    assert!(
        said.contains("put the new token where `refresh_token` refers to"),
        "{said}"
    );
    assert!(!said.contains("hunter2") && !said.contains("refresh-0"), "{said}");

    // Authorized anew: the new token takes the place of what was kept of the old one.
    let again = Scene::raise(Access::Refresh(RefreshClient {
        id: "courier".to_owned(),
        secret: None,
        first: "hunter2-second".to_owned(),
        rotates: true,
        token_lifetime: Duration::from_mins(5),
    }))
    .await;
    scene.write("first", "hunter2-second");
    let text = text.replace(scene.base_url.as_str(), again.base_url.as_str());
    for _ in 0..2 {
        assert!(poll(&scene.connection(&text)).await.unwrap() > 0);
    }
    assert_eq!(again.ehr.tokens_granted(), 2);
}

#[tokio::test]
async fn a_refresh_token_is_not_used_where_its_successor_could_not_be_kept() {
    let scene = Scene::raise(client(None, true)).await;
    // A file stands where the folder belongs.
    scene.write("courier.db.tokens", "");
    let environment: Environment = [("FIRST".to_owned(), FIRST.to_owned())].into_iter().collect();
    let text = scene.text(&auth(&scene, "env:FIRST", ""), "none");
    let connection = scene.connection_with(&text, &environment);
    let refused = poll(&connection).await.unwrap_err();
    assert_eq!(refused.class(), "transient", "{refused}");
    let said = refused.to_string();
    assert!(
        said.contains("cannot be written") && said.contains("not used before"),
        "{said}"
    );
    assert_eq!(scene.ehr.tokens_granted(), 0);
    std::fs::remove_file(scene.path("courier.db.tokens")).unwrap();
    assert!(poll(&scene.connection_with(&text, &environment)).await.unwrap() > 0);
}

#[tokio::test]
async fn two_couriers_of_one_folder_never_use_one_refresh_token_twice() {
    let scene = Arc::new(Scene::raise(client(None, true)).await);
    scene.write("first", FIRST);
    let text = scene.text(&auth(&scene, "file:first", ""), "none");
    let each = (0..8).map(|_| async { poll(&scene.connection(&text)).await });
    for polled in join_all(each).await {
        assert!(polled.unwrap() > 0);
    }
    assert_eq!(scene.ehr.tokens_granted(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_killed_and_started_again_goes_on_with_the_kept_token_and_poll_works_beside_it() {
    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let scene = Scene::raise(client(None, true)).await;
    let folder = scene.folder.path();
    scene.write(
        "courier.toml",
        &scene.text(&auth(&scene, "env:FIRST", ""), "env:STATE_KEY"),
    );
    let variables = [("FIRST", FIRST), ("STATE_KEY", KEY)];
    for round in 1..=3 {
        let log = format!("log-{round}");
        let mut courier = start(folder, &["run", "--log", "info"], &variables, &log);
        until("the service has a token", async || {
            scene.ehr.tokens_granted() >= round * 2 - 1
        })
        .await;
        let arguments = ["poll", "--connection", "mercy"];
        let polled = start(folder, &arguments, &variables, "poll-log")
            .wait()
            .await
            .unwrap();
        let said = std::fs::read_to_string(folder.join("poll-log")).unwrap();
        assert!(polled.success(), "{said}");
        assert_eq!(scene.ehr.tokens_granted(), round * 2);
        signal(if round == 2 { "TERM" } else { "KILL" }, &courier);
        courier.wait().await.unwrap();
        let lines = lines(folder, &log);
        assert!(
            !lines.iter().any(|line| line["message"] == "no token"),
            "{lines:#?}"
        );
        let told = lines.iter().any(|line| {
            let message = line["message"].as_str().unwrap_or_default();
            message
                .starts_with("the server replaced the refresh token: the new one is kept beside the database")
        });
        assert_eq!(told, round == 1, "told once: {lines:#?}");
    }
    // Sealed, and for nobody else's eyes.
    let kept = scene.path("courier.db.tokens/mercy");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&kept), mode(kept.parent().unwrap())), (0o600, 0o700));
    let bytes = std::fs::read(&kept).unwrap();
    assert_eq!(bytes[0], 2, "encrypted");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            assert!(
                !text.contains(FIRST) && !text.contains("refresh-0"),
                "{}",
                path.display()
            );
        }
    }
}
