//! What the courier carries without looking inside: record bodies, cursors and page links.

use std::fmt;

use bytes::Bytes;

/// A record's full body, byte for byte as the source wrote it. It is PHI: `Debug` shows its size only.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(Bytes);

impl Record {
    /// Wraps a body. The caller vouches that it is one complete JSON value.
    #[must_use]
    pub fn new(body: Bytes) -> Self {
        Self(body)
    }

    /// Returns the body.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({} bytes)", self.0.len())
    }
}

macro_rules! opaque_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name(String);

        impl $name {
            /// Wraps the connector's own text form.
            #[must_use]
            pub fn new(text: String) -> Self {
                Self(text)
            }

            /// Returns the connector's own text form.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({} bytes)"), self.0.len())
            }
        }
    };
}

opaque_type!(
    /// How far a feed has been durably handed over. Opaque to all but the connector that made it.
    Cursor
);
opaque_type!(
    /// Where a poll of many pages goes on: the next page's link and what the connector noted so far.
    /// Opaque to all but the connector that made it; page links can hold PHI.
    Resume
);
