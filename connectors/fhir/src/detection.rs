//! Which way a feed's changes are found: what the configuration asks for, what the server says that it offers, and
//! what it turned out to do.
//!
//! It guarantees that no choice moves a cursor: both ways go on from the same one. What a server says of itself is
//! read once and again each day. Where it cannot be read, what it said before holds; where it said nothing yet, a
//! cursor that a history moved is gone on from by the history, and any other by the search, which every server has.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use courier_sdk::{
    ChangePage, ConnectorError, DeleteSight, Detect, Detection, FeedSpec, FetchMode, Granularity, PageOrder,
    PollRequest, RecordType, Start, Strategy,
};
use jiff::Timestamp;

use crate::answer::{self, Asked};
use crate::exchange::Wanted;
use crate::history::History;
use crate::last_updated::{self, By, CursorState, Poll};
use crate::poll::Stand;
use crate::{FhirConnector, capability, query};

/// Servers are upgraded now and then; a day is soon enough to use what they then offer.
const STATEMENT_AGE_MAX: Duration = Duration::from_hours(24);

/// A statement that could not be read is asked for again after this.
const STATEMENT_RETRY: Duration = Duration::from_mins(5);

/// The largest statement: those of full servers have 2 to 6 MiB.
const STATEMENT_BYTES_MAX: usize = 16 << 20;

/// What is known of the server's histories. A cache: nothing but requests depends on it.
#[derive(Debug, Default)]
pub(crate) struct Histories {
    read: Option<Statement>,
    /// Since the statement was read.
    failed: Option<Failure>,
    /// Types whose history was refused or proved unusable since the statement was read.
    refused: BTreeSet<RecordType>,
}

#[derive(Debug)]
struct Statement {
    at: Timestamp,
    /// The types with a history.
    offered: BTreeSet<String>,
}

/// The last time that the statement could not be read.
#[derive(Debug)]
struct Failure {
    at: Timestamp,
    reason: String,
}

impl Histories {
    /// Whether the statement is to be asked for.
    fn is_due(&self, now: Timestamp) -> bool {
        let within = |at: Timestamp, keep: Duration| now.duration_since(at).unsigned_abs() < keep;
        let read = self.read.as_ref().map(|read| within(read.at, STATEMENT_AGE_MAX));
        let failed = self
            .failed
            .as_ref()
            .map(|failed| within(failed.at, STATEMENT_RETRY));
        read != Some(true) && failed != Some(true)
    }

    fn offer(&self, record_type: &RecordType) -> Offer {
        let offered = self
            .read
            .as_ref()
            .map(|read| read.offered.contains(record_type.as_str()));
        match offered {
            Some(false) => Offer::NoHistory,
            Some(true) | None if self.refused.contains(record_type) => Offer::Refused,
            Some(true) => Offer::History,
            None => Offer::Unknown(
                self.failed
                    .as_ref()
                    .map_or_else(String::new, |it| it.reason.clone()),
            ),
        }
    }
}

/// What the server offers of a type, as far as the choice depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Offer {
    History,
    NoHistory,
    /// It says that it offers one, and does not serve it.
    Refused,
    /// It could not be asked.
    Unknown(String),
}

impl FhirConnector {
    /// Asks for one page of a feed's poll, the way that was begun or is to be begun.
    pub(crate) async fn poll_page(&self, request: PollRequest<'_>) -> Result<ChangePage, ConnectorError> {
        let feed = request.feed;
        let operation = format!("poll {}", feed.record_type);
        if let Some(resume) = request.resume {
            if let Some(poll) = History::parse(resume.as_str()) {
                return self.history_page(feed, Stand::Running(Box::new(poll))).await;
            }
            // Written by another release of the courier: the poll begins again, which loses nothing.
            let poll =
                Poll::parse(resume.as_str()).ok_or(ConnectorError::PageExpired { operation, status: 0 })?;
            return self.search_page(feed, Stand::Running(Box::new(poll))).await;
        }
        let cursor = request.cursor.map(|cursor| {
            // A cursor is never guessed: to begin anew would lose or repeat.
            CursorState::parse(cursor.as_str()).ok_or_else(|| ConnectorError::Forbidden {
                operation,
                reason: "the stored cursor is of a form that this release does not know".to_owned(),
            })
        });
        let cursor = cursor.transpose()?;
        let plan = last_updated::plan(feed, cursor, self.clock.now());
        let (strategy, _) = self.strategy(feed, cursor).await?;
        tell_of_change(feed, cursor, strategy);
        if strategy != Strategy::History {
            return self.search_page(feed, Stand::Fresh(plan)).await;
        }
        match self.history_page(feed, Stand::Fresh(plan)).await {
            Err(error @ ConnectorError::Refused { .. }) if feed.detect == Detect::Auto => {
                tracing::warn!(
                    feed = %feed.name, %error,
                    "the server says that it offers this history and refuses it: changes are searched for"
                );
                self.refuse_history(&feed.record_type);
                self.search_page(feed, Stand::Fresh(plan)).await
            }
            other => other,
        }
    }

