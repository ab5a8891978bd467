//! The text of a configuration file, and its lines as they may be shown: without secrets.
//!
//! A line is shown with every text value replaced by `…` unless its key is known to be harmless. A file that
//! is not TOML has no known values: of its lines only headers and well-known keys are shown.

mod pasted;

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use url::Url;

pub(super) use pasted::may_be_secret;

/// The longest part of a line that is shown, in characters.
const SHOWN_CHARS_MAX: usize = 100;

/// Keys whose values are never secret.
const HARMLESS: [&str; 29] = [
    "allow_networks",
    "connections",
    "connector",
    "content",
    "destination",
    "detect",
    "every",
    "exchange",
    "fetch",
    "format",
    "from",
    "include",
    "listen",
    "name",
    "order",
    "overlap",
    "plain_http_networks",
    "profile",
    "reconcile",
    "record",
    "retention",
    "retry",
    "routing_key",
    "start",
    "timezone",
    "topic",
    "type",
    "unchanged",
    "user",
];

/// Keys that are no secret although their values can be.
const GUARDED: [&str; 26] = [
    "auth",
    "base_url",
    "ca",
    "client_cert",
    "client_id",
    "client_key",
    "client_secret",
    "feeds",
    "header",
    "key",
    "key_id",
    "limits",
    "other_keys",
    "password",
    "previous_keys",
    "proxy",
    "refresh_token",
    "scope",
    "secret",
    "tls",
    "token",
    "token_url",
    "tokens",
    "url",
    "value",
    "where",
];

/// The sections of the file.
const SECTIONS: [&str; 7] = [
    "connections",
    "dedup",
    "destinations",
    "http",
    "state",
    "subscriptions",
    "telemetry",
];

/// A file's name and text, with what of it must not be shown.
#[derive(Debug)]
pub(super) struct Source {
    name: String,
    text: String,
    values: Values,
    /// Keys that may be secrets, as they read and as they are written; the longest first.
    withheld: Vec<String>,
}

/// What is known of the values in the text.
#[derive(Debug)]
enum Values {
    /// Nothing: the text is not TOML.
    Unknown,
    /// Where the text values lie, in order, and what is shown of them.
    At(Vec<(Range<usize>, Shown)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    AsWritten,
    Instead(String),
}

/// A place in the text, ready to be printed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The line, from 1.
    pub(super) line: usize,
    /// The column in characters, from 1.
    pub(super) column: usize,
    /// The line without secrets.
    pub(super) shown: String,
    /// Carets under what is meant.
    pub(super) marker: String,
}

impl Source {
    /// Wraps a text of which nothing is known yet.
    pub(super) fn new(path: &Path, text: &str) -> Self {
        Self {
            name: path.display().to_string(),
            text: text.to_owned(),
            values: Values::Unknown,
            withheld: Vec::new(),
        }
    }

    /// Learns from the parsed text which values may be shown.
    pub(super) fn learn(&mut self, root: &DeTable<'_>) {
        let mut found = Vec::new();
        collect_table(root, &mut found);
        found.sort_by_key(|(range, _)| range.start);
        self.values = Values::At(found);
        let mut withheld = Vec::new();
        pasted::collect(root, "", &self.text, &mut withheld);
        withheld.sort_by_key(|key| std::cmp::Reverse(key.len()));
        self.withheld = withheld;
    }

    /// Takes the keys that may be secrets out of a message.
    pub(super) fn without_secrets(&self, message: &str) -> String {
        self.withheld
            .iter()
            .fold(message.to_owned(), |text, key| text.replace(key, "…"))
    }

    /// Returns the file's name as the user gave it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Describes the place of some bytes. Bytes outside the text are taken to its end.
    pub(super) fn place(&self, start: usize, end: usize) -> Place {
        let start = floor(&self.text, start);
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let rest = self.text.get(line_start..).unwrap_or_default();
        let line = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let line_end = line_start + line.len();
        let end = floor(&self.text, end).clamp(start, line_end.max(start));
        let (shown, from, to) = self.show(line, line_start, start..end);
        let width = to.saturating_sub(from).max(1);
        Place {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            shown,
            marker: format!("{}{}", " ".repeat(from), "^".repeat(width)),
        }
    }

