//! One page of a history: asks, reads, and lets `history` say what follows.

use courier_sdk::{ChangePage, ConnectorError, FeedSpec, Next, PageOrder, Resume};
use jiff::Timestamp;
use url::Url;

use super::descent::Tail;
use super::{History, Step};
use crate::answer::{self, Asked};
use crate::bundle::history::Page;
use crate::cursor::By;
use crate::last_updated::{Doubt, Fill, Filter, Plan, Shown};
use crate::poll::{self, Stand, UnderWay};
use crate::portion::{Least, Portion};
use crate::{FhirConnector, bundle, query};

impl UnderWay for History {
    const BY: By = By::History;

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
    /// Asks for one page of a type's history.
    pub(crate) async fn history_page(
        &self,
        feed: &FeedSpec,
        stand: Stand<History>,
    ) -> Result<ChangePage, ConnectorError> {
        let operation = operation(feed);
        let (url, asked) = match &stand {
            Stand::Fresh(plan) => {
                // A history cannot be asked for ids.
                let count = match self.portion(feed) {
                    Portion::Records(count) => count,
                    Portion::Ids => 1,
                };
                let url = query::history(&self.exchange.base, &feed.record_type, plan.lower, count);
                (url, Asked::Search)
            }
            Stand::Running(poll) => (
                self.kept_link(&operation, poll.link.as_deref())?,
                Asked::PageLink(&self.profile.expired_page_statuses),
            ),
        };
        let least = Least::OneRecord;
        let response = self
            .ask_page(feed, &operation, (url.clone(), asked), least)
            .await?;
        let page = bundle::history::page(&response.body, &feed.record_type, self.limits.json_depth_max)
            .map_err(|error| answer::unusable(operation, &error))?;
        let shown = self.history_shown(feed, &page, &url)?;
        let (tail, lower) = match &stand {
            Stand::Fresh(plan) => (Tail::default(), plan.lower),
            Stand::Running(poll) => (poll.tail, poll.lower.map(|lower| lower.0)),
        };
        let rows = page.items.len();
        let asked_for = rows - tail.after(&shown.stamps, lower).left_out(rows);
        let course = self.course(feed, stand, (&response, &shown), |poll| {
            self.after(feed, poll, &shown)
        });
        let versions = page.items.into_iter().take(asked_for);
        Ok(self.handed_over(feed, PageOrder::NewestFirst, course, (versions, page.unusable)))
    }

    fn after(&self, feed: &FeedSpec, poll: History, shown: &Shown) -> Next {
        match poll.absorb(shown) {
            Step::Ask(poll) => Next::Page(Resume::new(poll::text(&poll))),
            Step::Done(state) => Next::Done(poll::cursor(&state)),
            Step::Inconclusive(doubt) => {
                if doubt == Doubt::FilterIgnored {
                    // Neither narrowed nor in order, it would be read whole at every poll: the search serves better.
                    self.refuse_history(&feed.record_type);
                }
                Next::Inconclusive {
                    reason: doubt.reason().to_owned(),
                }
            }
        }
    }

    fn history_shown(&self, feed: &FeedSpec, page: &Page, url: &Url) -> Result<Shown, ConnectorError> {
        Ok(Shown {
            stamps: page.items.iter().map(|item| item.last_updated).collect(),
            digest: 0,
            entries: page.entries,
            matches: page.items.len() as u64,
            // Seen of helios-hfs 0.2.7: a history's `total` is its page's count.
            total: None,
            filter: Filter::Unsaid,
            next: self.next_link(&operation(feed), url, page.next.as_deref())?,
            fill: Fill::Whole,
        })
    }
}

fn operation(feed: &FeedSpec) -> String {
    format!("history {}", feed.record_type)
}
