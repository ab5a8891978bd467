//! The ledger rule: when a shown version is new, what it becomes, and what the head of its record is then.
//!
//! Every store loads a [`RecordView`] for each record of a batch, calls [`decide`] inside its transaction and
//! writes the outcome. So all stores give one meaning to the four atomic points, and the rule itself is pure.

use std::collections::{BTreeMap, BTreeSet};

use courier_sdk::{ConnectionName, Meaning, Novelty, RecordKey, Shown};
use jiff::Timestamp;

use super::canonical::ContentHash;
use super::event::{Change, Content, EventKind, Timeliness, VersionClue, VersionOrder};
use super::identity::{EventId, VersionKey};

/// The last accepted version of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its version key.
    pub version: VersionKey,
    /// Its event id.
    pub event_id: EventId,
    /// What orders it among the record's versions.
    pub order: VersionOrder,
    /// Its content hash, unless it is a delete.
    pub hash: Option<ContentHash>,
    /// Whether the record exists.
    pub life: Life,
    /// Whether it says that the record was merged into another.
    pub merged: bool,
    /// How many changes of content were counted, for the third rung.
    pub changes: u64,
}

/// Whether a record exists, as far as its head tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It exists.
    Live,
    /// It was deleted.
    Deleted,
}

/// What the ledger knows of one record before a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordView {
    /// The head, if any version was ever accepted.
    pub head: Option<Head>,
    /// Whether an earlier change of the record waits in the inbox: then later ones queue behind it.
    pub queue: Queue,
}

/// Whether earlier changes of a record are still waiting to be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Queue {
    /// None is.
    #[default]
    Empty,
    /// At least one is.
    Waiting,
}

/// What the ledger knows of a batch's records and ids, loaded by the store.
#[derive(Debug, Clone, Default)]
pub struct LedgerView {
    /// The records of the batch.
    pub records: BTreeMap<RecordKey, RecordView>,
    /// Those of the batch's known event ids that were accepted before.
    pub accepted: BTreeSet<EventId>,
    /// Whether the feed's baseline from the beginning is complete and unfiltered: a first sight is a creation.
    pub baseline: Baseline,
    /// Whether a version with the content of its head is told of.
    pub unchanged: Unchanged,
}

/// Whether a version with the content of the one before it is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unchanged {
    /// It is: each version is an event.
    #[default]
    Tell,
    /// It is not: it enters the ledger as the record's new head, and that is all.
    Suppress,
}

/// Whether a first sight proves a creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Baseline {
    /// It does not.
    #[default]
    Unproven,
    /// It does not, and what could prove it later was given away: a filter or an operator's jump left something out.
    Forfeited,
    /// Everything that existed was seen before: it does.
    Complete,
}

/// What becomes of one change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is an event: append it to the log, accept its id.
    Append {
        /// Its version key.
        version: VersionKey,
        /// Its event id.
        event_id: EventId,
        /// What happened.
        kind: EventKind,
        /// What it means beyond that.
        meaning: Option<Meaning>,
        /// Whether it keeps the record's order.
        timeliness: Timeliness,
    },
    /// It lies before the feed's start: accept its id, write no event.
    Silence {
        /// Its event id.
        event_id: EventId,
    },
    /// Its content is that of the version before it, and such are not told of: accept its id, write no event.
    Unchanged {
        /// Its event id.
        event_id: EventId,
    },
    /// It must be fetched, or waits behind an earlier change of its record.
    Enqueue,
    /// The record is shown alive again over a delete that was inferred: only a read tells whether it lives. Asked about
    /// once, the showing itself is known.
    Confirm {
        /// Its event id, where that is known.
        event_id: Option<EventId>,
    },
    /// It is known: renew the id's last showing.
    Known {
        /// Its event id.
        event_id: EventId,
    },
    /// A delete without evidence of a living record: nothing to say.
    Refuse,
}

/// Where a batch comes from: what is fetched already never waits behind itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A page or the stage: changes queue behind earlier ones of their record.
    Page,
    /// The same, of a feed whose records are told of with their context: that is read first, unless it came along.
    PageWithoutContext,
    /// The inbox: the change came with its record and was at the front of its queue.
    Inbox,
    /// The same, but the record was read for it just now.
    Read,
}

