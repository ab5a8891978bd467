//! The files of a configuration: the main one, and those of the folder `courier.d` beside it, by name.

use std::io;
use std::path::{Path, PathBuf};

use super::ConfigErrors;
use super::problem::{Origin, Problems};
use super::source::Source;
use super::value::{Refusal, refusal};

/// The largest configuration file, in bytes: ten thousand connections of a hundred bytes fit.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The most files in the folder: ten thousand connections, each in a file of its own, and what they need beside.
const PARTS_MAX: usize = 16_384;

/// Reads all files, the main one first.
///
/// # Errors
/// [`ConfigErrors`] for each that cannot be read.
pub(super) fn read(path: &Path) -> Result<Vec<(PathBuf, String)>, ConfigErrors> {
    let mut problems = Problems::default();
    let mut texts = Vec::new();
    let mut paths = vec![path.to_owned()];
    match list(&path.with_file_name("courier.d")) {
        Ok(parts) => paths.extend(parts),
        Err(Refusal { message, help }) => problems.add(Origin::File, "courier.d", message, help),
    }
    for (index, path) in paths.iter().enumerate() {
        problems.enter(index);
        match text(path, index) {
            Ok(text) => texts.push((path.clone(), text)),
            Err(Refusal { message, help }) => problems.add(Origin::File, "", message, help),
        }
    }
    if problems.is_empty() {
        return Ok(texts);
    }
    let sources: Vec<Source> = paths.iter().map(|path| Source::new(path, "")).collect();
    Err(problems.into_errors(&sources))
}

/// The files of the folder that count, by name: `*.toml`, but none that is hidden, as editors leave them behind.
fn list(folder: &Path) -> Result<Vec<PathBuf>, Refusal> {
    let unreadable = |error: &io::Error| {
        refusal(
            format!("the folder cannot be read: {}", error.kind()),
            "let the service's user read it, or remove it",
        )
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(&error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(&error))?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.ends_with(b".toml") && !name.starts_with(b".") {
            found.push(path);
        }
        if found.len() > PARTS_MAX {
            let help = "put several connections into one file";
            return Err(refusal(format!("it holds more than {PARTS_MAX} files"), help));
        }
    }
    found.sort();
    Ok(found)
}

fn text(path: &Path, index: usize) -> Result<String, Refusal> {
    let help = if index == 0 {
        "name an existing file: ehr-courier run -c courier.toml"
    } else {
        "let the service's user read it, or remove it from courier.d"
    };
    let readable = |error: io::Error| refusal(format!("the file cannot be read: {}", error.kind()), help);
    let metadata = std::fs::metadata(path).map_err(readable)?;
    if metadata.is_dir() {
        return Err(refusal("this is a folder", help));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(refusal(
            format!("the file is larger than {FILE_BYTES_MAX} bytes"),
            help,
        ));
    }
    let bytes = std::fs::read(path).map_err(readable)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error
            .as_bytes()
            .get(..at)
            .unwrap_or_default()
            .split(|byte| *byte == b'\n')
            .count();
        refusal(format!("line {line} is not UTF-8"), "save the file as UTF-8")
    })
}
