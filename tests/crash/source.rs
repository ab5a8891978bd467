//! The sandbox EHR on real TCP, with a journal of what each answer showed and a clinic that goes on at a pace.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use ehr_courier::clock::SystemClock;
use ehr_courier::sandbox::{Answer, Ehr, Faults, Options, Request};
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::journal::Journal;

/// How often due changes are made.
const TICK: Duration = Duration::from_millis(10);

/// The header in which each request says which life of the courier sent it: what a killed one had asked may be answered
/// while the next one lives.
pub(crate) const LIFE: &str = "x-life";

/// A running source.
pub(crate) struct Source {
    /// Where it answers.
    pub(crate) url: url::Url,
    /// The clinic.
    pub(crate) ehr: Ehr,
    journal: Mutex<Journal>,
    /// Changes per second.
    pace: AtomicU64,
}

impl Source {
    /// Starts on a free loopback port; it ends with the runtime.
    pub(crate) fn start(runtime: &Handle, seed: u64, faults: &Faults) -> Arc<Self> {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = url::Url::parse(&format!("http://{}/fhir", listener.local_addr().unwrap())).unwrap();
        let options = Options {
            patients: 150,
            page_size_max: 60,
            ..Options::new(seed, url.clone())
        };
        let ehr = Ehr::new(options, Arc::new(SystemClock));
        ehr.set_faults(*faults);
        let source = Arc::new(Self {
            url,
            ehr,
            journal: Mutex::new(Journal::default()),
            pace: AtomicU64::new(0),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&source));
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let clinic = Arc::clone(&source);
        runtime.spawn(async move { clinic.go_on().await });
        source
    }

    /// Sets how many changes the clinic makes per second.
    pub(crate) fn set_pace(&self, per_second: u64) {
        self.pace.store(per_second, Ordering::Relaxed);
    }

    /// What the answers showed.
    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap()
    }

    async fn go_on(&self) {
        let mut last = Instant::now();
        let mut owed = 0.0;
        loop {
            tokio::time::sleep(TICK).await;
            let pace = f64::from(u32::try_from(self.pace.load(Ordering::Relaxed)).unwrap());
            owed = (owed + last.elapsed().as_secs_f64() * pace).min(pace);
            last = Instant::now();
            while owed >= 1.0 {
                owed -= 1.0;
                self.ehr.step();
            }
        }
    }

    /// Answers and notes in one breath: no answer is noted that was not given, and none given that is not noted.
    fn noted(&self, request: &Request) -> Answer {
        let path = request.path.strip_prefix("/fhir/").unwrap_or_default();
        let listed = path.strip_suffix("/_history").unwrap_or(path);
        let mut journal = self.journal.lock().unwrap();
        let life = request.headers.get(LIFE).map(HeaderValue::as_bytes);
        let lives = life == Some(journal.life().to_string().as_bytes());
        // Several records that are read at once are read, not polled: of what is found of them only the version that was
        // shown by a poll is taken.
        let reads = request.query.contains("_id=");
        let record_type =
            (lives && !reads && !listed.contains('/') && listed != "metadata").then_some(listed);
        if let Some(record_type) = record_type {
            journal.asked(record_type, Instant::now());
        }
        let answer = self.ehr.answer(request);
        if answer.status == StatusCode::OK && answer.cut_at.is_none() {
            match record_type {
                Some(record_type) => journal.answered(record_type, &answer.body),
                None => journal.read(&answer.body),
            }
        }
        answer
    }
}

async fn answer(
    State(source): State<Arc<Source>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = Request {
        method,
        path: uri.path().to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        headers,
        body,
    };
    let answer = source.noted(&request);
    tokio::time::sleep(answer.delay.unwrap_or_default()).await;
    let length = answer.body.len();
    let mut response = match answer.cut_at {
        None => Response::new(Body::from(answer.body)),
        Some(cut_at) => {
            let first = answer.body.slice(..cut_at.min(length));
            let broken = stream::iter([Ok(first), Err(io::Error::other("cut by a fault switch"))]);
            Response::new(Body::from_stream(broken))
        }
    };
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    if answer.cut_at.is_some() {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}
