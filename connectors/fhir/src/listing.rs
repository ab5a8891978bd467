//! Change detection by listing: every poll shows all records that the feed looks at, and the ledger tells which are new.
//!
//! Pure: answers' shapes in, the next step out. For servers that cannot be asked what changed: all records within a
//! stretch of dates (*window*), of each patient of a roster (*roster*), of a list of ids (*read*), or all there are (a
//! reconcile sweep, and windows of types without a date). A listing is asked for in parts, one after the other, each page by
//! page. It guarantees that a listing concludes only if no part can have been cut: what a complete listing no longer
//! shows has disappeared. It must not know HTTP or record bodies.
//!
//! **Cut answers.** A part whose answer was cut is asked for in smaller parts, and where there are none with a larger page.
//!
//! **Shifting pages.** A row that moves between two pages may be left out. Nothing is lost by it: the next listing shows
//! it, and a disappearance is confirmed by a read before it counts.

mod aside;
mod group;
mod page;
mod part;
mod single;
mod together;

use courier_sdk::{Aim, FeedSpec, Start};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cursor::{By, CursorState, Tags};
use crate::instant::Stored;
use crate::last_updated::{Doubt, Fill, PAGES_MAX, Visit, rest, visit};
use crate::profile::Cut;
use aside::Aside;
use part::Parts;

/// The form of stored listings; raised when it changes.
const VERSION: u8 = 1;

/// A listing under way; what is stored between its pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listing {
    #[serde(rename = "listing")]
    version: u8,
    parts: Parts,
    /// What several searches at once left to be asked for by itself; the last of it is under way, before all other parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aside: Vec<Aside>,
    /// The next page of the part under way, absolute.
    link: Option<String>,
    /// The source's time at the beginning; absent before the first answer.
    bound: Option<Stored>,
    floor: Option<Stored>,
    greatest: Option<Stored>,
    silence: Silence,
    /// The pages and matches of the part under way.
    pages: u32,
    matches: u64,
    visited: Vec<u64>,
    doubt: Option<Doubt>,
    /// Of the records read by themselves so far.
    tags: Tags,
    /// How many matches a page of the part under way is asked to hold, where an answer was cut; and how many that showed.
    #[serde(default)]
    larger: Option<(u32, u64)>,
}

/// Which rows lie before the feed's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Silence {
    /// None does.
    None,
    /// Those stamped before this instant.
    Before(Stored),
    /// Those stamped before this instant, and those without a stamp.
    BeforeOrUnstamped(Stored),
    /// Those stamped before the listing began, and those without a stamp: the feed begins with it.
    All,
}

/// What a listing's end depends on beside its own state.
#[derive(Debug, Clone, Copy)]
struct Rules {
    aim: Aim,
    /// How finely the server writes stamps.
    cut: Cut,
    /// How many matches the page was asked to hold.
    count: u32,
    /// How many a page is usually asked to hold.
    usual_count: u32,
}

/// What one page showed, as far as the listing's course depends on it.
#[derive(Debug, Clone)]
struct Seen {
    /// The stamps of the matches.
    stamps: Vec<Option<Timestamp>>,
    entries: usize,
    matches: u64,
    total: Option<u64>,
    next: Option<String>,
    fill: Fill,
}

impl Seen {
    /// What a read of one record showed.
    fn one(stamps: Vec<Option<Timestamp>>) -> Self {
        Self {
            stamps,
            entries: 1,
            matches: 1,
            total: None,
            next: None,
            fill: Fill::Whole,
        }
    }
}

/// The listing's next step.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Ask(Box<Listing>),
    Done(Box<CursorState>),
    Inconclusive(Doubt),
}

impl Listing {
    /// Begins a listing.
    fn begin(feed: &FeedSpec, cursor: Option<&CursorState>, parts: Parts) -> Self {
        let silence = match (cursor, feed.start) {
            // What came into view since the last listing may be old, if no stamp says so. Where there was none, or everything is
            // shown, what has no stamp is old.
            (Some(cursor), _) => match (cursor.start, feed.scope.aim, cursor.by) {
                (None, ..) => Silence::None,
                (Some(start), Aim::Changes, By::Listing) if !cursor.begun => Silence::Before(start),
                (Some(start), ..) => Silence::BeforeOrUnstamped(start),
            },
            (None, Start::Now) => Silence::All,
            (None, Start::At(start)) => Silence::BeforeOrUnstamped(Stored(start)),
            (None, Start::Beginning) => Silence::None,
        };
        Self {
            version: VERSION,
            parts,
            aside: Vec::new(),
            link: None,
            bound: None,
            floor: cursor.map(|cursor| cursor.watermark),
            greatest: None,
            silence,
            pages: 0,
            matches: 0,
            visited: Vec::new(),
            doubt: None,
            tags: Tags::new(),
            larger: None,
        }
    }