impl Source {
    /// Whether the change was at the front of its record's queue.
    #[must_use]
    pub fn is_inbox(self) -> bool {
        match self {
            Self::Inbox | Self::Read => true,
            Self::Page | Self::PageWithoutContext => false,
        }
    }
}

/// Decides a batch in order; `view` is left as it stands after the batch (heads, accepted ids, queues).
pub fn decide(
    connection: &ConnectionName,
    view: &mut LedgerView,
    changes: &[Change],
    source: Source,
) -> Vec<Verdict> {
    changes
        .iter()
        .map(|change| decide_one(connection, view, change, source))
        .collect()
}

fn decide_one(
    connection: &ConnectionName,
    view: &mut LedgerView,
    change: &Change,
    source: Source,
) -> Verdict {
    let (baseline, unchanged) = (view.baseline, view.unchanged);
    let record = view.records.entry(change.key.clone()).or_default();
    let must_wait = !source.is_inbox() && record.queue == Queue::Waiting;
    let again = lives_again(record.head.as_ref(), change);
    if again && !source.is_inbox() && change.version == VersionClue::ByContent {
        return Verdict::Confirm { event_id: None };
    }
    if must_wait && change.novelty == Novelty::Announce && change.version == VersionClue::ByContent {
        // Its number depends on changes that still wait: judged now, the second A of A, B, A would be the first.
        return enqueue(record);
    }
    let Some((mut version, mut event_id)) = resolve(connection, record.head.as_ref(), change) else {
        return match &change.version {
            VersionClue::InferredDelete => Verdict::Refuse,
            VersionClue::Known(..) | VersionClue::ByContent | VersionClue::Unknown => enqueue(record),
        };
    };
    let known = is_known(&view.accepted, record.head.as_ref(), (&version, &event_id));
    let deleted = record.head.as_ref().filter(|_| known && again);
    match (deleted, source) {
        (Some(deleted), Source::Read) => {
            version = VersionKey::of_return(&deleted.version);
            event_id = EventId::derive(connection, &change.key, &version);
        }
        // What waits is read anyway.
        (Some(_), Source::Page | Source::PageWithoutContext) if !must_wait => {
            let event_id = Some(event_id);
            return Verdict::Confirm { event_id };
        }
        (Some(_) | None, _) if known => return Verdict::Known { event_id },
        (Some(_) | None, _) => {}
    }
    let returned = deleted.is_some();
    let whole = |content: &Content| source != Source::PageWithoutContext || content.context.is_some();
    let carried = change.content.as_ref().is_some_and(whole);
    let unavailable = version.is_unavailable();
    let complete = carried || change.shown == Shown::Deleted || unavailable;
    if change.novelty == Novelty::Announce && (!complete || must_wait) {
        return enqueue(record);
    }
    let order = place(change, record.head.as_ref(), returned);
    let timeliness = match &record.head {
        Some(head) if order.is_before(&head.order) => Timeliness::Late,
        Some(_) | None => Timeliness::InOrder,
    };
    let meaning = meaning_of(change, record.head.as_ref(), timeliness);
    let kind = match (unavailable, &meaning) {
        (true, _) => EventKind::Unavailable,
        (false, Some(Meaning::MergedInto(_))) => EventKind::Merged,
        (false, _) if returned => EventKind::Updated,
        (false, _) => kind_of(change, record.head.as_ref(), baseline),
    };
    let in_order = timeliness == Timeliness::InOrder;
    let told = in_order && names_a_told_delete(change, record.head.as_ref());
    let repeats = in_order && unchanged == Unchanged::Suppress && repeats_head(change, record.head.as_ref());
    // What may not be read says nothing of the record's state: its head stays.
    if in_order && !unavailable {
        let before = record.head.as_ref();
        record.head = Some(next_head(change, before, (&version, &event_id), order));
    }
    view.accepted.insert(event_id.clone());
    match change.novelty {
        Novelty::Announce if repeats => Verdict::Unchanged { event_id },
        Novelty::Announce if !told => Verdict::Append {
            version,
            event_id,
            kind,
            meaning,
            timeliness,
        },
        Novelty::Announce | Novelty::Silent => Verdict::Silence { event_id },
    }
}

