//! Listings: which records a poll named that lists everything its feed looks at, and which have disappeared since.
//!
//! What is missing from an incomplete listing is not missing. A listing is complete only if this worker, under one
//! lease, handed over all its pages and each told of all its entries; after a restart in the middle nothing is
//! concluded until the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use courier_sdk::{ChangePage, FeedName, Next, RecordId, Shown};
use jiff::Timestamp;
use tracing::{info, warn};

use super::Worker;
use super::connection::{Connection, Feed};
use super::poll::Poll;
use crate::domain::delivery::Fence;
use crate::domain::event::Change;
use crate::store::{Joins, KeepRoll, PollId, SLICE_ROWS_MAX, StoreError};

/// So many changes may wait in an inbox when a record that disappeared joins them: they are read in the order in which
/// they came, and live changes must not stand behind a purge of the source.
const WAITING_MAX: u64 = 1_000;

/// The listings of a connection's feeds.
#[derive(Debug, Default)]
pub struct Listings {
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    /// Those whose pages are being gathered, and those of which not everything was concluded yet.
    by_feed: BTreeMap<FeedName, Listing>,
    /// The feeds of which it was said that they list too much.
    too_long: BTreeSet<FeedName>,
}

/// The ids that one poll named so far.
#[derive(Debug)]
struct Listing {
    poll: PollId,
    fence: Fence,
    ids: BTreeSet<RecordId>,
    fresh_as_of: Timestamp,
    pages: Pages,
}

/// Whether a listing may be concluded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pages {
    /// More of them may come.
    Coming,
    /// The last one was handed over.
    AllIn,
}

impl Listings {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, feed: &FeedName) -> Option<Listing> {
        self.all().by_feed.remove(feed)
    }

    fn put(&self, feed: &FeedName, listing: Listing) {
        self.all().by_feed.insert(feed.clone(), listing);
    }
}

/// Gathers what a page lists; forgets what its poll listed so far where something may be hidden. Answers whom the page
/// names, if it lists.
pub(super) fn gather(worker: &Worker, poll: &Poll<'_>, page: &ChangePage) -> Option<BTreeSet<RecordId>> {
    let (listings, feed) = (&poll.connection.listings, &poll.feed.spec.name);
    let earlier = listings.take(feed);
    let named = named(poll, page)?;
    let hidden = !page.unusable.is_empty() || matches!(page.next, Next::Inconclusive { .. });
    if hidden {
        return Some(named);
    }
    let (id, fence) = (poll.reference().poll, poll.fence);
    let mut listing = match (earlier, &poll.resume) {
        (_, None) => Listing {
            poll: id,
            fence,
            ids: BTreeSet::new(),
            fresh_as_of: page.fresh_as_of,
            pages: Pages::Coming,
        },
        (Some(earlier), Some(_))
            if (earlier.poll, earlier.fence, earlier.pages) == (id, fence, Pages::Coming) =>
        {
            earlier
        }
        // Its first pages were another life's, or too many.
        (Some(_) | None, Some(_)) => {
            return (!listings.all().too_long.contains(feed)).then_some(named);
        }
    };
    listing.ids.extend(named.iter().cloned());
    if listing.ids.len() > worker.limits.roll {
        if listings.all().too_long.insert(feed.clone()) {
            warn!(
                connection = %poll.connection.name, %feed, records = listing.ids.len(),
                "the feed lists more records than are compared: what disappears from it stays unseen"
            );
        }
        return None;
    }
    listings.put(feed, listing);
    Some(named)
}

/// Whom a page names that lists.
fn named(poll: &Poll<'_>, page: &ChangePage) -> Option<BTreeSet<RecordId>> {
    let mut named: BTreeSet<RecordId> = page.listed.as_ref()?.iter().cloned().collect();
    named.extend(page.oversized.iter().map(|key| key.id.clone()));
    let shown = page.changes.iter().filter(|change| {
        let there = !matches!(change.shown, Shown::Deleted | Shown::Missing);
        there && change.key.record_type == poll.feed.spec.record_type
    });
    named.extend(shown.map(|change| change.key.id.clone()));
    Some(named)
}

