//! What is wrong with a configuration: every problem with its place, the line it stands in and the remedy.
//!
//! No message and no printed line shows a secret: see [`Source`].

use std::fmt;
use std::ops::Range;

use toml::Spanned;

use super::source::Source;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// The file as a whole: nothing in it can be pointed at.
    File,
    /// A variable that overrides a key.
    Variable(String),
    /// Bytes of the file.
    Bytes {
        /// The first byte.
        start: usize,
        /// The byte after the last.
        end: usize,
    },
}

impl From<Range<usize>> for Origin {
    fn from(bytes: Range<usize>) -> Self {
        Self::Bytes {
            start: bytes.start,
            end: bytes.end,
        }
    }
}

impl<T> From<&Spanned<T>> for Origin {
    fn from(spanned: &Spanned<T>) -> Self {
        spanned.span().into()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    origin: Origin,
    path: String,
    message: String,
    help: String,
}

/// The problems found so far.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    /// Adds one. `path` is the dotted key, `help` says what to write instead.
    pub(super) fn add(
        &mut self,
        origin: impl Into<Origin>,
        path: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.0.push(Problem {
            origin: origin.into(),
            path: path.to_owned(),
            message: message.into(),
            help: help.into(),
        });
    }

    /// Tells whether a problem names this key or something below it.
    pub(super) fn name(&self, path: &str) -> bool {
        self.0.iter().any(|problem| {
            problem
                .path
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// Tells whether nothing was found.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Renders what was found, in the order of the file.
    pub(super) fn into_errors(mut self, source: &Source) -> ConfigErrors {
        self.0.sort();
        self.0.dedup();
        ConfigErrors {
            rendered: self.0.iter().map(|problem| render(problem, source)).collect(),
        }
    }
}

/// A configuration that was refused: at least one problem, each with file, line, key and remedy.
///
/// The process exits with 78.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    rendered: Vec<String>,
}

impl ConfigErrors {
    /// Returns how many problems were found.
    #[must_use]
    pub fn count(&self) -> usize {
        self.rendered.len()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

fn render(problem: &Problem, source: &Source) -> String {
    let Problem {
        origin,
        path,
        message,
        help,
    } = problem;
    let what = if path.is_empty() {
        message.clone()
    } else {
        format!("{path}: {message}")
    };
    match origin {
        Origin::File => format!("{}: {what}\n  help: {help}\n", source.name()),
        Origin::Variable(name) => format!("{name}: {what}\n  help: {help}\n"),
        Origin::Bytes { start, end } => {
            let place = source.place(*start, *end);
            let gutter = " ".repeat(place.line.to_string().len());
            format!(
                "{}:{}:{}: {what}\n  {} | {}\n  {gutter} | {}\n  help: {help}\n",
                source.name(),
                place.line,
                place.column,
                place.line,
                place.shown,
                place.marker
            )
        }
    }
}
