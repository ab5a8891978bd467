//! Histories: of a record type or of one record, every version and every delete, newest first.
//!
//! A page link names the instant that its first page saw, so that the pages are cut from one list; under
//! `page_drift` from the versions as they are, which new ones push on to later pages.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use serde_json::Value;
use url::form_urlencoded;

use super::bundle::{Cut, Page};
use super::clinic::Kind;
use super::dialect::DeleteMode;
use super::ledger::{Extent, Showing};
use super::query::Handling;
use super::records::Version;
use super::world::World;

/// How long a page link stays good.
const LINK_AGE_MAX: SignedDuration = SignedDuration::from_mins(15);

/// How many rows a page has when `_count` does not say.
const COUNT_DEFAULT: usize = 20;

/// A history as it will be shown.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    record_type: String,
    id: Option<String>,
    since: Option<(String, Timestamp)>,
    count: usize,
    place: Option<Place>,
}

/// Where a page stands: the instant that the first one saw, absent for the present, and the rows before it.
#[derive(Debug, Clone, Copy)]
struct Place {
    first_seen: Timestamp,
    drifts: bool,
    offset: usize,
}

/// Why a history is not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotShown {
    /// The page link is no longer good.
    Expired,
    /// A parameter is not usable.
    Invalid(String),
}

impl Asked {
    /// Reads the parameters of a history.
    pub(super) fn read(
        record_type: &str,
        id: Option<&str>,
        parameters: &[(String, String)],
        (handling, count_max): (Handling, usize),
    ) -> Result<Self, NotShown> {
        let invalid = |reason: &str| NotShown::Invalid(reason.to_owned());
        let mut asked = Self {
            record_type: record_type.to_owned(),
            id: id.map(str::to_owned),
            since: None,
            count: COUNT_DEFAULT.min(count_max),
            place: None,
        };
        for (name, value) in parameters {
            match (name.as_str(), handling) {
                ("_since", _) => {
                    let since = value
                        .parse()
                        .map_err(|_| invalid("_since holds no usable instant"))?;
                    asked.since = Some((value.clone(), since));
                }
                ("_count", _) => {
                    let count: usize = value.parse().map_err(|_| invalid("_count is not a number"))?;
                    asked.count = count.min(count_max);
                }
                ("_page", _) => asked.place = Some(Place::read(value).ok_or(NotShown::Expired)?),
                (_, Handling::Strict) => return Err(invalid("a history knows _since and _count")),
                (_, Handling::Lenient) => {}
            }
        }
        Ok(asked)
    }
}

impl Place {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let first_seen = i128::from_str_radix(parts.next()?, 16).ok()?;
        let place = Self {
            first_seen: Timestamp::from_nanosecond(first_seen).ok()?,
            drifts: parts.next()? == "live",
            offset: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(place)
    }

    fn text(self) -> String {
        let kind = if self.drifts { "live" } else { "kept" };
        format!("{:x}.{kind}.{}", self.first_seen.as_nanosecond(), self.offset)
    }
}

impl World {
    /// Answers one page of a history.
    pub(super) fn history(&mut self, mut asked: Asked) -> Result<Page, NotShown> {
        let now = self.now();
        let place = match asked.place {
            Some(place) if now.duration_since(place.first_seen) > LINK_AGE_MAX => {
                return Err(NotShown::Expired);
            }
            Some(place) => {
                if self.chance(self.faults.expired_links.share) {
                    self.strikes.count("expired_links");
                    return Err(NotShown::Expired);
                }
                if place.drifts {
                    self.add_in_front(&asked.record_type);
                }
                place
            }
            None => {
                if asked.since.is_some() && self.chance(self.faults.ignored_filters.share) {
                    self.strikes.count("ignored_filters");
                    asked.since = None;
                }
                Place {
                    first_seen: now,
                    drifts: self.chance(self.faults.page_drift.share),
                    offset: 0,
                }
            }
        };
        let seen_at = if place.drifts {
            self.now()
        } else {
            place.first_seen
        };
        let dialect = self.dialect;
        let since = asked.since.as_ref().map(|(_, since)| dialect.floor(*since));
        let vanished = self.vanished(&asked.record_type);
        let mut rows: Vec<Arc<Version>> = self
            .records
            .versions_of(&asked.record_type, asked.id.as_deref())
            .filter(|version| {
                version.visible_at <= seen_at
                    && since.is_none_or(|since| version.stamp >= since)
                    && !vanished.contains(&version.id)
            })
            .cloned()
            .collect();
        rows.sort_by_key(|version| Reverse((version.stamp, version.id.clone(), version.number)));
        Ok(self.history_page(&asked, &rows, place))
    }

