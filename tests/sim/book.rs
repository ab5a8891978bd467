//! What the checker knows: what the sources showed, what was handed over, what arrived, and every blow of the script.
//!
//! Entries are written where things happen (in the request path, at the store's seam, in the destination) and carry
//! one running number, so that "before" and "after" need no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use jiff::Timestamp;

use crate::life::{Op, Side};

/// A record: connection, type, id.
pub(crate) type RecordRef = (String, String, String);

/// A feed: connection and name.
pub(crate) type FeedRef = (String, String);

/// How much of a version an answer carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The body, or the source's own word of a delete with its version.
    Whole,
    /// Its id and version only.
    IdOnly,
    /// The record is gone, without a version (410 on a plain read).
    Gone,
    /// The source does not find the record (404): no word of a delete.
    NotFound,
}

/// One version within one answer.
#[derive(Debug, Clone)]
pub(crate) struct Showing {
    pub(crate) record_type: String,
    pub(crate) id: String,
    pub(crate) number: u64,
    pub(crate) stamp: Timestamp,
    pub(crate) extent: Extent,
    /// SHA-256 of the body; of nothing for a delete.
    pub(crate) sha256: [u8; 32],
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The first page of a poll; the source's own time is where a feed that starts now begins.
    FirstPage,
    /// A later page.
    Page,
    /// One version of one record.
    Version,
    /// One record as it stands.
    Record,
    /// Several records as they stand, by their ids; what is not taken from it is asked for singly.
    Several,
    /// One record as it stands, because another refers to it: it tells of no change.
    Context,
    /// What the source says of itself.
    Statement,
}

/// One answer of a source that reached (or was on its way to) a worker.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) tick: u64,
    pub(crate) life: usize,
    pub(crate) connection: String,
    /// The feed that asked; empty for reads.
    pub(crate) feed: String,
    pub(crate) asked: Asked,
    /// The source's own time.
    pub(crate) date: Timestamp,
    /// The `_since` of the history that it belongs to: what lies before was not asked for.
    pub(crate) since: Option<Timestamp>,
    /// Whether the source said that it did not choose records as it was asked to: nothing is taken from such an answer.
    pub(crate) ignores: bool,
    pub(crate) showings: Vec<Showing>,
}

/// How one attempt at a destination went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Still under way, or its worker was struck.
    Open,
    /// The destination said yes.
    Accepted,
    /// The destination said no, or nothing in time.
    Failed,
}

/// One attempt at a destination.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) begun: u64,
    pub(crate) life: usize,
    pub(crate) subscription: String,
    pub(crate) connection: String,
    pub(crate) event_id: String,
    pub(crate) body: Bytes,
    /// When the destination really took it in, if it did.
    pub(crate) received: Option<u64>,
    pub(crate) ending: Ending,
}

/// One committed record of an attempt.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) tick: u64,
    pub(crate) subscription: String,
    pub(crate) event_id: String,
    pub(crate) delivered: bool,
}

/// A subscription as the checker understands it, and while which it was in force.
#[derive(Debug, Clone)]
pub(crate) struct Reign {
    pub(crate) from: u64,
    pub(crate) until: Option<u64>,
}

/// Everything that was noted.
#[derive(Default)]
pub(crate) struct Pages {
    tick: u64,
    pub(crate) answers: Vec<Answer>,
    /// Commits of whole pages: (tick, life, feed).
    pub(crate) handed: Vec<(u64, usize, FeedRef)>,
    /// Commits of settlements: (tick, life, connection).
    pub(crate) settled: Vec<(u64, usize, String)>,
    /// Versions that a committed hand-over carried,
    /// and since when.
    pub(crate) durable: BTreeMap<(RecordRef, u64), u64>,
    /// Records that a complete listing left out, by committed writes, and when.
    pub(crate) left_out: Vec<(RecordRef, Timestamp)>,
    /// Where cursors stood, looked up after each blow and at the end: (tick, feed, what it stands for).
    pub(crate) cursors: Vec<(u64, FeedRef, Timestamp)>,
    /// How often something worth knowing happened.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// When a life ended.
    pub(crate) ends: BTreeMap<usize, u64>,
    /// Lives that stood still for a while.
    pub(crate) frozen: BTreeSet<usize>,
    /// The crashes by store call.
    pub(crate) crashes: Vec<(usize, Op, Side)>,
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) claims: BTreeMap<u64, (String, String)>,
    pub(crate) recorded: Vec<Recorded>,
    pub(crate) reigns: BTreeMap<String, Vec<Reign>>,
    /// Polls that were given up with what they had collected: (tick, life, feed).
    pub(crate) given_up: Vec<(u64, usize, FeedRef)>,
    /// Polls that were handed over whole: (tick, feed).
    pub(crate) completed: Vec<(u64, FeedRef)>,
    /// First complete poll of a feed: its tick.
    pub(crate) complete: BTreeMap<FeedRef, u64>,
    pub(crate) redriven: BTreeSet<String>,
    /// Writes that the fence refused.
    pub(crate) fenced: u64,
    /// Rules broken at the moment they were seen.
    pub(crate) violations: Vec<String>,
}

/// The book itself.
#[derive(Default)]
pub(crate) struct Book {
    pages: Mutex<Pages>,
}

impl Book {
    pub(crate) fn open(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap()
    }

    pub(crate) fn note_crash(&self, life: usize, op: Op, side: Side) {
        let mut pages = self.open();
        pages.crashes.push((life, op, side));
        pages.end(life);
    }

    pub(crate) fn note_end(&self, life: usize) {
        self.open().end(life);
    }

    pub(crate) fn note_freeze(&self, life: usize) {
        self.open().frozen.insert(life);
    }

    pub(crate) fn violation(&self, what: String) {
        self.open().violations.push(what);
    }
}

impl Pages {
    /// The next running number.
    pub(crate) fn next(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// The `_since` of the poll that a feed is at.
    pub(crate) fn since_of_last_poll(&self, connection: &str, feed: &str) -> Option<Timestamp> {
        let begins =
            |it: &&Answer| it.asked == Asked::FirstPage && it.connection == connection && it.feed == feed;
        self.answers.iter().rev().find(begins)?.since
    }

    fn end(&mut self, life: usize) {
        let tick = self.next();
        self.ends.entry(life).or_insert(tick);
    }

    /// The names in force from now on.
    pub(crate) fn define(&mut self, names: &BTreeSet<String>) {
        let tick = self.next();
        for (name, reigns) in &mut self.reigns {
            if let Some(reign) = reigns.last_mut()
                && reign.until.is_none()
                && !names.contains(name)
            {
                reign.until = Some(tick);
            }
        }
        for name in names {
            let reigns = self.reigns.entry(name.clone()).or_default();
            if reigns.last().is_none_or(|reign| reign.until.is_some()) {
                reigns.push(Reign {
                    from: tick,
                    until: None,
                });
            }
        }
    }

    /// All versions that any answer carried.
    pub(crate) fn versions_shown(&self) -> BTreeSet<(RecordRef, u64)> {
        let mut versions = BTreeSet::new();
        for answer in &self.answers {
            let told = answer.asked != Asked::Context;
            for showing in answer
                .showings
                .iter()
                .filter(|it| told && matches!(it.extent, Extent::Whole | Extent::IdOnly))
            {
                versions.insert((showing.record(&answer.connection), showing.number));
            }
        }
        versions
    }
}

impl Showing {
    pub(crate) fn record(&self, connection: &str) -> RecordRef {
        (connection.to_owned(), self.record_type.clone(), self.id.clone())
    }
}
