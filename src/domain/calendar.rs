//! Hours of the day in which a source is asked less, or not at all.
//!
//! Hours are wall-clock time in a zone. Where a clock change leaves out an hour that a window begins or ends at, or
//! shows it twice, the window is widened to both readings: it is never shorter than anybody reads it.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};

/// The same hours of some weekdays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// When it begins.
    pub from: Time,
    /// When it ends; not after `from`: on the next day.
    pub to: Time,
    /// The weekdays on which it begins.
    pub days: Days,
    /// The zone of both.
    pub zone: TimeZone,
}

/// Some weekdays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days([bool; 7]);

/// A connection's hours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calendar {
    /// When the source is busy with its own users.
    pub peak: Option<Peak>,
    /// When it is not asked at all.
    pub maintenance: Vec<Window>,
}

/// How a source is spared while it is busy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peak {
    /// When.
    pub window: Window,
    /// The most requests a second meanwhile.
    pub requests_per_second: Option<NonZeroU32>,
    /// Feeds are polled no more often than this meanwhile.
    pub every: Option<Duration>,
}

impl Days {
    /// Every day.
    pub const ALL: Self = Self([true; 7]);

    /// The days from the first to the last, over the end of the week where the last comes before the first.
    #[must_use]
    pub fn span(first: Weekday, last: Weekday) -> Self {
        let mut days = Self([false; 7]);
        let mut day = first;
        loop {
            days.add(day);
            if day == last {
                return days;
            }
            day = day.next();
        }
    }

    /// The days of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let mut both = self;
        for (day, with) in both.0.iter_mut().zip(other.0) {
            *day |= with;
        }
        both
    }

    fn add(&mut self, day: Weekday) {
        if let Some(place) = self.0.get_mut(place_of(day)) {
            *place = true;
        }
    }

    fn holds(self, day: Weekday) -> bool {
        self.0.get(place_of(day)).copied().unwrap_or(false)
    }
}

fn place_of(day: Weekday) -> usize {
    usize::try_from(day.to_monday_zero_offset()).unwrap_or(0)
}

impl fmt::Display for Window {
    /// Its hours, days and zone: `07:00-19:00 mon,tue America/Chicago`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from.strftime("%H:%M"), self.to.strftime("%H:%M"));
        let zone = self.zone.iana_name().unwrap_or("UTC");
        write!(f, "{from}-{to} {} {zone}", self.days)
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("every day");
        }
        let names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let held = names.into_iter().zip(self.0).filter(|(_, held)| *held);
        let held: Vec<&str> = held.map(|(name, _)| name).collect();
        f.write_str(&held.join(","))
    }
}

impl Window {
    /// When the window that is open at an instant ends; `None` while none is.
    #[must_use]
    pub fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        let today = self.zone.to_datetime(now).date();
        // Yesterday's may last over midnight, and a clock change at midnight may bring tomorrow's forward.
        [today.yesterday(), Ok(today), today.tomorrow()]
            .into_iter()
            .flatten()
            .filter_map(|date| self.on(date))
            .filter(|(begins, ends)| (*begins..*ends).contains(&now))
            .map(|(_, ends)| ends)
            .max()
    }

    /// The window that begins on a day.
    fn on(&self, date: Date) -> Option<(Timestamp, Timestamp)> {
        if !self.days.holds(date.weekday()) {
            return None;
        }
        let last = if self.to > self.from {
            date
        } else {
            date.tomorrow().ok()?
        };
        let begins = self.readings(date, self.from)?;
        let ends = self.readings(last, self.to)?;
        Some((begins.0, ends.1))
    }

    /// The earlier and the later instant that a clock on the wall may mean.
    fn readings(&self, date: Date, time: Time) -> Option<(Timestamp, Timestamp)> {
        let shown = date.to_datetime(time);
        let (one, other) = match self.zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => (offset, offset),
            AmbiguousOffset::Gap { before, after } | AmbiguousOffset::Fold { before, after } => {
                (before, after)
            }
        };
        let (one, other) = (one.to_timestamp(shown).ok()?, other.to_timestamp(shown).ok()?);
        Some((one.min(other), one.max(other)))
    }
}

