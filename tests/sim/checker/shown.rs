//! What the sources showed, put together from single answers: which showings count, and what is owed for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use courier_sdk::Detect;
use ehr_courier::domain::backfill;
use ehr_courier::pipeline::reconcile;
use jiff::Timestamp;

use super::fates::{Fates, caught_up};
use super::ledgers;
use crate::book::{Answer, Asked, Extent, FeedRef, Pages, RecordRef};
use crate::identity::{event_id, sha256};
use crate::plan::{Course, Kind, SourcePlan, StartPlan};
use crate::world::World;

/// One version, over all answers that carried it.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) event_id: String,
    pub(super) stamp: Timestamp,
    /// Of the body, once an answer carried it.
    pub(super) sha256: Option<[u8; 32]>,
    /// The first answer that carried it, even if its worker died over it.
    pub(super) first: u64,
    /// The first answer that carried it and was not lost with its worker.
    pub(super) counted: Option<u64>,
    /// When the first of the answers that count and carried the body was handed over.
    pub(super) whole: Option<u64>,
    /// A backfill showed it.
    pub(super) beside: bool,
}

/// From which stamp on a feed's versions become events: none before `never_before`, all from `always_from`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begin {
    pub(super) never_before: Timestamp,
    pub(super) always_from: Timestamp,
}

/// One search showing that counts, for the cursors' check.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    pub(super) tick: u64,
    /// From then on it was handed over.
    pub(super) handed: u64,
    pub(super) feed: FeedRef,
    pub(super) versions: Vec<(RecordRef, u64, Timestamp)>,
}

/// Everything that was shown.
pub(super) struct View {
    pub(super) versions: BTreeMap<(RecordRef, u64), Version>,
    pub(super) by_event: BTreeMap<String, (RecordRef, u64)>,
    /// Records that a read found gone, by the number of the first such answer.
    pub(super) gone: BTreeMap<RecordRef, u64>,
    /// Plain reads: when they were settled, and what they found (0 for gone).
    pub(super) reads: BTreeMap<RecordRef, Vec<(u64, u64)>>,
    /// By connection and record type.
    pub(super) begins: BTreeMap<(String, String), Begin>,
    pub(super) counted: Vec<Counted>,
    /// Record types with more than one feed on a connection.
    pub(super) shared_types: BTreeSet<(String, String)>,
    pub(super) redriven: BTreeSet<String>,
    /// Connections that offer single versions.
    pub(super) version_reads: BTreeSet<String>,
    /// What was read because another record refers to it, with its body's hash.
    pub(super) contexts: BTreeMap<(RecordRef, u64), [u8; 32]>,
    /// By connection and record type: until when histories were given up three times in a row. The feed then caught up
    /// by its current state, and versions before that need not arrive unless they stand.
    caught_up: BTreeMap<(String, String), u64>,
    /// What stands at the end in the sources of which that is so.
    standing: BTreeSet<(RecordRef, u64)>,
    /// Feeds each of whose polls lists everything.
    listings: BTreeSet<FeedRef>,
    /// Records that an answer of a listing or of a sweep named that was handed over.
    pub(super) listed: BTreeSet<RecordRef>,
    /// Records with a read in quarantine at the end.
    pub(super) quarantined: BTreeSet<RecordRef>,
    /// When complete listings left a record out.
    pub(super) left_out: BTreeMap<RecordRef, Vec<Timestamp>>,
    /// Whether it is known what the sources deleted, as it is of long worlds.
    pub(super) knows_deletes: bool,
    /// Of long worlds: the deletes that the sources made, by the numbers of their versions.
    pub(super) deletes: BTreeMap<RecordRef, BTreeSet<u64>>,
    /// Of long worlds: records that the sources withhold.
    pub(super) withheld: BTreeSet<RecordRef>,
    /// Feeds whose source tells of every version, and since when: the beginning of the poll that was complete first.
    pub(super) told_since: BTreeMap<FeedRef, Timestamp>,
}

impl View {
    pub(super) fn of(world: &World, pages: &Pages) -> Self {
        let mut view = Self {
            versions: BTreeMap::new(),
            by_event: BTreeMap::new(),
            gone: BTreeMap::new(),
            reads: BTreeMap::new(),
            begins: BTreeMap::new(),
            counted: Vec::new(),
            shared_types: BTreeSet::new(),
            redriven: pages.redriven.clone(),
            version_reads: BTreeSet::new(),
            contexts: BTreeMap::new(),
            caught_up: BTreeMap::new(),
            standing: BTreeSet::new(),
            told_since: BTreeMap::new(),
            listings: listings(world),
            listed: BTreeSet::new(),
            left_out: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            knows_deletes: matches!(world.plan.course, Course::Long(_)),
            deletes: BTreeMap::new(),
            withheld: BTreeSet::new(),
        };
        if view.knows_deletes {
            view.enter_kept(world);
        }
        for (record, at) in &pages.left_out {
            view.left_out.entry(record.clone()).or_default().push(*at);
        }
        let fates = Fates::of(pages);
        for answer in &pages.answers {
            view.enter(answer, fates.handed(pages, answer));
        }
        for source in &world.plan.sources {
            view.enter_source(world, pages, source);
        }
        view
    }

