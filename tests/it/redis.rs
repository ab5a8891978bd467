//! Deduplication in Redis against real servers: what it says, and that nothing that happens to it loses or repeats.

mod scene;
mod server;

use std::time::Duration;

use courier_sdk::{ConnectionName, RecordId, RecordKey, RecordType};
use ehr_courier::dedup::redis::RedisDedup;
use ehr_courier::dedup::{Dedup, REMEMBERED_MAX};
use ehr_courier::domain::identity::{EventId, VersionKey};
use ehr_courier::face::{self, health};
use ehr_courier::store::{Holder, LeaseRequest};
use secrecy::SecretString;

use scene::Scene;
use server::{PrivateRedis, ask, connect, given_address};

/// How often each fault strikes in a run.
const ROUNDS: usize = 3;

fn name(text: &str) -> ConnectionName {
    ConnectionName::parse(text).unwrap()
}

fn ids(connection: &ConnectionName, count: usize) -> Vec<EventId> {
    let key = RecordKey {
        record_type: RecordType::parse("Patient").unwrap(),
        id: RecordId::parse("1").unwrap(),
    };
    let id = |n: usize| EventId::derive(connection, &key, &VersionKey::of_version_id(&n.to_string()));
    (0..count).map(id).collect()
}

fn dedup(address: &str, epoch: &str) -> RedisDedup {
    RedisDedup::new(&SecretString::from(address), epoch).unwrap()
}

#[tokio::test]
async fn what_was_marked_is_known_to_that_store_and_connection_only_and_for_a_day() {
    let address = given_address();
    let epoch = format!("{:032x}", rand::random::<u128>());
    let (mercy, st_anne) = (name("mercy"), name("st_anne"));
    let all = ids(&mercy, 2_500);
    let ours = dedup(&address, &epoch);
    assert_eq!(ours.seen(&mercy, &all).await, vec![false; 2_500]);
    ours.mark(&mercy, &all[..1_700]).await;
    let expected: Vec<bool> = (0..2_500).map(|n| n < 1_700).collect();
    assert_eq!(ours.seen(&mercy, &all).await, expected);
    assert_eq!(ours.seen(&st_anne, &all).await, vec![false; 2_500]);
    let other = dedup(&address, &format!("{epoch}x"));
    assert_eq!(other.seen(&mercy, &all).await, vec![false; 2_500]);
    let again = dedup(&address, &epoch);
    assert_eq!(
        again.seen(&mercy, &all).await,
        expected,
        "a worker that starts anew knows it"
    );
    assert!([&ours, &other, &again].iter().all(|one| one.trouble().is_none()));

    let mut connection = connect(&address).await.unwrap();
    let mut keys = Vec::new();
    for id in &all[..1_700] {
        keys.push(format!("ehr-courier:1:{epoch}:{{mercy}}:{}", id.as_str()));
    }
    let lives: i64 = ask(&mut connection, &["TTL", &keys[0]]).await;
    assert!(lives > 0 && lives.unsigned_abs() <= REMEMBERED_MAX.as_secs());
    let mut words = vec!["DEL"];
    words.extend(keys.iter().map(String::as_str));
    let deleted: usize = ask(&mut connection, &words).await;
    assert_eq!(deleted, 1_700);
}

