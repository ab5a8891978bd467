//! The ledger rule by table and by chance.

use bytes::Bytes;
use courier_sdk::{Novelty, Record, RecordId, RecordType};
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::domain::event::{Content, VersionOrder};

#[path = "tests/returns.rs"]
mod returns;

pub(super) fn mercy() -> ConnectionName {
    ConnectionName::parse("mercy").unwrap()
}

fn key(id: &str) -> RecordKey {
    RecordKey {
        record_type: RecordType::parse("Patient").unwrap(),
        id: RecordId::parse(id).unwrap(),
    }
}

/// A change of record `1` with nothing but its clue.
pub(super) fn change(version: VersionClue) -> Change {
    Change {
        key: key("1"),
        shown: Shown::State,
        novelty: Novelty::Announce,
        version_id: None,
        version,
        order: VersionOrder::default(),
        first_version: false,
        content: None,
        trace: None,
    }
}

fn content(body: &str) -> Content {
    let body = Bytes::copy_from_slice(body.as_bytes());
    Content {
        hash: ContentHash::of_record(&body, &[]).unwrap(),
        record: Record::new(body),
        meaning: None,
        context: None,
    }
}

/// A numbered version that came along.
pub(super) fn version(number: u64) -> Change {
    let version = VersionKey::of_version_id(&number.to_string());
    let id = EventId::derive(&mercy(), &key("1"), &version);
    Change {
        order: VersionOrder {
            number: Some(number),
            stamp: None,
        },
        content: Some(content(&format!("{{\"v\":{number}}}"))),
        ..change(VersionClue::Known(version, id))
    }
}

/// A numbered version that must be fetched.
fn reference(number: u64) -> Change {
    Change {
        content: None,
        ..version(number)
    }
}

/// A version that only its content tells from others.
pub(super) fn worded(word: &str) -> Change {
    Change {
        content: Some(content(&format!("{{\"w\":\"{word}\"}}"))),
        ..change(VersionClue::ByContent)
    }
}

pub(super) fn deleted(number: u64) -> Change {
    Change {
        shown: Shown::Deleted,
        ..reference(number)
    }
}

pub(super) fn gone() -> Change {
    Change {
        shown: Shown::Deleted,
        ..change(VersionClue::InferredDelete)
    }
}

fn shown(shown: Shown, change: Change) -> Change {
    Change { shown, ..change }
}

pub(super) fn silent(change: Change) -> Change {
    Change {
        novelty: Novelty::Silent,
        ..change
    }
}

/// A verdict in a word or two.
fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Append {
            kind,
            timeliness: Timeliness::InOrder,
            ..
        } => kind.as_str().to_owned(),
        Verdict::Append {
            kind,
            timeliness: Timeliness::Late,
            ..
        } => format!("{} late", kind.as_str()),
        Verdict::Silence { .. } => "silence".to_owned(),
        Verdict::Unchanged { .. } => "unchanged".to_owned(),
        Verdict::Enqueue => "enqueue".to_owned(),
        Verdict::Confirm { .. } => "confirm".to_owned(),
        Verdict::Known { .. } => "known".to_owned(),
        Verdict::Refuse => "refuse".to_owned(),
    }
}

/// Decides batches one after another over one ledger, as a store would, and answers the verdicts.
fn decide_all(view: &mut LedgerView, changes: &[Change], source: Source) -> Vec<Verdict> {
    changes
        .iter()
        .flat_map(|change| decide(&mercy(), view, std::slice::from_ref(change), source))
        .collect()
}

#[track_caller]
fn check(changes: &[Change], expected: &[&str]) {
    check_from(LedgerView::default(), changes, Source::Page, expected);
}

#[track_caller]
pub(super) fn check_from(mut view: LedgerView, changes: &[Change], source: Source, expected: &[&str]) {
    let mut apart = view.clone();
    let verdicts = decide(&mercy(), &mut view, changes, source);
    let words: Vec<String> = verdicts.iter().map(word).collect();
    assert_eq!(words, expected);
    assert_eq!(decide_all(&mut apart, changes, source), verdicts, "one by one");
    assert_eq!(apart.records, view.records);
}

