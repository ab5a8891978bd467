//! Cuts what one answer brought into what one transaction may hold.

use crate::domain::event::{Change, Content};
use crate::store::{Joins, SLICE_BYTES_MAX, SLICE_ROWS_MAX};

/// What one transaction takes of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) changes: Vec<Change>,
    /// The records that join a roll with it. That they join before their changes are accepted harms nobody.
    pub(super) joins: Option<Joins>,
}

impl Slice {
    /// All slices of an answer, in order.
    pub(super) fn of(changes: Vec<Change>, joins: Option<&Joins>) -> Vec<Self> {
        let mut joins = joins.map_or_else(Vec::new, parts).into_iter();
        let mut slices: Vec<Self> = cut(changes)
            .into_iter()
            .map(|changes| Self {
                changes,
                joins: joins.next(),
            })
            .collect();
        slices.extend(joins.map(|joins| Self {
            changes: Vec::new(),
            joins: Some(joins),
        }));
        slices
    }
}

fn parts(joins: &Joins) -> Vec<Joins> {
    let part = |ids: &[_]| Joins {
        ids: ids.to_vec(),
        ..joins.clone()
    };
    joins.ids.chunks(SLICE_ROWS_MAX).map(part).collect()
}

/// Cuts changes; a larger record stands alone.
fn cut(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let mut slices: Vec<Vec<Change>> = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let size = change.content.as_ref().map_or(0, Content::bytes);
        match slices.last_mut() {
            Some(slice) if slice.len() < SLICE_ROWS_MAX && bytes + size <= SLICE_BYTES_MAX => {
                slice.push(change);
                bytes += size;
            }
            Some(_) | None => {
                slices.push(vec![change]);
                bytes = size;
            }
        }
    }
    slices
}
