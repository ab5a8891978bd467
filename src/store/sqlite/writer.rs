//! One thread that owns a connection to the file and runs what is sent to it, in order.
//!
//! **Group commit**: what waits when a write begins joins its transaction, each later operation in its own savepoint,
//! so that one fsync pays for many and an error undoes only its own operation. Nobody is answered before the
//! commit. Nothing is waited for: alone, an operation commits at once. After a failed commit nobody knows what is
//! on the disk, so every operation that waited and every later one fails. It must not know what operations do.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::error;

use super::connection::Connection;
use super::rows::Failure;
use crate::store::StoreError;

/// The most operations of one transaction (design.md, the embedded store).
const GROUP_OPERATIONS_MAX: usize = 256;

/// A transaction takes no further operation after this long: the first of them has waited enough.
const GROUP_TIME_MAX: Duration = Duration::from_millis(5);

/// Operations that may wait for the thread; more wait in their callers.
const QUEUE_OPERATIONS_MAX: usize = 1024;

/// Whether an operation needs a transaction that is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It writes.
    Write,
    /// It only reads.
    Read,
}

/// How much was done.
#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    operations: AtomicU64,
}

/// The thread's other end.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    counters: Arc<Counters>,
}

/// The store refuses to go on, or its thread is gone.
#[derive(Debug, Clone, Error)]
#[error("{0}")]
struct Broken(Arc<str>);

struct Job {
    kind: Kind,
    run: Run,
}

/// Does an operation's work, or refuses it when the store is broken.
type Run = Box<dyn FnOnce(Result<&Connection, Broken>) -> (Outcome, Reply) + Send>;

/// Answers an operation's caller, once its fate is known.
type Reply = Box<dyn FnOnce(Option<&Broken>) + Send>;

/// Whether an operation's writes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Keep,
    Undo,
}

impl Writer {
    /// Starts the thread. `lock` is held until its last operation has ended.
    pub(super) fn start(name: &str, db: Connection, lock: Option<File>) -> Result<Self, StoreError> {
        let (sender, jobs) = mpsc::channel(QUEUE_OPERATIONS_MAX);
        let counters = Arc::new(Counters::default());
        let counted = Arc::clone(&counters);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                serve(&db, jobs, &counted);
                drop((db, lock));
            })
            .map_err(|source| StoreError::Engine {
                operation: "starting the store's thread",
                source: Box::new(source),
            })?;
        Ok(Self {
            jobs: Some(sender),
            thread: Some(thread),
            counters,
        })
    }

    /// Runs one operation and answers once it is durable, or undone.
    ///
    /// # Errors
    /// What the work answers; [`StoreError::Engine`] when the engine or the commit failed.
    ///
    /// **Cancel safety.** Dropped before it is queued, the operation does not happen; after that it happens whole.
    pub(super) async fn run<T, F>(
        &self,
        kind: Kind,
        operation: &'static str,
        work: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        let job = Job {
            kind,
            run: Box::new(move |db| {
                let result = match db {
                    Ok(db) => work(db),
                    Err(broken) => Err(Failure::engine(broken)),
                };
                let outcome = if result.is_ok() {
                    Outcome::Keep
                } else {
                    Outcome::Undo
                };
                let reply: Reply = Box::new(move |broken| {
                    let result = match broken {
                        Some(broken) => Err(Failure::engine(broken.clone())),
                        None => result,
                    };
                    // A caller that was dropped needs no answer.
                    drop(sender.send(result.map_err(|failure| failure.named(operation))));
                });
                (outcome, reply)
            }),
        };
        let gone = || Failure::engine(Broken("the store's thread has ended".into())).named(operation);
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(job).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// How many transactions were committed.
    pub(super) fn commits(&self) -> u64 {
        self.counters.commits.load(Ordering::Relaxed)
    }

    /// How many writing operations were run.
    pub(super) fn operations(&self) -> u64 {
        self.counters.operations.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    /// Waits for what was sent: the file's lock is free afterwards.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the store's thread has panicked");
        }
    }
}

