//! Rows for the page reader.

use super::*;

fn asked() -> RecordType {
    RecordType::parse("Observation").unwrap()
}

fn read(entries: &str) -> Result<Page, BodyError> {
    let text = format!(r#"{{"resourceType":"Bundle","type":"searchset","entry":[{entries}]}}"#);
    page(&Bytes::from(text), &asked(), 64)
}

#[test]
fn record_bytes_are_the_answers_own() {
    let record = r#"{ "valueQuantity":{"value":1.10,"x":1e2},  "id":"7","text":"a\/b é","resourceType":"Observation",
        "meta":{"lastUpdated":"2026-11-20T10:00:00.5+01:00","versionId":"3"}}"#;
    let page = read(&format!(
        r#"{{"fullUrl":"x","resource":{record},"search":{{"mode":"match"}}}}"#
    ))
    .unwrap();
    assert_eq!(page.items.len(), 1);
    assert_eq!(page.items[0].body, record);
    assert_eq!(page.items[0].version_id.as_deref(), Some("3"));
    assert_eq!(
        page.items[0].last_updated,
        instant::parse("2026-11-20T09:00:00.5Z")
    );
}

#[test]
fn members_of_every_release_pass_untouched() {
    // Members and types that only R4, R4B or R5 know.
    for body in [
        r#"{"resourceType":"Observation","id":"r4","valueDecimal":1.10}"#,
        r#"{"resourceType":"Observation","id":"r4b","component":[{"_code":null}],"extension":[{"url":"u"}]}"#,
        r#"{"resourceType":"Observation","id":"r5","triggeredBy":[{"type":"reflex"}],"big":12345678901234567890.00}"#,
    ] {
        let page = read(&format!(r#"{{"resource":{body}}}"#)).unwrap();
        assert_eq!(page.items[0].body, body);
    }
}

#[test]
fn includes_and_other_types_are_no_changes() {
    let page = read(
        r#"{"resource":{"resourceType":"Patient","id":"1"},"search":{"mode":"include"}},
           {"resource":{"resourceType":"Patient","id":"2"}},
           {"resource":{"resourceType":"OperationOutcome","issue":[{"severity":"warning","code":"invalid"}]}},
           {"resource":{"resourceType":"Observation","id":"3"}}"#,
    )
    .unwrap();
    assert_eq!((page.items.len(), page.entries, page.unusable.len()), (1, 4, 0));
}

#[test]
fn matches_are_what_a_total_counts() {
    let page = read(
        r#"{"resource":{"resourceType":"Patient","id":"1"},"search":{"mode":"include"}},
           {"resource":{"resourceType":"OperationOutcome","issue":[]},"search":{"mode":"outcome"}},
           {"resource":7},
           {"resource":{"resourceType":"Observation","id":"3"}}"#,
    )
    .unwrap();
    assert_eq!((page.entries, page.matches), (4, 2));
}

#[test]
fn a_next_link_without_an_address_is_not_the_end() {
    for link in [
        r#"{"relation":"next"}"#,
        r#"{"relation":"next","url":""}"#,
        r#"{"relation":"self","url":"https://e/A"},{"relation":"next","url":null}"#,
    ] {
        let text = format!(r#"{{"resourceType":"Bundle","type":"searchset","link":[{link}]}}"#);
        let found = page(&Bytes::from(text), &asked(), 64);
        assert!(matches!(found, Err(BodyError::Unreadable(_))), "{link}");
    }
}

#[test]
fn entries_that_cannot_be_named_are_counted_not_dropped_in_silence() {
    for entry in [
        r#"{"search":{"mode":"match"}}"#,
        r#"{"resource":7}"#,
        r#"{"resource":{"resourceType":"Observation"}}"#,
        r#"{"resource":{"resourceType":"Observation","id":"a/b"}}"#,
        r#"{"resource":{"id":"7"}}"#,
    ] {
        let page = read(entry).unwrap();
        assert_eq!((page.items.len(), page.unusable), (0, vec![0]), "{entry}");
    }
}

#[test]
fn a_failure_inside_a_good_answer_is_a_failure() {
    let fatal = r#"{"resourceType":"OperationOutcome","issue":[{"severity":"warning","code":"x"},{"severity":"fatal","code":"timeout"}]}"#;
    let entry = format!(r#"{{"resource":{fatal},"search":{{"mode":"outcome"}}}}"#);
    assert_eq!(
        read(&entry).unwrap_err(),
        BodyError::Outcome("timeout".to_owned())
    );
    let whole = page(&Bytes::from(fatal), &asked(), 64).unwrap_err();
    assert_eq!(whole, BodyError::Outcome("timeout".to_owned()));
}

#[test]
fn what_is_no_page_is_unreadable_and_not_quoted() {
    let rows = [
        "",
        "<html>SECRET</html>",
        r#"{"resourceType":"Bundle","type":"searchset","entry":[{"resource":{"SECRET":"#,
        r#"{"resourceType":"Bundle","type":"history"}"#,
        r#"{"resourceType":"SECRET"}"#,
        "[]",
        "\u{1}",
    ];
    for body in rows {
        match page(&Bytes::from(body), &asked(), 64) {
            Err(BodyError::Unreadable(reason)) => assert!(!reason.contains("SECRET"), "{reason}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn the_depth_limit_is_the_records_own() {
    let nested = |levels: usize| {
        let inner = "[".repeat(levels - 1) + &"]".repeat(levels - 1);
        format!(r#"{{"resourceType":"Observation","id":"1","x":{inner}}}"#)
    };
    assert!(read(&format!(r#"{{"resource":{}}}"#, nested(64))).is_ok());
    assert!(read(&format!(r#"{{"resource":{}}}"#, nested(65))).is_err());
    assert!(record(&Bytes::from(nested(64)), 64).is_ok());
    assert!(record(&Bytes::from(nested(65)), 64).is_err());
}

#[test]
fn odd_version_ids_and_stamps_do_not_lose_the_record() {
    let page = read(
        r#"{"resource":{"resourceType":"Observation","id":"1","meta":{"versionId":12,"lastUpdated":"2026-11-20",
           "tag":[{"code":"SUBSETTED"}]}}}"#,
    )
    .unwrap();
    assert_eq!(page.items[0].version_id.as_deref(), Some("12"));
    assert_eq!(page.items[0].last_updated, None);
    assert!(page.items[0].subsetted);
}

#[test]
fn a_version_id_that_is_no_short_visible_text_counts_as_absent() {
    let longest = "7".repeat(255);
    let longer = "7".repeat(256);
    let rows = [
        ("7", true),
        ("W/7|~!", true),
        (longest.as_str(), true),
        (longer.as_str(), false),
        ("", false),
        ("a b", false),
        ("a\\u0000b", false),
        ("a\\nb", false),
        ("é", false),
    ];
    for (text, kept) in rows {
        let page = read(&format!(
            r#"{{"resource":{{"resourceType":"Observation","id":"1","meta":{{"versionId":"{text}"}}}}}}"#
        ))
        .unwrap();
        let expected = kept.then_some(text);
        assert_eq!(page.items[0].version_id.as_deref(), expected, "{text}");
    }
}

#[test]
fn outcome_codes_are_told_only_as_plain_words() {
    let body = br#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"throttled","diagnostics":"Jane"}]}"#;
    assert_eq!(outcome_code(body, 64).as_deref(), Some("throttled"));
    assert_eq!(outcome_code(br#"{"issue":[{"code":"Jane Doe"}]}"#, 64), None);
    assert_eq!(outcome_code(b"nonsense", 64), None);
}

#[test]
fn a_dot_or_two_name_neither_a_record_nor_a_version() {
    for way in [".", ".."] {
        // An address would drop them, and what is left asks for something else.
        assert_eq!(usable_version_id(way.to_owned()), None);
        assert_eq!(bare_etag(&format!("W/\"{way}\"")), None);
        let text = format!(r#"{{"resourceType":"Patient","id":"{way}"}}"#);
        assert!(record(&Bytes::from(text), 64).is_err());
    }
}
