//! What versions mean, as the ledger tells it.

use courier_sdk::Meaning;

use super::tests::{change, check_from, deleted, gone, mercy, silent, version};
use super::*;
use crate::domain::event::{Change, Content};

fn meaning(change: Change, meaning: &Meaning) -> Change {
    let content = change.content.map(|content| Content {
        meaning: Some(meaning.clone()),
        ..content
    });
    Change { content, ..change }
}

fn merged(number: u64) -> Change {
    meaning(
        version(number),
        &Meaning::merged_into(Some("Patient/7".to_owned())),
    )
}

/// Kind and meaning of what is told of each, in a word or two; `-` for what is not.
fn told(changes: &[Change]) -> Vec<String> {
    let mut view = LedgerView::default();
    decide(&mercy(), &mut view, changes, Source::Inbox)
        .into_iter()
        .map(|verdict| match verdict {
            Verdict::Append { kind, meaning, .. } => {
                let word = meaning.as_ref().map_or("", Meaning::word);
                format!("{} {word}", kind.as_str()).trim_end().to_owned()
            }
            Verdict::Silence { .. }
            | Verdict::Enqueue
            | Verdict::Confirm { .. }
            | Verdict::Known { .. }
            | Verdict::Refuse => "-".to_owned(),
        })
        .collect()
}

#[test]
fn a_version_that_says_that_its_record_was_merged_is_a_merge_and_any_other_reason_an_update() {
    let cancelled = meaning(version(1), &Meaning::Cancelled);
    let error = meaning(version(2), &Meaning::EnteredInError);
    assert_eq!(
        told(&[cancelled, error, version(3), merged(4)]),
        [
            "updated cancelled",
            "updated entered-in-error",
            "updated",
            "merged merged"
        ]
    );
    let created = Change {
        shown: Shown::Created,
        ..meaning(version(1), &Meaning::Cancelled)
    };
    assert_eq!(told(&[created]), ["created cancelled"]);
    let first = Change {
        shown: Shown::Created,
        ..merged(1)
    };
    assert_eq!(told(&[first]), ["merged merged"]);
}

#[test]
fn a_merged_record_that_no_longer_says_so_was_parted_again_once() {
    assert_eq!(
        told(&[merged(1), merged(2), version(3), version(4)]),
        ["merged merged", "merged merged", "updated unmerged", "updated"]
    );
    // A merge from before the feed's start counts too.
    assert_eq!(told(&[silent(merged(1)), version(2)]), ["-", "updated unmerged"]);
}

#[test]
fn neither_a_late_version_nor_the_return_of_a_deleted_record_is_a_parting() {
    assert_eq!(
        told(&[merged(3), version(2), version(4)]),
        ["merged merged", "updated", "updated unmerged"]
    );
    assert_eq!(
        told(&[merged(1), deleted(2), version(3)]),
        ["merged merged", "deleted", "updated"]
    );
    assert_eq!(
        told(&[merged(1), gone(), version(3)]),
        ["merged merged", "deleted", "updated"]
    );
}

#[test]
fn what_may_not_be_read_leaves_a_merge_standing() {
    let mut view = LedgerView::default();
    decide(&mercy(), &mut view, &[merged(1)], Source::Inbox);
    let head = view
        .records
        .values()
        .next()
        .and_then(|record| record.head.clone());
    let hidden = unavailable(&mercy(), change(VersionClue::Unknown), head.as_ref());
    check_from(
        view,
        &[hidden, version(2)],
        Source::Inbox,
        &["unavailable", "updated"],
    );
}
