//! One page of a poll: asks, reads, and lets `last_updated` say what follows.

use std::sync::atomic::Ordering;
use std::time::Duration;

use courier_sdk::{
    ChangePage, ChangeRef, ConnectorError, Cursor, FeedSpec, FetchMode, HttpResponse, Next, Novelty,
    PageOrder, Record, Resume, Shown as ShownAs,
};
use jiff::Timestamp;
use serde::Serialize;
use url::Url;

use crate::answer::{self, Asked};
use crate::bundle::{self, Item, Page};
use crate::exchange::Wanted;
use crate::instant::{self, Stored};
use crate::last_updated::present::{self, Clocks};
use crate::last_updated::{By, CursorState, Fill, Filter, First, Plan, Poll, Rules, Shown, Step, Target};
use crate::profile::FullPage;
use crate::query::{Applied, Search};
use crate::{FhirConnector, digest, query};

/// How far behind our own clock the source's time is put where it names none: more than clocks of kept
/// machines differ.
const UNKNOWN_DATE_MARGIN: Duration = Duration::from_mins(5);

/// Where the poll stands before its request.
pub(crate) enum Stand {
    Fresh(Plan),
    Running(Box<Poll>),
}

/// Why a page is not handed over: its records need not be the feed's.
const WHERE_IGNORED: &str =
    "the source ignored a parameter of the feed's where, so that nothing was taken from it";

/// What follows after a page, and which of its rows are silent.
pub(crate) struct Course {
    pub(crate) next: Next,
    /// Rows stamped before this instant are silent.
    pub(crate) start: Option<Timestamp>,
    pub(crate) fresh_as_of: Timestamp,
}

pub(crate) fn cursor(state: CursorState) -> Cursor {
    Cursor::new(text(&state))
}

impl FhirConnector {
    /// Asks for one page of a search.
    pub(crate) async fn search_page(
        &self,
        feed: &FeedSpec,
        stand: Stand,
    ) -> Result<ChangePage, ConnectorError> {
        let operation = operation(feed);
        let url = self.address(feed, &stand)?;
        let wanted = self.exchange.get(
            &operation,
            url.clone(),
            Wanted::Search,
            self.limits.page_bytes_max,
        );
        let response = wanted.await.map_err(|error| error.of(&operation))?;
        let page = self.read_page(feed, &stand, &response)?;
        if applied(feed, &page, &url) == Some(Applied::NotFilter) {
            let fresh_as_of = match &stand {
                Stand::Fresh(_) => self.source_time(&response),
                Stand::Running(poll) => poll.bound.0,
            };
            return Ok(nothing(WHERE_IGNORED, fresh_as_of));
        }
        let shown = self.shown(feed, &page, &url)?;
        let course = match stand {
            Stand::Fresh(plan) => {
                let bound = self.source_time(&response);
                match (plan.first, plan.lower) {
                    (First::Now(ours), Some(lower)) => {
                        let overlap = feed.overlap;
                        let asked = present::Asked {
                            lower,
                            ours,
                            bound,
                            overlap,
                        };
                        begin_now(feed, By::LastUpdated, asked, &shown)
                    }
                    (First::Now(_) | First::Known, _) => self.go_on(feed, Poll::begin(&plan, bound), &shown),
                }
            }
            Stand::Running(poll) => self.go_on(feed, *poll, &shown),
        };
        let mut answered = ChangePage {
            changes: Vec::new(),
            oversized: Vec::new(),
            order: PageOrder::OldestFirst,
            next: course.next,
            fresh_as_of: course.fresh_as_of,
        };
        for item in page.items {
            if item.body.len() > self.limits.record_bytes_max {
                answered.oversized.push(item.key);
            } else {
                answered.changes.push(change(item, feed.fetch, course.start));
            }
        }
        Ok(answered)
    }

