//! What operators are told of the way that was chosen: how finely it cuts, in which order it shows versions, when
//! deletes become known, and what it cannot see. Pure.

use courier_sdk::{DeleteSight, Detection, FeedSpec, FetchMode, Granularity, PageOrder, Strategy};

use crate::profile::{Cut, Profile};

const OVERWRITTEN: &str = "versions that are overwritten between two polls";

/// Says of a feed what its way means.
pub(super) fn of(feed: &FeedSpec, profile: &Profile, strategy: Strategy, why: String) -> Detection {
    let (granularity, order, deletes, mut blind_spots) = match strategy {
        Strategy::History => (
            granularity(profile.granularity),
            PageOrder::NewestFirst,
            DeleteSight::Listed,
            vec!["versions that the server removes from its history before they are polled"],
        ),
        Strategy::LastUpdated => {
            let (deletes, unseen) = match feed.fetch {
                FetchMode::ByRead => (
                    DeleteSight::OnRead,
                    "deletes, but for those that fall between a search and its read",
                ),
                FetchMode::FromPage => (DeleteSight::Unseen, "deletes"),
            };
            (
                granularity(profile.granularity),
                PageOrder::OldestFirst,
                deletes,
                vec![OVERWRITTEN, unseen],
            )
        }
        Strategy::Window => listed(match profile.window.parameters.get(feed.record_type.as_str()) {
            None if feed.scope.window.parameter.is_none() => None,
            _ => Some("changes of records whose date lies outside the window"),
        }),
        Strategy::Roster => listed(Some("records of patients who are not on the roster")),
        Strategy::Read => listed(Some("records that are not on the list")),
    };
    if !profile.trust_last_updated && strategy == Strategy::LastUpdated {
        blind_spots.push("changes that the server does not count as such");
    }
    if !feed.filter.is_empty() {
        blind_spots.push("records that no longer match the feed's where");
    }
    Detection {
        strategy,
        why,
        granularity,
        order,
        deletes,
        blind_spots,
    }
}

fn listed(beyond: Option<&'static str>) -> (Granularity, PageOrder, DeleteSight, Vec<&'static str>) {
    let blind_spots = [OVERWRITTEN].into_iter().chain(beyond).collect();
    (
        Granularity::Unbounded,
        PageOrder::OldestFirst,
        DeleteSight::OnDisappearance,
        blind_spots,
    )
}

fn granularity(cut: Cut) -> Granularity {
    match cut {
        Cut::Fraction => Granularity::Fraction,
        Cut::Second => Granularity::Second,
        Cut::Day => Granularity::Day,
    }
}
