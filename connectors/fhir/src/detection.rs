//! Which way a feed's changes are found: what the configuration asks for, what the profile knows, what the server says
//! that it offers, and what it turned out to do.
//!
//! It guarantees that no choice moves a cursor: all ways go on from the same one. Where the server's statement cannot
//! be read, what it said before holds; where it said nothing yet, a cursor is gone on from by the way that moved it.

mod report;
mod statement;

use courier_sdk::{
    Aim, ChangePage, ConnectorError, Detect, Detection, FeedSpec, PollRequest, Roster, Start, Strategy,
};

use crate::FhirConnector;
use crate::cursor::{By, CursorState};
use crate::history::History;
use crate::last_updated::{self, Poll};
use crate::listing::Listing;
use crate::poll::Stand;
use crate::profile::{LastUpdated, Profile};
pub(crate) use statement::Known;
use statement::{HistoryOffer, Offer, SearchOffer};

impl FhirConnector {
    /// Asks for one page of a feed's poll, the way that was begun or is to be begun.
    pub(crate) async fn poll_page(&self, request: PollRequest<'_>) -> Result<ChangePage, ConnectorError> {
        let feed = request.feed;
        let operation = format!("poll {}", feed.record_type);
        let cursor = request.cursor.map(|cursor| {
            // A cursor is never guessed: to begin anew would lose or repeat.
            CursorState::parse(cursor.as_str()).ok_or_else(|| ConnectorError::Forbidden {
                operation: operation.clone(),
                reason: "the stored cursor is of a form that this release does not know".to_owned(),
            })
        });
        let cursor = cursor.transpose()?;
        if let Some(resume) = request.resume {
            if let Some(poll) = History::parse(resume.as_str()) {
                return self.history_page(feed, Stand::Running(Box::new(poll))).await;
            }
            if let Some(poll) = Listing::parse(resume.as_str()) {
                return self.listing_page(feed, poll, cursor.as_ref()).await;
            }
            // Written by another release of the courier: the poll begins again, which loses nothing.
            let poll =
                Poll::parse(resume.as_str()).ok_or(ConnectorError::PageExpired { operation, status: 0 })?;
            if poll.upper().is_some() {
                return self.past_page(feed, Stand::Running(Box::new(poll))).await;
            }
            return self.search_page(feed, Stand::Running(Box::new(poll))).await;
        }
        let (strategy, _) = self.strategy(feed, cursor.as_ref()).await?;
        if feed.scope.aim == Aim::Everything {
            return match strategy {
                Strategy::History | Strategy::LastUpdated => self.begin_listing(feed, strategy, cursor).await,
                Strategy::Window | Strategy::Roster | Strategy::Read => Ok(self.swept_by_polls()),
            };
        }
        if let Aim::Past { until } = feed.scope.aim {
            return match strategy {
                Strategy::History | Strategy::LastUpdated => {
                    self.begin_past(feed, cursor.as_ref(), until).await
                }
                Strategy::Window | Strategy::Roster | Strategy::Read => Ok(self.told_until(until)),
            };
        }
        tell_of_change(feed, cursor.as_ref(), strategy);
        let plan = last_updated::plan(feed, cursor.as_ref(), self.profile.granularity, self.clock.now());
        match strategy {
            Strategy::LastUpdated => self.search_page(feed, Stand::Fresh(plan)).await,
            Strategy::Window | Strategy::Roster | Strategy::Read => {
                self.begin_listing(feed, strategy, cursor).await
            }
            Strategy::History => match self.history_page(feed, Stand::Fresh(plan)).await {
                Ok(page) if cursor.is_none() && feed.scope.aim == Aim::Present => Ok(told_of_later(page)),
                Err(error @ ConnectorError::Refused { .. }) if feed.detect == Detect::Auto => {
                    tracing::warn!(
                        feed = %feed.name, %error,
                        "the server says that it offers this history and refuses it: changes are found another way"
                    );
                    self.refuse_history(&feed.record_type);
                    let (strategy, _) = self.strategy(feed, cursor.as_ref()).await?;
                    if strategy == Strategy::LastUpdated {
                        self.search_page(feed, Stand::Fresh(plan)).await
                    } else {
                        self.begin_listing(feed, strategy, cursor).await
                    }
                }
                other => other,
            },
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
        Ok(report::of(feed, &self.profile, strategy, why))
    }

    pub(crate) async fn strategy(
        &self,
        feed: &FeedSpec,
        cursor: Option<&CursorState>,
    ) -> Result<(Strategy, String), ConnectorError> {
        let history_counts = feed.filter.is_empty() && self.profile.trust_history;
        let search_counts = self.profile.last_updated == LastUpdated::Claimed;
        let offer = if feed.detect == Detect::Auto && (history_counts || search_counts) {
            self.offer(&feed.record_type).await?
        } else {
            Offer {
                history: HistoryOffer::NotOffered,
                search: SearchOffer::Unknown,
            }
        };
        let moved = cursor.map(|cursor| cursor.by);
        let chosen = choose(feed, &self.profile, offer, moved);
        let (strategy, why) = chosen.map_err(|reason| ConnectorError::Forbidden {
            operation: format!("poll {}", feed.record_type),
            reason: reason.to_owned(),
        })?;
        let is_baseline = feed.start == Start::Beginning && feed.scope.aim != Aim::Present;
        if cursor.is_none() && is_baseline && strategy == Strategy::History {
            let why = "a baseline is the current state".to_owned();
            return Ok((Strategy::LastUpdated, why));
        }
        Ok((strategy, why))
    }

    /// Which way goes on from where a search ended. It is kept with the cursor, so that a statement that cannot be read
    /// for a while turns no history into a search.
    pub(crate) fn goes_on(&self, feed: &FeedSpec) -> By {
        let told = self.profile.trust_history
            && feed.filter.is_empty()
            && self.offer_known(&feed.record_type).history == HistoryOffer::Offered;
        if told { By::History } else { By::LastUpdated }
    }
}

/// Chooses; the text says why, for an operator. `moved` says which way moved the cursor.
fn choose(
    feed: &FeedSpec,
    profile: &Profile,
    offer: Offer,
    moved: Option<By>,
) -> Result<(Strategy, String), &'static str> {
    let asked = || "the configuration asks for it".to_owned();
    match feed.detect {
        Detect::History => return Ok((Strategy::History, asked())),
        Detect::LastUpdated => return Ok((Strategy::LastUpdated, asked())),
        Detect::Window => return Ok((Strategy::Window, asked())),
        Detect::Roster if feed.scope.roster == Roster::None => {
            return Err("detect = \"roster\" needs the connection's `roster`");
        }
        Detect::Roster => return Ok((Strategy::Roster, asked())),
        Detect::Read if feed.scope.ids.0.is_empty() => {
            return Err("detect = \"read\" needs the feed's `ids`");
        }
        Detect::Read => return Ok((Strategy::Read, asked())),
        Detect::Auto => {}
    }
    if !feed.scope.ids.0.is_empty() {
        return Ok((Strategy::Read, "the configuration lists the records".to_owned()));
    }
    let no_history = match offer.history {
        _ if !feed.filter.is_empty() => "a history cannot be narrowed by the feed's where".to_owned(),
        _ if !profile.trust_history => "the profile trusts no history of this kind of server".to_owned(),
        HistoryOffer::Offered => {
            let why = format!("the server offers a history of {}", feed.record_type);
            return Ok((Strategy::History, why));
        }
        // Another way would leave out deletes and overwritten versions; if the history is gone, it says so itself.
        HistoryOffer::Unknown(reason) if moved == Some(By::History) => {
            let why = format!("the CapabilityStatement could not be read ({reason}), the history could");
            return Ok((Strategy::History, why));
        }
        HistoryOffer::Unknown(reason) => {
            format!("the server's CapabilityStatement could not be read ({reason})")
        }
        HistoryOffer::Refused => "the server says that it offers a history, but does not serve it".to_owned(),
        HistoryOffer::NotOffered => "the server offers no history of this type".to_owned(),
    };
    if profile.requires_patient(&feed.record_type) {
        return if feed.scope.roster == Roster::None {
            Err(
                "this kind of server shows the type only for a named patient: name a `roster` on the connection",
            )
        } else {
            let why = "this kind of server shows the type only for a named patient";
            Ok((Strategy::Roster, why.to_owned()))
        };
    }
    let no_search = match (profile.last_updated, offer.search) {
        (LastUpdated::Never, _) => "this kind of server cannot be searched by the time of a change",
        (_, SearchOffer::Ignored) => "the server does not name the parameter _lastUpdated, and ignores it",
        (LastUpdated::Claimed, SearchOffer::NotNamed) => {
            "the server does not name the parameter _lastUpdated"
        }
        (LastUpdated::Claimed, SearchOffer::Unknown) if moved == Some(By::Listing) => {
            "the server's CapabilityStatement could not be read; the last poll listed the records"
        }
        (LastUpdated::Always, _) | (LastUpdated::Claimed, SearchOffer::Named | SearchOffer::Unknown) => {
            return Ok((Strategy::LastUpdated, no_history));
        }
    };
    Ok((Strategy::Window, no_search.to_owned()))
}

/// The first answer of a history that begins now, of which nothing is handed over: it may end in the middle, with the
/// newest. The next poll shows all of it again, and what came before.
fn told_of_later(page: ChangePage) -> ChangePage {
    ChangePage {
        changes: Vec::new(),
        oversized: Vec::new(),
        unusable: Vec::new(),
        ..page
    }
}

fn tell_of_change(feed: &FeedSpec, cursor: Option<&CursorState>, strategy: Strategy) {
    let before = match cursor.map(|cursor| cursor.by) {
        Some(By::History) => "history",
        Some(By::LastUpdated) => "last-updated",
        Some(By::Listing) => "listing",
        None => return,
    };
    let now = match strategy {
        Strategy::History => "history",
        Strategy::LastUpdated => "last-updated",
        Strategy::Window | Strategy::Roster | Strategy::Read => "listing",
    };
    if before != now {
        tracing::info!(
            feed = %feed.name, before, now,
            "the feed's changes are found another way; its cursor stays"
        );
    }
}

#[cfg(test)]
mod tests;
