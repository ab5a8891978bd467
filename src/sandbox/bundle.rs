//! Searches: which rows a page has, and its Bundle, with every record's bytes spliced in as they are.
//!
//! Pages are cut from a snapshot that the first one took; under `page_drift`, and where they are asked for by
//! `_offset`, from the live rows, which shift in between.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use serde_json::Value;
use url::form_urlencoded;

use super::clinic::Kind;
use super::dialect::PageStyle;
use super::ledger::{Extent, Showing};
use super::query::{Elements, Search, Sort};
use super::records::Version;
use super::world::World;

/// How long a page link stays good.
const SNAPSHOT_AGE_MAX: SignedDuration = SignedDuration::from_mins(15);

/// How many snapshots are kept; beyond that the oldest goes first, as if it had expired.
const SNAPSHOTS_MAX: usize = 256;

/// What the first page of a search saw.
pub(super) struct Snapshot {
    search: Search,
    taken_at: Timestamp,
    rows: Rows,
}

enum Rows {
    /// The rows as they were.
    Kept(Vec<Arc<Version>>),
    /// Whatever the rows are when a page is asked for.
    Live,
}

/// A Bundle and what it shows.
pub(super) struct Page {
    pub(super) body: Bytes,
    pub(super) showings: Vec<Showing>,
}

/// Why there is no page.
pub(super) enum NoPage {
    /// The page link is no longer good.
    Expired,
    /// More matches than a search may have.
    TooMany,
}

impl World {
    /// Answers the first page of a search.
    pub(super) fn first_page(&mut self, mut search: Search) -> Result<Page, NoPage> {
        if search.filters_by_time() && self.chance(self.faults.ignored_filters.share) {
            self.strikes.count("ignored_filters");
            search.ignore_time();
        }
        if search.filters_by_content() && self.chance(self.faults.ignored_where.share) {
            self.strikes.count("ignored_where");
            search.ignore_content();
        }
        let reordered = if self.chance(self.faults.wrong_sort.share) {
            search.ignore_sort();
            Some("wrong_sort")
        } else if self.chance(self.faults.descending_pages.share) {
            search.sort = Sort::Newest;
            Some("descending_pages")
        } else {
            None
        };
        if search.offset > 0 {
            if self.chance(self.faults.expired_links.share) {
                self.strikes.count("expired_links");
                return Err(NoPage::Expired);
            }
            if self.chance(self.faults.page_drift.share) {
                self.drift(&search, search.offset);
            }
        }
        let rows = self.rows(&search);
        let most = self.dialect.max_results;
        if most > 0 && rows.len() > most {
            return Err(NoPage::TooMany);
        }
        // A page of one row has no order to get wrong.
        if let Some(name) = reordered.filter(|_| rows.len() > 1) {
            self.strikes.count(name);
        }
        if self.dialect.page_style == PageStyle::Offset {
            let place = Place {
                offset: search.offset,
                token: None,
            };
            return Ok(self.page(&search, &rows, place));
        }
        let live = self.chance(self.faults.page_drift.share);
        let mut token = None;
        if search.count > 0 && rows.len() > search.count {
            let kept = if live {
                Rows::Live
            } else {
                Rows::Kept(rows.clone())
            };
            token = Some(self.keep(Snapshot {
                search: search.clone(),
                taken_at: self.now(),
                rows: kept,
            }));
        }
        Ok(self.page(&search, &rows, Place { offset: 0, token }))
    }

    /// Answers a further page.
    pub(super) fn further_page(&mut self, record_type: &str, link: &str) -> Result<Page, NoPage> {
        let (token, offset) = link.split_once('.').ok_or(NoPage::Expired)?;
        let token = u64::from_str_radix(token, 16).map_err(|_| NoPage::Expired)?;
        let offset: usize = offset.parse().map_err(|_| NoPage::Expired)?;
        let now = self.now();
        let snapshot = self.snapshots.get(&token).ok_or(NoPage::Expired)?;
        let age = now.duration_since(snapshot.taken_at);
        if age > SNAPSHOT_AGE_MAX || snapshot.search.record_type != record_type {
            return Err(NoPage::Expired);
        }
        let search = snapshot.search.clone();
        let kept = match &snapshot.rows {
            Rows::Kept(rows) => Some(rows.clone()),
            Rows::Live => None,
        };
        if self.chance(self.faults.expired_links.share) {
            self.strikes.count("expired_links");
            return Err(NoPage::Expired);
        }
        let rows = if let Some(rows) = kept {
            rows
        } else {
            self.drift(&search, offset);
            self.rows(&search)
        };
        Ok(self.page(
            &search,
            &rows,
            Place {
                offset,
                token: Some(token),
            },
        ))
    }

