//! Builds the addresses that are asked, and checks which parameters an answer says it applied. Pure.

use std::collections::BTreeSet;

use courier_sdk::{Include, RecordId, RecordKey, RecordType};
use jiff::Timestamp;
use url::{Url, form_urlencoded};

use crate::instant;
use crate::profile::Cut;

/// Parameters that shape an answer without choosing its records; a server need not repeat them.
const SHAPING: [&str; 11] = [
    "_sort",
    "_count",
    "_include",
    "_revinclude",
    "_summary",
    "_total",
    "_elements",
    "_contained",
    "_containedType",
    "_format",
    "_pretty",
];

/// Parameters of page links that choose no records.
const PAGING: [&str; 7] = [
    "offset",
    "_offset",
    "page",
    "_page",
    "_getpages",
    "_getpagesoffset",
    "continue",
];

/// What a search asks for.
#[derive(Debug, Clone)]
pub(crate) struct Search<'a> {
    pub(crate) record_type: &'a RecordType,
    /// Lower bound, inclusive.
    pub(crate) from: Option<Timestamp>,
    /// Upper bound, inclusive.
    pub(crate) to: Option<Timestamp>,
    /// The profile's `_sort` value, or empty.
    pub(crate) sort: &'a str,
    pub(crate) count: u32,
    pub(crate) ids_only: bool,
    /// Further parameters, already in query syntax.
    pub(crate) filter: &'a str,
    /// What is to come along.
    pub(crate) include: &'a [Include],
    /// How finely the server cuts.
    pub(crate) cut: Cut,
}

/// What a search asks for that shows records whether they changed or not.
#[derive(Debug, Clone)]
pub(crate) struct Listed<'a> {
    pub(crate) record_type: &'a RecordType,
    /// What chooses the records, already in query syntax.
    pub(crate) chosen: &'a [String],
    pub(crate) count: u32,
    pub(crate) ids_only: bool,
    /// Further parameters, already in query syntax.
    pub(crate) filter: &'a str,
}

/// The address of a search.
pub(crate) fn search(base: &Url, search: &Search<'_>) -> Url {
    let mut url = with_segments(base, &[search.record_type.as_str()]);
    let mut parameters = Vec::new();
    if let Some(from) = search.from {
        let prefix = if cfg!(sabotage = "gt_instead_of_ge_and_overlap") {
            "gt"
        } else {
            "ge"
        };
        let bound = match search.cut {
            Cut::Fraction | Cut::Second => instant::floor_text(from),
            Cut::Day => instant::latest_day_text(from),
        };
        parameters.push(format!("_lastUpdated={prefix}{bound}"));
    }
    if let Some(to) = search.to {
        let bound = match search.cut {
            Cut::Fraction | Cut::Second => instant::ceiling_text(to),
            Cut::Day => instant::latest_day_text(to),
        };
        parameters.push(format!("_lastUpdated=le{bound}"));
    }
    if !search.sort.is_empty() {
        parameters.push(format!("_sort={}", search.sort));
    }
    shape(&mut parameters, search.count, search.ids_only, search.filter);
    parameters.extend(search.include.iter().map(|one| format!("_include={one}")));
    url.set_query(Some(&parameters.join("&")));
    url
}

/// The address of a search that is counted instead of shown.
pub(crate) fn counted(base: &Url, asked: &Search<'_>) -> Url {
    let mut url = search(base, asked);
    url.query_pairs_mut().append_pair("_summary", "count");
    url
}

/// The address of a search that lists.
pub(crate) fn listed(base: &Url, listed: &Listed<'_>) -> Url {
    let mut url = with_segments(base, &[listed.record_type.as_str()]);
    let mut parameters = listed.chosen.to_vec();
    shape(&mut parameters, listed.count, listed.ids_only, listed.filter);
    url.set_query(Some(&parameters.join("&")));
    url
}

fn shape(parameters: &mut Vec<String>, count: u32, ids_only: bool, filter: &str) {
    parameters.push(format!("_count={count}"));
    if ids_only {
        parameters.push("_elements=id,meta".to_owned());
    }
    let filter = filter.trim_matches('&');
    if !filter.is_empty() {
        parameters.push(filter.to_owned());
    }
}

/// The address of a type's history, from an instant on (inclusive).
pub(crate) fn history(base: &Url, record_type: &RecordType, since: Option<Timestamp>, count: u32) -> Url {
    let mut url = with_segments(base, &[record_type.as_str(), "_history"]);
    let since = since.map(|since| format!("_since={}&", instant::floor_text(since)));
    url.set_query(Some(&format!("{}_count={count}", since.unwrap_or_default())));
    url
}

/// The address of what the server says of itself.
pub(crate) fn metadata(base: &Url) -> Url {
    with_segments(base, &["metadata"])
}

