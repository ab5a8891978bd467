//! Which way a feed's changes are found: what the configuration asks for, what the server says that it offers, and
//! what it turned out to do.
//!
//! It guarantees that no choice moves a cursor: both ways go on from the same one. What a server says of itself is
//! read once and again each day; where it cannot be read the search serves, which every server has.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use courier_sdk::{
    ChangePage, ConnectorError, DeleteSight, Detect, Detection, FeedSpec, FetchMode, PageOrder, PollRequest,
    RecordType, Start, Strategy,
};
use jiff::Timestamp;

use crate::answer::{self, Asked};
use crate::exchange::Wanted;
use crate::history::{self, History};
use crate::last_updated::{self, By, CursorState, Poll};
use crate::{FhirConnector, capability, poll, query};

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
    /// Types whose history was refused or proved unusable since the statement was read.
    refused: BTreeSet<RecordType>,
}

#[derive(Debug, Clone)]
struct Statement {
    at: Timestamp,
    /// The types with a history, or why that is not known.
    offered: Result<BTreeSet<String>, String>,
}

impl Statement {
    fn is_fresh(&self, now: Timestamp) -> bool {
        let keep = match self.offered {
            Ok(_) => STATEMENT_AGE_MAX,
            Err(_) => STATEMENT_RETRY,
        };
        now.duration_since(self.at).unsigned_abs() < keep
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
                return self
                    .history_page(feed, history::page::Stand::Running(Box::new(poll)))
                    .await;
            }
            // Written by another release of the courier: the poll begins again, which loses nothing.
            let poll =
                Poll::parse(resume.as_str()).ok_or(ConnectorError::PageExpired { operation, status: 0 })?;
            return self.search_page(feed, poll::Stand::Running(Box::new(poll))).await;
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
        let (strategy, _) = self.strategy(feed, cursor).await;
        tell_of_change(feed, cursor, strategy);
        if strategy == Strategy::LastUpdated {
            return self.search_page(feed, poll::Stand::Fresh(plan)).await;
        }
        match self.history_page(feed, history::page::Stand::Fresh(plan)).await {
            Err(error @ ConnectorError::Refused { .. }) if feed.detect == Detect::Auto => {
                tracing::warn!(
                    feed = %feed.name, %error,
                    "the server says that it offers this history and refuses it: changes are searched for"
                );
                self.refuse_history(&feed.record_type);
                self.search_page(feed, poll::Stand::Fresh(plan)).await
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
        let (strategy, why) = self.strategy(feed, None).await;
        Ok(match strategy {
            Strategy::History => by_history(why),
            Strategy::LastUpdated => by_last_updated(feed, why),
        })
    }

    /// Notes that a type's history is of no use; forgotten when the server's statement is read again.
    pub(crate) fn refuse_history(&self, record_type: &RecordType) {
        let mut histories = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        histories.refused.insert(record_type.clone());
    }

    async fn strategy(&self, feed: &FeedSpec, cursor: Option<CursorState>) -> (Strategy, String) {
        if cursor.is_none() && feed.start == Start::Beginning {
            return (
                Strategy::LastUpdated,
                "a baseline is the current state".to_owned(),
            );
        }
        let undecided = feed.detect == Detect::Auto && feed.filter.is_empty() && self.profile.trust_history;
        let offer = if undecided {
            self.offer(&feed.record_type).await
        } else {
            Offer::NoHistory
        };
        choose(feed, self.profile.trust_history, offer)
    }

    async fn offer(&self, record_type: &RecordType) -> Offer {
        let now = self.clock.now();
        let known = {
            let histories = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
            histories.read.clone().filter(|statement| statement.is_fresh(now))
        };
        let offered = match known {
            Some(statement) => statement.offered,
            None => self.read_statement(now).await,
        };
        let histories = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        match offered {
            Ok(types) if !types.contains(record_type.as_str()) => Offer::NoHistory,
            Ok(_) if histories.refused.contains(record_type) => Offer::Refused,
            Ok(_) => Offer::History,
            Err(reason) => Offer::Unknown(reason),
        }
    }

    async fn read_statement(&self, now: Timestamp) -> Result<BTreeSet<String>, String> {
        let offered = self.ask_statement().await.map_err(|error| error.to_string());
        if let Err(reason) = &offered {
            tracing::warn!(
                reason,
                "the server's CapabilityStatement could not be read: changes are searched for"
            );
        }
        let mut histories = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        histories.refused.clear();
        histories.read = Some(Statement {
            at: now,
            offered: offered.clone(),
        });
        offered
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

/// Chooses; the text says why, for an operator.
fn choose(feed: &FeedSpec, trusted: bool, offer: Offer) -> (Strategy, String) {
    let search = |why: &str| (Strategy::LastUpdated, why.to_owned());
    match (feed.detect, offer) {
        (Detect::LastUpdated, _) => search("the configuration asks for it"),
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
        order: PageOrder::OldestFirst,
        deletes,
        blind_spots,
    }
}

#[cfg(test)]
mod tests {
    use courier_sdk::FeedName;

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
        }
    }

    #[test]
    fn the_best_that_is_offered_is_chosen_unless_the_configuration_says_otherwise() {
        let unknown = || Offer::Unknown("status 500".to_owned());
        let rows = [
            (Detect::Auto, "", true, Offer::History, Strategy::History),
            (Detect::Auto, "", true, Offer::NoHistory, Strategy::LastUpdated),
            (Detect::Auto, "", true, Offer::Refused, Strategy::LastUpdated),
            (Detect::Auto, "", true, unknown(), Strategy::LastUpdated),
            (Detect::Auto, "", false, Offer::History, Strategy::LastUpdated),
            (
                Detect::Auto,
                "status=booked",
                true,
                Offer::History,
                Strategy::LastUpdated,
            ),
            (Detect::History, "", false, unknown(), Strategy::History),
            (
                Detect::LastUpdated,
                "",
                true,
                Offer::History,
                Strategy::LastUpdated,
            ),
        ];
        for (detect, filter, trusted, offer, expected) in rows {
            let (strategy, why) = choose(&feed(detect, filter), trusted, offer.clone());
            assert_eq!(strategy, expected, "{detect:?} {filter} {trusted} {offer:?}");
            assert!(!why.is_empty());
        }
    }

    #[test]
    fn a_statement_is_believed_for_a_day_and_a_failure_for_five_minutes() {
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        let statement = |offered| Statement { at, offered };
        let good = statement(Ok(BTreeSet::new()));
        let bad = statement(Err("status 500".to_owned()));
        let after = |seconds: i64| Timestamp::from_second(1_700_000_000 + seconds).unwrap();
        let rows = [
            (0, true, true),
            (299, true, true),
            (300, true, false),
            (86_399, true, false),
            (86_400, false, false),
        ];
        for (seconds, of_good, of_bad) in rows {
            let found = (good.is_fresh(after(seconds)), bad.is_fresh(after(seconds)));
            assert_eq!(found, (of_good, of_bad), "{seconds}");
        }
        // A clock that was set back by a year does not keep a statement for a year.
        assert!(!good.is_fresh(after(-31_000_000)));
    }
}
