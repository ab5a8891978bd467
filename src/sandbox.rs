//! The sandbox EHR: a FHIR R4 server of synthetic patients whose records change as a clinic's do.
//!
//! The core is pure of I/O: [`Ehr::answer`] turns a request into an answer, [`Ehr::step`] lets the clinic go
//! on by one change, and [`serve`] puts a thin HTTP face before both. The same seed, calls and clock give
//! the same answers. A [`Dialect`] says what kind of server it is, fault switches ([`Faults`]) make it misbehave as real
//! servers do; the ledger ([`Ehr::ledger`]) tells every version that an answer ever carried, and [`Ehr::kept`] all that
//! there is, hidden or not. It must know nothing of the courier.

mod answer;
mod batch;
mod bundle;
mod clinic;
mod dialect;
#[cfg(test)]
mod dialect_tests;
mod face;
mod faults;
#[cfg(test)]
mod faults_tests;
mod happenings;
mod history;
#[cfg(test)]
mod history_tests;
mod ledger;
mod metadata;
mod query;
mod reads;
mod records;
mod refresh;
mod refusals;
mod shape;
mod smart;
mod spoil;
#[cfg(test)]
mod tcp_tests;
#[cfg(test)]
mod tests;
mod text;
mod world;
mod zone;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use courier_sdk::{Clock, RecordId, RecordType};
use http::{HeaderMap, Method, StatusCode};
use serde::Serialize;
use thiserror::Error;
use url::Url;

pub use clinic::{Change, Kind};
pub use dialect::{ConditionalRead, DIALECT_NAMES, DeleteMode, Dialect, Granularity, PageStyle};
pub use face::{Pace, serve};
pub use faults::{
    Bounded, Chance, DailyCap, EqualTimestamps, FAULT_NAMES, FailType, FaultError, FaultSwitch, Faults, Hang,
    LateCommits, Maintenance, Oversized, PeakWindow, RateLimit, ServerErrors, Slow, StaleCache, Throttle,
    TruncatePage, VendorError, parse_fault,
};
pub use ledger::{Kept, Shown};
pub use refresh::RefreshClient;
pub use smart::{InvalidPublicKey, SmartClient};
pub use zone::Zone;

use records::Members;
use world::World;

/// Who may ask.
#[derive(Clone)]
pub enum Access {
    /// Everyone.
    Open,
    /// HTTP Basic with this user and password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A bearer token.
    Bearer {
        /// The token.
        token: String,
    },
    /// A token that the sandbox granted to this SMART backend service.
    Smart(SmartClient),
    /// A token that the sandbox granted for this client's refresh token.
    Refresh(RefreshClient),
}

/// How a sandbox is made.
#[derive(Clone)]
pub struct Options {
    /// The same seed gives the same world.
    pub seed: u64,
    /// The address that links begin with; its path is what request paths begin with.
    pub base_url: Url,
    /// How many patients are registered before it opens.
    pub patients: usize,
    /// The most rows of a page, whatever `_count` asks for.
    pub page_size_max: usize,
    /// Over how many days the records that exist at the start are stamped.
    pub history_days: u32,
    /// Who may ask.
    pub auth: Access,
    /// What kind of server it is from the beginning.
    pub dialect: Dialect,
}

impl Options {
    /// Returns the usual sandbox: 20 patients, pages of up to 1,000 rows, 30 days of history, open to all.
    #[must_use]
    pub fn new(seed: u64, base_url: Url) -> Self {
        Self {
            seed,
            base_url,
            patients: 20,
            page_size_max: 1_000,
            history_days: 30,
            auth: Access::Open,
            dialect: Dialect::default(),
        }
    }
}

/// A request, as the HTTP face or a simulation hands it in.
#[derive(Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, percent-encoded, with its leading slash.
    pub path: String,
    /// The query without its question mark, percent-encoded; empty for none.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Request {
    /// Makes a request without a body from an absolute address.
    #[must_use]
    pub fn new(method: Method, url: &Url, headers: HeaderMap) -> Self {
        Self {
            method,
            path: url.path().to_owned(),
            query: url.query().unwrap_or_default().to_owned(),
            headers,
            body: Bytes::new(),
        }
    }
}

/// An answer.
#[derive(Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers; `content-length` is left to the transport.
    pub headers: HeaderMap,
    /// The whole body, as it goes over the wire.
    pub body: Bytes,
    /// After how many bytes the transfer breaks off; absent for a whole transfer.
    pub cut_at: Option<usize>,
    /// How long the answer is held back; absent for not at all.
    pub delay: Option<Duration>,
    /// How many bytes the body expands to, where it is gzip-encoded.
    pub unpacked_bytes: Option<usize>,
}

