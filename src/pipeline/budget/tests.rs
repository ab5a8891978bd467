use jiff::civil::time;
use jiff::tz::TimeZone;

use super::*;
use crate::domain::calendar::{Days, Window};

fn budget(per_second: u32, at_once: usize) -> Budget {
    Budget::new(NonZeroU32::new(per_second), at_once)
}

/// The clock on the wall, as far from an instant as the monotonic one.
#[derive(Debug)]
struct Wall(Timestamp, Instant);

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        self.0.checked_add(self.1.elapsed()).unwrap()
    }
}

fn feed() -> FeedName {
    FeedName::parse("appointments").unwrap()
}

fn wall(text: &str) -> Arc<dyn Clock> {
    Arc::new(Wall(text.parse().unwrap(), Instant::now()))
}

fn nightly() -> Window {
    Window {
        from: time(2, 0, 0, 0),
        to: time(3, 0, 0, 0),
        days: Days::ALL,
        zone: TimeZone::UTC,
    }
}

#[tokio::test(start_paused = true)]
async fn requests_take_their_places_in_the_second_one_after_the_other() {
    let budget = budget(5, 100);
    let began = Instant::now();
    for nth in 0..26_u64 {
        drop(budget.request(None).await.unwrap());
        let seconds = began.elapsed().as_secs();
        assert_eq!(seconds, 1 + nth / 5, "the {nth}th");
    }
}

