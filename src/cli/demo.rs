//! `demo`: the whole way on one machine, over real TCP, with signatures verified by its receiver, and a summary that
//! the sandbox's own ledger can contradict.

mod bus;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use courier_fhir::Profile;
use courier_sdk::{Clock, ConnectionName, RecordId, RecordKey, RecordType};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::output::{Colour, Output};
use super::{CliError, serve, signals};
use crate::app;
use crate::clock::SystemClock;
use crate::config::{self, Environment, Secrets, Surroundings};
use crate::destination::signature::SigningKey;
use crate::domain::identity::{EventId, VersionKey};
use crate::pipeline::{self, Worker};
use crate::receiver::{self, Received};
use crate::sandbox::{self, Ehr, Options, Pace, Written};
use crate::store::sqlite::OpenMode;
use bus::Bus;

/// What the sandbox's clinic does: one change after the other, this far apart.
const STEP_EVERY: Duration = Duration::from_millis(350);

/// With so few events to go, each step waits until the last one was shown, so that the count comes out even.
const FINE_STEPS: usize = 3;

/// A demo that gets no further within this has failed.
const PATIENCE: Duration = Duration::from_mins(1);

const TYPES: [&str; 5] = [
    "Appointment",
    "Encounter",
    "Observation",
    "DiagnosticReport",
    "Patient",
];

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Ends after so many notifications, with a summary.
    #[arg(long)]
    events: Option<usize>,
    /// The same seed makes the same clinic.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Publishes to this broker too: `amqp://USER:PASSWORD@HOST/VHOST`. Declares the exchange and queue `ehr.demo` there.
    #[arg(long, value_name = "URL")]
    amqp: Option<String>,
}

/// The parts of a running demo.
struct Stage {
    ehr: Arc<Ehr>,
    worker: Arc<Worker>,
    received: mpsc::Receiver<Received>,
    tasks: JoinSet<Result<(), CliError>>,
    stop: CancellationToken,
    folder: PathBuf,
    /// The ids of the versions that the clinic wrote, deletes included: its history shows each of them.
    written: BTreeSet<String>,
    walk_ins: u32,
    /// What a broker confirmed, if one was given.
    bus: Option<Bus>,
}

/// Runs the command.
pub(super) async fn run(demo: &Demo, output: &mut Output) -> Result<(), CliError> {
    let mut stage = raise(demo.seed, demo.amqp.as_deref()).await?;
    let outcome = play(&mut stage, demo.events, output).await;
    stage.stop.cancel();
    while let Some(joined) = stage.tasks.join_next().await {
        if let Ok(Err(error)) = joined {
            output.problem(&format!("note: {error}"));
        }
    }
    if let Err(error) = std::fs::remove_dir_all(&stage.folder) {
        output.problem(&format!(
            "note: {} could not be removed: {error}",
            stage.folder.display()
        ));
    }
    outcome
}

async fn raise(seed: u64, broker: Option<&str>) -> Result<Stage, CliError> {
    let stop = signals::until_terminated()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (source, hook) = (serve::bind(0).await?, serve::bind(0).await?);
    let source_url = serve::base_url(source.local_addr()?, "/fhir")?;
    let hook_url = serve::base_url(hook.local_addr()?, "/hook")?;
    let ehr = Arc::new(Ehr::new(
        Options::new(seed, source_url.clone()),
        Arc::clone(&clock),
    ));

    let folder = std::env::temp_dir().join(format!("ehr-courier-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let secret = serve::random_secret();
    let mut variables = vec![("DEMO_SECRET".to_owned(), secret.clone())];
    variables.extend(broker.map(|url| (bus::VARIABLE.to_owned(), url.to_owned())));
    let environment = Environment::from_iter(variables);
    let known_profiles = Profile::names();
    let surroundings = Surroundings {
        environment: &environment,
        known_profiles: &known_profiles,
        includable: courier_fhir::includable,
        now: clock.now(),
        secrets: Secrets::Required,
    };
    let mut text = configuration(source_url.as_str(), hook_url.as_str());
    text.push_str(&broker.map(|_url| bus::configuration()).unwrap_or_default());
    let config =
        config::from_text(&folder.join("courier.toml"), &text, &surroundings).map_err(CliError::Config)?;
    let store = app::open_store(&config, OpenMode::Service)?;
    let mut worker = app::compose(&config, Arc::new(store), Arc::clone(&clock))?;
    let bus = match broker {
        Some(_url) => Some(Bus::board(&config, &mut worker).await?),
        None => None,
    };
    let worker = Arc::new(worker);

    let key = SigningKey::parse(&secret).map_err(|error| CliError::Failed(error.to_string()))?;
    let (sink, received) = mpsc::channel(1_024);
    let mut tasks = JoinSet::new();
    let (served, quiet) = (Arc::clone(&ehr), Pace::per_second(0.0));
    let (a, b, c) = (stop.clone(), stop.clone(), stop.clone());
    tasks.spawn(async move { Ok(sandbox::serve(source, served, quiet, a).await?) });
    let receiving = receiver::serve(hook, vec![key], Arc::clone(&clock), sink, b);
    tasks.spawn(async move {
        receiving
            .await
            .map_err(|error| CliError::Failed(error.to_string()))
    });
    let running = Arc::clone(&worker);
    tasks.spawn(async move {
        pipeline::run(running, c)
            .await
            .map_err(|error| CliError::App(error.into()))
    });
    Ok(Stage {
        ehr,
        worker,
        received,
        tasks,
        stop,
        folder,
        written: BTreeSet::new(),
        walk_ins: 0,
        bus,
    })
}

fn configuration(source: &str, hook: &str) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        r#"
[state]
url = "sqlite://demo.db"
key = "none"

[connections.demo]
connector = "fhir"
profile = "sandbox"
base_url = "{source}"
every = "1s"
reconcile = "off"
allow_networks = ["127.0.0.0/8"]

[destinations.receiver]
type = "webhook"
url = "{hook}"
secret = "env:DEMO_SECRET"
allow_networks = ["127.0.0.0/8"]

[[subscriptions]]
name = "everything"
connections = ["demo"]
topic = "*"
destination = "receiver"
"#
    );
    for record in TYPES {
        // Writing to a String cannot fail; the result is consumed to say so.
        write!(text, "\n[[connections.demo.feeds]]\nrecord = \"{record}\"\n").unwrap_or_default();
    }
    text
}

