//! A connection's `limits`: what its source bears, and the hours in which it bears less.

use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use toml::Spanned;

use super::connection::every;
use super::raw::{Number, RawLimits, RawPeak, RawWindow, Text};
use super::resolve::Context;
use super::value::{Refusal, refusal};
use super::{Limits, problem::Origin};
use crate::domain::calendar::{Calendar, Days, Peak, Window};

/// Few enough not to be noticed by a source that did not say what it bears.
const CONCURRENT_DEFAULT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);
const REQUESTS_PER_SECOND: RangeInclusive<i64> = 1..=10_000;
const CONCURRENT: RangeInclusive<i64> = 1..=64;
/// One an hour at least, or a poll would wait for days.
const REQUESTS_PER_DAY: RangeInclusive<i64> = 24..=100_000_000;

const STORM: RangeInclusive<i64> = 2..=1_000;
/// A busy morning is not ten times a day's mean; a re-index is a hundred times and more.
const STORM_DEFAULT: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

const HOURS_HELP: &str = "write from when to when: \"07:00-19:00\"";
const DAYS_HELP: &str = "write days by their first three letters: \"mon-fri\", \"sat,sun\"";
const ZONE_HELP: &str = "write a name of the tz database: \"America/Chicago\", \"UTC\"";

/// A value was refused, and its problem told.
#[derive(Debug, Clone, Copy)]
struct Refused;

/// What a window is written as.
struct Written<'a> {
    origin: Origin,
    hours: Option<&'a Text>,
    days: Option<&'a Text>,
    zone: Option<&'a Text>,
}

pub(super) fn resolve(raw: Option<&RawLimits>, path: &str, context: &mut Context<'_>) -> Option<Limits> {
    let Some(raw) = raw else {
        return Some(Limits {
            requests_per_second: None,
            requests_per_day: None,
            concurrent: CONCURRENT_DEFAULT,
            storm: Some(STORM_DEFAULT),
            calendar: Calendar::default(),
        });
    };
    let per_second = count(
        raw.requests_per_second.as_ref(),
        &REQUESTS_PER_SECOND,
        &format!("{path}.requests_per_second"),
        context,
    );
    let per_day = count(
        raw.requests_per_day.as_ref(),
        &REQUESTS_PER_DAY,
        &format!("{path}.requests_per_day"),
        context,
    );
    let concurrent = count(
        raw.concurrent.as_ref(),
        &CONCURRENT,
        &format!("{path}.concurrent"),
        context,
    );
    let storm = storm(raw.storm.as_ref(), &format!("{path}.storm"), context);
    let peak = match &raw.peak {
        Some(written) => peak(
            written,
            &format!("{path}.peak"),
            per_second.unwrap_or_default(),
            context,
        )
        .map(Some),
        None => Some(None),
    };
    let maintenance = maintenance(
        raw.maintenance.as_deref(),
        &format!("{path}.maintenance"),
        context,
    );
    Some(Limits {
        requests_per_second: per_second.ok()?,
        requests_per_day: per_day.ok()?,
        concurrent: match concurrent.ok()? {
            Some(count) => NonZeroUsize::try_from(count).ok()?,
            None => CONCURRENT_DEFAULT,
        },
        storm: storm.ok()?,
        calendar: Calendar {
            peak: peak?,
            maintenance: maintenance?,
        },
    })
}

/// From how many times the usual on it is a storm; nothing where it is never one.
fn storm(
    number: Option<&Number>,
    path: &str,
    context: &mut Context<'_>,
) -> Result<Option<NonZeroU32>, Refused> {
    match number {
        None => Ok(Some(STORM_DEFAULT)),
        Some(number) if *number.get_ref() == 0 => Ok(None),
        Some(number) => count(Some(number), &STORM, path, context),
    }
}

/// A number that may be left out.
fn count(
    number: Option<&Number>,
    range: &RangeInclusive<i64>,
    path: &str,
    context: &mut Context<'_>,
) -> Result<Option<NonZeroU32>, Refused> {
    let Some(number) = number else {
        return Ok(None);
    };
    let value = *number.get_ref();
    let within = u32::try_from(value).ok().and_then(NonZeroU32::new);
    let result = within.filter(|_| range.contains(&value)).ok_or_else(|| {
        refusal(
            format!("not between {} and {}", range.start(), range.end()),
            "write a whole number in that range, or remove the key",
        )
    });
    context.accept(result, number, path).map(Some).ok_or(Refused)
}

fn peak(
    raw: &Spanned<RawPeak>,
    path: &str,
    otherwise: Option<NonZeroU32>,
    context: &mut Context<'_>,
) -> Option<Peak> {
    let written = raw.get_ref();
    let hours = Written {
        origin: Origin::from(raw),
        hours: written.hours.as_ref(),
        days: written.days.as_ref(),
        zone: written.zone.as_ref(),
    };
    let window = window(&hours, path, context);
    let per_second = count(
        written.requests_per_second.as_ref(),
        &REQUESTS_PER_SECOND,
        &format!("{path}.requests_per_second"),
        context,
    );
    let slower = match &written.every {
        Some(text) => every(Some(text), path, Duration::ZERO, context).map(Some),
        None => Some(None),
    };
    let (requests_per_second, every) = (per_second.ok()?, slower?);
    if requests_per_second.is_none() && every.is_none() {
        let help = "write requests_per_second = 1 or every = \"5m\" beside its hours";
        let refused = refusal("the peak hours change nothing", help);
        return context.accept(Err(refused), raw, path);
    }
    if let (Some(number), Some(peak), Some(otherwise)) =
        (&written.requests_per_second, requests_per_second, otherwise)
        && peak > otherwise
    {
        let help = format!("write {otherwise} or less");
        let refused = refusal("more requests than outside the peak hours", help);
        return context.accept(Err(refused), number, &format!("{path}.requests_per_second"));
    }
    Some(Peak {
        window: window?,
        requests_per_second,
        every,
    })
}

