//! The integration tests: one binary, one module a subject.

#[cfg(test)]
mod config;
#[cfg(test)]
mod egress;
#[cfg(test)]
mod store_contract;
