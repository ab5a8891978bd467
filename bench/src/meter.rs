//! What a run costs: time, processor time, memory, fsyncs. It reads what the kernel says of this process.
//!
//! **Source:** `proc_pid_stat(5)`, `proc_pid_status(5)`, `proc_pid_clear_refs(5)`; Linux alone has them.

use std::fs;

use tokio::time::Instant;

use crate::Failed;

/// The kernel reports processor time to programs in hundredths of a second, whatever it counts in itself.
const TICKS_PER_SECOND: f64 = 100.0;

/// Where user time and system time stand after the program's name, counted from 0.
const USER_TIME: usize = 11;

/// What one run cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// How long it took, in seconds.
    pub(crate) seconds: f64,
    /// Processor time of the whole process, the sink included, in seconds.
    pub(crate) cpu_seconds: f64,
    /// The most memory that was resident at once, in KiB.
    pub(crate) rss_max_kib: u64,
    /// How often it waited for the disk.
    pub(crate) fsyncs: u64,
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
            cpu_seconds: cpu_seconds()?,
            began: Instant::now(),
        })
    }

    /// Ends measuring.
    pub(crate) fn end(self, fsyncs: u64) -> Result<Cost, Failed> {
        Ok(Cost {
            seconds: self.began.elapsed().as_secs_f64(),
            cpu_seconds: cpu_seconds()? - self.cpu_seconds,
            rss_max_kib: rss_max_kib()?,
            fsyncs,
        })
    }
}

fn cpu_seconds() -> Result<f64, Failed> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The program's name stands in brackets and may hold anything.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let times: Vec<f64> = fields
        .skip(USER_TIME)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(times.iter().sum::<f64>() / TICKS_PER_SECOND)
}

fn rss_max_kib() -> Result<u64, Failed> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    Ok(figure
        .ok_or("the kernel does not say how much memory is resident")?
        .parse()?)
}