/// Whether a record's last version is a delete that the source did not tell: the record may be there all the same.
#[must_use]
pub fn is_taken_for_deleted(head: Option<&Head>) -> bool {
    head.is_some_and(|head| head.life == Life::Deleted && head.version.is_inferred_delete())
}

/// Whether a record is shown alive over a delete that was inferred, in a state that is not known to lie before it. A
/// history shows what was, not what is.
fn lives_again(head: Option<&Head>, change: &Change) -> bool {
    let is_older = head.is_some_and(|head| change.order.is_before(&head.order));
    change.shown == Shown::State && is_taken_for_deleted(head) && !is_older
}

/// Whether a change has the content of the living record's last version. Where that is not known it has not.
fn repeats_head(change: &Change, head: Option<&Head>) -> bool {
    let (Some(content), Some(head)) = (&change.content, head) else {
        return false;
    };
    change.shown != Shown::Deleted && head.life == Life::Live && head.hash.as_ref() == Some(&content.hash)
}

/// Whether a history names the delete that a read found before: one delete is one event, whoever saw it first.
fn names_a_told_delete(change: &Change, head: Option<&Head>) -> bool {
    let named = change.shown == Shown::Deleted && matches!(change.version, VersionClue::Known(..));
    named && is_taken_for_deleted(head)
}

/// The head's version id, where a read of the record's current state may be spared if that is still the head: the
/// change that is to be read names no other version and is not known to come after the head.
#[must_use]
pub fn version_that_may_stand<'a>(head: &'a Head, change: &Change) -> Option<&'a str> {
    let asked_for = match &change.version {
        VersionClue::Unknown => None,
        VersionClue::Known(version, _) => Some(version),
        VersionClue::ByContent | VersionClue::InferredDelete => return None,
    };
    let other_asked_for = asked_for.is_some_and(|version| version.as_str() != head.version.as_shown());
    if other_asked_for || head.life == Life::Deleted || head.order.is_before(&change.order) {
        return None;
    }
    head.version.version_id()
}

/// A change that turned out to be the head's version, still current.
#[must_use]
pub fn showing_of(head: &Head, change: Change) -> Change {
    Change {
        version_id: head.version.version_id().map(str::to_owned),
        version: VersionClue::Known(head.version.clone(), head.event_id.clone()),
        order: head.order,
        ..change
    }
}

/// A change whose record we may not read: its id is fixed by the version that was asked for, else by the head.
#[must_use]
pub fn unavailable(connection: &ConnectionName, change: Change, head: Option<&Head>) -> Change {
    let asked_for = match &change.version {
        VersionClue::Known(version, _) => Some(version),
        VersionClue::ByContent | VersionClue::InferredDelete | VersionClue::Unknown => None,
    };
    let version = VersionKey::of_unavailable(asked_for.or(head.map(|head| &head.version)));
    let id = EventId::derive(connection, &change.key, &version);
    Change {
        version: VersionClue::Known(version, id),
        content: None,
        ..change
    }
}

/// Where a change stands among the record's versions. An inferred delete has no place of its own: it comes after the
/// head and after the version that was asked for, so that both, shown late, are known to lie before it. Nor has a return
/// from one.
fn place(change: &Change, head: Option<&Head>, returned: bool) -> VersionOrder {
    match head {
        Some(head) if returned || change.version == VersionClue::InferredDelete => VersionOrder {
            number: change.order.number.max(head.order.number),
            stamp: change.order.stamp.max(head.order.stamp),
        },
        Some(_) | None => change.order,
    }
}

/// When a change happened by the source's clock: of an inferred delete the source never said it.
#[must_use]
pub fn changed_at(change: &Change) -> Option<Timestamp> {
    match change.version {
        VersionClue::InferredDelete => None,
        VersionClue::Known(..) | VersionClue::ByContent | VersionClue::Unknown => change.order.stamp,
    }
}

