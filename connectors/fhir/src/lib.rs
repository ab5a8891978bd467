//! EHR Courier's connector for FHIR servers.
//!
//! It finds changes by a type's `_history`, by `_lastUpdated` search, or by listing all records and letting the ledger
//! compare, and carries each record byte for byte, whatever FHIR release it is of. Vendors differ by [`Profile`], which is data. It keeps no place: cursors and page links
//! travel with the caller, and what it remembers spares requests only. It must not know stores, events, subscriptions
//! or other connectors.

mod answer;
mod at_once;
mod backfill;
mod bundle;
mod capability;
mod cursor;
mod depth;
mod detection;
mod digest;
mod exchange;
mod history;
mod include;
mod included;
mod instant;
mod last_updated;
mod listing;
mod many;
mod meaning;
mod poll;
mod portion;
mod profile;
mod query;
mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use courier_sdk::{
    ChangePage, Clock, Connector, ConnectorError, Credentials, Cursor, Detection, FeedSpec, FetchRequest,
    Fetched, Http, Ids, Include, Meaning, PollRequest, Record, RecordId, RecordKey, RecordType, Reference,
    VersionRule,
};
use jiff::Timestamp;
use url::Url;

pub use include::includable;
pub use profile::{ConditionalRead, Cut, FullPage, InvalidProfile, Paging, Profile, ReadMany};

use crate::at_once::AtOnce;
use crate::cursor::{By, CursorState};
use backfill::Stretches;
use detection::Known;
use exchange::Exchange;
use included::NotIncluded;
use portion::Portions;

/// What a connection gives its connector.
pub struct Settings {
    /// The server's FHIR base address.
    pub base_url: Url,
    /// What requests show to be let in.
    pub credentials: Arc<dyn Credentials>,
    /// The constants of the kind of server.
    pub profile: Profile,
    /// Through which requests are sent.
    pub http: Arc<dyn Http>,
    /// Our own clock, for where the source names no time.
    pub clock: Arc<dyn Clock>,
    /// The limits.
    pub limits: Limits,
}

/// The limits of requests and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a page; above, smaller pages are asked for, and a poll whose least page is above fails.
    pub page_bytes_max: usize,
    /// The most bytes of a record; above, it is named but not carried.
    pub record_bytes_max: usize,
    /// The deepest nesting of a record's JSON; above, the poll or read fails.
    pub json_depth_max: usize,
    /// The total deadline of one request.
    pub deadline: Duration,
    /// How many records a page should hold, unless pages were too large.
    pub page_count: u32,
}

impl Default for Limits {
    /// The page limit is twice the record limit of the design, so that one record of the greatest size
    /// still leaves room for its neighbours; 200 records a page is what most servers grant.
    fn default() -> Self {
        Self {
            page_bytes_max: 64 << 20,
            record_bytes_max: 32 << 20,
            json_depth_max: 64,
            deadline: Duration::from_secs(30),
            page_count: 200,
        }
    }
}

/// Speaks FHIR REST to one server.
pub struct FhirConnector {
    exchange: Exchange,
    profile: Profile,
    clock: Arc<dyn Clock>,
    limits: Limits,
    /// Whether the missing `Date` was told already; a log line's memory, nothing depends on it.
    warned_of_date: AtomicBool,
    known: Mutex<Known>,
    /// The members of groups that are rosters, as they were read last.
    groups: Mutex<BTreeMap<RecordId, Ids>>,
    portions: Mutex<Portions>,
    read_at_once: AtOnce,
    searched_at_once: AtOnce,
    stretches: Mutex<Stretches>,
    not_included: Mutex<NotIncluded>,
}

impl fmt::Debug for FhirConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "FhirConnector({})",
            self.exchange.base.host_str().unwrap_or("-")
        )
    }
}

impl FhirConnector {
    /// Makes a connector; nothing is sent.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let Settings {
            base_url,
            credentials,
            profile,
            http,
            clock,
            limits,
        } = settings;
        let exchange = Exchange {
            base: base_url,
            credentials,
            http,
            deadline: limits.deadline,
            clock: Arc::clone(&clock),
            limit_codes: profile.inband_limit_codes.clone(),
        };
        Self {
            exchange,
            profile,
            clock,
            limits,
            warned_of_date: AtomicBool::new(false),
            known: Mutex::default(),
            groups: Mutex::default(),
            portions: Mutex::default(),
            read_at_once: AtOnce::default(),
            searched_at_once: AtOnce::default(),
            stretches: Mutex::default(),
            not_included: Mutex::default(),
        }
    }
}

#[async_trait]
impl Connector for FhirConnector {
    async fn poll(&self, request: PollRequest<'_>) -> Result<ChangePage, ConnectorError> {
        self.poll_page(request).await
    }

    async fn fetch(&self, request: FetchRequest<'_>) -> Result<Fetched, ConnectorError> {
        self.read(request).await
    }

    fn fetch_at_once(&self, record_type: &RecordType) -> usize {
        self.at_once(record_type)
    }

    async fn fetch_many(
        &self,
        requests: &[FetchRequest<'_>],
    ) -> Result<Vec<Option<Fetched>>, ConnectorError> {
        self.read_many(requests).await
    }

    fn meaning(&self, record: &Record) -> Option<Meaning> {
        meaning::of(record.bytes())
    }

    fn references(&self, record: &Record, include: &[Include]) -> Vec<Reference> {
        include::references(record.bytes(), include, &self.exchange.base)
    }

    async fn read_context(&self, key: &RecordKey) -> Result<Option<Record>, ConnectorError> {
        self.read_referred(key).await
    }

    async fn read_context_many(&self, keys: &[RecordKey]) -> Result<Vec<Option<Record>>, ConnectorError> {
        self.read_referred_many(keys).await
    }

    async fn probe(&self, feed: &FeedSpec) -> Result<Detection, ConnectorError> {
        self.detect(feed).await
    }

    async fn count_past(&self, feed: &FeedSpec) -> Result<Option<u64>, ConnectorError> {
        self.count(feed).await
    }

    fn version_rule(&self, _record_type: &RecordType) -> VersionRule {
        self.profile.version_rule()
    }

    /// Everything from that instant on is announced, unless the ledger knows it.
    fn cursor_at(&self, instant: Timestamp) -> Cursor {
        poll::cursor(&CursorState::of(By::LastUpdated, instant, None))
    }

    /// 1970 is where a feed stands that has shown nothing yet: no instant to measure a lag from.
    fn describe(&self, cursor: &Cursor) -> Option<Timestamp> {
        let state = CursorState::parse(cursor.as_str())?;
        Some(state.watermark.0).filter(|instant| *instant > Timestamp::UNIX_EPOCH)
    }

    fn rewound(&self, cursor: &Cursor, by: Duration) -> Option<Cursor> {
        let state = CursorState::parse(cursor.as_str())?;
        let instant = self.describe(cursor)?;
        let by = jiff::SignedDuration::try_from(by).unwrap_or(jiff::SignedDuration::MAX);
        let back = instant.checked_sub(by).unwrap_or(Timestamp::UNIX_EPOCH);
        Some(poll::cursor(&state.moved_to(back.max(Timestamp::UNIX_EPOCH))))
    }
}