    /// The ids of deleted records that nothing tells of any more.
    fn vanished(&self, record_type: &str) -> BTreeSet<String> {
        if self.dialect.delete_mode != DeleteMode::Vanish {
            return BTreeSet::new();
        }
        let now = self.now();
        self.records
            .versions_of(record_type, None)
            .filter(|version| version.body.is_none() && version.visible_at <= now)
            .map(|version| version.id.clone())
            .collect()
    }

    /// Changes some record of the type, so that the rows move on by one.
    fn add_in_front(&mut self, record_type: &str) {
        let Some(kind) = Kind::named(record_type) else {
            return;
        };
        let now = self.now();
        let ids: Vec<String> = self
            .records
            .all_current(record_type, now)
            .map(|version| version.id.clone())
            .collect();
        if ids.is_empty() {
            return;
        }
        let chosen = self.random.random_range(0..ids.len());
        let draft = ids.get(chosen).and_then(|id| self.clinic.touch(kind, id));
        if draft.and_then(|draft| self.commit(draft)).is_some() {
            self.strikes.count("page_drift");
        }
    }

    fn history_page(&mut self, asked: &Asked, rows: &[Arc<Version>], place: Place) -> Page {
        let all = rows.get(place.offset..).unwrap_or_default();
        let mut shown = all.get(..asked.count).unwrap_or(all).to_vec();
        let after = place.offset + shown.len();
        let cut = self.perhaps_cut(&mut shown, rows.len());
        self.perhaps_repeated(&mut shown);
        let base = self.options.base_url.as_str().trim_end_matches('/');
        let mut links = vec![link(base, asked, "self", None)];
        if cut == Cut::Not && after < rows.len() && !shown.is_empty() {
            let next = Place {
                offset: after,
                ..place
            };
            links.push(link(base, asked, "next", Some(next)));
        }
        let total = match cut {
            Cut::Silently => String::new(),
            Cut::Not | Cut::Counted => format!(r#""total":{},"#, rows.len()),
        };
        let mut body = format!(
            r#"{{"resourceType":"Bundle","type":"history",{total}"link":[{}],"entry":["#,
            links.join(",")
        )
        .into_bytes();
        for (index, version) in shown.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            entry(&mut body, base, version);
        }
        body.extend_from_slice(b"]}");
        // Entered oldest first: what stands in one answer is shown at once, in whatever order.
        let showing = |version: &Arc<Version>| Showing {
            version: Arc::clone(version),
            extent: Extent::Whole,
        };
        Page {
            body: Bytes::from(body),
            showings: shown.iter().rev().map(showing).collect(),
        }
    }
}

fn link(base: &str, asked: &Asked, relation: &str, place: Option<Place>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some((since, _)) = &asked.since {
        query.append_pair("_since", since);
    }
    query.append_pair("_count", &asked.count.to_string());
    if let Some(place) = place {
        query.append_pair("_page", &place.text());
    }
    let id = asked.id.as_ref().map(|id| format!("/{id}")).unwrap_or_default();
    let url = format!("{base}/{}{id}/_history?{}", asked.record_type, query.finish());
    format!(r#"{{"relation":"{relation}","url":{}}}"#, Value::from(url))
}

fn entry(body: &mut Vec<u8>, base: &str, version: &Version) {
    let Version {
        record_type,
        id,
        number,
        tag: version_id,
        stamp,
        ..
    } = version;
    let (method, url, status) = match (&version.body, number) {
        (None, _) => ("DELETE", format!("{record_type}/{id}"), "204"),
        (Some(_), 1) => ("POST", record_type.clone(), "201"),
        (Some(_), _) => ("PUT", format!("{record_type}/{id}"), "200"),
    };
    body.extend_from_slice(format!(r#"{{"fullUrl":"{base}/{record_type}/{id}","#).as_bytes());
    if let Some(record) = &version.body {
        body.extend_from_slice(br#""resource":"#);
        body.extend_from_slice(record);
        body.push(b',');
    }
    // Another spelling of the same instant than in the record, as real servers write it.
    let modified = stamp.strftime("%Y-%m-%dT%H:%M:%S%.9f+00:00");
    body.extend_from_slice(
        format!(
            r#""request":{{"method":"{method}","url":"{url}"}},"response":{{"status":"{status}","etag":"W/\"{version_id}\"","lastModified":"{modified}"}}}}"#
        )
        .as_bytes(),
    );
}
