//! EHR Courier: polls health record systems that cannot push, works out what changed, and pushes one signed
//! notification per changed record version. `ARCHITECTURE.md` has the map.

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dedup;
pub mod destination;
pub mod domain;
pub mod egress;
pub mod face;
pub mod operate;
pub mod pipeline;
pub mod receiver;
pub mod sandbox;
pub mod store;
pub mod telemetry;
pub mod wire;
