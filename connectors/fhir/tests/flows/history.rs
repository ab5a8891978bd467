//! Polls of a history, page by page as a server wrote them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use courier_fhir::{FhirConnector, Limits, Profile, Settings};
use courier_sdk::{
    Clock, Connector as _, Cursor, Detect, FeedSpec, Fixed, Http, HttpError, HttpRequest, HttpResponse, Next,
    PollRequest, Start,
};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use url::Url;

use super::server::at;
use super::{done, feed};

/// A history's pages: the rows' ids and seconds.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pub(crate) pages: Vec<Vec<(String, i64)>>,
    pub(crate) asked: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct AtTwoThousand;

impl Clock for AtTwoThousand {
    fn now(&self) -> Timestamp {
        at(2000)
    }
}

fn entry((id, second): &(String, i64)) -> String {
    format!(
        r#"{{"resource":{{"resourceType":"Appointment","id":"{id}","meta":{{"versionId":"1","lastUpdated":"{}"}}}},
            "request":{{"method":"PUT","url":"Appointment/{id}"}}}}"#,
        at(*second)
    )
}

#[async_trait]
impl Http for Pages {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let query = request.url.query().unwrap_or_default();
        self.asked.lock().unwrap().push(query.to_owned());
        let number: usize = query
            .strip_prefix("page=")
            .map_or(0, |number| number.parse().unwrap());
        let entries: Vec<String> = self.pages[number].iter().map(entry).collect();
        let next = number + 1;
        let link = if next < self.pages.len() {
            format!(
                r#"{{"relation":"next","url":"https://ehr.example/fhir/Appointment/_history?page={next}"}}"#
            )
        } else {
            String::new()
        };
        let text = format!(
            r#"{{"resourceType":"Bundle","type":"history","link":[{link}],"entry":[{}]}}"#,
            entries.join(",")
        );
        let mut headers = HeaderMap::new();
        let date = at(2000).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        headers.insert("date", date.parse().unwrap());
        Ok(HttpResponse {
            status: StatusCode::OK,
            headers,
            body: Bytes::from(text),
        })
    }
}

fn rows(prefix: &str, seconds: impl IntoIterator<Item = i64>) -> Vec<(String, i64)> {
    let row = |second| (format!("{prefix}{second}"), second);
    seconds.into_iter().map(row).collect()
}

/// A whole poll from a cursor at 1000: the ids that it shows, and how many pages it asked for.
async fn poll(pages: Vec<Vec<(String, i64)>>) -> (BTreeSet<String>, usize, Cursor) {
    let (shown, asked, cursor) = poll_from(None, pages).await;
    (shown, asked.len(), cursor)
}

/// A whole poll: the ids that it shows, and the query of each request.
async fn poll_from(
    cursor: Option<Cursor>,
    pages: Vec<Vec<(String, i64)>>,
) -> (BTreeSet<String>, Vec<String>, Cursor) {
    let source = Arc::new(Pages {
        pages,
        ..Pages::default()
    });
    let connector = FhirConnector::new(Settings {
        base_url: Url::parse("https://ehr.example/fhir").unwrap(),
        credentials: Arc::new(Fixed::none()),
        profile: Profile::builtin("sandbox").unwrap(),
        http: Arc::<Pages>::clone(&source),
        clock: Arc::new(AtTwoThousand),
        limits: Limits::default(),
    });
    let spec = FeedSpec {
        detect: Detect::History,
        ..feed(Start::Now)
    };
    let cursor = cursor.unwrap_or_else(|| connector.cursor_at(at(1000)));
    let (mut shown, mut resume) = (BTreeSet::new(), None);
    loop {
        let request = PollRequest {
            feed: &spec,
            cursor: Some(&cursor),
            resume: resume.as_ref(),
        };
        let page = connector.poll(request).await.unwrap();
        shown.extend(page.changes.iter().map(|change| change.key.id.to_string()));
        match page.next {
            Next::Page(next) => resume = Some(next),
            end => {
                let asked = source.asked.lock().unwrap().clone();
                return (shown, asked, done(end));
            }
        }
    }
}

#[tokio::test]
async fn a_row_of_a_lagging_clock_hides_no_page_and_is_announced() {
    let first = [rows("new", [1900, 1800]), rows("lagging", [600])].concat();
    let (shown, asked, cursor) = poll(vec![first, rows("further", [1700, 1650])]).await;
    let expected = ["further1650", "further1700", "lagging600", "new1800", "new1900"];
    assert_eq!(shown.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    assert_eq!(asked, 2);
    assert!(cursor.as_str().contains("10:31:40"), "{}", cursor.as_str());
}

#[tokio::test]
async fn a_history_that_ignores_since_is_not_read_to_its_end_and_shows_nothing_old() {
    let first = [rows("new", [1900, 1800]), rows("old", (400..600).rev())].concat();
    let (shown, asked, _) = poll(vec![first, rows("older", (200..400).rev())]).await;
    let expected = ["new1800", "new1900"];
    assert_eq!(shown.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn an_entry_that_names_no_record_stalls_no_history() {
    let first = [rows("new", [1900]), rows("no name ", [1850]), rows("new", [1800])].concat();
    let (shown, asked, cursor) = poll(vec![first, rows("further", [1700])]).await;
    let expected = ["further1700", "new1800", "new1900"];
    assert_eq!(shown.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    assert_eq!(asked, 2);
    assert!(cursor.as_str().contains("10:31:40"), "{}", cursor.as_str());
}

/// HAPI's tracker, 3086: pages of rows that share one stamp repeated some of them, or left some out.
#[tokio::test]
async fn rows_of_one_stamp_that_a_seam_repeats_or_leaves_out_are_shown_by_this_poll_or_the_next() {
    let of = |names: [&str; 3]| names.map(|name| (name.to_owned(), 1500)).to_vec();
    let (shown, asked, cursor) = poll(vec![of(["a", "b", "c"]), of(["c", "b", "d"])]).await;
    assert_eq!(shown.len(), 4, "each once: {shown:?}");
    assert_eq!(asked, 2);
    // `e` was left out: the next poll asks from before its stamp on, inclusive, and the overlap besides.
    let (shown, asked, _) = poll_from(Some(cursor), vec![of(["e", "a", "b"])]).await;
    assert!(shown.contains("e"), "{shown:?}");
    let since = asked[0].split('&').find_map(|part| part.strip_prefix("_since="));
    let since: Timestamp = since.unwrap().parse().unwrap();
    assert!(since < at(1500), "{asked:?}");
}

/// HAPI's tracker, 7711: a history asked for from the future on linked empty pages for ever.
#[tokio::test]
async fn a_history_that_links_empty_pages_for_ever_ends_and_leaves_the_cursor() {
    let pages = vec![Vec::new(); 1_000];
    let (shown, asked, cursor) = poll(pages).await;
    assert_eq!((shown.len(), asked), (0, 3));
    assert!(cursor.as_str().contains("10:16:40"), "{}", cursor.as_str());
}
