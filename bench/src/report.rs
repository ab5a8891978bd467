//! What pairs of runs come to: medians, the ratio of each pair, and what is asked of them.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::meter::{Cost, Waits};

/// One run of the courier and the run of the floor that followed it.
pub(crate) struct Pair {
    /// The courier's.
    pub(crate) courier: Cost,
    /// The floor's.
    pub(crate) floor: Cost,
}

/// What was measured, and with it what is asked of the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As fast as it goes: the ratio of speeds, and few fsyncs.
    Drain,
    /// At a given pace: the ratio of the longest waits.
    Pipeline,
}

/// The courier's speed is at least this share of the floor's.
const SPEED_MIN: f64 = 0.6;

/// The wait of 99 of 100 changes is at most so many times the floor's.
const WAIT_MAX: f64 = 4.0;

/// All pairs.
pub(crate) struct Report {
    /// What was measured.
    pub(crate) kind: Kind,
    /// Changes of each run.
    pub(crate) changes: u32,
    /// The pairs, in the order in which they were made.
    pub(crate) pairs: Vec<Pair>,
}

/// A figure's name and its medians of both sides.
struct Line {
    name: &'static str,
    key: &'static str,
    digits: usize,
    courier: f64,
    floor: f64,
}

impl Report {
    /// The most fsyncs that a drain may need: one for 128 events, and some for leases, definitions and the end.
    fn fsyncs_allowed(&self) -> f64 {
        f64::from(self.changes) / 128.0 + 50.0
    }

    /// Of each pair, how the courier stands to the floor in what counts here.
    fn ratios(&self) -> Vec<f64> {
        let ratio = |pair: &Pair| match self.kind {
            Kind::Drain => pair.floor.seconds / pair.courier.seconds,
            Kind::Pipeline => p99(&pair.courier) / p99(&pair.floor),
        };
        self.pairs.iter().map(ratio).collect()
    }

    fn lines(&self) -> Vec<Line> {
        let thousands = f64::from(self.changes) / 1000.0;
        let line = |name, key, digits, of: &dyn Fn(&Cost) -> f64| Line {
            name,
            key,
            digits,
            courier: median(self.pairs.iter().map(|pair| of(&pair.courier)).collect()),
            floor: median(self.pairs.iter().map(|pair| of(&pair.floor)).collect()),
        };
        let mut lines = vec![
            line("changes/s", "changes_per_second", 0, &|cost| {
                f64::from(self.changes) / cost.seconds
            }),
            line("cpu s/1,000", "cpu_seconds_per_1000", 3, &|cost| {
                cost.cpu_seconds / thousands
            }),
            line("EHR requests/1,000", "ehr_requests_per_1000", 1, &|cost| {
                count(cost.requests) / thousands
            }),
            line("fsyncs", "fsyncs", 0, &|cost| count(cost.fsyncs)),
            line("max rss, MiB", "rss_max_mib", 1, &|cost| {
                count(cost.rss_max_kib) / 1024.0
            }),
        ];
        if self.kind == Kind::Pipeline {
            lines.push(line("p50, ms", "p50_ms", 1, &|cost| {
                cost.waits.map_or(f64::NAN, |waits: Waits| waits.p50)
            }));
            lines.push(line("p99, ms", "p99_ms", 1, &p99));
        }
        lines
    }

    /// As a table for people.
    pub(crate) fn table(&self) -> String {
        let ratios: Vec<String> = self.ratios().iter().map(|ratio| format!("{ratio:.2}")).collect();
        let mut out = format!(
            "{}: {} changes, {} pairs, medians\n\n{:<20}{:>12}{:>12}\n",
            self.name(),
            self.changes,
            self.pairs.len(),
            "",
            "courier",
            "floor"
        );
        for line in self.lines() {
            let Line {
                name,
                digits,
                courier,
                floor,
                ..
            } = line;
            // Writing to a String cannot fail; the result is consumed to say so.
            writeln!(out, "{name:<20}{courier:>12.digits$}{floor:>12.digits$}").unwrap_or_default();
        }
        let asked = match self.kind {
            Kind::Drain => format!("at least {SPEED_MIN}"),
            Kind::Pipeline => format!("p99, at most {WAIT_MAX}"),
        };
        write!(
            out,
            "\nratio {:.2} ({asked}; pairs: {})",
            median(self.ratios()),
            ratios.join(", ")
        )
        .unwrap_or_default();
        if self.kind == Kind::Drain {
            write!(out, "\nfsyncs: at most {:.0}", self.fsyncs_allowed()).unwrap_or_default();
        }
        out
    }

    /// As one JSON object.
    pub(crate) fn json(&self) -> Value {
        let side = |of: fn(&Line) -> f64| -> Value {
            let lines = self.lines();
            let figures = lines.iter().map(|line| (line.key.to_owned(), json!(of(line))));
            Value::Object(figures.collect())
        };
        json!({
            "benchmark": self.name(),
            "changes": self.changes,
            "pairs": self.pairs.len(),
            "ratio": median(self.ratios()),
            "ratios": self.ratios(),
            "courier": side(|line| line.courier),
            "floor": side(|line| line.floor),
        })
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Drain => "drain",
            Kind::Pipeline => "pipeline",
        }
    }
}

fn p99(cost: &Cost) -> f64 {
    cost.waits.map_or(f64::NAN, |waits| waits.p99)
}

/// The middle value; of an even number of them, the upper one of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Counts here are far below 2^53, up to which a float tells all of them apart.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub(crate) fn count(value: u64) -> f64 {
    value as f64
}
