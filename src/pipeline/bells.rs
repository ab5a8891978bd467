//! Doorbells between stages: "there may be work on this connection". They carry no data that is not in the store.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use courier_sdk::ConnectionName;
use tokio::sync::Notify;

/// One bell a stage.
#[derive(Debug, Default)]
pub struct Bells {
    /// Changes wait in a connection's inbox.
    pub fetch: Bell,
    /// Events wait in a connection's log.
    pub fan_out: Bell,
    /// Deliveries wait.
    pub deliver: Notify,
}

/// A bell that remembers who rang it.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<BTreeSet<ConnectionName>>,
    wake: Notify,
}

impl Bell {
    /// Says that there may be work on a connection.
    pub fn ring(&self, connection: &ConnectionName) {
        self.rung
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(connection.clone());
        self.wake.notify_one();
    }

    /// Waits until somebody rings. Cancel safe: a ring is kept for the next wait.
    pub async fn rung(&self) {
        self.wake.notified().await;
    }

    /// Takes the connections that rang since the last take.
    pub fn take(&self) -> BTreeSet<ConnectionName> {
        std::mem::take(&mut *self.rung.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
