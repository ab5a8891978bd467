//! One request to the source: address, headers, credentials, limits.
//!
//! Guarantees: credentials go to the base address's origin only, and never into `Debug`, errors or logs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use courier_sdk::{
    AtLimit, ConnectorError, Credentials, Http, HttpError, HttpRequest, HttpResponse, Renewal,
};
use http::header::{ACCEPT, CACHE_CONTROL, IF_MODIFIED_SINCE, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;

use crate::{answer, query};

/// Sends requests to one source.
pub(crate) struct Exchange {
    pub(crate) base: Url,
    pub(crate) credentials: Arc<dyn Credentials>,
    pub(crate) http: Arc<dyn Http>,
    pub(crate) deadline: Duration,
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
    /// Nothing was sent.
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
        if !query::same_origin(&self.base, &url) {
            let reason = "the address leads to another origin than base_url".to_owned();
            return Err(NoAnswer::NotSent(forbidden(operation, reason)));
        }
        let mut request = HttpRequest {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            deadline: self.deadline,
            response_bytes_max: bytes_max,
            at_limit: AtLimit::Fail,
        };
        let shown = self.present(operation).await?;
        request.headers = headers(wanted, &shown);
        let response = self.http.send(request.clone()).await.map_err(NoAnswer::Broken)?;
        let refused = response.status == StatusCode::UNAUTHORIZED;
        if !refused || self.credentials.refused(&shown) == Renewal::Pointless {
            return Ok(response);
        }
        request.headers = headers(wanted, &self.present(operation).await?);
        self.http.send(request).await.map_err(NoAnswer::Broken)
    }

    async fn present(&self, operation: &str) -> Result<HeaderMap, NoAnswer> {
        let shown = self.credentials.present(operation).await;
        shown.map_err(NoAnswer::NotSent)
    }
}

fn headers(wanted: Wanted<'_>, shown: &HeaderMap) -> HeaderMap {
    let mut headers = shown.clone();
    headers.insert(ACCEPT, HeaderValue::from_static("application/fhir+json"));
    // HAPI answers a repeated search from a cache for a minute unless told otherwise.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    match wanted {
        Wanted::Search => {
            headers.insert(
                HeaderName::from_static("prefer"),
                HeaderValue::from_static("handling=strict"),
            );
        }
        Wanted::Record => {}
        Wanted::RecordUnless(tag) => {
            headers.insert(IF_NONE_MATCH, tag.clone());
        }
        Wanted::RecordSince(date) => {
            headers.insert(IF_MODIFIED_SINCE, date.clone());
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
