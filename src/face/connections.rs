//! The connections of a listener: so many at once, each with a bounded wait for its request.
//!
//! Whoever reaches the listener needs no token to connect: a client that opens many connections, or never ends its
//! header, must not take the process's memory and descriptors. It must not know what is answered.

use std::io::{Error, ErrorKind};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// The most connections at once; the next waits in the system's queue.
const CONNECTIONS_MAX: usize = 256;

/// How long a client may take to send the header of its next request, from its connection or the answer before.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);

/// How long nothing is accepted after the system could not: it lacks descriptors or memory.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Answers on a listener until `stop`, and then what is in progress.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: &CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // One that panicked is a request without an answer; the hook has said so.
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
        };
        match accepted {
            Ok((stream, _peer)) => {
                connections.spawn(answer(http.clone(), stream, router.clone(), stop.clone()));
            }
            Err(error) if is_the_peers(&error) => debug!(%error, "a connection was lost before it was taken"),
            Err(error) => {
                warn!(%error, "no connection can be taken");
                stop.run_until_cancelled(tokio::time::sleep(ACCEPT_AGAIN)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Answers the requests of one connection; told to stop, it ends after the one in progress.
async fn answer(http: http1::Builder, stream: TcpStream, router: Router, stop: CancellationToken) {
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended early");
    }
}

fn is_the_peers(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}