#[tokio::test(start_paused = true)]
async fn leave_is_given_when_a_request_could_be_sent_and_takes_no_place_itself() {
    let budget = budget(1, 2);
    assert_eq!(
        budget.leave_now(&feed()).unwrap_err(),
        Duration::from_secs(1),
        "who knows what was sent before"
    );
    tokio::time::advance(Duration::from_secs(1)).await;
    drop((
        budget.leave_now(&feed()).unwrap(),
        budget.leave_now(&feed()).unwrap(),
    ));
    let under_way = budget.request(None).await.unwrap();
    assert_eq!(budget.leave_now(&feed()).unwrap_err(), Duration::from_secs(1));
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!(budget.leave_now(&feed()).is_err(), "it is under way still");
    drop(under_way);
    tokio::time::advance(Duration::from_millis(999)).await;
    assert!(budget.leave_now(&feed()).is_err());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(budget.leave_now(&feed()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn polls_and_reads_that_want_more_than_there_is_take_turns() {
    let (budget, went) = (budget(1, 4), Mutex::new(String::new()));
    let ends = Instant::now() + Duration::from_secs(21);
    let polls = async {
        while Instant::now() < ends {
            match budget.leave_now(&feed()) {
                Ok(_leave) => {
                    lock(&went).push('p');
                    drop(budget.request(None).await.unwrap());
                }
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    };
    let reads = async {
        while let Ok(_leave) = budget.leave_by(Some(ends)).await {
            lock(&went).push('r');
            drop(budget.request(None).await.unwrap());
        }
    };
    tokio::join!(polls, reads);
    let went = lock(&went).clone();
    let polls = went.matches('p').count();
    assert!(
        (8..=12).contains(&polls) && (18..=22).contains(&went.len()),
        "{went}"
    );
}

#[tokio::test(start_paused = true)]
async fn leave_is_given_back_when_the_request_ends() {
    let budget = budget(0, 2);
    let (first, second) = (
        budget.leave_now(&feed()).unwrap(),
        budget.leave_now(&feed()).unwrap(),
    );
    assert_eq!(budget.leave_now(&feed()).unwrap_err(), OCCUPIED);
    drop(first);
    assert!(budget.leave_now(&feed()).is_ok());
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_everybody_and_is_never_shortened_nor_endless() {
    let budget = budget(0, 2);
    budget.pause(Duration::from_secs(30));
    budget.pause(Duration::from_secs(5));
    assert_eq!(budget.leave_now(&feed()).unwrap_err(), Duration::from_secs(30));
    assert_eq!(budget.request(None).await.unwrap_err(), Duration::from_secs(30));
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(budget.leave_now(&feed()).is_ok());
    budget.pause(Duration::from_secs(u64::from(u32::MAX)));
    assert_eq!(budget.leave_now(&feed()).unwrap_err(), PAUSE_MAX);
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_waited_for_until_an_instant_and_no_pause_is() {
    let budget = budget(1, 2);
    let soon = || Some(Instant::now() + Duration::from_secs(5));
    assert!(budget.leave_by(soon()).await.is_ok());
    drop(budget.request(None).await.unwrap());
    let began = Instant::now();
    assert!(budget.leave_by(soon()).await.is_ok(), "a second later");
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    drop(budget.request(None).await.unwrap());
    assert!(budget.leave_by(Some(Instant::now())).await.is_err());
    budget.pause(Duration::from_secs(2));
    let began = Instant::now();
    assert_eq!(budget.leave_by(None).await.unwrap_err(), Duration::from_secs(2));
    assert!(began.elapsed().is_zero());
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_out_a_pause_holds_no_request() {
    let budget = budget(0, 1);
    budget.pause(Duration::from_mins(10));
    let waiting = budget.leave();
    tokio::pin!(waiting);
    assert!(
        tokio::time::timeout(Duration::from_secs(1), &mut waiting)
            .await
            .is_err()
    );
    assert_eq!(budget.at_once.available_permits(), 1);
    assert!(waiting.await.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_ages_while_it_waits_is_not_kept_waiting() {
    let budget = budget(0, 2).daily(NonZeroU32::new(24));
    let minute = Some(Duration::from_mins(1));
    let wait = budget.request(minute).await.unwrap_err();
    assert!(
        wait > Duration::from_hours(1),
        "{wait:?}: nothing is saved up yet"
    );
    let began = Instant::now();
    assert!(budget.request(None).await.is_ok(), "what does not is sent later");
    assert!(began.elapsed() >= wait);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_say_how_long_gets_more_patience_each_time_and_less_again() {
    let budget = budget(0, 2);
    let pass = async || {
        let mut waits = Vec::new();
        for _ in 0..10 {
            let wait = budget.throttled(None, 0.0);
            assert_eq!(
                budget.throttled(None, 0.9),
                wait,
                "told twice, by requests of one time"
            );
            waits.push(wait.as_secs());
            tokio::time::advance(wait).await;
        }
        waits
    };
    assert_eq!(pass().await, [1, 2, 4, 8, 16, 32, 64, 128, 150, 150]);
    for _ in 0..9 {
        budget.answered();
    }
    assert_eq!(budget.throttled(None, 0.0).as_secs(), 2, "one of ten is left");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(budget.throttled(Some(Duration::from_secs(7)), 0.5).as_secs(), 7);
    tokio::time::advance(Duration::from_secs(7)).await;
    let without = budget.throttled(Some(Duration::ZERO), 1.0);
    assert_eq!(without.as_secs(), 8, "at once is not patience");
    tokio::time::advance(without).await;
    let jittered = budget.throttled(None, 0.5);
    assert_eq!(jittered, Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn in_maintenance_nothing_is_sent_and_after_it_everything_goes_on() {
    let calendar = Calendar {
        peak: None,
        maintenance: vec![nightly()],
    };
    let budget = budget(0, 2).keeping(calendar, wall("2026-11-20T01:59:59Z"));
    assert!(budget.leave_now(&feed()).is_ok());
    assert_eq!(budget.maintenance_until(), None);
    tokio::time::advance(Duration::from_mins(31)).await;
    let left = Duration::from_secs(29 * 60 + 1);
    assert_eq!(budget.leave_now(&feed()).unwrap_err(), left);
    assert_eq!(budget.leave_by(None).await.unwrap_err(), left);
    assert_eq!(budget.request(None).await.unwrap_err(), left);
    assert_eq!(budget.closed_for(), left);
    let until = budget.maintenance_until().unwrap();
    assert_eq!(until.to_string(), "2026-11-20T03:00:00Z");
    tokio::time::advance(left).await;
    assert!(budget.leave_now(&feed()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn in_peak_hours_fewer_requests_are_sent_and_feeds_are_polled_more_seldom() {
    let calendar = Calendar {
        peak: Some(Peak {
            window: nightly(),
            requests_per_second: NonZeroU32::new(1),
            every: Some(Duration::from_mins(5)),
        }),
        maintenance: Vec::new(),
    };
    let budget = budget(5, 2).keeping(calendar, wall("2026-11-20T01:59:50Z"));
    let (minute, hour) = (Duration::from_mins(1), Duration::from_hours(1));
    assert_eq!(budget.every(minute), minute);
    let mut sent_in = [0, 0];
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        drop(budget.request(None).await.unwrap());
        sent_in[usize::from(began.elapsed() >= Duration::from_secs(10))] += 1;
    }
    assert!(sent_in[0] >= 45 && (9..=12).contains(&sent_in[1]), "{sent_in:?}");
    assert_eq!(budget.every(minute), Duration::from_mins(5));
    assert_eq!(budget.every(hour), hour, "what is slower stays so");
}