    fn enter(&mut self, answer: &Answer, handed: Option<u64>) {
        let is_sweep = answer.feed.ends_with(reconcile::SUFFIX);
        let listing = (answer.connection.clone(), answer.feed.clone());
        let lists = is_sweep || self.listings.contains(&listing);
        let mut searched = Vec::new();
        for showing in &answer.showings {
            let record = showing.record(&answer.connection);
            if matches!(answer.asked, Asked::Record | Asked::Several) {
                let reads = self.reads.entry(record.clone()).or_default();
                reads.push((handed.unwrap_or(answer.tick), showing.number));
            }
            if showing.extent == Extent::NotFound {
                continue;
            }
            if showing.extent == Extent::Gone {
                if answer.asked != Asked::Context {
                    self.gone.entry(record).or_insert(answer.tick);
                }
                continue;
            }
            if answer.asked == Asked::Context {
                self.contexts.insert((record, showing.number), showing.sha256);
                continue;
            }
            let by_event = &mut self.by_event;
            let version = self
                .versions
                .entry((record.clone(), showing.number))
                .or_insert_with_key(|named| Version {
                    event_id: entered(by_event, named),
                    stamp: showing.stamp,
                    sha256: None,
                    first: answer.tick,
                    counted: None,
                    whole: None,
                    beside: false,
                });
            version.beside |= answer.feed.ends_with(backfill::SUFFIX);
            if showing.extent == Extent::Whole {
                version.sha256.get_or_insert(showing.sha256);
            }
            if answer.asked == Asked::Several || answer.ignores {
                // It may be delivered; owed is what a page shows, or a read by itself.
                continue;
            }
            if lists && handed.is_some() {
                self.listed.insert(record.clone());
            }
            if is_sweep {
                // What is newer than its horizon it leaves to the live feed, which may find the next version.
                continue;
            }
            if answer.since.is_some_and(|since| showing.stamp < since) {
                // Nobody asked for it: a history that ignores `_since` shows it at every poll.
                continue;
            }
            if handed.is_some() {
                version.counted.get_or_insert(answer.tick);
                if let (Extent::Whole, Some(handed)) = (showing.extent, handed) {
                    version.whole = Some(version.whole.map_or(handed, |earlier| earlier.min(handed)));
                }
            }
            searched.push((record, showing.number, showing.stamp));
        }
        if let (Asked::FirstPage | Asked::Page, Some(handed)) = (answer.asked, handed) {
            self.counted.push(Counted {
                tick: answer.tick,
                handed,
                feed: (answer.connection.clone(), answer.feed.clone()),
                versions: searched,
            });
        }
    }

    fn enter_kept(&mut self, world: &World) {
        for (connection, ehr) in &world.clinics {
            for kept in ehr.kept() {
                let record = (connection.clone(), kept.record_type, kept.id);
                if kept.withheld_since.is_some() {
                    self.withheld.insert(record.clone());
                }
                if kept.deleted {
                    let number = kept.version_id.parse().unwrap();
                    self.deletes.entry(record).or_default().insert(number);
                }
            }
        }
    }

    /// How many deletes the clinics' histories told, and how many records came after theirs again.
    pub(super) fn deletes_told(&self, world: &World) -> (u64, u64) {
        let of_clinic = |record: &RecordRef| world.clinics.contains_key(&record.0);
        let deletes = self
            .versions
            .iter()
            .filter(|((record, _), version)| of_clinic(record) && version.sha256 == Some(sha256(b"")));
        let (mut told, mut again) = (0, 0);
        for ((record, number), _) in deletes {
            told += 1;
            let newer = (record.clone(), number + 1)..=(record.clone(), u64::MAX);
            again += u64::from(self.versions.range(newer).next().is_some());
        }
        (told, again)
    }

    fn enter_source(&mut self, world: &World, pages: &Pages, source: &SourcePlan) {
        let offers_versions = match &source.kind {
            Kind::Journal { .. } => true,
            Kind::Clinic {
                version_read,
                dialect,
                ..
            } => *version_read && !dialect.no_history,
        };
        if offers_versions {
            self.version_reads.insert(source.name.clone());
        }
        for feed in &source.feeds {
            let name = (source.name.clone(), feed.name.clone());
            match (&source.kind, caught_up(pages, &name)) {
                (Kind::Clinic { .. }, Some(tick)) => {
                    let of_type = (source.name.clone(), feed.record_type.clone());
                    self.caught_up.insert(of_type, tick);
                }
                // Where `_since` is ignored, the feed is searched instead for a while.
                (Kind::Clinic { names, .. }, None)
                    if feed.detect == Detect::History && !names.contains(&"ignored_filters") =>
                {
                    let since = begin_now(pages, &name, world.plan.overlap()).always_from;
                    self.told_since.insert(name.clone(), since);
                }
                (Kind::Journal { .. }, _) if feed.start != StartPlan::Now => {
                    let since = begin_now(pages, &name, world.plan.overlap()).always_from;
                    self.told_since.insert(name.clone(), since);
                }
                (Kind::Clinic { .. } | Kind::Journal { .. }, _) => {}
            }
            let begin = match feed.start {
                StartPlan::Beginning => Begin {
                    never_before: Timestamp::MIN,
                    always_from: Timestamp::MIN,
                },
                StartPlan::Before(how_long) => Begin {
                    never_before: world.began - how_long,
                    always_from: world.began - how_long,
                },
                StartPlan::Now => begin_now(pages, &name, world.plan.overlap()),
            };
            let of_type = (source.name.clone(), feed.record_type.clone());
            if let Some(other) = self.begins.get_mut(&of_type) {
                other.never_before = other.never_before.min(begin.never_before);
                other.always_from = other.always_from.max(begin.always_from);
                self.shared_types.insert(of_type);
            } else {
                self.begins.insert(of_type, begin);
            }
        }
    }

