//! Integration tests: parts of the courier over real TCP and real files, each alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the functions that tests share may fail the test"
)]

mod egress;
