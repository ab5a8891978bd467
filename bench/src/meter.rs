//! What a run costs: time, processor time, memory, fsyncs, waiting. It reads what the kernel says of a process.
//!
//! **Source:** `proc_pid_stat(5)`, `proc_pid_status(5)`, `proc_pid_clear_refs(5)`; Linux alone has them.

use std::collections::BTreeMap;
use std::fs;

use tokio::time::Instant;

use crate::Failed;

/// How the kernel names the process that asks.
const ITSELF: &str = "self";

/// The kernel reports processor time to programs in hundredths of a second, whatever it counts in itself.
const TICKS_PER_SECOND: f64 = 100.0;

/// Where user time and system time stand after the program's name, counted from 0.
const USER_TIME: usize = 11;

/// What one run cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// How long it took, in seconds.
    pub(crate) seconds: f64,
    /// Processor time of the whole process, source and sink included, in seconds.
    pub(crate) cpu_seconds: f64,
    /// The most memory that was resident at once, in KiB.
    pub(crate) rss_max_kib: u64,
    /// How often it waited for the disk.
    pub(crate) fsyncs: u64,
    /// Requests to the source.
    pub(crate) requests: u64,
    /// From the source's answer to the webhook's request, where that was measured.
    pub(crate) waits: Option<Waits>,
}

/// How long changes took from the source's answer to the webhook's request, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    /// Half of them took no longer.
    pub(crate) p50: f64,
    /// 99 of 100 took no longer.
    pub(crate) p99: f64,
}

impl Waits {
    /// Of every change that was shown, by its number, and has arrived; its first arrival counts.
    pub(crate) fn between(shown: &[Instant], arrivals: &[(u64, Instant)]) -> Option<Self> {
        let mut first: BTreeMap<u64, Instant> = BTreeMap::new();
        for (change, at) in arrivals {
            first.entry(*change).or_insert(*at);
        }
        let wait = |(change, at): (u64, Instant)| {
            let shown = shown.get(usize::try_from(change).ok()?)?;
            Some(at.duration_since(*shown).as_secs_f64() * 1000.0)
        };
        let mut waits: Vec<f64> = first.into_iter().filter_map(wait).collect();
        waits.sort_by(f64::total_cmp);
        let at = |hundredths: usize| waits.get(waits.len() * hundredths / 100).copied();
        Some(Self {
            p50: at(50)?,
            p99: at(99)?,
        })
    }
}

/// A run that is being measured.
pub(crate) struct Meter {
    began: Instant,
    cpu_seconds: f64,
}

impl Meter {
    /// Begins to measure.
    pub(crate) fn begin() -> Result<Self, Failed> {
        // Sets the mark of the most resident memory back to what is resident now.
        fs::write("/proc/self/clear_refs", "5")?;
        Ok(Self {
            cpu_seconds: cpu_seconds(ITSELF)?,
            began: Instant::now(),
        })
    }

    /// Ends measuring.
    pub(crate) fn end(self, fsyncs: u64) -> Result<Cost, Failed> {
        Ok(Cost {
            seconds: self.began.elapsed().as_secs_f64(),
            cpu_seconds: cpu_seconds(ITSELF)? - self.cpu_seconds,
            rss_max_kib: rss_max_kib(ITSELF)?,
            fsyncs,
            requests: 0,
            waits: None,
        })
    }
}

/// The processor time that a process has used, in seconds; `self` or its number names it.
pub(crate) fn cpu_seconds(process: &str) -> Result<f64, Failed> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The program's name stands in brackets and may hold anything.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let times: Vec<f64> = fields
        .skip(USER_TIME)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(times.iter().sum::<f64>() / TICKS_PER_SECOND)
}

/// The most memory of a process that was resident at once, in KiB.
pub(crate) fn rss_max_kib(process: &str) -> Result<u64, Failed> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    Ok(figure
        .ok_or("the kernel does not say how much memory is resident")?
        .parse()?)
}
