//! Claim: takes due deliveries from the store while others are being attempted, so that a destination need not wait for
//! the store: as many as may be in flight to it, and a few ahead, as many as it is likely to take within an instant.
//!
//! What was claimed ahead and finds no place soon, because the destination hangs by now, is given back. It must not know
//! how anything is attempted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use super::Worker;
use super::limits::Limits;
use super::record::{Supply, unwrap_panic};
use crate::domain::delivery::ClaimedDelivery;
use crate::domain::name::DestinationName;
use crate::store::{ClaimDeliveries, DueDestinations, StoreError};

/// What a destination takes within this time, at its pace since the last claim, is claimed ahead for it: a few times
/// what a claim needs behind a commit.
const AHEAD: Duration = Duration::from_millis(10);

/// The pace of a destination is taken anew at most this often: within less it says nothing.
const PACE_WINDOW: Duration = Duration::from_millis(5);

/// For so long the destinations that had more to send are taken to have more, without asking the store again.
/// Longer, and a record's next version to another destination would wait as long.
const DUE_TRUSTED: Duration = Duration::from_millis(20);

/// What waits for a place longer than this is given back: meanwhile its subscription may have been paused or changed, or
/// its lease lost.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The claimed deliveries of one stage that are not attempted yet, and how many are being attempted.
pub(super) struct Claiming {
    worker: Arc<Worker>,
    lanes: BTreeMap<DestinationName, Lane>,
    flying: usize,
    /// At most one claim: what falls due meanwhile is the next one's.
    under_way: JoinSet<Result<Found, StoreError>>,
    /// What the next claim is for.
    asked: Option<Look>,
    supply: Supply,
    due: DueDestinations,
    due_seen: Option<Instant>,
    paced: Instant,
}

/// Why the store is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Look {
    /// There is room for more.
    ForMore,
    /// Something new may be due.
    ForNew,
}

/// One destination's.
#[derive(Default)]
struct Lane {
    flying: usize,
    waiting: VecDeque<(ClaimedDelivery, Instant)>,
    /// Attempts that have ended since the pace was taken.
    ended: usize,
    /// How many more than may be in flight are claimed.
    ahead: usize,
}

impl Lane {
    fn has_room(&self, most: usize) -> bool {
        let room = (most + self.ahead).saturating_sub(self.held());
        room >= most / 2 + self.ahead / 4
    }

    fn held(&self) -> usize {
        self.flying + self.waiting.len()
    }
}

/// What one look at the store brought.
struct Found {
    claimed: Vec<ClaimedDelivery>,
    supply: Supply,
    /// Absent when the store was not asked.
    due: Option<DueDestinations>,
}

/// A claimed delivery whose turn has come.
pub(super) enum Turn {
    /// There is a place for it.
    Attempt(ClaimedDelivery),
    /// It has waited too long: its claim ends.
    GiveBack(ClaimedDelivery),
}

impl Claiming {
    /// Nothing is claimed yet.
    pub(super) fn new(worker: Arc<Worker>) -> Self {
        Self {
            worker,
            lanes: BTreeMap::new(),
            flying: 0,
            under_way: JoinSet::new(),
            asked: None,
            supply: Supply::Dry,
            due: DueDestinations::default(),
            due_seen: None,
            paced: Instant::now(),
        }
    }

    /// Whether more will end soon than is under way now.
    pub(super) fn supply(&self) -> Supply {
        if self.lanes.values().all(|lane| lane.waiting.is_empty()) {
            self.supply
        } else {
            Supply::Ample
        }
    }

    /// When the next delivery falls due, as far as was seen.
    pub(super) fn next_due_at(&self) -> Option<Timestamp> {
        self.due.next_due_at
    }

    /// Asks for a claim as soon as there can be one.
    pub(super) fn ask(&mut self, look: Look) {
        self.asked = self.asked.max(Some(look));
    }

    /// Begins a claim if somebody asked for one and none is under way.
    pub(super) fn begin(&mut self) {
        let Some(look) = self.asked.filter(|_| self.under_way.is_empty()) else {
            return;
        };
        self.asked = None;
        self.take_pace();
        self.lanes
            .retain(|_, lane| lane.held() + lane.ended + lane.ahead > 0);
        let held = self.lanes.iter().map(|(name, lane)| {
            let held = Held {
                claimed: lane.held(),
                ahead: lane.ahead,
            };
            (name.clone(), held)
        });
        let known = self.due_seen.is_some_and(|seen| seen.elapsed() < DUE_TRUSTED);
        let known = look == Look::ForMore && known && self.supply == Supply::Ample;
        let known = known.then(|| self.due.due.clone());
        let claim = claim(Arc::clone(&self.worker), known, held.collect());
        self.under_way.spawn(claim);
    }

