//! One page of a search: asks, reads, and lets `last_updated` say what follows.

use courier_sdk::{
    ChangePage, ConnectorError, FeedSpec, FetchMode, HttpResponse, Include, Next, PageOrder, Resume,
    Shown as ShownAs,
};
use jiff::Timestamp;
use url::Url;

use super::{Doubt, Fill, Filter, Plan, Poll, Rules, Shown, Step, Target, past};
use crate::answer::{self, Asked};
use crate::bundle::{self, Item, Page, Row};
use crate::cursor::By;
use crate::instant::Stored;
use crate::poll::{self, Course, Stand, UnderWay};
use crate::portion::Portion;
use crate::profile::FullPage;
use crate::query::{Applied, Search};
use crate::{FhirConnector, digest, query};

/// Why a page is not handed over: its records need not be the feed's.
const WHERE_IGNORED: &str =
    "the source ignored a parameter of the feed's where, so that nothing was taken from it";

impl UnderWay for Poll {
    const BY: By = By::LastUpdated;

    fn begin(plan: &Plan, bound: Timestamp) -> Self {
        Self::begin(plan, bound)
    }

    fn bound(&self) -> Timestamp {
        self.bound.0
    }

    fn start(&self) -> Option<Timestamp> {
        self.start.map(|start| start.0)
    }
}

impl FhirConnector {
    /// Asks for one page of a search; once more without context, where the source will not have it come along.
    pub(crate) async fn search_page(
        &self,
        feed: &FeedSpec,
        stand: Stand<Poll>,
    ) -> Result<ChangePage, ConnectorError> {
        let include = self.includes(feed, &stand);
        if !include.is_empty() {
            match self.search_page_with(feed, stand.clone(), include).await {
                Err(ConnectorError::Refused { .. }) => self.note_not_included(feed),
                other => return other,
            }
        }
        self.search_page_with(feed, stand, &[]).await
    }

    async fn search_page_with(
        &self,
        feed: &FeedSpec,
        stand: Stand<Poll>,
        include: &[Include],
    ) -> Result<ChangePage, ConnectorError> {
        let operation = operation(feed);
        let url = self.search_address(feed, &stand, include)?;
        let shortened = self.is_shortened(feed, &stand);
        let asked = match &stand {
            Stand::Running(poll) if matches!(poll.target, Some(Target::Link(_))) => {
                Asked::PageLink(&self.profile.expired_page_statuses)
            }
            Stand::Fresh(_) | Stand::Running(_) => Asked::Search,
        };
        let least = self.least_searched(feed);
        let response = self
            .ask_page(feed, &operation, (url.clone(), asked), least)
            .await?;
        let mut page = bundle::page(&response.body, &feed.record_type, self.limits.json_depth_max)
            .map_err(|error| answer::unusable(operation.clone(), &error))?;
        if !include.is_empty() {
            if page.unmarked > 0 {
                return Err(ConnectorError::Refused {
                    operation,
                    status: response.status.as_u16(),
                    reason: "entries do not say whether they were matched or included".to_owned(),
                });
            }
            self.judge_included(feed, &page, &url);
        }
        let included = self.came_along(&mut page);
        if applied(feed, &page, &url) == Some(Applied::NotFilter) {
            return Ok(self.nothing(feed, &stand, &response));
        }
        let shown = self.search_shown(feed, &page, &url)?;
        let course = self.course(feed, stand, (&response, &shown), |poll: Poll| {
            let poll = Poll { shortened, ..poll };
            let rules = Rules {
                overlap: feed.overlap,
                paging: self.profile.paging,
                precision: self.profile.granularity.precision(),
                count: self.count_asked(&url),
                usual_count: self.limits.page_count,
            };
            match poll.absorb(&shown, rules) {
                Step::Ask(poll) => Next::Page(Resume::new(poll::text(&poll))),
                Step::Done(state) => Next::Done(poll::cursor(&state.gone_on_by(self.goes_on(feed)))),
                Step::Inconclusive(doubt) => {
                    if doubt == Doubt::FilterIgnored && shown.filter == Filter::Ignored {
                        self.note_ignored(&feed.record_type);
                    }
                    Next::Inconclusive {
                        reason: doubt.reason().to_owned(),
                    }
                }
            }
        });
        let rows = page.items.into_iter();
        let rows = rows.map(|item| row(item, shortened));
        Ok(ChangePage {
            included,
            ..self.handed_over(feed, PageOrder::OldestFirst, course, (rows, page.unusable))
        })
    }

    /// Whether the answer holds ids instead of records: a link asks as the request did that it came from.
    fn is_shortened(&self, feed: &FeedSpec, stand: &Stand<Poll>) -> bool {
        match stand {
            Stand::Running(poll) if matches!(poll.target, Some(Target::Link(_))) => poll.shortened,
            Stand::Fresh(_) | Stand::Running(_) => self.portion(feed) == Portion::Ids,
        }
    }