    /// Returns the line as it may be shown, and the columns in it (from 0) that the marked bytes became.
    fn show(&self, line: &str, line_start: usize, marked: Range<usize>) -> (String, usize, usize) {
        let mut shown = String::new();
        let (mut count, mut from, mut to) = (0, None, None);
        let mut replaced_until = line_start;
        for (offset, letter) in line.char_indices() {
            let at = line_start + offset;
            if at >= marked.start {
                from.get_or_insert(count);
            }
            if at >= marked.end {
                to.get_or_insert(count);
            }
            if at < replaced_until {
                continue;
            }
            let piece = match self.at(at, line, offset) {
                Piece::Letter => letter.to_string(),
                Piece::Replaced(range, text) => {
                    replaced_until = range.end;
                    text
                }
                Piece::Stop => break,
            };
            count += piece.chars().count();
            shown.push_str(&piece);
            if count >= SHOWN_CHARS_MAX {
                shown.push('…');
                break;
            }
        }
        let from = from.unwrap_or(count).min(count);
        (shown.trim_end().to_owned(), from, to.unwrap_or(count))
    }

    /// The key that may be a secret and begins at a byte of the text, wherever in the line that is: a header repeats it.
    fn withheld_at(&self, at: usize) -> Option<&str> {
        let rest = self.text.get(at..)?;
        let found = self.withheld.iter().find(|key| rest.starts_with(key.as_str()));
        found.map(String::as_str)
    }

    /// Decides what is shown at a byte of the text.
    fn at(&self, at: usize, line: &str, offset: usize) -> Piece {
        let letter = line
            .get(offset..)
            .and_then(|rest| rest.chars().next())
            .unwrap_or(' ');
        match &self.values {
            Values::Unknown => {
                if offset < readable_start(line) {
                    Piece::Letter
                } else {
                    Piece::Stop
                }
            }
            Values::At(_) if self.withheld_at(at).is_some() => {
                let length = self.withheld_at(at).map_or(0, str::len);
                Piece::Replaced(at..at + length, "…".to_owned())
            }
            Values::At(values) => match values.iter().find(|(range, _)| range.contains(&at)) {
                Some((range, Shown::Instead(text))) => Piece::Replaced(range.clone(), text.clone()),
                None if letter == '#' => Piece::Stop,
                Some((_, Shown::AsWritten)) | None => Piece::Letter,
            },
        }
    }
}

/// Returns how much of a line that may lie inside a long text surely is not a value: a header of a known
/// section, or a known key and its `=`.
fn readable_start(line: &str) -> usize {
    let header = line.trim().trim_start_matches('[');
    let section = header.split(['.', ']']).next().unwrap_or_default();
    let plain = !header.contains(['=', '"', '\'', '#', ' ']) && !header.split(['.', ']']).any(may_be_secret);
    if line.starts_with('[') && SECTIONS.contains(&section) && plain {
        return line.len();
    }
    let key = line.split_once('=').map(|(key, _)| key).unwrap_or_default();
    let known = HARMLESS.contains(&key.trim()) || GUARDED.contains(&key.trim());
    if known { key.len() + "=".len() } else { 0 }
}

enum Piece {
    Letter,
    Replaced(Range<usize>, String),
    Stop,
}

/// Returns the greatest character boundary that is not after `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|index| text.is_char_boundary(*index))
        .unwrap_or(0)
}

fn collect_table(table: &DeTable<'_>, found: &mut Vec<(Range<usize>, Shown)>) {
    for (key, value) in table {
        found.push((key.span(), Shown::AsWritten));
        collect(key.get_ref(), value, found);
    }
}

fn collect(key: &str, value: &Spanned<DeValue<'_>>, found: &mut Vec<(Range<usize>, Shown)>) {
    match value.get_ref() {
        DeValue::Table(table) => collect_table(table, found),
        DeValue::Array(array) => array.iter().for_each(|element| collect(key, element, found)),
        DeValue::String(text) => found.push((value.span(), shown(key, text))),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {
            let harmless = HARMLESS.contains(&key)
                || matches!(key, "requests_per_second" | "requests_per_day" | "concurrent");
            found.push((
                value.span(),
                if harmless {
                    Shown::AsWritten
                } else {
                    Shown::Instead("…".to_owned())
                },
            ));
        }
    }
}

