//! One world from its beginning to its end: lives come and go on one store until the script is over, then the world
//! calms down, and when nothing moves any more the checker reads the book.

mod long;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use courier_sdk::Clock as _;
use ehr_courier::domain::ledger::Baseline;
use ehr_courier::domain::name::SubscriptionName;
use ehr_courier::pipeline::budget::Budget;
use ehr_courier::pipeline::{self, Worker};
use ehr_courier::sandbox::{Ehr, Faults, Options};
use ehr_courier::store::memory::MemoryStore;
use ehr_courier::store::{StageState, Store as _};
use jiff::Timestamp;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::book::{Asked, Book, FeedRef};
use crate::clock::{SimClock, usual_beginning};
use crate::dice::fork;
use crate::journal::Journal;
use crate::life::{Blow, Life, Trigger};
use crate::plan::{BlowPlan, Course, FeedPlan, How, Kind, LATE_MAX, Plan, TemperPlan};
use crate::remembering::Remembering;
use crate::sink::{SinkState, Temper};

/// A day that has not seen enough by then never will.
const DAY_MAX: Duration = Duration::from_mins(30);

/// The least that a day lasts: destinations that are down come back within it.
const DAY_MIN: Duration = Duration::from_secs(25);

/// Retries and back-off may take their time, but not for ever.
const QUIET_MAX: Duration = Duration::from_mins(40);

/// One world.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) clock: SimClock,
    pub(crate) book: Arc<Book>,
    pub(crate) store: MemoryStore,
    pub(crate) dedup: Arc<Remembering>,
    pub(crate) clinics: BTreeMap<String, Arc<Ehr>>,
    pub(crate) journals: BTreeMap<String, Arc<Journal>>,
    pub(crate) sinks: BTreeMap<String, Arc<SinkState>>,
    pub(crate) calm: Arc<AtomicBool>,
    pub(crate) began: Timestamp,
    workers: Mutex<Vec<Arc<Worker>>>,
    blows_left: AtomicUsize,
}

/// Whether each feed was polled once more, from the first page on, since nothing changes any more.
struct LastLook {
    since: u64,
    polls: BTreeMap<FeedRef, Timestamp>,
}

impl LastLook {
    /// When a feed's first poll since then began, as soon as it has.
    fn poll_began(&mut self, world: &World, connection: &str, feed: &str) -> Option<Timestamp> {
        let key = (connection.to_owned(), feed.to_owned());
        if let Some(began) = self.polls.get(&key) {
            return Some(*began);
        }
        let pages = world.book.open();
        let asked = pages.answers.iter().rev().take_while(|it| it.tick > self.since);
        let began = asked
            .filter(|it| it.asked == Asked::FirstPage)
            .any(|it| it.connection == connection && it.feed == feed);
        // It may have ended since the last look.
        let since_look = match world.plan.course {
            Course::Brief => Duration::ZERO,
            Course::Long(_) => world.patience().1,
        };
        let noticed = world.clock.now() - since_look;
        began.then(|| *self.polls.entry(key).or_insert(noticed))
    }
}

