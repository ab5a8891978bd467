//! One page of a listing: finds out whom to ask for, asks, reads, and lets `listing` say what follows.

use std::collections::BTreeMap;

use courier_sdk::{
    Aim, ChangePage, ChangeRef, ConnectorError, FeedSpec, FetchMode, HttpResponse, Ids, Next, Novelty,
    PageOrder, Record, Resume, Roster, Shown, Strategy,
};
use http::StatusCode;
use jiff::Timestamp;
use url::Url;

use super::aside::Aside;
use super::part::Parts;
use super::{Listing, Rules, Seen, Step};
use crate::answer::{self, Asked};
use crate::bundle::{self, Item, Page};
use crate::cursor::{By, CursorState};
use crate::instant::Stored;
use crate::last_updated::page::self_link;
use crate::portion::{Least, Portion};
use crate::profile::ReadMany;
use crate::query::{self, Listed};
use crate::{FhirConnector, poll};

/// The parameter that names a patient, for every type of the patient compartment that has one.
pub(super) const PATIENT: &str = "patient";

/// The parameter that names records by their ids.
const ID: &str = "_id";

/// What one request of a listing brought.
pub(super) struct Brought {
    pub(super) items: Vec<Item>,
    pub(super) unusable: Vec<usize>,
    /// Whether records may have been shortened.
    pub(super) shortened: bool,
}

impl Brought {
    /// Records as they are.
    pub(super) fn whole(items: Vec<Item>) -> Self {
        Self {
            items,
            unusable: Vec::new(),
            shortened: false,
        }
    }
}

impl FhirConnector {
    /// Begins a listing with its first page.
    pub(crate) async fn begin_listing(
        &self,
        feed: &FeedSpec,
        strategy: Strategy,
        cursor: Option<CursorState>,
    ) -> Result<ChangePage, ConnectorError> {
        let parts = match strategy {
            Strategy::Window if feed.scope.aim != Aim::Everything => self.window(feed),
            Strategy::Window | Strategy::History | Strategy::LastUpdated => Parts::Whole(false),
            Strategy::Roster => {
                let at_once = if is_of_patients(feed) {
                    self.ids_at_once(feed)
                } else {
                    self.profile.patients_at_once
                };
                Parts::list(&self.patients_now(feed).await?, at_once)
            }
            Strategy::Read => Parts::list(&feed.scope.ids, self.ids_at_once(feed)),
        };
        if parts.is_over() {
            return Err(ConnectorError::Forbidden {
                operation: operation(feed),
                reason: "the roster names nobody".to_owned(),
            });
        }
        let listing = Listing::begin(feed, cursor.as_ref(), parts);
        self.listing_page(feed, listing, cursor.as_ref()).await
    }

    /// The answer to a sweep of a feed whose every poll lists everything: nothing need be asked.
    pub(crate) fn swept_by_polls(&self) -> ChangePage {
        let now = self.clock.now();
        let cursor = poll::cursor(&CursorState::of(By::Listing, now, None));
        ChangePage {
            listed: None,
            ..empty(Next::Done(cursor), now)
        }
    }

    /// Asks for one page of a listing.
    pub(crate) async fn listing_page(
        &self,
        feed: &FeedSpec,
        listing: Listing,
        cursor: Option<&CursorState>,
    ) -> Result<ChangePage, ConnectorError> {
        if let (Parts::List(place), None) = (&listing.parts, &listing.link) {
            let all = self.listed_ids(feed).await?;
            let of_ids = is_of_patients(feed) || !feed.scope.ids.0.is_empty();
            if !of_ids && listing.aside.is_empty() {
                let parts = place.next(&all, self.searches_at_once(feed));
                let parts = parts.ok_or_else(|| begins_anew(feed))?;
                if parts.len() > 1 {
                    return self.list_together(feed, listing, &parts).await;
                }
            }
            let ids = match listing.aside.last() {
                Some(Aside::One(at)) => place.one(&all, *at),
                Some(Aside::Rest { .. }) | None => place.of(&all),
            };
            let ids = ids.ok_or_else(|| begins_anew(feed))?;
            if let ([id], true) = (ids, of_ids) {
                let tag = cursor.and_then(|cursor| cursor.tags.get(id.as_str()));
                return self.single(feed, listing, id, tag.map(String::as_str)).await;
            }
            let chosen = vec![query::any_of(if of_ids { ID } else { PATIENT }, ids)];
            return self.list(feed, listing, chosen).await;
        }
        let chosen = match &listing.parts {
            Parts::Days(days) => {
                let days = days.last().ok_or_else(|| begins_anew(feed))?;
                self.window_parameter(feed)
                    .map_or_else(Vec::new, |name| days.parameters(name))
            }
            Parts::Whole(_) | Parts::List(_) => Vec::new(),
        };
        self.list(feed, listing, chosen).await
    }

