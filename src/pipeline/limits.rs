//! The pipeline's limits, each with its number's reason.

use std::time::Duration;

/// How much work is held at once, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Polls under way at once over all connections.
    pub polls: usize,
    /// Pages of one poll before other feeds get their turn; the poll goes on where it was.
    pub pages_per_turn: usize,
    /// Changes waiting in a connection's inbox above which its feeds skip their turn: the source keeps them for us.
    pub inbox: u64,
    /// Events of a connection waiting for fan-out above which its feeds skip their turn.
    pub log: u64,
    /// Versions that a feed's stage may collect; above, the feed catches up by its current state.
    pub stage: u64,
    /// Records that a feed may list for its listings to be compared; above, nothing is concluded from them.
    pub roll: usize,
    /// Deletes that reads find within ten minutes, however few records they read, that are no burst.
    pub usual_deletes: u64,
    /// Deliveries of one subscription on one connection above which nothing more is materialised.
    pub outbox: u64,
    /// Changes of one connection fetched in one batch.
    pub fetch_batch: usize,
    /// Connections fetched from at once.
    pub fetch_batches: usize,
    /// Failed fetches of a change before it goes to quarantine.
    pub fetch_attempts: u32,
    /// Claims of a change that ended without a word (its worker died) before it goes to quarantine.
    pub fetch_claims: u32,
    /// Events read for one slice of fan-out.
    pub fan_out_events: usize,
    /// Deliveries written by one slice of fan-out.
    pub fan_out_rows: usize,
    /// Deliveries in flight to one destination.
    pub in_flight_per_destination: usize,
    /// Deliveries in flight over all destinations.
    pub in_flight: usize,
    /// Attempts that have ended and are not recorded yet, above which nothing more is claimed: after a crash at most
    /// these and those in flight are sent again. Half of them fill a batch.
    pub unrecorded: usize,
    /// How long a lease lasts without renewal.
    pub lease_ttl: Duration,
    /// How often it is renewed.
    pub lease_renewal: Duration,
    /// How long a worker trusts it after the last renewal was sent, by its own monotonic clock.
    pub lease_trust: Duration,
    /// How long what is in flight may take after a stop.
    pub shutdown_grace: Duration,
    /// A lost ring costs at most this.
    pub fallback: Duration,
    /// How often settled state is swept.
    pub sweep_every: Duration,
    /// How long settled deliveries and their events are kept.
    pub retention: Duration,
    /// The largest rewind of a cursor that the accepted ids must outlive.
    pub rewind_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            polls: 256,
            pages_per_turn: 20,
            inbox: 10_000,
            log: 100_000,
            stage: 1_000_000,
            // Some hundred megabytes while a listing runs.
            roll: 1_000_000,
            usual_deletes: 20,
            outbox: 100_000,
            fetch_batch: 16,
            fetch_batches: 64,
            fetch_attempts: 8,
            fetch_claims: 3,
            fan_out_events: 500,
            fan_out_rows: 1_000,
            in_flight_per_destination: 64,
            in_flight: 512,
            unrecorded: 256,
            lease_ttl: Duration::from_secs(30),
            lease_renewal: Duration::from_secs(10),
            lease_trust: Duration::from_secs(20),
            shutdown_grace: Duration::from_secs(20),
            fallback: Duration::from_secs(2),
            sweep_every: Duration::from_mins(1),
            retention: Duration::from_hours(168),
            rewind_max: Duration::from_hours(24),
        }
    }
}
