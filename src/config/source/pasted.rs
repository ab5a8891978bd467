//! Secrets that were pasted where a key's name belongs: such a key is told of by its place and its length.

use toml::de::{DeTable, DeValue};

use crate::domain::name::{ConnectionName, DestinationName};

/// The longest key that is believed to be a mistyped one, in characters; the longest of ours has 19.
const KEY_CHARS_MAX: usize = 40;

/// Shorter texts are shown whatever they are made of: no issuer gives out tokens that short.
const SECRET_CHARS_MIN: usize = 8;

/// The longest run of letters that is believed to be a word, or a few of them without `_` between.
const WORD_CHARS_MAX: usize = 24;

/// How tokens begin that can otherwise look like words.
const MARKS: [&str; 6] = ["sk_", "pk_", "rk_", "ghp_", "whsec_", "eyJ"];

/// Whether a key's name may be a secret. Names are words of letters with `_` or `-` between, and at most a number behind
/// each: whatever is too long for that, holds other characters or mixes letters and digits otherwise is withheld.
pub(in crate::config) fn may_be_secret(key: &str) -> bool {
    let length = key.chars().count();
    if length < SECRET_CHARS_MIN {
        return false;
    }
    length > KEY_CHARS_MAX
        || MARKS.iter().any(|mark| key.starts_with(mark))
        || !key.split(['_', '-']).all(is_word)
}

fn is_word(part: &str) -> bool {
    let letters = part.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = part.len() - letters.len();
    letters.len() <= WORD_CHARS_MAX && digits <= 4 && letters.chars().all(|c| c.is_ascii_alphabetic())
}

/// Collects the keys of a tree that may be secrets, as they read and as `text` writes them. The name of a connection or
/// a destination is the user's choice and stands in every log: where something is configured under it, it is shown.
pub(super) fn collect(table: &DeTable<'_>, section: &str, text: &str, found: &mut Vec<String>) {
    for (key, value) in table {
        let name: &str = key.get_ref();
        let is_name = match section {
            "connections" => ConnectionName::parse(name).is_ok(),
            "destinations" => DestinationName::parse(name).is_ok(),
            _ => false,
        };
        let is_name = is_name && matches!(value.get_ref(), DeValue::Table(_));
        if may_be_secret(name) && !is_name {
            found.push(name.to_owned());
            let written = text.get(key.span()).unwrap_or_default();
            if !written.contains(name) && !written.is_empty() {
                found.push(written.to_owned());
            }
        }
        collect_value(
            value.get_ref(),
            if section.is_empty() { name } else { "-" },
            text,
            found,
        );
    }
}

fn collect_value(value: &DeValue<'_>, section: &str, text: &str, found: &mut Vec<String>) {
    match value {
        DeValue::Table(table) => collect(table, section, text, found),
        DeValue::Array(array) => {
            for element in array {
                collect_value(element.get_ref(), section, text, found);
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_and_a_word_of_another_tool_are_shown_and_a_token_is_not() {
        for shown in [
            "evry",
            "requests_per_secnd",
            "baseUrl",
            "plain-http-networks",
            "allowPlainHttpNetworks",
            "oauth2",
            "retry_after_30",
            "täst",
            "mer cy",
        ] {
            assert!(!may_be_secret(shown), "{shown}");
        }
        for withheld in [
            "sk_live_abcdefghijklmnop",
            "4eC39HqLyjWDarjtT1zdp7dc",
            "canary-token-9f3b7c1d2e",
            "eyJhbGciOiJub25lIn0",
            "c2VjcmV0LXRoYXQtaXMtcGFzdGVk==",
            "correct horse battery staple",
            "amqp://user:password@host",
            "whsec_abcdefgh",
            "a_long_row_of_plain_words_that_no_key_ever_has",
        ] {
            assert!(may_be_secret(withheld), "{withheld}");
        }
    }
}
