//! Leases and the fence: who may write a connection's state.

use std::collections::BTreeMap;

use courier_sdk::ConnectionName;
use jiff::Timestamp;

use super::state::{ConnectionState, State};
use crate::domain::delivery::Fence;
use crate::store::batch::later;
use crate::store::{Holder, LeaseRequest, RenewLeases, StoreError};

/// One connection's lease.
#[derive(Default)]
pub(super) struct Lease {
    /// The number of the last grant; absent before the first.
    pub(super) fence: Option<Fence>,
    /// Who holds it, until when.
    term: Option<(Holder, Timestamp)>,
}

impl Lease {
    /// Whether the holder has it now.
    pub(super) fn is_held_by(&self, holder: &Holder, now: Timestamp) -> bool {
        matches!(&self.term, Some((by, until)) if by == holder && *until > now)
    }

    /// Ends the term; the fence stays.
    pub(super) fn lapse(&mut self) {
        self.term = None;
    }
}

impl State {
    pub(super) fn acquire_lease(&mut self, request: &LeaseRequest, now: Timestamp) -> Option<Fence> {
        let lease = &mut self.connection(&request.connection).lease;
        let taken = matches!(&lease.term, Some((holder, until)) if *holder != request.holder && *until > now);
        if taken {
            return None;
        }
        let fence = Fence(lease.fence.map_or(0, |Fence(last)| last) + 1);
        lease.fence = Some(fence);
        lease.term = Some((request.holder.clone(), later(now, request.ttl)));
        Some(fence)
    }

    pub(super) fn renew_leases(
        &mut self,
        renewal: &RenewLeases,
        now: Timestamp,
    ) -> BTreeMap<ConnectionName, Fence> {
        let mut renewed = BTreeMap::new();
        for (name, state) in &mut self.connections {
            let lease = &mut state.lease;
            if let (Some(fence), Some((holder, until))) = (lease.fence, &mut lease.term)
                && *holder == renewal.holder
            {
                *until = later(now, renewal.ttl);
                renewed.insert(name.clone(), fence);
            }
        }
        renewed
    }

    pub(super) fn release_lease(&mut self, connection: &ConnectionName, fence: Fence) {
        if let Ok(state) = self.fenced(connection, fence) {
            state.lease.lapse();
        }
    }

    /// The one fence check: answers the connection's tables to the holder of its last lease only.
    pub(super) fn fenced(
        &mut self,
        connection: &ConnectionName,
        fence: Fence,
    ) -> Result<&mut ConnectionState, StoreError> {
        match self.connections.get_mut(connection) {
            Some(state) if state.lease.fence == Some(fence) || cfg!(sabotage = "no_fence") => Ok(state),
            Some(_) | None => Err(passed_on(connection)),
        }
    }
}

fn passed_on(connection: &ConnectionName) -> StoreError {
    StoreError::Fenced {
        connection: connection.clone(),
    }
}
