//! Change detection by type history: where a poll begins, how it goes on, what it may conclude.
//!
//! Pure: instants, links and counts in, the next step out. A history lists every version, newest first, deletes
//! included, so that nothing is complete before its last page: the pages are staged and the cursor moves with the
//! last one. It guarantees that the watermark never moves back and never passes the source's own time at the poll's
//! start. It must not know HTTP or record bodies.
//!
//! **Shifting pages.** New versions come in front and push the others on to later pages: what stood at a seam is shown
//! twice and never skipped.
//!
//! **Proof by rows.** Every row names its time, so that the rows themselves show whether `_since` was applied
//! (`descent`).

mod descent;
mod page;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cursor::{By, CursorState};
use crate::instant::Stored;
use crate::last_updated::{Doubt, IGNORED_PAGES_MAX, PAGES_MAX, Plan, Shown, Visit, visit};
use descent::{Descent, Since, Tail};

/// The form of stored polls; raised when it changes.
const VERSION: u8 = 2;

/// How many empty pages in a row are followed: a page can be empty because we may see none of its rows. Seen of HAPI
/// (its tracker, 7711): empty pages that link to further ones for ever.
const EMPTY_PAGES_MAX: u32 = 3;

/// A poll under way; what is stored between its pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct History {
    #[serde(rename = "history")]
    version: u8,
    /// The next page's link, absolute.
    pub(crate) link: Option<String>,
    lower: Option<Stored>,
    floor: Option<Stored>,
    pub(crate) bound: Stored,
    pub(crate) start: Option<Stored>,
    greatest: Option<Stored>,
    descent: Descent,
    tail: Tail,
    pages: u32,
    /// Empty pages in a row.
    empty: u32,
    visited: Vec<u64>,
    doubt: Option<Doubt>,
}

/// The poll's next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Ask(Box<History>),
    Done(CursorState),
    Inconclusive(Doubt),
}

impl History {
    /// Begins a poll with its first answer; `bound` is the source's time at that moment.
    pub(crate) fn begin(plan: &Plan, bound: Timestamp) -> Self {
        Self {
            version: VERSION,
            link: None,
            lower: plan.lower.map(Stored),
            floor: plan.floor.map(Stored),
            bound: Stored(bound),
            start: plan.start.map(Stored),
            greatest: None,
            descent: Descent::default(),
            tail: Tail::default(),
            pages: 0,
            empty: 0,
            visited: Vec::new(),
            doubt: None,
        }
    }

    /// Reads the stored form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text)
            .ok()
            .filter(|poll: &Self| poll.version == VERSION)
    }

    /// Takes in one page and says what follows.
    pub(crate) fn absorb(mut self, shown: &Shown) -> Step {
        self.pages += 1;
        self.empty = if shown.entries == 0 { self.empty + 1 } else { 0 };
        let bound = self.bound.0;
        let seen = shown.stamps.iter().flatten().copied();
        self.greatest = self
            .greatest
            .max(seen.filter(|stamp| *stamp <= bound).max().map(Stored));
        let lower = self.lower.map(|lower| lower.0);
        self.descent.take(&shown.stamps, lower);
        self.tail = self.tail.after(&shown.stamps, lower);
        match self.tail.since(self.descent) {
            Since::IgnoredInOrder => return self.conclude(),
            Since::Ignored => self.suspect(Doubt::FilterIgnored),
            Since::Unsaid => {}
        }
        let Some(link) = shown.next.as_ref().filter(|_| self.empty < EMPTY_PAGES_MAX) else {
            return self.conclude();
        };
        if visit(&mut self.visited, link) == Visit::Again {
            self.suspect(Doubt::Circle);
            return self.conclude();
        }
        let ignored = self.doubt == Some(Doubt::FilterIgnored);
        if self.pages >= if ignored { IGNORED_PAGES_MAX } else { PAGES_MAX } {
            self.suspect(Doubt::TooManyPages);
            return self.conclude();
        }
        self.link = Some(link.clone());
        Step::Ask(Box::new(self))
    }

    fn conclude(self) -> Step {
        if let Some(doubt) = self.doubt {
            return Step::Inconclusive(doubt);
        }
        let seen = self.greatest.max(self.floor);
        let watermark = seen.map_or(Timestamp::UNIX_EPOCH, |seen| seen.0);
        Step::Done(CursorState::of(
            By::History,
            watermark,
            self.start.map(|start| start.0),
        ))
    }

    /// Notes a doubt; the first one counts.
    fn suspect(&mut self, doubt: Doubt) {
        self.doubt = self.doubt.or(Some(doubt));
    }
}

#[cfg(test)]
mod tests;
