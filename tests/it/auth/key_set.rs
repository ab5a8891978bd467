//! The keys that the courier publishes: read by another library, and by a sandbox over HTTP through a rotation.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use courier_auth::{PublicKey, key_set};
use ehr_courier::egress::client::{ClientOptions, GuardedClient};
use ehr_courier::egress::guard::AddressPolicy;
use ehr_courier::sandbox::{Access, SmartClient};
use jwt_simple::prelude::{
    ECDSAP384PublicKeyLike, ES384PublicKey, NoCustomClaims, RS384PublicKey, RSAPublicKeyLike,
};
use secrecy::SecretString;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::Child;
use url::Url;

use super::scene::{Scene, get, lines, signal, start, until};
use crate::smart::{assertions, elliptic, rsa, rules};

fn bytes(key: &Value, member: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(key[member].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn another_library_checks_our_assertions_with_what_is_published() {
    let (first, second, third) = (rsa(), elliptic(), elliptic());
    let secret = |pem: &str| SecretString::from(pem);
    // Read of private and of public halves alike; the same key twice is one.
    let keys = [
        PublicKey::parse(&secret(&first.private), Some("2026-11")).unwrap(),
        PublicKey::parse(&secret(&second.public), None).unwrap(),
        PublicKey::parse(&secret(&second.private), None).unwrap(),
        PublicKey::parse(&secret(&third.public), None).unwrap(),
    ];
    let set = key_set(&keys).unwrap();
    assert!(
        !set.contains(r#""d":"#) && !set.contains(r#""p":"#),
        "public halves only"
    );
    let set: Value = serde_json::from_str(&set).unwrap();
    let published = set["keys"].as_array().unwrap();
    assert_eq!(published.len(), 3);
    let named = |id: &str| published.iter().find(|key| key["kid"] == id).unwrap();

    let signed = assertions(&first, Some("2026-11")).await;
    let key = named("2026-11");
    assert_eq!((&key["alg"], &key["use"]), (&"RS384".into(), &"sig".into()));
    let key = RS384PublicKey::from_components(&bytes(key, "n"), &bytes(key, "e")).unwrap();
    key.verify_token::<NoCustomClaims>(&signed[0], Some(rules("2026-11")))
        .unwrap();

    let signed = assertions(&second, None).await;
    let point = |key: &Value| [vec![4], bytes(key, "x"), bytes(key, "y")].concat();
    let verify = |id: &str| {
        let key = ES384PublicKey::from_bytes(&point(named(id))).unwrap();
        key.verify_token::<NoCustomClaims>(&signed[0], Some(rules(keys[1].id())))
    };
    assert_eq!(named(keys[1].id())["alg"], "ES384");
    verify(keys[1].id()).unwrap();
    assert!(verify(keys[3].id()).is_err(), "the check can fail");
}

/// A courier whose keys a sandbox reads where the courier publishes them.
struct Rotating {
    scene: Scene,
    listen: String,
    courier: Child,
}

impl Rotating {
    fn configure(scene: &Scene, listen: &str, keys: &str) {
        let auth = format!("{{ type = \"smart-backend-services\", client_id = \"courier\", {keys} }}");
        let text = scene.text(&auth, "none");
        let http = format!("[http]\nlisten = \"{listen}\"\ntokens = [\"file:token\"]\n");
        scene.write(
            "courier.toml",
            &text.replace("[http]\nlisten = \"127.0.0.1:0\"\n", &http),
        );
    }

    /// Reloads with these keys, and waits until it is in force.
    async fn reload(&self, keys: &str) {
        Self::configure(&self.scene, &self.listen, keys);
        let applied = async || {
            let (_, body) = get(&self.listen, "/readyz").await?;
            let report: Value = serde_json::from_str(&body).ok()?;
            (report["reload"]["state"] == "applied").then(|| report["reload"]["at"].to_string())
        };
        let before = applied().await;
        signal("HUP", &self.courier);
        until("the reload is applied", async || {
            applied().await.is_some_and(|at| Some(at) != before)
        })
        .await;
    }

    async fn published(&self) -> usize {
        let (head, body) = get(&self.listen, "/.well-known/jwks.json").await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("cache-control: public, max-age=300"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        let set: Value = serde_json::from_str(&body).unwrap();
        set["keys"].as_array().unwrap().len()
    }

    /// The source takes its tokens back: the next poll needs a new one, signed with the key in force.
    async fn asks_anew(&self) {
        let before = self.scene.ehr.tokens_granted();
        self.scene.ehr.revoke_tokens();
        until("a new token is granted", async || {
            self.scene.ehr.tokens_granted() > before
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_rotated_without_one_refused_poll() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = free.local_addr().unwrap().to_string();
    drop(free);
    let url = Url::parse(&format!("http://{listen}/.well-known/jwks.json")).unwrap();
    let policy = AddressPolicy {
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        plain_http_networks: Vec::new(),
    };
    let http = Arc::new(GuardedClient::new(policy, &ClientOptions::default()));
    let client = SmartClient::by_key_set("courier", url, http, Duration::from_mins(5));
    let scene = Scene::raise(Access::Smart(client)).await;
    let (old, new) = (elliptic(), rsa());
    scene.write("token", "a-token-that-only-we-have");
    scene.write("old.pem", &old.private);
    scene.write("new.pem", &new.private);
    scene.write("old-public.pem", &old.public);
    Rotating::configure(&scene, &listen, "key = \"file:old.pem\"");
    let courier = start(scene.folder.path(), &["run", "--log", "info"], &[], "log");
    let mut rotating = Rotating {
        scene,
        listen,
        courier,
    };
    until("the first token is granted", async || {
        rotating.scene.ehr.tokens_granted() == 1
    })
    .await;
    assert_eq!(rotating.published().await, 1);

    // Published, then used, then the old one goes.
    rotating
        .reload("key = \"file:old.pem\", other_keys = [{ key = \"file:new.pem\" }]")
        .await;
    assert_eq!(rotating.published().await, 2);
    rotating.asks_anew().await;
    rotating
        .reload("key = \"file:new.pem\", other_keys = [{ key = \"file:old-public.pem\" }]")
        .await;
    assert_eq!(rotating.published().await, 2);
    rotating.asks_anew().await;
    rotating.reload("key = \"file:new.pem\"").await;
    assert_eq!(rotating.published().await, 1);
    rotating.asks_anew().await;

    signal("TERM", &rotating.courier);
    rotating.courier.wait().await.unwrap();
    let lines = lines(rotating.scene.folder.path(), "log");
    let refused = lines.iter().find(|line| {
        let level = line["level"].as_str().unwrap_or_default();
        level == "WARN" || level == "ERROR"
    });
    assert!(refused.is_none(), "{refused:?}");
    let granted = lines.iter().filter(|line| line["message"] == "token granted");
    assert!(granted.count() >= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_where_nobody_signs() {
    let scene = Scene::raise(Access::Open).await;
    scene.write("courier.toml", &scene.text("{ type = \"none\" }", "none"));
    let _courier = start(scene.folder.path(), &["run", "--log", "info"], &[], "log");
    until("it answers that there are none", async || {
        let lines = lines(scene.folder.path(), "log");
        let running = lines
            .iter()
            .find(|line| line["message"] == "ehr-courier is running");
        let Some(address) = running.and_then(|line| line["listen"].as_str()) else {
            return false;
        };
        let answered = get(address, "/.well-known/jwks.json").await;
        answered.is_some_and(|(head, _)| head.starts_with("HTTP/1.1 404"))
    })
    .await;
}
