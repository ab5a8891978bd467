//! Names that only the configuration gives: destinations and subscriptions.

use std::fmt;

use thiserror::Error;

/// The longest accepted name, in bytes; the same as for the names of connections and feeds.
const NAME_BYTES_MAX: usize = 255;

/// A name that cannot be used, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} must be 1 to {NAME_BYTES_MAX} bytes of letters, digits, '-' and '_'")]
pub struct InvalidName {
    what: &'static str,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Parses the text form.
            ///
            /// # Errors
            /// [`InvalidName`] when the text is empty, too long or holds a character outside the allowed set.
            pub fn parse(text: &str) -> Result<Self, InvalidName> {
                let accepts = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
                if !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.chars().all(accepts) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidName { what: $what })
                }
            }

            /// Returns the text form.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of one destination, for example `scheduling`.
    DestinationName, "destination name"
);
name_type!(
    /// The name of one subscription, for example `mercy-appointments`. Its numbers belong to it.
    SubscriptionName, "subscription name"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_alphabet_or_the_length_are_refused() {
        for bad in ["", "a b", "a.b", "ä", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(DestinationName::parse(bad).is_err(), "{bad:?}");
            assert!(SubscriptionName::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(DestinationName::parse("bus-1").unwrap().as_str(), "bus-1");
    }
}
