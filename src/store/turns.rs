//! Turns at a destination: some places of its claims go round among those that it is not serving, so that the backlog of
//! one connection does not hold up what falls due on another. No store's own rows.

/// One of so many places goes round, the others by due time.
const PLACES_A_TURN: usize = 4;

/// A subscription on a connection: the connection's name, then the subscription's.
pub(super) type Standing = (String, String);

/// Whose turn it is at one destination. It is not kept: the next process begins anew.
#[derive(Default)]
pub(super) struct Turns {
    places: usize,
    /// Whose turn was last; the next in the order of names comes next.
    pub(super) last: Standing,
}

impl Turns {
    /// How many of a claim's places go round: every fourth over all claims, so that those of one place have some too.
    pub(super) fn keep(&mut self, places: usize) -> usize {
        self.places = self.places.saturating_add(places);
        let kept = self.places / PLACES_A_TURN;
        self.places %= PLACES_A_TURN;
        kept.min(places)
    }
}
