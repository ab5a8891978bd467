//! What versions mean, as the ledger tells it, and which of them mean nothing new.

use courier_sdk::Meaning;

use super::tests::{change, check_from, deleted, gone, mercy, silent, version, worded};
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
            | Verdict::Unchanged { .. }
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

/// A numbered version with this content.
fn with_content(number: u64, word: &str) -> Change {
    let content = worded(word).content;
    Change {
        content,
        ..version(number)
    }
}

fn suppressing() -> LedgerView {
    LedgerView {
        unchanged: Unchanged::Suppress,
        ..LedgerView::default()
    }
}

#[test]
fn a_version_with_the_heads_content_is_not_told_of_where_that_is_asked_for() {
    let changes =
        [(1, "a"), (2, "a"), (3, "b"), (4, "a"), (5, "a"), (5, "a")].map(|(it, word)| with_content(it, word));
    let words = ["updated", "unchanged", "updated", "updated", "unchanged", "known"];
    check_from(suppressing(), &changes, Source::Page, &words);
    let all = ["updated", "updated", "updated", "updated", "updated", "known"];
    check_from(LedgerView::default(), &changes, Source::Page, &all);
    let mut view = suppressing();
    decide(&mercy(), &mut view, &changes, Source::Page);
    let head = view
        .records
        .values()
        .next()
        .and_then(|record| record.head.clone());
    assert_eq!(
        head.unwrap().version,
        VersionKey::of_version_id("5"),
        "it is the head all the same"
    );
}

#[test]
fn what_came_in_silence_counts_as_known_content_and_what_came_without_a_body_does_not() {
    let silently = silent(with_content(1, "a"));
    check_from(
        suppressing(),
        &[silently, with_content(2, "a")],
        Source::Page,
        &["silence", "unchanged"],
    );
    let bodiless = silent(Change {
        content: None,
        ..version(1)
    });
    check_from(
        suppressing(),
        &[bodiless, with_content(2, "a")],
        Source::Page,
        &["silence", "updated"],
    );
}

#[test]
fn neither_a_delete_nor_what_follows_it_nor_a_late_version_is_suppressed() {
    let with_body = Change {
        content: with_content(1, "a").content,
        ..deleted(2)
    };
    let changes = [with_content(1, "a"), with_body, with_content(3, "a")];
    check_from(
        suppressing(),
        &changes,
        Source::Page,
        &["updated", "deleted", "updated"],
    );
    let changes = [with_content(3, "a"), with_content(2, "a")];
    check_from(
        suppressing(),
        &changes,
        Source::Page,
        &["updated", "updated late"],
    );
    let changes = [with_content(1, "a"), gone(), with_content(3, "a")];
    check_from(
        suppressing(),
        &changes,
        Source::Page,
        &["updated", "deleted", "updated"],
    );
}
