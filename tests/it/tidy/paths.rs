//! Which modules a file names: `use` lines and paths in code, groups and `super` resolved.

use super::source::Source;

/// The paths below `crate` that a line of a file names, `super` resolved.
pub(super) fn named(file: &Source, line: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let before = line.get(..at).and_then(|head| head.chars().next_back());
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '$')) {
            continue;
        }
        paths.extend(expand(line.get(at + "crate::".len()..).unwrap_or_default()));
    }
    for (at, _) in line.match_indices("super::") {
        let before = line.get(..at).unwrap_or_default();
        if before.ends_with("super::") || before.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let mut rest = line.get(at..).unwrap_or_default();
        let mut module = module_of(file);
        while let Some(shorter) = rest.strip_prefix("super::") {
            module.pop();
            rest = shorter;
        }
        let base = module.join("::");
        paths.extend(expand(rest).into_iter().map(|path| match base.as_str() {
            "" => path,
            base => format!("{base}::{path}"),
        }));
    }
    paths
}

/// `a::{b, c::d}` names `a::b` and `a::c::d`; what follows a name is cut off.
fn expand(text: &str) -> Vec<String> {
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':')))
        .unwrap_or(text.len());
    let (head, rest) = text.split_at(end);
    let head = head.trim_end_matches(':');
    let Some(group) = rest.strip_prefix('{') else {
        return vec![head.to_owned()];
    };
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                parts.push(group.get(start..at).unwrap_or_default().trim());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    let joined = |part: String| {
        if head.is_empty() {
            part
        } else {
            format!("{head}::{part}")
        }
    };
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .flat_map(expand)
        .map(joined)
        .collect()
}

/// `src/store/memory/inbox.rs` is `["store", "memory", "inbox"]`.
pub(super) fn module_of(file: &Source) -> Vec<&str> {
    let words: Vec<&str> = file.words().collect();
    let below_src = words
        .iter()
        .position(|word| *word == "src")
        .map_or(0, |at| at + 1);
    words.get(below_src..).unwrap_or_default().to_vec()
}

/// A file's code with each `use` brought onto one line.
pub(super) fn joined(file: &Source) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (number, line) in file.code() {
        match lines.last_mut() {
            Some((_, text)) if open => text.push_str(line.trim()),
            _ => lines.push((number, line.trim().to_owned())),
        }
        let last = lines.last().map_or("", |(_, text)| text.as_str());
        let uses = last
            .trim_start_matches("pub")
            .trim_start_matches("(super)")
            .trim_start_matches("(crate)");
        open = uses.trim_start().starts_with("use ") && !last.ends_with(';');
    }
    lines
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let file = |path: &str, text: &str| {
        let all = super::source::sources();
        let known = all.into_iter().find(|file| file.path == path).unwrap();
        Source {
            text: text.to_owned(),
            ..known
        }
    };
    let rows = [
        (
            "src/pipeline/poll.rs",
            "use crate::store::sqlite;",
            vec!["store::sqlite"],
        ),
        (
            "src/pipeline/poll.rs",
            "use crate::{store::{self, Store, sqlite::Db}, wire};",
            vec!["store::self", "store::Store", "store::sqlite::Db", "wire"],
        ),
        (
            "src/pipeline/poll.rs",
            "let a = crate::wire::render(b);",
            vec!["wire::render"],
        ),
        (
            "src/pipeline/poll.rs",
            "use super::super::config::{Config};",
            vec!["config::Config"],
        ),
        (
            "src/store/memory/inbox.rs",
            "use super::super::sqlite::Db;",
            vec!["store::sqlite::Db"],
        ),
        (
            "src/store/memory/inbox.rs",
            "use super::state::State;",
            vec!["store::memory::state::State"],
        ),
        ("src/pipeline/poll.rs", "$crate::cli::main()", vec![]),
    ];
    for (path, line, expected) in rows {
        assert_eq!(named(&file(path, line), line), expected, "{line}");
    }
    let wrapped = file(
        "src/pipeline/poll.rs",
        "pub use crate::store::{\n    A,\n    sqlite::B,\n};\nfn x() {}",
    );
    let lines: Vec<String> = joined(&wrapped).into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines, ["pub use crate::store::{A,sqlite::B,};", "fn x() {}"]);
    assert_eq!(named(&wrapped, &lines[0]), ["store::A", "store::sqlite::B"]);
}
