//! Requests to a Unix socket of this machine: how commands reach a running service.

use std::path::Path;

use async_trait::async_trait;
use courier_sdk::{Http, HttpError, HttpRequest, HttpResponse};
use futures_util::TryFutureExt as _;
use reqwest::Client;
use reqwest::redirect::Policy;

use super::client::{ClientUnavailable, Limit, classify, root_cause};

/// Sends requests to one socket, whatever host they name. No address guard: a path of this machine is no address.
#[derive(Debug, Clone)]
pub struct SocketClient {
    client: Client,
}

impl SocketClient {
    /// Makes a client of the socket at a path; nothing is opened yet.
    ///
    /// # Errors
    /// [`ClientUnavailable`] when the HTTP client cannot be set up.
    pub fn new(path: &Path) -> Result<Self, ClientUnavailable> {
        let client = Client::builder()
            .unix_socket(path)
            .redirect(Policy::none())
            .no_proxy()
            .http1_only()
            .retry(reqwest::retry::never())
            .tls_certs_only([])
            .build()
            .map_err(|error| ClientUnavailable::because(root_cause(&error)))?;
        Ok(Self { client })
    }
}

#[async_trait]
impl Http for SocketClient {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let limit = Limit::of(&request);
        let asking = self
            .client
            .request(request.method, request.url)
            .headers(request.headers)
            .body(request.body)
            .send();
        limit.answer(asking.map_err(|error| classify(&error))).await
    }
}