    /// Sees how fast each destination takes what it is sent.
    fn take_pace(&mut self) {
        let since = self.paced.elapsed();
        if since < PACE_WINDOW {
            return;
        }
        self.paced = Instant::now();
        let most = self.worker.limits.claimed_ahead;
        for lane in self.lanes.values_mut() {
            lane.ahead = ahead(lane.ended, since).min(most);
            lane.ended = 0;
        }
    }

    /// Waits for the claim that is under way and takes in what it brought; `None` when there is none.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    ///
    /// **Cancel safety.** The claim goes on, and is waited for the next time.
    pub(super) async fn found(&mut self) -> Option<Result<(), StoreError>> {
        let joined = self.under_way.join_next().await?;
        let found = match unwrap_panic(joined)? {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        let now = Instant::now();
        for claimed in found.claimed {
            let name = claimed.delivery.destination.clone();
            self.lanes
                .entry(name)
                .or_default()
                .waiting
                .push_back((claimed, now));
        }
        self.supply = found.supply;
        if let Some(due) = found.due {
            self.due = due;
            self.due_seen = Some(now);
        }
        Some(Ok(()))
    }

    /// The next claimed deliveries, as far as there are places for them; the emptiest destinations come first.
    pub(super) fn turns(&mut self) -> Vec<Turn> {
        let claimants = self.lanes.values().filter(|lane| lane.held() > 0).count();
        let share = share(&self.worker.limits, claimants);
        let mut queued: Vec<&mut Lane> = self
            .lanes
            .values_mut()
            .filter(|lane| !lane.waiting.is_empty() && lane.flying < share)
            .collect();
        queued.sort_by_key(|lane| lane.flying);
        let mut turns = Vec::new();
        for lane in queued {
            while lane.flying < share
                && self.flying < self.worker.limits.in_flight
                && let Some((claimed, since)) = lane.waiting.pop_front()
            {
                if since.elapsed() > WAIT_MAX {
                    turns.push(Turn::GiveBack(claimed));
                } else {
                    lane.flying += 1;
                    self.flying += 1;
                    turns.push(Turn::Attempt(claimed));
                }
            }
        }
        turns
    }

    /// Notes that an attempt has ended; answers whether there is room for many more.
    pub(super) fn ended(&mut self, name: &DestinationName) -> bool {
        let most = self.worker.limits.in_flight_per_destination;
        let Some(lane) = self.lanes.get_mut(name) else {
            return false;
        };
        lane.flying = lane.flying.saturating_sub(1);
        lane.ended += 1;
        self.flying = self.flying.saturating_sub(1);
        lane.has_room(most)
    }

    /// Takes everything that is claimed and not attempted, a claim under way included.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    pub(super) async fn give_up(&mut self) -> Result<Vec<ClaimedDelivery>, StoreError> {
        if let Some(found) = self.found().await {
            found?;
        }
        let waiting = self.lanes.values_mut().flat_map(|lane| lane.waiting.drain(..));
        Ok(waiting.map(|(claimed, _)| claimed).collect())
    }
}

/// How many deliveries end within [`AHEAD`] at the pace of so many in a time.
fn ahead(ended: usize, within: Duration) -> usize {
    let micros = within.as_micros().max(1);
    usize::try_from(ended as u128 * AHEAD.as_micros() / micros).unwrap_or(usize::MAX)
}

/// What of a destination is claimed already.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    /// In flight or waiting for a place.
    claimed: usize,
    ahead: usize,
}

