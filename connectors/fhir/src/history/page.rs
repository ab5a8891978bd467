//! One page of a history: asks, reads, and lets `history` say what follows.

use courier_sdk::{
    ChangePage, ChangeRef, ConnectorError, FeedSpec, FetchMode, HttpResponse, Next, Novelty, PageOrder,
    Record, Resume,
};
use jiff::Timestamp;
use url::Url;

use super::{History, Step};
use crate::answer::{self, Asked};
use crate::bundle::history::{Item, Page};
use crate::exchange::Wanted;
use crate::last_updated::present;
use crate::last_updated::{By, Doubt, Fill, Filter, First, Plan, Shown};
use crate::poll::{self, Course};
use crate::{FhirConnector, bundle, query};

/// Where the poll stands before its request.
pub(crate) enum Stand {
    Fresh(Plan),
    Running(Box<History>),
}

impl FhirConnector {
    /// Asks for one page of a type's history.
    pub(crate) async fn history_page(
        &self,
        feed: &FeedSpec,
        stand: Stand,
    ) -> Result<ChangePage, ConnectorError> {
        let operation = operation(feed);
        let url = self.history_address(feed, &stand)?;
        let bytes_max = self.limits.page_bytes_max;
        let response = self
            .exchange
            .get(&operation, url.clone(), Wanted::Search, bytes_max)
            .await
            .map_err(|error| error.of(&operation))?;
        let page = self.read_history(feed, &stand, &response)?;
        let shown = self.history_shown(feed, &page, &url)?;
        let (course, excluded) = match stand {
            Stand::Fresh(plan) => {
                let bound = self.source_time(&response);
                let poll = History::begin(&plan, bound);
                let excluded = excluded(&poll, &page);
                match (plan.first, plan.lower) {
                    (First::Now(ours), Some(lower)) => {
                        let overlap = feed.overlap;
                        let asked = present::Asked {
                            lower,
                            ours,
                            bound,
                            overlap,
                        };
                        (poll::begin_now(feed, By::History, asked, &shown), excluded)
                    }
                    (First::Now(_) | First::Known, _) => (self.history_course(feed, poll, &shown), excluded),
                }
            }
            Stand::Running(poll) => {
                let excluded = excluded(&poll, &page);
                (self.history_course(feed, *poll, &shown), excluded)
            }
        };
        Ok(self.history_changes(feed, page, course, &excluded))
    }

    fn history_course(&self, feed: &FeedSpec, poll: History, shown: &Shown) -> Course {
        let start = poll.start.map(|start| start.0);
        let fresh_as_of = poll.bound.0;
        let next = match poll.absorb(shown) {
            Step::Ask(poll) => Next::Page(Resume::new(poll::text(&poll))),
            Step::Done(state) => Next::Done(poll::cursor(state)),
            Step::Inconclusive(doubt) => {
                if doubt == Doubt::FilterIgnored {
                    // A history that cannot be narrowed is read whole at every poll: the search serves better.
                    self.refuse_history(&feed.record_type);
                }
                Next::Inconclusive {
                    reason: doubt.reason().to_owned(),
                }
            }
        };
        Course {
            next,
            start,
            fresh_as_of,
        }
    }

    fn history_changes(&self, feed: &FeedSpec, page: Page, course: Course, excluded: &[bool]) -> ChangePage {
        let mut answered = ChangePage {
            changes: Vec::new(),
            oversized: Vec::new(),
            order: PageOrder::NewestFirst,
            next: course.next,
            fresh_as_of: course.fresh_as_of,
        };
        for (item, excluded) in page.items.into_iter().zip(excluded) {
            let size = item.body.as_ref().map_or(0, bytes::Bytes::len);
            if *excluded {
                continue;
            }
            if size > self.limits.record_bytes_max {
                answered.oversized.push(item.key);
            } else {
                answered.changes.push(change(item, feed.fetch, course.start));
            }
        }
        answered
    }

    fn history_address(&self, feed: &FeedSpec, stand: &Stand) -> Result<Url, ConnectorError> {
        match stand {
            Stand::Fresh(plan) => {
                let count = self.limits.page_count;
                Ok(query::history(
                    &self.exchange.base,
                    &feed.record_type,
                    plan.lower,
                    count,
                ))
            }
            Stand::Running(poll) => {
                // A link of before base_url was changed is of no use.
                let link = poll.link.as_deref().and_then(|link| Url::parse(link).ok());
                let link = link.filter(|url| query::same_origin(&self.exchange.base, url));
                link.ok_or_else(|| ConnectorError::PageExpired {
                    operation: operation(feed),
                    status: 0,
                })
            }
        }
    }

    fn read_history(
        &self,
        feed: &FeedSpec,
        stand: &Stand,
        response: &HttpResponse,
    ) -> Result<Page, ConnectorError> {
        if response.status.as_u16() != 200 {
            let asked = match stand {
                Stand::Running(_) => Asked::PageLink(&self.profile.expired_page_statuses),
                Stand::Fresh(_) => Asked::Search,
            };
            return Err(answer::refusal(
                operation(feed),
                response,
                asked,
                self.clock.now(),
            ));
        }
        self.check_size(&operation(feed), response)?;
        bundle::history::page(&response.body, &feed.record_type, self.limits.json_depth_max)
            .map_err(|error| answer::unusable(operation(feed), &error))
    }

    fn history_shown(&self, feed: &FeedSpec, page: &Page, url: &Url) -> Result<Shown, ConnectorError> {
        let next = page.next.as_deref();
        let next = next.map(|link| self.next_link(&operation(feed), url, link));
        Ok(Shown {
            stamps: page.items.iter().map(|item| item.last_updated).collect(),
            digest: 0,
            entries: page.entries,
            matches: page.items.len() as u64,
            // Seen of helios-hfs 0.2.7: a history's `total` is its page's count.
            total: None,
            unusable: page.unusable,
            filter: Filter::Unsaid,
            next: next.transpose()?,
            fill: Fill::Whole,
        })
    }
}

fn excluded(poll: &History, page: &Page) -> Vec<bool> {
    page.items
        .iter()
        .map(|item| poll.excludes(item.last_updated))
        .collect()
}

fn change(item: Item, fetch: FetchMode, start: Option<Timestamp>) -> ChangeRef {
    let silent = matches!((item.last_updated, start), (Some(stamp), Some(start)) if stamp < start);
    let body = item.body.filter(|_| fetch == FetchMode::FromPage);
    ChangeRef {
        key: item.key,
        shown: item.shown,
        novelty: if silent {
            Novelty::Silent
        } else {
            Novelty::Announce
        },
        version_id: item.version_id,
        last_updated: item.last_updated,
        record: body.map(Record::new),
    }
}

fn operation(feed: &FeedSpec) -> String {
    format!("history {}", feed.record_type)
}
