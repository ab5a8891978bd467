//! One connection, `mercy`, with its lease, and the short words that the rules are written in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use courier_sdk::{
    ConnectionName, Cursor, FeedName, Novelty, Record, RecordId, RecordKey, RecordType, Resume, Shown,
};
use ehr_courier::domain::canonical::ContentHash;
use ehr_courier::domain::delivery::{AttemptOutcome, AttemptRecord, ClaimedDelivery, Fence};
use ehr_courier::domain::event::{Change, Content, VersionClue, VersionOrder};
use ehr_courier::domain::fan_out::{
    self, ConnectionSet, ContentLevel, Format, From, SliceLimits, Subscription, Topic,
};
use ehr_courier::domain::identity::{EventId, VersionKey};
use ehr_courier::domain::name::{DestinationName, SubscriptionName};
use ehr_courier::store::{
    AcceptPage, Accepted, BaselineProof, ClaimChanges, ClaimDeliveries, ClaimedChange, Definitions,
    EventQuery, FanOut, FanOutView, FeedState, Holder, Lane, LeaseRequest, PollRef, Progress, Recorded,
    ReleaseStage, Released, SettleChanges, SettleResult, Settled, Settlement, Store, StoreError,
};
use jiff::Timestamp;

use super::Home;

/// A store with a leased connection.
pub(super) struct World {
    pub(super) store: Arc<dyn Store>,
    pub(super) fence: Fence,
}

impl World {
    /// Opens the store and leases the connection to the holder `one`.
    pub(super) async fn open(home: &dyn Home) -> Self {
        let store = home.open().await;
        let fence = store.acquire_lease(&lease("one"), at(0)).await.unwrap().unwrap();
        Self { store, fence }
    }

    /// What the next process finds after this one was killed.
    pub(super) async fn reopen(self, home: &dyn Home) -> Self {
        drop(self);
        Self::open(home).await
    }

    pub(super) async fn feed(&self) -> FeedState {
        self.store.feed(&mercy(), &appointments()).await.unwrap()
    }

    pub(super) fn poll_of(&self, feed: &FeedName, state: &FeedState) -> PollRef {
        PollRef {
            connection: mercy(),
            feed: feed.clone(),
            fence: self.fence,
            poll: state.poll,
        }
    }

    pub(super) async fn poll_ref(&self) -> PollRef {
        self.poll_of(&appointments(), &self.feed().await)
    }

    /// A page of the poll that the feed stands at.
    pub(super) async fn page(&self, changes: Vec<Change>, progress: Progress) -> AcceptPage {
        self.page_of(&appointments(), changes, progress).await
    }

    pub(super) async fn page_of(
        &self,
        feed: &FeedName,
        changes: Vec<Change>,
        progress: Progress,
    ) -> AcceptPage {
        let state = self.store.feed(&mercy(), feed).await.unwrap();
        AcceptPage {
            poll: self.poll_of(feed, &state),
            from: state.cursor,
            changes,
            oversized: Vec::new(),
            progress,
            fresh_as_of: at(0),
            at: at(0),
        }
    }

    /// A whole poll of one page.
    pub(super) async fn poll(&self, changes: Vec<Change>) -> Accepted {
        let page = self.page(changes, done("c")).await;
        self.store.accept_page(&page).await.unwrap()
    }

    /// The same, some seconds later.
    pub(super) async fn poll_at(&self, seconds: i64, changes: Vec<Change>) -> Accepted {
        let mut page = self.page(changes, done("c")).await;
        page.at = at(seconds);
        self.store.accept_page(&page).await.unwrap()
    }

    /// A staged poll of one page, not yet released.
    pub(super) async fn stage(&self, changes: Vec<Change>) {
        let page = self.page(changes, done("staged")).await;
        self.store.stage_page(&page).await.unwrap();
    }

    pub(super) async fn release(&self, limit: usize) -> Released {
        let release = ReleaseStage {
            poll: self.poll_ref().await,
            limit,
            at: at(0),
        };
        self.store.release_stage(&release).await.unwrap()
    }

    /// Claims what is due so many seconds after the beginning.
    pub(super) async fn claim(&self, seconds: i64) -> Vec<ClaimedChange> {
        self.store.claim_changes(&self.claiming(seconds)).await.unwrap()
    }

    pub(super) fn claiming(&self, seconds: i64) -> ClaimChanges {
        ClaimChanges {
            connection: mercy(),
            fence: self.fence,
            limit: 100,
            at: at(seconds),
        }
    }

    pub(super) async fn settle(&self, claimed: &ClaimedChange, result: SettleResult) -> Settled {
        self.store
            .settle_changes(&self.settling(claimed, result))
            .await
            .unwrap()
    }

