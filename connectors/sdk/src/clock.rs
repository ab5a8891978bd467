//! The one place where wall time enters the courier.
//!
//! Delays and deadlines use tokio's clock; this trait answers only "what time is it", so that a simulated
//! day can run in seconds and repeat exactly.

use std::fmt::Debug;

use jiff::Timestamp;

/// Answers the current wall time.
pub trait Clock: Send + Sync + Debug {
    /// Returns the current instant, in UTC. It may step back when the machine's clock is corrected.
    fn now(&self) -> Timestamp;
}
