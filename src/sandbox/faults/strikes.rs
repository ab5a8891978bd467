//! Counts how often each fault struck.

use std::collections::BTreeMap;

use super::FAULT_NAMES;

/// Counts how often each fault struck.
#[derive(Debug, Clone)]
pub(in crate::sandbox) struct Strikes(BTreeMap<&'static str, u64>);

impl Strikes {
    pub(in crate::sandbox) fn new() -> Self {
        Self(
            FAULT_NAMES
                .iter()
                .filter(|name| **name != "all")
                .map(|name| (*name, 0))
                .collect(),
        )
    }

    pub(in crate::sandbox) fn count(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    pub(in crate::sandbox) fn all(&self) -> BTreeMap<&'static str, u64> {
        self.0.clone()
    }
}