    pub(super) fn settling(&self, claimed: &ClaimedChange, result: SettleResult) -> SettleChanges {
        let settlement = Settlement {
            id: claimed.id,
            generation: claimed.generation,
            result,
        };
        SettleChanges {
            connection: mercy(),
            fence: self.fence,
            settlements: vec![settlement],
            at: at(0),
        }
    }

    /// The log as `Type/id version kind`, oldest first.
    pub(super) async fn log(&self) -> Vec<String> {
        let query = EventQuery {
            connection: Some(mercy()),
            limit: 1_000,
            ..EventQuery::default()
        };
        let mut rows = self.store.events(&query).await.unwrap();
        rows.sort_by_key(|row| row.position);
        let positions: Vec<u64> = rows.iter().map(|row| row.position).collect();
        assert_eq!(positions, (1..=rows.len() as u64).collect::<Vec<_>>(), "dense");
        rows.iter()
            .map(|row| format!("{} {} {}", row.key.id, row.version, row.kind.as_str()))
            .collect()
    }

    /// Puts subscriptions into force on `mercy`.
    pub(super) async fn define(&self, subscriptions: &[Subscription]) {
        let definitions = Definitions {
            connections: BTreeSet::from([mercy()]),
            subscriptions: subscriptions.to_vec(),
        };
        self.store.define(&definitions, at(0)).await.unwrap();
    }

    pub(super) async fn view(&self, lane: &Lane) -> FanOutView {
        self.store.fan_out_view(&mercy(), lane, 1_000).await.unwrap()
    }

    /// Cuts a lane's next slice by the domain's rule.
    pub(super) async fn cut(&self, lane: &Lane, limits: SliceLimits) -> FanOut {
        let view = self.view(lane).await;
        let members: Vec<_> = view.members.iter().map(|(it, standing)| (it, standing)).collect();
        let slice = fan_out::slice(&view.position, &view.events, &members, limits, at(0));
        FanOut {
            connection: mercy(),
            fence: self.fence,
            lane: lane.clone(),
            from: view.position,
            revision: view.revision,
            owed: slice.owed,
            to: slice.to,
            suspended: slice.suspended,
            at: at(0),
        }
    }

    /// Fans one slice out.
    pub(super) async fn fan_out(&self, lane: &Lane, limits: SliceLimits) {
        let slice = self.cut(lane, limits).await;
        self.store.fan_out(&slice).await.unwrap();
    }

    /// Fans everything out in the common lane.
    pub(super) async fn fan_out_all(&self) {
        self.fan_out(&Lane::Common, AMPLE).await;
    }

    /// Claims deliveries due so many seconds after the beginning, in the order of their ids.
    pub(super) async fn take(&self, seconds: i64) -> Vec<ClaimedDelivery> {
        let claim = ClaimDeliveries {
            holder: Holder("one".to_owned()),
            destination: destination("hook"),
            limit: 100,
            at: at(seconds),
        };
        let mut claimed = self.store.claim_deliveries(&claim).await.unwrap();
        claimed.sort_by_key(|one| one.delivery.id);
        claimed
    }

    pub(super) async fn record(&self, claimed: &ClaimedDelivery, outcome: AttemptOutcome) -> Recorded {
        let attempt = AttemptRecord {
            id: claimed.delivery.id,
            connection: mercy(),
            fence: claimed.fence,
            outcome,
            at: at(0),
        };
        self.store.record_attempts(&[attempt]).await.unwrap()
    }

    /// The subscription's numbers as delivered or owed, with the events' versions: `1 17 v:1`.
    pub(super) async fn numbered(&self, name: &str) -> Vec<String> {
        let query = EventQuery {
            limit: 1_000,
            ..EventQuery::default()
        };
        let mut numbered = Vec::new();
        for row in self.store.events(&query).await.unwrap() {
            let detail = self.store.event(&row.id).await.unwrap().unwrap();
            for delivery in detail.deliveries {
                if delivery.subscription == subscription_name(name) {
                    numbered.push((delivery.number, format!("{} {}", row.key.id, row.version)));
                }
            }
        }
        numbered.sort();
        numbered
            .into_iter()
            .map(|(number, what)| format!("{number} {what}"))
            .collect()
    }
}

/// Limits that no rule reaches by accident.
pub(super) const AMPLE: SliceLimits = SliceLimits {
    rows: 1_000,
    outbox: 1_000,
};

pub(super) fn mercy() -> ConnectionName {
    ConnectionName::parse("mercy").unwrap()
}

pub(super) fn appointments() -> FeedName {
    FeedName::parse("appointments").unwrap()
}

/// A second feed of the same record type.
pub(super) fn rooms() -> FeedName {
    FeedName::parse("rooms").unwrap()
}

/// So many seconds after the beginning of the test.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + seconds).unwrap()
}

