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

    /// Whether a fault may strike once more, where it may so often at most; 0 is no limit.
    pub(in crate::sandbox) fn are_below(&self, name: &'static str, times: u32) -> bool {
        times == 0 || self.0.get(name).copied().unwrap_or_default() < u64::from(times)
    }

    pub(in crate::sandbox) fn all(&self) -> BTreeMap<&'static str, u64> {
        self.0.clone()
    }
}
