//! A service that is killed with much in its store: how long until it asks its source again.

use std::path::Path;
use std::time::Duration;

use courier_sdk::Clock as _;
use ehr_courier::clock::SystemClock;
use ehr_courier::store::sqlite::{OpenMode, SqliteStore};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::Failed;
use crate::backlog::{self, Names};
use crate::courier::polled;
use crate::report::median;
use crate::service::{Service, configure};
use crate::sink::Sink;
use crate::source::{Pace, Source};

/// How long a start may take before the benchmark gives up.
const START_MAX: Duration = Duration::from_mins(2);

/// How long a start may take at most, in seconds.
const SECONDS_MAX: f64 = 2.0;

/// How long each start took, in seconds.
pub(crate) struct Report {
    events: u32,
    full: Vec<f64>,
    empty: Vec<f64>,
}

/// Starts the service so many times on a store of so many events that nobody has received yet, and as often on an
/// empty one, in turns; each is killed as soon as it has asked its source.
pub(crate) async fn run(events: u32, pairs: usize) -> Result<Report, Failed> {
    let nothing = Pace {
        per_second: 0,
        changes: 0,
    };
    let (source, sink) = (Source::open(nothing).await?, Sink::open(usize::MAX).await?);
    let names = Names::new()?;
    let prepare = |folder: &Path| {
        let connections = [names.connection.to_string()];
        configure(
            folder,
            &connections,
            Duration::from_mins(1),
            &source.url,
            &sink.url,
        )
    };
    let full = tempfile::tempdir()?;
    prepare(full.path())?;
    {
        let store = SqliteStore::open(&full.path().join("bench.db"), OpenMode::Service)?;
        let cursor = polled(&names, &source)?.connector.cursor_at(SystemClock.now());
        backlog::write(&store, &names, events, &cursor).await?;
    }
    let mut report = Report {
        events,
        full: Vec::new(),
        empty: Vec::new(),
    };
    for _ in 0..pairs {
        report.full.push(start(full.path(), &source).await?);
        let empty = tempfile::tempdir()?;
        prepare(empty.path())?;
        report.empty.push(start(empty.path(), &source).await?);
    }
    Ok(report)
}

async fn start(folder: &Path, source: &Source) -> Result<f64, Failed> {
    source.forget();
    let began = Instant::now();
    let _service = Service::start(folder)?;
    timeout(START_MAX, source.asked()).await?;
    Ok(began.elapsed().as_secs_f64())
}

impl Report {
    /// As a table for people.
    pub(crate) fn table(&self) -> String {
        let list = |seconds: &[f64]| {
            let texts: Vec<String> = seconds.iter().map(|seconds| format!("{seconds:.2}")).collect();
            texts.join(", ")
        };
        format!(
            "restart: seconds from the start to the first poll, medians\n\n\
             {:>8} events that wait  {:>6.2}  ({})\n{:>8} events            {:>6.2}  ({})\n\nat most {SECONDS_MAX}",
            self.events,
            median(self.full.clone()),
            list(&self.full),
            0,
            median(self.empty.clone()),
            list(&self.empty),
        )
    }

    /// As one JSON object.
    pub(crate) fn json(&self) -> Value {
        json!({
            "benchmark": "restart",
            "events": self.events,
            "seconds": median(self.full.clone()),
            "empty_seconds": median(self.empty.clone()),
        })
    }
}
