//! One record of a list, read by itself: the whole of it, unless the source says that it is the one that is known.
//!
//! What the read is conditioned on lies in the feed's cursor, which moves only with what it covers: a version that was
//! answered but never handed over is answered again.

use courier_sdk::{ChangePage, ConnectorError, FeedSpec, HttpError, HttpResponse, RecordId, RecordKey};
use http::HeaderValue;
use http::header::{ETAG, LAST_MODIFIED};
use jiff::Timestamp;

use super::page::{Brought, is_about_one, operation};
use super::{Listing, Seen};
use crate::answer::{self, Asked};
use crate::bundle::{BodyError, Item};
use crate::exchange::{NoAnswer, Wanted};
use crate::instant::{self, Stored};
use crate::last_updated::PRECISION;
use crate::profile::ConditionalRead;
use crate::{FhirConnector, bundle, query};

impl FhirConnector {
    /// Reads one record of the list under way.
    pub(super) async fn single(
        &self,
        feed: &FeedSpec,
        mut listing: Listing,
        id: &RecordId,
        tag: Option<&str>,
    ) -> Result<ChangePage, ConnectorError> {
        let operation = operation(feed);
        let key = RecordKey {
            record_type: feed.record_type.clone(),
            id: id.clone(),
        };
        let url = query::read(&self.exchange.base, &key);
        let header = tag.and_then(|tag| HeaderValue::try_from(tag).ok());
        let wanted = match (&header, self.profile.conditional_read) {
            (Some(tag), ConditionalRead::NoneMatch) => Wanted::RecordUnless(tag),
            (Some(date), ConditionalRead::ModifiedSince) => Wanted::RecordSince(date),
            (Some(_), ConditionalRead::None) | (None, _) => Wanted::Record,
        };
        let bytes_max = self.limits.record_bytes_max;
        let answer = self.exchange.get(&operation, url, wanted, bytes_max).await;
        let response = match answer {
            Ok(response) if response.body.len() <= bytes_max => response,
            Ok(_) | Err(NoAnswer::Broken(HttpError::TooLarge { .. })) => {
                return Ok(self.too_large_to_carry(feed, listing, key));
            }
            Err(error) => return Err(error.of(&operation)),
        };
        let bound = listing
            .bound
            .map_or_else(|| self.source_time(&response), |bound| bound.0);
        listing.bound = Some(Stored(bound));
        let mut stands = None;
        let mut items = Vec::new();
        match response.status.as_u16() {
            304 if !matches!(wanted, Wanted::Record) => {
                listing
                    .tags
                    .extend(tag.map(|tag| (id.as_str().to_owned(), tag.to_owned())));
                stands = Some(id.clone());
            }
            // Gone: it is not listed, and what that means a confirming read tells.
            410 => {}
            404 if bundle::is_outcome(&response.body, self.limits.json_depth_max) => {}
            200 => match self.read_whole(&response, &key, &operation)? {
                Some(item) => {
                    if let Some(tag) = self.tag_of(&response, item.version_id.as_deref()) {
                        listing.tags.insert(id.as_str().to_owned(), tag);
                    }
                    items.push(item);
                }
                None => return Ok(self.passed_over(feed, listing, &response)),
            },
            _ if is_about_one(response.status) => return Ok(self.passed_over(feed, listing, &response)),
            _ => {
                return Err(answer::refusal(
                    operation,
                    &response,
                    Asked::Read,
                    self.clock.now(),
                ));
            }
        }
        let stamps = items.iter().map(|item| item.last_updated).collect();
        let mut rows = self.rows(feed, &listing, Brought::whole(items));
        if let Some(listed) = &mut rows.listed {
            listed.extend(stands);
        }
        let step = listing.absorb(&Seen::one(stamps), self.rules(feed));
        Ok(self.concluded(feed, step, bound, rows))
    }

    /// The record, unless the answer is another one or none.
    fn read_whole(
        &self,
        response: &HttpResponse,
        key: &RecordKey,
        operation: &str,
    ) -> Result<Option<Item>, ConnectorError> {
        match bundle::record(&response.body, self.limits.json_depth_max) {
            Ok(item) => Ok(Some(item).filter(|item| item.key == *key)),
            Err(BodyError::Unreadable(_)) => Ok(None),
            Err(error @ BodyError::Outcome(_)) => Err(answer::unusable(operation.to_owned(), &error)),
        }
    }

    fn too_large_to_carry(&self, feed: &FeedSpec, mut listing: Listing, key: RecordKey) -> ChangePage {
        let bound = listing.bound.map_or_else(|| self.clock.now(), |bound| bound.0);
        listing.bound = Some(Stored(bound));
        let mut rows = self.rows(feed, &listing, Brought::whole(Vec::new()));
        rows.listed = Some(vec![key.id.clone()]);
        rows.oversized.push(key);
        let step = listing.absorb(&Seen::one(Vec::new()), self.rules(feed));
        self.concluded(feed, step, bound, rows)
    }

    /// What the next read is conditioned on.
    fn tag_of(&self, response: &HttpResponse, version_id: Option<&str>) -> Option<String> {
        let text = |name| {
            response
                .headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        match self.profile.conditional_read {
            ConditionalRead::NoneMatch => {
                let from_version = || version_id.map(|version_id| format!("W/\"{version_id}\""));
                text(ETAG).map(str::to_owned).or_else(from_version)
            }
            ConditionalRead::ModifiedSince => {
                let modified = text(LAST_MODIFIED)?;
                let settled = is_settled(
                    instant::parse_http_date(modified)?,
                    answer::server_time(response)?,
                );
                settled.then(|| modified.to_owned())
            }
            ConditionalRead::None => None,
        }
    }
}

/// Whether no later change can carry the same whole second: the condition would hide it.
fn is_settled(modified: Timestamp, answered: Timestamp) -> bool {
    modified < instant::back(answered, PRECISION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_within_the_second_of_the_last_one_is_never_hidden() {
        let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
        assert!(is_settled(at(0), at(2)));
        assert!(
            !is_settled(at(0), at(1)),
            "a change in this second may still come"
        );
        assert!(!is_settled(at(0), at(0)));
    }
}