    /// Asks for one page of a search that lists.
    async fn list(
        &self,
        feed: &FeedSpec,
        mut listing: Listing,
        chosen: Vec<String>,
    ) -> Result<ChangePage, ConnectorError> {
        let operation = operation(feed);
        let portion = self.portion(feed);
        let ids_only = self.lists_ids(feed, portion);
        let (url, asked) = if let Some(link) = &listing.link {
            let url = self.kept_link(&operation, Some(link))?;
            (url, Asked::PageLink(&self.profile.expired_page_statuses))
        } else {
            let larger = listing.larger.map(|(count, _)| count);
            (self.list_address(feed, &chosen, larger), Asked::Search)
        };
        let least = if ids_only {
            Least::OneRecord
        } else {
            self.least_searched(feed)
        };
        let response = self
            .ask_any(feed, &operation, (url.clone(), asked), least)
            .await?;
        if response.status.as_u16() != 200 {
            let costly = self.is_too_costly(&response.body);
            if costly && let Some(less) = listing.clone().ask_for_less() {
                let next = Next::Page(Resume::new(poll::text(&less)));
                let fresh_as_of = less
                    .bound
                    .map_or_else(|| self.source_time(&response), |bound| bound.0);
                return Ok(empty(next, fresh_as_of));
            }
            if listing.link.is_none() && listing.asks_for_one() && is_about_one(response.status) {
                return Ok(self.passed_over(feed, listing, &response));
            }
            return Err(answer::refusal(operation, &response, asked, self.clock.now()));
        }
        let page = bundle::page(&response.body, &feed.record_type, self.limits.json_depth_max)
            .map_err(|error| answer::unusable(operation.clone(), &error))?;
        let bound = listing
            .bound
            .map_or_else(|| self.source_time(&response), |bound| bound.0);
        listing.bound = Some(Stored(bound));
        if let Some(name) = ignored(&page, &url) {
            if name == ID
                && let Some(singly) = listing.ask_singly()
            {
                self.remember(&feed.record_type, 1);
                let next = Next::Page(Resume::new(poll::text(&singly)));
                return Ok(empty(next, bound));
            }
            // What a source shows that ignores a choice would be shown again for each choice.
            let reason = format!("the source ignored the search parameter {name}");
            return Ok(empty(Next::Inconclusive { reason }, bound));
        }
        let seen = self.seen(&operation, &page, &url)?;
        let brought = Brought {
            items: page.items,
            unusable: page.unusable,
            shortened: ids_only,
        };
        let rows = self.rows(feed, &listing, brought);
        let step = listing.absorb(&seen, self.rules_of(feed, self.count_asked(&url)));
        Ok(self.concluded(feed, step, bound, rows))
    }

    /// The address of a listing's search; with a larger page than usual where that is said.
    pub(super) fn list_address(&self, feed: &FeedSpec, chosen: &[String], larger: Option<u32>) -> Url {
        let portion = self.portion(feed);
        let listed = Listed {
            record_type: &feed.record_type,
            chosen,
            count: larger.unwrap_or_else(|| self.usual_count(portion)),
            ids_only: self.lists_ids(feed, portion),
            filter: &feed.filter,
        };
        query::listed(&self.exchange.base, &listed)
    }