/// A version that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// The record type.
    pub record_type: String,
    /// The record id.
    pub id: String,
    /// The version id.
    pub version_id: String,
    /// The version's stamp.
    pub last_updated: String,
    /// From when on it is visible, by the true clock.
    pub visible_at: String,
    /// What happened to the record.
    pub change: Change,
}

/// Why a direct write was refused.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The type or the id is not one that a record can have.
    #[error("not a record type and id")]
    Key,
    /// The body is not a JSON object.
    #[error("the body is not a JSON object")]
    Body(#[source] serde_json::Error),
    /// There is no such record, or it is deleted already.
    #[error("there is no such record")]
    Missing,
}

/// A sandbox EHR.
pub struct Ehr {
    world: Mutex<World>,
}

impl Ehr {
    /// Makes a sandbox with its first patients, practitioners and appointments.
    pub fn new(options: Options, clock: Arc<dyn Clock>) -> Self {
        Self {
            world: Mutex::new(World::new(options, clock)),
        }
    }

    /// Answers one FHIR request, and enters what the answer carries into the ledger.
    pub fn answer(&self, request: &Request) -> Answer {
        self.world().answer(request)
    }

    /// Lets the clinic go on by one change; returns the versions that it wrote, one to three.
    pub fn step(&self) -> Vec<Written> {
        self.world().step()
    }

    /// Writes a record directly. `resourceType`, `id` and `meta` are set here; every other member stays as written.
    ///
    /// # Errors
    /// [`WriteError`] when the key or the body is not usable.
    pub fn write(&self, record_type: &str, id: &str, text: &str) -> Result<Written, WriteError> {
        check_key(record_type, id)?;
        let members: Members = serde_json::from_str(text).map_err(WriteError::Body)?;
        Ok(self
            .world()
            .put(record_type, id, &members.body_text(), Change::Corrected))
    }

    /// Deletes a record directly.
    ///
    /// # Errors
    /// [`WriteError::Missing`] when there is no such record, or it is deleted already.
    pub fn delete(&self, record_type: &str, id: &str) -> Result<Written, WriteError> {
        check_key(record_type, id)?;
        self.world().delete(record_type, id).ok_or(WriteError::Missing)
    }

    /// Switches faults on and off.
    pub fn set_faults(&self, faults: Faults) {
        self.world().faults = faults;
    }

    /// Returns the switches as they stand.
    pub fn faults(&self) -> Faults {
        self.world().faults
    }

    /// Makes it another kind of server from now on; what was written before stays as it was written.
    pub fn set_dialect(&self, dialect: Dialect) {
        self.world().dialect = dialect;
    }

    /// Returns what kind of server it is.
    pub fn dialect(&self) -> Dialect {
        self.world().dialect
    }

    /// Returns every version that there is, shown or not, by type, id and age.
    pub fn kept(&self) -> Vec<Kept> {
        let world = self.world();
        world
            .records
            .everything()
            .map(|version| world.kept(version))
            .collect()
    }

    /// Returns how often each fault struck.
    pub fn strikes(&self) -> BTreeMap<&'static str, u64> {
        self.world().strikes.all()
    }

    /// Returns every version that an answer ever carried, by type, id and version.
    pub fn ledger(&self) -> Vec<Shown> {
        self.world().ledger.all()
    }

    /// The key set that must be read before this request is answered, if any.
    fn key_set_for(&self, request: &Request) -> Option<smart::KeySet> {
        let world = self.world();
        match &world.options.auth {
            Access::Smart(client) => world.grants.key_set_for(client, request),
            Access::Open | Access::Basic { .. } | Access::Bearer { .. } | Access::Refresh(_) => None,
        }
    }

    /// Withdraws the client's refresh token, as a site does that ends an authorization.
    pub fn withdraw_refresh_token(&self) {
        self.world().grants.withdraw();
    }

    /// Takes back every token that was granted.
    pub fn revoke_tokens(&self) {
        self.world().grants.revoke();
    }

    /// Returns how many tokens were granted.
    pub fn tokens_granted(&self) -> u64 {
        self.world().grants.granted
    }

    /// Returns how many reads were answered 304, without the record.
    pub fn not_modified(&self) -> u64 {
        self.world().not_modified
    }

    /// Empties the ledger.
    pub fn clear_ledger(&self) {
        self.world().ledger.clear();
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_key(record_type: &str, id: &str) -> Result<(), WriteError> {
    RecordType::parse(record_type).map_err(|_| WriteError::Key)?;
    RecordId::parse(id).map_err(|_| WriteError::Key)?;
    if id.contains(['"', '\\']) {
        Err(WriteError::Key)
    } else {
        Ok(())
    }
}