#[tokio::test]
async fn a_redis_that_hangs_or_is_gone_answers_no_in_time_and_is_used_again_when_it_is_back() {
    let server = PrivateRedis::start().await;
    let mercy = name("mercy");
    let all = ids(&mercy, 3);
    let dedup = dedup(&server.address(), "e");
    dedup.mark(&mercy, &all).await;
    assert_eq!(dedup.seen(&mercy, &all).await, [true; 3]);
    server.freeze();
    let began = tokio::time::Instant::now();
    assert_eq!(dedup.seen(&mercy, &all).await, [false; 3]);
    assert!(dedup.trouble().unwrap().contains("no answer within"));
    // Nobody waits for it any more: a thousand pages pass within the guard against hanging.
    for _ in 0..1_000 {
        dedup.mark(&mercy, &all).await;
    }
    assert!(began.elapsed() < Duration::from_secs(30));
    server.thaw();
    let deadline = tokio::time::Instant::now() + server::PATIENCE;
    while dedup.seen(&mercy, &all).await != [true; 3] {
        assert!(tokio::time::Instant::now() < deadline, "never used again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(dedup.trouble(), None);
}

#[tokio::test]
async fn a_redis_that_takes_no_ids_is_named_and_still_asked() {
    let server = PrivateRedis::start().await;
    let mercy = name("mercy");
    let all = ids(&mercy, 2);
    let dedup = dedup(&server.address(), "e");
    dedup.mark(&mercy, &all[..1]).await;
    let () = server.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
    dedup.mark(&mercy, &all[1..]).await;
    assert_eq!(dedup.seen(&mercy, &all).await, [true, false]);
    assert!(dedup.trouble().unwrap().contains("OOM"), "{:?}", dedup.trouble());
    let () = server.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    dedup.mark(&mercy, &all[1..]).await;
    assert_eq!(dedup.seen(&mercy, &all).await, [true, true]);
    assert_eq!(dedup.trouble(), None);
}

#[tokio::test]
async fn a_wrong_password_shows_in_no_message() {
    let server = PrivateRedis::start().await;
    let () = server
        .ask(&["CONFIG", "SET", "requirepass", "correct-horse"])
        .await;
    let address = server.address().replace("redis://", "redis://:hunter2@");
    let (mercy, dedup) = (name("mercy"), dedup(&address, "e"));
    assert_eq!(dedup.seen(&mercy, &ids(&mercy, 1)).await, [false]);
    let trouble = dedup.trouble().unwrap();
    assert!(
        !trouble.contains("hunter2") && !trouble.contains("correct"),
        "{trouble}"
    );
}

/// Runs a whole courier while a fault strikes its Redis again and again; whatever happens, every version that the source
/// showed arrives once.
async fn survive(
    fault: &str,
    mut strike: impl AsyncFnMut(&mut PrivateRedis, &Scene) -> u64,
    mut heal: impl AsyncFnMut(&mut PrivateRedis),
) {
    let mut server = PrivateRedis::start().await;
    let mut scene = Scene::raise(&server.address()).await;
    let mut struck = 0;
    for _ in 0..ROUNDS {
        scene.go_on(60);
        scene.until_all_arrived().await;
        scene.until_spared().await;
        struck += strike(&mut server, &scene).await;
        scene.go_on(60);
        scene.until_all_arrived().await;
        heal(&mut server).await;
        scene.until_spared().await;
        scene
            .until("no trouble is left", |scene| {
                health::report(&scene.worker, false, face::Reload::None)
                    .failing_dedup
                    .is_none()
            })
            .await;
    }
    let outcome = scene.end().await;
    println!("redis {fault}: struck {struck} times in {ROUNDS} rounds; {outcome:?}");
    assert!(struck >= ROUNDS as u64, "{fault} struck {struck} times only");
    assert!(
        outcome.shown >= 200,
        "a tiny world: {} versions shown",
        outcome.shown
    );
    assert_eq!((outcome.lost, outcome.duplicated), (0, 0));
    assert!(outcome.spared > 0 && outcome.spared < outcome.asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_redis_loses_and_repeats_nothing() {
    let flush = async |server: &mut PrivateRedis, _: &Scene| {
        let known: u64 = server.ask(&["DBSIZE"]).await;
        let () = server.ask(&["FLUSHALL"]).await;
        u64::from(known > 0)
    };
    survive("flushed", flush, async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_redis_loses_and_repeats_nothing() {
    let hang = async |server: &mut PrivateRedis, scene: &Scene| {
        server.freeze();
        until_degraded(scene).await;
        1
    };
    survive("stopped", hang, async |server| server.thaw()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_restarted_empty_loses_and_repeats_nothing() {
    let kill = async |server: &mut PrivateRedis, scene: &Scene| {
        server.kill();
        until_degraded(scene).await;
        1
    };
    survive("restarted empty", kill, async |server| server.start_again().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicting_redis_loses_and_repeats_nothing() {
    let mut before = 0;
    let evict = async |server: &mut PrivateRedis, _: &Scene| {
        let () = server
            .ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"])
            .await;
        // A little less than is in use, so that about half of the ids must go and each further one drives one out.
        let keys: u64 = server.ask(&["DBSIZE"]).await;
        let used = server.info("used_memory").await;
        let limit = used.saturating_sub(keys * 60).to_string();
        let () = server.ask(&["CONFIG", "SET", "maxmemory", &limit]).await;
        // It drives keys out even where it is refused itself, for want of enough that could go.
        server.nudge().await;
        let evicted = server.info("evicted_keys").await;
        let struck = evicted - before;
        before = evicted;
        struck
    };
    survive("evicting", evict, async |server| {
        let () = server.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    })
    .await;
}

/// Waits until the courier says that its Redis is of no use, and checks that it is ready all the same.
async fn until_degraded(scene: &Scene) {
    let deadline = tokio::time::Instant::now() + server::PATIENCE;
    loop {
        let report = health::report(&scene.worker, false, face::Reload::None);
        assert!(report.ready, "{:?}", report.reason);
        if report.failing_dedup.is_some() {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "never degraded");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Redis remembers all that the first courier announced; a second one with a new file must announce it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_store_is_told_nothing_of_what_another_committed() {
    let server = PrivateRedis::start().await;
    let first = Scene::raise(&server.address()).await.end().await;
    let second = Scene::raise(&server.address()).await.end().await;
    assert!(first.shown > 20 && first.spared > 0);
    assert_eq!((first.shown, first.lost), (second.shown, 0));
    assert_eq!((second.lost, second.duplicated), (0, 0));
}

/// Another worker takes the connection between a poll and its commit: nothing of the page was committed, so nothing of
/// it may be known when the connection comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_was_not_committed_is_not_remembered() {
    let server = PrivateRedis::start().await;
    let mut scene = Scene::raise(&server.address()).await;
    scene.until_all_arrived().await;
    scene.until_spared().await;
    let connection = &name("mercy");
    let worker = std::sync::Arc::clone(&scene.worker);
    // What arrived and is not recorded yet would be sent once more under the next lease, as it must.
    let deadline = tokio::time::Instant::now() + server::PATIENCE;
    while worker.store.depths().await.unwrap()[connection].outbox > 0 {
        assert!(tokio::time::Instant::now() < deadline, "never recorded");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ours = worker.connections[connection].fence().unwrap();
    worker.store.release_lease(connection, ours).await.unwrap();
    let thief = LeaseRequest {
        connection: connection.clone(),
        holder: Holder("thief".to_owned()),
        ttl: Duration::from_hours(1),
    };
    let stolen = worker
        .store
        .acquire_lease(&thief, worker.clock.now())
        .await
        .unwrap();
    scene
        .ehr
        .write("Patient", "between", r#"{"active":true}"#)
        .unwrap();
    scene
        .until("the page was refused", |scene| {
            scene.worker.connections[connection].fence().is_none()
        })
        .await;
    let stolen = stolen.expect("the lease was free");
    worker.store.release_lease(connection, stolen).await.unwrap();
    let outcome = scene.end().await;
    assert_eq!((outcome.lost, outcome.duplicated), (0, 0), "{outcome:?}");
}
