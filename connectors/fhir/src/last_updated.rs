//! Change detection by `_lastUpdated` search: where a poll begins, how it goes on, what it may conclude.
//!
//! Pure: instants, links and counts in, the next step out. It guarantees that the watermark never moves
//! back, never passes the source's own time at the poll's start, and moves only when every row up to it
//! (less the overlap) was shown. It must not know HTTP or record bodies.
//!
//! **Shifting pages.** With live offset paging, a row that leaves an earlier page moves the later rows up,
//! and one row at the seam between two pages is never shown. If that row is younger than `bound − overlap`,
//! the next poll shows it anyway. If not, the stretch between the two pages is asked for again as a closed
//! *window*. Pages in no order have no seams to look at: there the window is everything that the next poll
//! will no longer cover. A window of one page is complete. A window of several pages could shift itself, so
//! it is read again until two passes show the same set: a row can only have been skipped if another one,
//! shown before, left the window, and then the next pass no longer shows that one.
//!
//! **Ignored bounds.** Where the source ignores `_lastUpdated`, the poll cannot move the cursor, but it reads on
//! for [`IGNORED_PAGES_MAX`] pages: in the order of stamps what is new comes last, and a source that ignores the
//! bound for good would otherwise show nothing new ever again.
//!
//! **Cut answers.** A full page without a further link, or a total above what was shown, concludes nothing: what is left
//! over is asked for by a search of its own (`rest`).
//!
//! An order is believed when every page keeps it. A source that sorts by something else and yet shows a whole
//! answer of several pages in the order of its stamps would deceive this.

mod order;
pub(crate) mod page;
pub(crate) mod past;
pub(crate) mod present;
pub(crate) mod rest;
mod window;

use std::time::Duration;

use courier_sdk::{Aim, FeedSpec, Start};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cursor::{By, CursorState};
use crate::instant::{self, Stored};
use crate::profile::{Cut, Paging};
use order::Order;
use rest::Rest;
pub(crate) use window::Window;

/// The form of stored polls; raised when it changes.
const VERSION: u8 = 1;

/// The most pages of one poll, or of one pass through a window: two million records at 200 a page.
pub(crate) const PAGES_MAX: u32 = 10_000;

/// The most pages of a poll whose bound the source ignores: ten thousand records at 200 a page, read anew by every
/// poll, is as much as a source should be asked for in vain.
pub(crate) const IGNORED_PAGES_MAX: u32 = 50;

/// How many page links are remembered to recognise a circle. Longer circles end at [`PAGES_MAX`].
const VISITED_MAX: usize = 64;

/// Servers with second precision show rows up to a second below a finer bound.
pub(crate) const PRECISION: Duration = Duration::from_secs(1);

/// What a poll asks for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Lower bound of the search, inclusive.
    pub(crate) lower: Option<Timestamp>,
    /// Where the cursor stands: no poll moves it back.
    pub(crate) floor: Option<Timestamp>,
    pub(crate) start: Option<Timestamp>,
    pub(crate) first: First,
    /// Upper bound of the search, inclusive, where it is for the past alone.
    pub(crate) upper: Option<Timestamp>,
}

/// Whether the source's present is where the feed begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// The first answer finds out where the feed begins; with our own clock's time before it.
    Now(Timestamp),
    /// The beginning is known.
    Known,
}

/// Plans a poll; `now` is our own clock, used only where there is no word of the source's.
pub(crate) fn plan(feed: &FeedSpec, cursor: Option<&CursorState>, cut: Cut, now: Timestamp) -> Plan {
    let known = Plan {
        lower: None,
        floor: None,
        start: None,
        first: First::Known,
        upper: None,
    };
    if cursor.is_none() && feed.scope.aim == Aim::Present {
        return Plan {
            lower: Some(cut.floor(instant::back(now, feed.overlap))),
            first: First::Now(now),
            ..known
        };
    }
    match (cursor, feed.start) {
        (Some(cursor), Start::Now | Start::Beginning | Start::At(_)) => Plan {
            lower: Some(cut.floor(instant::back(cursor.watermark.0, rewind(feed)))),
            floor: Some(cursor.watermark.0),
            start: cursor.start.map(|start| start.0),
            ..known
        },
        (None, Start::Now) => Plan {
            lower: Some(cut.floor(instant::back(now, feed.overlap))),
            first: First::Now(now),
            ..known
        },
        (None, Start::At(start)) => Plan {
            lower: Some(cut.floor(start)),
            floor: Some(start),
            start: Some(start),
            ..known
        },
        // No bound at all: records without a stamp are shown too. If none is stamped at or before the bound
        // the cursor still becomes one, at 1970: nothing is older, so nothing is skipped, and it is neither
        // a guess from `Date` nor a feed that stays without a cursor for ever.
        (None, Start::Beginning) => known,
    }
}

