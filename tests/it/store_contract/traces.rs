//! The context of a trace goes with its change, by every way that leads to an event.

use ehr_courier::domain::event::Change;
use ehr_courier::domain::trace::TraceContext;
use ehr_courier::store::{Lane, SettleResult};

use super::Home;
use super::world::*;

fn context(byte: u8) -> Option<TraceContext> {
    TraceContext::new([byte; 16], [byte; 8])
}

fn traced(change: Change, byte: u8) -> Change {
    Change {
        trace: context(byte),
        ..change
    }
}

pub(super) async fn a_trace_goes_with_its_change_into_the_event_and_to_the_delivery(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("a")]).await;
    world
        .poll(vec![
            traced(version("1", 1), 1),
            traced(reference("2", 1), 1),
            version("3", 1),
        ])
        .await;
    // Shown again by another poll while it waits: the trace that found it first goes on.
    world.poll_at(60, vec![traced(reference("2", 1), 2)]).await;
    let claimed = world.claim(60).await;
    assert_eq!(claimed[0].change.trace, context(1));
    let fetched = traced(version("2", 1), 1);
    world.settle(&claimed[0], SettleResult::Fetched(fetched)).await;
    world.stage(vec![traced(version("4", 1), 3)]).await;
    world.release(10).await;
    let traces = |id: &'static str, events: &[(String, Option<TraceContext>)]| {
        let found = events.iter().find(|(record, _)| record == id);
        found.and_then(|(_, trace)| *trace)
    };
    let log = world.view(&Lane::Common).await.events;
    let seen: Vec<_> = log
        .iter()
        .map(|event| (event.key.id.to_string(), event.trace))
        .collect();
    assert_eq!(seen.len(), 4);
    for (id, trace) in [
        ("1", context(1)),
        ("2", context(1)),
        ("3", None),
        ("4", context(3)),
    ] {
        assert_eq!(traces(id, &seen), trace, "{id}");
    }
    world.fan_out_all().await;
    let taken = world.take(60).await;
    let seen: Vec<_> = taken
        .iter()
        .map(|one| (one.event.key.id.to_string(), one.event.trace))
        .collect();
    assert_eq!(traces("2", &seen), context(1));
    assert_eq!(traces("3", &seen), None);
}
