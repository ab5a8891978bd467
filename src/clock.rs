//! The machine's clock, read here and nowhere else.

use courier_sdk::Clock;
use jiff::Timestamp;

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place where wall time is read"
    )]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