    /// Goes on after one patient or record of a list that the source does not show. The listing then names not all that
    /// there is, so that nothing is concluded from what it leaves out.
    pub(super) fn passed_over(
        &self,
        feed: &FeedSpec,
        mut listing: Listing,
        response: &HttpResponse,
    ) -> ChangePage {
        tell_of_passing_over(feed, response.status);
        let bound = listing
            .bound
            .map_or_else(|| self.source_time(response), |bound| bound.0);
        listing.bound = Some(Stored(bound));
        let mut rows = self.rows(feed, &listing, Brought::whole(Vec::new()));
        rows.listed = None;
        let step = listing.absorb(&Seen::one(Vec::new()), self.rules(feed));
        self.concluded(feed, step, bound, rows)
    }

    /// What the listing's end depends on beside its own state.
    pub(super) fn rules(&self, feed: &FeedSpec) -> Rules {
        self.rules_of(feed, self.limits.page_count)
    }

    fn rules_of(&self, feed: &FeedSpec, count: u32) -> Rules {
        Rules {
            aim: feed.scope.aim,
            cut: self.profile.granularity,
            count,
            usual_count: self.limits.page_count,
        }
    }

    /// How many matches a page is asked to hold.
    fn usual_count(&self, portion: Portion) -> u32 {
        match portion {
            Portion::Records(count) => count,
            Portion::Ids => self.limits.page_count,
        }
    }

    /// A page whose rows are known, with what follows.
    pub(super) fn concluded(
        &self,
        feed: &FeedSpec,
        step: Step,
        fresh_as_of: Timestamp,
        rows: ChangePage,
    ) -> ChangePage {
        let next = match step {
            Step::Ask(listing) => Next::Page(Resume::new(poll::text(&listing))),
            Step::Done(state) => Next::Done(poll::cursor(&state)),
            Step::Inconclusive(doubt) => Next::Inconclusive {
                reason: doubt.reason().to_owned(),
            },
        };
        if !matches!(next, Next::Page(_)) {
            self.poll_has_ended(feed);
        }
        ChangePage {
            next,
            fresh_as_of,
            ..rows
        }
    }

    /// Turns what was brought into changes; what follows is not known yet.
    pub(super) fn rows(&self, feed: &FeedSpec, listing: &Listing, brought: Brought) -> ChangePage {
        let mut rows = empty(
            Next::Inconclusive {
                reason: String::new(),
            },
            Timestamp::UNIX_EPOCH,
        );
        rows.unusable = brought.unusable;
        let mut listed = Vec::with_capacity(brought.items.len());
        for item in brought.items {
            listed.push(item.key.id.clone());
            let whole = !item.subsetted && !brought.shortened;
            // Read by itself, a record whose version is not told would be read anew at every poll.
            let untold = !self.profile.trust_version_id || item.version_id.is_none();
            let carried = whole && (feed.fetch == FetchMode::FromPage || untold);
            if carried && item.body.len() > self.limits.record_bytes_max {
                rows.oversized.push(item.key);
                continue;
            }
            let novelty = if listing.is_silent(item.last_updated, self.profile.granularity) {
                Novelty::Silent
            } else {
                Novelty::Announce
            };
            rows.changes.push(ChangeRef {
                key: item.key,
                shown: Shown::State,
                novelty,
                version_id: item.version_id,
                last_updated: item.last_updated,
                record: carried.then(|| Record::new(item.body)),
            });
        }
        rows.listed = Some(listed);
        rows
    }

    pub(super) fn seen(&self, operation: &str, page: &Page, url: &Url) -> Result<Seen, ConnectorError> {
        Ok(Seen {
            stamps: page.items.iter().map(|item| item.last_updated).collect(),
            entries: page.entries,
            matches: page.matches as u64,
            total: page.total,
            next: self.next_link(operation, url, page.next.as_deref())?,
            fill: self.fill(page, url),
        })
    }