    fn rows(&self, search: &Search) -> Vec<Arc<Version>> {
        let current = self.records.all_current(&search.record_type, self.now());
        let mut rows: Vec<Arc<Version>> = current
            .filter(|version| search.matches(version))
            .cloned()
            .collect();
        match search.sort {
            Sort::ById => {}
            Sort::Oldest => rows.sort_by_key(|version| version.stamp),
            Sort::Newest => {
                rows.sort_by_key(|version| version.stamp);
                rows.reverse();
            }
        }
        rows
    }

    /// Changes or deletes a record of an earlier page, so that the later rows move up by one.
    fn drift(&mut self, search: &Search, offset: usize) {
        let Some(kind) = Kind::named(&search.record_type) else {
            return;
        };
        let rows = self.rows(search);
        let passed = offset.min(rows.len());
        if passed == 0 {
            return;
        }
        let chosen = self.random.random_range(0..passed);
        let Some(id) = rows.get(chosen).map(|version| version.id.clone()) else {
            return;
        };
        let deletable = matches!(kind, Kind::Appointment | Kind::Observation);
        let draft = if deletable && self.random.random_bool(0.3) {
            self.clinic.forget(kind, &id)
        } else {
            self.clinic.touch(kind, &id)
        };
        if draft.and_then(|draft| self.commit(draft)).is_some() {
            self.strikes.count("page_drift");
        }
    }

    fn keep(&mut self, snapshot: Snapshot) -> u64 {
        let now = self.now();
        self.snapshots
            .retain(|_, kept| now.duration_since(kept.taken_at) <= SNAPSHOT_AGE_MAX);
        while self.snapshots.len() >= SNAPSHOTS_MAX {
            self.snapshots.pop_first();
        }
        self.snapshots_made += 1;
        self.snapshots.insert(self.snapshots_made, snapshot);
        self.snapshots_made
    }

    fn page(&mut self, search: &Search, rows: &[Arc<Version>], place: Place) -> Page {
        let all = rows.get(place.offset..).unwrap_or_default();
        let mut shown = all.get(..search.count).unwrap_or(all).to_vec();
        let after = place.offset + shown.len();
        let cut = self.perhaps_cut(&mut shown, rows.len());
        self.perhaps_repeated(&mut shown);
        let told = match search.elements {
            Elements::All => Told::Whole,
            Elements::IdAndMeta if self.dialect.no_meta => Told::IdOnly,
            Elements::IdAndMeta if self.chance(self.faults.unversioned_ids.share) => {
                self.strikes.count("unversioned_ids");
                Told::IdAndTime
            }
            Elements::IdAndMeta => Told::IdAndVersion,
        };
        let base = self.options.base_url.as_str().trim_end_matches('/');
        let mut links = vec![link(
            base,
            search,
            "self",
            place.token.map(|token| (token, place.offset)),
        )];
        if cut == Cut::Not && after < rows.len() && !shown.is_empty() {
            match (self.dialect.page_style, place.token) {
                (PageStyle::Offset, _) => links.push(offset_link(search, after)),
                (PageStyle::NextLink, Some(token)) => {
                    links.push(link(base, search, "next", Some((token, after))));
                }
                (PageStyle::NextLink, None) => {}
            }
        }
        let total = match cut {
            Cut::Silently => String::new(),
            Cut::Not | Cut::Counted => format!(r#""total":{},"#, rows.len()),
        };
        let mut body = format!(
            r#"{{"resourceType":"Bundle","type":"searchset",{total}"link":[{}],"entry":["#,
            links.join(",")
        )
        .into_bytes();
        for (index, version) in shown.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            entry(&mut body, base, version, (told, "match"));
        }
        for patient in self.included(search, &shown) {
            body.push(b',');
            entry(&mut body, base, &patient, (Told::Whole, "include"));
        }
        body.extend_from_slice(b"]}");
        let showing = |version: &Arc<Version>| {
            Some(Showing {
                version: Arc::clone(version),
                extent: told.extent()?,
            })
        };
        let showings = shown.iter().filter_map(showing).collect();
        Page {
            body: Bytes::from(body),
            showings,
        }
    }