/// The records that join a roll with a page: of those that it lists what the feed's roll does not know yet; of what it
/// shows as new, where it lists nothing and has a sweep, what is there.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn joins(
    worker: &Worker,
    poll: &Poll<'_>,
    listed: Option<BTreeSet<RecordId>>,
    changes: &[Change],
) -> Result<Option<Joins>, StoreError> {
    let (connection, spec) = (poll.connection, &poll.feed.spec);
    let joins = |roll: FeedName, ids: Vec<RecordId>| Joins {
        roll,
        record_type: spec.record_type.clone(),
        ids,
    };
    if let Some(listed) = listed {
        let listed: Vec<RecordId> = listed.into_iter().collect();
        let news = worker
            .store
            .off_roll(&connection.name, &spec.name, &listed)
            .await?;
        return Ok((!news.is_empty()).then(|| joins(spec.name.clone(), news)));
    }
    let Some(sweep) = connection.sweep_of(&spec.name) else {
        return Ok(None);
    };
    let there = changes.iter().filter(|change| {
        let there = !matches!(change.shown, Shown::Deleted | Shown::Missing);
        there && change.key.record_type == spec.record_type
    });
    let there: BTreeSet<RecordId> = there.map(|change| change.key.id.clone()).collect();
    let mut all = connection.listings.all();
    if there.is_empty() || all.too_long.contains(&sweep) {
        return Ok(None);
    }
    // The sweep that runs may have passed its place: what joins the roll now is not missing from it.
    if let Some(listing) = all.by_feed.get_mut(&sweep) {
        listing.ids.extend(there.iter().cloned());
    }
    Ok(Some(joins(sweep, there.into_iter().collect())))
}

/// Whether something is still to be concluded from a feed's last complete listing.
pub(super) fn is_unfinished(connection: &Connection, feed: &FeedName, fence: Fence) -> bool {
    let all = connection.listings.all();
    let is_it = |listing: &Listing| listing.fence == fence && listing.pages == Pages::AllIn;
    all.by_feed.get(feed).is_some_and(is_it)
}

/// Concludes from a listing whose last page was handed over what has disappeared, as far as the inbox has room; of the
/// rest the listing is kept. Answers how many records are read for it.
///
/// It is no part of the transaction of the poll's last page: an older roll only repeats the comparison.
///
/// # Errors
/// [`StoreError`] when the store fails.
pub(super) async fn conclude(
    worker: &Worker,
    connection: &Connection,
    feed: &Feed,
    fence: Fence,
) -> Result<u64, StoreError> {
    let name = &feed.spec.name;
    let Some(mut listing) = connection.listings.take(name) else {
        return Ok(0);
    };
    connection.listings.all().too_long.remove(name);
    let mut missing = missing(worker, connection, name, &listing).await?;
    let mut left = false;
    if !missing.is_empty() {
        let waiting = worker.store.backlog(&connection.name).await?.inbox;
        let room = usize::try_from(WAITING_MAX.saturating_sub(waiting)).unwrap_or(usize::MAX);
        left = missing.len() > room;
        missing.truncate(room);
    }
    let mut asked = 0;
    while !missing.is_empty() {
        let keep = KeepRoll {
            connection: connection.name.clone(),
            feed: name.clone(),
            fence,
            record_type: feed.spec.record_type.clone(),
            missing: take(&mut missing, SLICE_ROWS_MAX),
            fresh_as_of: listing.fresh_as_of,
            at: worker.clock.now(),
        };
        asked += worker.store.keep_roll(&keep).await?.asked;
    }
    if asked > 0 {
        info!(
            connection = %connection.name, feed = %name, records = asked,
            "records are no longer listed: each is read by itself"
        );
        let label = worker.watch.connections.of(connection.name.as_str());
        metrics::counter!("courier_disappeared_total", "connection" => label).increment(asked);
        worker.bells.fetch.ring(&connection.name);
    }
    if left {
        listing.pages = Pages::AllIn;
        connection.listings.put(name, listing);
    }
    Ok(asked)
}

/// Which records the roll names and a listing does not.
async fn missing(
    worker: &Worker,
    connection: &Connection,
    feed: &FeedName,
    listing: &Listing,
) -> Result<Vec<RecordId>, StoreError> {
    let mut missing = Vec::new();
    let mut after: Option<RecordId> = None;
    loop {
        let store = &worker.store;
        let roll = store
            .roll(&connection.name, feed, after.as_ref(), SLICE_ROWS_MAX)
            .await?;
        let Some(last) = roll.last() else {
            return Ok(missing);
        };
        after = Some(last.clone());
        missing.extend(roll.into_iter().filter(|id| !listing.ids.contains(id)));
    }
}

/// Takes so many from the end.
fn take(ids: &mut Vec<RecordId>, count: usize) -> Vec<RecordId> {
    ids.split_off(ids.len().saturating_sub(count))
}