/// The address of a record's current version.
pub(crate) fn read(base: &Url, key: &RecordKey) -> Url {
    with_segments(base, &[key.record_type.as_str(), key.id.as_str()])
}

/// The address of one of a record's versions.
pub(crate) fn version_read(base: &Url, key: &RecordKey, version_id: &str) -> Url {
    let segments = [key.record_type.as_str(), key.id.as_str(), "_history", version_id];
    with_segments(base, &segments)
}

/// The address of a search for records of one type by their ids.
pub(crate) fn by_ids(base: &Url, record_type: &RecordType, keys: &[&RecordKey]) -> Url {
    let mut url = with_segments(base, &[record_type.as_str()]);
    let chosen = any_of("_id", keys.iter().map(|key| &key.id));
    url.set_query(Some(&format!("{chosen}&_count={}", keys.len())));
    url
}

/// The search parameter that chooses any of these ids.
pub(crate) fn any_of<'a>(name: &str, ids: impl IntoIterator<Item = &'a RecordId>) -> String {
    let encoded = |id: &RecordId| {
        let mut text = id.as_str().replace('\\', r"\\");
        for special in [',', '|', '$'] {
            text = text.replace(special, &format!(r"\{special}"));
        }
        form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>()
    };
    let encoded: Vec<String> = ids.into_iter().map(encoded).collect();
    format!("{name}={}", encoded.join(","))
}

/// Says whether two addresses share scheme, host and port, and the second carries no credentials.
pub(crate) fn same_origin(base: &Url, other: &Url) -> bool {
    base.origin() == other.origin() && other.username().is_empty() && other.password().is_none()
}

/// What a `self` link says of the parameters that choose records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    All,
    /// `_lastUpdated` is missing: older records are shown too.
    NotTime,
    /// A parameter of the feed's own filter is missing: records that it excludes are shown too.
    NotFilter,
}

/// Says whether the `self` link shows `_lastUpdated` and the feed's own parameters, as far as the request
/// held them: a page behind an opaque link holds none, and what else such a link holds is the source's.
pub(crate) fn applied(request: &Url, self_link: &Url, filter: &str) -> Applied {
    let asked = selecting(request.query().unwrap_or_default());
    let shown = selecting(self_link.query().unwrap_or_default());
    let missing = |name: &str| asked.contains(name) && !shown.contains(name);
    if selecting(filter).iter().any(|name| missing(name)) {
        Applied::NotFilter
    } else if missing("_lastUpdated") {
        Applied::NotTime
    } else {
        Applied::All
    }
}

/// A parameter that chooses records and is missing from the `self` link, as far as the request held it.
pub(crate) fn ignored(request: &Url, self_link: &Url) -> Option<String> {
    let shown = selecting(self_link.query().unwrap_or_default());
    let asked = selecting(request.query().unwrap_or_default());
    let ours = asked.into_iter().filter(|name| !PAGING.contains(&name.as_str()));
    ours.into_iter().find(|name| !shown.contains(name))
}

/// Whether a link names the same ids by a parameter as a request does; what it does not name at all is no other.
pub(crate) fn names_the_same(request: &Url, link: &Url, parameter: &str) -> bool {
    let named = |url: &Url| -> BTreeSet<String> {
        let pairs = url.query_pairs().filter(|(name, _)| name == parameter);
        let values = pairs.flat_map(|(_, value)| value.split(',').map(str::to_owned).collect::<Vec<_>>());
        let bare = |text: String| text.rsplit('/').next().unwrap_or_default().to_owned();
        values.map(bare).collect()
    };
    let shown = named(link);
    shown.is_empty() || shown == named(request)
}

/// Whether a link says that something was to come along.
pub(crate) fn includes(link: &Url) -> bool {
    link.query_pairs()
        .any(|(name, _)| name.split(':').next() == Some("_include"))
}

/// The page size that an answer says it applied.
pub(crate) fn count_of(link: &Url) -> Option<u64> {
    let pair = link.query_pairs().find(|(name, _)| name == "_count");
    pair.and_then(|(_, value)| value.parse().ok())
}

/// Names of the parameters that choose records, without modifiers (`status:not` is `status`).
fn selecting(query: &str) -> BTreeSet<String> {
    form_urlencoded::parse(query.as_bytes())
        .map(|(name, _)| name.split(':').next().unwrap_or_default().to_owned())
        .filter(|name| !name.is_empty() && !SHAPING.contains(&name.as_str()))
        .collect()
}

