//! Which records a feed looks at, and how its changes are to be found: `detect`, `window`, `ids`, and the connection's
//! `roster`.

use std::collections::BTreeSet;
use std::time::Duration;

use courier_sdk::{Aim, DateWindow, Detect, Ids, RecordId, Roster, Scope};

use super::raw::{RawDateWindow, RawFeed, Text};
use super::resolve::Context;
use super::value::{self, Refusal, refusal};

/// Two years either way: beyond, a listing is a copy of the whole source each time.
const REACH_MAX: Duration = Duration::from_hours(24 * 730);

/// The way in which changes are found, and among which records.
pub(super) struct Found {
    pub(super) detect: Detect,
    pub(super) scope: Scope,
}

/// Resolves a feed's way of finding changes.
pub(super) fn resolve(
    written: &RawFeed,
    filter: Option<&str>,
    roster: &Roster,
    path: &str,
    context: &mut Context<'_>,
) -> Option<Found> {
    let detect = match &written.detect {
        Some(text) => detect(text, filter, path, context),
        None => Some(Detect::Auto),
    };
    let window = match &written.window {
        Some(raw) => window(raw, &format!("{path}.window"), context),
        None => Some(DateWindow::default()),
    };
    let ids = match &written.ids {
        Some(text) => {
            let ids = list(text, "file:appointments.txt", path, context);
            context.accept(ids, text, &format!("{path}.ids"))
        }
        None => Some(Ids::default()),
    };
    let (detect, window, ids) = (detect?, window?, ids?);
    agree(written, detect, (filter, roster), path, context)?;
    Some(Found {
        detect,
        scope: Scope {
            aim: Aim::Changes,
            window,
            roster: roster.clone(),
            ids,
        },
    })
}

/// Refuses keys that contradict each other.
fn agree(
    written: &RawFeed,
    detect: Detect,
    (filter, roster): (Option<&str>, &Roster),
    path: &str,
    context: &mut Context<'_>,
) -> Option<()> {
    let mut refuse = |text: &Text, key: &str, what: &str, help: &str| {
        context.accept::<()>(Err(refusal(what, help)), text, &format!("{path}.{key}"))
    };
    if let (Some(text), Detect::Read) = (&written.detect, detect)
        && written.ids.is_none()
    {
        refuse(
            text,
            "detect",
            "there is no list of records to read",
            "add ids = \"file:appointments.txt\", one id a line",
        )?;
    }
    if let (Some(text), Detect::Roster) = (&written.detect, detect)
        && *roster == Roster::None
    {
        let help = "add roster = \"file:patients.txt\" or \"Group/ID\" to the connection";
        refuse(text, "detect", "there is no roster of patients", help)?;
    }
    if let Some(text) = &written.ids {
        if !matches!(detect, Detect::Auto | Detect::Read) {
            refuse(
                text,
                "ids",
                "this way of finding changes reads no list",
                "write detect = \"read\", or leave out `ids`",
            )?;
        }
        if filter.is_some_and(|filter| !filter.is_empty()) {
            refuse(
                text,
                "ids",
                "a list of records cannot be narrowed by `where`",
                "leave out `where`, or the list",
            )?;
        }
    }
    if let Some(text) = written.window.as_ref().and_then(RawDateWindow::first)
        && !matches!(detect, Detect::Auto | Detect::Window)
    {
        refuse(
            text,
            "window",
            "this way of finding changes lists no window",
            "write detect = \"window\", or leave out `window`",
        )?;
    }
    Some(())
}

/// Resolves a connection's roster.
pub(super) fn roster(text: Option<&Text>, path: &str, context: &mut Context<'_>) -> Option<Roster> {
    let Some(text) = text else {
        return Some(Roster::None);
    };
    let path = format!("{path}.roster");
    let roster = match text.get_ref().strip_prefix("Group/") {
        Some(id) => RecordId::parse(id)
            .map(Roster::Group)
            .map_err(|error| refusal(error.to_string(), "write roster = \"Group/ID\"")),
        None => list(text, "file:patients.txt\", or \"Group/ID", &path, context).map(Roster::Patients),
    };
    context.accept(roster, text, &path)
}

fn detect(text: &Text, filter: Option<&str>, path: &str, context: &mut Context<'_>) -> Option<Detect> {
    let known = [
        ("auto", Detect::Auto),
        ("history", Detect::History),
        ("last-updated", Detect::LastUpdated),
        ("window", Detect::Window),
        ("roster", Detect::Roster),
        ("read", Detect::Read),
    ];
    let path = format!("{path}.detect");
    let detect = context.word(text, &path, &known, &[])?;
    if detect == Detect::History && filter.is_some_and(|filter| !filter.is_empty()) {
        let help = "leave out `where`, or write detect = \"last-updated\"";
        let refused = refusal("a history cannot be narrowed by `where`", help);
        return context.accept(Err(refused), text, &path);
    }
    Some(detect)
}

fn window(raw: &RawDateWindow, path: &str, context: &mut Context<'_>) -> Option<DateWindow> {
    let mut window = DateWindow::default();
    let mut whole = true;
    if let Some(text) = &raw.parameter {
        let name = text.get_ref();
        let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let result = if !name.is_empty() && name.chars().all(letters) {
            Ok(name.clone())
        } else {
            Err(refusal(
                "not the name of a search parameter",
                "write parameter = \"date\"",
            ))
        };
        window.parameter = context.accept(result, text, &format!("{path}.parameter"));
        whole &= window.parameter.is_some();
    }
    let mut reach = |text: &Text, key: &str| {
        let reach = value::duration(text.get_ref(), &(Duration::ZERO..=REACH_MAX), "0d and 730d");
        context.accept(reach, text, &format!("{path}.{key}"))
    };
    if let Some(text) = &raw.past {
        window.past = reach(text, "past");
        whole &= window.past.is_some();
    }
    if let Some(text) = &raw.future {
        window.future = reach(text, "future");
        whole &= window.future.is_some();
    }
    whole.then_some(window)
}

/// Reads a file of ids, one a line; empty lines and those that begin with `#` are left out. Where files need not be
/// there, the list may be empty.
fn list(text: &Text, example: &str, place: &str, context: &Context<'_>) -> Result<Ids, Refusal> {
    let written = text.get_ref();
    let help = || format!("write \"{example}\"");
    let Some(path) = written.strip_prefix("file:") else {
        return Err(refusal(
            "ids do not stand in the configuration: some name patients",
            help(),
        ));
    };
    let Some(read) = context.list_file(path, place)? else {
        return Ok(Ids::default());
    };
    let lines = read.lines().map(str::trim).zip(1..);
    let mut seen = BTreeSet::new();
    let mut ids = Vec::new();
    for (line, number) in lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')) {
        let id = RecordId::parse(line).map_err(|error| {
            refusal(
                format!("line {number} of the file: {error}"),
                "write one id a line",
            )
        })?;
        if seen.insert(id.clone()) {
            ids.push(id);
        }
    }
    if ids.is_empty() {
        return Err(refusal("the file names no id", "write one id a line"));
    }
    Ok(Ids(ids.into()))
}
