//! A webhook receiver that verifies each signature with code of its own, is slow, sometimes refuses, and notes
//! every notification that it accepted: where, by which life of the courier, which, and its bytes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

/// The key that the courier signs with, in the form that its configuration takes.
pub(crate) const SECRET: &str = "whsec_c3ludGhldGljLXBhdGllbnRzLW9ubHktMDAwMDAwMDA=";

/// One notification that was answered with 204, or acknowledged to a broker.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// Whose it is.
    pub(crate) subscription: String,
    /// The courier's life that sent it: its configuration names another path or routing key in each.
    pub(crate) life: u64,
    /// The `webhook-id`, or the `message_id`.
    pub(crate) id: String,
    /// The body, byte for byte.
    pub(crate) body: Bytes,
}

/// How the receiver behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// The longest it thinks before it answers, in milliseconds.
    pub(crate) delay_ms_max: u64,
    /// The share of notifications that it answers with 500, from 0 to 1.
    pub(crate) refusals: f64,
}

#[derive(Debug, Default)]
struct Log {
    arrivals: Vec<Arrival>,
    refused: u64,
    forged: u64,
}

/// A running receiver.
pub(crate) struct Receiver {
    address: std::net::SocketAddr,
    manner: Manner,
    draws: Mutex<StdRng>,
    log: Mutex<Log>,
}

impl Receiver {
    /// Starts on a free loopback port; it ends with the runtime.
    pub(crate) fn start(runtime: &Handle, manner: Manner, seed: u64) -> Arc<Self> {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let receiver = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            manner,
            draws: Mutex::new(StdRng::seed_from_u64(seed)),
            log: Mutex::new(Log::default()),
        });
        let router = Router::new()
            .fallback(take)
            .layer(axum::extract::DefaultBodyLimit::max(64 * 1024 * 1024))
            .with_state(Arc::clone(&receiver));
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        receiver
    }

    /// What the configuration says of a subscription's endpoint in one life of the courier.
    pub(crate) fn destination(&self, subscription: &str, life: u64) -> String {
        format!(
            "type = \"webhook\"\nurl = \"http://{}/{subscription}/{life}\"\nsecret = \"env:HOOK_SECRET\"\n\
             allow_networks = [\"127.0.0.0/8\"]\n",
            self.address
        )
    }

    /// Everything accepted so far, in order.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.log.lock().unwrap().arrivals.clone()
    }

    /// How many were accepted so far.
    pub(crate) fn count(&self) -> usize {
        self.log.lock().unwrap().arrivals.len()
    }

    /// How many it answered with 500.
    pub(crate) fn refused(&self) -> u64 {
        self.log.lock().unwrap().refused
    }

    /// How many had a signature that does not fit.
    pub(crate) fn forged(&self) -> u64 {
        self.log.lock().unwrap().forged
    }
}

async fn take(
    State(receiver): State<Arc<Receiver>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let (delay, refuse) = {
        let mut draws = receiver.draws.lock().unwrap();
        let delay = draws.random_range(0..=receiver.manner.delay_ms_max);
        (
            Duration::from_millis(delay),
            draws.random::<f64>() < receiver.manner.refusals,
        )
    };
    tokio::time::sleep(delay).await;
    let id = signed_id(&headers, &body);
    let mut log = receiver.log.lock().unwrap();
    let Some(id) = id else {
        log.forged += 1;
        return StatusCode::UNAUTHORIZED;
    };
    if refuse {
        log.refused += 1;
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    let (subscription, life) = uri.path().trim_start_matches('/').split_once('/').unwrap();
    log.arrivals.push(Arrival {
        subscription: subscription.to_owned(),
        life: life.parse().unwrap(),
        id,
        body,
    });
    StatusCode::NO_CONTENT
}

/// The `webhook-id`, if the signature over id, timestamp and body fits.
fn signed_id(headers: &HeaderMap, body: &[u8]) -> Option<String> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let (id, timestamp, signature) = (
        text("webhook-id")?,
        text("webhook-timestamp")?,
        text("webhook-signature")?,
    );
    let key = hmac::Key::new(
        hmac::HMAC_SHA256,
        &STANDARD.decode(SECRET.strip_prefix("whsec_")?).ok()?,
    );
    let mut signed = format!("{id}.{timestamp}.").into_bytes();
    signed.extend_from_slice(body);
    let tag = STANDARD.decode(signature.strip_prefix("v1,")?).ok()?;
    hmac::verify(&key, &signed, &tag).ok()?;
    Some(id.to_owned())
}
