//! A refresh token between the server's answer and the disk: nobody who asked needs to be there any more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use courier_auth::{Client, Endpoint, Grant, Keeper, Settings, Tokens, Turn, Unkept};
use courier_sdk::{Credentials, Http, HttpError, HttpRequest, HttpResponse};
use ehr_courier::clock::SystemClock;
use http::{HeaderMap, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Notify;
use url::Url;

/// A token endpoint that answers when it is let, with a new refresh token.
#[derive(Default)]
struct Slow {
    asked: Notify,
    answer: Notify,
    requests: AtomicUsize,
}

#[async_trait]
impl Http for Slow {
    async fn send(&self, _request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        self.asked.notify_one();
        self.answer.notified().await;
        Ok(HttpResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from(format!(
                r#"{{"access_token":"access-{number}","refresh_token":"refresh-{number}","expires_in":300}}"#
            )),
        })
    }
}

/// A keeper in memory that can be told to fail.
#[derive(Default)]
struct Memory {
    token: Mutex<String>,
    fails: Mutex<bool>,
}

struct MemoryTurn(Arc<Memory>, SecretString);

struct Kept(Arc<Memory>);

#[async_trait]
impl Keeper for Kept {
    async fn begin(&self) -> Result<Box<dyn Turn>, Unkept> {
        let token = SecretString::from(self.0.token.lock().unwrap().clone());
        Ok(Box::new(MemoryTurn(Arc::clone(&self.0), token)))
    }
}

#[async_trait]
impl Turn for MemoryTurn {
    fn token(&self) -> &SecretString {
        &self.1
    }

    async fn keep(&mut self, next: SecretString) -> Result<(), Unkept> {
        if *self.0.fails.lock().unwrap() {
            return Err(Unkept::ForNow("the disk is full".to_owned()));
        }
        next.expose_secret().clone_into(&mut self.0.token.lock().unwrap());
        Ok(())
    }
}

fn tokens(http: &Arc<Slow>, memory: &Arc<Memory>) -> Arc<Tokens> {
    let client = Client::Public {
        id: "courier".to_owned(),
    };
    Arc::new(Tokens::new(Settings {
        client,
        grant: Grant::RefreshToken(Arc::new(Kept(Arc::clone(memory)))),
        endpoint: Endpoint::At(Url::parse("https://auth.example/token").unwrap()),
        scope: String::new(),
        http: Arc::<Slow>::clone(http),
        clock: Arc::new(SystemClock),
        nonce: rand::random,
    }))
}

#[tokio::test]
async fn a_use_is_brought_to_its_end_though_whoever_asked_was_cut_off() {
    let (http, memory) = (Arc::new(Slow::default()), Arc::new(Memory::default()));
    "refresh-0".clone_into(&mut memory.token.lock().unwrap());
    let tokens = tokens(&http, &memory);
    let cut = tokio::time::timeout(Duration::from_millis(200), tokens.present("a poll")).await;
    assert!(cut.is_err(), "the endpoint has not answered");
    http.asked.notified().await;
    // Even the credentials are gone: a reload made others.
    drop(tokens);
    http.answer.notify_one();
    tokio::time::timeout(Duration::from_secs(10), async {
        while *memory.token.lock().unwrap() != "refresh-1" {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_access_token_whose_refresh_token_could_not_be_kept_is_not_shown() {
    let (http, memory) = (Arc::new(Slow::default()), Arc::new(Memory::default()));
    let tokens = tokens(&http, &memory);
    *memory.fails.lock().unwrap() = true;
    http.answer.notify_one();
    let refused = tokens.present("a poll").await.unwrap_err();
    assert_eq!(refused.class(), "transient");
    assert!(refused.to_string().contains("the disk is full"), "{refused}");
    assert_eq!(http.requests.load(Ordering::SeqCst), 1);
    let again = tokens.present("a poll").await.unwrap_err();
    assert_eq!(
        again.to_string(),
        refused.to_string(),
        "and nothing is asked meanwhile"
    );
    assert_eq!(http.requests.load(Ordering::SeqCst), 1);
}