fn enqueue(record: &mut RecordView) -> Verdict {
    record.queue = Queue::Waiting;
    Verdict::Enqueue
}

/// Works out the version key and id, with the head's help where the clue needs it.
fn resolve(
    connection: &ConnectionName,
    head: Option<&Head>,
    change: &Change,
) -> Option<(VersionKey, EventId)> {
    let version = match (&change.version, head) {
        (VersionClue::Known(version, id), _) => return Some((version.clone(), id.clone())),
        (VersionClue::ByContent, _) => {
            let hash = &change.content.as_ref()?.hash;
            let number = match head {
                Some(head) if head.hash.as_ref() == Some(hash) => head.changes,
                Some(head) => head.changes + 1,
                None => 1,
            };
            VersionKey::of_content(hash, number)
        }
        (VersionClue::InferredDelete, Some(head)) if head.life == Life::Live => {
            VersionKey::of_inferred_delete(&head.version)
        }
        (VersionClue::InferredDelete | VersionClue::Unknown, _) => return None,
    };
    let id = EventId::derive(connection, &change.key, &version);
    Some((version, id))
}

/// A change is new when its id is neither in the accepted set nor the head's own, nor that of the version that a deleted
/// record lived under or lives under again.
fn is_known(
    accepted: &BTreeSet<EventId>,
    head: Option<&Head>,
    (version, id): (&VersionKey, &EventId),
) -> bool {
    let in_set = accepted.contains(id) && !cfg!(sabotage = "ledger_of_last_versions_only");
    let is_heads = |head: &Head| head.event_id == *id || head.version.as_shown() == version.as_str();
    let is_head = head.is_some_and(is_heads) && !cfg!(sabotage = "ledger_without_heads");
    in_set || is_head
}

/// `created` is said only when proven.
fn kind_of(change: &Change, head: Option<&Head>, baseline: Baseline) -> EventKind {
    let proven = change.first_version || (head.is_none() && baseline == Baseline::Complete);
    match (change.shown, proven) {
        (Shown::Deleted, _) => EventKind::Deleted,
        (Shown::Created, _) | (Shown::State | Shown::Missing, true) => EventKind::Created,
        // A PUT can create too; a first version that the profile trusts proves it.
        (Shown::Updated, _) if change.first_version => EventKind::Created,
        (Shown::Updated, _) | (Shown::State | Shown::Missing, false) => EventKind::Updated,
    }
}

/// What a version means: its own word, or, where the version before it was merged and it no longer says so, that it was
/// parted again.
fn meaning_of(change: &Change, head: Option<&Head>, timeliness: Timeliness) -> Option<Meaning> {
    let content = change.content.as_ref()?;
    let parted = timeliness == Timeliness::InOrder && head.is_some_and(|head| head.merged);
    content.meaning.clone().or(parted.then_some(Meaning::Unmerged))
}

fn next_head(
    change: &Change,
    head: Option<&Head>,
    (version, event_id): (&VersionKey, &EventId),
    order: VersionOrder,
) -> Head {
    let hash = change.content.as_ref().map(|content| content.hash.clone());
    let changes = match head {
        Some(head) if hash.is_some() && head.hash == hash => head.changes,
        Some(head) => head.changes + 1,
        None => 1,
    };
    let life = if change.shown == Shown::Deleted {
        Life::Deleted
    } else {
        Life::Live
    };
    Head {
        version: version.clone(),
        event_id: event_id.clone(),
        order,
        hash,
        life,
        merged: is_merged(change),
        changes,
    }
}

fn is_merged(change: &Change) -> bool {
    let said = change
        .content
        .as_ref()
        .and_then(|content| content.meaning.as_ref());
    matches!(said, Some(Meaning::MergedInto(_)))
}

#[cfg(test)]
#[path = "ledger/meaning_tests.rs"]
mod meaning_tests;
#[cfg(test)]
#[path = "ledger/tests.rs"]
mod tests;