    /// Says how a feed's changes are found, and asks for its first page, of which nothing is kept.
    pub(crate) async fn detect(&self, feed: &FeedSpec) -> Result<Detection, ConnectorError> {
        // Where a feed begins says nothing of how it goes on: a baseline is always searched for.
        let feed = &FeedSpec {
            start: Start::Now,
            ..feed.clone()
        };
        let request = PollRequest {
            feed,
            cursor: None,
            resume: None,
        };
        self.poll_page(request).await?;
        let (strategy, why) = self.strategy(feed, None).await?;
        Ok(match strategy {
            Strategy::History => by_history(why),
            Strategy::LastUpdated | Strategy::Window | Strategy::Roster | Strategy::Read => {
                by_last_updated(feed, why)
            }
        })
    }

    /// Notes that a type's history is of no use; forgotten when the server's statement is read again.
    pub(crate) fn refuse_history(&self, record_type: &RecordType) {
        self.histories().refused.insert(record_type.clone());
    }

    async fn strategy(
        &self,
        feed: &FeedSpec,
        cursor: Option<CursorState>,
    ) -> Result<(Strategy, String), ConnectorError> {
        let undecided = feed.detect == Detect::Auto && feed.filter.is_empty() && self.profile.trust_history;
        let offer = if undecided {
            self.offer(&feed.record_type).await?
        } else {
            Offer::NoHistory
        };
        if cursor.is_none() && feed.start == Start::Beginning {
            let why = "a baseline is the current state".to_owned();
            return Ok((Strategy::LastUpdated, why));
        }
        let moved = cursor.map(|cursor| cursor.by);
        Ok(choose(feed, self.profile.trust_history, offer, moved))
    }

    /// Which way goes on from where a search ended. It is kept with the cursor, so that a statement that cannot be read
    /// for a while turns no history into a search.
    pub(crate) fn goes_on(&self, feed: &FeedSpec) -> By {
        let told = self.profile.trust_history
            && feed.filter.is_empty()
            && self.histories().offer(&feed.record_type) == Offer::History;
        if told { By::History } else { By::LastUpdated }
    }

    /// What the server offers of a type.
    ///
    /// # Errors
    /// [`ConnectorError::Throttled`] when it was asked and wants to be left alone; any other failure is an answer.
    async fn offer(&self, record_type: &RecordType) -> Result<Offer, ConnectorError> {
        let now = self.clock.now();
        let due = self.histories().is_due(now);
        let throttled = if due { self.read_statement(now).await } else { None };
        match throttled {
            Some(error) => Err(error),
            None => Ok(self.histories().offer(record_type)),
        }
    }

    /// Asks for the statement and notes what came of it; answers a throttling, which is the whole connection's.
    async fn read_statement(&self, now: Timestamp) -> Option<ConnectorError> {
        let answer = self.ask_statement().await;
        let mut histories = self.histories();
        match answer {
            Ok(offered) => {
                *histories = Histories {
                    read: Some(Statement { at: now, offered }),
                    ..Histories::default()
                };
                None
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::warn!(
                    reason,
                    "the server's CapabilityStatement could not be read: what is known of its histories stays"
                );
                histories.failed = Some(Failure { at: now, reason });
                matches!(error, ConnectorError::Throttled { .. }).then_some(error)
            }
        }
    }

    fn histories(&self) -> MutexGuard<'_, Histories> {
        self.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_statement(&self) -> Result<BTreeSet<String>, ConnectorError> {
        let operation = "read metadata";
        let url = query::metadata(&self.exchange.base);
        let asked = self
            .exchange
            .get(operation, url, Wanted::Record, STATEMENT_BYTES_MAX);
        let response = asked.await.map_err(|error| error.of(operation))?;
        if response.status.as_u16() != 200 {
            let operation = operation.to_owned();
            return Err(answer::refusal(
                operation,
                &response,
                Asked::Read,
                self.clock.now(),
            ));
        }
        capability::with_history(&response.body, self.limits.json_depth_max)
            .map_err(|error| answer::unusable(operation.to_owned(), &error))
    }
}

/// Chooses; the text says why, for an operator. `moved` says which way moved the cursor.
fn choose(feed: &FeedSpec, trusted: bool, offer: Offer, moved: Option<By>) -> (Strategy, String) {
    let search = |why: &str| (Strategy::LastUpdated, why.to_owned());
    match (feed.detect, offer) {
        (Detect::LastUpdated | Detect::Window | Detect::Roster | Detect::Read, _) => {
            search("the configuration asks for it")
        }
        (Detect::History, _) => (Strategy::History, "the configuration asks for it".to_owned()),
        (Detect::Auto, _) if !feed.filter.is_empty() => {
            search("a history cannot be narrowed by the feed's where")
        }
        (Detect::Auto, _) if !trusted => search("the profile does not trust this kind of server's history"),
        (Detect::Auto, Offer::History) => {
            let why = format!("the server offers a history of {}", feed.record_type);
            (Strategy::History, why)
        }
        (Detect::Auto, Offer::NoHistory) => search("the server offers no history of this type"),
        (Detect::Auto, Offer::Refused) => {
            search("the server says that it offers a history, but does not serve it")
        }
        // A search would leave out deletes and overwritten versions; if the history is gone, it says so itself.
        (Detect::Auto, Offer::Unknown(reason)) if moved == Some(By::History) => {
            let why = format!("the CapabilityStatement could not be read ({reason}), the history could");
            (Strategy::History, why)
        }
        (Detect::Auto, Offer::Unknown(reason)) => search(&format!(
            "the server's CapabilityStatement could not be read ({reason})"
        )),
    }
}

