//! Routing keys: the text that tells a broker which queues a message is for, made of a template.
//!
//! A template is literal text with placeholders such as `{connection}.{record_type}.{change}`. It is parsed once, with
//! the configuration; an unknown placeholder is refused there.

use thiserror::Error;

use courier_sdk::{ConnectionName, RecordKey};

use crate::domain::event::EventKind;

/// The longest routing key: AMQP 0-9-1 writes its length in one byte.
pub const ROUTING_KEY_BYTES_MAX: usize = 255;

/// A routing key's template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Value(Placeholder),
}

/// What of an event can stand in a routing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placeholder {
    Connection,
    RecordType,
    RecordId,
    Change,
}

const PLACEHOLDERS: [(&str, Placeholder); 4] = [
    ("connection", Placeholder::Connection),
    ("record_type", Placeholder::RecordType),
    ("record_id", Placeholder::RecordId),
    ("change", Placeholder::Change),
];

/// Why a text is not a template.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotATemplate {
    /// A placeholder that there is not.
    #[error("there is no placeholder {{{name}}}")]
    Unknown {
        /// What stands between the braces.
        name: String,
    },
    /// A brace without its other.
    #[error("a brace is not closed or not opened")]
    Brace,
    /// A control character.
    #[error("it holds a control character")]
    Control,
    /// The text around the placeholders alone is too long.
    #[error("its fixed text is longer than {ROUTING_KEY_BYTES_MAX} bytes")]
    TooLong,
}

/// A routing key that no broker takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the routing key has {bytes} bytes, more than {ROUTING_KEY_BYTES_MAX}")]
pub struct TooLong {
    bytes: usize,
}

impl Template {
    /// The names that may stand between braces.
    #[must_use]
    pub fn placeholders() -> [&'static str; 4] {
        PLACEHOLDERS.map(|(name, _)| name)
    }

    /// Parses a template. The empty text is one: the empty routing key.
    ///
    /// # Errors
    /// [`NotATemplate`] with the first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, NotATemplate> {
        if text.chars().any(char::is_control) {
            return Err(NotATemplate::Control);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (literal, after) = rest.split_once('{').unwrap_or((rest, ""));
            if literal.contains('}') {
                return Err(NotATemplate::Brace);
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            if literal.len() == rest.len() {
                break;
            }
            let (name, after) = after.split_once('}').ok_or(NotATemplate::Brace)?;
            let known = PLACEHOLDERS.iter().find(|(known, _)| *known == name);
            let (_, placeholder) = known.ok_or_else(|| NotATemplate::Unknown {
                name: name.to_owned(),
            })?;
            parts.push(Part::Value(*placeholder));
            rest = after;
        }
        let literal_bytes: usize = parts.iter().map(Part::literal_bytes).sum();
        if literal_bytes > ROUTING_KEY_BYTES_MAX {
            return Err(NotATemplate::TooLong);
        }
        Ok(Self { parts })
    }

    /// Fills the template in for one event.
    ///
    /// # Errors
    /// [`TooLong`] when the names in it add up to more than [`ROUTING_KEY_BYTES_MAX`]. It is never cut: a cut key would
    /// reach the wrong queue.
    pub fn fill(
        &self,
        connection: &ConnectionName,
        key: &RecordKey,
        kind: EventKind,
    ) -> Result<String, TooLong> {
        let text: String = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Literal(text) => text.as_str(),
                Part::Value(Placeholder::Connection) => connection.as_str(),
                Part::Value(Placeholder::RecordType) => key.record_type.as_str(),
                Part::Value(Placeholder::RecordId) => key.id.as_str(),
                Part::Value(Placeholder::Change) => kind.as_str(),
            })
            .collect();
        if text.len() > ROUTING_KEY_BYTES_MAX {
            return Err(TooLong { bytes: text.len() });
        }
        Ok(text)
    }
}

impl Part {
    fn literal_bytes(&self) -> usize {
        match self {
            Self::Literal(text) => text.len(),
            Self::Value(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use courier_sdk::{RecordId, RecordType};

    use super::*;

    fn filled(template: &str, id: &str) -> Result<String, TooLong> {
        let key = RecordKey {
            record_type: RecordType::parse("Appointment").unwrap(),
            id: RecordId::parse(id).unwrap(),
        };
        let connection = ConnectionName::parse("mercy").unwrap();
        Template::parse(template)
            .unwrap()
            .fill(&connection, &key, EventKind::Updated)
    }

    #[test]
    fn a_template_is_filled_with_the_events_names() {
        let rows = [
            ("{connection}.{record_type}.{change}", "mercy.Appointment.updated"),
            ("ehr.{record_type}", "ehr.Appointment"),
            ("{record_type}/{record_id}", "Appointment/17"),
            ("{change}{change}", "updatedupdated"),
            ("all", "all"),
            ("", ""),
        ];
        for (template, key) in rows {
            assert_eq!(filled(template, "17").as_deref(), Ok(key), "{template}");
        }
    }

    #[test]
    fn what_is_not_a_template_is_refused() {
        let unknown = |name: &str| NotATemplate::Unknown {
            name: name.to_owned(),
        };
        let rows = [
            ("{record}", unknown("record")),
            ("a.{}", unknown("")),
            ("{{connection}}", unknown("{connection")),
            ("{connection", NotATemplate::Brace),
            ("connection}", NotATemplate::Brace),
            ("{connection}}", NotATemplate::Brace),
            ("a\nb", NotATemplate::Control),
        ];
        for (template, refused) in rows {
            assert_eq!(Template::parse(template), Err(refused), "{template:?}");
        }
        assert_eq!(Template::parse(&"x".repeat(256)), Err(NotATemplate::TooLong));
        assert!(Template::parse(&"x".repeat(255)).is_ok());
    }

    #[test]
    fn a_key_that_grows_too_long_is_refused_not_cut() {
        assert_eq!(filled("{record_id}", &"i".repeat(255)).unwrap().len(), 255);
        let long = filled("x{record_id}", &"i".repeat(255)).unwrap_err();
        assert_eq!(long.to_string(), "the routing key has 256 bytes, more than 255");
    }
}
