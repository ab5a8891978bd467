//! From a request to an answer: access, throttling, routing, and what the ledger learns of it.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use serde_json::json;
use url::form_urlencoded;

use super::bundle::{Expired, Page};
use super::clinic::Kind;
use super::history::{self, NotShown};
use super::ledger::{Extent, Showing};
use super::metadata;
use super::query::{Handling, Search};
use super::records::Version;
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
        if draft.answer.status == StatusCode::OK && request.method == Method::GET {
            draft = self.perhaps_stale(request, draft);
            draft = self.perhaps_spoiled(draft);
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

    fn refusal(&mut self, request: &Request) -> Option<Answer> {
        let admitted = match &self.options.auth {
            Access::Smart(_) | Access::Refresh(_) => self.grants.admit(&request.headers, self.own_now()),
            fixed @ (Access::Open | Access::Basic { .. } | Access::Bearer { .. }) => {
                allowed(fixed, &request.headers)
            }
        };
        if !admitted {
            let mut answer = outcome(StatusCode::UNAUTHORIZED, "login", "who are you");
            set(
                &mut answer,
                header::WWW_AUTHENTICATE,
                "Basic realm=\"sandbox\", Bearer",
            );
            return Some(answer);
        }
        if self.burst_left > 0 {
            self.burst_left -= 1;
            return Some(self.server_error());
        }
        if self.chance(self.faults.server_errors.share) {
            self.burst_left = self.faults.server_errors.burst.saturating_sub(1);
            return Some(self.server_error());
        }
        if self.chance(self.faults.throttle_with_retry_after.share) {
            self.strikes.count("throttle_with_retry_after");
            let mut answer = outcome(StatusCode::TOO_MANY_REQUESTS, "throttled", "slow down");
            set(
                &mut answer,
                header::RETRY_AFTER,
                &self.faults.throttle_with_retry_after.seconds.to_string(),
            );
            return Some(answer);
        }
        if self.chance(self.faults.throttle_without_retry_after.share) {
            self.strikes.count("throttle_without_retry_after");
            return Some(outcome(StatusCode::TOO_MANY_REQUESTS, "throttled", "slow down"));
        }
        None
    }

    fn server_error(&mut self) -> Answer {
        self.strikes.count("server_errors");
        let status = match self.random.random_range(0_u32..3) {
            0 => StatusCode::INTERNAL_SERVER_ERROR,
            1 => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        outcome(status, "transient", "not now")
    }

    fn route(&mut self, request: &Request) -> Draft {
        if request.method != Method::GET {
            return only(outcome(
                StatusCode::METHOD_NOT_ALLOWED,
                "not-supported",
                "only GET is offered",
            ));
        }
        let prefix = self.options.base_url.path().trim_end_matches('/').to_owned();
        let Some(path) = request.path.strip_prefix(prefix.as_str()) else {
            return only(outcome(StatusCode::NOT_FOUND, "not-found", "no such path"));
        };
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["metadata"] => only(fhir(Bytes::from(
                metadata::capability_statement(&self.options.base_url).to_string(),
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

    fn offers(&self, record_type: &str) -> bool {
        Kind::named(record_type).is_some() || self.records.knows_type(record_type)
    }

    fn search(&mut self, record_type: &str, request: &Request) -> Draft {
        let parameters: Vec<(String, String)> = form_urlencoded::parse(request.query.as_bytes())
            .into_owned()
            .collect();
        if let Some((_, link)) = parameters.iter().find(|(name, _)| name == "_page") {
            return match self.further_page(record_type, link) {
                Ok(page) => bundle(page),
                Err(Expired) => only(outcome(StatusCode::GONE, "expired", "this page link has expired")),
            };
        }
        let handling = handling(&request.headers);
        match Search::read(record_type, &parameters, handling, self.options.page_size_max) {
            Ok(search) => bundle(self.first_page(search)),
            Err(reason) => only(outcome(StatusCode::BAD_REQUEST, "invalid", &reason)),
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
            Err(NotShown::Expired) => {
                only(outcome(StatusCode::GONE, "expired", "this page link has expired"))
            }
            Err(NotShown::Invalid(reason)) => only(outcome(StatusCode::BAD_REQUEST, "invalid", &reason)),
        }
    }

    fn read(&mut self, record_type: &str, id: &str, headers: &HeaderMap) -> Draft {
        let Some(version) = self.records.current(record_type, id, self.now()) else {
            return only(outcome(StatusCode::NOT_FOUND, "not-found", "no such record"));
        };
        let asked = headers
            .get(header::IF_NONE_MATCH)
            .and_then(|value| value.to_str().ok());
        let tag = entity_tag(version);
        if version.body.is_some() && asked.is_some_and(|asked| asked.split(',').any(|one| one.trim() == tag))
        {
            let mut answer = plain(StatusCode::NOT_MODIFIED, Bytes::new());
            set(&mut answer, header::ETAG, &tag);
            self.not_modified += 1;
            return only(answer);
        }
        whole(version)
    }

    fn read_version(&self, record_type: &str, id: &str, number: &str) -> Draft {
        let version = number
            .parse()
            .ok()
            .and_then(|number| self.records.exact(record_type, id, number, self.now()));
        version.map_or_else(
            || only(outcome(StatusCode::NOT_FOUND, "not-found", "no such version")),
            whole,
        )
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

fn plain(status: StatusCode, body: Bytes) -> Answer {
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

fn fhir(body: Bytes) -> Answer {
    plain(StatusCode::OK, body)
}

fn only(answer: Answer) -> Draft {
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

/// Shows one version, or its delete.
fn whole(version: &Arc<Version>) -> Draft {
    let mut answer = match &version.body {
        Some(body) => fhir(body.clone()),
        None => outcome(StatusCode::GONE, "deleted", "this record was deleted"),
    };
    set(&mut answer, header::ETAG, &entity_tag(version));
    set(&mut answer, header::LAST_MODIFIED, &http_date(version.stamp));
    Draft {
        answer,
        showings: vec![Showing {
            version: Arc::clone(version),
            extent: Extent::Whole,
        }],
    }
}

fn entity_tag(version: &Version) -> String {
    format!("W/\"{}\"", version.number)
}

fn differs(one: &Draft, other: &Draft) -> bool {
    let versions = |draft: &Draft| -> Vec<(String, u64)> {
        draft
            .showings
            .iter()
            .map(|showing| (showing.version.id.clone(), showing.version.number))
            .collect()
    };
    versions(one) != versions(other)
}

fn http_date(instant: Timestamp) -> String {
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

fn allowed(access: &Access, headers: &HeaderMap) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match access {
        Access::Open => true,
        Access::Basic { user, password } => {
            given == format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
        }
        Access::Bearer { token } => given == format!("Bearer {token}"),
        Access::Smart(_) | Access::Refresh(_) => false,
    }
}
