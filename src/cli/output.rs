//! What a command prints: tables for people, JSON lines for programs, colour only on a terminal.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

/// Where and how a command prints.
pub(super) struct Output {
    json: bool,
    colour: bool,
}

/// A colour that a word may have on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    /// Good news.
    Green,
    /// Bad news.
    Red,
    /// Less important.
    Dim,
}

impl Output {
    /// Prints tables, or JSON lines if asked.
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            colour: !json && io::stdout().is_terminal(),
        }
    }

    /// Whether JSON lines are wanted.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints one line for people; a closed pipe ends the output, not the command.
    #[expect(clippy::unused_self, reason = "whoever prints holds the output")]
    pub(super) fn line(&mut self, text: &str) {
        let mut out = io::stdout().lock();
        if writeln!(out, "{text}").is_err() || out.flush().is_err() {
            tracing::debug!("standard output is closed");
        }
    }

    /// Prints where something is or what to know before its lines: among them for people, beside them (on standard
    /// error) where they are JSON.
    pub(super) fn banner(&mut self, text: &str) {
        if self.json {
            self.problem(text);
        } else {
            self.line(text);
        }
    }

    /// Prints one JSON line.
    pub(super) fn value<T: Serialize>(&mut self, value: &T) {
        match serde_json::to_string(value) {
            Ok(text) => self.line(&text),
            Err(error) => self.problem(&error.to_string()),
        }
    }

    /// Prints what went wrong to standard error.
    #[expect(clippy::unused_self, reason = "whoever prints holds the output")]
    pub(super) fn problem(&mut self, text: &str) {
        let mut err = io::stderr().lock();
        if writeln!(err, "{}", text.trim_end()).is_err() {
            tracing::debug!("standard error is closed");
        }
    }

    /// Colours a word where the output is a terminal.
    pub(super) fn coloured(&self, text: &str, colour: Colour) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Green => "32",
            Colour::Red => "31",
            Colour::Dim => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// Prints rows as a table with a header, or each as the JSON object that it is.
    pub(super) fn rows<T: Serialize>(
        &mut self,
        header: &[&str],
        rows: &[T],
        cells: impl Fn(&T) -> Vec<String>,
    ) {
        if self.json {
            for row in rows {
                self.value(row);
            }
            return;
        }
        let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
        self.table(header, &rows);
    }

    /// Says how many of what were moved.
    pub(super) fn count(&mut self, things: &str, what: &str, count: u64) {
        if self.json {
            self.value(&serde_json::json!({ what: count }));
        } else {
            self.line(&format!("{count} {things} {what}"));
        }
    }

    /// Prints rows as a table with a header, or each as a JSON object with the header's names.
    pub(super) fn table(&mut self, header: &[&str], rows: &[Vec<String>]) {
        if self.json {
            for row in rows {
                let object: serde_json::Map<String, serde_json::Value> = header
                    .iter()
                    .zip(row)
                    .map(|(name, cell)| ((*name).to_owned(), cell.as_str().into()))
                    .collect();
                self.value(&object);
            }
            return;
        }
        if rows.is_empty() {
            self.line(&self.coloured("nothing to show", Colour::Dim));
            return;
        }
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().map(|cell| visible(cell)).collect())
            .collect();
        let widths: Vec<usize> = header
            .iter()
            .enumerate()
            .map(|(column, name)| {
                let cells = rows
                    .iter()
                    .filter_map(|row| row.get(column))
                    .map(|cell| cell.chars().count());
                cells.max().unwrap_or(0).max(name.len())
            })
            .collect();
        let names: Vec<String> = header.iter().map(|name| name.to_uppercase()).collect();
        self.line(&self.coloured(&aligned(&names, &widths), Colour::Dim));
        for row in &rows {
            self.line(&aligned(row, &widths));
        }
    }
}

/// Escapes what a terminal would obey instead of show: sources choose record ids and versions.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || turns_direction(letter) {
            shown.extend(letter.escape_unicode());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// Characters that reorder or hide what stands around them.
fn turns_direction(letter: char) -> bool {
    matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn aligned(cells: &[String], widths: &[usize]) -> String {
    let padded: Vec<String> = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{cell:<width$}"))
        .collect();
    padded.join("  ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (text, expected) in [
            ("Appointment/17", "Appointment/17"),
            ("Müller ☂", "Müller ☂"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\r\nb\t", "a\\u{d}\\u{a}b\\u{9}"),
            ("\u{7f}\u{9b}31m", "\\u{7f}\\u{9b}31m"),
            ("17\u{202e}71", "17\\u{202e}71"),
        ] {
            assert_eq!(visible(text), expected, "{text:?}");
        }
    }
}
