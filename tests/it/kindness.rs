//! What a source is asked to bear, counted where it arrives: at a real HTTP server.

mod context;
mod day;
mod front;
mod rate;
mod requests;
mod rosters;