/// Lets a record that was told to be deleted live again.
fn revive(ehr: &Ehr, dice: &mut StdRng) {
    let mut gone = ehr.ledger();
    gone.retain(|shown| shown.deleted);
    if gone.is_empty() {
        return;
    }
    let chosen = &gone[dice.random_range(0..gone.len())];
    let note = format!(r#"{{"note":"lives again {}"}}"#, dice.random_range(0..1000));
    ehr.write(&chosen.record_type, &chosen.id, &note).unwrap();
}

/// The base address that all sandboxes share; the connection tells them apart.
pub(crate) fn base_url() -> Url {
    Url::parse("https://ehr.example/fhir").unwrap()
}

/// After a long world's end the next sweep is up to a day away, and half of what it finds is read anew an hour later.
const QUIET_MAX_LONG: Duration = Duration::from_hours(120);

/// What is said of a world in which a fault had no occasion to strike.
pub(crate) const UNSTRUCK: &str = "faults never struck";

impl World {
    pub(crate) fn begin(plan: Plan) -> Arc<Self> {
        let clock = SimClock::begin(match &plan.course {
            Course::Brief => usual_beginning(),
            Course::Long(course) => course.begins,
        });
        let calm = Arc::new(AtomicBool::new(false));
        let book = Arc::new(Book::default());
        let mut world = Self {
            blows_left: AtomicUsize::new(plan.blows.len()),
            clock,
            book,
            store: MemoryStore::new(),
            dedup: Arc::new(Remembering::new(plan.dedup, fork(plan.seed, "remembering"))),
            clinics: BTreeMap::new(),
            journals: BTreeMap::new(),
            sinks: BTreeMap::new(),
            calm,
            began: clock.now(),
            workers: Mutex::default(),
            plan,
        };
        world.open_sources();
        world.open_sinks();
        Arc::new(world)
    }

    fn open_sources(&mut self) {
        for source in &self.plan.sources {
            let dice = fork(self.plan.seed, &source.name);
            match &source.kind {
                Kind::Clinic {
                    faults,
                    patients,
                    dialect,
                    ..
                } => {
                    let mut options = Options::new(self.plan.seed, base_url());
                    options.patients = *patients;
                    options.history_days = 3;
                    options.dialect = *dialect;
                    let ehr = Ehr::new(options, Arc::new(self.clock));
                    ehr.set_faults(*faults);
                    self.clinics.insert(source.name.clone(), Arc::new(ehr));
                }
                Kind::Journal { faults, old, .. } => {
                    let calm = Arc::clone(&self.calm);
                    let journal = Journal::new(*faults, LATE_MAX, self.clock, dice, calm);
                    journal.fill(*old);
                    self.journals.insert(source.name.clone(), Arc::new(journal));
                }
            }
        }
    }

    fn open_sinks(&mut self) {
        for subscription in &self.plan.subscriptions {
            let temper = match subscription.temper {
                TemperPlan::Prompt => Temper::Prompt,
                TemperPlan::Slow => Temper::Slow,
                TemperPlan::Flaky(share) => Temper::Flaky(share),
                TemperPlan::Hangs(share) => Temper::Hangs(share),
                TemperPlan::DownFor(how_long) => Temper::DownUntil(Instant::now() + how_long),
                TemperPlan::Broker(shares) => Temper::Broker(shares),
                TemperPlan::Dead => Temper::Dead,
            };
            let state = SinkState {
                subscription: subscription.name.clone(),
                temper,
                permits: self.plan.limits.in_flight_per_destination,
                calm: Arc::clone(&self.calm),
                dice: Mutex::new(fork(self.plan.seed, &subscription.name)),
                book: Arc::clone(&self.book),
                strikes: Mutex::default(),
                connection_lost: Notify::new(),
            };
            self.sinks.insert(subscription.name.clone(), Arc::new(state));
        }
    }

    /// Lives the world through; afterwards the book tells everything.
    pub(crate) async fn live(self: &Arc<Self>) {
        let mut day: JoinSet<()> = JoinSet::new();
        let still = CancellationToken::new();
        let (world, token) = (Arc::clone(self), still.clone());
        day.spawn(async move {
            world.day().await;
            world.quieten().await;
            token.cancel();
        });
        if self.plan.rivals {
            self.live_as_rivals(&still).await;
        } else {
            for (number, blow) in self.plan.blows.clone().into_iter().enumerate() {
                self.live_until(number, blow).await;
                self.blows_left.fetch_sub(1, Ordering::Relaxed);
                tokio::time::sleep(blow.pause).await;
                if blow.reopen {
                    drop(self.store.reopened());
                }
            }
            let life = Life::begin(self.plan.blows.len(), None, Arc::clone(&self.book));
            self.live_on(life, &still).await;
        }
        if let Some(Err(error)) = day.join_next().await {
            self.book.violation(format!("the day ended badly: {error}"));
        }
    }

    /// One life that the script ends.
    async fn live_until(self: &Arc<Self>, number: usize, blow: BlowPlan) {
        let at_latest = Instant::now() + blow.at_latest;
        let trigger = match blow.how {
            How::Crash { op, nth, side } => Some(Trigger {
                op,
                nth,
                side,
                blow: Blow::Crash,
                at_latest,
            }),
            How::Stop => None,
        };
        let life = Life::begin(number, trigger, Arc::clone(&self.book));
        let stop = CancellationToken::new();
        let mut run = Box::pin(pipeline::run(self.staff(&life), stop.clone()));
        tokio::select! {
            biased;
            () = life.ended() => {}
            end = &mut run => self.book.violation(format!("life {number} ended by itself: {end:?}")),
            () = tokio::time::sleep_until(at_latest), if blow.how == How::Stop => {
                // What is answered from now on may be given back unread.
                self.book.note_end(number);
                stop.cancel();
                if let Err(error) = run.await {
                    self.book.violation(format!("life {number} did not stop in order: {error:?}"));
                }
                life.end();
            }
        }
        self.workers.lock().unwrap().clear();
        self.note_cursors(&life).await;
    }

    /// Notes where the cursors stand; the connector alone knows what they mean.
    async fn note_cursors(&self, life: &Arc<Life>) {
        for row in self.store.cursors().await.unwrap() {
            let mut sources = self.plan.sources.iter();
            let source = sources
                .find(|source| source.name == row.connection.as_str())
                .unwrap();
            let unlimited = Arc::new(Budget::new(None, source.concurrent));
            let connector = crate::staff::connector(self, life, source, &unlimited);
            if let Some(watermark) = row.state.cursor.and_then(|cursor| connector.describe(&cursor)) {
                let mut pages = self.book.open();
                let tick = pages.next();
                let feed = (row.connection.to_string(), row.feed.to_string());
                pages.cursors.push((tick, feed, watermark));
            }
        }
    }

    /// The life that lasts.
    async fn live_on(self: &Arc<Self>, life: Arc<Life>, still: &CancellationToken) {
        let stop = CancellationToken::new();
        let mut run = Box::pin(pipeline::run(self.staff(&life), stop.clone()));
        tokio::select! {
            biased;
            () = still.cancelled() => {}
            end = &mut run => {
                self.book.violation(format!("life {} ended by itself: {end:?}", life.number));
                return;
            }
        }
        stop.cancel();
        if let Err(error) = run.await {
            self.book
                .violation(format!("the last life did not stop in order: {error:?}"));
        }
        self.note_cursors(&life).await;
    }

    /// Two lives at once on one store, each of which stands still for longer than its lease.
    async fn live_as_rivals(self: &Arc<Self>, still: &CancellationToken) {
        let lives = [0, 1].map(|number: usize| {
            let blow = self.plan.blows.get(number);
            let trigger = blow.and_then(|blow| match blow.how {
                How::Crash { op, nth, side } => Some(Trigger {
                    op,
                    nth,
                    side,
                    blow: Blow::Freeze(self.plan.limits.lease_ttl + blow.pause + Duration::from_secs(2)),
                    at_latest: Instant::now() + blow.at_latest,
                }),
                How::Stop => None,
            });
            Life::begin(number, trigger, Arc::clone(&self.book))
        });
        let watch = async {
            for life in &lives {
                life.freeze_is_over().await;
                if life.number < self.plan.blows.len() {
                    self.blows_left.fetch_sub(1, Ordering::Relaxed);
                }
            }
        };
        let [one, other] = lives.clone();
        tokio::join!(self.live_on(one, still), self.live_on(other, still), watch);
    }

    fn staff(self: &Arc<Self>, life: &Arc<Life>) -> Arc<Worker> {
        let worker = Arc::new(crate::staff::worker(self, life));
        self.workers.lock().unwrap().push(Arc::clone(&worker));
        worker
    }

    /// The sources change until enough was seen and the script is over.
    async fn day(&self) {
        if let Course::Long(course) = &self.plan.course {
            return self.long_day(course).await;
        }
        let mut dice = fork(self.plan.seed, "revivals");
        loop {
            tokio::time::sleep(self.plan.step_every).await;
            for ehr in self.clinics.values() {
                drop(ehr.step());
                if dice.random_bool(0.02) {
                    revive(ehr, &mut dice);
                }
            }
            for journal in self.journals.values() {
                journal.step();
            }
            let elapsed = self.clock.elapsed();
            if elapsed < DAY_MIN || self.blows_left.load(Ordering::Relaxed) > 0 {
                continue;
            }
            let unstruck = self.unstruck();
            let shown = self.book.open().versions_shown().len();
            if unstruck.is_empty() && shown >= self.plan.versions_min {
                return;
            }
            if elapsed > self.day_max() {
                let what = if shown < self.plan.versions_min {
                    format!("the world saw {shown} versions only")
                } else {
                    format!("{UNSTRUCK}: {unstruck:?}")
                };
                return self.book.violation(what);
            }
        }
    }

    /// A day that has not seen enough by then never will: four times what its changes take at their pace.
    fn day_max(&self) -> Duration {
        let changes = u32::try_from(self.plan.versions_min).unwrap_or(u32::MAX);
        DAY_MAX.max(self.plan.step_every * changes * 4)
    }

    /// Faults that were switched on and never struck so far.
    fn unstruck(&self) -> Vec<(String, &'static str)> {
        let mut faults = self.plan.faults();
        faults.retain(|(source, name)| self.clinics[source].strikes()[name] == 0);
        faults
    }

    /// Faults end, destinations heal; waits until nothing moves.
    async fn quieten(&self) {
        self.calm.store(true, Ordering::Relaxed);
        for ehr in self.clinics.values() {
            // A clock that is wrong stays wrong: setting it right would be another fault.
            let clock_skew_seconds = ehr.faults().clock_skew_seconds;
            ehr.set_faults(Faults {
                clock_skew_seconds,
                ..Faults::default()
            });
        }
        let (settling, look, quiet_max) = self.patience();
        tokio::time::sleep(settling).await;
        let mut last_look = LastLook {
            since: self.book.open().next(),
            polls: BTreeMap::new(),
        };
        let give_up = Instant::now() + quiet_max;
        let (mut quiet_looks, mut redrives) = (0, 0);
        while quiet_looks < 3 {
            tokio::time::sleep(look).await;
            match self.stirring(&mut last_look).await {
                None if redrives < 2 && self.redrive().await => {
                    redrives += 1;
                    quiet_looks = 0;
                }
                None => quiet_looks += 1,
                Some(what) if Instant::now() > give_up => {
                    return self
                        .book
                        .violation(format!("the world never became quiet: {what}"));
                }
                Some(_) => quiet_looks = 0,
            }
        }
    }

    /// How long late changes take to show, how often to look whether it is quiet, and when to give up.
    fn patience(&self) -> (Duration, Duration, Duration) {
        match self.plan.course {
            Course::Brief => (
                LATE_MAX + Duration::from_secs(5),
                Duration::from_millis(700),
                QUIET_MAX,
            ),
            Course::Long(_) => (Duration::from_mins(30), Duration::from_mins(5), QUIET_MAX_LONG),
        }
    }

    /// What still moves, if anything.
    async fn stirring(&self, last_look: &mut LastLook) -> Option<String> {
        let workers = self.workers.lock().unwrap().clone();
        for source in &self.plan.sources {
            let connection = courier_sdk::ConnectionName::parse(&source.name).unwrap();
            let backlog = self.store.backlog(&connection).await.unwrap();
            if backlog.inbox + backlog.log + backlog.outbox > 0 {
                return Some(format!("{}: {backlog:?}", source.name));
            }
            for feed in source.feeds.iter().flat_map(FeedPlan::polled) {
                let name = courier_sdk::FeedName::parse(&feed).unwrap();
                let beside = courier_sdk::FeedName::parse(&format!("{feed}.backfill")).unwrap();
                let backfill = self.store.feed(&connection, &beside).await.unwrap();
                if backfill.poll.0 > 0 && backfill.baseline != Baseline::Complete {
                    return Some(format!("{} {beside}: {backfill:?}", source.name));
                }
                let state = self.store.feed(&connection, &name).await.unwrap();
                let began = last_look.poll_began(self, &source.name, &feed);
                let polled = workers.iter().any(|worker| {
                    let condition = worker.connections[&connection].condition(&name);
                    let succeeded_at = condition.and_then(|it| it.succeeded_at);
                    began.is_some_and(|began| succeeded_at.is_some_and(|at| at > began))
                });
                // A poll of many pages is under way most of the time; that nothing new comes of it is what counts.
                if !polled || state.stage == StageState::Releasing {
                    let conditions: Vec<_> = workers
                        .iter()
                        .map(|worker| worker.connections[&connection].condition(&name))
                        .collect();
                    return Some(format!("{} {feed}: {state:?} {conditions:?}", source.name));
                }
            }
        }
        for plan in &self.plan.subscriptions {
            let name = SubscriptionName::parse(&plan.name).unwrap();
            for row in self.store.standings(&name).await.unwrap() {
                if row.standing.own.is_some() {
                    return Some(format!("{name} catches up on {}", row.connection));
                }
            }
        }
        None
    }

    /// Gives what went to quarantine another chance; says whether there was any.
    async fn redrive(&self) -> bool {
        let mut any = false;
        for row in self.store.quarantine(usize::MAX).await.unwrap() {
            any = true;
            self.book.open().redriven.insert(row.connection.to_string());
            let now = self.clock.now();
            self.store.redrive_quarantine(&row.connection, now).await.unwrap();
        }
        any
    }
}
