//! The table of docs/polling.md: which mode, in which strategy, with which outcome.

use std::fmt::Write as _;
use std::fs;

use super::mode::{Mode, STRATEGIES};
use super::modes::MODES;
use super::run::Verdict;
use crate::tidy::root;

const BEGIN: &str = "<!-- failure modes: begin -->\n";
const END: &str = "<!-- failure modes: end -->\n";

/// Compares the document with what came of the modes, or writes it where `UPDATE_GOLDEN` is set.
pub(crate) fn compare(all: &[&[Verdict]]) {
    let path = root().join("docs/polling.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let wanted = format!("{before}{BEGIN}{}{END}{after}", table(all));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        wanted,
        "docs/polling.md is out of date: UPDATE_GOLDEN=1 writes it"
    );
}

fn table(all: &[&[Verdict]]) -> String {
    let names = STRATEGIES.map(|strategy| strategy.name);
    let mut table = format!(
        "| # | what happens | switched on by | {} |\n|---|---|---|{}\n",
        names.join(" | "),
        "---|".repeat(names.len())
    );
    let mut rows: Vec<(&Mode, &[Verdict])> = MODES.iter().zip(all.iter().copied()).collect();
    rows.sort_by_key(|(mode, _)| mode.number.unwrap_or(u32::MAX));
    for (mode, verdicts) in rows {
        let number = mode
            .number
            .map_or_else(|| "–".to_owned(), |number| number.to_string());
        let what = mode.name.replace('_', " ");
        write!(table, "| {number} | {what} | {} |", mode.switches()).unwrap();
        for verdict in verdicts {
            let outcome = match verdict {
                Some(Ok(due)) => due.text(),
                Some(Err(_)) => "wrong",
                None => "–",
            };
            write!(table, " {outcome} |").unwrap();
        }
        table.push('\n');
    }
    table
}