    /// A page of which nothing is taken, and with which the poll ends.
    fn nothing(&self, feed: &FeedSpec, stand: &Stand<Poll>, response: &HttpResponse) -> ChangePage {
        let fresh_as_of = match stand {
            Stand::Fresh(_) => self.source_time(response),
            Stand::Running(poll) => poll.bound.0,
        };
        let course = Course {
            next: Next::Inconclusive {
                reason: WHERE_IGNORED.to_owned(),
            },
            start: None,
            fresh_as_of,
        };
        self.handed_over(feed, PageOrder::OldestFirst, course, ([], Vec::new()))
    }

    fn search_address(
        &self,
        feed: &FeedSpec,
        stand: &Stand<Poll>,
        include: &[Include],
    ) -> Result<Url, ConnectorError> {
        let mut own_count = None;
        let (from, to) = match stand {
            Stand::Fresh(plan) => (plan.lower, plan.upper),
            Stand::Running(poll) => match (&poll.target, &poll.window) {
                (Some(Target::Link(link)), _) => return self.kept_link(&operation(feed), Some(link)),
                (Some(Target::Window), Some(window)) => (window.lo.map(|lo| lo.0), Some(window.hi.0)),
                (Some(Target::Rest), _) => {
                    let (from, count) = poll.rest_asked();
                    own_count = count;
                    (from, poll.upper())
                }
                (Some(Target::Window), None) | (None, _) => return self.kept_link(&operation(feed), None),
            },
        };
        let (count, ids_only) = match self.portion(feed) {
            Portion::Records(count) => (count, feed.fetch == FetchMode::ByRead),
            Portion::Ids => (self.limits.page_count, true),
        };
        let count = count.min(past::page_max(feed, ids_only));
        let search = Search {
            record_type: &feed.record_type,
            from,
            to,
            sort: &self.profile.sort,
            count: own_count.unwrap_or(count),
            ids_only: ids_only && self.profile.ids_only,
            filter: &feed.filter,
            include,
            cut: self.profile.granularity,
        };
        Ok(query::search(&self.exchange.base, &search))
    }

    /// How many matches an address asks for. A link that the source gave need not say it.
    pub(crate) fn count_asked(&self, url: &Url) -> u32 {
        let asked = query::count_of(url).and_then(|count| u32::try_from(count).ok());
        asked.unwrap_or(self.limits.page_count)
    }

    /// Whether a page without a `next` link could have been cut.
    pub(crate) fn fill(&self, page: &Page, url: &Url) -> Fill {
        let asked = u64::from(self.count_asked(url));
        let granted = self_link(page, url).as_ref().and_then(query::count_of);
        let count = granted.unwrap_or(u64::MAX).min(asked).max(1);
        let matches = page.matches as u64;
        let all = page.total.is_some_and(|total| total <= matches);
        if matches >= count && !all && self.profile.full_page_without_next == FullPage::Suspect {
            Fill::PerhapsCut
        } else {
            Fill::Whole
        }
    }

    fn search_shown(&self, feed: &FeedSpec, page: &Page, url: &Url) -> Result<Shown, ConnectorError> {
        let filter = match applied(feed, page, url) {
            None => Filter::Unsaid,
            Some(Applied::All) => Filter::Applied,
            Some(Applied::NotTime | Applied::NotFilter) => Filter::Ignored,
        };
        Ok(Shown {
            stamps: page.items.iter().map(|item| item.last_updated).collect(),
            digest: page.items.iter().map(identity).fold(0, u64::wrapping_add),
            entries: page.entries,
            matches: page.matches as u64,
            total: page.total,
            filter,
            next: self.next_link(&operation(feed), url, page.next.as_deref())?,
            fill: self.fill(page, url),
        })
    }
}

/// What the `self` link says of the request's parameters; nothing where there is none.
fn applied(feed: &FeedSpec, page: &Page, url: &Url) -> Option<Applied> {
    let link = self_link(page, url)?;
    Some(query::applied(url, &link, &feed.filter))
}

/// The address that the answer says it was made for.
pub(crate) fn self_link(page: &Page, url: &Url) -> Option<Url> {
    url.join(page.self_link.as_deref()?).ok()
}

/// Whether the poll under way was asked for ids instead of records.
/// A record that may have been `shortened` is not carried, whether or not the source says so.
fn row(item: Item, shortened: bool) -> Row {
    Row {
        key: item.key,
        shown: ShownAs::State,
        version_id: item.version_id,
        last_updated: item.last_updated,
        body: (!item.subsetted && !shortened).then_some(item.body),
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