fn serve(db: &Connection, mut jobs: mpsc::Receiver<Job>, counters: &Counters) {
    let mut broken: Option<Broken> = None;
    while let Some(first) = jobs.blocking_recv() {
        if let Some(broken) = &broken {
            let (_, reply) = (first.run)(Err(broken.clone()));
            reply(None);
            continue;
        }
        let began = Instant::now();
        let mut group = Group::new(db, counters);
        group.run(first);
        while group.replies.len() < GROUP_OPERATIONS_MAX && began.elapsed() < GROUP_TIME_MAX {
            let Ok(next) = jobs.try_recv() else { break };
            group.run(next);
        }
        broken = group.end();
    }
}

/// The operations of one transaction. Reading alone needs none.
struct Group<'a> {
    db: &'a Connection,
    counters: &'a Counters,
    transaction: Transaction,
    replies: Vec<Reply>,
}

/// An operation's place in its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    First,
    Later,
}

#[derive(Debug, Clone)]
enum Transaction {
    None,
    Open,
    Lost(Broken),
}

impl<'a> Group<'a> {
    fn new(db: &'a Connection, counters: &'a Counters) -> Self {
        Self {
            db,
            counters,
            transaction: Transaction::None,
            replies: Vec::new(),
        }
    }

    fn run(&mut self, job: Job) {
        let reply = match job.kind {
            Kind::Read => self.run_read(job.run),
            Kind::Write => self.run_write(job.run),
        };
        self.replies.push(reply);
    }

    fn run_read(&self, run: Run) -> Reply {
        let (Outcome::Keep | Outcome::Undo, reply) = run(Ok(self.db));
        reply
    }

    fn run_write(&mut self, run: Run) -> Reply {
        self.counters.operations.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("courier_store_operations_total").increment(1);
        let place = match self.begin() {
            Ok(place) => place,
            Err(broken) => return run(Err(broken)).1,
        };
        let (outcome, reply) = run(Ok(self.db));
        let statements: &[&str] = match (place, outcome) {
            (Place::First, Outcome::Keep) => &[],
            (Place::First, Outcome::Undo) => &["ROLLBACK"],
            (Place::Later, Outcome::Keep) => &["RELEASE operation"],
            (Place::Later, Outcome::Undo) => &["ROLLBACK TO operation", "RELEASE operation"],
        };
        if (place, outcome) == (Place::First, Outcome::Undo) {
            self.transaction = Transaction::None;
        }
        for sql in statements {
            if let Err(error) = execute(self.db, sql) {
                // A full disk or an I/O error has ended the whole transaction: its other operations are gone too.
                self.transaction = Transaction::Lost(Broken(error.to_string().into()));
            }
        }
        reply
    }

    /// Begins an operation. The first of a transaction needs no savepoint: to undo it is to undo the transaction. That
    /// spares a copy of each page that it changes.
    fn begin(&mut self) -> Result<Place, Broken> {
        let begin = |sql| execute(self.db, sql).map_err(|error| Broken(error.to_string().into()));
        match &self.transaction {
            Transaction::Lost(broken) => Err(broken.clone()),
            Transaction::Open => begin("SAVEPOINT operation").map(|()| Place::Later),
            Transaction::None => {
                begin("BEGIN IMMEDIATE")?;
                self.transaction = Transaction::Open;
                Ok(Place::First)
            }
        }
    }

    /// Commits and answers everybody; what it answers has broken the store for good.
    fn end(self) -> Option<Broken> {
        let broken = match self.transaction {
            Transaction::None => None,
            Transaction::Lost(broken) => Some(broken),
            Transaction::Open => {
                let began = Instant::now();
                match execute(self.db, "COMMIT") {
                    Ok(()) => {
                        self.counters.commits.fetch_add(1, Ordering::Relaxed);
                        metrics::counter!("courier_commits_total").increment(1);
                        metrics::histogram!("courier_commit_seconds").record(began.elapsed());
                        None
                    }
                    Err(error) => Some(Broken(error.to_string().into())),
                }
            }
        };
        if let Some(broken) = &broken {
            error!(cause = %broken, "the store could not commit and refuses to go on");
        }
        for reply in self.replies {
            reply(broken.as_ref());
        }
        broken.map(|Broken(cause)| Broken(format!("an earlier commit failed: {cause}").into()))
    }
}

fn execute(db: &Connection, sql: &str) -> Result<(), rusqlite::Error> {
    db.prepare_cached(sql)?.execute([]).map(drop)
}