fn shown(key: &str, text: &str) -> Shown {
    let reference = text.starts_with("file:")
        || text.strip_prefix("env:").is_some_and(|name| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        });
    if HARMLESS.contains(&key) || reference || text == "none" {
        return Shown::AsWritten;
    }
    match key {
        "url" | "base_url" => Shown::Instead(format!("\"{}\"", address(text))),
        _ => Shown::Instead("\"…\"".to_owned()),
    }
}

/// Returns what may be shown of an address: scheme, host and port. The rest can hold secrets.
fn address(text: &str) -> String {
    let Ok(url) = Url::parse(text) else {
        return "…".to_owned();
    };
    if url.scheme() == "sqlite" {
        return text.split(['?', '@']).next().unwrap_or_default().to_owned();
    }
    let host = url.host_str().unwrap_or("…");
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let bare = url.username().is_empty() && url.password().is_none();
    let bare = bare && url.query().is_none() && url.fragment().is_none() && matches!(url.path(), "/" | "");
    format!(
        "{}://{host}{port}{}",
        url.scheme(),
        if bare { url.path() } else { "/…" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, what: &str, expected: (usize, usize, &str, &str)) {
        let mut source = Source::new(Path::new("courier.toml"), text);
        if let Ok(root) = DeTable::parse(text) {
            source.learn(root.get_ref());
        }
        let start = text.find(what).unwrap();
        let place = source.place(start, start + what.len());
        let found = (
            place.line,
            place.column,
            place.shown.as_str(),
            place.marker.trim_start(),
        );
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn lines_show_keys_and_harmless_values_only() {
        check(
            "a = 1\nevery = \"60s\" # x",
            "\"60s\"",
            (2, 9, "every = \"60s\"", "^^^^^"),
        );
        check(
            "token = \"hunter2\"",
            "\"hunter2\"",
            (1, 9, "token = \"…\"", "^^^"),
        );
        check(
            "token = \"env:NAME\"",
            "token",
            (1, 1, "token = \"env:NAME\"", "^^^^^"),
        );
        check(
            "url = \"https://u:p@h:1/x?y\"",
            "url",
            (1, 1, "url = \"https://h:1/…\"", "^^^"),
        );
        check(
            "token = \"\"\"\nhunter2\n\"\"\"",
            "hunter2",
            (2, 1, "\"…\"", "^^^"),
        );
        let text = "\"ä\" = { \"täst\" = 1, name = \"ö\" }";
        check(
            text,
            "name",
            (1, 21, "\"ä\" = { \"täst\" = …, name = \"ö\" }", "^^^^"),
        );
    }

    #[test]
    fn keys_that_may_be_secrets_are_not_shown() {
        let key = "sk_live_4eC39HqLyjWDarjtT1zdp7dc";
        check(&format!("{key} = \"x\""), key, (1, 1, "… = \"…\"", "^"));
        check(&format!("[a]\n\"{key}\".b = 1"), key, (2, 2, "\"…\".b = …", "^"));
        check(
            &format!("[a.{key}]\n[a.{key}.auth]"),
            "auth",
            (2, 37, "[a.….auth]", "^^^^"),
        );
        let escaped = key.replace('_', "\\u005f");
        check(&format!("\"{escaped}\" = 1"), &escaped, (1, 2, "… = …", "^"));
        check(&format!("[connections.{key}\nx = 1"), key, (1, 14, "", "^"));
    }

    #[test]
    fn a_text_that_is_not_toml_shows_no_values() {
        check("token = \"hunter2", "token", (1, 1, "token =", "^^^^^"));
        check("token=\"hunter2", "token", (1, 1, "token=", "^^^^^"));
        check("x = \"\"\"\nhunter2 = \n", "hunter2", (2, 1, "", "^"));
        check("[hunter2\nx = 1", "hunter2", (1, 2, "", "^"));
        check("x = \"\"\"\nhunter2==\n", "hunter2", (2, 1, "", "^"));
        check(
            "[connections.mercy\nx = 1",
            "mercy",
            (1, 14, "[connections.mercy", "^^^^^"),
        );
    }
}
