//!
pub mod sandbox;
