//! What is odd about each server: one test for each, which says that it is still so, and what the connector makes of it.

mod helios;
mod medplum;
mod source;
