//! The sandbox's own zone: where its days begin, and with which offset it writes its stamps.
//!
//! Pure. A day of a zone may have 23 or 25 hours: nothing here counts hours.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// The zones that a sandbox can be in: one without changes of clocks, and two that change them at different times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Zone {
    /// Coordinated universal time.
    #[default]
    #[serde(rename = "UTC")]
    Utc,
    /// Berlin: at 02:00 the clocks go forward in spring, at 03:00 they go back in autumn.
    #[serde(rename = "Europe/Berlin")]
    Berlin,
    /// New York: both at 02:00.
    #[serde(rename = "America/New_York")]
    NewYork,
}

impl Zone {
    fn name(self) -> &'static str {
        match self {
            Self::Utc => "UTC",
            Self::Berlin => "Europe/Berlin",
            Self::NewYork => "America/New_York",
        }
    }

    /// The zone's rules; UTC's where this machine does not know them.
    pub(super) fn rules(self) -> TimeZone {
        match self {
            Self::Utc => TimeZone::UTC,
            Self::Berlin | Self::NewYork => TimeZone::get(self.name()).unwrap_or(TimeZone::UTC),
        }
    }

    /// When a day begins here.
    pub(super) fn midnight(self, day: Date) -> Option<Timestamp> {
        let began = day.to_zoned(self.rules()).ok()?;
        Some(began.timestamp())
    }

    /// When the day began that an instant falls on.
    pub(super) fn day_of(self, instant: Timestamp) -> Timestamp {
        let day = self.rules().to_datetime(instant).date();
        self.midnight(day).unwrap_or(instant)
    }

    /// When the day after begins.
    pub(super) fn day_after(self, instant: Timestamp) -> Timestamp {
        let day = self.rules().to_datetime(instant).date();
        let next = day.checked_add(1.day()).ok();
        next.and_then(|next| self.midnight(next)).unwrap_or(instant)
    }

    /// What the clock on the wall shows, as if it were universal time.
    pub(super) fn on_the_wall(self, instant: Timestamp) -> Timestamp {
        let shown = self.rules().to_datetime(instant);
        shown
            .to_zoned(TimeZone::UTC)
            .map_or(instant, |zoned| zoned.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_a_zone_lasts_as_long_as_its_clocks_say() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let rows = [
            (
                Zone::Utc,
                "2026-10-25T12:00:00Z",
                "2026-10-25T00:00:00Z",
                "2026-10-26T00:00:00Z",
            ),
            (
                Zone::Berlin,
                "2026-10-25T12:00:00Z",
                "2026-10-24T22:00:00Z",
                "2026-10-25T23:00:00Z",
            ),
            (
                Zone::Berlin,
                "2027-03-28T12:00:00Z",
                "2027-03-27T23:00:00Z",
                "2027-03-28T22:00:00Z",
            ),
            (
                Zone::NewYork,
                "2026-11-01T12:00:00Z",
                "2026-11-01T04:00:00Z",
                "2026-11-02T05:00:00Z",
            ),
            (
                Zone::NewYork,
                "2027-03-14T12:00:00Z",
                "2027-03-14T05:00:00Z",
                "2027-03-15T04:00:00Z",
            ),
        ];
        for (zone, noon, begins, ends) in rows {
            assert_eq!(zone.day_of(at(noon)), at(begins), "{zone:?} {noon}");
            assert_eq!(zone.day_after(at(noon)), at(ends), "{zone:?} {noon}");
        }
        let twice = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"];
        assert!(
            twice
                .iter()
                .all(|instant| { Zone::Berlin.on_the_wall(at(instant)) == at("2026-10-25T02:30:00Z") })
        );
    }
}
