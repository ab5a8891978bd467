//! Context: the records that a changed record refers to, fetched with it and never an event themselves.

use std::fmt;

use thiserror::Error;

use crate::id::{RecordKey, RecordType};
use crate::record::Record;

/// A reference that is followed, as `Type:parameter`: the search parameter that names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Include {
    /// The type of the record that refers.
    pub record_type: RecordType,
    /// The search parameter's name, for example `patient`.
    pub parameter: String,
}

/// A text that is no `Type:parameter`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not of the form Type:parameter")]
pub struct InvalidInclude;

impl Include {
    /// Reads `Type:parameter`.
    ///
    /// # Errors
    /// [`InvalidInclude`] when the text has another form.
    pub fn parse(text: &str) -> Result<Self, InvalidInclude> {
        let (record_type, parameter) = text.split_once(':').ok_or(InvalidInclude)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if parameter.is_empty() || !parameter.chars().all(plain) {
            return Err(InvalidInclude);
        }
        Ok(Self {
            record_type: RecordType::parse(record_type).map_err(|_| InvalidInclude)?,
            parameter: parameter.to_owned(),
        })
    }
}

impl fmt::Display for Include {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.record_type, self.parameter)
    }
}

/// One reference of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// As it is written.
    pub text: String,
    /// The record of this source that it leads to; absent where it leads elsewhere.
    pub key: Option<RecordKey>,
}

/// The records that one record refers to, as the source showed them when they were fetched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    /// Those that were read, in the order of the references.
    pub included: Vec<Record>,
    /// The references that could not be followed, as they are written.
    pub missing: Vec<String>,
}

impl Context {
    /// How many bytes its records have.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.included.iter().map(|record| record.bytes().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_and_a_parameter_are_joined_by_a_colon() {
        let include = Include::parse("Appointment:patient").unwrap();
        assert_eq!(include.to_string(), "Appointment:patient");
        for bad in [
            "",
            "Appointment",
            "Appointment:",
            ":patient",
            "Appointment:a:b",
            "Appointment:a b",
        ] {
            assert!(Include::parse(bad).is_err(), "{bad}");
        }
    }
}