async fn play(stage: &mut Stage, events: Option<usize>, output: &mut Output) -> Result<(), CliError> {
    say(
        output,
        "a sandbox EHR, the courier on SQLite and a webhook receiver run on this machine; Ctrl-C ends",
    );
    if stage.bus.is_some() {
        let (exchange, queue) = (bus::EXCHANGE, bus::QUEUE);
        say(
            output,
            &format!("each is published to exchange {exchange} too; queue {queue} keeps them for you"),
        );
    }
    ready(stage).await?;
    let begun = SystemClock.now();
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut tick = tokio::time::interval(STEP_EVERY);
    let mut moved_at = Instant::now();
    loop {
        let enough = events.is_some_and(|wanted| seen.len() >= wanted);
        if enough && made_shown_seen(stage, begun, &seen) || stage.stop.is_cancelled() {
            break;
        }
        if events.is_some() && moved_at.elapsed() > PATIENCE {
            summary(stage, begun, &seen, output);
            return Err(CliError::Failed(
                "no notification arrived for a minute".to_owned(),
            ));
        }
        tokio::select! {
            biased;
            () = stage.stop.cancelled() => {}
            Some(received) = stage.received.recv() => {
                moved_at = Instant::now();
                *seen.entry(received.event_id.to_string()).or_default() += 1;
                show(&received, output);
            }
            Some(ended) = stage.tasks.join_next() => {
                ended.map_err(|error| CliError::Failed(error.to_string()))??;
                return Err(CliError::Failed("a part of the demo ended early".to_owned()));
            }
            _ = tick.tick() => step(stage, begun, events)?,
        }
    }
    summary(stage, begun, &seen, output)
        .then_some(())
        .ok_or_else(|| CliError::Failed("the ledger does not agree with what arrived".to_owned()))
}

