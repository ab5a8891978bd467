//! The sandbox's fault switches: what can be switched on, and under which name each is counted.
//!
//! Every switch is off by default. Shares are probabilities; a switch whose count of strikes is 0 has
//! proved nothing, so every name is counted from the start. This file knows nothing of answers.

mod parse;
mod settings;
mod strikes;

use serde::{Deserialize, Serialize};

pub use parse::{FaultError, FaultSwitch, parse_fault};
pub(super) use parse::{merge, scalar};
pub(super) use settings::Daily;
pub use settings::{
    Bounded, Chance, DailyCap, EqualTimestamps, FailType, Hang, LateCommits, Maintenance, Oversized,
    PeakWindow, RateLimit, ServerErrors, Slow, StaleCache, Throttle, TruncatePage, VendorError,
};
pub(super) use strikes::Strikes;

/// The names of all faults, as they are written in switches and counted in strikes.
pub const FAULT_NAMES: [&str; 46] = [
    "clock_skew_seconds",
    "daily_cap",
    "date_skew_seconds",
    "deep",
    "descending_pages",
    "duplicates",
    "entered_in_error",
    "equal_timestamps",
    "expired_links",
    "fail_type",
    "fetch_403",
    "fetch_404",
    "future_stamp",
    "gzip_bomb",
    "hang",
    "ignored_filters",
    "ignored_where",
    "inband_throttled",
    "inband_vendor_error",
    "late_commits",
    "maintenance",
    "malformed",
    "merge",
    "mixed_types",
    "moved_out",
    "mutate_before_fetch",
    "oversized",
    "page_drift",
    "peak_window",
    "rate_limit",
    "server_errors",
    "silent_change",
    "silent_content",
    "slow",
    "stale_cache",
    "throttle_with_retry_after",
    "throttle_without_retry_after",
    "token_ends_mid_page",
    "touch_all",
    "truncate_page",
    "truncated",
    "unauthorized",
    "unmerge",
    "unversioned_ids",
    "wrong_sort",
    "all",
];

/// The faults that `all` switches on: those that spoil single answers, orders and stamps. Those that write records,
/// shut the door for a time or withhold something for good are switched on one by one.
const OF_ALL: [&str; 19] = [
    "late_commits",
    "page_drift",
    "descending_pages",
    "throttle_with_retry_after",
    "throttle_without_retry_after",
    "server_errors",
    "truncated",
    "oversized",
    "malformed",
    "deep",
    "gzip_bomb",
    "slow",
    "stale_cache",
    "future_stamp",
    "ignored_filters",
    "ignored_where",
    "unversioned_ids",
    "wrong_sort",
    "duplicates",
];

/// All fault switches. Each is off by default.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// A version is stamped now and visible only later.
    pub late_commits: LateCommits,
    /// Consecutive versions share one stamp.
    pub equal_timestamps: EqualTimestamps,
    /// Live offset paging, with changes between the pages of one search that shift its rows.
    pub page_drift: Chance,
    /// Searches are answered newest first, whatever `_sort` said.
    pub descending_pages: Chance,
    /// 429 with `Retry-After`.
    pub throttle_with_retry_after: Throttle,
    /// 429 without `Retry-After`.
    pub throttle_without_retry_after: Chance,
    /// 429 for whatever comes faster than so many requests a second.
    pub rate_limit: RateLimit,
    /// 429 for the rest of the day, once so many requests were answered in it.
    pub daily_cap: DailyCap,
    /// Requests within the day's peak above an allowance are charged for: counted, and answered.
    pub peak_window: PeakWindow,
    /// 503 within a window of each day.
    pub maintenance: Maintenance,
    /// 200 with an `OperationOutcome` of code `throttled`.
    pub inband_throttled: Chance,
    /// 200 with an `OperationOutcome` that names the vendor's own code.
    pub inband_vendor_error: VendorError,
    /// 401, whatever was shown; a token is taken back.
    pub unauthorized: Bounded,
    /// The same, but for further pages alone.
    pub token_ends_mid_page: Bounded,
    /// Bursts of 500, 502 and 503.
    pub server_errors: ServerErrors,
    /// 500 for everything about one record type.
    pub fail_type: FailType,
    /// The body breaks off in the middle.
    pub truncated: Chance,
    /// The body is too large.
    pub oversized: Oversized,
    /// The body is not JSON.
    pub malformed: Chance,
    /// The body is JSON of depth 10,000.
    pub deep: Chance,
    /// The body is small on the wire and expands to more than 256 MiB.
    pub gzip_bomb: Chance,
    /// The answer is late.
    pub slow: Slow,
    /// The answer does not come.
    pub hang: Hang,
    /// An earlier answer to the same address is given again.
    pub stale_cache: StaleCache,
    /// Shifts `Date` and the stamps of versions, in seconds; negative is behind.
    pub clock_skew_seconds: i64,
    /// Shifts `Date` alone, on top of the clock's own skew, in seconds; negative is behind.
    pub date_skew_seconds: i64,
    /// A version is stamped 2099-01-01.
    pub future_stamp: Chance,
    /// `_lastUpdated` is ignored and absent from `self`; everything is returned.
    pub ignored_filters: Chance,
    /// Every parameter that chooses records but `_lastUpdated` is ignored and absent from `self`.
    pub ignored_where: Chance,
    /// A page of ids says when its records changed, but not which versions they are.
    pub unversioned_ids: Chance,
    /// `_sort` is ignored and absent from `self`; rows come by id.
    pub wrong_sort: Chance,
    /// A page shows one of its rows twice.
    pub duplicates: Chance,
    /// A link to a further page is answered 410.
    pub expired_links: Chance,
    /// A page shows half of its rows and links no further page.
    pub truncate_page: TruncatePage,
    /// Reads of some records, always the same ones, are answered 404 although they exist and are searched.
    pub fetch_404: Chance,
    /// Reads of some records, always the same ones, are answered 403.
    pub fetch_403: Chance,
    /// A record changes just before it is read.
    pub mutate_before_fetch: Chance,
    /// A version is written with a number for its version id (and its id, where that is one), and with its stamp in
    /// another offset and precision.
    pub mixed_types: Chance,
    /// At a step every record is re-indexed: a new version and stamp, the same content.
    pub touch_all: Chance,
    /// A change moves the version, but not the stamp.
    pub silent_change: Chance,
    /// A change moves neither version nor stamp.
    pub silent_content: Chance,
    /// At a step one record's status becomes `entered-in-error`.
    pub entered_in_error: Chance,
    /// At a step two patients are merged.
    pub merge: Chance,
    /// At a step two merged patients are parted again.
    pub unmerge: Chance,
    /// At a step one record moves out of the client's access: reads are answered 403, nothing else shows it any more.
    pub moved_out: Chance,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_switch_is_counted_from_the_start() {
        let names: Vec<_> = Strikes::new().all().into_keys().collect();
        let switches = serde_json::to_value(Faults::default()).unwrap();
        let mut fields: Vec<_> = switches.as_object().unwrap().keys().cloned().collect();
        fields.sort();
        assert_eq!(names, fields);
        assert!(OF_ALL.iter().all(|name| names.contains(name)));
    }
}