fn versions(verdicts: &[Verdict]) -> Vec<String> {
    verdicts
        .iter()
        .filter_map(|verdict| match verdict {
            Verdict::Append { version, .. } => Some(version.to_string()),
            Verdict::Silence { .. }
            | Verdict::Unchanged { .. }
            | Verdict::Enqueue
            | Verdict::Confirm { .. }
            | Verdict::Known { .. }
            | Verdict::Refuse => None,
        })
        .collect()
}

#[test]
fn a_version_is_new_once() {
    check(&[version(1), version(1)], &["updated", "known"]);
    check(
        &[version(1), version(2), version(1), reference(2)],
        &["updated", "updated", "known", "known"],
    );
    check(&[deleted(3), deleted(3)], &["deleted", "known"]);
}

#[test]
fn the_heads_own_id_is_known_when_the_accepted_set_forgot_it() {
    let mut view = LedgerView::default();
    decide(&mercy(), &mut view, &[version(1)], Source::Page);
    view.accepted.clear();
    check_from(view, &[version(1)], Source::Page, &["known"]);
}

#[test]
fn content_that_changes_back_is_three_versions_on_the_third_rung() {
    let changes = ["a", "a", "b", "a", "a"].map(worded);
    check(&changes, &["updated", "known", "updated", "updated", "known"]);
    let verdicts = decide(&mercy(), &mut LedgerView::default(), &changes, Source::Page);
    let versions = versions(&verdicts);
    for (version, number) in versions.iter().zip(1..) {
        assert!(version.starts_with("h:"), "{version}");
        assert!(version.ends_with(&format!(":{number}")), "{version}");
    }
    assert_eq!(versions.len(), 3);
}

#[test]
fn a_version_older_than_the_head_is_late_and_does_not_become_it() {
    let mut view = LedgerView::default();
    decide(&mercy(), &mut view, &[version(3), version(2)], Source::Page);
    let head = view.records[&key("1")].head.clone().unwrap();
    assert_eq!(head.order.number, Some(3));
    check(
        &[version(3), version(2), version(4)],
        &["updated", "updated late", "updated"],
    );
    let timed = |seconds| {
        let stamp = Timestamp::from_second(seconds).ok();
        let order = VersionOrder { number: None, stamp };
        Change {
            order,
            ..version(u64::try_from(seconds).unwrap())
        }
    };
    check(&[timed(9), timed(8)], &["updated", "updated late"]);
    let unordered = Change {
        order: VersionOrder::default(),
        ..version(1)
    };
    check(&[version(3), unordered], &["updated", "updated"]);
}

#[test]
fn what_lies_before_the_start_enters_in_silence() {
    check(
        &[silent(reference(1)), version(1), version(2)],
        &["silence", "known", "updated"],
    );
    check(
        &[silent(worded("a")), worded("a"), worded("b")],
        &["silence", "known", "updated"],
    );
}

#[test]
fn what_is_not_complete_waits_and_holds_up_what_follows() {
    check(
        &[reference(1), version(2), deleted(3)],
        &["enqueue", "enqueue", "enqueue"],
    );
    check(&[change(VersionClue::Unknown)], &["enqueue"]);
    check(&[change(VersionClue::ByContent)], &["enqueue"]);
    let other = Change {
        key: key("2"),
        ..worded("a")
    };
    check(&[reference(1), other], &["enqueue", "updated"]);
}

#[test]
fn a_record_that_waits_lets_pages_queue_and_its_own_fetch_pass() {
    let waiting = || {
        let record = RecordView {
            head: None,
            queue: Queue::Waiting,
        };
        LedgerView {
            records: BTreeMap::from([(key("1"), record)]),
            ..LedgerView::default()
        }
    };
    check_from(waiting(), &[version(2)], Source::Page, &["enqueue"]);
    check_from(waiting(), &[silent(version(2))], Source::Page, &["silence"]);
    check_from(waiting(), &[version(2)], Source::Inbox, &["updated"]);
    check_from(waiting(), &[reference(2)], Source::Inbox, &["enqueue"]);
}

