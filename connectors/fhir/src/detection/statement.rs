//! What is known of the server's offers: its statement, read once and again each day, and what turned out otherwise.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use courier_sdk::{ConnectorError, RecordType};
use jiff::Timestamp;

use crate::answer::{self, Asked};
use crate::capability::Offers;
use crate::exchange::Wanted;
use crate::{FhirConnector, capability, query};

/// Servers are upgraded now and then; a day is soon enough to use what they then offer.
const STATEMENT_AGE_MAX: Duration = Duration::from_hours(24);

/// A statement that could not be read is asked for again after this.
const STATEMENT_RETRY: Duration = Duration::from_mins(5);

/// The largest statement: those of full servers have 2 to 6 MiB.
const STATEMENT_BYTES_MAX: usize = 16 << 20;

/// The parameter that every way but listings rests on.
const LAST_UPDATED: &str = "_lastUpdated";

/// What is known of the server's offers. A cache: nothing but requests depends on it.
#[derive(Debug, Default)]
pub(crate) struct Known {
    read: Option<Statement>,
    /// Since the statement was read.
    failed: Option<Failure>,
    /// Types whose history was refused or proved unusable since the statement was read.
    refused: BTreeSet<RecordType>,
    /// Types of which a search by `_lastUpdated` showed that it was ignored, since the statement was read.
    unsearchable: BTreeSet<RecordType>,
}

#[derive(Debug)]
struct Statement {
    at: Timestamp,
    offers: Offers,
}

/// The last time that the statement could not be read.
#[derive(Debug)]
struct Failure {
    at: Timestamp,
    reason: String,
}

/// What the server offers of one type, as far as the choice depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) history: HistoryOffer,
    pub(crate) search: SearchOffer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HistoryOffer {
    Offered,
    NotOffered,
    /// It says that it offers one, and does not serve it.
    Refused,
    /// It could not be asked.
    Unknown(String),
}

/// What is said of searches by `_lastUpdated`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SearchOffer {
    Named,
    NotNamed,
    /// It is not named, and was ignored when it was tried.
    Ignored,
    Unknown,
}

impl Known {
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
        let Some(read) = &self.read else {
            let reason = self.failed.as_ref().map(|failed| failed.reason.clone());
            return Offer {
                history: if self.refused.contains(record_type) {
                    HistoryOffer::Refused
                } else {
                    HistoryOffer::Unknown(reason.unwrap_or_default())
                },
                search: SearchOffer::Unknown,
            };
        };
        let offer = read.offers.get(record_type.as_str());
        let history = match offer.is_some_and(|offer| offer.history) {
            false => HistoryOffer::NotOffered,
            true if self.refused.contains(record_type) => HistoryOffer::Refused,
            true => HistoryOffer::Offered,
        };
        let named = offer.is_some_and(|offer| offer.parameters.contains(LAST_UPDATED));
        let search = match named {
            true => SearchOffer::Named,
            false if self.unsearchable.contains(record_type) => SearchOffer::Ignored,
            false => SearchOffer::NotNamed,
        };
        Offer { history, search }
    }
}

impl FhirConnector {
    /// Notes that a type's history is of no use; forgotten when the server's statement is read again.
    pub(crate) fn refuse_history(&self, record_type: &RecordType) {
        self.known().refused.insert(record_type.clone());
    }

    /// Notes that the server ignores `_lastUpdated` for a type. Where it names the parameter nothing is noted: then one
    /// answer may be a mishap.
    pub(crate) fn note_ignored(&self, record_type: &RecordType) {
        let mut known = self.known();
        if known.offer(record_type).search == SearchOffer::NotNamed {
            known.unsearchable.insert(record_type.clone());
        }
    }

    /// What the server offers of a type, as far as is known.
    pub(super) fn offer_known(&self, record_type: &RecordType) -> Offer {
        self.known().offer(record_type)
    }

    /// What the server offers of a type.
    ///
    /// # Errors
    /// [`ConnectorError::Throttled`] when it was asked and wants to be left alone; any other failure is an answer.
    pub(super) async fn offer(&self, record_type: &RecordType) -> Result<Offer, ConnectorError> {
        let now = self.clock.now();
        let due = self.known().is_due(now);
        let throttled = if due { self.read_statement(now).await } else { None };
        match throttled {
            Some(error) => Err(error),
            None => Ok(self.offer_known(record_type)),
        }
    }

    /// Asks for the statement and notes what came of it; answers a throttling, which is the whole connection's.
    async fn read_statement(&self, now: Timestamp) -> Option<ConnectorError> {
        let answer = self.ask_statement().await;
        let mut known = self.known();
        match answer {
            Ok(offers) => {
                *known = Known {
                    read: Some(Statement { at: now, offers }),
                    ..Known::default()
                };
                None
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::warn!(
                    reason,
                    "the server's CapabilityStatement could not be read: what is known of its histories stays"
                );
                known.failed = Some(Failure { at: now, reason });
                matches!(error, ConnectorError::Throttled { .. }).then_some(error)
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_statement(&self) -> Result<Offers, ConnectorError> {
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
        capability::offers(&response.body, self.limits.json_depth_max)
            .map_err(|error| answer::unusable(operation.to_owned(), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_believed_for_a_day_and_a_failure_for_five_minutes() {
        let after = |seconds: i64| Timestamp::from_second(1_700_000_000 + seconds).unwrap();
        let good = Known {
            read: Some(Statement {
                at: after(0),
                offers: Offers::new(),
            }),
            ..Known::default()
        };
        let bad = Known {
            failed: Some(Failure {
                at: after(0),
                reason: "status 500".to_owned(),
            }),
            ..Known::default()
        };
        assert!(Known::default().is_due(after(0)));
        let rows = [
            (0, false, false),
            (299, false, false),
            (300, false, true),
            (86_399, false, true),
            (86_400, true, true),
        ];
        for (seconds, of_good, of_bad) in rows {
            assert_eq!(good.is_due(after(seconds)), of_good, "{seconds}");
            assert_eq!(bad.is_due(after(seconds)), of_bad, "{seconds}");
        }
    }

    #[test]
    fn an_ignored_parameter_counts_only_where_the_statement_does_not_name_it() {
        let offers = |parameters: &[&str]| {
            let offer = capability::TypeOffer {
                history: false,
                parameters: parameters.iter().map(|name| (*name).to_owned()).collect(),
            };
            [("Slot".to_owned(), offer)].into()
        };
        let record_type = RecordType::parse("Slot").unwrap();
        let rows = [
            (&[LAST_UPDATED, "start"][..], SearchOffer::Named),
            (&["start"], SearchOffer::Ignored),
        ];
        for (parameters, expected) in rows {
            let known = Known {
                read: Some(Statement {
                    at: Timestamp::UNIX_EPOCH,
                    offers: offers(parameters),
                }),
                unsearchable: [record_type.clone()].into(),
                ..Known::default()
            };
            assert_eq!(known.offer(&record_type).search, expected);
        }
        assert_eq!(Known::default().offer(&record_type).search, SearchOffer::Unknown);
    }
}
