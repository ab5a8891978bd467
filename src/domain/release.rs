//! In which order the versions of a newest-first answer become events: oldest first, and one record's versions by
//! their numbers where these are trusted, whatever their stamps say.
//!
//! Pure. Every store releases its stage in this order, and the pipeline a poll of one page.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use courier_sdk::RecordKey;
use jiff::Timestamp;

use super::event::VersionOrder;

/// One version of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed<'a> {
    /// Its record.
    pub key: &'a RecordKey,
    /// What orders it among the record's versions.
    pub order: VersionOrder,
    /// Its place in the answer: of two, the greater one was shown later and is older.
    pub place: u64,
}

/// By time; ties in the reverse of the answer.
type Age = (Option<Timestamp>, Reverse<u64>);

/// Answers the indexes of the versions, the oldest first.
///
/// By time, then in the reverse of the answer; but no version leaves after one of its record with a greater number:
/// it is pulled forward to it. A part of an answer that holds its oldest versions by time, with all other versions of
/// their records, begins in the same order as the whole.
#[must_use]
pub fn oldest_first(versions: &[Placed<'_>]) -> Vec<usize> {
    let age = |version: &Placed<'_>| (version.order.stamp, Reverse(version.place));
    let mut leaves: Vec<(Age, Option<u64>, Age, usize)> = versions
        .iter()
        .enumerate()
        .map(|(index, version)| (age(version), version.order.number, age(version), index))
        .collect();
    if cfg!(sabotage = "unordered_history") {
        leaves.sort_by_key(|(_, _, (_, Reverse(place)), _)| *place);
        return leaves.into_iter().map(|(_, _, _, index)| index).collect();
    }
    let mut numbered: BTreeMap<&RecordKey, Vec<(u64, Age, usize)>> = BTreeMap::new();
    for (index, version) in versions.iter().enumerate() {
        if let Some(number) = version.order.number {
            numbered
                .entry(version.key)
                .or_default()
                .push((number, age(version), index));
        }
    }
    for of_record in numbered.values_mut().filter(|of_record| of_record.len() > 1) {
        of_record.sort_unstable();
        let mut earliest: Option<Age> = None;
        for (_, own, index) in of_record.iter().rev() {
            let first = earliest.map_or(*own, |earliest| earliest.min(*own));
            earliest = Some(first);
            if let Some(leave) = leaves.get_mut(*index) {
                leave.0 = first;
            }
        }
    }
    leaves.sort_unstable();
    leaves.into_iter().map(|(_, _, _, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use courier_sdk::{RecordId, RecordType};
    use proptest::prelude::*;

    use super::*;

    fn key(id: u8) -> RecordKey {
        RecordKey {
            record_type: RecordType::parse("Patient").unwrap(),
            id: RecordId::parse(&id.to_string()).unwrap(),
        }
    }

    /// A record, a number and a second, if any.
    type Row = (u8, Option<u64>, Option<i64>);

    fn released(rows: &[Row]) -> Vec<usize> {
        let keys: Vec<RecordKey> = rows.iter().map(|row| key(row.0)).collect();
        let versions: Vec<Placed<'_>> = rows
            .iter()
            .zip(&keys)
            .zip(0..)
            .map(|((row, key), place)| Placed {
                key,
                order: VersionOrder {
                    number: row.1,
                    stamp: row.2.map(|second| Timestamp::from_second(second).unwrap()),
                },
                place,
            })
            .collect();
        oldest_first(&versions)
    }

    #[test]
    fn versions_leave_by_number_then_time_then_in_the_reverse_of_the_answer() {
        let rows: [(&[Row], &[usize]); 6] = [
            // By time over all records.
            (
                &[
                    (1, Some(2), Some(9)),
                    (2, Some(1), Some(8)),
                    (1, Some(1), Some(7)),
                ],
                &[2, 1, 0],
            ),
            // One stamp for all: the reverse of the answer, unless numbers say otherwise.
            (
                &[(1, None, Some(5)), (1, None, Some(5)), (2, None, Some(5))],
                &[2, 1, 0],
            ),
            (&[(1, Some(1), Some(5)), (1, Some(2), Some(5))], &[0, 1]),
            // A node's clock was behind: version 3 is stamped before version 2, which is pulled forward.
            (
                &[
                    (1, Some(2), Some(9)),
                    (2, Some(7), Some(8)),
                    (1, Some(3), Some(6)),
                ],
                &[0, 2, 1],
            ),
            // A delete without a version of its own is placed by its time.
            (
                &[(1, Some(3), Some(9)), (1, None, Some(8)), (1, Some(2), Some(7))],
                &[2, 1, 0],
            ),
            // What names no time is the oldest.
            (&[(1, None, Some(5)), (2, None, None)], &[1, 0]),
        ];
        for (rows, expected) in rows {
            assert_eq!(released(rows), expected, "{rows:?}");
        }
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let number = prop::option::weighted(0.8, 1_u64..5);
        prop::collection::vec((0_u8..3, number, prop::option::weighted(0.9, 0_i64..6)), 0..30)
    }

    proptest! {
        #[test]
        fn no_version_leaves_after_a_greater_number_of_its_record(rows in rows()) {
            let order = released(&rows);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..rows.len()).collect::<Vec<_>>());
            for (nth, later) in order.iter().enumerate() {
                for earlier in &order[..nth] {
                    let (earlier, later) = (rows[*earlier], rows[*later]);
                    if let (true, Some(one), Some(other)) = (earlier.0 == later.0, earlier.1, later.1) {
                        prop_assert!(one <= other, "{:?} left before {:?}", earlier, later);
                    }
                }
            }
        }

        /// What a store relies on that looks at the oldest rows and their records only.
        #[test]
        fn the_oldest_with_their_records_begin_as_the_whole_does(rows in rows(), limit in 1_usize..8) {
            let mut by_age: Vec<usize> = (0..rows.len()).collect();
            by_age.sort_by_key(|index| (rows[*index].2, Reverse(*index)));
            let oldest = &by_age[..limit.min(by_age.len())];
            let held = |index: &usize| {
                oldest.contains(index) || oldest.iter().any(|other| rows[*other].0 == rows[*index].0)
            };
            let part: Vec<usize> = (0..rows.len()).filter(held).collect();
            let keys: Vec<RecordKey> = part.iter().map(|index| key(rows[*index].0)).collect();
            let versions: Vec<Placed<'_>> = part.iter().zip(&keys).map(|(index, key)| Placed {
                key,
                order: VersionOrder {
                    number: rows[*index].1,
                    stamp: rows[*index].2.map(|second| Timestamp::from_second(second).unwrap()),
                },
                place: *index as u64,
            }).collect();
            let begins: Vec<usize> = oldest_first(&versions).into_iter().take(limit).map(|at| part[at]).collect();
            prop_assert_eq!(begins, released(&rows).into_iter().take(limit).collect::<Vec<_>>());
        }
    }
}