    /// The patients that come along with a page. The ledger has no part in them: they are not what was asked for.
    fn included(&self, search: &Search, shown: &[Arc<Version>]) -> Vec<Arc<Version>> {
        if !search.include_patients {
            return Vec::new();
        }
        let wanted: BTreeSet<&str> = shown
            .iter()
            .filter_map(|version| version.patient.as_deref())
            .collect();
        let patients = self.records.all_current("Patient", self.now());
        patients
            .filter(|patient| wanted.contains(patient.id.as_str()))
            .cloned()
            .collect()
    }

    /// Leaves out the second half of a page, as if there were no more.
    pub(super) fn perhaps_cut(&mut self, shown: &mut Vec<Arc<Version>>, all: usize) -> Cut {
        let fault = self.faults.truncate_page;
        if shown.len() < 2 || all < 2 || !self.chance(fault.share) {
            return Cut::Not;
        }
        self.strikes.count("truncate_page");
        shown.truncate(shown.len() / 2);
        if fault.total { Cut::Counted } else { Cut::Silently }
    }

    /// Shows one row of a page a second time, at its end.
    pub(super) fn perhaps_repeated(&mut self, shown: &mut Vec<Arc<Version>>) {
        if shown.is_empty() || !self.chance(self.faults.duplicates.share) {
            return;
        }
        let chosen = self.draw_below(shown.len());
        if let Some(version) = chosen.and_then(|chosen| shown.get(chosen)).cloned() {
            self.strikes.count("duplicates");
            shown.push(version);
        }
    }

    /// Draws a place below a length; none of nothing.
    pub(super) fn draw_below(&mut self, length: usize) -> Option<usize> {
        (length > 0).then(|| self.random.random_range(0..length))
    }
}

/// Whether rows of a page were left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Not,
    /// And `total` counts them.
    Counted,
    Silently,
}

/// What a page tells of its records.
#[derive(Clone, Copy)]
enum Told {
    Whole,
    IdAndVersion,
    IdAndTime,
    IdOnly,
}

impl Told {
    /// How much of a version that is; none where nothing says which version it is.
    fn extent(self) -> Option<Extent> {
        match self {
            Self::Whole => Some(Extent::Whole),
            Self::IdAndVersion => Some(Extent::IdOnly),
            Self::IdAndTime | Self::IdOnly => None,
        }
    }
}

/// Where in a search a page stands.
#[derive(Clone, Copy)]
struct Place {
    offset: usize,
    token: Option<u64>,
}

fn link(base: &str, search: &Search, relation: &str, place: Option<(u64, usize)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    // A next link is opaque; a self link shows what was applied.
    if relation == "self" {
        query.extend_pairs(&search.applied);
    }
    if let Some((token, offset)) = place.filter(|(_, offset)| relation == "next" || *offset > 0) {
        query.append_pair("_page", &format!("{token:08x}.{offset}"));
    }
    let url = format!("{base}/{}?{}", search.record_type, query.finish());
    format!(
        r#"{{"relation":"{relation}","url":{}}}"#,
        Value::from(url.trim_end_matches('?'))
    )
}

/// The same search again, from further on.
fn offset_link(search: &Search, after: usize) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let kept = search.applied.iter().filter(|(name, _)| name != "_offset");
    query.extend_pairs(kept);
    query.append_pair("_offset", &after.to_string());
    let url = format!("{}?{}", search.record_type, query.finish());
    format!(r#"{{"relation":"next","url":{}}}"#, Value::from(url))
}

fn entry(body: &mut Vec<u8>, base: &str, version: &Version, (told, mode): (Told, &str)) {
    let Version {
        record_type,
        id,
        tag: version_id,
        ..
    } = version;
    body.extend_from_slice(format!(r#"{{"fullUrl":"{base}/{record_type}/{id}","resource":"#).as_bytes());
    match told {
        Told::Whole => body.extend_from_slice(version.body.as_deref().unwrap_or_default()),
        Told::IdAndVersion => subsetted(body, version, &format!(r#""versionId":"{version_id}","#)),
        Told::IdAndTime => subsetted(body, version, ""),
        Told::IdOnly => {
            body.extend_from_slice(format!(r#"{{"resourceType":"{record_type}","id":"{id}"}}"#).as_bytes());
        }
    }
    body.extend_from_slice(format!(r#","search":{{"mode":"{mode}"}}}}"#).as_bytes());
}

fn subsetted(body: &mut Vec<u8>, version: &Version, version_id: &str) {
    let (record_type, id, stamp) = (&version.record_type, &version.id, &version.stamp_text);
    body.extend_from_slice(
        format!(
            r#"{{"resourceType":"{record_type}","id":"{id}","meta":{{{version_id}"lastUpdated":"{stamp}","tag":[{{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}}]}}}}"#
        )
        .as_bytes(),
    );
}
