//! What the pairs come to: medians, and the ratio of each pair.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::meter::Cost;

/// One run of the courier and the run of the floor that followed it.
pub(crate) struct Pair {
    /// The courier's.
    pub(crate) courier: Cost,
    /// The floor's.
    pub(crate) floor: Cost,
}

/// All pairs.
pub(crate) struct Report {
    /// Notifications of each run.
    pub(crate) records: u32,
    /// The pairs, in the order in which they were made.
    pub(crate) pairs: Vec<Pair>,
}

/// The median of each figure of one side.
struct Medians {
    per_second: f64,
    cpu_seconds: f64,
    rss_max_mib: f64,
}

impl Report {
    /// The most fsyncs that a drain may need: one for 128 events, and some for leases, definitions and the end.
    fn fsyncs_allowed(&self) -> f64 {
        f64::from(self.records) / 128.0 + 50.0
    }

    fn ratios(&self) -> Vec<f64> {
        let ratio = |pair: &Pair| pair.floor.seconds / pair.courier.seconds;
        self.pairs.iter().map(ratio).collect()
    }

    fn fsyncs(&self) -> f64 {
        median(self.pairs.iter().map(|pair| count(pair.courier.fsyncs)).collect())
    }

    fn medians(&self, side: fn(&Pair) -> &Cost) -> Medians {
        let of = |figure: &dyn Fn(&Cost) -> f64| {
            median(self.pairs.iter().map(|pair| figure(side(pair))).collect())
        };
        Medians {
            per_second: of(&|cost| f64::from(self.records) / cost.seconds),
            cpu_seconds: of(&|cost| cost.cpu_seconds),
            rss_max_mib: of(&|cost| count(cost.rss_max_kib) / 1024.0),
        }
    }

    /// As a table for people.
    pub(crate) fn table(&self) -> String {
        let (courier, floor) = (
            self.medians(|pair| &pair.courier),
            self.medians(|pair| &pair.floor),
        );
        let ratios: Vec<String> = self.ratios().iter().map(|ratio| format!("{ratio:.2}")).collect();
        let mut out = format!(
            "drain: {} notifications, {} pairs, medians\n\n{:<18}{:>12}{:>12}\n",
            self.records,
            self.pairs.len(),
            "",
            "courier",
            "floor"
        );
        let mut line = |name: &str, courier: f64, floor: f64, digits: usize| {
            // Writing to a String cannot fail; the result is consumed to say so.
            writeln!(out, "{name:<18}{courier:>12.digits$}{floor:>12.digits$}").unwrap_or_default();
        };
        line("records/s", courier.per_second, floor.per_second, 0);
        line("cpu seconds", courier.cpu_seconds, floor.cpu_seconds, 2);
        line("max rss, MiB", courier.rss_max_mib, floor.rss_max_mib, 1);
        line("fsyncs", self.fsyncs(), self.fsyncs(), 0);
        out.push_str(&format!(
            "\nratio {:.2} (pairs: {})\nfsyncs {:.0} of {:.0} allowed",
            median(self.ratios()),
            ratios.join(", "),
            self.fsyncs(),
            self.fsyncs_allowed(),
        ));
        out
    }

    /// As one JSON object.
    pub(crate) fn json(&self) -> Value {
        let side = |medians: Medians| {
            json!({
                "records_per_second": medians.per_second,
                "cpu_seconds": medians.cpu_seconds,
                "rss_max_mib": medians.rss_max_mib,
            })
        };
        json!({
            "benchmark": "drain",
            "records": self.records,
            "pairs": self.pairs.len(),
            "ratio": median(self.ratios()),
            "ratios": self.ratios(),
            "fsyncs": self.fsyncs(),
            "fsyncs_allowed": self.fsyncs_allowed(),
            "courier": side(self.medians(|pair| &pair.courier)),
            "floor": side(self.medians(|pair| &pair.floor)),
        })
    }
}

/// The middle value; of an even number of them, the upper one of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Counts here are far below 2^53, up to which a float tells all of them apart.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn count(value: u64) -> f64 {
    value as f64
}
