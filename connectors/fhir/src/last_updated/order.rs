//! In which order a poll's pages show their rows, as found out from the stamps.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::instant::Stored;

/// The order of all pages so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    /// All stamps of each page are equal, or there are none.
    Unknown,
    Ascending,
    Descending,
    /// No order, or rows without stamps.
    Mixed,
    /// No order, and what that put at stake has been read again.
    Settled,
}

impl Order {
    /// The order of pages of both kinds.
    pub(crate) fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Settled, _) | (_, Self::Settled) => Self::Settled,
            (Self::Mixed, _)
            | (_, Self::Mixed)
            | (Self::Ascending, Self::Descending)
            | (Self::Descending, Self::Ascending) => Self::Mixed,
            (Self::Unknown, order) | (order, Self::Unknown) => order,
            (Self::Ascending, Self::Ascending) => Self::Ascending,
            (Self::Descending, Self::Descending) => Self::Descending,
        }
    }

    /// How far the pages reach with one more page: a page that repeats rows does not take the end back.
    pub(crate) fn reach(self, before: Option<Stored>, stamps: &[Option<Timestamp>]) -> Option<Stored> {
        let last = stamps.iter().flatten().next_back().copied().map(Stored);
        match (before, last, self) {
            (Some(before), Some(last), Self::Ascending) => Some(before.max(last)),
            (Some(before), Some(last), Self::Descending) => Some(before.min(last)),
            (_, last, Self::Unknown | Self::Mixed | Self::Settled) | (None, last, _) => last.or(before),
            (Some(before), None, Self::Ascending | Self::Descending) => Some(before),
        }
    }
}

/// The order within one page.
pub(crate) fn of(stamps: &[Option<Timestamp>]) -> Order {
    let mut order = Order::Unknown;
    for pair in stamps.windows(2) {
        let step = match pair {
            [Some(left), Some(right)] if left < right => Order::Ascending,
            [Some(left), Some(right)] if left > right => Order::Descending,
            [Some(_), Some(_)] => Order::Unknown,
            _ => Order::Mixed,
        };
        order = order.join(step);
    }
    match stamps {
        [None] => Order::Mixed,
        _ => order,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pages_order_is_read_from_its_stamps() {
        let at = |seconds: i64| Some(Timestamp::from_second(seconds).unwrap());
        let rows: [(&[Option<Timestamp>], Order); 9] = [
            (&[], Order::Unknown),
            (&[at(1)], Order::Unknown),
            (&[None], Order::Mixed),
            (&[at(1), at(1)], Order::Unknown),
            (&[at(1), at(2), at(2)], Order::Ascending),
            (&[at(2), at(2), at(1)], Order::Descending),
            (&[at(1), at(2), at(1)], Order::Mixed),
            (&[at(1), None], Order::Mixed),
            (&[at(2), at(1), at(0)], Order::Descending),
        ];
        for (stamps, order) in rows {
            assert_eq!(of(stamps), order, "{stamps:?}");
        }
    }
}
