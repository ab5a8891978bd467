//! What the server said it wrote.

use std::collections::{BTreeMap, BTreeSet};

use crate::journal::Version;

/// A record: type and id.
pub(crate) type Record = (String, String);

/// Every write that was answered.
#[derive(Debug, Default, Clone)]
pub(crate) struct Book {
    /// The versions of each record, in the order of their writing.
    versions: BTreeMap<Record, Vec<String>>,
    /// Records that were deleted.
    pub(crate) deleted: BTreeSet<Record>,
    /// Transactions.
    pub(crate) transactions: usize,
    changes: usize,
}

impl Book {
    /// Notes a version.
    pub(crate) fn wrote(&mut self, record: &Record, version: &str) {
        self.changes += 1;
        let versions = self.versions.entry(record.clone()).or_default();
        versions.push(version.to_owned());
    }

    /// Notes a delete.
    pub(crate) fn deleted(&mut self, record: &Record) {
        self.changes += 1;
        self.deleted.insert(record.clone());
    }

    /// How many changes there were: versions and deletes.
    pub(crate) fn changes(&self) -> usize {
        self.changes
    }

    /// How many records there ever were.
    pub(crate) fn records(&self) -> usize {
        self.versions.len()
    }

    /// Every version.
    pub(crate) fn versions(&self) -> BTreeSet<Version> {
        let of = |(record, versions): (&Record, &Vec<String>)| {
            let (record, versions) = (record.clone(), versions.clone());
            versions
                .into_iter()
                .map(move |version| (record.0.clone(), record.1.clone(), version))
        };
        self.versions.iter().flat_map(of).collect()
    }

    /// The last version of each record that was not deleted.
    pub(crate) fn last(&self) -> BTreeMap<Record, String> {
        let living = self.versions.iter();
        let living = living.filter(|(record, _)| !self.deleted.contains(*record));
        living
            .filter_map(|(record, versions)| Some((record.clone(), versions.last()?.clone())))
            .collect()
    }

    /// The how-manieth of its record a version is.
    pub(crate) fn place(&self, record: &Record, version: &str) -> Option<usize> {
        let versions = self.versions.get(record)?;
        versions.iter().position(|other| other == version)
    }
}