/// How far back of the cursor a poll begins.
fn rewind(feed: &FeedSpec) -> Duration {
    if cfg!(sabotage = "gt_instead_of_ge_and_overlap") {
        return Duration::ZERO;
    }
    feed.overlap
}

/// Why a poll may not move the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Doubt {
    FilterIgnored,
    Circle,
    EmptyPage,
    TooManyPages,
    FullPage,
    Cut,
    WindowIgnored,
    WindowRestless,
}

impl Doubt {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::FilterIgnored => "the source ignored a search parameter",
            Self::Circle => "the page links run in a circle",
            Self::EmptyPage => "an empty page links to a further page",
            Self::TooManyPages => "the answer has too many pages and no ascending order",
            Self::FullPage => "a full page came without a link to a further page",
            Self::Cut => "the answer counts more matches than it shows, and links no further page",
            Self::WindowIgnored => "the source ignored the bounds of a closed time window",
            Self::WindowRestless => "records kept moving between the pages of a closed time window",
        }
    }
}

/// What one page showed, as far as the poll's course depends on it.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    /// The stamps of the matches, in the order of the answer.
    pub(crate) stamps: Vec<Option<Timestamp>>,
    /// A sum over the matches' identities, independent of their order.
    pub(crate) digest: u64,
    /// All entries of the page.
    pub(crate) entries: usize,
    /// Matches, nameable or not.
    pub(crate) matches: u64,
    /// How many matches the source says that the whole search has.
    pub(crate) total: Option<u64>,
    pub(crate) filter: Filter,
    /// The next page's absolute link.
    pub(crate) next: Option<String>,
    pub(crate) fill: Fill,
}

/// What the `self` link says of the search parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    Applied,
    /// `_lastUpdated` was ignored.
    Ignored,
    /// There is no `self` link.
    Unsaid,
}

/// Whether a page without a `next` link could have been cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    Whole,
    PerhapsCut,
}

/// What the poll depends on beside its own state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) overlap: Duration,
    pub(crate) paging: Paging,
    /// How far from a bound a row may lie that was asked for by it.
    pub(crate) precision: Duration,
    /// How many matches the page was asked to hold.
    pub(crate) count: u32,
    /// How many a page is usually asked to hold.
    pub(crate) usual_count: u32,
}

/// What to ask for next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// A page link, absolute.
    Link(String),
    /// The first page of the window under way.
    Window,
    /// What an answer left over that was cut.
    Rest,
}

/// What follows after the present page or window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Onward {
    Page(String),
    End,
    /// The answer was cut: what it left over.
    Rest(Rest),
    /// The rest of the answer cannot be had.
    Early(Doubt),
}

/// The poll's next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Ask(Box<Poll>),
    Done(CursorState),
    Inconclusive(Doubt),
}

/// A poll under way; what is stored between its pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Poll {
    v: u8,
    pub(crate) target: Option<Target>,
    lower: Option<Stored>,
    floor: Option<Stored>,
    pub(crate) bound: Stored,
    pub(crate) start: Option<Stored>,
    greatest: Option<Stored>,
    order: Order,
    /// The stamp up to which the pages so far reach, in their order.
    reach: Option<Stored>,
    pages: u32,
    /// The matches of all pages so far.
    matches: u64,
    visited: Vec<u64>,
    doubt: Option<Doubt>,
    pub(crate) window: Option<Window>,
    /// The search's upper bound, where it is for the past alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upper: Option<Stored>,
    /// Ids were asked for instead of records; polls of before there was a choice do not say it.
    #[serde(default)]
    shortened: bool,
    /// The search under way, after an answer that was cut.
    #[serde(default)]
    rest: Option<Rest>,
}

