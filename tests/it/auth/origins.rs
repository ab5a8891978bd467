//! Tokens stay where they belong: whatever a source answers, nothing that lets us in reaches another origin.

use courier_sdk::{ConnectorError, PollRequest, Record};
use ehr_courier::config::Environment;
use ehr_courier::pipeline::connection::Connection;
use serde_json::json;
use tempfile::TempDir;
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::scene::connection;
use crate::smart::elliptic;

const TOKEN: &str = "canary-access-token";
const SECRET: &str = "canary-client-secret";

/// A source, and a stranger to whom it points. Both keep what they are sent.
struct Pair {
    source: MockServer,
    stranger: MockServer,
    folder: TempDir,
}

impl Pair {
    async fn raise() -> Self {
        let pair = Self {
            source: MockServer::start().await,
            stranger: MockServer::start().await,
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::write(pair.folder.path().join("token"), TOKEN).unwrap();
        std::fs::write(pair.folder.path().join("secret"), SECRET).unwrap();
        std::fs::write(pair.folder.path().join("key.pem"), elliptic().private).unwrap();
        // Whoever comes is welcome: what would be sent is what is looked at.
        let anything = json!({"resourceType": "Bundle", "type": "searchset", "access_token": "another"});
        Mock::given(wiremock::matchers::any())
            .respond_with(ResponseTemplate::new(200).set_body_json(anything))
            .mount(&pair.stranger)
            .await;
        pair
    }

    fn connection(&self, auth: &str) -> Connection {
        let text = format!(
            "[state]\nurl = \"sqlite://unused.db\"\nkey = \"none\"\n[connections.mercy]\n\
             base_url = \"{}/fhir\"\nallow_networks = [\"127.0.0.0/8\"]\nauth = {auth}\n\
             [[connections.mercy.feeds]]\nrecord = \"Appointment\"\nstart = \"beginning\"\n\
             detect = \"last-updated\"\ninclude = [\"Appointment:patient\"]\n",
            self.source.uri()
        );
        let path = self.folder.path().join("courier.toml");
        connection(&path, &text, &Environment::default())
    }

    async fn answers(&self, verb: &str, at: &str, template: ResponseTemplate) {
        Mock::given(method(verb))
            .and(path(at))
            .respond_with(template)
            .mount(&self.source)
            .await;
    }

    async fn strangers(&self) -> Vec<Request> {
        self.stranger.received_requests().await.unwrap()
    }
}

async fn poll(connection: &Connection) -> Result<(), ConnectorError> {
    let request = PollRequest {
        feed: &connection.feeds[0].spec,
        cursor: None,
        resume: None,
    };
    let page = connection.connector.poll(request).await?;
    if let courier_sdk::Next::Page(next) = page.next {
        let request = PollRequest {
            resume: Some(&next),
            ..request
        };
        connection.connector.poll(request).await?;
    }
    Ok(())
}

/// What of a request could let somebody in: its headers and its body.
fn whole(request: &Request) -> String {
    let body = String::from_utf8_lossy(&request.body);
    format!("{:?} {} {body}", request.headers, request.url)
}

const BEARER: &str = "{ type = \"bearer\", token = \"file:token\" }";

#[tokio::test]
async fn a_redirect_of_the_source_is_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let pair = Pair::raise().await;
        let elsewhere = format!("{}/fhir/Appointment", pair.stranger.uri());
        let redirect = ResponseTemplate::new(status).insert_header("location", elsewhere.as_str());
        pair.answers("GET", "/fhir/Appointment", redirect).await;
        poll(&pair.connection(BEARER)).await.unwrap_err();
        let asked = pair.source.received_requests().await.unwrap();
        assert!(
            asked
                .iter()
                .any(|request| request.headers.contains_key("authorization"))
        );
        assert_eq!(pair.strangers().await.len(), 0, "{status}");
    }
}

#[tokio::test]
async fn a_next_link_to_another_origin_is_not_followed() {
    let pair = Pair::raise().await;
    let bundle = json!({
        "resourceType": "Bundle", "type": "searchset",
        "link": [
            {"relation": "self", "url": format!("{}/fhir/Appointment?_lastUpdated=ge2020-01-01T00:00:00Z", pair.source.uri())},
            {"relation": "next", "url": format!("{}/fhir/Appointment?page=2", pair.stranger.uri())},
        ],
        "entry": [{"resource": {"resourceType": "Appointment", "id": "17",
            "meta": {"versionId": "1", "lastUpdated": "2026-01-01T00:00:00Z"}}, "search": {"mode": "match"}}],
    });
    let page = ResponseTemplate::new(200).set_body_raw(bundle.to_string(), "application/fhir+json");
    pair.answers("GET", "/fhir/Appointment", page).await;
    let refused = poll(&pair.connection(BEARER)).await.unwrap_err();
    assert!(refused.to_string().contains("another origin"), "{refused}");
    assert_eq!(pair.strangers().await.len(), 0);
}