fn maintenance(
    raw: Option<&[Spanned<RawWindow>]>,
    path: &str,
    context: &mut Context<'_>,
) -> Option<Vec<Window>> {
    let mut windows = Vec::new();
    for (index, raw) in raw.unwrap_or_default().iter().enumerate() {
        let path = format!("{path}[{index}]");
        let written = raw.get_ref();
        let hours = Written {
            origin: Origin::from(raw),
            hours: written.hours.as_ref(),
            days: written.days.as_ref(),
            zone: written.zone.as_ref(),
        };
        let window = window(&hours, &path, context).and_then(|window| {
            let never_ends = window.from == window.to && window.days == Days::ALL;
            let help = "write fewer hours or days, or remove the connection";
            let refused = || refusal("the source would never be asked", help);
            let ends = (!never_ends).then_some(window).ok_or_else(refused);
            context.accept(ends, raw, &path)
        });
        windows.push(window);
    }
    windows.into_iter().collect()
}

fn window(written: &Written<'_>, path: &str, context: &mut Context<'_>) -> Option<Window> {
    let hours = match written.hours {
        Some(text) => context.accept(hours(text.get_ref()), text, &format!("{path}.hours")),
        None => context.missing(written.origin.clone(), &format!("{path}.hours"), HOURS_HELP),
    };
    let days = match written.days {
        Some(text) => context.accept(days(text.get_ref()), text, &format!("{path}.days")),
        None => Some(Days::ALL),
    };
    let zone = match written.zone {
        Some(text) => context.accept(zone(text.get_ref()), text, &format!("{path}.zone")),
        None => context.missing(written.origin.clone(), &format!("{path}.zone"), ZONE_HELP),
    };
    let (from, to) = hours?;
    Some(Window {
        from,
        to,
        days: days?,
        zone: zone?,
    })
}

fn hours(text: &str) -> Result<(Time, Time), Refusal> {
    let parsed = text
        .split_once('-')
        .and_then(|(from, to)| Some((hour(from)?, hour(to)?)));
    parsed.ok_or_else(|| refusal("not hours of the day", HOURS_HELP))
}

/// `HH:MM`; `24:00` is the day's end.
fn hour(text: &str) -> Option<Time> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number = |digits: &str| {
        let two = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse::<i8>().ok().filter(|_| two)
    };
    match (number(hours)?, number(minutes)?) {
        (24, 0) => Some(Time::midnight()),
        (hours, minutes) => Time::new(hours, minutes, 0, 0).ok(),
    }
}

fn days(text: &str) -> Result<Days, Refusal> {
    let span = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(Days::span(weekday(first)?, weekday(last)?))
    };
    let mut spans = text.split(',').map(span);
    let first = spans.next().flatten();
    let all = spans.fold(first, |days, span| Some(days?.and(span?)));
    all.ok_or_else(|| refusal("not days of the week", DAYS_HELP))
}

fn weekday(text: &str) -> Option<Weekday> {
    match text.trim() {
        "mon" => Some(Weekday::Monday),
        "tue" => Some(Weekday::Tuesday),
        "wed" => Some(Weekday::Wednesday),
        "thu" => Some(Weekday::Thursday),
        "fri" => Some(Weekday::Friday),
        "sat" => Some(Weekday::Saturday),
        "sun" => Some(Weekday::Sunday),
        _ => None,
    }
}

fn zone(text: &str) -> Result<TimeZone, Refusal> {
    TimeZone::get(text).map_err(|_| refusal("no zone of the tz database on this machine", ZONE_HELP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_days_are_read_or_refused() {
        let time = |text: &str| hour(text).unwrap();
        assert_eq!(hours("07:00-19:30").unwrap(), (time("07:00"), time("19:30")));
        assert_eq!(hours("22:00 - 24:00").unwrap(), (time("22:00"), Time::midnight()));
        for wrong in [
            "",
            "7-19",
            "7:00-19:00",
            "07:00",
            "07:60-08:00",
            "25:00-26:00",
            "07:00-24:01",
            "+7:00-08:00",
        ] {
            assert!(hours(wrong).is_err(), "{wrong}");
        }
        let monday = Days::span(Weekday::Monday, Weekday::Monday);
        let weekend = Days::span(Weekday::Saturday, Weekday::Sunday);
        assert_eq!(days("mon").unwrap(), monday);
        assert_eq!(days("sat-sun").unwrap(), weekend);
        assert_eq!(days("sat, sun").unwrap(), weekend);
        assert_eq!(days("fri-thu").unwrap(), Days::ALL);
        for wrong in ["", "monday", "Mon", "mon-", "mon,,tue", "1-5"] {
            assert!(days(wrong).is_err(), "{wrong}");
        }
        assert!(zone("America/Chicago").is_ok() && zone("UTC").is_ok());
        assert!(zone("Chicago").is_err() && zone("../etc/passwd").is_err());
    }
}
