//! From the operating system's signals to what the service waits for.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A token that is cancelled at the first SIGTERM or SIGINT.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) fn until_terminated() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = stop.clone();
    let wait = async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("draining");
        token.cancel();
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "it lives as long as the process and only cancels a token"
    )]
    tokio::spawn(wait);
    Ok(stop)
}

/// What is notified at each SIGHUP; those that come while nobody waits count as one.
///
/// # Errors
/// When the handler cannot be installed.
pub(super) fn on_hangup() -> std::io::Result<Arc<Notify>> {
    let asked = Arc::new(Notify::new());
    let mut hangup = signal(SignalKind::hangup())?;
    let notify = Arc::clone(&asked);
    let wait = async move {
        while hangup.recv().await.is_some() {
            notify.notify_one();
        }
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "it lives as long as the process and only notifies"
    )]
    tokio::spawn(wait);
    Ok(asked)
}
