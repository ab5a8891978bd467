//! A connection to the file, with what seals and opens its blobs.

use std::ops::Deref;

use crate::wire::sealed::Seals;

/// A connection to the file. Statements go to the engine's own; what is sealed goes through [`Connection::seals`].
pub(super) struct Connection {
    engine: rusqlite::Connection,
    seals: Seals,
}

impl Connection {
    pub(super) fn new(engine: rusqlite::Connection, seals: Seals) -> Self {
        Self { engine, seals }
    }

    pub(super) fn seals(&self) -> &Seals {
        &self.seals
    }
}

impl Deref for Connection {
    type Target = rusqlite::Connection;

    fn deref(&self) -> &Self::Target {
        &self.engine
    }
}
