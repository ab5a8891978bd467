//! Reads a search's parameters, and matches versions against them.
//!
//! Pure: it knows FHIR's search syntax as far as the sandbox offers it, and nothing of pages or faults.

use jiff::civil::{Date, Time};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

use super::clinic::Kind;
use super::dialect::{Dialect, PageStyle};
use super::records::Version;
use super::zone::Zone;

/// How unknown parameters are treated, from `Prefer: handling=…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handling {
    Strict,
    Lenient,
}

/// How a search's parameters are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) handling: Handling,
    pub(super) count_max: usize,
    pub(super) dialect: Dialect,
}

/// In which order rows come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    ById,
    Oldest,
    Newest,
}

/// How much of each record is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elements {
    All,
    IdAndMeta,
}

/// A search as it will be carried out.
#[derive(Debug, Clone)]
pub(super) struct Search {
    pub(super) record_type: String,
    /// The parameters that apply, as they stand in the `self` link.
    pub(super) applied: Vec<(String, String)>,
    pub(super) count: usize,
    pub(super) sort: Sort,
    pub(super) elements: Elements,
    /// Whether the patients come along that the matches are about.
    pub(super) include_patients: bool,
    /// How many rows come before the page, where pages are asked for by number.
    pub(super) offset: usize,
    bounds: Vec<Bound>,
    dates: Vec<Bound>,
    ids: Option<Vec<String>>,
    statuses: Option<Vec<String>>,
    patients: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefix {
    Equal,
    GreaterOrEqual,
    Greater,
    LessOrEqual,
    Less,
}

/// A prefix and the half-open span of time that its value stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    prefix: Prefix,
    from: Timestamp,
    until: Timestamp,
}

/// How many rows a page has when `_count` does not say.
const COUNT_DEFAULT: usize = 20;

impl Search {
    /// Reads the parameters of a search; the error says what is wrong, for an `OperationOutcome`.
    pub(super) fn read(
        record_type: &str,
        parameters: &[(String, String)],
        reading: Reading,
    ) -> Result<Self, String> {
        let mut search = Self {
            record_type: record_type.to_owned(),
            applied: Vec::new(),
            count: COUNT_DEFAULT.min(reading.count_max),
            sort: Sort::ById,
            elements: Elements::All,
            include_patients: false,
            offset: 0,
            bounds: Vec::new(),
            dates: Vec::new(),
            ids: None,
            statuses: None,
            patients: None,
        };
        for (name, value) in parameters {
            let known = search.apply(name, value, reading)?;
            match (known, reading.handling) {
                (true, _) if name == "_count" => {
                    search.applied.push((name.clone(), search.count.to_string()));
                }
                (true, _) => search.applied.push((name.clone(), value.clone())),
                (false, Handling::Strict) => return Err(format!("unknown search parameter {name}")),
                (false, Handling::Lenient) => {}
            }
        }
        if reading.dialect.max_count > 0 {
            search.count = search.count.min(reading.dialect.max_count);
        }
        Ok(search)
    }

    pub(super) fn matches(&self, version: &Version) -> bool {
        let in_list = |list: &Option<Vec<String>>, value: Option<&str>| {
            list.as_ref()
                .is_none_or(|list| list.iter().any(|wanted| Some(wanted.as_str()) == value))
        };
        self.bounds.iter().all(|bound| bound.holds(version.stamp))
            && in_list(&self.ids, Some(&version.id))
            && in_list(&self.statuses, version.status.as_deref())
            && in_list(&self.patients, version.patient.as_deref())
            && self
                .dates
                .iter()
                .all(|bound| version.date.is_some_and(|date| bound.holds(date)))
    }

    pub(super) fn filters_by_time(&self) -> bool {
        !self.bounds.is_empty()
    }

    pub(super) fn filters_by_content(&self) -> bool {
        self.ids.is_some() || self.statuses.is_some() || self.patients.is_some() || !self.dates.is_empty()
    }

    /// Whether it goes over the records of all patients.
    pub(super) fn lacks_patient(&self) -> bool {
        let about = Kind::named(&self.record_type).is_none_or(Kind::is_about_a_patient);
        about && self.ids.is_none() && self.patients.is_none()
    }

    /// Forgets the bounds of time, as a server does that ignores them.
    pub(super) fn ignore_time(&mut self) {
        self.bounds.clear();
        self.applied.retain(|(name, _)| name != "_lastUpdated");
    }

