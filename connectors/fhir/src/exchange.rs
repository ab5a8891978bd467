//! One request to the source: address, headers, credentials, limits.
//!
//! Guarantees: credentials go to the base address's origin only, and never into `Debug`, errors or logs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use courier_sdk::{
    AtLimit, Clock, ConnectorError, Credentials, Http, HttpError, HttpRequest, HttpResponse, Renewal,
};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, IF_MODIFIED_SINCE, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;

use crate::bundle::outcome;
use crate::{answer, query};

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Unknown search parameters are to be refused.
const STRICT: HeaderValue = HeaderValue::from_static("handling=strict");

/// Sends requests to one source.
pub(crate) struct Exchange {
    pub(crate) base: Url,
    pub(crate) credentials: Arc<dyn Credentials>,
    pub(crate) http: Arc<dyn Http>,
    pub(crate) deadline: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    /// See [`crate::Profile::inband_limit_codes`].
    pub(crate) limit_codes: Vec<String>,
}

/// What is asked.
enum Question<'a> {
    Get(Wanted<'a>),
    /// A `batch` Bundle.
    Batch(Bytes),
}

/// Which answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    /// A search, with unknown parameters refused.
    Search,
    /// One record.
    Record,
    /// One record, unless it still has this entity tag.
    RecordUnless(&'a HeaderValue),
    /// One record, unless it was not modified since this HTTP date.
    RecordSince(&'a HeaderValue),
}

/// A request without an answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// Nothing was sent, or the answer asks for patience in place of what it was asked for.
    NotSent(ConnectorError),
    /// There is no complete answer.
    Broken(HttpError),
}

impl NoAnswer {
    /// The caller's error.
    pub(crate) fn of(self, operation: &str) -> ConnectorError {
        match self {
            Self::NotSent(error) => error,
            Self::Broken(error) => answer::broken(operation.to_owned(), &error),
        }
    }
}

impl Exchange {
    /// Asks for one address; once more with new credentials, where those shown were refused and there are new ones.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the request.
    pub(crate) async fn get(
        &self,
        operation: &str,
        url: Url,
        wanted: Wanted<'_>,
        bytes_max: usize,
    ) -> Result<HttpResponse, NoAnswer> {
        self.ask(operation, url, Question::Get(wanted), bytes_max).await
    }

    /// Sends a `batch` Bundle of reads or searches to the base address, likewise.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the request.
    pub(crate) async fn batch(
        &self,
        operation: &str,
        bundle: Bytes,
        bytes_max: usize,
    ) -> Result<HttpResponse, NoAnswer> {
        let url = self.base.clone();
        self.ask(operation, url, Question::Batch(bundle), bytes_max).await
    }

    async fn ask(
        &self,
        operation: &str,
        url: Url,
        question: Question<'_>,
        bytes_max: usize,
    ) -> Result<HttpResponse, NoAnswer> {
        if !query::same_origin(&self.base, &url) {
            let reason = "the address leads to another origin than base_url".to_owned();
            return Err(NoAnswer::NotSent(forbidden(operation, reason)));
        }
        let mut request = HttpRequest {
            method: match question {
                Question::Get(_) => Method::GET,
                Question::Batch(_) => Method::POST,
            },
            url,
            headers: HeaderMap::new(),
            body: match &question {
                Question::Get(_) => Bytes::new(),
                Question::Batch(bundle) => bundle.clone(),
            },
            deadline: self.deadline,
            response_bytes_max: bytes_max,
            at_limit: AtLimit::Fail,
        };
        let shown = self.present(operation).await?;
        request.headers = headers(&question, &shown);
        let response = self.http.send(request.clone()).await.map_err(NoAnswer::Broken)?;
        let refused = response.status == StatusCode::UNAUTHORIZED;
        if !refused || self.credentials.refused(&shown) == Renewal::Pointless {
            return self.taken_in_band(operation, response);
        }
        request.headers = headers(&question, &self.present(operation).await?);
        let response = self.http.send(request).await.map_err(NoAnswer::Broken)?;
        self.taken_in_band(operation, response)
    }

    /// Some servers say that we ask too much in the body alone, whatever the status.
    fn taken_in_band(&self, operation: &str, response: HttpResponse) -> Result<HttpResponse, NoAnswer> {
        if !outcome::names_one_of(&response.body, &self.limit_codes) {
            return Ok(response);
        }
        Err(NoAnswer::NotSent(ConnectorError::Throttled {
            operation: operation.to_owned(),
            retry_after: answer::retry_after(&response, self.clock.now()),
        }))
    }

    async fn present(&self, operation: &str) -> Result<HeaderMap, NoAnswer> {
        let shown = self.credentials.present(operation).await;
        shown.map_err(NoAnswer::NotSent)
    }
}

fn headers(question: &Question<'_>, shown: &HeaderMap) -> HeaderMap {
    let mut headers = shown.clone();
    headers.insert(ACCEPT, HeaderValue::from_static("application/fhir+json"));
    // HAPI answers a repeated search from a cache for a minute unless told otherwise.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    match question {
        Question::Batch(_) => {
            let kind = HeaderValue::from_static("application/fhir+json");
            headers.insert(CONTENT_TYPE, kind);
            // An entry has no such header of its own.
            headers.insert(PREFER, STRICT);
        }
        Question::Get(Wanted::Search) => {
            headers.insert(PREFER, STRICT);
        }
        Question::Get(Wanted::Record) => {}
        Question::Get(Wanted::RecordUnless(tag)) => {
            headers.insert(IF_NONE_MATCH, (*tag).clone());
        }
        Question::Get(Wanted::RecordSince(date)) => {
            headers.insert(IF_MODIFIED_SINCE, (*date).clone());
        }
    }
    headers
}

fn forbidden(operation: &str, reason: String) -> ConnectorError {
    ConnectorError::Forbidden {
        operation: operation.to_owned(),
        reason,
    }
}
