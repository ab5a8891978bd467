//! Several patients' searches in one request: a `batch` Bundle, each of whose entries is judged by its own status.
//!
//! What one entry says is that patient's alone. An answer that cannot be told apart (too few entries, another kind or
//! order, a parameter ignored) is not used at all: the patients are asked for one by one for an hour. A batch that is
//! too large, too slow or throttled is asked for in halves.

use courier_sdk::{ChangePage, ConnectorError, FeedSpec, HttpError, HttpResponse, Next, RecordId, Resume};
use http::StatusCode;
use url::Url;

use super::aside::Came;
use super::page::{Brought, PATIENT, empty, ignored, is_about_one, operation, tell_of_passing_over};
use super::{Listing, Seen};
use crate::answer::{self, Asked};
use crate::bundle::batch::{self, Answered};
use crate::bundle::{self, Page, outcome};
use crate::exchange::NoAnswer;
use crate::instant::Stored;
use crate::last_updated::page::self_link;
use crate::{FhirConnector, poll, query};

/// What a batch was answered.
enum Answer {
    Entries(HttpResponse, Vec<Answered>),
    TooLarge,
    /// Not an answer to these searches.
    Unfit,
}

/// What one entry says.
enum Entry {
    Page(Box<(Page, Seen)>),
    /// The source refuses this one, with this status.
    Refused(StatusCode),
    /// Nothing that says anything of what was asked for.
    Nothing,
    /// The source asks for patience.
    Throttled,
    /// Not an answer to this search.
    Unfit,
}

impl FhirConnector {
    /// How many searches of a roster one request may hold.
    pub(super) fn searches_at_once(&self, feed: &FeedSpec) -> usize {
        let most = self.profile.searches_at_once.max(1);
        self.searched_at_once
            .of(&feed.record_type, most, self.clock.now())
    }

    /// Asks for several parts of a roster with one request.
    pub(super) async fn list_together(
        &self,
        feed: &FeedSpec,
        mut listing: Listing,
        parts: &[&[RecordId]],
    ) -> Result<ChangePage, ConnectorError> {
        let address = |ids: &&[RecordId]| self.list_address(feed, &[query::any_of(PATIENT, *ids)], None);
        let urls: Vec<Url> = parts.iter().map(address).collect();
        let (response, entries) = match self.ask_together(feed, &urls).await? {
            Answer::Entries(response, entries) => (response, entries),
            Answer::TooLarge => return Ok(self.in_smaller_batches(feed, &listing, urls.len() / 2)),
            Answer::Unfit => return Ok(self.in_smaller_batches(feed, &listing, 1)),
        };
        let bound = listing
            .bound
            .map_or_else(|| self.source_time(&response), |bound| bound.0);
        let mut judged = Vec::with_capacity(entries.len());
        for (entry, url) in entries.iter().zip(&urls) {
            match self.judge_entry(feed, entry, url)? {
                Entry::Unfit => return Ok(self.in_smaller_batches(feed, &listing, 1)),
                other @ (Entry::Page(_) | Entry::Refused(_) | Entry::Nothing | Entry::Throttled) => {
                    judged.push(other);
                }
            }
        }
        if judged.iter().any(|entry| matches!(entry, Entry::Throttled)) {
            self.remember_searched(feed, urls.len() / 2);
            // What the others brought is kept: it may be overwritten before it is shown again.
            if !judged.iter().any(|entry| matches!(entry, Entry::Page(_))) {
                return Err(ConnectorError::Throttled {
                    operation: operation(feed),
                    retry_after: answer::retry_after(&response, self.clock.now()),
                });
            }
        }
        if judged.iter().all(|entry| matches!(entry, Entry::Nothing)) {
            return Ok(self.in_smaller_batches(feed, &listing, 1));
        }
        listing.bound = Some(Stored(bound));
        let mut brought = Brought::whole(Vec::new());
        brought.shortened = self.lists_ids(feed, self.portion(feed));
        let (mut several, mut all_shown) = (Vec::with_capacity(judged.len()), true);
        for (entry, ids) in judged.into_iter().zip(parts) {
            several.push(match entry {
                Entry::Page(shown) => {
                    let (page, seen) = *shown;
                    brought.items.extend(page.items);
                    brought.unusable.extend(page.unusable);
                    Came::Page(seen)
                }
                // Which of them it is about, each by itself tells.
                Entry::Refused(_) if ids.len() > 1 => Came::Nothing,
                Entry::Refused(status) => {
                    tell_of_passing_over(feed, status);
                    all_shown = false;
                    Came::Passed
                }
                Entry::Nothing | Entry::Throttled | Entry::Unfit => Came::Nothing,
            });
        }
        self.page_fits(feed);
        let mut rows = self.rows(feed, &listing, brought);
        if !all_shown {
            rows.listed = None;
        }
        let step = listing.absorb_several(several, self.rules(feed));
        Ok(self.concluded(feed, step, bound, rows))
    }

