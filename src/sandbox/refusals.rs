//! Whom the sandbox turns away before it looks at what is asked: no access, too much, too fast, at the wrong time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use rand::RngExt;

use super::answer::{outcome, set};
use super::faults::Daily;
use super::world::World;
use super::{Access, Answer, Request};

/// How many requests were counted, each within the span of time that it names.
#[derive(Debug, Default)]
pub(super) struct Counts {
    second: (i64, u32),
    minute: (i64, u32),
    day: (i64, u32),
}

impl World {
    pub(super) fn refusal(&mut self, request: &Request) -> Option<Answer> {
        let admitted = match &self.options.auth {
            Access::Smart(_) | Access::Refresh(_) => self.grants.admit(&request.headers, self.own_now()),
            fixed @ (Access::Open | Access::Basic { .. } | Access::Bearer { .. }) => {
                allowed(fixed, &request.headers)
            }
        };
        if !admitted {
            return Some(unknown_caller());
        }
        self.outage()
            .or_else(|| self.throttling())
            .or_else(|| self.taken_back(request))
    }

    /// Bursts of errors, and maintenance.
    fn outage(&mut self) -> Option<Answer> {
        if self.burst_left > 0 {
            self.burst_left -= 1;
            return Some(self.server_error());
        }
        if self.chance(self.faults.server_errors.share) {
            self.burst_left = self.faults.server_errors.burst.saturating_sub(1);
            return Some(self.server_error());
        }
        let maintenance = self.faults.maintenance;
        let now = Daily::of(self.on_the_wall(), maintenance.day_seconds);
        if !now.is_within(maintenance.from_second, maintenance.until_second) {
            return None;
        }
        self.strikes.count("maintenance");
        let mut answer = outcome(StatusCode::SERVICE_UNAVAILABLE, "transient", "maintenance");
        if maintenance.retry_after {
            let left = i64::from(maintenance.until_second) - now.second;
            set(&mut answer, header::RETRY_AFTER, &left.to_string());
        }
        Some(answer)
    }

    /// The time that its own clock on the wall shows.
    fn on_the_wall(&self) -> Timestamp {
        self.dialect.zone.on_the_wall(self.own_now())
    }

    fn server_error(&mut self) -> Answer {
        self.strikes.count("server_errors");
        let status = match self.random.random_range(0_u32..3) {
            0 => StatusCode::INTERNAL_SERVER_ERROR,
            1 => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        outcome(status, "transient", "not now")
    }

    /// What is too much, by chance or by count.
    fn throttling(&mut self) -> Option<Answer> {
        let faults = self.faults;
        if self.chance(faults.throttle_with_retry_after.share) {
            self.strikes.count("throttle_with_retry_after");
            let seconds = i64::from(faults.throttle_with_retry_after.seconds);
            return Some(too_many(Some(seconds)));
        }
        if self.chance(faults.throttle_without_retry_after.share) {
            self.strikes.count("throttle_without_retry_after");
            return Some(too_many(None));
        }
        let now = self.own_now();
        let second = now.as_second();
        if faults.rate_limit.per_second > 0
            && counted(&mut self.counts.second, second) > faults.rate_limit.per_second
        {
            self.strikes.count("rate_limit");
            return Some(too_many(Some(1)));
        }
        let wall = self.on_the_wall();
        let day = Daily::of(wall, faults.daily_cap.day_seconds);
        if faults.daily_cap.requests > 0 && counted(&mut self.counts.day, day.day) > faults.daily_cap.requests
        {
            self.strikes.count("daily_cap");
            let left = i64::from(faults.daily_cap.day_seconds) - day.second;
            return Some(too_many(faults.daily_cap.retry_after.then_some(left)));
        }
        let peak = faults.peak_window;
        let is_peak = Daily::of(wall, peak.day_seconds).is_within(peak.from_second, peak.until_second);
        if is_peak && counted(&mut self.counts.minute, second / 60) > peak.per_minute {
            self.strikes.count("peak_window");
        }
        None
    }

    /// Credentials that are good no longer, of a sudden.
    fn taken_back(&mut self, request: &Request) -> Option<Answer> {
        let further = request
            .query
            .split('&')
            .any(|pair| pair.starts_with("_page=") || pair.starts_with("_offset="));
        let (any, mid_page) = (self.faults.unauthorized, self.faults.token_ends_mid_page);
        let fault = if self.strikes.are_below("unauthorized", any.times) && self.chance(any.share) {
            "unauthorized"
        } else if further
            && self.strikes.are_below("token_ends_mid_page", mid_page.times)
            && self.chance(mid_page.share)
        {
            "token_ends_mid_page"
        } else {
            return None;
        };
        self.strikes.count(fault);
        self.grants.revoke();
        Some(unknown_caller())
    }
}

/// Counts one more within a span, and says how many there are now.
fn counted(count: &mut (i64, u32), span: i64) -> u32 {
    if count.0 != span {
        *count = (span, 0);
    }
    count.1 = count.1.saturating_add(1);
    count.1
}

fn too_many(retry_after: Option<i64>) -> Answer {
    let mut answer = outcome(StatusCode::TOO_MANY_REQUESTS, "throttled", "slow down");
    if let Some(seconds) = retry_after {
        set(&mut answer, header::RETRY_AFTER, &seconds.to_string());
    }
    answer
}

fn unknown_caller() -> Answer {
    let mut answer = outcome(StatusCode::UNAUTHORIZED, "login", "who are you");
    set(
        &mut answer,
        header::WWW_AUTHENTICATE,
        "Basic realm=\"sandbox\", Bearer",
    );
    answer
}

fn allowed(access: &Access, headers: &HeaderMap) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match access {
        Access::Open => true,
        Access::Basic { user, password } => {
            given == format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
        }
        Access::Bearer { token } => given == format!("Bearer {token}"),
        Access::Smart(_) | Access::Refresh(_) => false,
    }
}
