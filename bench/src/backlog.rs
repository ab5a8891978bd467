//! What waits when a run begins: events in the log and a delivery owed for each, written as the pipeline writes them.

use std::collections::BTreeSet;

use bytes::Bytes;
use courier_sdk::{
    Clock as _, ConnectionName, Cursor, FeedName, Novelty, Record, RecordId, RecordKey, RecordType, Shown,
};
use ehr_courier::clock::SystemClock;
use ehr_courier::domain::canonical::ContentHash;
use ehr_courier::domain::delivery::Fence;
use ehr_courier::domain::event::{Change, Content, VersionClue, VersionOrder};
use ehr_courier::domain::fan_out::{
    ConnectionSet, ContentLevel, Format, From, SliceLimits, Subscription, Topic, slice,
};
use ehr_courier::domain::identity::{EventId, VersionKey};
use ehr_courier::domain::name::{DestinationName, SubscriptionName};
use ehr_courier::pipeline::limits::Limits;
use ehr_courier::store::{
    AcceptPage, BaselineProof, ContextRule, Definitions, FanOut, Holder, Lane, LeaseRequest, PollRef,
    Progress, Sights, Store, Unchanged,
};
use jiff::Timestamp;

use crate::Failed;

/// Changes of one accepted slice: a large page of a FHIR server.
const PAGE: u32 = 500;

/// Records whose second versions follow their first ones: order per record has work to do, but is no bottleneck.
const BLOCK: u32 = 500;

/// The names that both the backlog and the worker use.
pub(crate) struct Names {
    /// The connection.
    pub(crate) connection: ConnectionName,
    /// Its feed.
    pub(crate) feed: FeedName,
    /// Where everything goes.
    pub(crate) destination: DestinationName,
}

impl Names {
    /// The names.
    pub(crate) fn new() -> Result<Self, Failed> {
        Ok(Self {
            connection: ConnectionName::parse("mercy")?,
            feed: FeedName::parse("appointments")?,
            destination: DestinationName::parse("hook")?,
        })
    }

    /// The one subscription: whole records, in order per record.
    pub(crate) fn subscription(&self) -> Result<Subscription, Failed> {
        Ok(Subscription {
            name: SubscriptionName::parse("everything")?,
            connections: ConnectionSet::All,
            topic: Topic::Any,
            from: From::Beginning,
            content: ContentLevel::FullResource,
            format: Format::CloudEvents,
            destination: self.destination.clone(),
        })
    }
}

/// Writes so many events and the deliveries that they owe, as a poll leaves them that ended at a cursor.
pub(crate) async fn write(
    store: &dyn Store,
    names: &Names,
    records: u32,
    cursor: &Cursor,
) -> Result<(), Failed> {
    let definitions = Definitions {
        connections: BTreeSet::from([names.connection.clone()]),
        destinations: BTreeSet::from([names.destination.clone()]),
        subscriptions: vec![names.subscription()?],
    };
    store.define(&definitions, SystemClock.now()).await?;
    let lease = LeaseRequest {
        connection: names.connection.clone(),
        holder: Holder("backlog".to_owned()),
        ttl: std::time::Duration::from_mins(10),
    };
    let fence = store.acquire_lease(&lease, SystemClock.now()).await?;
    let fence = fence.ok_or("a fresh store has no other holder")?;
    accept(store, names, fence, records, cursor).await?;
    fan_out(store, names, fence).await?;
    store.release_lease(&names.connection, fence).await?;
    Ok(())
}

async fn accept(
    store: &dyn Store,
    names: &Names,
    fence: Fence,
    records: u32,
    cursor: &Cursor,
) -> Result<(), Failed> {
    let indexes: Vec<u32> = (0..records).collect();
    for page in indexes.chunks(PAGE as usize) {
        let state = store.feed(&names.connection, &names.feed).await?;
        let changes: Result<Vec<Change>, Failed> = page.iter().map(|index| change(names, *index)).collect();
        let at = SystemClock.now();
        let page = AcceptPage {
            poll: PollRef {
                connection: names.connection.clone(),
                feed: names.feed.clone(),
                fence,
                poll: state.poll,
            },
            from: state.cursor,
            changes: changes?,
            oversized: Vec::new(),
            joins: None,
            progress: Progress::Done {
                cursor: cursor.clone(),
                baseline: BaselineProof::Unproven,
            },
            context: ContextRule::None,
            unchanged: Unchanged::Tell,
            sights: Sights::All,
            fresh_as_of: at,
            at,
        };
        store.accept_page(&page).await?;
    }
    Ok(())
}

