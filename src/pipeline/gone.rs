//! Records that a read no longer finds: when that is evidence of a delete, and how many deletes at once are believed.
//!
//! What is remembered here is lost with the process: then the evidence is gathered anew, which takes a minute, or an
//! hour. Nothing is concluded sooner for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use courier_sdk::{NotFound, RecordKey, Shown};
use tokio::time::Instant;
use tracing::error;

use super::Worker;
use super::connection::Connection;
use crate::domain::event::{Change, VersionClue};
use crate::domain::plan;
use crate::store::{ClaimedChange, SettleResult};

/// A record that is not found is asked for again after this, before it counts as deleted.
const ASKED_AGAIN: Duration = Duration::from_mins(1);

/// Where the source says nothing else meanwhile, the record is asked for ever more seldom, down to this.
const ASKED_AGAIN_MAX: Duration = Duration::from_mins(10);

/// Over so long deletes and reads are counted.
const COUNTED_OVER: Duration = Duration::from_mins(10);

/// One delete in so many reads is no burst: 5 %.
const READS_PER_DELETE: u64 = 20;

/// A delete of a burst is believed when a read says the same so long after.
const HELD_FOR: Duration = Duration::from_hours(1);

/// What was not asked about for so long is over: the inbox asks every ten minutes, or every hour.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(6);

/// The most records in doubt that are remembered; twice what an inbox holds. Any other is asked for again.
const REMEMBERED_MAX: usize = 20_000;

/// What a connection's reads suggest of records that are gone.
#[derive(Debug, Default)]
pub struct Gone {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Records that were not found.
    doubts: BTreeMap<RecordKey, Span>,
    /// Deletes of a burst.
    held: BTreeMap<RecordKey, Span>,
    /// What was read, minute by minute.
    minutes: VecDeque<Minute>,
}

/// From the first time that something was seen to the last.
#[derive(Debug, Clone, Copy)]
struct Span {
    first: Instant,
    last: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Minute {
    began: Instant,
    reads: u64,
    deletes: u64,
}

/// What follows from a delete that a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Belief {
    /// It is told.
    Told,
    /// It is one of a burst: the record is read again after so long.
    Held {
        /// How long.
        again_in: Duration,
        /// Whether it is the first of its burst.
        first: bool,
    },
}

impl Gone {
    /// Notes that a record was read, whatever came of it.
    pub(super) fn note_read(&self, now: Instant) {
        self.seen().count(now, 1, 0);
    }

    /// Notes that a record is there.
    pub(super) fn note_found(&self, key: &RecordKey) {
        let mut seen = self.seen();
        seen.doubts.remove(key);
        seen.held.remove(key);
    }

    /// How many deletes are held.
    pub(super) fn held(&self) -> usize {
        self.seen().held.len()
    }

    /// Notes that the source does not find a record; answers when to ask again, or that this is evidence enough: it said
    /// so a minute ago too, and something else was read or searched in between.
    fn not_found(&self, key: &RecordKey, now: Instant, answered_at: Option<Instant>) -> Option<Duration> {
        let mut seen = self.seen();
        let Some(span) = note(&mut seen.doubts, key, now) else {
            return Some(ASKED_AGAIN);
        };
        let since = now.saturating_duration_since(span.first);
        let answered = answered_at.is_some_and(|at| at > span.first);
        if since >= ASKED_AGAIN && answered {
            None
        } else {
            Some(since.clamp(ASKED_AGAIN, ASKED_AGAIN_MAX))
        }
    }