    /// Forgets what else chooses records.
    pub(super) fn ignore_content(&mut self) {
        (self.ids, self.statuses, self.patients) = (None, None, None);
        self.dates.clear();
        let chooses = ["_id", "status", "patient", "subject", "date", "issued"];
        self.applied.retain(|(name, _)| !chooses.contains(&name.as_str()));
    }

    pub(super) fn ignore_sort(&mut self) {
        self.sort = Sort::ById;
        self.applied.retain(|(name, _)| name != "_sort");
    }

    /// Applies one parameter; says whether it is known.
    fn apply(&mut self, name: &str, value: &str, reading: Reading) -> Result<bool, String> {
        let dialect = reading.dialect;
        let about_a_patient = Kind::named(&self.record_type).is_none_or(Kind::is_about_a_patient);
        let list = || value.split(',').map(str::to_owned).collect::<Vec<_>>();
        let bound = || Bound::read(value, dialect.zone).ok_or_else(|| format!("{name} holds no usable date"));
        match name {
            "_lastUpdated" if !dialect.no_last_updated => {
                self.bounds.push(bound()?.at(dialect));
            }
            "_sort" => match value {
                "_id" => self.sort = Sort::ById,
                _ if dialect.no_last_updated => return Ok(false),
                "_lastUpdated" | "_lastUpdated,_id" => self.sort = Sort::Oldest,
                "-_lastUpdated" | "-_lastUpdated,_id" => self.sort = Sort::Newest,
                _ => return Ok(false),
            },
            "_count" => {
                let count: usize = value.parse().map_err(|_| "_count is not a number".to_owned())?;
                self.count = count.min(reading.count_max);
            }
            "_offset" if dialect.page_style == PageStyle::Offset => {
                self.offset = value.parse().map_err(|_| "_offset is not a number".to_owned())?;
            }
            "_elements" => {
                if !value.split(',').all(|element| matches!(element, "id" | "meta")) {
                    return Ok(false);
                }
                self.elements = Elements::IdAndMeta;
            }
            "_include" if about_a_patient && !dialect.no_include => {
                let known = ["patient", "subject"].map(|name| format!("{}:{name}", self.record_type));
                if !known.iter().any(|known| known == value) {
                    return Ok(false);
                }
                self.include_patients = true;
            }
            "_id" => self.ids = Some(list()),
            "status" if about_a_patient => self.statuses = Some(list()),
            "patient" | "subject" if about_a_patient => {
                let bare = |id: String| id.strip_prefix("Patient/").map_or(id.clone(), str::to_owned);
                self.patients = Some(list().into_iter().map(bare).collect());
            }
            _ if Kind::named(&self.record_type).and_then(Kind::date_parameter) == Some(name) => {
                self.dates.push(bound()?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Bound {
    fn read(text: &str, zone: Zone) -> Option<Self> {
        let (prefix, rest) = match text.get(..2)? {
            "eq" => (Prefix::Equal, text.get(2..)?),
            "ge" => (Prefix::GreaterOrEqual, text.get(2..)?),
            "gt" => (Prefix::Greater, text.get(2..)?),
            "le" => (Prefix::LessOrEqual, text.get(2..)?),
            "lt" => (Prefix::Less, text.get(2..)?),
            _ => (Prefix::Equal, text),
        };
        let (from, until) = span(rest, zone)?;
        Some(Self { prefix, from, until })
    }

    /// The same bound as a server compares it that tells time no finer.
    fn at(self, dialect: Dialect) -> Self {
        Self {
            from: dialect.floor(self.from),
            until: dialect.ceiling(self.until),
            ..self
        }
    }

    fn holds(&self, stamp: Timestamp) -> bool {
        match self.prefix {
            Prefix::Equal => stamp >= self.from && stamp < self.until,
            Prefix::GreaterOrEqual => stamp >= self.from,
            Prefix::Greater => stamp >= self.until,
            Prefix::LessOrEqual => stamp < self.until,
            Prefix::Less => stamp < self.from,
        }
    }
}

/// Reads the instant at which a date of any precision begins.
pub(super) fn instant_of(text: &str) -> Option<Timestamp> {
    span(text, Zone::Utc).map(|(from, _)| from)
}

/// Reads a date of any precision as the half-open span that it stands for; a day is one of the zone, a time without an offset is UTC.
fn span(text: &str, zone: Zone) -> Option<(Timestamp, Timestamp)> {
    let Some((date, time)) = text.split_once('T') else {
        return span_of_date(text, zone);
    };
    let split = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (clock, zone) = (time.get(..split)?, time.get(split..)?);
    let zone = TimeZone::fixed(offset(zone)?);
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut parts = whole.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next());
    let width = match (second, fraction.len()) {
        (None, _) => SignedDuration::from_mins(1),
        (Some(_), 0) => SignedDuration::from_secs(1),
        (Some(_), digits @ 1..=9) => {
            SignedDuration::from_nanos(10_i64.checked_pow(9 - u32::try_from(digits).ok()?)?)
        }
        (Some(_), _) => return None,
    };
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    let time = Time::new(
        hour.parse().ok()?,
        minute.parse().ok()?,
        second.unwrap_or("0").parse().ok()?,
        nanos,
    )
    .ok()?;
    let date: Date = date.parse().ok()?;
    let from = date.to_datetime(time).to_zoned(zone).ok()?.timestamp();
    Some((from, from.checked_add(width).ok()?))
}

fn span_of_date(text: &str, zone: Zone) -> Option<(Timestamp, Timestamp)> {
    let mut parts = text.split('-');
    let year: i16 = parts.next().filter(|year| year.len() == 4)?.parse().ok()?;
    let month: Option<i8> = parts.next().map(str::parse).transpose().ok()?;
    let day: Option<i8> = parts.next().map(str::parse).transpose().ok()?;
    if parts.next().is_some() {
        return None;
    }
    let from = Date::new(year, month.unwrap_or(1), day.unwrap_or(1)).ok()?;
    let width = match (month, day) {
        (None, _) => 1.year(),
        (Some(_), None) => 1.month(),
        (Some(_), Some(_)) => 1.day(),
    };
    Some((
        zone.midnight(from)?,
        zone.midnight(from.checked_add(width).ok()?)?,
    ))
}

fn offset(text: &str) -> Option<Offset> {
    if text.is_empty() || text == "Z" {
        return Some(Offset::UTC);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_at_any_precision_and_offset() {
        let rows = [
            ("ge2026-01-02T10:00:00.500Z", "2026-01-02T10:00:00.500Z", true),
            ("ge2026-01-02T10:00:00.501Z", "2026-01-02T10:00:00.500Z", false),
            ("gt2026-01-02T10:00:00.500Z", "2026-01-02T10:00:00.500Z", false),
            ("gt2026-01-02T10:00:00Z", "2026-01-02T10:00:00.500Z", false),
            ("gt2026-01-02T10:00:00Z", "2026-01-02T10:00:01Z", true),
            ("le2026-01-02T10:00:00Z", "2026-01-02T10:00:00.999Z", true),
            ("lt2026-01-02T10:00:00Z", "2026-01-02T10:00:00Z", false),
            ("2026-01-02", "2026-01-02T23:59:59.999Z", true),
            ("eq2026-01", "2026-02-01T00:00:00Z", false),
            ("2026", "2026-12-31T00:00:00Z", true),
            ("ge2026-01-02T11:00:00+01:00", "2026-01-02T10:00:00Z", true),
            ("ge2026-01-02T10:00-00:30", "2026-01-02T10:29:59Z", false),
            (
                "ge2026-01-02T10:00:00.500000001Z",
                "2026-01-02T10:00:00.500Z",
                false,
            ),
        ];
        for (text, stamp, expected) in rows {
            let bound = Bound::read(text, Zone::Utc).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(bound.holds(stamp.parse().unwrap()), expected, "{text} {stamp}");
        }
    }

    #[test]
    fn unusable_dates_are_refused() {
        for bad in [
            "ge",
            "",
            "sa2026-01-01",
            "ge2026-13-01",
            "ge2026-01-01T",
            "ge2026-01-01T10:00:00 01:00",
            "geé",
        ] {
            assert_eq!(Bound::read(bad, Zone::Utc), None, "{bad}");
        }
    }

    #[test]
    fn unknown_parameters_are_refused_or_left_out_of_what_applies() {
        let parameters = [
            ("_count".to_owned(), "5000".to_owned()),
            ("colour".to_owned(), "red".to_owned()),
        ];
        let reading = |handling| Reading {
            handling,
            count_max: 100,
            dialect: Dialect::default(),
        };
        assert!(Search::read("Patient", &parameters, reading(Handling::Strict)).is_err());
        let search = Search::read("Patient", &parameters, reading(Handling::Lenient)).unwrap();
        assert_eq!(search.applied, [("_count".to_owned(), "100".to_owned())]);
    }
}
