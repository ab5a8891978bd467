//! Counts each request to a source, where it is sent: pages and records, but also statements, tokens and second tries.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use courier_sdk::{Http, HttpError, HttpRequest, HttpResponse};
use http::Method;
use metrics::SharedString;

use super::Budget;

/// What a request with a body proves (an assertion) ages while it waits; beyond this it is made anew.
const PATIENCE_WITH_BODY: Duration = Duration::from_mins(1);

/// A way out that asks a connection's budget for each request.
pub struct Metered {
    http: Arc<dyn Http>,
    budget: Arc<Budget>,
    label: SharedString,
}

impl Metered {
    /// Puts a budget before a way out; `label` is what the requests are counted under.
    #[must_use]
    pub fn new(http: Arc<dyn Http>, budget: Arc<Budget>, label: SharedString) -> Self {
        Self { http, budget, label }
    }
}

#[async_trait]
impl Http for Metered {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let patience = (request.method != Method::GET).then_some(PATIENCE_WITH_BODY);
        let under_way = self
            .budget
            .request(patience)
            .await
            .map_err(|wait| HttpError::Held { wait })?;
        let answer = self.http.send(request).await;
        drop(under_way);
        metrics::counter!(
            "courier_ehr_requests_total",
            "connection" => self.label.clone(), "outcome" => outcome(&answer)
        )
        .increment(1);
        answer
    }
}

fn outcome(answer: &Result<HttpResponse, HttpError>) -> &'static str {
    let Ok(response) = answer else {
        return "failed";
    };
    match response.status.as_u16() {
        200..=299 => "ok",
        304 => "unchanged",
        401 => "unauthorized",
        429 => "throttled",
        300..=499 => "refused",
        _ => "failed",
    }
}
