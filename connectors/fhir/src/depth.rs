//! Measures how deeply a JSON text nests, without recursion and without parsing it.
//!
//! It runs before the parser, so that a hostile answer of ten thousand brackets costs one pass over its
//! bytes and no stack. It does not judge whether the text is valid JSON; the parser does.

/// Says whether no point of the text lies inside more than `depth_max` arrays and objects.
pub(crate) fn within(text: &[u8], depth_max: usize) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > depth_max {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_containers_and_nothing_inside_strings() {
        let rows: [(&str, usize); 7] = [
            ("1", 0),
            ("{}", 1),
            (r#"{"a":[1,[2]]}"#, 3),
            (r#"{"a":"[[[[["}"#, 1),
            (r#"{"a":"\"[[["}"#, 1),
            (r#"{"a":"\\","b":[1]}"#, 2),
            ("[[],[],[[]]]", 3),
        ];
        for (text, depth) in rows {
            assert!(within(text.as_bytes(), depth), "{text}");
            assert!(depth == 0 || !within(text.as_bytes(), depth - 1), "{text}");
        }
    }

    #[test]
    fn ten_thousand_brackets_are_refused_without_recursion() {
        assert!(!within("[".repeat(10_000).as_bytes(), 64));
    }
}
