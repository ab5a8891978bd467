//! What an answer leaves over that was cut and links no further page, and how it is asked for. Pure.
//!
//! In the order of stamps everything before the last row was shown: the rest is asked for from that row's stamp on, which
//! shows the rows of that stamp again. Where that is no step forward (more rows share one stamp than a page holds) or
//! there is no order, a larger page is asked for, until all fits. A server that shows no more for it is believed to have
//! a limit of its own.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::order::Order;
use super::{Doubt, Onward, PAGES_MAX, Poll, Rules, Shown, Step, Target};
use crate::instant::Stored;

/// By how much a larger page is larger, unless the answer says how many matches there are.
const GROWTH: u32 = 4;

/// How many times the usual page the largest one holds: ten thousand records where 200 are usual.
const LARGEST: u32 = 50;

/// The search under way, where it is not the poll's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rest {
    pub(crate) from: Option<Stored>,
    /// How many matches a page is asked to hold; as many as ever where absent.
    pub(crate) count: Option<u32>,
    /// Whether what lies before `from` was left behind because an order was believed.
    by_order: bool,
    /// How many matches the smaller page showed.
    shown: u64,
    /// The pages of the searches before.
    pages: u32,
}

/// How many matches a larger page is asked to hold; none where the answer to this one is not larger than `before`, or
/// there is no larger one.
pub(crate) fn larger(asked: u32, usual: u32, shown: u64, before: u64, total: Option<u64>) -> Option<u32> {
    let most = usual.saturating_mul(LARGEST);
    let counted = total.map(|total| u32::try_from(total).unwrap_or(u32::MAX));
    let wanted = counted.unwrap_or_default().max(asked.saturating_mul(GROWTH));
    (shown > before && asked < most).then(|| wanted.min(most))
}

impl Poll {
    /// Says how to go on after an answer of one page that was cut.
    pub(super) fn rest_after(&self, shown: &Shown, doubt: Doubt, rules: Rules) -> Onward {
        let before = self.rest;
        let pages = before.map_or(0, |rest| rest.pages).saturating_add(self.pages);
        if pages >= PAGES_MAX {
            return Onward::Early(Doubt::TooManyPages);
        }
        let from = before.map_or(self.lower, |rest| rest.from);
        let last = shown.stamps.iter().flatten().max().copied().map(Stored);
        if self.order == Order::Ascending && last > from {
            return Onward::Rest(Rest {
                from: last,
                count: None,
                by_order: true,
                shown: 0,
                pages,
            });
        }
        let smaller = before.map_or(0, |rest| rest.shown);
        match larger(
            rules.count,
            rules.usual_count,
            shown.matches,
            smaller,
            shown.total,
        ) {
            None => Onward::Early(doubt),
            count => Onward::Rest(Rest {
                from,
                count,
                by_order: before.is_some_and(|rest| rest.by_order),
                shown: shown.matches,
                pages,
            }),
        }
    }

    /// Whether an order was believed that the source does not keep.
    pub(super) fn is_deceived(&self) -> bool {
        let believed = self.rest.is_some_and(|rest| rest.by_order);
        believed && !matches!(self.order, Order::Ascending | Order::Unknown)
    }

    /// Begins the search for what is left over.
    pub(super) fn ask_for_rest(mut self, rest: Rest) -> Step {
        self.rest = Some(rest);
        self.target = Some(Target::Rest);
        // Its rows come from where the last ones did: there is no seam between the two.
        self.reach = None;
        self.pages = 0;
        self.matches = 0;
        Step::Ask(Box::new(self))
    }

    /// From where on and how much the search for what is left over asks.
    pub(crate) fn rest_asked(&self) -> (Option<Timestamp>, Option<u32>) {
        self.rest
            .map_or((None, None), |rest| (rest.from.map(|from| from.0), rest.count))
    }
}
