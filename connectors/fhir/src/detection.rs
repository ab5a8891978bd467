//! Which way a feed's changes are found, and what that way cannot see.

use courier_sdk::{
    ConnectorError, DeleteSight, Detection, FeedSpec, FetchMode, PageOrder, PollRequest, Strategy,
};

use crate::FhirConnector;

impl FhirConnector {
    /// Says how a feed's changes are found, and asks for its first page, of which nothing is kept.
    pub(crate) async fn detect(&self, feed: &FeedSpec) -> Result<Detection, ConnectorError> {
        let request = PollRequest {
            feed,
            cursor: None,
            resume: None,
        };
        self.poll_page(request).await?;
        Ok(by_last_updated(
            feed,
            "a search by _lastUpdated is what every server offers".to_owned(),
        ))
    }
}

fn by_last_updated(feed: &FeedSpec, why: String) -> Detection {
    let mut blind_spots = vec!["versions that are overwritten between two polls"];
    let deletes = match feed.fetch {
        FetchMode::ByRead => {
            blind_spots.push("deletes, but for those that fall between a search and its read");
            DeleteSight::OnRead
        }
        FetchMode::FromPage => {
            blind_spots.push("deletes");
            DeleteSight::Unseen
        }
    };
    if !feed.filter.is_empty() {
        blind_spots.push("records that no longer match the feed's where");
    }
    Detection {
        strategy: Strategy::LastUpdated,
        why,
        order: PageOrder::OldestFirst,
        deletes,
        blind_spots,
    }
}
