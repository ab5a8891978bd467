//! The floor: the same requests by the same client, as many at once, with as many fsyncs, and nothing else.
//!
//! It reads no store, signs nothing and keeps no order: whatever remembers its work can only be slower.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use courier_sdk::{AtLimit, Http as _, HttpRequest};
use ehr_courier::destination::webhook::DEADLINE;
use ehr_courier::egress::client::GuardedClient;
use ehr_courier::pipeline::limits::Limits;
use http::Method;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use url::Url;

use crate::Failed;
use crate::courier::client;
use crate::meter::{Cost, Meter};
use crate::sink::{Seen, Sink};

/// What each fsync writes: a page of a database.
const WRITE_BYTES: usize = 4096;

/// Fsyncs that may wait for the disk before requests wait for them.
const QUEUE_MAX: usize = 64;

/// How much of an answer is read.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

struct Loop {
    url: Url,
    seen: Seen,
    client: Arc<GuardedClient>,
    /// As many bytes as the largest body has; each request sends as many of them as its counterpart did.
    bytes: Bytes,
    next: AtomicUsize,
    fsyncs: usize,
}

/// Sends what a sink has seen once more; answers what that cost.
pub(crate) async fn run(folder: &Path, seen: &Seen, fsyncs: u64) -> Result<Cost, Failed> {
    let sink = Sink::open(seen.body_bytes.len()).await?;
    let largest = seen.body_bytes.iter().copied().max().unwrap_or_default();
    let shared = Arc::new(Loop {
        url: sink.url.clone(),
        seen: seen.clone(),
        client: client()?,
        bytes: Bytes::from(vec![b'x'; largest]),
        next: AtomicUsize::new(0),
        fsyncs: usize::try_from(fsyncs)?,
    });
    let file = File::create(folder.join("floor.log"))?;
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    let meter = Meter::begin()?;
    let mut senders: JoinSet<Result<(), Failed>> = JoinSet::new();
    let mut disk = JoinSet::new();
    disk.spawn_blocking(move || write(file, receiver));
    for _ in 0..Limits::default().in_flight_per_destination {
        senders.spawn(send(Arc::clone(&shared), sender.clone()));
    }
    drop(sender);
    while let Some(ended) = senders.join_next().await {
        ended??;
    }
    while let Some(ended) = disk.join_next().await {
        let written = ended??;
        if written != fsyncs {
            return Err(format!("the floor made {written} fsyncs, not {fsyncs}").into());
        }
    }
    meter.end(fsyncs)
}

async fn send(shared: Arc<Loop>, disk: mpsc::Sender<()>) -> Result<(), Failed> {
    let requests = shared.seen.body_bytes.len();
    loop {
        let index = shared.next.fetch_add(1, Ordering::Relaxed);
        let Some(bytes) = shared.seen.body_bytes.get(index) else {
            return Ok(());
        };
        let request = HttpRequest {
            method: Method::POST,
            url: shared.url.clone(),
            headers: shared.seen.headers.clone(),
            body: shared.bytes.slice(..*bytes),
            deadline: DEADLINE,
            response_bytes_max: RESPONSE_BYTES_MAX,
            at_limit: AtLimit::Cut,
        };
        let answer = shared.client.send(request).await?;
        if !answer.status.is_success() {
            return Err(format!("the sink answered {}", answer.status).into());
        }
        // Spread evenly over the requests.
        for _ in index * shared.fsyncs / requests..(index + 1) * shared.fsyncs / requests {
            disk.send(()).await?;
        }
    }
}

fn write(mut file: File, mut due: mpsc::Receiver<()>) -> std::io::Result<u64> {
    let page = [0; WRITE_BYTES];
    let mut written = 0;
    while due.blocking_recv().is_some() {
        file.write_all(&page)?;
        file.sync_data()?;
        written += 1;
    }
    Ok(written)
}
