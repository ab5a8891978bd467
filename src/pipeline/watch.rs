//! What a worker shows of itself while it works: that its loops turn, under which labels it counts, what it traces.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::SharedString;

use super::heartbeat::Heartbeats;
use super::traces::Traces;

/// Names that get a label of their own: a source of numbers is asked for a few dozen series a name, and Prometheus
/// holds some ten thousand of one process without effort.
pub const NAMES_MAX: usize = 500;

/// The label of all names beyond.
pub const OTHER: &str = "other";

/// What a worker shows of itself.
#[derive(Debug, Default)]
pub struct Watch {
    /// That its loops turn.
    pub heartbeats: Heartbeats,
    /// How connections are called in metrics.
    pub connections: Labels,
    /// How destinations are.
    pub destinations: Labels,
    /// The connections whose waiting rows were shown last.
    pub depths: Shown<SharedString>,
    /// The connections and feeds whose lag was shown last.
    pub lags: Shown<(SharedString, SharedString)>,
    /// The connections whose budget of the day was shown last.
    pub budgets: Shown<SharedString>,
    /// The connections whose frozen feeds were counted last.
    pub frozen: Shown<SharedString>,
    /// What it traces.
    pub traces: Traces,
}

/// The series of a gauge that were shown last. A gauge keeps its value: one whose subject left the configuration must be
/// set to nothing once, or it would show its last value for ever.
#[derive(Debug)]
pub struct Shown<T>(Mutex<BTreeSet<T>>);

impl<T> Default for Shown<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Ord> Shown<T> {
    /// Notes what is shown now; answers what was shown before and is no longer.
    #[must_use]
    pub fn replace(&self, now: BTreeSet<T>) -> Vec<T> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *last, now);
        before.into_iter().filter(|one| !last.contains(one)).collect()
    }
}

/// The names of one kind that have a label of their own: the first [`NAMES_MAX`] that were asked for. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    own: Arc<Mutex<BTreeSet<Arc<str>>>>,
}

impl Labels {
    /// The label under which a name is counted: itself, or [`OTHER`].
    #[must_use]
    pub fn of(&self, name: &str) -> SharedString {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = own.get(name) {
            return Arc::clone(name).into();
        }
        if own.len() >= NAMES_MAX {
            return OTHER.into();
        }
        let name: Arc<str> = name.into();
        own.insert(Arc::clone(&name));
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_limit_share_one_label_and_earlier_ones_keep_theirs() {
        let labels = Labels::default();
        for number in 0..NAMES_MAX {
            assert_eq!(&*labels.of(&format!("c{number}")), format!("c{number}"));
        }
        assert_eq!(&*labels.of("one-more"), OTHER);
        assert_eq!(&*labels.of("another"), OTHER);
        assert_eq!(&*labels.of("c0"), "c0");
    }
}