    fn go_on(&self, feed: &FeedSpec, poll: Poll, shown: &Shown) -> Course {
        let start = poll.start.map(|start| start.0);
        let fresh_as_of = poll.bound.0;
        let rules = Rules {
            overlap: feed.overlap,
            paging: self.profile.paging,
        };
        let next = match poll.absorb(shown, rules) {
            Step::Ask(poll) => Next::Page(Resume::new(text(&poll))),
            Step::Done(state) => Next::Done(cursor(state)),
            Step::Inconclusive(reason) => Next::Inconclusive {
                reason: reason.to_owned(),
            },
        };
        Course {
            next,
            start,
            fresh_as_of,
        }
    }

    fn address(&self, feed: &FeedSpec, stand: &Stand) -> Result<Url, ConnectorError> {
        let expired = || ConnectorError::PageExpired {
            operation: operation(feed),
            status: 0,
        };
        let (from, to) = match stand {
            Stand::Fresh(plan) => (plan.lower, None),
            Stand::Running(poll) => match (&poll.target, &poll.window) {
                // A link of before base_url was changed is of no use either.
                (Some(Target::Link(link)), _) => {
                    let url = Url::parse(link)
                        .ok()
                        .filter(|url| query::same_origin(&self.exchange.base, url));
                    return url.ok_or_else(expired);
                }
                (Some(Target::Window), Some(window)) => (window.lo.map(|lo| lo.0), Some(window.hi.0)),
                (Some(Target::Window), None) | (None, _) => return Err(expired()),
            },
        };
        let search = Search {
            record_type: &feed.record_type,
            from,
            to,
            sort: &self.profile.sort,
            count: self.limits.page_count,
            ids_only: feed.fetch == FetchMode::ByRead && self.profile.ids_only,
            filter: &feed.filter,
        };
        Ok(query::search(&self.exchange.base, &search))
    }

    fn read_page(
        &self,
        feed: &FeedSpec,
        stand: &Stand,
        response: &HttpResponse,
    ) -> Result<Page, ConnectorError> {
        if response.status.as_u16() != 200 {
            let asked = match stand {
                Stand::Running(poll) if matches!(poll.target, Some(Target::Link(_))) => {
                    Asked::PageLink(&self.profile.expired_page_statuses)
                }
                Stand::Fresh(_) | Stand::Running(_) => Asked::Search,
            };
            return Err(answer::refusal(
                operation(feed),
                response,
                asked,
                self.clock.now(),
            ));
        }
        self.check_size(&operation(feed), response)?;
        bundle::page(&response.body, &feed.record_type, self.limits.json_depth_max)
            .map_err(|error| answer::unusable(operation(feed), &error))
    }

    /// Refuses an answer above the page limit.
    pub(crate) fn check_size(&self, operation: &str, response: &HttpResponse) -> Result<(), ConnectorError> {
        let limit = self.limits.page_bytes_max;
        if response.body.len() <= limit {
            return Ok(());
        }
        Err(ConnectorError::Unreadable {
            operation: operation.to_owned(),
            reason: format!("the answer exceeds the page limit of {limit} bytes"),
        })
    }

    /// The source's time at the poll's start, or a careful guess.
    pub(crate) fn source_time(&self, response: &HttpResponse) -> Timestamp {
        answer::server_time(response).unwrap_or_else(|| {
            if !self.warned_of_date.swap(true, Ordering::Relaxed) {
                tracing::warn!("source names no usable date, our clock less five minutes is used");
            }
            instant::back(self.clock.now(), UNKNOWN_DATE_MARGIN)
        })
    }