/// Claims due deliveries while there is room, for the destinations with the fewest first.
async fn claim(
    worker: Arc<Worker>,
    known: Option<BTreeSet<DestinationName>>,
    held: BTreeMap<DestinationName, Held>,
) -> Result<Found, StoreError> {
    let asked = match &known {
        Some(_) => None,
        None => Some(
            worker
                .store
                .due_destinations(&worker.holder, worker.clock.now())
                .await?,
        ),
    };
    let due = known
        .or_else(|| asked.as_ref().map(|asked| asked.due.clone()))
        .unwrap_or_default();
    let rooms = rooms(&due, &held, &worker.limits);
    let mut found = Found {
        claimed: Vec::new(),
        supply: if rooms.len() < due.len() {
            Supply::Ample
        } else {
            Supply::Dry
        },
        due: asked,
    };
    let mut left = worker.limits.in_flight + worker.limits.claimed_ahead;
    left = left.saturating_sub(held.values().map(|held| held.claimed).sum());
    for (name, room) in rooms {
        if !worker.destinations.contains_key(&name) {
            debug!(destination = %name, "deliveries wait for a destination that is not configured");
            continue;
        }
        let limit = room.min(left);
        if limit == 0 {
            found.supply = Supply::Ample;
            continue;
        }
        let claim = ClaimDeliveries {
            holder: worker.holder.clone(),
            destination: name,
            limit,
            at: worker.clock.now(),
        };
        let claimed = worker.store.claim_deliveries(&claim).await?;
        if claimed.len() == limit {
            found.supply = Supply::Ample;
        }
        left -= claimed.len();
        found.claimed.extend(claimed);
    }
    Ok(found)
}

/// How many deliveries each of so many destinations may have in flight: its own limit, and no more than an even share of
/// all that may be, so that destinations which hang leave room for those that answer.
fn share(limits: &Limits, claimants: usize) -> usize {
    // One share more than there are claimants stays free for whoever comes next.
    let even = (limits.in_flight / (claimants + 1)).max(1);
    limits.in_flight_per_destination.min(even)
}

/// How many more are claimed for each due destination. Those with the fewest come first.
fn rooms(
    due: &BTreeSet<DestinationName>,
    held: &BTreeMap<DestinationName, Held>,
    limits: &Limits,
) -> Vec<(DestinationName, usize)> {
    let claimants: BTreeSet<&DestinationName> = due.iter().chain(held.keys()).collect();
    let share = share(limits, claimants.len());
    let of = |name: &DestinationName| held.get(name).copied().unwrap_or_default();
    let mut rooms: Vec<(DestinationName, usize)> = due
        .iter()
        .map(|name| {
            (
                name.clone(),
                (share + of(name).ahead).saturating_sub(of(name).claimed),
            )
        })
        .collect();
    rooms.retain(|(_, room)| *room > 0);
    rooms.sort_by_key(|(name, _)| of(name).claimed);
    rooms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DestinationName {
        DestinationName::parse(text).unwrap()
    }

    #[test]
    fn destinations_that_hang_leave_room_for_those_that_answer() {
        let limits = Limits::default();
        let due: BTreeSet<DestinationName> = ["a", "b", "c", "d", "e", "f", "g", "h", "z"].map(name).into();
        let mut in_flight = BTreeMap::new();
        for hanging in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            in_flight.insert(
                name(hanging),
                Held {
                    claimed: 50,
                    ahead: 0,
                },
            );
        }
        let rooms = rooms(&due, &in_flight, &limits);
        assert_eq!(rooms.first().map(|(name, _)| name.as_str()), Some("z"));
        let wanted: usize = rooms.iter().map(|(_, room)| room).sum();
        assert!(wanted + 400 <= limits.in_flight, "nobody is crowded out");
    }

    #[test]
    fn a_single_destination_has_its_whole_limit() {
        let limits = Limits::default();
        let rooms = rooms(&[name("only")].into(), &BTreeMap::new(), &limits);
        assert_eq!(rooms, [(name("only"), limits.in_flight_per_destination)]);
    }

    #[test]
    fn only_what_a_destination_takes_within_an_instant_is_claimed_ahead() {
        assert_eq!(ahead(64, Duration::from_millis(2)), 320, "32,000 a second");
        assert_eq!(ahead(64, Duration::from_millis(100)), 6, "640 a second");
        assert_eq!(ahead(0, Duration::from_secs(15)), 0, "it hangs");
        assert_eq!(ahead(0, Duration::ZERO), 0);
        let held = BTreeMap::from([(
            name("fast"),
            Held {
                claimed: 40,
                ahead: 192,
            },
        )]);
        let rooms = rooms(&[name("fast")].into(), &held, &Limits::default());
        assert_eq!(rooms, [(name("fast"), 64 + 192 - 40)]);
    }
}
