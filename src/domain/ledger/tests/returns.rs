//! Records that live again after an inferred delete.

use super::*;

#[test]
fn a_record_lives_again_under_its_old_version_only_when_a_read_shows_it() {
    let taken_for_deleted = || {
        let mut view = LedgerView::default();
        decide(
            &mercy(),
            &mut view,
            &[version(4), version(5), gone()],
            Source::Page,
        );
        view
    };
    let rows = [
        (version(5), Source::Page, "confirm"),
        (reference(5), Source::PageWithoutContext, "confirm"),
        (worded("new?"), Source::Page, "confirm"),
        (silent(version(5)), Source::Page, "confirm"),
        (version(5), Source::Inbox, "known"),
        (version(5), Source::Read, "updated"),
        // It may have been created by that version: now it only came back.
        (
            Change {
                first_version: true,
                ..version(5)
            },
            Source::Read,
            "updated",
        ),
        (version(4), Source::Page, "known"),
        (version(4), Source::Read, "known"),
        (version(6), Source::Page, "updated"),
        (reference(6), Source::Page, "enqueue"),
        (gone(), Source::Read, "refuse"),
        // A history shows what was.
        (shown(Shown::Updated, version(5)), Source::Page, "known"),
        (shown(Shown::Created, version(5)), Source::Read, "known"),
    ];
    for (change, source, expected) in rows {
        check_from(taken_for_deleted(), &[change], source, &[expected]);
    }
    let mut told = LedgerView::default();
    decide(&mercy(), &mut told, &[version(4), deleted(5)], Source::Page);
    check_from(told, &[version(4)], Source::Read, &["known"]);
}

#[test]
fn a_record_comes_and_goes_under_one_version_as_often_as_it_does() {
    let mut view = LedgerView::default();
    decide(&mercy(), &mut view, &[version(5)], Source::Page);
    // The ids of a version that is shown no more expire; what its record lives under again is known by its head.
    let mut said = BTreeSet::new();
    for _ in 0..3 {
        let deleted = decide(&mercy(), &mut view, &[gone()], Source::Read);
        view.accepted.clear();
        let back = decide(&mercy(), &mut view, &[version(5)], Source::Read);
        view.accepted.clear();
        let showing = decide(&mercy(), &mut view, &[version(5)], Source::Page);
        assert_eq!(word(&showing[0]), "known");
        for verdict in deleted.into_iter().chain(back) {
            let Verdict::Append { version, .. } = verdict else {
                panic!("{verdict:?}")
            };
            assert!(said.insert(version.to_string()));
        }
    }
    let keys = [
        "d:r:2:d:v:5",
        "d:r:d:v:5",
        "d:v:5",
        "r:2:d:v:5",
        "r:3:d:v:5",
        "r:d:v:5",
    ];
    assert_eq!(said.into_iter().collect::<Vec<_>>(), keys);
    let head = view.records[&key("1")].head.clone().unwrap();
    assert_eq!(
        (head.life, version_that_may_stand(&head, &reference(5))),
        (Life::Live, Some("5"))
    );
    check_from(view, &[version(6)], Source::Page, &["updated"]);
}
