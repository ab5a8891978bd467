//! From a request to an answer: routing, faults of whole answers, and what the ledger learns of it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use serde_json::json;
use url::form_urlencoded;

use super::bundle::{NoPage, Page};
use super::clinic::Kind;
use super::history::{self, NotShown};
use super::ledger::Showing;
use super::metadata;
use super::query::{Handling, Reading, Search};
use super::world::World;
use super::{Access, Answer, Request};

/// How many addresses the stale cache remembers, and how many answers to each.
const CACHED_URLS_MAX: usize = 64;
const CACHED_ANSWERS_MAX: usize = 4;

/// An answer with what it shows.
#[derive(Clone)]
pub(super) struct Draft {
    pub(super) answer: Answer,
    pub(super) showings: Vec<Showing>,
}

/// An earlier answer, kept for the stale cache.
pub(super) struct Cached {
    at: Timestamp,
    draft: Draft,
}

impl World {
    pub(super) fn answer(&mut self, request: &Request) -> Answer {
        if let Some(mut granted) = self.grant(request) {
            self.date(&mut granted);
            return granted;
        }
        let mut draft = match self.refusal(request) {
            Some(answer) => Draft {
                answer,
                showings: Vec::new(),
            },
            None => self.route(request),
        };
        self.date(&mut draft.answer);
        if draft.answer.status == StatusCode::OK {
            if request.method == Method::GET {
                draft = self.perhaps_stale(request, draft);
            }
            draft = self.perhaps_spoiled(draft);
            if let Some(mut refused) = self.perhaps_refused_in_band() {
                self.date(&mut refused);
                draft = only(refused);
            }
        }
        let hang = self.faults.hang;
        if self.strikes.are_below("hang", hang.times) && self.chance(hang.share) {
            self.strikes.count("hang");
            draft.answer.delay = Some(Duration::from_secs(hang.seconds.into()));
            draft.showings.clear();
        }
        if self.chance(self.faults.slow.share) {
            self.strikes.count("slow");
            draft.answer.delay = Some(Duration::from_millis(self.faults.slow.delay_ms));
        }
        let now = self.now();
        self.ledger.enter(&draft.showings, now);
        draft.answer
    }

    /// Answers what a SMART server answers to whoever has no token yet.
    fn grant(&mut self, request: &Request) -> Option<Answer> {
        // Only what grants tokens draws: a switch of it does not reshuffle the faults of others.
        if !matches!(self.options.auth, Access::Smart(_) | Access::Refresh(_)) {
            return None;
        }
        let (base_url, at) = (&self.options.base_url, (self.own_now(), self.random.random()));
        match &self.options.auth {
            Access::Smart(client) => self.grants.answer(client, base_url, request, at),
            Access::Refresh(client) => self.grants.refreshed(client, base_url, request, at),
            Access::Open | Access::Basic { .. } | Access::Bearer { .. } => None,
        }
    }

    /// A refusal that looks like an answer.
    fn perhaps_refused_in_band(&mut self) -> Option<Answer> {
        if self.chance(self.faults.inband_throttled.share) {
            self.strikes.count("inband_throttled");
            return Some(outcome(StatusCode::OK, "throttled", "slow down"));
        }
        let vendor = self.faults.inband_vendor_error;
        if self.chance(vendor.share) {
            self.strikes.count("inband_vendor_error");
            let body = json!({
                "resourceType": "OperationOutcome",
                "issue": [{"severity": "fatal", "code": "processing", "details": {"coding": [{
                    "system": "urn:oid:1.2.840.114350.1.13.0.1.7.2.657369", "code": vendor.code.to_string(),
                }]}}],
            });
            return Some(fhir(Bytes::from(body.to_string())));
        }
        None
    }