impl Poll {
    /// Begins a poll with its first answer; `bound` is the source's time at that moment.
    pub(crate) fn begin(plan: &Plan, bound: Timestamp) -> Self {
        Self {
            v: VERSION,
            target: None,
            lower: plan.lower.map(Stored),
            floor: plan.floor.map(Stored),
            bound: Stored(bound),
            start: plan.start.map(Stored),
            greatest: None,
            order: Order::Unknown,
            reach: None,
            pages: 0,
            matches: 0,
            visited: Vec::new(),
            doubt: None,
            window: None,
            upper: plan.upper.map(Stored),
            shortened: false,
            rest: None,
        }
    }

    /// Reads the stored form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text)
            .ok()
            .filter(|poll: &Self| poll.v == VERSION)
    }

    /// Takes in one page and says what follows.
    pub(crate) fn absorb(mut self, shown: &Shown, rules: Rules) -> Step {
        let bound = self.bound.0;
        let seen = shown
            .stamps
            .iter()
            .flatten()
            .copied()
            .filter(|stamp| *stamp <= bound)
            .max();
        self.greatest = self.greatest.max(seen.map(Stored));
        if shown.filter == Filter::Ignored {
            self.suspect(Doubt::FilterIgnored);
        }
        match self.window.take() {
            Some(window) => self.absorb_window(window, shown, rules),
            None => self.absorb_page(shown, rules),
        }
    }

    fn absorb_page(mut self, shown: &Shown, rules: Rules) -> Step {
        self.pages += 1;
        self.matches += shown.matches;
        let lower = self.lower.map(|lower| instant::back(lower.0, PRECISION));
        if shown.filter == Filter::Unsaid && shown.stamps.iter().flatten().any(|stamp| Some(*stamp) < lower) {
            self.suspect(Doubt::FilterIgnored);
        }
        let first = shown.stamps.iter().flatten().next().copied();
        let step = match (self.reach, first) {
            (Some(reach), Some(first)) => order::of(&[Some(reach.0), Some(first)]),
            (None, _) | (_, None) => Order::Unknown,
        };
        // A step back from one page to the next may be rows shown again (the pages moved the other way) or an
        // order that only looked like one; the dearer reading is the safe one.
        self.order = self.order.join(order::of(&shown.stamps)).join(step);
        let seam = match rules.paging {
            // A source that ignores bounds ignores a window's too, and the cursor stays anyway.
            Paging::Live if self.doubt == Some(Doubt::FilterIgnored) => None,
            Paging::Live => self.seam(&shown.stamps, rules.overlap),
            Paging::Snapshot => None,
        };
        self.reach = self.order.reach(self.reach, &shown.stamps);
        let onward = self.onward(shown, rules);
        if self.is_deceived() {
            self.suspect(Doubt::Cut);
        }
        match seam {
            Some((lo, hi)) => self.open(Window::new(Some(lo), hi, onward)),
            None => self.proceed(onward, rules),
        }
    }

    /// Where the main search goes on after this page.
    fn onward(&mut self, shown: &Shown, rules: Rules) -> Onward {
        let Some(link) = &shown.next else {
            return match self.cut(shown) {
                None => Onward::End,
                Some(doubt) if self.pages == 1 && self.doubt.is_none() => {
                    self.rest_after(shown, doubt, rules)
                }
                Some(doubt) => Onward::Early(doubt),
            };
        };
        if visit(&mut self.visited, link) == Visit::Again {
            self.suspect(Doubt::Circle);
            return Onward::End;
        }
        if shown.entries == 0 {
            // Seen of HAPI (its tracker, 7711): empty pages that link to further ones for ever.
            return Onward::Early(Doubt::EmptyPage);
        }
        if self.has_come_far() {
            return Onward::Early(Doubt::TooManyPages);
        }
        let ignored = self.doubt == Some(Doubt::FilterIgnored);
        if self.pages >= if ignored { IGNORED_PAGES_MAX } else { PAGES_MAX } {
            return Onward::Early(Doubt::TooManyPages);
        }
        Onward::Page(link.clone())
    }

    /// Why an answer that links no further page need not be whole.
    fn cut(&self, shown: &Shown) -> Option<Doubt> {
        if shown.total.is_some_and(|total| total > self.matches) {
            return Some(Doubt::Cut);
        }
        (shown.fill == Fill::PerhapsCut && self.pages == 1).then_some(Doubt::FullPage)
    }

    /// The stretch between the last page and this one, if a row could be missing there for good.
    fn seam(&self, stamps: &[Option<Timestamp>], overlap: Duration) -> Option<(Timestamp, Timestamp)> {
        let reach = self.reach?.0;
        let first = stamps.iter().flatten().next().copied();
        let (lo, hi) = match (self.order, first) {
            // Unordered: the strip read at the end covers every seam. Ascending, with an emptied last page: rows
            // that moved off it are younger than all that was shown, so that the watermark stays before them.
            (Order::Mixed | Order::Settled, _) | (Order::Ascending, None) => return None,
            (Order::Ascending | Order::Descending | Order::Unknown, Some(first)) => {
                (first.min(reach), first.max(reach))
            }
            (Order::Descending | Order::Unknown, None) => {
                (self.lower.map_or(Timestamp::UNIX_EPOCH, |lower| lower.0), reach)
            }
        };
        let covered_next = self.not_shown_again(overlap);
        (lo < covered_next).then(|| (lo, hi.min(covered_next)))
    }

    fn open(mut self, window: Window) -> Step {
        self.window = Some(window);
        self.target = Some(Target::Window);
        Step::Ask(Box::new(self))
    }

    fn proceed(mut self, onward: Onward, rules: Rules) -> Step {
        match onward {
            Onward::Page(link) => {
                self.target = Some(Target::Link(link));
                Step::Ask(Box::new(self))
            }
            Onward::Rest(rest) => self.ask_for_rest(rest),
            Onward::Early(doubt) => self.stop_early(doubt),
            Onward::End => {
                let covered_next = self.not_shown_again(rules.overlap);
                let at_stake = self.lower.is_none_or(|lower| lower.0 < covered_next);
                let shifting = rules.paging == Paging::Live && self.pages > 1 && self.order == Order::Mixed;
                if shifting && at_stake && self.doubt.is_none() {
                    // Settled once: a window's end leads to a conclusion, not to another strip.
                    self.order = Order::Settled;
                    let lower = self.lower.map(|lower| lower.0);
                    return self.open(Window::new(lower, covered_next, Onward::End));
                }
                self.reach_the_end();
                self.conclude()
            }
        }
    }

    /// The rest cannot be had. What an ascending answer showed is complete as far as it reaches, so that the
    /// next poll can go on from there; if that would be no step forward, someone must know.
    fn stop_early(mut self, doubt: Doubt) -> Step {
        if self.order != Order::Ascending || self.greatest <= self.floor {
            self.suspect(doubt);
        }
        self.conclude()
    }

    fn conclude(self) -> Step {
        if let Some(doubt) = self.doubt {
            return Step::Inconclusive(doubt);
        }
        let seen = self.within(self.greatest.max(self.floor));
        let watermark = seen.map_or(Timestamp::UNIX_EPOCH, |seen| seen.0);
        Step::Done(CursorState::of(
            By::LastUpdated,
            watermark,
            self.start.map(|start| start.0),
        ))
    }

    /// Notes a doubt; the first one counts.
    fn suspect(&mut self, doubt: Doubt) {
        self.doubt = self.doubt.or(Some(doubt));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visit {
    First,
    Again,
}

/// Notes a link; says whether it was followed before.
pub(crate) fn visit(visited: &mut Vec<u64>, link: &str) -> Visit {
    let mark = crate::digest::of(&[link.as_bytes()]);
    if visited.contains(&mark) {
        return Visit::Again;
    }
    if visited.len() >= VISITED_MAX {
        visited.remove(0);
    }
    visited.push(mark);
    Visit::First
}

#[cfg(test)]
mod tests;
