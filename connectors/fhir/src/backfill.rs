//! Backfills: asks for the past, stretch after stretch, and learns how long a stretch a source can show.
//!
//! What it remembers only spares requests: after a restart the first link that expires teaches it anew. How a stretch
//! goes is `last_updated::past`'s to say.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use courier_sdk::{ChangePage, ConnectorError, FeedName, FeedSpec, Next, PageOrder, Start, Strategy};
use jiff::{SignedDuration, Timestamp};

use crate::answer::{self, Asked};
use crate::cursor::{By, CursorState};
use crate::last_updated::page::self_link;
use crate::last_updated::{Poll, past};
use crate::poll::{self, Stand};
use crate::portion::Least;
use crate::query::Search;
use crate::{FhirConnector, bundle, query};

/// How long a stretch is asked for, of feeds whose page links expired.
pub(crate) type Stretches = BTreeMap<FeedName, SignedDuration>;

impl FhirConnector {
    /// Begins the next stretch, or says that none is left.
    pub(crate) async fn begin_past(
        &self,
        feed: &FeedSpec,
        cursor: Option<&CursorState>,
        until: Timestamp,
    ) -> Result<ChangePage, ConnectorError> {
        let longest = self.with_stretches(|stretches| stretches.get(&feed.name).copied());
        match past::plan(feed, cursor, (until, longest), self.profile.granularity) {
            Some(plan) => self.past_page(feed, Stand::Fresh(plan)).await,
            None => Ok(self.told_until(until)),
        }
    }

    /// Asks for one page of a stretch.
    pub(crate) async fn past_page(
        &self,
        feed: &FeedSpec,
        stand: Stand<Poll>,
    ) -> Result<ChangePage, ConnectorError> {
        let plan = match &stand {
            Stand::Fresh(plan) => *plan,
            Stand::Running(poll) => poll.planned(),
        };
        let page = self.search_page(feed, stand).await;
        match &page {
            Err(ConnectorError::PageExpired { .. }) => self.with_stretches(|stretches| {
                stretches.extend(past::halved(&plan).map(|shorter| (feed.name.clone(), shorter)));
            }),
            Ok(ChangePage {
                next: Next::Done(_), ..
            }) => self.with_stretches(|stretches| {
                if let Some(length) = stretches.remove(&feed.name) {
                    stretches.extend(past::doubled(length).map(|longer| (feed.name.clone(), longer)));
                }
            }),
            Ok(_) | Err(_) => {}
        }
        page
    }

    /// The answer to a backfill of which nothing is left, or of a feed whose every poll lists everything: nothing need be
    /// asked.
    pub(crate) fn told_until(&self, until: Timestamp) -> ChangePage {
        let cursor = poll::cursor(&CursorState::of(By::Listing, until, None));
        ChangePage {
            changes: Vec::new(),
            oversized: Vec::new(),
            unusable: Vec::new(),
            listed: None,
            included: BTreeMap::new(),
            order: PageOrder::OldestFirst,
            next: Next::Done(cursor),
            fresh_as_of: self.clock.now(),
        }
    }

    /// How many records changed last since the feed's start, where the source counts them.
    pub(crate) async fn count(&self, feed: &FeedSpec) -> Result<Option<u64>, ConnectorError> {
        let from = match feed.start {
            Start::Now => return Ok(None),
            Start::Beginning => None,
            Start::At(start) => Some(start),
        };
        let (strategy, _) = self.strategy(feed, None).await?;
        if !matches!(strategy, Strategy::History | Strategy::LastUpdated) {
            return Ok(None);
        }
        let operation = format!("count {}", feed.record_type);
        let search = Search {
            record_type: &feed.record_type,
            from,
            to: None,
            sort: "",
            count: 1,
            ids_only: false,
            filter: &feed.filter,
            include: &[],
            cut: self.profile.granularity,
        };
        let url = query::counted(&self.exchange.base, &search);
        let response = self
            .ask_page(feed, &operation, (url.clone(), Asked::Search), Least::OneRecord)
            .await?;
        let page = bundle::page(&response.body, &feed.record_type, self.limits.json_depth_max)
            .map_err(|error| answer::unusable(operation, &error))?;
        let applied = self_link(&page, &url).map(|link| query::applied(&url, &link, &feed.filter));
        let all_applied = applied.is_none_or(|applied| applied == query::Applied::All);
        Ok(page.total.filter(|_| all_applied))
    }

    fn with_stretches<T>(&self, work: impl FnOnce(&mut Stretches) -> T) -> T {
        work(&mut self.stretches.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