pub(super) const DAY: i64 = 86_400;

pub(super) fn lease(holder: &str) -> LeaseRequest {
    LeaseRequest {
        connection: mercy(),
        holder: Holder(holder.to_owned()),
        ttl: Duration::from_hours(24 * 100),
    }
}

pub(super) fn done(cursor: &str) -> Progress {
    Progress::Done {
        cursor: Cursor::new(cursor.to_owned()),
        baseline: BaselineProof::Unproven,
    }
}

pub(super) fn next_page(link: &str) -> Progress {
    Progress::Page(Resume::new(link.to_owned()))
}

pub(super) fn key(id: &str) -> RecordKey {
    RecordKey {
        record_type: RecordType::parse("Appointment").unwrap(),
        id: RecordId::parse(id).unwrap(),
    }
}

pub(super) fn event_id(id: &str, version: u64) -> EventId {
    let version = VersionKey::of_version_id(&version.to_string());
    EventId::derive(&mercy(), &key(id), &version)
}

/// A version that came along with its page; its number is its version, its time follows.
pub(super) fn version(id: &str, number: u64) -> Change {
    Change {
        content: Some(content(&format!(r#"{{"id":"{id}","v":{number}}}"#))),
        ..reference(id, number)
    }
}

/// A version that must be fetched.
pub(super) fn reference(id: &str, number: u64) -> Change {
    let version = VersionKey::of_version_id(&number.to_string());
    Change {
        version_id: Some(number.to_string()),
        version: VersionClue::Known(version, event_id(id, number)),
        order: VersionOrder {
            number: Some(number),
            stamp: Some(at(i64::try_from(number).unwrap())),
        },
        ..unversioned(id)
    }
}

/// A change of which only the record is known.
pub(super) fn unversioned(id: &str) -> Change {
    Change {
        key: key(id),
        shown: Shown::State,
        novelty: Novelty::Announce,
        version_id: None,
        version: VersionClue::Unknown,
        order: VersionOrder::default(),
        first_version: false,
        content: None,
    }
}

/// A version that only its content tells from others.
pub(super) fn worded(id: &str, word: &str) -> Change {
    Change {
        version: VersionClue::ByContent,
        content: Some(content(&format!(r#"{{"id":"{id}","w":"{word}"}}"#))),
        ..unversioned(id)
    }
}

/// A delete by a history, with a version of its own.
pub(super) fn deleted(id: &str, number: u64) -> Change {
    Change {
        shown: Shown::Deleted,
        ..reference(id, number)
    }
}

/// A delete that the source did not number.
pub(super) fn gone(id: &str) -> Change {
    Change {
        shown: Shown::Deleted,
        version: VersionClue::InferredDelete,
        ..unversioned(id)
    }
}

fn content(body: &str) -> Content {
    Content {
        hash: ContentHash::of_record(body.as_bytes(), &[]).unwrap(),
        record: Record::new(Bytes::copy_from_slice(body.as_bytes())),
    }
}

pub(super) fn destination(name: &str) -> DestinationName {
    DestinationName::parse(name).unwrap()
}

pub(super) fn subscription_name(name: &str) -> SubscriptionName {
    SubscriptionName::parse(name).unwrap()
}

/// Everything on every connection, from now, whole, to `hook`.
pub(super) fn subscription(name: &str) -> Subscription {
    Subscription {
        name: subscription_name(name),
        connections: ConnectionSet::All,
        topic: Topic::Any,
        from: From::Now,
        content: ContentLevel::FullResource,
        format: Format::CloudEvents,
        destination: destination("hook"),
    }
}

pub(super) fn delivered() -> AttemptOutcome {
    AttemptOutcome::Delivered {
        detail: "204".to_owned(),
    }
}

pub(super) fn retry_at(seconds: i64) -> AttemptOutcome {
    AttemptOutcome::RetryAt {
        due_at: at(seconds),
        detail: "503".to_owned(),
    }
}

pub(super) fn dead() -> AttemptOutcome {
    AttemptOutcome::Dead {
        detail: "410".to_owned(),
    }
}

/// `id number` of each claimed delivery.
pub(super) fn names(claimed: &[ClaimedDelivery]) -> Vec<String> {
    claimed
        .iter()
        .map(|one| format!("{} {}", one.event.key.id, one.delivery.number))
        .collect()
}

#[track_caller]
pub(super) fn assert_fenced<T: std::fmt::Debug>(result: &Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Fenced { .. })), "{result:?}");
}

#[track_caller]
pub(super) fn assert_conflict<T: std::fmt::Debug>(result: &Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Conflict { .. })), "{result:?}");
}

#[track_caller]
pub(super) fn assert_refused<T: std::fmt::Debug>(result: &Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Refused { .. })), "{result:?}");
}
