//! The ways out: which addresses may be reached, the one client that reaches them over HTTP, and the one way to dial a
//! message broker.
//!
//! [`guard`] decides, without I/O; [`client`] asks it before each request and again for each resolved address,
//! so that neither a literal nor a name can lead where the policy does not; [`route`] says whom it trusts and through
//! which proxy it goes; [`dial`] asks it for each address it dials.

pub mod client;
pub mod dial;
pub mod guard;
pub mod route;
pub mod socket;
