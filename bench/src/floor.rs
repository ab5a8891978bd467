//! The floor: the same requests by the same client, as many at once, with as many fsyncs, and nothing else.
//!
//! It reads no store, parses no record, signs nothing and keeps no order: whatever remembers its work can only be
//! slower.

use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use courier_sdk::{AtLimit, Http as _, HttpRequest};
use ehr_courier::destination::webhook::DEADLINE;
use ehr_courier::egress::client::GuardedClient;
use ehr_courier::pipeline::limits::Limits;
use http::{HeaderMap, Method};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use url::Url;

use crate::Failed;
use crate::backlog::record_id;
use crate::courier::{OVERLAP, client};
use crate::meter::{Cost, Meter, Waits};
use crate::sink::{Seen, Sink};
use crate::source::{Pace, Source};

/// What each fsync writes: a page of a database.
const WRITE_BYTES: usize = 4096;

/// Fsyncs that may wait for the disk before requests wait for them.
const QUEUE_MAX: usize = 64;

/// How much of a webhook's answer is read.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

/// How much of a page is read: more than any of ours has.
const PAGE_BYTES_MAX: usize = 16 << 20;

/// Entries of a page: what the courier asks for.
const PAGE: u32 = 200;

/// Sends what a sink has seen once more; answers what that cost.
pub(crate) async fn drain(folder: &Path, seen: &Seen, fsyncs: u64) -> Result<Cost, Failed> {
    let sink = Sink::open(seen.body_bytes.len()).await?;
    let disk = Disk::open(folder)?;
    let poster = Arc::new(Poster::new(&sink, seen, fsyncs, &disk)?);
    let next = Arc::new(AtomicUsize::new(0));
    let meter = Meter::begin()?;
    let mut senders: JoinSet<Result<(), Failed>> = JoinSet::new();
    for _ in 0..Limits::default().in_flight_per_destination {
        let (poster, next) = (Arc::clone(&poster), Arc::clone(&next));
        senders.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= poster.seen.body_bytes.len() {
                    return Ok(());
                }
                poster.post(index).await?;
            }
        });
    }
    join_all(senders).await?;
    drop(poster);
    disk.close(fsyncs).await?;
    meter.end(fsyncs)
}

/// Polls a source each second and sends a body for each of its changes; answers what that cost.
pub(crate) async fn pipeline(folder: &Path, seen: &Seen, fsyncs: u64, pace: Pace) -> Result<Cost, Failed> {
    let sink = Sink::open(seen.body_bytes.len()).await?;
    let source = Source::open(pace).await?;
    let disk = Disk::open(folder)?;
    let poster = Arc::new(Poster::new(&sink, seen, fsyncs, &disk)?);
    let room = Arc::new(Semaphore::new(Limits::default().in_flight_per_destination));
    let meter = Meter::begin()?;
    let mut senders: JoinSet<Result<(), Failed>> = JoinSet::new();
    let mut every = interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = 0;
    while known < pace.changes as usize {
        every.tick().await;
        let mut next = Some(first_page(&source, known)?);
        while let Some(url) = next {
            next = next_page(&poster.client, url).await?;
            let shown = source.shown_so_far();
            send_all(known..shown, &poster, &room, &mut senders);
            known = shown.max(known);
        }
    }
    join_all(senders).await?;
    drop(poster);
    disk.close(fsyncs).await?;
    Ok(Cost {
        requests: source.requests(),
        waits: Waits::between(&source.shown(), &sink.seen().arrivals),
        ..meter.end(fsyncs)?
    })
}

/// Begins a request for each change, as soon as there is room for it.
fn send_all(
    changes: Range<usize>,
    poster: &Arc<Poster>,
    room: &Arc<Semaphore>,
    senders: &mut JoinSet<Result<(), Failed>>,
) {
    for change in changes {
        let (poster, room) = (Arc::clone(poster), Arc::clone(room));
        senders.spawn(async move {
            let _permit = room.acquire().await?;
            poster.post(change).await
        });
    }
}