    fn shown(&self, feed: &FeedSpec, page: &Page, url: &Url) -> Result<Shown, ConnectorError> {
        let filter = match applied(feed, page, url) {
            None => Filter::Unsaid,
            Some(Applied::All) => Filter::Applied,
            Some(Applied::NotTime | Applied::NotFilter) => Filter::Ignored,
        };
        let next = page
            .next
            .as_deref()
            .map(|link| self.next_link(&operation(feed), url, link))
            .transpose()?;
        let granted = self_link(page, url)
            .as_ref()
            .and_then(query::count_of)
            .unwrap_or(u64::MAX);
        let count = granted.min(u64::from(self.limits.page_count)).max(1);
        let rows = page.items.len() as u64;
        let all = page.total.is_some_and(|total| total <= rows);
        let cut = rows >= count && !all && self.profile.full_page_without_next == FullPage::Suspect;
        Ok(Shown {
            stamps: page.items.iter().map(|item| item.last_updated).collect(),
            digest: page.items.iter().map(identity).fold(0, u64::wrapping_add),
            entries: page.entries,
            matches: page.matches as u64,
            total: page.total,
            unusable: page.unusable,
            filter,
            next,
            fill: if cut { Fill::PerhapsCut } else { Fill::Whole },
        })
    }

    /// Follows a link verbatim, but only within the source: neither records nor credentials go elsewhere.
    pub(crate) fn next_link(&self, operation: &str, url: &Url, link: &str) -> Result<String, ConnectorError> {
        let joined = url
            .join(link)
            .ok()
            .filter(|next| query::same_origin(&self.exchange.base, next));
        joined.map(String::from).ok_or_else(|| ConnectorError::Forbidden {
            operation: operation.to_owned(),
            reason: "the link to the next page leads to another origin than base_url".to_owned(),
        })
    }
}

/// What the `self` link says of the request's parameters; nothing where there is none.
fn applied(feed: &FeedSpec, page: &Page, url: &Url) -> Option<Applied> {
    let link = self_link(page, url)?;
    Some(query::applied(url, &link, &feed.filter))
}

fn self_link(page: &Page, url: &Url) -> Option<Url> {
    url.join(page.self_link.as_deref()?).ok()
}

/// A feed's first answer, where it begins now.
pub(crate) fn begin_now(feed: &FeedSpec, by: By, asked: present::Asked, shown: &Shown) -> Course {
    let (state, clocks) = present::begin(by, asked, shown);
    match clocks {
        Clocks::Settled => {}
        Clocks::Doubtful => tracing::warn!(
            feed = %feed.name,
            apart_seconds = asked.bound.duration_since(asked.ours).as_secs(),
            "the source's date and our clock differ, and no record shows which is right: the feed begins at the earlier"
        ),
    }
    Course {
        next: Next::Done(cursor(state)),
        start: Some(present::silent_below(asked.bound)),
        fresh_as_of: asked.bound,
    }
}

/// A page of which nothing is taken, and with which the poll ends.
fn nothing(reason: &str, fresh_as_of: Timestamp) -> ChangePage {
    ChangePage {
        changes: Vec::new(),
        oversized: Vec::new(),
        order: PageOrder::OldestFirst,
        next: Next::Inconclusive {
            reason: reason.to_owned(),
        },
        fresh_as_of,
    }
}

fn change(item: Item, fetch: FetchMode, start: Option<Timestamp>) -> ChangeRef {
    let silent = matches!((item.last_updated, start), (Some(stamp), Some(start)) if stamp < start);
    let carried = fetch == FetchMode::FromPage && !item.subsetted;
    ChangeRef {
        key: item.key,
        shown: ShownAs::State,
        novelty: if silent {
            Novelty::Silent
        } else {
            Novelty::Announce
        },
        version_id: item.version_id,
        last_updated: item.last_updated,
        record: carried.then(|| Record::new(item.body)),
    }
}

/// What makes a row the same row in two passes through a window.
fn identity(item: &Item) -> u64 {
    let stamp = item
        .last_updated
        .map(Stored)
        .map(String::from)
        .unwrap_or_default();
    let version = item.version_id.as_deref().unwrap_or_default();
    digest::of(&[
        item.key.id.as_str().as_bytes(),
        version.as_bytes(),
        stamp.as_bytes(),
    ])
}

fn operation(feed: &FeedSpec) -> String {
    format!("search {}", feed.record_type)
}

pub(crate) fn text(state: &impl Serialize) -> String {
    // Cannot fail for structs of instants, numbers and texts; an empty text would be refused when read.
    serde_json::to_string(state).unwrap_or_default()
}
