//! From the operating system's signals to a cancellation token.

use tokio::signal::unix::{SignalKind, signal};
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
