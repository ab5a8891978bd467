//! What a change means, beyond that the record changed: said by the record's own content, in every version that says it.

/// What a version of a record says of the record as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// It was merged into another record, which is to be used in its place: the reference to that one as the source
    /// writes it, at most [`REFERENCE_BYTES_MAX`] visible ASCII characters; absent where the source names it otherwise.
    MergedInto(Option<String>),
    /// It had been merged into another record and stands by itself again.
    Unmerged,
    /// It should never have been there.
    EnteredInError,
    /// What it plans or asks for was called off.
    Cancelled,
}

/// The longest reference that is carried.
pub const REFERENCE_BYTES_MAX: usize = 255;

impl Meaning {
    /// A merge into the record of this reference; one that cannot be carried is left out.
    #[must_use]
    pub fn merged_into(reference: Option<String>) -> Self {
        let fits = |text: &String| {
            (1..=REFERENCE_BYTES_MAX).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        Self::MergedInto(reference.filter(fits))
    }

    /// The one word for it that notifications and stores use.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::MergedInto(_) => "merged",
            Self::Unmerged => "unmerged",
            Self::EnteredInError => "entered-in-error",
            Self::Cancelled => "cancelled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_that_fits_no_header_is_left_out_of_a_merge() {
        let into = |text: &str| Meaning::merged_into(Some(text.to_owned()));
        let kept = |text: &str| Meaning::MergedInto(Some(text.to_owned()));
        assert_eq!(into("Patient/7"), kept("Patient/7"));
        let longest = "x".repeat(REFERENCE_BYTES_MAX);
        assert_eq!(into(&longest), kept(&longest));
        for bad in [
            "",
            "Patient/7 8",
            "Patient/7\n",
            "Pati\u{eb}nt/7",
            &"x".repeat(REFERENCE_BYTES_MAX + 1),
        ] {
            assert_eq!(into(bad), Meaning::MergedInto(None), "{bad:?}");
        }
    }
}
