//! Reads of one record: its current version, one of its versions, or word that it is unchanged, gone or out of reach.

use std::sync::Arc;

use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;

use super::answer::{Draft, fhir, http_date, only, outcome, plain, set};
use super::clinic::Kind;
use super::dialect::{ConditionalRead, DeleteMode};
use super::ledger::{Extent, Showing};
use super::records::Version;
use super::world::World;

impl World {
    pub(super) fn read(&mut self, record_type: &str, id: &str, headers: &HeaderMap) -> Draft {
        if let Some(refused) = self.out_of_reach(record_type, id) {
            return refused;
        }
        self.perhaps_changed_first(record_type, id);
        let Some(version) = self.records.current(record_type, id, self.now()).cloned() else {
            return unknown();
        };
        if version.body.is_some() && self.is_unchanged(&version, headers) {
            let mut answer = plain(StatusCode::NOT_MODIFIED, bytes::Bytes::new());
            self.tag(&mut answer, &version);
            self.not_modified += 1;
            return only(answer);
        }
        self.whole(&version)
    }

    pub(super) fn read_version(&mut self, record_type: &str, id: &str, version_id: &str) -> Draft {
        if let Some(refused) = self.out_of_reach(record_type, id) {
            return refused;
        }
        let now = self.now();
        let forgotten = self.dialect.delete_mode == DeleteMode::Vanish
            && self
                .records
                .current(record_type, id, now)
                .is_some_and(|version| version.body.is_none());
        let version = self.records.exact(record_type, id, version_id, now).cloned();
        match version.filter(|_| !forgotten) {
            Some(version) => self.whole(&version),
            None => only(outcome(StatusCode::NOT_FOUND, "not-found", "no such version")),
        }
    }

    /// A record that the client may not or cannot read, although it is there.
    fn out_of_reach(&mut self, record_type: &str, id: &str) -> Option<Draft> {
        let key = (record_type, id);
        let forbidden = || only(outcome(StatusCode::FORBIDDEN, "forbidden", "not for you"));
        if self.records.withheld_since(record_type, id).is_some() {
            return Some(forbidden());
        }
        self.records.current(record_type, id, self.now())?;
        if self.is_among(self.faults.fetch_403.share, "fetch_403", key) {
            self.strikes.count("fetch_403");
            return Some(forbidden());
        }
        if self.is_among(self.faults.fetch_404.share, "fetch_404", key) {
            self.strikes.count("fetch_404");
            return Some(unknown());
        }
        None
    }

    fn perhaps_changed_first(&mut self, record_type: &str, id: &str) {
        let Some(kind) = Kind::named(record_type) else {
            return;
        };
        if self.chance(self.faults.mutate_before_fetch.share)
            && let Some(draft) = self.clinic.touch(kind, id)
        {
            self.commit(draft);
            self.strikes.count("mutate_before_fetch");
        }
    }

    fn is_unchanged(&self, version: &Version, headers: &HeaderMap) -> bool {
        if self.dialect.no_meta {
            return false;
        }
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let tag = entity_tag(version);
        let matches =
            || text(header::IF_NONE_MATCH).is_some_and(|asked| asked.split(',').any(|one| one.trim() == tag));
        let not_since = || {
            let asked = text(header::IF_MODIFIED_SINCE).and_then(read_http_date);
            asked.is_some_and(|asked| version.stamp.as_second() <= asked.as_second())
        };
        // Where both are sent, the tag decides (RFC 9110, 13.2.2).
        let by_tag = headers.contains_key(header::IF_NONE_MATCH);
        match (self.dialect.conditional_read, by_tag) {
            (ConditionalRead::NotMatch, _) | (ConditionalRead::FullSupport, true) => matches(),
            (ConditionalRead::ModifiedSince, _) | (ConditionalRead::FullSupport, false) => not_since(),
            (ConditionalRead::NotSupported, _) => false,
        }
    }

    /// Shows one version, or its delete.
    fn whole(&self, version: &Arc<Version>) -> Draft {
        let mut answer = match (&version.body, self.dialect.delete_mode) {
            (Some(body), _) => fhir(body.clone()),
            (None, DeleteMode::Gone) => outcome(StatusCode::GONE, "deleted", "this record was deleted"),
            (None, DeleteMode::NotFound | DeleteMode::Vanish) => return unknown(),
        };
        self.tag(&mut answer, version);
        Draft {
            answer,
            showings: vec![Showing {
                version: Arc::clone(version),
                extent: Extent::Whole,
            }],
        }
    }

    fn tag(&self, answer: &mut super::Answer, version: &Version) {
        if !self.dialect.no_meta {
            set(answer, header::ETAG, &entity_tag(version));
            set(answer, header::LAST_MODIFIED, &http_date(version.stamp));
        }
    }
}

fn unknown() -> Draft {
    only(outcome(StatusCode::NOT_FOUND, "not-found", "no such record"))
}

fn entity_tag(version: &Version) -> String {
    format!("W/\"{}\"", version.tag)
}

fn read_http_date(text: &str) -> Option<Timestamp> {
    let civil = jiff::fmt::strtime::parse("%a, %d %b %Y %H:%M:%S GMT", text).ok()?;
    let civil = civil.to_datetime().ok()?;
    civil
        .to_zoned(jiff::tz::TimeZone::UTC)
        .ok()
        .map(|zoned| zoned.timestamp())
}
