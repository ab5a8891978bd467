//! A recording reverse proxy: passes the courier's requests on to the server and notes what each answer showed.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::Instant;
use url::Url;

use crate::journal::Journal;

/// A running proxy.
pub(crate) struct Proxy {
    /// Where it answers.
    pub(crate) url: Url,
    upstream: OnceLock<Url>,
    client: reqwest::Client,
    journal: Mutex<Journal>,
}

impl Proxy {
    /// Starts on a free loopback port; it ends with the runtime.
    pub(crate) fn start(runtime: &Handle) -> Arc<Self> {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let client = reqwest::Client::builder().no_gzip().no_proxy().build().unwrap();
        let journal = Mutex::new(Journal::default());
        let proxy = Arc::new(Self {
            url,
            upstream: OnceLock::new(),
            client,
            journal,
        });
        let router = Router::new().fallback(pass).with_state(Arc::clone(&proxy));
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        proxy
    }

    /// Says where requests go from now on.
    pub(crate) fn set_upstream(&self, url: Url) {
        self.upstream.set(url).unwrap();
    }

    /// What the answers showed.
    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap()
    }

    async fn pass(
        &self,
        method: Method,
        uri: &Uri,
        mut headers: HeaderMap,
    ) -> Result<Response, reqwest::Error> {
        let path = uri.path().trim_matches('/');
        let path = path.strip_suffix("/_history").unwrap_or(path);
        // Several records that are read at once are read, not polled.
        let reads = uri.query().is_some_and(|query| query.contains("_id="));
        let record_type = (!reads && !path.contains('/') && path != "metadata").then_some(path);
        if let Some(record_type) = record_type {
            self.journal().asked(record_type, Instant::now());
        }
        headers.remove(header::HOST);
        headers.remove(header::ACCEPT_ENCODING);
        let url = self.upstream.get().unwrap().join(&uri.to_string()).unwrap();
        let answer = self.client.request(method, url).headers(headers).send().await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await?;
        if status == StatusCode::OK {
            match record_type {
                Some(record_type) => self.journal().answered(record_type, &body),
                None => self.journal().read(&body),
            }
        }
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response.headers_mut().remove(header::TRANSFER_ENCODING);
        Ok(response)
    }
}

async fn pass(State(proxy): State<Arc<Proxy>>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    proxy.pass(method, &uri, headers).await.unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    })
}
