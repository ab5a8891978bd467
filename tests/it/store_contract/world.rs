//! One connection, `mercy`, with its lease, and what can be done with them.

use std::collections::BTreeSet;
use std::sync::Arc;

use courier_sdk::FeedName;
use ehr_courier::domain::delivery::{AttemptOutcome, AttemptRecord, ClaimedDelivery, Fence};
use ehr_courier::domain::event::Change;
use ehr_courier::domain::fan_out::{self, SliceLimits, Subscription};
use ehr_courier::store::{
    AcceptPage, Accepted, ClaimChanges, ClaimDeliveries, ClaimedChange, ContextRule, Definitions, EventQuery,
    FanOut, FanOutView, FeedState, Holder, Lane, PollRef, Progress, Recorded, ReleaseStage, Released,
    SettleChanges, SettleResult, Settled, Settlement, Sights, Store, Unchanged,
};

use super::Home;
pub(super) use super::words::*;

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
            joins: None,
            progress,
            context: ContextRule::None,
            unchanged: Unchanged::Tell,
            sights: Sights::All,
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
        let release = self.releasing(limit).await;
        self.store.release_stage(&release).await.unwrap()
    }

    pub(super) async fn releasing(&self, limit: usize) -> ReleaseStage {
        ReleaseStage {
            poll: self.poll_ref().await,
            limit,
            context: ContextRule::None,
            unchanged: Unchanged::Tell,
            at: at(0),
        }
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
            last: BTreeSet::new(),
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
            unchanged_untold: BTreeSet::new(),
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
            destinations: BTreeSet::from([destination("hook"), destination("other")]),
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
