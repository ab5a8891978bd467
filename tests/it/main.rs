//! Tests of the whole, in one binary.

mod store_contract;