    /// Whether a version must become an event: an answer that counts showed it, not before its feed's beginning.
    pub(super) fn is_owed(&self, record: &RecordRef, number: u64, version: &Version) -> bool {
        let Some(begin) = self.begins.get(&(record.0.clone(), record.1.clone())) else {
            return false;
        };
        let Some(counted) = version.counted else {
            return false;
        };
        version.stamp >= begin.always_from
            && !self.is_superseded(record, number, version, counted)
            && !self.is_given_up(record, number, version)
    }

    /// Collected by a history that came to nothing three times in a row, and not the record's last word.
    fn is_given_up(&self, record: &RecordRef, number: u64, version: &Version) -> bool {
        let tick = self.caught_up.get(&(record.0.clone(), record.1.clone()));
        tick.is_some_and(|tick| version.first <= *tick) && !self.standing.contains(&(record.clone(), number))
    }

    /// Whether a type's history came to nothing so often that it was searched instead.
    pub(super) fn caught_up(&self, connection: &str, record_type: &str) -> bool {
        self.caught_up
            .contains_key(&(connection.to_owned(), record_type.to_owned()))
    }

    /// Notes what stands where histories were given up: the sources are asked for it, so that their ledgers are of no
    /// use afterwards.
    pub(super) fn note_standing(&mut self, world: &World) {
        for source in &world.plan.sources {
            for feed in &source.feeds {
                if self
                    .caught_up
                    .contains_key(&(source.name.clone(), feed.record_type.clone()))
                {
                    for (id, number, _) in ledgers::present(world, source, &feed.record_type, "") {
                        let record = (source.name.clone(), feed.record_type.clone(), id);
                        self.standing.insert((record, number));
                    }
                }
            }
        }
    }

    /// Shown by its id only, and replaced or gone when it was read, where single versions are not offered. A body
    /// that comes to light only after that changes nothing.
    fn is_superseded(&self, record: &RecordRef, number: u64, version: &Version, since: u64) -> bool {
        let reads = self.reads.get(record).map_or(&[][..], Vec::as_slice);
        // What is in quarantine is not new, even if its body is shown meanwhile.
        let given_up = self.redriven.contains(&record.0);
        let replaced = reads
            .iter()
            .filter(|(tick, _)| *tick > since)
            .filter(|(tick, _)| given_up || version.whole.is_none_or(|whole| whole > *tick))
            .any(|(_, found)| *found > number || *found == 0);
        replaced && !self.version_reads.contains(&record.0)
    }
}

/// The event that tells of a version, entered.
fn entered(by_event: &mut BTreeMap<String, (RecordRef, u64)>, (record, number): &(RecordRef, u64)) -> String {
    let (connection, record_type, id) = record;
    let event_id = event_id(connection, record_type, id, &format!("v:{number}"));
    by_event.insert(event_id.clone(), (record.clone(), *number));
    event_id
}

fn listings(world: &World) -> BTreeSet<FeedRef> {
    let of = |source: &SourcePlan| -> Vec<FeedRef> {
        let feeds = source.feeds.iter().filter(|feed| feed.lists());
        feeds
            .map(|feed| (source.name.clone(), feed.name.clone()))
            .collect()
    };
    world.plan.sources.iter().flat_map(of).collect()
}

/// A feed that starts now starts at the source's own time in its first answer, which names no fractions of a second;
/// until its first poll is complete it may have to begin anew. What was stamped within the overlap before it and not
/// shown by then (a late commit, a stale answer) may be announced and need not be.
fn begin_now(pages: &Pages, feed: &FeedRef, overlap: Duration) -> Begin {
    let complete = pages.complete.get(feed).copied().unwrap_or(u64::MAX);
    let dates: Vec<Timestamp> = pages
        .answers
        .iter()
        .filter(|it| it.connection == feed.0 && it.feed == feed.1)
        .filter(|it| it.asked == Asked::FirstPage && it.tick < complete)
        .map(|it| it.date)
        .collect();
    Begin {
        never_before: dates.iter().min().map_or(Timestamp::MAX, |date| *date - overlap),
        always_from: dates
            .iter()
            .max()
            .map_or(Timestamp::MAX, |date| *date + Duration::from_secs(1)),
    }
}
