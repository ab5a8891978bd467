//! What both ways of finding changes do alike with one page: ask for it, begin a feed with it, hand it over.
//!
//! What follows after a page is `last_updated`'s and `history`'s to say.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use courier_sdk::{
    Aim, ChangePage, ChangeRef, ConnectorError, Cursor, FeedSpec, FetchMode, HttpError, HttpResponse, Next,
    Novelty, PageOrder, Record, Start,
};
use jiff::Timestamp;
use serde::Serialize;
use url::Url;

use crate::answer::{self, Asked};
use crate::bundle::Row;
use crate::cursor::{By, CursorState};
use crate::exchange::{NoAnswer, Wanted};
use crate::instant;
use crate::last_updated::present::{self, Clocks};
use crate::last_updated::{First, Plan, Shown};
use crate::portion::Least;
use crate::profile::Cut;
use crate::{FhirConnector, query};

/// How far behind our own clock the source's time is put where it names none: more than clocks of kept
/// machines differ.
const UNKNOWN_DATE_MARGIN: Duration = Duration::from_mins(5);

/// A poll under way, by one of the two ways.
pub(crate) trait UnderWay {
    const BY: By;

    /// Begins with the first answer; `bound` is the source's time at that moment.
    fn begin(plan: &Plan, bound: Timestamp) -> Self;

    /// The source's time at the beginning.
    fn bound(&self) -> Timestamp;

    /// Where the feed begins.
    fn start(&self) -> Option<Timestamp>;
}

/// Where the poll stands before its request.
#[derive(Clone)]
pub(crate) enum Stand<P> {
    Fresh(Plan),
    Running(Box<P>),
}

/// What follows after a page, and which of its rows are silent.
pub(crate) struct Course {
    pub(crate) next: Next,
    /// Rows stamped before this instant are silent.
    pub(crate) start: Option<Timestamp>,
    pub(crate) fresh_as_of: Timestamp,
}

pub(crate) fn cursor(state: &CursorState) -> Cursor {
    Cursor::new(text(state))
}

