//! Closed windows: stretches of time that are asked for again because rows may have shifted there.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Doubt, Onward, PAGES_MAX, Poll, Rules, Shown, Step, Target, Visit, visit};
use crate::instant::{self, Stored};

/// How often a window is read before its rows are called restless. A window lies in the past, where little
/// moves; two passes are the least that prove anything.
const PASSES_MAX: u32 = 5;

/// The window under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Window {
    pub(crate) lo: Option<Stored>,
    pub(crate) hi: Stored,
    after: Onward,
    pass: u32,
    pages: u32,
    /// The matches of this pass.
    matches: u64,
    /// The sum over the rows of this pass, and of the one before.
    sum: u64,
    previous: Option<u64>,
    visited: Vec<u64>,
}

impl Window {
    pub(crate) fn new(lo: Option<Timestamp>, hi: Timestamp, after: Onward) -> Self {
        Self {
            lo: lo.map(Stored),
            hi: Stored(hi),
            after,
            pass: 1,
            pages: 0,
            matches: 0,
            sum: 0,
            previous: None,
            visited: Vec::new(),
        }
    }

    /// Whether a row lies outside, by more than servers' precision explains.
    fn excludes(&self, stamp: Timestamp, precision: Duration) -> bool {
        let lowest = self
            .lo
            .map_or(Timestamp::UNIX_EPOCH, |lo| instant::back(lo.0, precision));
        let latest = instant::back(stamp, precision + Duration::from_millis(1));
        stamp < lowest || latest > self.hi.0
    }
}

impl Poll {
    pub(super) fn absorb_window(mut self, mut window: Window, shown: &Shown, rules: Rules) -> Step {
        window.pages += 1;
        window.matches += shown.matches;
        window.sum = window.sum.wrapping_add(shown.digest);
        if shown
            .stamps
            .iter()
            .flatten()
            .any(|stamp| window.excludes(*stamp, rules.precision))
        {
            self.suspect(Doubt::WindowIgnored);
            return self.proceed(window.after, rules);
        }
        if let Some(link) = &shown.next {
            let doubt = if visit(&mut window.visited, link) == Visit::Again {
                Some(Doubt::Circle)
            } else if shown.entries == 0 {
                Some(Doubt::EmptyPage)
            } else if window.pages >= PAGES_MAX {
                Some(Doubt::TooManyPages)
            } else {
                None
            };
            if let Some(doubt) = doubt {
                self.suspect(doubt);
                return self.proceed(window.after, rules);
            }
            self.target = Some(Target::Link(link.clone()));
            self.window = Some(window);
            return Step::Ask(Box::new(self));
        }
        if shown.total.is_some_and(|total| total > window.matches) {
            self.suspect(Doubt::Cut);
            return self.proceed(window.after, rules);
        }
        if window.pages == 1 || window.previous == Some(window.sum) {
            return self.proceed(window.after, rules);
        }
        if window.pass >= PASSES_MAX {
            self.suspect(Doubt::WindowRestless);
            return self.proceed(window.after, rules);
        }
        let (pass, previous) = (window.pass + 1, Some(window.sum));
        let (lo, hi) = (window.lo.map(|lo| lo.0), window.hi.0);
        self.open(Window {
            pass,
            previous,
            ..Window::new(lo, hi, window.after)
        })
    }
}
