//! FHIR instants and HTTP dates, normalised to UTC.
//!
//! Servers write one and the same moment as `…898Z`, `…898575850+00:00` or with any other offset, so
//! instants are never compared as text.

use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// Reads a FHIR instant of any precision and offset.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Reads an HTTP date (RFC 9110, the form that senders must use).
pub(crate) fn parse_http_date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
}

/// Writes an instant with milliseconds and `Z`, cutting off what is finer: never later than the instant.
/// `Z` and not an offset, because a raw `+` in a query means a space.
pub(crate) fn floor_text(instant: Timestamp) -> String {
    instant.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// Writes an upper bound with milliseconds and `Z`: one millisecond after the instant's own, because a
/// server may keep finer stamps than it shows.
pub(crate) fn ceiling_text(instant: Timestamp) -> String {
    floor_text(instant.saturating_add(1.millisecond()).unwrap_or(Timestamp::MAX))
}

/// Zones reach from so many hours behind UTC to so many ahead.
const HOURS_BEHIND: u64 = 12;
const HOURS_AHEAD: u32 = 14;

/// The earliest beginning, in any zone, of the last day that has begun everywhere by this instant.
pub(crate) fn day_floor(instant: Timestamp) -> Timestamp {
    let everywhere = back(instant, Duration::from_hours(HOURS_BEHIND));
    let into_the_day = everywhere.as_second().rem_euclid(86_400).unsigned_abs();
    let midnight = Timestamp::from_second(everywhere.as_second()).unwrap_or(Timestamp::UNIX_EPOCH);
    back(
        midnight,
        Duration::from_secs(into_the_day) + Duration::from_hours(u64::from(HOURS_AHEAD)),
    )
}

/// Writes the latest day, in any zone, that an instant falls on: of a [`day_floor`] the day that it is the earliest
/// beginning of.
pub(crate) fn latest_day_text(instant: Timestamp) -> String {
    let latest = instant
        .saturating_add(i64::from(HOURS_AHEAD).hours())
        .unwrap_or(Timestamp::MAX);
    latest.strftime("%Y-%m-%d").to_string()
}

/// Steps back, no further than 1970: no FHIR server has older stamps, and years need four digits.
pub(crate) fn back(instant: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    instant
        .checked_sub(by)
        .unwrap_or(Timestamp::UNIX_EPOCH)
        .max(Timestamp::UNIX_EPOCH)
}

/// An instant as cursors and page links store it: RFC 3339 with all its digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Stored(pub(crate) Timestamp);

impl TryFrom<String> for Stored {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl From<Stored> for String {
    fn from(stored: Stored) -> Self {
        stored.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_of_any_offset_and_precision_meet_in_utc() {
        let rows = [
            ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00.000Z"),
            ("2026-11-20T10:00:00.898575850+00:00", "2026-11-20T10:00:00.898Z"),
            ("2026-11-20T05:00:00.5-05:00", "2026-11-20T10:00:00.500Z"),
            ("2026-11-20T10:00:00.1234567Z", "2026-11-20T10:00:00.123Z"),
            ("2099-01-01T00:00:00.000Z", "2099-01-01T00:00:00.000Z"),
        ];
        for (text, expected) in rows {
            assert_eq!(floor_text(parse(text).unwrap()), expected, "{text}");
        }
        for bad in ["", "2026-11-20", "2026-11-20T10:00:00", "yesterday"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_upper_bound_is_never_earlier_than_its_instant() {
        let instant = parse("2026-11-20T10:00:00.898575850Z").unwrap();
        assert_eq!(ceiling_text(instant), "2026-11-20T10:00:00.899Z");
    }

    #[test]
    fn http_dates_are_read_and_garbage_is_not() {
        let expected = parse("1994-11-06T08:49:37Z");
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), expected);
        assert_eq!(parse_http_date("soon"), None);
        assert_eq!(parse_http_date("120"), None);
    }

    #[test]
    fn stepping_back_stops_at_1970() {
        let instant = parse("2026-11-20T10:05:00Z").unwrap();
        assert_eq!(
            back(instant, Duration::from_mins(5)),
            parse("2026-11-20T10:00:00Z").unwrap()
        );
        assert_eq!(back(instant, Duration::MAX), Timestamp::UNIX_EPOCH);
        assert_eq!(
            back(Timestamp::UNIX_EPOCH, Duration::from_secs(1)),
            Timestamp::UNIX_EPOCH
        );
    }
}
