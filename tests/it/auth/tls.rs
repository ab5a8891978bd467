//! Certificates on both sides, against a server that really checks them.

use std::time::Duration;

use ehr_courier::config::Environment;
use ehr_courier::sandbox::{Access, RefreshClient};

use super::authority::{Authority, Behind, Holds};
use super::scene::{connection, lines, poll, signal, start, until};

const CA: &str = "tls = { ca = \"file:ca.pem\" }";
const BOTH: &str =
    "tls = { ca = \"file:ca.pem\", client_cert = \"file:client.pem\", client_key = \"file:client.key\" }";

fn open(_: &url::Url) -> Access {
    Access::Open
}

fn public(_: &url::Url) -> Access {
    Access::Refresh(RefreshClient {
        id: "courier".to_owned(),
        secret: None,
        first: "hunter2-first".to_owned(),
        rotates: true,
        token_lifetime: Duration::from_mins(5),
    })
}

async fn polled(behind: &Behind, text: &str) -> Result<usize, String> {
    let path = behind.folder.path().join("courier.toml");
    let connection = connection(&path, text, &Environment::default());
    poll(&connection).await.map_err(|error| error.to_string())
}

async fn refused(behind: &Behind, lines: &str) -> String {
    let error = polled(behind, &behind.text(lines)).await.unwrap_err();
    assert!(!error.contains("BEGIN") && !error.contains("hunter2"), "{error}");
    error
}

#[tokio::test]
async fn a_source_of_a_private_authority_is_polled_where_that_is_named_and_only_there() {
    let (ours, others) = (Authority::new(), Authority::new());
    let behind = Behind::raise(&ours.sign(Holds::Still), None, open, "127.0.0.1").await;
    behind.write("ca.pem", &format!("{}{}", others.pem(), ours.pem()));
    assert!(polled(&behind, &behind.text(CA)).await.unwrap() > 0);
    let expected = "an authority that is not trusted here: name it as `ca`";
    let error = refused(&behind, "").await;
    assert!(error.contains(expected), "{error}");
    behind.write("ca.pem", &others.pem());
    let error = refused(&behind, CA).await;
    assert!(error.contains(expected), "{error}");

    let expired = Behind::raise(&ours.sign(Holds::NoMore), None, open, "127.0.0.1").await;
    expired.write("ca.pem", &ours.pem());
    let error = refused(&expired, CA).await;
    assert!(error.contains("the server's certificate has expired"), "{error}");
}

#[tokio::test]
async fn a_source_that_wants_a_client_certificate_is_shown_it_for_tokens_and_for_polls() {
    let (ours, others) = (Authority::new(), Authority::new());
    let behind = Behind::raise(&ours.sign(Holds::Still), Some(&ours), public, "127.0.0.1").await;
    behind.write("ca.pem", &ours.pem());
    behind.write("first", "hunter2-first");
    let auth = format!(
        "auth = {{ type = \"refresh-token\", client_id = \"courier\", token_url = \"{}/auth/token\", \
         refresh_token = \"file:first\" }}\n",
        behind.base_url
    );
    let error = refused(&behind, &format!("{auth}{CA}")).await;
    assert!(
        error.contains("wants a client certificate: name it as `client_cert`"),
        "{error}"
    );
    for (authority, holds, expected) in [
        (
            &others,
            Holds::Still,
            "the server does not accept our client certificate",
        ),
        (
            &ours,
            Holds::NoMore,
            "the server says that our client certificate has expired",
        ),
    ] {
        let client = authority.sign(holds);
        behind.write("client.pem", &client.certificate);
        behind.write("client.key", &client.key);
        let error = refused(&behind, &format!("{auth}{BOTH}")).await;
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(behind.ehr.tokens_granted(), 0);
    let client = ours.sign(Holds::Still);
    behind.write("client.pem", &client.certificate);
    behind.write("client.key", &client.key);
    assert!(
        polled(&behind, &behind.text(&format!("{auth}{BOTH}")))
            .await
            .unwrap()
            > 0
    );
    assert_eq!(behind.ehr.tokens_granted(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_up_certificates_that_changed_in_their_files() {
    let (ours, others) = (Authority::new(), Authority::new());
    let behind = Behind::raise(&ours.sign(Holds::Still), None, open, "127.0.0.1").await;
    let folder = behind.folder.path();
    behind.write("ca.pem", &others.pem());
    behind.write("courier.toml", &behind.text(CA));
    let mut courier = start(folder, &["run", "--log", "info"], &[], "log");
    let said = |text: &str| {
        std::fs::read_to_string(folder.join("log"))
            .unwrap()
            .contains(text)
    };
    until("the wrong authority is told of", async || {
        said("not trusted here")
    })
    .await;
    assert!(behind.ehr.ledger().is_empty());
    behind.write("ca.pem", &ours.pem());
    signal("HUP", &courier);
    until("it polls", async || !behind.ehr.ledger().is_empty()).await;
    signal("TERM", &courier);
    assert!(courier.wait().await.unwrap().success());
    assert!(
        lines(folder, "log")
            .iter()
            .all(|line| !line.to_string().contains("BEGIN"))
    );
}
