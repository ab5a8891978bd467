//! The contract between EHR Courier and its connectors.
//!
//! A [`Connector`] speaks one protocol to one source system. It does one bounded thing at a time, on
//! request: answer one page of "what changed since this cursor", or read one record. It keeps no place
//! of its own: what it must remember between two calls travels in the opaque [`Cursor`] and [`Resume`],
//! which the courier stores in the same transaction as the changes that they cover.
//!
//! This crate knows nothing of stores, events, subscriptions or deliveries.

pub mod change;
pub mod clock;
pub mod connector;
pub mod context;
pub mod credentials;
pub mod detection;
pub mod error;
pub mod http;
pub mod id;
pub mod meaning;
pub mod record;
pub mod scope;

pub use change::{ChangePage, ChangeRef, Next, Novelty, PageOrder, Shown};
pub use clock::Clock;
pub use connector::{
    Connector, FeedSpec, FetchMode, FetchRequest, Fetched, NotFound, PollRequest, Start, VersionRule,
};
pub use context::{Context, Include, InvalidInclude, Reference};
pub use credentials::{Credentials, Fixed, Renewal};
pub use detection::{DeleteSight, Detect, Detection, Granularity, Strategy};
pub use error::ConnectorError;
pub use http::{AtLimit, Http, HttpError, HttpRequest, HttpResponse};
pub use id::{ConnectionName, FeedName, InvalidName, RecordId, RecordKey, RecordType};
pub use meaning::Meaning;
pub use record::{Cursor, Record, Resume};
pub use scope::{Aim, DateWindow, Ids, Roster, Scope};
