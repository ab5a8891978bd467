//! Context that comes with the page: a search that names `_include` is answered with what its matches refer to, so that
//! none of it need be read.
//!
//! Not every server applies it, and some drop it without a word: it is asked for where the profile says so, and not for
//! an hour where the answer shows otherwise. What is included is never a change, and what is missing is read.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use courier_sdk::{FeedName, FeedSpec, FetchMode, Include, Record, RecordKey};
use jiff::Timestamp;
use url::Url;

use crate::FhirConnector;
use crate::bundle::Page;
use crate::last_updated::page::self_link;
use crate::last_updated::{First, Poll, Target};
use crate::poll::Stand;
use crate::portion::Portion;
use crate::{include, query};

/// How long a server that does not apply `_include` is taken at its word.
const REMEMBERED: Duration = Duration::from_hours(1);

/// The feeds that are searched without `_include`, and until when.
pub(crate) type NotIncluded = BTreeMap<FeedName, Timestamp>;

impl FhirConnector {
    /// What the next request asks to be included; nothing where the pages shrank, because it makes them larger, where
    /// nothing that is shown will be told of, and for a link, which asks as the request did that it came from.
    pub(crate) fn includes<'a>(&self, feed: &'a FeedSpec, stand: &Stand<Poll>) -> &'a [Include] {
        let built = match stand {
            Stand::Fresh(plan) => plan.first == First::Known,
            Stand::Running(poll) => !matches!(poll.target, Some(Target::Link(_))),
        };
        let whole = feed.fetch == FetchMode::FromPage
            && self.portion(feed) == Portion::Records(self.limits.page_count);
        let until = self.not_included().get(&feed.name).copied();
        let refused = until.is_some_and(|until| self.clock.now() < until);
        if built
            && whole
            && self.profile.search_include
            && !refused
            && include::leads_elsewhere(&feed.include)
        {
            &feed.include
        } else {
            &[]
        }
    }

    /// Notes that the server does not apply what was asked for.
    pub(crate) fn note_not_included(&self, feed: &FeedSpec) {
        tracing::debug!(feed = %feed.name, "the source does not apply _include: context is read for a while");
        let until = self.clock.now().saturating_add(REMEMBERED);
        self.not_included()
            .insert(feed.name.clone(), until.unwrap_or(Timestamp::MAX));
    }

    /// Notes an answer whose `self` link and entries both show that `_include` was dropped.
    pub(crate) fn judge_included(&self, feed: &FeedSpec, page: &Page, url: &Url) {
        let shown = self_link(page, url).is_some_and(|link| query::includes(&link));
        if shown || !page.included.is_empty() {
            return;
        }
        let refers = |body: &[u8]| !include::references(body, &feed.include, &self.exchange.base).is_empty();
        if page.items.iter().any(|item| refers(&item.body)) {
            self.note_not_included(feed);
        }
    }

    /// The records that came along with a page. One that is shortened or too large is left to be read.
    pub(crate) fn came_along(&self, page: &mut Page) -> BTreeMap<RecordKey, Record> {
        let included = std::mem::take(&mut page.included).into_iter();
        let usable =
            included.filter(|item| !item.subsetted && item.body.len() <= self.limits.record_bytes_max);
        usable.map(|item| (item.key, Record::new(item.body))).collect()
    }

    fn not_included(&self) -> MutexGuard<'_, NotIncluded> {
        self.not_included.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