    pub(super) fn route(&mut self, request: &Request) -> Draft {
        let prefix = self.options.base_url.path().trim_end_matches('/').to_owned();
        let Some(path) = request.path.strip_prefix(prefix.as_str()) else {
            return only(outcome(StatusCode::NOT_FOUND, "not-found", "no such path"));
        };
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        if request.method == Method::POST && parts == [""] && !self.dialect.no_batch {
            return self.batch(request);
        }
        if request.method != Method::GET {
            return only(outcome(
                StatusCode::METHOD_NOT_ALLOWED,
                "not-supported",
                "only GET is offered",
            ));
        }
        if let Some(record_type) = parts.first()
            && self.fails(record_type)
        {
            return only(outcome(
                StatusCode::INTERNAL_SERVER_ERROR,
                "exception",
                "not this type",
            ));
        }
        if self.dialect.no_history && parts.get(1..).is_some_and(|rest| rest.contains(&"_history")) {
            return only(outcome(
                StatusCode::NOT_FOUND,
                "not-supported",
                "no history is kept",
            ));
        }
        match parts.as_slice() {
            ["metadata"] => only(fhir(Bytes::from(
                metadata::capability_statement(&self.options.base_url, self.dialect).to_string(),
            ))),
            [record_type] if self.offers(record_type) => self.search(record_type, request),
            [record_type, "_history"] if self.offers(record_type) => {
                self.show_history(record_type, None, request)
            }
            [record_type, id, "_history"] if self.offers(record_type) => {
                self.show_history(record_type, Some(id), request)
            }
            [record_type, id] if self.offers(record_type) => self.read(record_type, id, &request.headers),
            [record_type, id, "_history", number] if self.offers(record_type) => {
                self.read_version(record_type, id, number)
            }
            _ => only(outcome(
                StatusCode::NOT_FOUND,
                "not-found",
                "no such path or record type",
            )),
        }
    }

    fn fails(&mut self, record_type: &str) -> bool {
        let fault = self.faults.fail_type;
        let meant = fault.record_type.is_some_and(|kind| kind.name() == record_type);
        let fails = meant && self.chance(fault.share);
        self.count_if(fails, "fail_type");
        fails
    }

    fn offers(&self, record_type: &str) -> bool {
        Kind::named(record_type).is_some() || self.records.knows_type(record_type)
    }

    fn search(&mut self, record_type: &str, request: &Request) -> Draft {
        let parameters: Vec<(String, String)> = form_urlencoded::parse(request.query.as_bytes())
            .into_owned()
            .collect();
        if let Some((_, link)) = parameters.iter().find(|(name, _)| name == "_page") {
            return self.paged(|world| world.further_page(record_type, link));
        }
        let reading = Reading {
            handling: handling(&request.headers),
            count_max: self.options.page_size_max,
            dialect: self.dialect,
        };
        match Search::read(record_type, &parameters, reading) {
            Ok(search) if self.dialect.needs_patient && search.lacks_patient() => only(outcome(
                StatusCode::BAD_REQUEST,
                "required",
                "a search of this type needs patient, subject or _id",
            )),
            Ok(search) => self.paged(|world| world.first_page(search)),
            Err(reason) => only(outcome(StatusCode::BAD_REQUEST, "invalid", &reason)),
        }
    }

    fn paged(&mut self, page: impl FnOnce(&mut Self) -> Result<Page, NoPage>) -> Draft {
        match page(self) {
            Ok(page) => bundle(page),
            Err(NoPage::Expired) => only(expired()),
            Err(NoPage::TooMany) => only(outcome(
                StatusCode::BAD_REQUEST,
                "too-costly",
                "more matches than a search may have",
            )),
        }
    }

    fn show_history(&mut self, record_type: &str, id: Option<&str>, request: &Request) -> Draft {
        let parameters: Vec<(String, String)> = form_urlencoded::parse(request.query.as_bytes())
            .into_owned()
            .collect();
        let reading = (handling(&request.headers), self.options.page_size_max);
        let asked = history::Asked::read(record_type, id, &parameters, reading);
        match asked.and_then(|asked| self.history(asked)) {
            Ok(page) => bundle(page),
            Err(NotShown::Expired) => only(expired()),
            Err(NotShown::Invalid(reason)) => only(outcome(StatusCode::BAD_REQUEST, "invalid", &reason)),
        }
    }