async fn fan_out(store: &dyn Store, names: &Names, fence: Fence) -> Result<(), Failed> {
    let limits = Limits::default();
    loop {
        let view = store
            .fan_out_view(&names.connection, &Lane::Common, limits.fan_out_events)
            .await?;
        if view.events.is_empty() {
            return Ok(());
        }
        let members: Vec<_> = view.members.iter().map(|(it, standing)| (it, standing)).collect();
        let bounds = SliceLimits {
            rows: limits.fan_out_rows,
            outbox: u64::MAX,
        };
        let at = SystemClock.now();
        let cut = slice(&view.position, &view.events, &members, bounds, at);
        let fan_out = FanOut {
            connection: names.connection.clone(),
            fence,
            lane: Lane::Common,
            from: view.position.clone(),
            revision: view.revision,
            owed: cut.owed,
            to: cut.to,
            suspended: cut.suspended,
            at,
        };
        store.fan_out(&fan_out).await?;
    }
}

/// The change at a place in the log: blocks of first versions, each followed by the block's second versions.
fn change(names: &Names, index: u32) -> Result<Change, Failed> {
    let record = index / (2 * BLOCK) * BLOCK + index % BLOCK;
    let number = u64::from(index / BLOCK % 2 + 1);
    let key = RecordKey {
        record_type: RecordType::parse("Appointment")?,
        id: RecordId::parse(&record_id(u64::from(record)))?,
    };
    let version = VersionKey::of_version_id(&number.to_string());
    let body = resource(key.id.as_str(), number, SystemClock.now());
    Ok(Change {
        version: VersionClue::Known(
            version.clone(),
            EventId::derive(&names.connection, &key, &version),
        ),
        key,
        shown: Shown::State,
        novelty: Novelty::Announce,
        version_id: Some(number.to_string()),
        order: VersionOrder {
            number: Some(number),
            stamp: None,
        },
        first_version: false,
        content: Some(Content {
            hash: ContentHash::of_bytes(body.as_bytes()),
            record: Record::new(Bytes::from(body)),
            meaning: None,
            context: None,
        }),
        trace: None,
    })
}

/// The id of a synthetic record.
pub(crate) fn record_id(index: u64) -> String {
    format!("{RECORD_PREFIX}{index}")
}

/// What every synthetic record's id begins with.
pub(crate) const RECORD_PREFIX: &str = "synthetic-";

/// A synthetic appointment of about 1 KiB, as a FHIR server writes it.
pub(crate) fn resource(id: &str, version: u64, last_updated: Timestamp) -> String {
    format!(
        r#"{{"resourceType":"Appointment","id":"{id}","meta":{{"versionId":"{version}","lastUpdated":"{last_updated:.3}"}},"status":"booked","serviceCategory":[{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/service-category","code":"17","display":"General Practice"}}]}}],"serviceType":[{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/service-type","code":"124","display":"General Practice"}}]}}],"reasonCode":[{{"text":"Follow-up of synthetic visit {id}"}}],"priority":5,"description":"Discussion of the results of visit {id}, version {version}","start":"2026-12-10T09:00:00Z","end":"2026-12-10T09:30:00Z","created":"2026-10-10","comment":"Synthetic: no such person exists","participant":[{{"actor":{{"reference":"Patient/{id}","display":"Synthetic Patient"}},"required":"required","status":"accepted"}},{{"actor":{{"reference":"Practitioner/example-{version}","display":"Synthetic Practitioner"}},"required":"required","status":"accepted"}},{{"actor":{{"reference":"Location/1","display":"South Wing, second floor"}},"required":"required","status":"accepted"}}]}}"#
    )
}
