//! Names and keys: validated once, at the edge, and opaque from there on.

use std::fmt;

use thiserror::Error;

/// The longest accepted name or record id, in bytes. Epic has been seen to use 88; 255 leaves room.
pub const NAME_BYTES_MAX: usize = 255;

/// A name or id that cannot be used, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} must be 1 to {NAME_BYTES_MAX} bytes of {allowed}")]
pub struct InvalidName {
    what: &'static str,
    allowed: &'static str,
}

impl InvalidName {
    /// Says that a text is not a `what`, which must consist of `allowed`.
    #[must_use]
    pub fn new(what: &'static str, allowed: &'static str) -> Self {
        Self { what, allowed }
    }
}

/// Declares a newtype over text with a length limit and an alphabet, parsed once. Neither `.` nor `..` is a name:
/// names are parts of addresses, which drop these segments, so that `Patient/..` would ask for every record.
#[macro_export]
macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $allowed:literal, $accepts:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Parses the text form.
            ///
            /// # Errors
            /// [`InvalidName`]($crate::InvalidName) when the text is empty, too long, `.` or `..`, or holds a character outside the allowed set.
            pub fn parse(text: &str) -> Result<Self, $crate::InvalidName> {
                let accepts: fn(char) -> bool = $accepts;
                let fits = !text.is_empty() && text.len() <= $crate::id::NAME_BYTES_MAX;
                if fits && !matches!(text, "." | "..") && text.chars().all(accepts) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err($crate::InvalidName::new($what, $allowed))
                }
            }

            /// Returns the text form.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of one configured source system, for example `mercy`.
    ConnectionName, "connection name", "letters, digits, '-' and '_'",
    |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
);
name_type!(
    /// The name of one feed of a connection, for example `appointments`. The cursor belongs to it.
    FeedName, "feed name", "letters, digits, '-', '_' and '.', but not '.' or '..'",
    |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
);
name_type!(
    /// A kind of record as the source names it, for example `Appointment`.
    RecordType, "record type", "letters, digits, '-' and '_'",
    |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
);
name_type!(
    /// A record's id within its type. FHIR allows 64 of `[A-Za-z0-9.-]`; real servers exceed both limits. FHIR
    /// allows `.` and `..` too, which no address can hold.
    RecordId, "record id", "visible ASCII without '/', '?', '#' or '%', but not '.' or '..'",
    |c| c.is_ascii_graphic() && !matches!(c, '/' | '?' | '#' | '%')
);

/// Identifies one record of a connection: its type and its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// The kind of record.
    pub record_type: RecordType,
    /// The id within that kind.
    pub id: RecordId,
}

impl fmt::Display for RecordKey {
    /// Writes `Type/id`, FHIR's relative reference.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.record_type, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_alphabet_or_the_length_are_refused() {
        for bad in ["", "a b", "a/b", "ä"] {
            assert!(ConnectionName::parse(bad).is_err(), "{bad:?}");
            assert!(RecordId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(RecordId::parse(&"x".repeat(256)).is_err());
        assert!(RecordId::parse("eq081-VQEgP8drUUqCWzHfw3.5|7").is_ok());
    }

    #[test]
    fn no_name_is_one_that_addresses_take_for_the_way_up() {
        for way in [".", ".."] {
            assert!(RecordId::parse(way).is_err(), "{way:?}");
            assert!(FeedName::parse(way).is_err(), "{way:?}");
        }
        for name in ["...", "a.", ".a", "..a"] {
            assert!(RecordId::parse(name).is_ok(), "{name:?}");
        }
    }
}