#[test]
fn an_inferred_delete_is_refused_without_a_living_record() {
    check(&[gone()], &["refuse"]);
    check(&[version(1), gone(), gone()], &["updated", "deleted", "refuse"]);
    check(&[deleted(1), gone()], &["deleted", "refuse"]);
    check(
        &[version(1), gone(), version(2), gone()],
        &["updated", "deleted", "updated", "deleted"],
    );
    let verdicts = decide(
        &mercy(),
        &mut LedgerView::default(),
        &[version(1), gone()],
        Source::Page,
    );
    assert_eq!(versions(&verdicts), ["v:1", "d:v:1"]);
}

#[test]
fn a_delete_that_a_read_found_is_told_once_and_takes_the_name_that_a_history_gives_it() {
    let found = Change {
        order: reference(3).order,
        ..gone()
    };
    let changes = [version(2), found, deleted(4), version(5), deleted(6), deleted(7)];
    let told = ["updated", "deleted", "silence", "updated", "deleted", "deleted"];
    check_from(LedgerView::default(), &changes, Source::Inbox, &told);
}

#[test]
fn a_version_before_an_inferred_delete_is_late() {
    let asked_for_six = Change {
        order: reference(6).order,
        ..gone()
    };
    for gone in [gone(), asked_for_six.clone()] {
        let changes = [version(4), gone, version(3)];
        check(&changes, &["updated", "deleted", "updated late"]);
    }
    check(
        &[version(4), asked_for_six, version(5), version(7)],
        &["updated", "deleted", "updated late", "updated"],
    );
}

#[test]
fn a_history_delete_makes_a_head_of_its_own() {
    let mut view = LedgerView::default();
    decide(&mercy(), &mut view, &[deleted(4)], Source::Page);
    let head = view.records[&key("1")].head.clone().unwrap();
    assert_eq!((head.life, head.hash), (Life::Deleted, None));
}

#[test]
fn created_is_said_only_when_proven() {
    let complete = || LedgerView {
        baseline: Baseline::Complete,
        ..LedgerView::default()
    };
    let first = Change {
        first_version: true,
        ..version(1)
    };
    check(&[version(1)], &["updated"]);
    check(&[first], &["created"]);
    check(&[shown(Shown::Created, version(1))], &["created"]);
    check_from(
        complete(),
        &[version(1), version(2)],
        Source::Page,
        &["created", "updated"],
    );
    check_from(
        complete(),
        &[shown(Shown::Updated, version(1))],
        Source::Page,
        &["updated"],
    );
    check_from(
        complete(),
        &[version(1), gone(), version(2)],
        Source::Page,
        &["created", "deleted", "updated"],
    );
}

/// What a source may show of one record: any of six versions, with or without its body, or a delete.
fn any_showing() -> impl Strategy<Value = Change> {
    (1..=6u64, 0..4u8).prop_map(|(number, form)| match form {
        _ if number % 3 == 0 => deleted(number),
        0 => silent(version(number)),
        _ => version(number),
    })
}

