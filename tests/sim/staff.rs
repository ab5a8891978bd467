//! Puts a worker together for one life: everything it reaches the world through passes that life's gate.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use courier_fhir::{ConditionalRead, Cut, FhirConnector, Limits as FhirLimits, Profile, Settings};
use courier_sdk::{ConnectionName, Connector, FeedName, FeedSpec, Include, RecordType, Start};
use ehr_courier::domain::fan_out::{ConnectionSet, Format, From, Subscription, Topic};
use ehr_courier::domain::name::{DestinationName, SubscriptionName};
use ehr_courier::pipeline::bells::Bells;
use ehr_courier::pipeline::budget::Budget;
use ehr_courier::pipeline::budget::metered::Metered;
use ehr_courier::pipeline::connection::{Connection, Feed};
use ehr_courier::pipeline::{Outlet, Worker};
use ehr_courier::sandbox::{ConditionalRead as Honoured, Dialect, Granularity};
use ehr_courier::store::{Holder, Unchanged};

use crate::clinic::{ClinicHttp, Watched};
use crate::crashing::Crashing;
use crate::dice::fork;
use crate::journal::JournalConnector;
use crate::life::Life;
use crate::plan::{Course, FeedPlan, Kind, OVERLAP, SourcePlan, StartPlan, SubscriptionPlan, TemperPlan};
use crate::remembering::Gated;
use crate::sink::Sink;
use crate::world::{World, base_url};

/// Pages above this are refused; the oversized fault exceeds it.
const PAGE_BYTES_MAX: usize = 2 << 20;

/// Lasts through every destination's trouble but the one that never ends.
const PATIENCE: [u64; 14] = [1, 2, 4, 8, 15, 20, 20, 20, 20, 20, 20, 20, 20, 20];

/// Lasts through the pauses of a long world too: a schedule runs on while nobody works on it.
const PATIENCE_LONG: [u64; 14] = [
    1, 5, 20, 60, 300, 300, 600, 600, 1200, 1800, 3600, 3600, 3600, 3600,
];

/// For the destination that is dead: a dead letter after a few seconds.
const IMPATIENCE: [u64; 2] = [1, 2];

/// The worker of one life.
pub(crate) fn worker(world: &World, life: &Arc<Life>) -> Worker {
    let plan = &world.plan;
    let label = |what: &str| format!("{what} {}", life.number);
    Worker {
        store: Arc::new(Crashing {
            inner: world.store.clone(),
            life: Arc::clone(life),
            book: Arc::clone(&world.book),
        }),
        dedup: Arc::new(Gated {
            inner: Arc::clone(&world.dedup),
            life: Arc::clone(life),
        }),
        clock: Arc::new(world.clock),
        connections: plan
            .sources
            .iter()
            .map(|source| connection(world, life, source))
            .map(|connection| (connection.name.clone(), Arc::new(connection)))
            .collect(),
        destinations: plan
            .subscriptions
            .iter()
            .map(|subscription| outlet(world, life, subscription))
            .collect(),
        subscriptions: plan
            .subscriptions
            .iter()
            .filter(|subscription| in_force(subscription, life.number) || plan.rivals)
            .map(subscribe)
            .collect(),
        holder: Holder(label("worker")),
        limits: plan.limits,
        bells: Bells::default(),
        watch: Arc::default(),
        draws: Mutex::new(fork(plan.seed, &label("draws"))),
    }
}

fn in_force(subscription: &SubscriptionPlan, life: usize) -> bool {
    let begun = life >= subscription.from_life;
    let ended = subscription.until_life.is_some_and(|until| life >= until);
    let again = subscription.again_from_life.is_some_and(|from| life >= from);
    begun && (!ended || again)
}

fn subscribe(plan: &SubscriptionPlan) -> Subscription {
    let connections = plan.connection.as_ref().map_or(ConnectionSet::All, |name| {
        ConnectionSet::Named([ConnectionName::parse(name).unwrap()].into())
    });
    let topic = plan.record_type.as_ref().map_or(Topic::Any, |name| {
        Topic::Records(RecordType::parse(name).unwrap())
    });
    Subscription {
        name: SubscriptionName::parse(&plan.name).unwrap(),
        connections,
        topic,
        from: if plan.from_beginning {
            From::Beginning
        } else {
            From::Now
        },
        content: plan.content,
        format: Format::CloudEvents,
        destination: DestinationName::parse(&plan.name).unwrap(),
    }
}

