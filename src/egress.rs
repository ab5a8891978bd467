//! Outbound HTTP: which addresses may be reached, and the one client that reaches them.
//!
//! [`guard`] decides, without I/O; [`client`] asks it before each request and again for each resolved address,
//! so that neither a literal nor a name can lead where the policy does not.

pub mod client;
pub mod guard;
pub mod socket;