impl Calendar {
    /// When the maintenance that is under way ends; `None` while there is none.
    #[must_use]
    pub fn maintenance_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.maintenance
            .iter()
            .filter_map(|window| window.open_until(now))
            .max()
    }

    /// How the source is spared now; `None` where it is not.
    #[must_use]
    pub fn peak_at(&self, now: Timestamp) -> Option<&Peak> {
        self.peak
            .as_ref()
            .filter(|peak| peak.window.open_until(now).is_some())
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::time;

    use super::*;

    fn window(from: Time, to: Time, days: Days, zone: &str) -> Window {
        Window {
            from,
            to,
            days,
            zone: TimeZone::get(zone).unwrap(),
        }
    }

    fn check(window: &Window, rows: &[(&str, Option<&str>)]) {
        for (now, until) in rows {
            let found = window.open_until(now.parse().unwrap());
            let expected = until.map(|until| until.parse::<Timestamp>().unwrap());
            assert_eq!(found, expected, "{now}");
        }
    }

    #[test]
    fn a_window_is_open_on_its_days_in_its_zone() {
        let week = Days::span(Weekday::Monday, Weekday::Friday);
        let peak = window(time(7, 0, 0, 0), time(19, 0, 0, 0), week, "America/Chicago");
        check(
            &peak,
            &[
                // Friday in Chicago, six hours behind.
                ("2026-11-20T12:59:59Z", None),
                ("2026-11-20T13:00:00Z", Some("2026-11-21T01:00:00Z")),
                ("2026-11-21T00:59:59Z", Some("2026-11-21T01:00:00Z")),
                ("2026-11-21T01:00:00Z", None),
                // Saturday, Sunday, Monday.
                ("2026-11-21T15:00:00Z", None),
                ("2026-11-22T15:00:00Z", None),
                ("2026-11-23T15:00:00Z", Some("2026-11-24T01:00:00Z")),
            ],
        );
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let sundays = Days::span(Weekday::Sunday, Weekday::Sunday);
        let night = window(time(23, 0, 0, 0), time(1, 30, 0, 0), sundays, "UTC");
        check(
            &night,
            &[
                ("2026-11-22T00:30:00Z", None),
                ("2026-11-22T23:00:00Z", Some("2026-11-23T01:30:00Z")),
                ("2026-11-23T01:29:59Z", Some("2026-11-23T01:30:00Z")),
                ("2026-11-23T01:30:00Z", None),
                ("2026-11-23T23:30:00Z", None),
            ],
        );
        assert_eq!(night.to_string(), "23:00-01:30 sun UTC");
        let whole = window(time(0, 0, 0, 0), time(0, 0, 0, 0), sundays, "UTC");
        check(
            &whole,
            &[
                ("2026-11-21T23:59:59Z", None),
                ("2026-11-22T00:00:00Z", Some("2026-11-23T00:00:00Z")),
                ("2026-11-23T00:00:00Z", None),
            ],
        );
    }

    #[test]
    fn an_hour_that_is_left_out_widens_the_window_to_both_readings() {
        // On 8 March 2026 Chicago goes from 02:00 (UTC-6) to 03:00 (UTC-5) at 08:00Z.
        let begins = window(time(2, 30, 0, 0), time(3, 30, 0, 0), Days::ALL, "America/Chicago");
        check(
            &begins,
            &[
                ("2026-03-07T08:30:00Z", Some("2026-03-07T09:30:00Z")),
                ("2026-03-08T07:29:59Z", None),
                ("2026-03-08T07:30:00Z", Some("2026-03-08T08:30:00Z")),
                ("2026-03-08T08:30:00Z", None),
                ("2026-03-09T07:30:00Z", Some("2026-03-09T08:30:00Z")),
            ],
        );
        let within = window(time(2, 15, 0, 0), time(2, 45, 0, 0), Days::ALL, "America/Chicago");
        check(
            &within,
            &[
                ("2026-03-08T07:15:00Z", Some("2026-03-08T08:45:00Z")),
                ("2026-03-08T08:45:00Z", None),
            ],
        );
    }

    #[test]
    fn an_hour_that_comes_twice_is_within_both_times() {
        // On 1 November 2026 Chicago goes from 02:00 (UTC-5) back to 01:00 (UTC-6) at 07:00Z.
        let night = window(time(1, 0, 0, 0), time(1, 30, 0, 0), Days::ALL, "America/Chicago");
        check(
            &night,
            &[
                ("2026-10-31T06:00:00Z", Some("2026-10-31T06:30:00Z")),
                ("2026-11-01T05:59:59Z", None),
                ("2026-11-01T06:00:00Z", Some("2026-11-01T07:30:00Z")),
                ("2026-11-01T06:45:00Z", Some("2026-11-01T07:30:00Z")),
                ("2026-11-01T07:30:00Z", None),
                ("2026-11-02T07:00:00Z", Some("2026-11-02T07:30:00Z")),
            ],
        );
        // The other zone's changes: 29 March and 25 October 2026 at 01:00Z.
        let berlin = window(time(2, 0, 0, 0), time(3, 0, 0, 0), Days::ALL, "Europe/Berlin");
        check(
            &berlin,
            &[
                ("2026-03-29T00:00:00Z", Some("2026-03-29T01:00:00Z")),
                ("2026-03-29T01:00:00Z", None),
                ("2026-10-25T00:00:00Z", Some("2026-10-25T02:00:00Z")),
                ("2026-10-25T02:00:00Z", None),
            ],
        );
    }

    #[test]
    fn days_are_joined_and_go_over_the_end_of_the_week() {
        let days = Days::span(Weekday::Saturday, Weekday::Monday)
            .and(Days::span(Weekday::Wednesday, Weekday::Wednesday));
        let held: Vec<bool> = Weekday::Monday
            .cycle_forward()
            .take(7)
            .map(|day| days.holds(day))
            .collect();
        assert_eq!(held, [true, false, true, false, false, true, true]);
        assert_eq!(Days::span(Weekday::Tuesday, Weekday::Monday), Days::ALL);
    }

    #[test]
    fn a_calendar_knows_the_latest_end_of_what_is_open() {
        let short = window(time(2, 0, 0, 0), time(3, 0, 0, 0), Days::ALL, "UTC");
        let long = window(time(2, 30, 0, 0), time(3, 30, 0, 0), Days::ALL, "UTC");
        let calendar = Calendar {
            peak: Some(Peak {
                window: short.clone(),
                requests_per_second: NonZeroU32::new(1),
                every: None,
            }),
            maintenance: vec![short, long],
        };
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-11-20T02:45:00Z");
        assert_eq!(calendar.maintenance_until(now), Some(at("2026-11-20T03:30:00Z")));
        assert!(calendar.peak_at(now).is_some());
        assert!(calendar.peak_at(at("2026-11-20T03:00:00Z")).is_none());
    }
}
