//! An agenda of connections: whose turn comes when. It runs on monotonic time, so that a wall clock that is set moves
//! nobody.

use std::collections::{BTreeMap, BTreeSet};

use courier_sdk::ConnectionName;
use tokio::time::Instant;

/// One time per connection.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    times: BTreeMap<ConnectionName, Instant>,
    order: BTreeSet<(Instant, ConnectionName)>,
}

impl Agenda {
    /// Puts a connection down, unless it comes earlier anyway.
    pub(super) fn put(&mut self, name: ConnectionName, at: Instant) {
        match self.times.get(&name) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => {
                self.order.remove(&(*later, name.clone()));
            }
            None => {}
        }
        self.order.insert((at, name.clone()));
        self.times.insert(name, at);
    }

    /// Takes the first that is due and is let pass; the others keep their places.
    pub(super) fn take_due(
        &mut self,
        now: Instant,
        passes: impl Fn(&ConnectionName) -> bool,
    ) -> Option<ConnectionName> {
        let due = self.order.iter().take_while(|(at, _)| *at <= now);
        let first = due.map(|(_, name)| name).find(|name| passes(name))?.clone();
        if let Some(at) = self.times.remove(&first) {
            self.order.remove(&(at, first.clone()));
        }
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name(text: &str) -> ConnectionName {
        ConnectionName::parse(text).unwrap()
    }

    #[test]
    fn the_earliest_comes_first_and_each_once() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut agenda = Agenda::default();
        agenda.put(name("a"), after(3));
        agenda.put(name("b"), after(1));
        agenda.put(name("a"), after(2));
        agenda.put(name("b"), after(9));
        assert_eq!(agenda.take_due(now, |_| true), None);
        assert_eq!(agenda.take_due(after(5), |_| true), Some(name("b")));
        assert_eq!(agenda.take_due(after(5), |_| true), Some(name("a")));
        assert_eq!(agenda.take_due(after(99), |_| true), None);
    }

    #[test]
    fn who_is_not_let_pass_keeps_the_place() {
        let now = Instant::now();
        let mut agenda = Agenda::default();
        agenda.put(name("a"), now);
        agenda.put(name("b"), now);
        assert_eq!(agenda.take_due(now, |it| it.as_str() != "a"), Some(name("b")));
        assert_eq!(agenda.take_due(now, |_| true), Some(name("a")));
    }
}