impl FhirConnector {
    /// Asks for a page. Whatever is no page is an error.
    pub(crate) async fn ask_page(
        &self,
        feed: &FeedSpec,
        operation: &str,
        (url, asked): (Url, Asked<'_>),
        least: Least,
    ) -> Result<HttpResponse, ConnectorError> {
        let response = self.ask_any(feed, operation, (url, asked), least).await?;
        if response.status.as_u16() != 200 {
            let operation = operation.to_owned();
            return Err(answer::refusal(operation, &response, asked, self.clock.now()));
        }
        Ok(response)
    }

    /// Asks for a page, and answers a refusal too. What is too large for one is an error.
    pub(crate) async fn ask_any(
        &self,
        feed: &FeedSpec,
        operation: &str,
        (url, asked): (Url, Asked<'_>),
        least: Least,
    ) -> Result<HttpResponse, ConnectorError> {
        let limit = self.limits.page_bytes_max;
        let answer = self.exchange.get(operation, url, Wanted::Search, limit).await;
        let operation = operation.to_owned();
        let response = match answer {
            Err(NoAnswer::Broken(HttpError::TooLarge { .. })) => {
                return Err(self.too_large(feed, &operation, asked, least));
            }
            Err(error @ (NoAnswer::Broken(_) | NoAnswer::NotSent(_))) => return Err(error.of(&operation)),
            Ok(response) => response,
        };
        if response.status.as_u16() == 200 {
            if response.body.len() > limit {
                return Err(self.too_large(feed, &operation, asked, least));
            }
            self.page_fits(feed);
        }
        Ok(response)
    }

    /// Takes a page into its poll, or begins the feed with it; `absorb` says what follows.
    pub(crate) fn course<P: UnderWay>(
        &self,
        feed: &FeedSpec,
        stand: Stand<P>,
        (response, shown): (&HttpResponse, &Shown),
        absorb: impl FnOnce(P) -> Next,
    ) -> Course {
        let poll = match stand {
            Stand::Running(poll) => *poll,
            Stand::Fresh(plan) => {
                let bound = self.source_time(response);
                if let (First::Now(ours), Some(lower)) = (plan.first, plan.lower) {
                    let overlap = feed.overlap;
                    let asked = present::Asked {
                        lower,
                        ours,
                        bound,
                        overlap,
                    };
                    return begin_now(feed, self.profile.granularity, (P::BY, asked), shown);
                }
                P::begin(&plan, bound)
            }
        };
        let (start, fresh_as_of) = (poll.start(), poll.bound());
        Course {
            next: absorb(poll),
            start,
            fresh_as_of,
        }
    }

    /// Hands a page's versions over.
    pub(crate) fn handed_over(
        &self,
        feed: &FeedSpec,
        order: PageOrder,
        course: Course,
        (rows, unusable): (impl IntoIterator<Item = Row>, Vec<usize>),
    ) -> ChangePage {
        if !matches!(course.next, Next::Page(_)) {
            self.poll_has_ended(feed);
        }
        let mut answered = ChangePage {
            changes: Vec::new(),
            oversized: Vec::new(),
            unusable,
            listed: None,
            included: BTreeMap::new(),
            order,
            next: course.next,
            fresh_as_of: course.fresh_as_of,
        };
        for row in rows {
            let size = row.body.as_ref().map_or(0, bytes::Bytes::len);
            if size > self.limits.record_bytes_max {
                answered.oversized.push(row.key);
            } else {
                answered.changes.push(change(row, feed.fetch, course.start));
            }
        }
        answered
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

    /// The address behind a page link that was kept. A link of before `base_url` was changed is of no use.
    pub(crate) fn kept_link(&self, operation: &str, link: Option<&str>) -> Result<Url, ConnectorError> {
        let url = link.and_then(|link| Url::parse(link).ok());
        let url = url.filter(|url| query::same_origin(&self.exchange.base, url));
        url.ok_or_else(|| ConnectorError::PageExpired {
            operation: operation.to_owned(),
            status: 0,
        })
    }

    /// Follows a link verbatim, but only within the source: neither records nor credentials go elsewhere.
    pub(crate) fn next_link(
        &self,
        operation: &str,
        url: &Url,
        link: Option<&str>,
    ) -> Result<Option<String>, ConnectorError> {
        let Some(link) = link else { return Ok(None) };
        let joined = url.join(link).ok();
        let within = joined.filter(|next| query::same_origin(&self.exchange.base, next));
        let within = within.ok_or_else(|| ConnectorError::Forbidden {
            operation: operation.to_owned(),
            reason: "the link to the next page leads to another origin than base_url".to_owned(),
        })?;
        Ok(Some(within.into()))
    }
}

/// A feed's first answer, where it begins now.
fn begin_now(feed: &FeedSpec, cut: Cut, (by, asked): (By, present::Asked), shown: &Shown) -> Course {
    let (state, clocks) = present::begin(by, asked, shown);
    match clocks {
        Clocks::Settled => {}
        Clocks::Doubtful => tracing::warn!(
            feed = %feed.name,
            apart_seconds = asked.bound.duration_since(asked.ours).as_secs(),
            "the source's date and our clock differ, and no record shows which is right: the feed begins at the earlier"
        ),
    }
    let (state, silent_below) = match (feed.scope.aim, feed.start) {
        // What lies before is told too, by a backfill: nothing of it may be silent.
        (Aim::Present, Start::Beginning | Start::Now) => (state.since(None), None),
        (Aim::Present, Start::At(start)) => (state.since(Some(start)), Some(start)),
        (Aim::Changes | Aim::Past { .. } | Aim::Everything, _) => {
            (state.starting_by(cut), Some(present::silent_below(asked.bound)))
        }
    };
    Course {
        next: Next::Done(cursor(&state)),
        start: silent_below,
        fresh_as_of: asked.bound,
    }
}

fn change(row: Row, fetch: FetchMode, start: Option<Timestamp>) -> ChangeRef {
    let silent = matches!((row.last_updated, start), (Some(stamp), Some(start)) if stamp < start);
    let body = row.body.filter(|_| fetch == FetchMode::FromPage);
    ChangeRef {
        key: row.key,
        shown: row.shown,
        novelty: if silent {
            Novelty::Silent
        } else {
            Novelty::Announce
        },
        version_id: row.version_id,
        last_updated: row.last_updated,
        record: body.map(Record::new),
    }
}

pub(crate) fn text(state: &impl Serialize) -> String {
    // Cannot fail for structs of instants, numbers and texts; an empty text would be refused when read.
    serde_json::to_string(state).unwrap_or_default()
}
