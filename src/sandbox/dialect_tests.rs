//! The kinds of server that the sandbox can be, as their clients see them, in process.

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use super::tests::{ask, json, link, world};
use super::{Answer, Ehr, Request};

const BASE: &str = "http://127.0.0.1:1/fhir";

fn speaking(ehr: &Ehr, text: &str) {
    ehr.set_dialect(ehr.dialect().with(text).unwrap());
}

fn ids(answer: &Answer) -> Vec<String> {
    let bundle = json(answer);
    let entries = bundle["entry"].as_array().unwrap();
    let id = |entry: &Value| entry["resource"]["id"].as_str().unwrap().to_owned();
    entries.iter().map(id).collect()
}

fn statement(ehr: &Ehr, record_type: &str) -> Value {
    let statement = json(&ask(ehr, "metadata"));
    let resources = statement["rest"][0]["resource"].as_array().unwrap().clone();
    resources
        .into_iter()
        .find(|it| it["type"] == record_type)
        .unwrap()
}

fn parameters(ehr: &Ehr, record_type: &str) -> Vec<String> {
    let parameters = statement(ehr, record_type)["searchParam"].clone();
    let names = parameters.as_array().unwrap().iter();
    names.map(|it| it["name"].as_str().unwrap().to_owned()).collect()
}