fn tell_of_change(feed: &FeedSpec, cursor: Option<CursorState>, strategy: Strategy) {
    let before = match cursor.map(|cursor| cursor.by) {
        Some(By::History) => Strategy::History,
        Some(By::LastUpdated) => Strategy::LastUpdated,
        None => return,
    };
    if before != strategy {
        tracing::info!(
            feed = %feed.name, before = before.as_str(), now = strategy.as_str(),
            "the feed's changes are found another way; its cursor stays"
        );
    }
}

fn by_history(why: String) -> Detection {
    Detection {
        strategy: Strategy::History,
        why,
        granularity: Granularity::Fraction,
        order: PageOrder::NewestFirst,
        deletes: DeleteSight::Listed,
        blind_spots: vec!["versions that the server removes from its history before they are polled"],
    }
}

fn by_last_updated(feed: &FeedSpec, why: String) -> Detection {
    let mut blind_spots = vec!["versions that are overwritten between two polls"];
    let deletes = match feed.fetch {
        FetchMode::ByRead => {
            blind_spots.push("deletes, but for those that fall between a search and its read");
            DeleteSight::OnRead
        }
        FetchMode::FromPage => {
            blind_spots.push("deletes");
            DeleteSight::Unseen
        }
    };
    if !feed.filter.is_empty() {
        blind_spots.push("records that no longer match the feed's where");
    }
    Detection {
        strategy: Strategy::LastUpdated,
        why,
        granularity: Granularity::Fraction,
        order: PageOrder::OldestFirst,
        deletes,
        blind_spots,
    }
}

#[cfg(test)]
mod tests {
    use courier_sdk::{FeedName, Scope};

    use super::*;

    fn feed(detect: Detect, filter: &str) -> FeedSpec {
        FeedSpec {
            name: FeedName::parse("a").unwrap(),
            record_type: RecordType::parse("Appointment").unwrap(),
            filter: filter.to_owned(),
            start: Start::Now,
            overlap: Duration::from_mins(5),
            fetch: FetchMode::FromPage,
            detect,
            include: Vec::new(),
            scope: Scope::default(),
        }
    }

    #[test]
    fn the_best_that_is_offered_is_chosen_unless_the_configuration_says_otherwise() {
        let unknown = || Offer::Unknown("status 500".to_owned());
        let (history, search) = (Strategy::History, Strategy::LastUpdated);
        let rows = [
            (Detect::Auto, "", true, Offer::History, None, history),
            (
                Detect::Auto,
                "",
                true,
                Offer::History,
                Some(By::LastUpdated),
                history,
            ),
            (
                Detect::Auto,
                "",
                true,
                Offer::NoHistory,
                Some(By::History),
                search,
            ),
            (Detect::Auto, "", true, Offer::Refused, Some(By::History), search),
            (Detect::Auto, "", true, unknown(), None, search),
            (Detect::Auto, "", true, unknown(), Some(By::LastUpdated), search),
            (Detect::Auto, "", true, unknown(), Some(By::History), history),
            (Detect::Auto, "", false, Offer::History, Some(By::History), search),
            (Detect::Auto, "status=booked", true, Offer::History, None, search),
            (Detect::History, "", false, unknown(), None, history),
            (
                Detect::LastUpdated,
                "",
                true,
                Offer::History,
                Some(By::History),
                search,
            ),
        ];
        for (detect, filter, trusted, offer, moved, expected) in rows {
            let (strategy, why) = choose(&feed(detect, filter), trusted, offer.clone(), moved);
            assert_eq!(
                strategy, expected,
                "{detect:?} {filter} {trusted} {offer:?} {moved:?}"
            );
            assert!(!why.is_empty());
        }
    }

    #[test]
    fn a_statement_is_believed_for_a_day_and_a_failure_for_five_minutes() {
        let after = |seconds: i64| Timestamp::from_second(1_700_000_000 + seconds).unwrap();
        let good = Histories {
            read: Some(Statement {
                at: after(0),
                offered: BTreeSet::new(),
            }),
            ..Histories::default()
        };
        let bad = Histories {
            failed: Some(Failure {
                at: after(0),
                reason: "status 500".to_owned(),
            }),
            ..Histories::default()
        };
        assert!(Histories::default().is_due(after(0)));
        let rows = [
            (0, false, false),
            (299, false, false),
            (300, false, true),
            (86_399, false, true),
            (86_400, true, true),
        ];
        for (seconds, of_good, of_bad) in rows {
            let found = (good.is_due(after(seconds)), bad.is_due(after(seconds)));
            assert_eq!(found, (of_good, of_bad), "{seconds}");
        }
        // A clock that was set back by a year does not keep a statement for a year.
        assert!(good.is_due(after(-31_000_000)));
    }
}
