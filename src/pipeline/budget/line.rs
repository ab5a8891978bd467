//! The line of polls that wait for leave: whoever waits longest goes first. Pure.
//!
//! Polls do not stand and wait, they come back; one that does not come back when it said it would loses its place.

use std::collections::VecDeque;
use std::time::Duration;

use courier_sdk::FeedName;
use tokio::time::Instant;

/// Whoever stands behind comes back this much later for each place.
const STEP: Duration = Duration::from_millis(100);

/// A place is kept for so long after the time to come back.
const GRACE: Duration = Duration::from_secs(2);

/// The feeds that wait, the longest first, each with the end of its place.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: VecDeque<(FeedName, Instant)>,
}

impl Line {
    /// Whether a feed may go now, where so many may; else when it should come back, where it takes `wait` until the
    /// first may go.
    pub(super) fn ask(
        &mut self,
        feed: &FeedName,
        (free, wait): (usize, Duration),
        now: Instant,
    ) -> Result<(), Duration> {
        self.waiting
            .retain(|(other, kept_until)| now < *kept_until || other == feed);
        let place = self.waiting.iter().position(|(other, _)| other == feed);
        let ahead = place.unwrap_or(self.waiting.len());
        if ahead < free {
            if let Some(place) = place {
                self.waiting.remove(place);
            }
            return Ok(());
        }
        let behind = u32::try_from(ahead - free).unwrap_or(u32::MAX);
        let back_in = wait.max(STEP.saturating_mul(behind.saturating_add(1)));
        let kept_until = now + back_in + GRACE;
        match place.and_then(|place| self.waiting.get_mut(place)) {
            Some((_, kept)) => *kept = kept_until,
            None => self.waiting.push_back((feed.clone(), kept_until)),
        }
        Err(back_in)
    }

    /// Whether anybody waits.
    pub(super) fn is_empty(&self, now: Instant) -> bool {
        !self.waiting.iter().any(|(_, kept_until)| now < *kept_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(name: &str) -> FeedName {
        FeedName::parse(name).unwrap()
    }

    #[test]
    fn whoever_waits_longest_goes_first_and_the_others_come_back_later() {
        let (now, mut line) = (Instant::now(), Line::default());
        let second = Duration::from_secs(1);
        for (name, back_in) in [("a", 1_000), ("b", 1_000)] {
            let asked = line.ask(&feed(name), (0, second), now);
            assert_eq!(asked, Err(Duration::from_millis(back_in)));
        }
        let then = now + second;
        assert_eq!(
            line.ask(&feed("c"), (2, Duration::ZERO), then),
            Err(STEP),
            "two are ahead"
        );
        assert_eq!(line.ask(&feed("b"), (1, Duration::ZERO), then), Err(STEP));
        assert_eq!(line.ask(&feed("b"), (2, Duration::ZERO), then), Ok(()));
        assert_eq!(line.ask(&feed("a"), (1, Duration::ZERO), then), Ok(()));
        assert_eq!(line.ask(&feed("c"), (1, Duration::ZERO), then), Ok(()));
        assert!(line.is_empty(then));
    }

    #[test]
    fn whoever_does_not_come_back_loses_the_place() {
        let (now, mut line) = (Instant::now(), Line::default());
        assert!(line.ask(&feed("a"), (0, STEP), now).is_err());
        let then = now + STEP + GRACE;
        assert!(line.is_empty(then));
        assert_eq!(line.ask(&feed("b"), (1, STEP), then), Ok(()));
    }
}
