//! "Did you mean": the known word nearest to a mistyped one.

/// The most changed characters at which a word still counts as mistyped.
const EDITS_MAX: usize = 3;

/// Returns the candidate nearest to `word`, if one is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.to_lowercase().replace('-', "_").chars().take(64).collect();
    let allowed = (word.len() / 3).clamp(1, EDITS_MAX);
    candidates
        .into_iter()
        .map(|candidate| (edits(&word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Counts insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
fn edits(word: &[char], candidate: &str) -> usize {
    let candidate: Vec<char> = candidate.to_lowercase().replace('-', "_").chars().collect();
    let width = candidate.len();
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=width).collect();
    for (row, letter) in word.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, other) in candidate.iter().enumerate() {
            let at = |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX / 2);
            let replaced = at(&previous, column) + usize::from(letter != other);
            let mut best = replaced
                .min(at(&previous, column + 1) + 1)
                .min(at(&current, column) + 1);
            let swapped = row > 0
                && column > 0
                && word.get(row - 1) == Some(other)
                && candidate.get(column - 1) == Some(letter);
            if swapped {
                best = best.min(at(&before, column - 1) + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut previous, current);
    }
    previous.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_a_foreign_word_is_not() {
        let known = ["every", "base_url", "auth", "feeds"];
        for (word, expected) in [
            ("evry", Some("every")),
            ("evrey", Some("every")),
            ("base-url", Some("base_url")),
            ("baseurl", Some("base_url")),
            ("Feeds", Some("feeds")),
            ("interval", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