fn lenient(ehr: &Ehr, path: &str, header: Option<(&'static str, &str)>) -> Answer {
    let mut headers = HeaderMap::new();
    if let Some((name, value)) = header {
        headers.insert(name, HeaderValue::from_str(value).unwrap());
    }
    let url = format!("{BASE}/{path}").parse().unwrap();
    ehr.answer(&Request::new(Method::GET, &url, headers))
}

#[test]
fn a_server_without_a_history_says_so_and_answers_none() {
    let (_, ehr) = world(1);
    assert_eq!(ask(&ehr, "Patient/_history").status, StatusCode::OK);
    speaking(&ehr, "no_history");
    for path in [
        "Patient/_history",
        "Patient/pat-00001/_history",
        "Patient/pat-00001/_history/1",
    ] {
        assert_eq!(ask(&ehr, path).status, StatusCode::NOT_FOUND, "{path}");
    }
    let offered = statement(&ehr, "Patient");
    assert_eq!(
        offered["interaction"],
        json!([{"code": "read"}, {"code": "search-type"}])
    );
    assert_eq!(offered["readHistory"], false);
}

#[test]
fn a_server_without_last_updated_drops_it_or_refuses_it() {
    let (_, ehr) = world(1);
    speaking(&ehr, "no_last_updated");
    let query = "Patient?_lastUpdated=ge2090&_sort=_lastUpdated";
    assert_eq!(ask(&ehr, query).status, StatusCode::BAD_REQUEST);
    let answer = lenient(&ehr, query, None);
    assert!(!ids(&answer).is_empty());
    let applied = link(&json(&answer), "self").unwrap();
    assert!(!applied.contains("_lastUpdated"), "{applied}");
    assert!(!parameters(&ehr, "Patient").contains(&"_lastUpdated".to_owned()));
}

#[test]
fn a_server_that_needs_a_patient_refuses_a_search_without_one() {
    let (_, ehr) = world(1);
    speaking(&ehr, "needs_patient");
    let refused = ask(&ehr, "Appointment?_lastUpdated=ge2020");
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_eq!(json(&refused)["issue"][0]["code"], "required");
    for path in ["Patient", "Practitioner", "Appointment?_id=apt-00001"] {
        assert_eq!(ask(&ehr, path).status, StatusCode::OK, "{path}");
    }
    let one = |id: &str| ids(&ask(&ehr, &format!("Appointment?_count=99&patient={id}")));
    let (first, second) = (one("pat-00001"), one("Patient/pat-00002"));
    let mut both = [first, second].concat();
    both.sort();
    assert!(!both.is_empty());
    let asked = "Appointment?_count=99&patient=pat-00001,Patient/pat-00002";
    assert_eq!(ids(&ask(&ehr, asked)), both);
    let written = r#"{"subject":{"reference":"Patient/pat-00001"}}"#;
    ehr.write("Observation", "o", written).unwrap();
    assert_eq!(ids(&ask(&ehr, "Observation?subject=pat-00001")), ["o"]);
}

#[test]
fn a_coarse_server_tells_and_compares_whole_seconds_or_days() {
    let (clock, ehr) = world(1);
    speaking(&ehr, "granularity=day");
    clock.advance(250);
    let written = ehr.write("Task", "t", "{}").unwrap();
    assert_eq!(written.last_updated, "2026-03-01T00:00:00Z");
    let found = |bound: &str| ids(&ask(&ehr, &format!("Task?_lastUpdated={bound}"))).len();
    assert_eq!(
        found("ge2026-03-01T11:59:00Z"),
        1,
        "the bound is as coarse as the stamp"
    );
    assert_eq!(found("le2026-03-01T00:00:01Z"), 1);
    assert_eq!(found("ge2026-03-02"), 0);
    speaking(&ehr, "granularity=second");
    let written = ehr.write("Task", "u", "{}").unwrap();
    assert_eq!(written.last_updated, "2026-03-01T12:00:00Z");
    assert_eq!(found("ge2026-03-01T12:00:00.900Z"), 1);
    assert_eq!(found("ge2026-03-01T12:00:01Z"), 0);
    let history = json(&ask(&ehr, "Task/_history?_since=2026-03-01T12:00:00.900Z"));
    assert_eq!(history["total"], 1);
}

#[test]
fn pages_by_offset_are_linked_relatively_and_cut_from_what_there_is() {
    let (_, ehr) = world(1);
    speaking(&ehr, "page_style=offset");
    for number in 0..5 {
        ehr.write("Task", &format!("t{number}"), "{}").unwrap();
    }
    let first = json(&ask(&ehr, "Task?_count=2&_sort=_id"));
    let next = link(&first, "next").unwrap();
    assert_eq!(next, "Task?_count=2&_sort=_id&_offset=2");
    ehr.delete("Task", "t0").unwrap();
    assert_eq!(
        ids(&ask(&ehr, &next)),
        ["t3", "t4"],
        "t2 moved onto the page before"
    );
    assert!(link(&json(&ask(&ehr, &next)), "next").is_none());
}

#[test]
fn caps_are_silent_and_searches_that_find_too_much_are_refused() {
    let (_, ehr) = world(1);
    speaking(&ehr, "max_count=3");
    let answer = ask(&ehr, "Patient?_count=50");
    assert_eq!(ids(&answer).len(), 3);
    assert!(link(&json(&answer), "self").unwrap().contains("_count=50"));
    assert!(link(&json(&answer), "next").is_some());
    speaking(&ehr, "max_results=5");
    let refused = ask(&ehr, "Patient");
    assert_eq!(
        (refused.status, json(&refused)["issue"][0]["code"].clone()),
        (StatusCode::BAD_REQUEST, json!("too-costly"))
    );
    assert_eq!(ask(&ehr, "Patient?_id=pat-00001").status, StatusCode::OK);
}

#[test]
fn a_deleted_record_is_gone_unknown_or_as_if_it_had_never_been() {
    for (mode, read, told) in [
        ("gone", StatusCode::GONE, 2),
        ("not-found", StatusCode::NOT_FOUND, 2),
        ("vanish", StatusCode::NOT_FOUND, 0),
    ] {
        let (_, ehr) = world(1);
        speaking(&ehr, &format!("delete_mode={mode}"));
        ehr.write("Task", "t", "{}").unwrap();
        ehr.delete("Task", "t").unwrap();
        assert_eq!(ask(&ehr, "Task/t").status, read, "{mode}");
        assert_eq!(json(&ask(&ehr, "Task/_history"))["total"], told, "{mode}");
        let first = ask(&ehr, "Task/t/_history/1").status;
        assert_eq!(first == StatusCode::OK, mode != "vanish", "{mode}");
        assert!(ehr.kept().iter().any(|kept| kept.id == "t" && kept.deleted));
    }
}

#[test]
fn records_without_meta_have_no_version_anywhere() {
    let (_, ehr) = world(1);
    speaking(&ehr, "no_meta");
    ehr.write("Task", "t", r#"{"status":"draft"}"#).unwrap();
    let answer = ask(&ehr, "Task/t");
    assert_eq!(
        &answer.body[..],
        br#"{"resourceType":"Task","id":"t","status":"draft"}"#
    );
    assert!(!answer.headers.contains_key("etag") && !answer.headers.contains_key("last-modified"));
    let page = json(&ask(&ehr, "Task?_elements=id,meta"));
    assert_eq!(
        page["entry"][0]["resource"],
        json!({"resourceType": "Task", "id": "t"})
    );
}

#[test]
fn versions_need_not_be_numbers() {
    let (_, ehr) = world(1);
    speaking(&ehr, "uuid_versions");
    let first = ehr.write("Task", "t", "{}").unwrap().version_id;
    let second = ehr.write("Task", "t", "{}").unwrap().version_id;
    assert!(first != second && first.len() == 36);
    assert_eq!(ask(&ehr, "Task/t").headers["etag"], format!("W/\"{second}\""));
    let old = json(&ask(&ehr, &format!("Task/t/_history/{first}")));
    assert_eq!(old["meta"]["versionId"], first);
    let history = json(&ask(&ehr, "Task/_history"));
    assert_eq!(history["entry"][0]["response"]["etag"], format!("W/\"{second}\""));
}

#[test]
fn a_condition_holds_where_it_is_offered() {
    let (clock, ehr) = world(1);
    let written = ehr.write("Task", "t", "{}").unwrap();
    clock.advance(2_000);
    let tag = format!("W/\"{}\"", written.version_id);
    let since = "Sun, 01 Mar 2026 12:00:01 GMT";
    for (offered, by_tag, by_time) in [
        ("not-match", true, false),
        ("modified-since", false, true),
        ("full-support", true, true),
        ("not-supported", false, false),
    ] {
        speaking(&ehr, &format!("conditional_read={offered}"));
        assert_eq!(statement(&ehr, "Patient")["conditionalRead"], offered);
        let unchanged = |name, value: &str| {
            lenient(&ehr, "Task/t", Some((name, value))).status == StatusCode::NOT_MODIFIED
        };
        assert_eq!(unchanged("if-none-match", &tag), by_tag, "{offered}");
        assert_eq!(unchanged("if-modified-since", since), by_time, "{offered}");
    }
    speaking(&ehr, "conditional_read=modified-since");
    ehr.write("Task", "t", "{}").unwrap();
    let answer = lenient(&ehr, "Task/t", Some(("if-modified-since", since)));
    assert_eq!(answer.status, StatusCode::OK);
}

#[test]
fn a_batch_answers_each_entry_with_its_own_status() {
    let (_, ehr) = world(1);
    ehr.write("Task", "t", r#"{"n":1.10}"#).unwrap();
    let entry = |url: &str| json!({"request": {"method": "GET", "url": url}});
    let mut known = entry("Task/t");
    known["request"]["ifNoneMatch"] = json!("W/\"1\"");
    let batch = json!({"resourceType": "Bundle", "type": "batch", "entry": [
        entry("Task/t"), known, entry("Task/u"), entry("Task?_id=t"), entry("http://elsewhere/Task/t"),
        {"request": {"method": "DELETE", "url": "Task/t"}},
    ]});
    let post = |body: &Value| {
        let mut request = Request::new(Method::POST, &BASE.parse().unwrap(), HeaderMap::new());
        request.body = body.to_string().into();
        ehr.answer(&request)
    };
    let answer = post(&batch);
    assert!(
        String::from_utf8_lossy(&answer.body).contains("1.10"),
        "byte for byte"
    );
    let answered = json(&answer);
    let statuses: Vec<&str> = answered["entry"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["response"]["status"].as_str().unwrap()[..3])
        .collect();
    assert_eq!(statuses, ["200", "304", "404", "200", "400", "400"]);
    assert_eq!(answered["entry"][0]["response"]["etag"], "W/\"1\"");
    assert_eq!(answered["entry"][3]["resource"]["total"], 1);
    let shown = ehr.ledger();
    assert_eq!((shown.len(), shown[0].times), (1, 2));
    assert_eq!(
        json(&ask(&ehr, "metadata"))["rest"][0]["interaction"],
        json!([{"code": "batch"}])
    );
    assert_eq!(
        post(&json!({"resourceType": "Bundle", "type": "transaction"})).status,
        400
    );
    speaking(&ehr, "no_batch");
    assert_eq!(post(&batch).status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(
        json(&ask(&ehr, "metadata"))["rest"][0]
            .get("interaction")
            .is_none()
    );
}

#[test]
fn patients_come_along_where_they_are_included_and_are_no_matches() {
    let (_, ehr) = world(1);
    for nth in 0..3 {
        let body = r#"{"status":"final","subject":{"reference":"Patient/pat-00001"}}"#;
        ehr.write("Observation", &format!("mine-{nth}"), body).unwrap();
    }
    ehr.clear_ledger();
    let query = "Observation?patient=pat-00001&_include=Observation:patient";
    let bundle = json(&ask(&ehr, query));
    let entries = bundle["entry"].as_array().unwrap();
    let (matches, included): (Vec<_>, Vec<_>) = entries
        .iter()
        .partition(|entry| entry["search"]["mode"] == "match");
    assert!(matches.len() >= 3 && bundle["total"] == matches.len());
    assert_eq!(included.len(), 1, "each once");
    assert_eq!(included[0]["search"]["mode"], "include");
    assert_eq!(included[0]["resource"]["id"], "pat-00001");
    assert!(link(&bundle, "self").unwrap().contains("_include="));
    assert!(
        ehr.ledger()
            .iter()
            .all(|shown| shown.record_type == "Observation")
    );
    assert_eq!(
        statement(&ehr, "Observation")["searchInclude"][0],
        "Observation:patient"
    );
    for (dialect, query) in [
        ("max_count=0", "Observation?_include=Observation:encounter"),
        ("no_include", query),
    ] {
        speaking(&ehr, dialect);
        assert_eq!(ask(&ehr, query).status, StatusCode::BAD_REQUEST, "{query}");
        let answer = json(&lenient(&ehr, query, None));
        assert!(!link(&answer, "self").unwrap().contains("_include="), "{query}");
        let entries = answer["entry"].as_array().unwrap();
        assert!(
            entries.iter().all(|entry| entry["search"]["mode"] == "match"),
            "{query}"
        );
    }
    assert_eq!(statement(&ehr, "Observation")["searchInclude"], json!([]));
}

#[test]
fn dates_are_searched_by_each_types_own_parameter() {
    let (_, ehr) = world(1);
    let write = |record_type: &str, id: &str, text: &str| {
        ehr.write(record_type, id, text).unwrap();
    };
    write("Appointment", "a", r#"{"start":"2030-01-02T10:00:00Z"}"#);
    write("Encounter", "e", r#"{"period":{"start":"2030-01-02T23:59:59Z"}}"#);
    write("Observation", "o", r#"{"effectiveDateTime":"2030-01-02"}"#);
    write("DiagnosticReport", "r", r#"{"issued":"2030-01-02T10:00:00Z"}"#);
    for (record_type, name, id) in [
        ("Appointment", "date", "a"),
        ("Encounter", "date", "e"),
        ("Observation", "date", "o"),
        ("DiagnosticReport", "issued", "r"),
    ] {
        let found = |bounds: &str| ids(&ask(&ehr, &format!("{record_type}?{bounds}")));
        assert_eq!(found(&format!("{name}=2030-01-02")), [id]);
        assert_eq!(found(&format!("{name}=ge2030-01-02&{name}=lt2030-01-03")), [id]);
        assert_eq!(found(&format!("{name}=le2030-01-02&{name}=ge2030")), [id]);
        assert!(found(&format!("{name}=ge2030-01-03")).is_empty());
        assert!(parameters(&ehr, record_type).contains(&name.to_owned()));
    }
    assert_eq!(ask(&ehr, "Patient?date=2030").status, StatusCode::BAD_REQUEST);
}

/// What the statement lists is applied under `handling=strict`; what it does not list is refused.
#[test]
fn the_statement_lists_what_is_applied() {
    let (_, ehr) = world(1);
    let names = [
        "_id",
        "_lastUpdated",
        "status",
        "patient",
        "subject",
        "date",
        "issued",
        "name",
    ];
    for dialect in ["no_batch", "no_last_updated"] {
        speaking(&ehr, dialect);
        for record_type in ["Patient", "Appointment", "DiagnosticReport"] {
            let listed = parameters(&ehr, record_type);
            for name in names {
                let applied = ask(&ehr, &format!("{record_type}?{name}=2030")).status == StatusCode::OK;
                assert_eq!(
                    applied,
                    listed.contains(&name.to_owned()),
                    "{dialect} {record_type} {name}"
                );
            }
        }
    }
}
