//! The rules of the courier, without I/O: what a version is, when a change is new, who is told, when to try again.
//!
//! Nothing here reads a clock, draws a random number, touches a socket or knows a wire format; instants and
//! draws are arguments. Hence nothing here fails but on bad input, and every rule has a table of cases.

pub mod backfill;
pub mod calendar;
pub mod canonical;
pub mod delivery;
pub mod event;
pub mod fan_out;
pub mod identify;
pub mod identity;
pub mod ledger;
pub mod name;
pub mod plan;
pub mod release;
pub mod retry;
pub mod trace;
