//! The project's own files, as text.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold nothing of ours.
const SKIPPED: [&str; 4] = ["target", ".git", "node_modules", "proptest-regressions"];

/// Text files by the end of their names; files without any are scripts.
const TEXT_ENDS: [&str; 8] = ["rs", "toml", "md", "json", "yaml", "yml", "service", "txt"];

/// One Rust file.
pub(crate) struct Source {
    /// Its path from the project's root, with `/`.
    pub(crate) path: String,
    /// Its text.
    pub(crate) text: String,
    /// Whether all of it is test code.
    pub(crate) is_test: bool,
}

impl Source {
    fn new(path: String, text: String) -> Self {
        let is_test = path.starts_with("tests/")
            || path.contains("/tests/")
            || path.ends_with("/tests.rs")
            || path.ends_with("_tests.rs")
            || path.starts_with("bench/");
        Self { path, text, is_test }
    }

    /// The parts of its path without the end `.rs`.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.path.trim_end_matches(".rs").split('/')
    }

    /// Its lines with their numbers, without comments and without the test module at its end.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let end = lines
            .windows(2)
            .position(|pair| {
                pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
            })
            .unwrap_or(lines.len());
        (1..)
            .zip(lines)
            .take(end)
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// The project's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files of the project, in the order of their paths.
pub(crate) fn sources() -> Vec<Source> {
    texts()
        .into_iter()
        .filter(|(path, _)| ends_in(path, "rs"))
        .map(|(path, text)| Source::new(path, text))
        .collect()
}

/// Whether a path's file name ends in `.` and `end`.
pub(crate) fn ends_in(path: &str, end: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == end)
}

/// All text files of the project with their paths, in the order of the paths.
pub(crate) fn texts() -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.sort();
    found
}

fn walk(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                walk(&path, found);
            }
        } else if kind.is_file() && is_text(&path) {
            // A script without an end to its name may be a program after all: then it is no text of ours.
            if let Ok(text) = fs::read_to_string(&path) {
                let relative = path.strip_prefix(root()).unwrap();
                found.push((relative.to_str().unwrap().replace('\\', "/"), text));
            }
        }
    }
}

fn is_text(path: &Path) -> bool {
    let end = path.extension().and_then(|end| end.to_str());
    // `.git` is a file in a linked worktree; hidden files are settings of tools.
    let hidden = path
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'));
    !hidden && end.is_none_or(|end| TEXT_ENDS.contains(&end))
}