    async fn ask_together(&self, feed: &FeedSpec, urls: &[Url]) -> Result<Answer, ConnectorError> {
        let operation = operation(feed);
        let limit = self.limits.page_bytes_max;
        let below = |url: &Url| format!("{}?{}", feed.record_type, url.query().unwrap_or_default());
        let bundle = batch::of_addresses(urls.iter().map(below));
        let response = match self.exchange.batch(&operation, bundle, limit).await {
            Ok(response) if response.body.len() > limit => return Ok(Answer::TooLarge),
            Err(NoAnswer::Broken(HttpError::TooLarge { .. })) => return Ok(Answer::TooLarge),
            Err(error) => return Err(self.failed_together(feed, urls.len(), error.of(&operation))),
            Ok(response) => response,
        };
        if response.status.as_u16() != 200 {
            let error = answer::refusal(operation, &response, Asked::Search, self.clock.now());
            if matches!(error, ConnectorError::Refused { .. }) {
                return Ok(Answer::Unfit);
            }
            return Err(self.failed_together(feed, urls.len(), error));
        }
        match batch::answers(&response.body, self.limits.json_depth_max) {
            Ok(entries) if entries.len() == urls.len() => Ok(Answer::Entries(response, entries)),
            Ok(_) | Err(bundle::BodyError::Unreadable(_)) => Ok(Answer::Unfit),
            Err(error @ bundle::BodyError::Outcome(_)) => {
                let error = answer::unusable(operation, &error);
                Err(self.failed_together(feed, urls.len(), error))
            }
        }
    }

    /// What may be the size's fault is tried with half of it next.
    fn failed_together(&self, feed: &FeedSpec, searches: usize, error: ConnectorError) -> ConnectorError {
        if let ConnectorError::Transient { .. } | ConnectorError::Throttled { .. } = error {
            self.remember_searched(feed, searches / 2);
        }
        error
    }

    fn judge_entry(&self, feed: &FeedSpec, entry: &Answered, url: &Url) -> Result<Entry, ConnectorError> {
        if outcome::names_one_of(&entry.body, &self.profile.inband_limit_codes) {
            return Ok(Entry::Throttled);
        }
        match entry.status.and_then(|status| StatusCode::from_u16(status).ok()) {
            Some(StatusCode::OK) => {}
            Some(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
                return Ok(Entry::Throttled);
            }
            Some(status) if is_about_one(status) && !self.is_too_costly(&entry.body) => {
                return Ok(Entry::Refused(status));
            }
            Some(_) | None => return Ok(Entry::Nothing),
        }
        let Ok(page) = bundle::page(&entry.body, &feed.record_type, self.limits.json_depth_max) else {
            return Ok(Entry::Nothing);
        };
        let of_another =
            self_link(&page, url).is_some_and(|link| !query::names_the_same(url, &link, PATIENT));
        if of_another || ignored(&page, url).is_some() {
            return Ok(Entry::Unfit);
        }
        let seen = self.seen(&operation(feed), &page, url)?;
        Ok(Entry::Page(Box::new((page, seen))))
    }

    /// The same listing, to be gone on with by fewer searches at once.
    fn in_smaller_batches(&self, feed: &FeedSpec, listing: &Listing, searches: usize) -> ChangePage {
        self.remember_searched(feed, searches);
        let fresh_as_of = listing.bound.map_or_else(|| self.clock.now(), |bound| bound.0);
        empty(Next::Page(Resume::new(poll::text(listing))), fresh_as_of)
    }

    fn remember_searched(&self, feed: &FeedSpec, searches: usize) {
        tracing::debug!(feed = %feed.name, "fewer searches are sent at once for a while");
        self.searched_at_once
            .remember(&feed.record_type, searches, self.clock.now());
    }
}