proptest! {
    #[test]
    fn any_order_and_repetition_yields_each_id_once_and_the_head_never_moves_back(
        showings in proptest::collection::vec(any_showing(), 0..60),
        slice in 1..10usize,
    ) {
        let mut view = LedgerView::default();
        let mut said: BTreeSet<EventId> = BTreeSet::new();
        let mut newest = 0;
        for batch in showings.chunks(slice) {
            for verdict in decide(&mercy(), &mut view, batch, Source::Page) {
                match verdict {
                    Verdict::Append { event_id, .. }
                    | Verdict::Silence { event_id }
                    | Verdict::Unchanged { event_id } => {
                        prop_assert!(said.insert(event_id), "an id was said twice");
                    }
                    Verdict::Known { event_id } => prop_assert!(said.contains(&event_id)),
                    Verdict::Enqueue | Verdict::Confirm { .. } | Verdict::Refuse => prop_assert!(false, "all of it was complete"),
                }
            }
            let head = view.records[&key("1")].head.as_ref().and_then(|head| head.order.number);
            let now = head.unwrap_or_default();
            prop_assert!(now >= newest, "the head moved from {newest} to {now}");
            newest = now;
        }
        let shown: BTreeSet<u64> = showings.iter().filter_map(|change| change.order.number).collect();
        prop_assert_eq!(said.len(), shown.len());
        prop_assert_eq!(newest, shown.last().copied().unwrap_or_default());
    }

    #[test]
    fn content_on_the_third_rung_is_a_version_at_each_change(words in proptest::collection::vec("[ab]", 0..30)) {
        let changes: Vec<Change> = words.iter().map(|word| worded(word)).collect();
        let verdicts = decide(&mercy(), &mut LedgerView::default(), &changes, Source::Page);
        let said = versions(&verdicts);
        let mut changed = words;
        changed.dedup();
        prop_assert_eq!(said.len(), changed.len());
        prop_assert_eq!(said.iter().collect::<BTreeSet<_>>().len(), said.len());
    }
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_read_may_be_spared_only_where_the_head_can_be_what_was_shown() {
    let head = Head {
        version: VersionKey::of_version_id("3"),
        event_id: EventId::derive(&mercy(), &key("1"), &VersionKey::of_version_id("3")),
        order: VersionOrder {
            number: Some(3),
            stamp: Some(second(3)),
        },
        hash: None,
        life: Life::Live,
        merged: false,
        changes: 1,
    };
    let stamped = |stamp| Change {
        order: VersionOrder {
            number: None,
            stamp: Some(second(stamp)),
        },
        ..change(VersionClue::Unknown)
    };
    let of = |version| Head {
        version,
        ..head.clone()
    };
    let hash = ContentHash::of_bytes(b"{}");
    let deleted_head = Head {
        life: Life::Deleted,
        ..head.clone()
    };
    let rows = [
        (
            "nothing named",
            head.clone(),
            change(VersionClue::Unknown),
            Some("3"),
        ),
        ("the head's own stamp", head.clone(), stamped(3), Some("3")),
        ("an older stamp", head.clone(), stamped(2), Some("3")),
        ("a newer stamp", head.clone(), stamped(4), None),
        ("the head named", head.clone(), reference(3), Some("3")),
        ("a newer one named", head.clone(), reference(4), None),
        ("an older one named", head.clone(), reference(2), None),
        (
            "a delete",
            head.clone(),
            change(VersionClue::InferredDelete),
            None,
        ),
        ("a deleted head", deleted_head, change(VersionClue::Unknown), None),
        (
            "a head by time",
            of(VersionKey::of_time(second(3), &hash)),
            stamped(3),
            None,
        ),
        (
            "a head by content",
            of(VersionKey::of_content(&hash, 3)),
            change(VersionClue::Unknown),
            None,
        ),
        (
            "an inferred delete",
            of(VersionKey::of_inferred_delete(&head.version)),
            change(VersionClue::Unknown),
            None,
        ),
    ];
    for (what, head, change, expected) in rows {
        assert_eq!(version_that_may_stand(&head, &change), expected, "{what}");
    }
}

#[test]
fn a_head_that_still_stands_is_known() {
    let mut view = LedgerView::default();
    decide(&mercy(), &mut view, &[version(3)], Source::Page);
    let head = view.records[&key("1")].head.clone().unwrap();
    let showing = showing_of(&head, change(VersionClue::Unknown));
    assert_eq!(showing.version_id.as_deref(), Some("3"));
    let verdicts = decide(&mercy(), &mut view, &[showing], Source::Inbox);
    assert_eq!(
        verdicts,
        [Verdict::Known {
            event_id: head.event_id
        }]
    );
}
