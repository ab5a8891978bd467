//! What kind of server the sandbox is: what it offers, how finely it tells time, how it pages and forgets.
//!
//! Beside the faults, which break promises, these are what a server promises in the first place; its
//! `CapabilityStatement` says them. The default is a server that offers all there is.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::FaultError;
use super::faults::{merge, scalar};
use super::zone::Zone;

/// The names of all that can be chosen, as they are written in switches.
pub const DIALECT_NAMES: [&str; 14] = [
    "no_history",
    "no_last_updated",
    "no_batch",
    "no_include",
    "no_meta",
    "needs_patient",
    "uuid_versions",
    "granularity",
    "page_style",
    "delete_mode",
    "conditional_read",
    "max_count",
    "max_results",
    "zone",
];

/// How finely stamps are told and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Granularity {
    /// To the millisecond.
    #[default]
    Millisecond,
    /// To the second.
    Second,
    /// To the day: everything of a day is stamped at its midnight, in the server's zone.
    Day,
}

impl Granularity {
    /// Takes off what is too fine to be told.
    fn floor(self, instant: Timestamp, zone: Zone) -> Timestamp {
        match self {
            Self::Millisecond => whole(instant, 1),
            Self::Second => whole(instant, 1_000),
            Self::Day => zone.day_of(instant),
        }
    }

    /// The end of the last span that an exclusive bound reaches into.
    fn ceiling(self, instant: Timestamp, zone: Zone) -> Timestamp {
        let floored = self.floor(instant, zone);
        if floored == instant {
            return instant;
        }
        let further = |milliseconds| {
            let width = SignedDuration::from_millis(milliseconds);
            floored.checked_add(width).unwrap_or(floored)
        };
        match self {
            Self::Millisecond => further(1),
            Self::Second => further(1_000),
            Self::Day => zone.day_after(instant),
        }
    }
}

fn whole(instant: Timestamp, milliseconds: i64) -> Timestamp {
    let floored = instant.as_millisecond().div_euclid(milliseconds) * milliseconds;
    Timestamp::from_millisecond(floored).unwrap_or(instant)
}

/// How a search's further pages are linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PageStyle {
    /// An absolute, opaque link into a result that is kept.
    #[default]
    NextLink,
    /// The search again with `_offset`, as a relative link, cut from what there is when it is asked.
    Offset,
}

/// What is left of a deleted record, which no search shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeleteMode {
    /// A read answers 410, the history lists the delete.
    #[default]
    Gone,
    /// A read answers 404, the history lists the delete.
    NotFound,
    /// A read answers 404, and the history has forgotten the record: nothing but its absence tells.
    Vanish,
}

/// Which conditions a read may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConditionalRead {
    /// `If-None-Match`.
    #[default]
    NotMatch,
    /// `If-Modified-Since`.
    ModifiedSince,
    /// Both.
    FullSupport,
    /// None: the record is sent each time.
    NotSupported,
}

/// What kind of server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent yes or no of a server, as a CapabilityStatement has them"
)]
pub struct Dialect {
    /// No history is offered or answered.
    pub no_history: bool,
    /// `_lastUpdated` is no search parameter, neither to filter nor to sort by.
    pub no_last_updated: bool,
    /// `batch` is neither offered nor answered.
    pub no_batch: bool,
    /// `_include` is no search parameter.
    pub no_include: bool,
    /// Records have no `meta`, reads no `ETag` and no `Last-Modified`.
    pub no_meta: bool,
    /// A search of what belongs to patients must name them, or records.
    pub needs_patient: bool,
    /// Version ids are no numbers and have no order.
    pub uuid_versions: bool,
    /// How finely stamps are told and compared.
    pub granularity: Granularity,
    /// How further pages are linked.
    pub page_style: PageStyle,
    /// What is left of a deleted record.
    pub delete_mode: DeleteMode,
    /// Which conditions a read may carry.
    pub conditional_read: ConditionalRead,
    /// The most rows of a page, of which `self` says nothing; 0 for no such limit.
    pub max_count: usize,
    /// A search that finds more is refused as too costly; 0 for no such limit.
    pub max_results: usize,
    /// Where its days begin, and with which offset it writes stamps.
    pub zone: Zone,
}

impl Dialect {
    /// Takes off of an instant what is too fine to be told.
    pub(super) fn floor(self, instant: Timestamp) -> Timestamp {
        self.granularity.floor(instant, self.zone)
    }

    /// The end of the last span that an exclusive bound reaches into.
    pub(super) fn ceiling(self, instant: Timestamp) -> Timestamp {
        self.granularity.ceiling(instant, self.zone)
    }

    /// Returns this dialect with one thing changed: `name`, `name=value`, for example `no_history` or `granularity=day`.
    ///
    /// # Errors
    /// [`FaultError`] for an unknown name or an unusable value.
    pub fn with(self, text: &str) -> Result<Self, FaultError> {
        let (name, value) = text.split_once('=').unwrap_or((text, "true"));
        let name = name.trim();
        if !DIALECT_NAMES.contains(&name) {
            let name = name.to_owned();
            let known = DIALECT_NAMES.join(", ");
            return Err(FaultError::UnknownName { name, known });
        }
        let value = scalar(value).unwrap_or_else(|| Value::from(value));
        self.merged(&Value::Object(Map::from_iter([(name.to_owned(), value)])))
    }

    /// Returns this dialect with a JSON object merged in.
    ///
    /// # Errors
    /// [`FaultError::Value`] for unknown members and values.
    pub fn merged(self, patch: &Value) -> Result<Self, FaultError> {
        let refused = |error: serde_json::Error| FaultError::Value {
            reason: error.to_string(),
        };
        let mut current = serde_json::to_value(self).map_err(refused)?;
        merge(&mut current, patch);
        serde_json::from_value(current).map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_can_be_chosen_and_no_other() {
        for name in DIALECT_NAMES {
            let value = match name {
                "granularity" => "=day",
                "page_style" => "=offset",
                "delete_mode" => "=vanish",
                "conditional_read" => "=full-support",
                "zone" => "=Europe/Berlin",
                "max_count" | "max_results" => "=7",
                _ => "",
            };
            let chosen = Dialect::default().with(&format!("{name}{value}")).unwrap();
            assert_ne!(chosen, Dialect::default(), "{name}");
        }
        for bad in [
            "colour=red",
            "granularity=hour",
            "zone=Atlantis",
            "max_count=many",
            "no_history=7",
        ] {
            assert!(Dialect::default().with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn coarse_stamps_are_cut_off_and_exclusive_bounds_reach_to_the_end() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let noon = at("2026-03-01T12:00:00.250Z");
        let of = |text: &str| Dialect::default().with(text).unwrap();
        let (second, day) = (of("granularity=second"), of("granularity=day"));
        assert_eq!(day.floor(noon), at("2026-03-01T00:00:00Z"));
        assert_eq!(second.floor(noon), at("2026-03-01T12:00:00Z"));
        assert_eq!(day.ceiling(noon), at("2026-03-02T00:00:00Z"));
        assert_eq!(second.ceiling(noon), at("2026-03-01T12:00:01Z"));
        let midnight = at("2026-03-02T00:00:00Z");
        assert_eq!(day.ceiling(midnight), midnight);
        let berlin = day.with("zone=Europe/Berlin").unwrap();
        assert_eq!(berlin.floor(noon), at("2026-02-28T23:00:00Z"));
    }
}
