//! Names that users give to destinations and subscriptions.

pub use courier_sdk::{ConnectionName, FeedName, InvalidName};

courier_sdk::name_type!(
    /// The name of one destination, for example `scheduling`.
    DestinationName, "destination name", "letters, digits, '-' and '_'",
    |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
);
courier_sdk::name_type!(
    /// The name of one subscription, for example `mercy-appointments`.
    SubscriptionName, "subscription name", "letters, digits, '-', '_' and '.', but not '.' or '..'",
    |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
);