/// Waits until every feed has been polled once: what exists by then is the clinic's past.
async fn ready(stage: &Stage) -> Result<(), CliError> {
    let polled = || {
        stage.worker.connections.values().all(|connection| {
            connection.live_feeds().all(|feed| {
                connection
                    .condition(&feed.spec.name)
                    .is_some_and(|condition| condition.succeeded_at.is_some())
            })
        })
    };
    let deadline = Instant::now() + PATIENCE;
    while !polled() {
        if Instant::now() > deadline {
            return Err(CliError::Failed("the sandbox could not be polled".to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Lets the clinic make one change, unless enough was made; the last few wait for each other.
fn step(stage: &mut Stage, begun: Timestamp, events: Option<usize>) -> Result<(), CliError> {
    let Some(wanted) = events else {
        stage.ehr.step();
        return Ok(());
    };
    let shown = expected(stage, begun);
    let unshown = unshown(stage, &shown);
    let left = wanted.saturating_sub(shown.len() + unshown);
    if left == 0 || (left <= FINE_STEPS && unshown > 0) {
        return Ok(());
    }
    let written = if left <= FINE_STEPS {
        vec![walk_in(stage)?]
    } else {
        stage.ehr.step()
    };
    let ids = written
        .iter()
        .filter_map(|one| id_of(&one.record_type, &one.id, &one.version_id));
    stage.written.extend(ids);
    Ok(())
}

/// A patient without an appointment: one new version, no more.
fn walk_in(stage: &mut Stage) -> Result<Written, CliError> {
    stage.walk_ins += 1;
    let id = format!("walk-in-{}", stage.walk_ins);
    let text = r#"{"status":"arrived","description":"walk-in","participant":[{"status":"accepted"}]}"#;
    stage
        .ehr
        .write("Appointment", &id, text)
        .map_err(|error| CliError::Failed(error.to_string()))
}

/// How many of the clinic's changes were not shown yet.
fn unshown(stage: &Stage, shown: &BTreeMap<String, String>) -> usize {
    stage.written.iter().filter(|id| !shown.contains_key(*id)).count()
}

/// The id that the event of a version must have.
fn id_of(record_type: &str, id: &str, version_id: &str) -> Option<String> {
    let connection = ConnectionName::parse("demo").ok()?;
    let key = RecordKey {
        record_type: RecordType::parse(record_type).ok()?,
        id: RecordId::parse(id).ok()?,
    };
    Some(EventId::derive(&connection, &key, &VersionKey::of_version_id(version_id)).to_string())
}

/// What the ledger says was shown of the clinic's changes, by the id that each must have.
fn expected(stage: &Stage, begun: Timestamp) -> BTreeMap<String, String> {
    stage
        .ehr
        .ledger()
        .iter()
        .filter(|shown| {
            shown
                .last_updated
                .parse::<Timestamp>()
                .is_ok_and(|at| at >= begun)
        })
        .filter_map(|shown| {
            let id = id_of(&shown.record_type, &shown.id, &shown.version_id)?;
            Some((id, format!("{}/{}", shown.record_type, shown.id)))
        })
        .collect()
}

fn made_shown_seen(stage: &Stage, begun: Timestamp, seen: &BTreeMap<String, u64>) -> bool {
    let shown = expected(stage, begun);
    let confirmed = |bus: &Bus| bus.confirmed_of(shown.keys()) == shown.len();
    unshown(stage, &shown) == 0
        && shown.keys().all(|id| seen.contains_key(id))
        && stage.bus.as_ref().is_none_or(confirmed)
}

fn show(received: &Received, output: &mut Output) {
    if output.is_json() {
        output.value(&serde_json::json!({ "id": received.event_id.as_str(), "received_at": received.received_at.to_string() }));
    } else {
        let id = output.coloured(received.event_id.as_str(), Colour::Dim);
        output.line(&format!("{}  {id}", serve::summary(received)));
    }
}

/// Compares what arrived with the ledger; says whether all of it agrees.
fn summary(stage: &Stage, begun: Timestamp, seen: &BTreeMap<String, u64>, output: &mut Output) -> bool {
    let expected = expected(stage, begun);
    let lost = expected.keys().filter(|id| !seen.contains_key(*id)).count();
    let phantom = seen.keys().filter(|id| !expected.contains_key(*id)).count();
    let delivered = seen.len() - phantom;
    let duplicates: u64 = seen.values().map(|times| times - 1).sum();
    let confirmed = stage.bus.as_ref().map(|bus| bus.confirmed_of(expected.keys()));
    let unconfirmed = confirmed.map_or(0, |confirmed| expected.len() - confirmed);
    let good = lost == 0 && phantom == 0 && duplicates == 0 && unconfirmed == 0;
    if output.is_json() {
        output.value(&serde_json::json!({
            "shown": expected.len(), "delivered": delivered, "lost": lost, "duplicates": duplicates, "phantom": phantom,
            "confirmed": confirmed,
        }));
    } else {
        let colour = if good { Colour::Green } else { Colour::Red };
        let counts = format!("delivered {delivered}, lost {lost}, duplicates {duplicates}");
        let counts = output.coloured(&counts, colour);
        output.line(&format!(
            "\nThe sandbox's ledger says it showed {} versions: {counts}, phantom {phantom}; every signature verified.",
            expected.len()
        ));
        if let Some(confirmed) = confirmed {
            output.line(&format!(
                "The broker confirmed {confirmed} of {} messages; they wait in queue {}.",
                expected.len(),
                bus::QUEUE
            ));
        }
    }
    good
}

fn say(output: &mut Output, text: &str) {
    if !output.is_json() {
        let text = output.coloured(text, Colour::Dim);
        output.line(&text);
    }
}