fn outlet(world: &World, life: &Arc<Life>, plan: &SubscriptionPlan) -> (DestinationName, Arc<Outlet>) {
    let schedule = match (plan.temper, &world.plan.course) {
        (TemperPlan::Dead, _) => &IMPATIENCE[..],
        (_, Course::Brief) => &PATIENCE[..],
        (_, Course::Long(_)) => &PATIENCE_LONG[..],
    };
    let state = Arc::clone(&world.sinks[&plan.name]);
    let outlet = Outlet::new(
        Arc::new(Sink::new(state, Arc::clone(life))),
        schedule
            .iter()
            .map(|seconds| Duration::from_secs(*seconds))
            .collect(),
    );
    (DestinationName::parse(&plan.name).unwrap(), Arc::new(outlet))
}

fn connection(world: &World, life: &Arc<Life>, source: &SourcePlan) -> Connection {
    let budget = Budget::new(None, source.concurrent)
        .daily(source.per_day)
        .keeping(source.calendar.clone(), Arc::new(world.clock));
    let budget = Arc::new(budget);
    let connector = connector(world, life, source, &budget);
    let feeds = source.feeds.iter().flat_map(|feed| {
        let itself = spec(world, feed);
        let rule = connector.version_rule(&itself.spec.record_type);
        let sweep = feed.reconcile.and_then(|every| itself.sweep(every, &rule));
        [itself.backfill(), Some(itself), sweep].into_iter().flatten()
    });
    let feeds = feeds.collect();
    let name = ConnectionName::parse(&source.name).unwrap();
    Connection::new(name, connector, feeds, budget, source.concurrent)
}

fn spec(world: &World, plan: &FeedPlan) -> Feed {
    let start = match plan.start {
        StartPlan::Beginning => Start::Beginning,
        StartPlan::Now => Start::Now,
        StartPlan::Before(how_long) => Start::At(world.began - how_long),
    };
    Feed {
        spec: FeedSpec {
            name: FeedName::parse(&plan.name).unwrap(),
            record_type: RecordType::parse(&plan.record_type).unwrap(),
            filter: String::new(),
            start,
            overlap: OVERLAP,
            fetch: plan.fetch,
            detect: plan.detect,
            include: plan
                .include
                .iter()
                .map(|text| Include::parse(text).unwrap())
                .collect(),
            scope: plan.scope.clone(),
        },
        every: plan.every,
        overlap: plan.overlap,
        unchanged: Unchanged::Tell,
        storm: None,
    }
}

/// What is known of a kind of server.
fn profile(dialect: Dialect, version_read: bool) -> Profile {
    let mut profile = Profile::builtin("sandbox").unwrap();
    profile.version_read = version_read && !dialect.no_history;
    profile.granularity = match dialect.granularity {
        Granularity::Millisecond => Cut::Fraction,
        Granularity::Second => Cut::Second,
        Granularity::Day => Cut::Day,
    };
    profile.conditional_read = match dialect.conditional_read {
        Honoured::NotMatch | Honoured::FullSupport => ConditionalRead::NoneMatch,
        Honoured::ModifiedSince => ConditionalRead::ModifiedSince,
        Honoured::NotSupported => ConditionalRead::None,
    };
    if dialect.needs_patient {
        profile.patient_required = vec!["*".to_owned()];
    }
    // A roster is asked for in two parts, a list of ids in two or three.
    profile.patients_at_once = 20;
    profile
}

/// The connector of one source; also used by the checker, which only asks it what a cursor stands for.
pub(crate) fn connector(
    world: &World,
    life: &Arc<Life>,
    source: &SourcePlan,
    budget: &Arc<Budget>,
) -> Arc<dyn Connector> {
    match &source.kind {
        Kind::Clinic {
            page_count,
            version_read,
            dialect,
            expired,
            ..
        } => {
            let http = ClinicHttp {
                connection: source.name.clone(),
                ehr: Arc::clone(&world.clinics[&source.name]),
                life: Arc::clone(life),
                book: Arc::clone(&world.book),
                dice: Mutex::new(fork(world.plan.seed, &format!("{} {}", source.name, life.number))),
                concurrent: source.concurrent,
                under_way: AtomicUsize::new(0),
                expired: *expired,
                calm: Arc::clone(&world.calm),
            };
            let label = source.name.clone().into();
            Arc::new(Watched(FhirConnector::new(Settings {
                base_url: base_url(),
                credentials: Arc::new(courier_sdk::Fixed::none()),
                profile: profile(*dialect, *version_read),
                http: Arc::new(Metered::new(Arc::new(http), Arc::clone(budget), label)),
                clock: Arc::new(world.clock),
                limits: FhirLimits {
                    page_bytes_max: PAGE_BYTES_MAX,
                    page_count: *page_count,
                    ..FhirLimits::default()
                },
            })))
        }
        Kind::Journal { page_size, .. } => Arc::new(JournalConnector {
            connection: source.name.clone(),
            journal: Arc::clone(&world.journals[&source.name]),
            page_size: *page_size,
            life: Arc::clone(life),
            book: Arc::clone(&world.book),
            clock: world.clock,
        }),
    }
}