#[tokio::test]
async fn a_reference_to_another_origin_is_missing_and_nobody_is_asked() {
    let pair = Pair::raise().await;
    let connection = pair.connection(BEARER);
    let body = json!({
        "resourceType": "Appointment", "id": "17",
        "participant": [
            {"actor": {"reference": format!("{}/fhir/Patient/1", pair.stranger.uri())}},
            {"actor": {"reference": "Patient/2"}},
        ],
    });
    let record = Record::new(bytes::Bytes::from(body.to_string()));
    let include = &connection.feeds[0].spec.include;
    let found = connection.connector.references(&record, include);
    assert_eq!(found.len(), 2);
    for reference in &found {
        if let Some(key) = &reference.key {
            drop(connection.connector.read_context(key).await);
        }
    }
    let elsewhere = found
        .iter()
        .find(|reference| reference.text.starts_with("http"))
        .unwrap();
    assert_eq!(elsewhere.key, None, "there is nothing to read it by");
    let asked = pair.source.received_requests().await.unwrap();
    assert!(
        asked
            .iter()
            .any(|request| request.url.path() == "/fhir/Patient/2")
    );
    assert_eq!(pair.strangers().await.len(), 0);
}

#[tokio::test]
async fn a_redirect_of_the_token_address_is_not_followed_with_secret_or_assertion() {
    for proof in ["client_secret = \"file:secret\"", "key = \"file:key.pem\""] {
        for status in [302, 307, 308] {
            let pair = Pair::raise().await;
            let elsewhere = format!("{}/token", pair.stranger.uri());
            let redirect = ResponseTemplate::new(status).insert_header("location", elsewhere.as_str());
            pair.answers("POST", "/token", redirect).await;
            let auth = format!(
                "{{ type = \"oauth2\", client_id = \"courier\", token_url = \"{}/token\", {proof} }}",
                pair.source.uri()
            );
            let refused = poll(&pair.connection(&auth)).await.unwrap_err().to_string();
            assert!(refused.contains("redirects are not followed"), "{refused}");
            assert!(!refused.contains(SECRET), "{refused}");
            assert_eq!(pair.source.received_requests().await.unwrap().len(), 1);
            assert_eq!(pair.strangers().await.len(), 0, "{proof} {status}");
        }
    }
}

#[tokio::test]
async fn a_token_endpoint_elsewhere_gets_the_assertion_and_never_the_token() {
    let pair = Pair::raise().await;
    let elsewhere = MockServer::start().await;
    let granted = json!({"access_token": TOKEN, "token_type": "bearer", "expires_in": 300});
    Mock::given(method("POST"))
        .and(path("/token"))
        .respond_with(ResponseTemplate::new(200).set_body_json(granted))
        .mount(&elsewhere)
        .await;
    let described = json!({"token_endpoint": format!("{}/token", elsewhere.uri())});
    let described = ResponseTemplate::new(200).set_body_json(described);
    pair.answers("GET", "/fhir/.well-known/smart-configuration", described)
        .await;
    let refusing = ResponseTemplate::new(401);
    pair.answers("GET", "/fhir/Appointment", refusing).await;
    let auth = "{ type = \"smart-backend-services\", client_id = \"courier\", key = \"file:key.pem\" }";
    let refused = poll(&pair.connection(auth)).await.unwrap_err();
    assert_eq!(refused.class(), "unauthorized", "{refused}");
    // One token, one more after the 401: each for an assertion of its own, and the source sees the tokens alone.
    let asked = elsewhere.received_requests().await.unwrap();
    assert_eq!(asked.len(), 2);
    for request in &asked {
        let shown = whole(request);
        assert!(shown.contains("client_assertion="), "{shown}");
        assert!(
            !shown.contains(TOKEN) && !request.headers.contains_key("authorization"),
            "{shown}"
        );
    }
    for request in pair.source.received_requests().await.unwrap() {
        let shown = whole(&request);
        assert!(!shown.contains("client_assertion"), "{shown}");
        let wanted = request.url.path() == "/fhir/Appointment";
        assert_eq!(request.headers.contains_key("authorization"), wanted, "{shown}");
    }
    assert_eq!(pair.strangers().await.len(), 0);
}