    /// Reads the stored form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text)
            .ok()
            .filter(|listing: &Self| listing.version == VERSION)
    }

    /// Whether a row of that stamp lies before the feed's start.
    fn is_silent(&self, stamp: Option<Timestamp>, cut: Cut) -> bool {
        match (self.silence, stamp) {
            (Silence::All | Silence::BeforeOrUnstamped(_), None) => true,
            // What changes while the first listing is under way is new.
            (Silence::All, Some(stamp)) => self.bound.is_none_or(|bound| stamp < cut.earliest_stamp(bound.0)),
            (Silence::Before(start) | Silence::BeforeOrUnstamped(start), Some(stamp)) => stamp < start.0,
            (Silence::None, _) | (Silence::Before(_), None) => false,
        }
    }

    /// Takes in one page and says what follows.
    ///
    /// A feed that begins now begins with the first page of its first listing, whatever becomes of the others: that page is
    /// a poll by itself, and the listing is begun anew.
    fn absorb(self, seen: &Seen, rules: Rules) -> Step {
        let bound = self.bound.filter(|_| self.silence == Silence::All);
        let begun = bound.map(|bound| CursorState::begun_at(rules.cut.earliest_stamp(bound.0)));
        match (self.absorbed(seen, rules), begun) {
            (Step::Ask(_) | Step::Inconclusive(_), Some(begun)) => Step::Done(Box::new(begun)),
            (step, _) => step,
        }
    }

    fn absorbed(mut self, seen: &Seen, rules: Rules) -> Step {
        self.pages += 1;
        self.matches += seen.matches;
        self.note(&seen.stamps);
        if let Some(link) = &seen.next {
            let doubt = if visit(&mut self.visited, link) == Visit::Again {
                Doubt::Circle
            } else if seen.entries == 0 {
                Doubt::EmptyPage
            } else if self.pages >= PAGES_MAX {
                Doubt::TooManyPages
            } else {
                self.link = Some(link.clone());
                return Step::Ask(Box::new(self));
            };
            self.suspect(doubt);
            return self.go_on(rules);
        }
        let cut = seen.total.is_some_and(|total| total > self.matches);
        if cut || (seen.fill == Fill::PerhapsCut && self.pages == 1) {
            if self.split() {
                return Step::Ask(Box::new(self));
            }
            let before = self.larger.map_or(0, |(_, shown)| shown);
            let count = rest::larger(rules.count, rules.usual_count, seen.matches, before, seen.total);
            if let (Some(count), 1) = (count, self.pages) {
                self.enter_part();
                self.larger = Some((count, seen.matches));
                return Step::Ask(Box::new(self));
            }
            self.suspect(if cut { Doubt::Cut } else { Doubt::FullPage });
        }
        self.go_on(rules)
    }

    /// Asks for less at once where the source finds too much; no step where there is no less.
    fn ask_for_less(mut self) -> Option<Self> {
        self.split().then_some(self)
    }

    /// Cuts the part under way, if there is less to ask for.
    fn split(&mut self) -> bool {
        let less = self.aside.is_empty() && self.parts.split();
        if less {
            self.enter_part();
        }
        less
    }

    /// Asks for one of the list at a time; no step where it did already.
    fn ask_singly(&self) -> Option<Self> {
        let mut singly = self.clone();
        singly.parts.singly().then(|| {
            singly.enter_part();
            singly
        })
    }

    /// Notes the stamps of rows.
    fn note(&mut self, stamps: &[Option<Timestamp>]) {
        let bound = self.bound.map(|bound| bound.0);
        let seen = stamps.iter().flatten().copied();
        let greatest = seen
            .filter(|stamp| bound.is_none_or(|bound| *stamp <= bound))
            .max();
        self.greatest = self.greatest.max(greatest.map(Stored));
    }

    /// Ends the part under way.
    fn go_on(mut self, rules: Rules) -> Step {
        if self.aside.pop().is_none() {
            self.parts.pass();
        }
        self.enter(rules)
    }

    /// Enters what is to be asked for next, or concludes.
    fn enter(mut self, rules: Rules) -> Step {
        self.enter_part();
        if self.aside.is_empty() && self.parts.is_over() {
            self.conclude(rules)
        } else {
            Step::Ask(Box::new(self))
        }
    }

    fn enter_part(&mut self) {
        self.link = None;
        self.pages = 0;
        self.matches = 0;
        self.visited.clear();
        self.larger = None;
        if let Some(Aside::Rest { link, matches }) = self.aside.last() {
            visit(&mut self.visited, link);
            (self.pages, self.matches) = (1, *matches);
            self.link = Some(link.clone());
        }
    }

    /// Whether the part under way is one of a list.
    fn asks_for_one(&self) -> bool {
        match self.aside.last() {
            Some(Aside::One(_)) => true,
            Some(Aside::Rest { .. }) => false,
            None => self.parts.asks_for_one(),
        }
    }

    fn conclude(self, rules: Rules) -> Step {
        if let Some(doubt) = self.doubt {
            return Step::Inconclusive(doubt);
        }
        let bound = self.bound.map_or(Timestamp::UNIX_EPOCH, |bound| bound.0);
        let seen = self.greatest.max(self.floor).map_or(bound, |seen| seen.0);
        let start = match self.silence {
            Silence::None => None,
            Silence::Before(start) | Silence::BeforeOrUnstamped(start) => Some(start.0),
            Silence::All => Some(rules.cut.earliest_stamp(bound)),
        };
        let watermark = match rules.aim {
            Aim::Changes | Aim::Present | Aim::Past { .. } => seen,
            // A sweep stands for the time at which it began: it moves nobody's cursor.
            Aim::Everything => bound,
        };
        let state = CursorState::of(By::Listing, watermark, start);
        Step::Done(Box::new(state.conditioned_on(self.tags)))
    }

    /// Notes a doubt; the first one counts.
    fn suspect(&mut self, doubt: Doubt) {
        self.doubt = self.doubt.or(Some(doubt));
    }
}

#[cfg(test)]
mod tests;
