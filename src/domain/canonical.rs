//! The content hash: SHA-256 of a record's canonical JSON, without what a server changes by itself.
//!
//! Canonical means: members sorted by name, no white space, strings in one escaping, and numbers exactly as the
//! source wrote them (`1.10` and `1.1` are different contents: the digits of a measurement carry meaning).

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::digest;
use serde_json::value::RawValue;
use thiserror::Error;

/// Paths that never count: a server rewrites them without a change of content.
const ALWAYS_VOLATILE: [&str; 2] = ["meta.lastUpdated", "meta.versionId"];

/// Deeper records are refused before they get here; the walk stops at the same depth by itself.
const DEPTH_MAX: usize = 64;

/// A body that is not JSON or too deep; it cannot be hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the record is not JSON of at most {DEPTH_MAX} levels")]
pub struct NotCanonical;

/// SHA-256 over canonical JSON, as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(String);

impl ContentHash {
    /// Hashes a record's content, leaving out `meta.versionId`, `meta.lastUpdated` and the given dotted paths.
    ///
    /// # Errors
    /// [`NotCanonical`] when the body is not one JSON value or is nested too deeply.
    pub fn of_record(body: &[u8], volatile_paths: &[String]) -> Result<Self, NotCanonical> {
        let raw: &RawValue = serde_json::from_slice(body).map_err(|_| NotCanonical)?;
        let mut out = String::with_capacity(body.len());
        let mut path = String::new();
        let left_out =
            |path: &str| ALWAYS_VOLATILE.contains(&path) || volatile_paths.iter().any(|p| p == path);
        write_canonical(raw.get(), &mut path, &left_out, &mut out)?;
        Ok(Self::of_bytes(out.as_bytes()))
    }

    /// Accepts the text form as it stands in a store.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// Returns the text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Hashes bytes as they are, for bodies that have no canonical form.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(data_encoding::HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref()))
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn write_canonical(
    text: &str,
    path: &mut String,
    left_out: &dyn Fn(&str) -> bool,
    out: &mut String,
) -> Result<(), NotCanonical> {
    // The path grows by one name a level, so its dots bound the recursion; arrays add none, hence the marker.
    if path.matches(['.', '[']).count() > DEPTH_MAX {
        return Err(NotCanonical);
    }
    match text.trim_start().as_bytes().first() {
        Some(b'{') => write_object(text, path, left_out, out),
        Some(b'[') => write_array(text, path, left_out, out),
        Some(b'"') => {
            let value: String = serde_json::from_str(text).map_err(|_| NotCanonical)?;
            write_string(&value, out)
        }
        Some(_) => {
            out.push_str(text.trim());
            Ok(())
        }
        None => Err(NotCanonical),
    }
}

fn write_object(
    text: &str,
    path: &mut String,
    left_out: &dyn Fn(&str) -> bool,
    out: &mut String,
) -> Result<(), NotCanonical> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(|_| NotCanonical)?;
    let path_length = path.len();
    let mut first = true;
    out.push('{');
    for (name, value) in members {
        if path_length > 0 {
            path.push('.');
        }
        path.push_str(&name);
        if !left_out(path) {
            if !first {
                out.push(',');
            }
            first = false;
            write_string(&name, out)?;
            out.push(':');
            write_canonical(value.get(), path, left_out, out)?;
        }
        path.truncate(path_length);
    }
    out.push('}');
    Ok(())
}

fn write_array(
    text: &str,
    path: &mut String,
    left_out: &dyn Fn(&str) -> bool,
    out: &mut String,
) -> Result<(), NotCanonical> {
    let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| NotCanonical)?;
    let path_length = path.len();
    path.push('[');
    out.push('[');
    for (position, item) in items.into_iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        write_canonical(item.get(), path, left_out, out)?;
    }
    path.truncate(path_length);
    out.push(']');
    Ok(())
}

fn write_string(value: &str, out: &mut String) -> Result<(), NotCanonical> {
    out.push_str(&serde_json::to_string(value).map_err(|_| NotCanonical)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(body: &str) -> ContentHash {
        ContentHash::of_record(body.as_bytes(), &["text".to_owned()]).unwrap()
    }

    #[test]
    fn order_white_space_escapes_and_volatile_members_do_not_count() {
        let plain = hash(r#"{"id":"1","meta":{"tag":["a"]},"x":"é/"}"#);
        for same in [
            r#"{ "x" : "\u00e9\/" , "meta":{"versionId":"9","tag":[ "a" ],"lastUpdated":"2026"},"id":"1"}"#,
            r#"{"id":"1","meta":{"tag":["a"]},"x":"é/","text":{"div":"<p/>"}}"#,
        ] {
            assert_eq!(hash(same), plain, "{same}");
        }
    }

    #[test]
    fn digits_array_order_and_nested_namesakes_count() {
        assert_ne!(hash(r#"{"v":1.10}"#), hash(r#"{"v":1.1}"#));
        assert_ne!(hash(r#"{"v":[1,2]}"#), hash(r#"{"v":[2,1]}"#));
        assert_ne!(hash(r#"{"a":{"text":"x"}}"#), hash(r#"{"a":{"text":"y"}}"#));
    }

    #[test]
    fn what_is_not_json_or_too_deep_is_refused() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for bad in ["", "{", "[1,]", "{\"a\":}", deep.as_str()] {
            assert_eq!(ContentHash::of_record(bad.as_bytes(), &[]), Err(NotCanonical));
        }
    }
}