fn first_page(source: &Source, known: usize) -> Result<Url, Failed> {
    let last = u64::try_from(known)?.saturating_sub(1);
    let mut url = source.url.join("/fhir/Appointment")?;
    let from = source.stamp(last).checked_sub(OVERLAP)?;
    url.set_query(Some(&format!(
        "_lastUpdated=ge{from:.3}&_sort=_lastUpdated,_id&_count={PAGE}"
    )));
    Ok(url)
}

/// Reads a page; answers the next one's address.
async fn next_page(client: &GuardedClient, url: Url) -> Result<Option<Url>, Failed> {
    let request = HttpRequest {
        method: Method::GET,
        url,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        deadline: DEADLINE,
        response_bytes_max: PAGE_BYTES_MAX,
        at_limit: AtLimit::Fail,
    };
    let answer = client.send(request).await?;
    let text = std::str::from_utf8(&answer.body)?;
    let next = text.split_once(r#""relation":"next","url":""#);
    let next = next.and_then(|(_, rest)| rest.split_once('"'));
    Ok(next.map(|(url, _)| url.parse()).transpose()?)
}

async fn join_all(mut senders: JoinSet<Result<(), Failed>>) -> Result<(), Failed> {
    while let Some(ended) = senders.join_next().await {
        ended??;
    }
    Ok(())
}

/// Sends bodies as large as those that the courier sent.
struct Poster {
    url: Url,
    seen: Seen,
    client: Arc<GuardedClient>,
    fsyncs: usize,
    disk: mpsc::Sender<()>,
}

impl Poster {
    fn new(sink: &Sink, seen: &Seen, fsyncs: u64, disk: &Disk) -> Result<Self, Failed> {
        Ok(Self {
            url: sink.url.clone(),
            seen: seen.clone(),
            client: client()?,
            fsyncs: usize::try_from(fsyncs)?,
            disk: disk.due.clone(),
        })
    }

    async fn post(&self, index: usize) -> Result<(), Failed> {
        let bytes = self.seen.body_bytes.get(index).copied().unwrap_or_default();
        let mut body = record_id(index as u64).into_bytes();
        body.resize(bytes.max(body.len()), b' ');
        let request = HttpRequest {
            method: Method::POST,
            url: self.url.clone(),
            headers: self.seen.headers.clone(),
            body: Bytes::from(body),
            deadline: DEADLINE,
            response_bytes_max: RESPONSE_BYTES_MAX,
            at_limit: AtLimit::Cut,
        };
        let answer = self.client.send(request).await?;
        if !answer.status.is_success() {
            return Err(format!("the sink answered {}", answer.status).into());
        }
        // Spread evenly over the requests.
        let requests = self.seen.body_bytes.len();
        for _ in index * self.fsyncs / requests..(index + 1) * self.fsyncs / requests {
            self.disk.send(()).await?;
        }
        Ok(())
    }
}

/// A thread that does nothing but fsync.
struct Disk {
    due: mpsc::Sender<()>,
    writing: JoinSet<std::io::Result<u64>>,
}

impl Disk {
    fn open(folder: &Path) -> Result<Self, Failed> {
        let file = File::create(folder.join("floor.log"))?;
        let (due, receiver) = mpsc::channel(QUEUE_MAX);
        let mut writing = JoinSet::new();
        writing.spawn_blocking(move || write(file, receiver));
        Ok(Self { due, writing })
    }

    /// Waits for the last fsync, and makes sure that there were as many as there should be.
    async fn close(self, fsyncs: u64) -> Result<(), Failed> {
        let Self { due, mut writing } = self;
        drop(due);
        while let Some(ended) = writing.join_next().await {
            let written = ended??;
            if written != fsyncs {
                return Err(format!("the floor made {written} fsyncs, not {fsyncs}").into());
            }
        }
        Ok(())
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
