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
    file: usize,
    origin: Origin,
    path: String,
    message: String,
    help: String,
}

/// The problems found so far, and the file that is being read.
#[derive(Debug, Default)]
pub(super) struct Problems {
    file: usize,
    found: Vec<Problem>,
}

impl Problems {
    /// Adds one. `path` is the dotted key, `help` says what to write instead.
    pub(super) fn add(
        &mut self,
        origin: impl Into<Origin>,
        path: &str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.found.push(Problem {
            file: self.file,
            origin: origin.into(),
            path: path.to_owned(),
            message: message.into(),
            help: help.into(),
        });
    }

    /// Says that what is added from now on concerns this file, by its index: bytes and indexes are its own.
    pub(super) fn enter(&mut self, file: usize) {
        self.file = file;
    }

    /// Tells whether a problem names this key or something below it, in any file.
    pub(super) fn name(&self, path: &str) -> bool {
        self.found.iter().any(|problem| problem.is_at(path))
    }

    /// Tells the same of the file that is being read.
    pub(super) fn name_here(&self, path: &str) -> bool {
        let here = self.found.iter().filter(|problem| problem.file == self.file);
        here.into_iter().any(|problem| problem.is_at(path))
    }

    /// Tells whether nothing was found.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Renders what was found, in the order of the files and of what stands in them.
    pub(super) fn into_errors(mut self, sources: &[Source]) -> ConfigErrors {
        self.found.sort();
        self.found.dedup();
        let rendered = |problem: &Problem| Some(render(problem, sources.get(problem.file)?));
        ConfigErrors {
            rendered: self.found.iter().filter_map(rendered).collect(),
        }
    }
}

impl Problem {
    fn is_at(&self, path: &str) -> bool {
        self.path
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
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

    /// Puts several together, if there are any.
    pub(super) fn joined(all: impl Iterator<Item = Self>) -> Option<Self> {
        let rendered: Vec<String> = all.flat_map(|errors| errors.rendered).collect();
        (!rendered.is_empty()).then_some(Self { rendered })
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
        file: _,
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
    let (what, help) = (source.without_secrets(&what), source.without_secrets(help));
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