fn with_segments(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Fails only for addresses without a path (`mailto:`), which no HTTP client would send.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Url {
        Url::parse("https://ehr.example/fhir/R4/").unwrap()
    }

    #[test]
    fn a_search_names_bounds_order_size_and_filter() {
        let record_type = RecordType::parse("Appointment").unwrap();
        let asked = Search {
            record_type: &record_type,
            from: instant::parse("2026-11-20T10:00:00.1239Z"),
            to: None,
            sort: "_lastUpdated",
            count: 200,
            ids_only: false,
            filter: "status=booked&location=7",
            include: &[Include::parse("Appointment:patient").unwrap()],
            cut: Cut::Fraction,
        };
        assert_eq!(
            search(&base(), &asked).as_str(),
            "https://ehr.example/fhir/R4/Appointment?_lastUpdated=ge2026-11-20T10:00:00.123Z\
             &_sort=_lastUpdated&_count=200&status=booked&location=7&_include=Appointment:patient"
        );
        let ids = Search {
            from: None,
            to: asked.from,
            sort: "",
            ids_only: true,
            filter: "",
            include: &[],
            ..asked
        };
        assert_eq!(
            search(&base(), &ids).query(),
            Some("_lastUpdated=le2026-11-20T10:00:00.124Z&_count=200&_elements=id,meta")
        );
    }

    #[test]
    fn a_history_names_its_beginning_and_size() {
        let record_type = RecordType::parse("Slot").unwrap();
        let since = instant::parse("2026-11-20T11:00:00.1239+01:00");
        let rows = [
            (since, "_since=2026-11-20T10:00:00.123Z&_count=9"),
            (None, "_count=9"),
        ];
        for (since, query) in rows {
            let url = history(&base(), &record_type, since, 9);
            assert_eq!((url.path(), url.query()), ("/fhir/R4/Slot/_history", Some(query)));
        }
    }

    #[test]
    fn ids_cannot_leave_their_parameter() {
        let ids = ["a", "b|7"].map(|id| RecordId::parse(id).unwrap());
        assert_eq!(any_of("_id", &ids), r"_id=a,b%5C%7C7");
    }

    #[test]
    fn odd_ids_stay_inside_their_path_segment() {
        let key = RecordKey {
            record_type: RecordType::parse("Patient").unwrap(),
            id: RecordId::parse("a.b|7").unwrap(),
        };
        assert_eq!(read(&base(), &key).path(), "/fhir/R4/Patient/a.b|7");
        let version = version_read(&base(), &key, "1/../../x?y");
        assert_eq!(
            version.path(),
            "/fhir/R4/Patient/a.b|7/_history/1%2F..%2F..%2Fx%3Fy"
        );
        assert_eq!(version.query(), None);
    }

    #[test]
    fn a_self_link_must_repeat_every_selecting_parameter() {
        let asked = "https://e/A?_lastUpdated=ge2026&_sort=_lastUpdated&_count=9&status=booked";
        let rows = [
            ("https://e/A?_lastUpdated=ge2026&status=booked", Applied::All),
            ("https://e/A?status:not=x&_lastUpdated=ge2026-01-01", Applied::All),
            ("https://e/A?_lastUpdated=ge2026", Applied::NotFilter),
            ("https://e/A?status=booked", Applied::NotTime),
            ("https://e/A", Applied::NotFilter),
        ];
        for (link, expected) in rows {
            let link = Url::parse(link).unwrap();
            assert_eq!(
                applied(&Url::parse(asked).unwrap(), &link, "status=booked"),
                expected,
                "{link}"
            );
        }
        // A page behind an opaque token has nothing to repeat.
        let token = Url::parse("https://e/?_getpages=1").unwrap();
        let second = Url::parse("https://e/?_getpages=2").unwrap();
        assert_eq!(applied(&token, &second, "status=booked"), Applied::All);
        // An offset is the page link's own.
        let offset = Url::parse("https://e/A?_lastUpdated=ge2026&offset=9").unwrap();
        let page = Url::parse("https://e/A?_lastUpdated=ge2026").unwrap();
        assert_eq!(applied(&offset, &page, ""), Applied::All);
    }

    #[test]
    fn a_link_of_another_patients_search_is_known_by_its_ids() {
        let url = |query: &str| Url::parse(&format!("https://e/A?{query}")).unwrap();
        let asked = url("patient=7,8&_count=9");
        for (link, same) in [
            ("patient=7,8", true),
            ("patient=Patient/8,https://e/Patient/7&_count=5", true),
            ("_count=9", true),
            ("patient=7", false),
            ("patient=7,9", false),
        ] {
            assert_eq!(names_the_same(&asked, &url(link), "patient"), same, "{link}");
        }
    }

    #[test]
    fn another_host_port_scheme_or_embedded_credentials_are_another_origin() {
        let rows = [
            ("https://ehr.example/other", true),
            ("https://ehr.example:443/other", true),
            ("http://ehr.example/fhir", false),
            ("https://ehr.example:8443/", false),
            ("https://evil.example/", false),
            ("https://user@ehr.example/", false),
        ];
        for (other, expected) in rows {
            assert_eq!(
                same_origin(&base(), &Url::parse(other).unwrap()),
                expected,
                "{other}"
            );
        }
    }
}
