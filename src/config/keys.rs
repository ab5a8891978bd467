//! Which keys may stand where: the written file against the JSON Schema of the raw structs.
//!
//! A key that is unknown, not built yet or of the wrong kind is a problem and is taken out of the tree, so
//! that what remains can be read and its own problems found.

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problems;
use super::source::may_be_secret;
use super::suggest::nearest;

/// Keys that are part of the format but whose feature is not built, and what to do instead.
const NOT_BUILT: [(&str, &str); 2] = [
    (
        "subscriptions.*.filter",
        "leave it out and narrow the feed with `where`, or filter at the receiver",
    ),
    (
        "subscriptions.*.max_count",
        "leave it out: each notification carries one event",
    ),
];

/// Keys that mean nothing to the connectors that are built, and why.
const MEANINGLESS: [(&str, &str); 1] = [(
    "connections.*.timezone",
    "remove it: it is for sources that write times without an offset, and every FHIR instant carries one",
)];

/// What a file of `courier.d` may hold.
const IN_PARTS: [&str; 3] = ["connections", "destinations", "subscriptions"];

/// Takes out of the tree of a file in `courier.d` what may stand only in the main file, as a problem.
pub(super) fn check_part(root: &mut DeTable<'_>, schema: &Value, problems: &mut Problems) {
    let sections = schema.get("properties").and_then(Value::as_object);
    for (key, value) in std::mem::replace(root, DeTable::new()) {
        let name: &str = key.get_ref();
        if !IN_PARTS.contains(&name) && sections.is_some_and(|all| all.contains_key(name)) {
            let help = format!(
                "move [{name}] to the main file; here stand {}",
                IN_PARTS.join(", ")
            );
            problems.add(&key, name, "not in courier.d", help);
        } else {
            root.insert(key, value);
        }
    }
}

/// Takes every key that may not stand where it stands out of the tree, as a problem.
pub(super) fn check(root: &mut DeTable<'_>, schema: &Value, problems: &mut Problems) {
    check_table(root, schema, &Place::default(), problems);
}

/// A place in the tree: as it is printed, and with `*` for names and indexes.
#[derive(Default)]
struct Place {
    path: String,
    pattern: String,
}

impl Place {
    fn key(&self, name: &str, pattern: &str) -> Self {
        let join = |left: &str, right: &str| {
            if left.is_empty() {
                right.to_owned()
            } else {
                format!("{left}.{right}")
            }
        };
        Self {
            path: join(&self.path, name),
            pattern: join(&self.pattern, pattern),
        }
    }

    fn index(&self, index: usize) -> Self {
        Self {
            path: format!("{}[{index}]", self.path),
            pattern: format!("{}.*", self.pattern),
        }
    }
}

fn check_table(table: &mut DeTable<'_>, schema: &Value, place: &Place, problems: &mut Problems) {
    let properties = schema.get("properties").and_then(Value::as_object);
    let any = schema.get("additionalProperties").filter(|any| any.is_object());
    for (key, mut value) in std::mem::replace(table, DeTable::new()) {
        let name: &str = key.get_ref();
        let known = properties
            .and_then(|all| all.get(name))
            .map(|child| (child, name));
        if let Some((child, pattern)) = known.or(any.map(|child| (child, "*"))) {
            if check_value(&mut value, child, &place.key(name, pattern), problems) {
                table.insert(key, value);
            }
            continue;
        }
        let child = place.key(name, name);
        let built = NOT_BUILT.iter().find(|(pattern, _)| *pattern == child.pattern);
        if let Some((_, instead)) = built {
            problems.add(&key, &child.path, "not built yet", *instead);
            continue;
        }
        let meaningless = MEANINGLESS.iter().find(|(pattern, _)| *pattern == child.pattern);
        if let Some((_, instead)) = meaningless {
            problems.add(&key, &child.path, "of no meaning to this connector", *instead);
            continue;
        }
        let known: Vec<&str> = properties
            .map(|all| all.keys().map(String::as_str).collect())
            .unwrap_or_default();
        let help = match nearest(name, known.iter().copied()) {
            Some(meant) => format!("write `{meant}`"),
            None => format!("remove it; known here: {}", known.join(", ")),
        };
        let message = if may_be_secret(name) {
            format!(
                "unknown key of {} characters, not repeated here: it may be a secret",
                name.chars().count()
            )
        } else {
            "unknown key".to_owned()
        };
        problems.add(&key, &child.path, message, help);
    }
}

/// Tells whether the value is of the kind that the schema asks for.
fn check_value(
    value: &mut Spanned<DeValue<'_>>,
    schema: &Value,
    place: &Place,
    problems: &mut Problems,
) -> bool {
    let span = value.span();
    let found = value.get_ref().type_str();
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    match (kind, value.get_mut()) {
        ("object", DeValue::Table(table)) => {
            check_table(table, schema, place, problems);
            true
        }
        ("array", DeValue::Array(array)) => {
            let items = schema.get("items").unwrap_or(&Value::Null);
            let mut fits = true;
            for (index, element) in array.iter_mut().enumerate() {
                fits &= check_value(element, items, &place.index(index), problems);
            }
            fits
        }
        ("string", DeValue::String(_)) => true,
        ("integer", DeValue::Integer(number)) => {
            let small = i64::from_str_radix(number.as_str(), number.radix()).is_ok();
            if !small {
                problems.add(
                    span,
                    &place.path,
                    "the number is too large",
                    "write a smaller whole number",
                );
            }
            small
        }
        _ => {
            let (wanted, help) = match kind {
                "object" => (
                    "a table",
                    "write its keys below a header in brackets, or as { key = … }",
                ),
                "array" => ("a list", "write a list: […]"),
                "integer" => ("a whole number", "write a whole number without quotes"),
                _ => ("text", "write the value in double quotes"),
            };
            let message = format!("expected {wanted}, found {found}");
            problems.add(span, &place.path, message, help);
            false
        }
    }
}