    /// Judges a delete that a read found.
    fn judge(&self, key: &RecordKey, now: Instant, usual: u64) -> Belief {
        let mut seen = self.seen();
        if seen.held.contains_key(key)
            && let Some(span) = note(&mut seen.held, key, now)
            && now > span.first
        {
            let since = now.saturating_duration_since(span.first);
            if since >= HELD_FOR {
                seen.held.remove(key);
                seen.doubts.remove(key);
                return Belief::Told;
            }
            let (again_in, first) = (HELD_FOR.saturating_sub(since), false);
            return Belief::Held { again_in, first };
        }
        seen.count(now, 0, 1);
        let (reads, deletes) = seen.counted();
        if deletes <= usual.max(reads / READS_PER_DELETE) {
            seen.doubts.remove(key);
            return Belief::Told;
        }
        let first = seen.held.is_empty();
        note(&mut seen.held, key, now);
        Belief::Held {
            again_in: HELD_FOR,
            first,
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn count(&mut self, now: Instant, reads: u64, deletes: u64) {
        let is_over = |minute: &Minute| now.saturating_duration_since(minute.began) >= COUNTED_OVER;
        while self.minutes.front().is_some_and(is_over) {
            self.minutes.pop_front();
        }
        let runs = |minute: &Minute| now.saturating_duration_since(minute.began) < Duration::from_mins(1);
        match self.minutes.back_mut() {
            Some(minute) if runs(minute) => {
                minute.reads += reads;
                minute.deletes += deletes;
            }
            Some(_) | None => self.minutes.push_back(Minute {
                began: now,
                reads,
                deletes,
            }),
        }
    }

    /// The reads and deletes that count now.
    fn counted(&self) -> (u64, u64) {
        let sum = |of: fn(&Minute) -> u64| self.minutes.iter().map(of).sum();
        (sum(|minute| minute.reads), sum(|minute| minute.deletes))
    }
}

/// Notes that something was seen of a record; nothing where too many are remembered.
fn note(of: &mut BTreeMap<RecordKey, Span>, key: &RecordKey, now: Instant) -> Option<Span> {
    let is_over = |span: &Span| now.saturating_duration_since(span.last) >= FORGOTTEN_AFTER;
    if of.len() >= REMEMBERED_MAX && !of.contains_key(key) {
        of.retain(|_, span| !is_over(span));
        if of.len() >= REMEMBERED_MAX {
            return None;
        }
    }
    let anew = Span {
        first: now,
        last: now,
    };
    let span = of.entry(key.clone()).or_insert(anew);
    if is_over(span) {
        *span = anew;
    }
    span.last = now;
    Some(*span)
}

/// Whether a 404 counts: in the source's own words, and either of a record that disappeared from a complete listing or
/// where the profile says that deleted records are answered so.
pub(super) fn counts(not_found: NotFound, change: &Change) -> bool {
    match not_found {
        NotFound::Unattributed => false,
        NotFound::BySource => change.shown == Shown::Missing,
        NotFound::MeansDeleted => true,
    }
}

/// What follows where the source does not find a record and that counts: no attempt is lost by asking again.
pub(super) fn doubted(worker: &Worker, connection: &Connection, claimed: &ClaimedChange) -> SettleResult {
    let key = &claimed.change.key;
    let wait = connection
        .gone
        .not_found(key, Instant::now(), connection.answered_at());
    match wait {
        Some(wait) => SettleResult::Release {
            due_at: plan::later(worker.clock.now(), wait),
        },
        None => deleted(worker, connection, claimed),
    }
}

/// What follows where the source says that a record is deleted.
pub(super) fn deleted(worker: &Worker, connection: &Connection, claimed: &ClaimedChange) -> SettleResult {
    let belief = connection
        .gone
        .judge(&claimed.change.key, Instant::now(), worker.limits.usual_deletes);
    let label = worker.watch.connections.of(connection.name.as_str());
    #[expect(clippy::cast_precision_loss, reason = "a gauge of rows: exact up to 2^53")]
    metrics::gauge!("courier_deletes_held", "connection" => label).set(connection.gone.held() as f64);
    match belief {
        Belief::Told => SettleResult::Deleted(inferred_delete(claimed.change.clone())),
        Belief::Held { again_in, first } => {
            if first {
                error!(
                    connection = %connection.name, seconds = again_in.as_secs(),
                    "more records are gone than is usual: their deletes are held until a later read says the same"
                );
            }
            SettleResult::Release {
                due_at: plan::later(worker.clock.now(), again_in),
            }
        }
    }
}

/// What follows where a record that was shown again is gone all the same: the ledger has its delete.
pub(super) fn stays_deleted(claimed: &ClaimedChange) -> SettleResult {
    SettleResult::Deleted(inferred_delete(claimed.change.clone()))
}

fn inferred_delete(change: Change) -> Change {
    Change {
        shown: Shown::Deleted,
        version: VersionClue::InferredDelete,
        version_id: None,
        first_version: false,
        content: None,
        ..change
    }
}

#[cfg(test)]
mod tests {
    use courier_sdk::{RecordId, RecordType};

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const USUAL: u64 = 20;

    fn key(number: u64) -> RecordKey {
        RecordKey {
            record_type: RecordType::parse("Appointment").unwrap(),
            id: RecordId::parse(&number.to_string()).unwrap(),
        }
    }

    fn held_for(belief: Belief) -> Option<Duration> {
        match belief {
            Belief::Told => None,
            Belief::Held { again_in, .. } => Some(again_in),
        }
    }

    #[test]
    fn a_record_is_gone_when_it_is_not_found_twice_with_a_good_answer_between() {
        let (gone, began) = (Gone::default(), Instant::now());
        let asked = |after: Duration, answered: Option<Duration>| {
            gone.not_found(&key(1), began + after, answered.map(|at| began + at))
        };
        let second = Duration::from_secs(1);
        assert_eq!(asked(Duration::ZERO, Some(Duration::ZERO)), Some(MINUTE));
        assert_eq!(asked(30 * second, Some(second)), Some(MINUTE), "too soon");
        assert_eq!(
            asked(MINUTE, Some(Duration::ZERO)),
            Some(MINUTE),
            "no answer since"
        );
        assert_eq!(asked(9 * MINUTE, None), Some(9 * MINUTE));
        assert_eq!(asked(90 * MINUTE, None), Some(ASKED_AGAIN_MAX));
        assert_eq!(asked(91 * MINUTE, Some(second)), None);
    }

    #[test]
    fn what_was_found_or_not_asked_about_for_long_is_doubted_anew() {
        let (gone, began) = (Gone::default(), Instant::now());
        let answered = || Some(began + Duration::from_secs(1));
        gone.not_found(&key(1), began, None);
        gone.note_found(&key(1));
        assert!(gone.not_found(&key(1), began + MINUTE, answered()).is_some());
        let later = began + MINUTE + FORGOTTEN_AFTER;
        assert!(gone.not_found(&key(1), later, Some(later)).is_some());
        assert!(
            gone.not_found(&key(1), later + MINUTE, Some(later + MINUTE))
                .is_none()
        );
    }

    #[test]
    fn a_burst_of_deletes_is_held_until_each_is_found_gone_an_hour_later() {
        let (gone, began) = (Gone::default(), Instant::now());
        for number in 0..USUAL {
            assert_eq!(gone.judge(&key(number), began, USUAL), Belief::Told);
        }
        let first = Belief::Held {
            again_in: HELD_FOR,
            first: true,
        };
        assert_eq!(gone.judge(&key(100), began, USUAL), first);
        assert_eq!(held_for(gone.judge(&key(101), began, USUAL)), Some(HELD_FOR));
        assert_eq!(gone.held(), 2);
        let sooner = gone.judge(&key(100), began + 20 * MINUTE, USUAL);
        assert_eq!(held_for(sooner), Some(40 * MINUTE), "shown again meanwhile");
        assert_eq!(
            gone.judge(&key(7), began + 20 * MINUTE, USUAL),
            Belief::Told,
            "the burst is over"
        );
        gone.note_found(&key(101));
        assert_eq!(gone.judge(&key(100), began + HELD_FOR, USUAL), Belief::Told);
        assert_eq!(gone.held(), 0);
    }

    #[test]
    fn one_delete_in_twenty_reads_is_usual() {
        let (gone, began) = (Gone::default(), Instant::now());
        for number in 0..1_000 {
            gone.note_read(began + Duration::from_millis(number));
        }
        let now = began + 5 * MINUTE;
        let told = |number: &u64| gone.judge(&key(*number), now, USUAL) == Belief::Told;
        assert_eq!((0..100).filter(told).count(), 50);
    }

    #[test]
    fn no_more_is_remembered_than_the_limit_and_what_is_not_is_never_believed_sooner() {
        let (gone, began) = (Gone::default(), Instant::now());
        for number in 0..=REMEMBERED_MAX as u64 {
            gone.not_found(&key(number), began, None);
        }
        assert_eq!(gone.seen().doubts.len(), REMEMBERED_MAX);
        let over = key(REMEMBERED_MAX as u64);
        let answered = Some(began + MINUTE);
        assert!(gone.not_found(&over, began + MINUTE, answered).is_some());
        assert!(gone.not_found(&key(0), began + MINUTE, answered).is_none());
    }
}