    /// Whether ids and versions are asked for instead of records. Where a version is told by its content, nothing but
    /// the record tells it.
    pub(super) fn lists_ids(&self, feed: &FeedSpec, portion: Portion) -> bool {
        let wanted =
            feed.fetch == FetchMode::ByRead || feed.scope.aim == Aim::Everything || portion == Portion::Ids;
        wanted && self.profile.ids_only && self.profile.trust_version_id
    }

    fn window(&self, feed: &FeedSpec) -> Parts {
        match self.window_parameter(feed) {
            Some(_) => Parts::days(&feed.scope.window, &self.profile.window, self.clock.now()),
            None => Parts::Whole(false),
        }
    }

    fn window_parameter<'a>(&'a self, feed: &'a FeedSpec) -> Option<&'a str> {
        let own = feed.scope.window.parameter.as_deref();
        own.or_else(|| {
            let known = self.profile.window.parameters.get(feed.record_type.as_str());
            known.map(String::as_str)
        })
    }

    /// How many records one search may name.
    fn ids_at_once(&self, feed: &FeedSpec) -> usize {
        match self.profile.read_many {
            ReadMany::IdSearch => self.at_once(&feed.record_type),
            // A search in a Bundle would name one patient or id all the same.
            ReadMany::None | ReadMany::Batch => 1,
        }
    }

    /// The ids that a list's parts are cut from.
    async fn listed_ids(&self, feed: &FeedSpec) -> Result<Ids, ConnectorError> {
        if feed.scope.ids.0.is_empty() {
            self.patients(feed).await
        } else {
            Ok(feed.scope.ids.clone())
        }
    }

    /// The roster. A group's members are asked for at the beginning of each poll, and remembered for its further pages.
    async fn patients(&self, feed: &FeedSpec) -> Result<Ids, ConnectorError> {
        match &feed.scope.roster {
            Roster::None => Ok(Ids::default()),
            Roster::Patients(ids) => Ok(ids.clone()),
            Roster::Group(id) => self.members(id).await,
        }
    }

    /// The roster as it stands now.
    async fn patients_now(&self, feed: &FeedSpec) -> Result<Ids, ConnectorError> {
        match &feed.scope.roster {
            Roster::Group(id) => self.read_members(id).await,
            Roster::None | Roster::Patients(_) => self.patients(feed).await,
        }
    }

    pub(super) fn is_too_costly(&self, body: &[u8]) -> bool {
        let code = bundle::outcome_code(body, self.limits.json_depth_max);
        code.is_some_and(|code| self.profile.too_costly_codes.contains(&code))
    }
}

fn begins_anew(feed: &FeedSpec) -> ConnectorError {
    ConnectorError::PageExpired {
        operation: operation(feed),
        status: 0,
    }
}

/// Whether a refusal may be about the one that was asked for, rather than about us or the moment.
pub(super) fn is_about_one(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 403 | 404 | 409 | 410 | 422 | 451 | 500)
}

pub(super) fn tell_of_passing_over(feed: &FeedSpec, status: StatusCode) {
    let reason = format!("status {}", status.as_u16());
    tracing::warn!(
        feed = %feed.name, reason,
        "the source does not show one of the list: the others go on"
    );
}

/// A page of which nothing is taken.
pub(super) fn empty(next: Next, fresh_as_of: Timestamp) -> ChangePage {
    ChangePage {
        changes: Vec::new(),
        oversized: Vec::new(),
        unusable: Vec::new(),
        listed: Some(Vec::new()),
        included: BTreeMap::new(),
        order: PageOrder::OldestFirst,
        next,
        fresh_as_of,
    }
}

/// Whether the records that the feed looks at are the roster's patients themselves.
fn is_of_patients(feed: &FeedSpec) -> bool {
    feed.record_type.as_str() == "Patient"
}

/// The parameter that the `self` link shows to have been ignored.
pub(super) fn ignored(page: &Page, url: &Url) -> Option<String> {
    query::ignored(url, &self_link(page, url)?)
}

pub(super) fn operation(feed: &FeedSpec) -> String {
    format!("list {}", feed.record_type)
}