    /// Answers with what was answered before to the same address, where that differs from the present.
    fn perhaps_stale(&mut self, request: &Request, fresh: Draft) -> Draft {
        let settings = self.faults.stale_cache;
        if settings.share <= 0.0 {
            return fresh;
        }
        let now = self.now();
        let age_max = SignedDuration::from_secs(i64::from(settings.seconds));
        let url = format!("{}?{}", request.path, request.query);
        let strike = self.chance(settings.share);
        let with_age = self.random.random_bool(0.5);
        let draw: usize = self.random.random_range(0..CACHED_ANSWERS_MAX);
        if !self.cached.contains_key(&url) && self.cached.len() >= CACHED_URLS_MAX {
            self.cached.pop_first();
        }
        let kept = self.cached.entry(url).or_default();
        kept.retain(|cached| now.duration_since(cached.at) <= age_max);
        let earlier = kept
            .get(draw % kept.len().max(1))
            .filter(|cached| differs(&cached.draft, &fresh));
        let stale = earlier
            .filter(|_| strike)
            .map(|cached| (cached.at, cached.draft.clone()));
        if kept.len() >= CACHED_ANSWERS_MAX {
            kept.remove(0);
        }
        kept.push(Cached {
            at: now,
            draft: fresh.clone(),
        });
        let Some((at, mut draft)) = stale else {
            return fresh;
        };
        self.strikes.count("stale_cache");
        if with_age {
            // A cache that says its age keeps the origin's date; one that does not, writes its own.
            set(
                &mut draft.answer,
                header::AGE,
                &now.duration_since(at).as_secs().to_string(),
            );
        } else {
            self.date(&mut draft.answer);
        }
        draft
    }

    fn date(&mut self, answer: &mut Answer) {
        if self.faults.date_skew_seconds != 0 {
            self.strikes.count("date_skew_seconds");
        }
        set(answer, header::DATE, &http_date(self.date_now()));
    }
}

/// Makes an `OperationOutcome` answer.
pub(super) fn outcome(status: StatusCode, code: &str, diagnostics: &str) -> Answer {
    let body = json!({
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": code, "diagnostics": diagnostics}],
    });
    plain(status, Bytes::from(body.to_string()))
}

/// Sets a header whose value is known to be plain text.
pub(super) fn set(answer: &mut Answer, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers.insert(name, value);
    }
}

pub(super) fn plain(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Answer {
        status,
        headers: HeaderMap::new(),
        body,
        cut_at: None,
        delay: None,
        unpacked_bytes: None,
    };
    set(
        &mut answer,
        header::CONTENT_TYPE,
        "application/fhir+json;charset=utf-8",
    );
    answer
}

pub(super) fn fhir(body: Bytes) -> Answer {
    plain(StatusCode::OK, body)
}

pub(super) fn only(answer: Answer) -> Draft {
    Draft {
        answer,
        showings: Vec::new(),
    }
}

fn bundle(page: Page) -> Draft {
    Draft {
        answer: fhir(page.body),
        showings: page.showings,
    }
}

fn expired() -> Answer {
    outcome(StatusCode::GONE, "expired", "this page link has expired")
}

fn differs(one: &Draft, other: &Draft) -> bool {
    let versions = |draft: &Draft| -> Vec<(String, u64, u32)> {
        draft
            .showings
            .iter()
            .map(|showing| &showing.version)
            .map(|version| (version.id.clone(), version.number, version.edition))
            .collect()
    };
    versions(one) != versions(other)
}

pub(super) fn http_date(instant: Timestamp) -> String {
    instant.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn handling(headers: &HeaderMap) -> Handling {
    let strict = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value
                .split([',', ';'])
                .any(|part| part.trim() == "handling=strict")
        });
    if strict {
        Handling::Strict
    } else {
        Handling::Lenient
    }
}
