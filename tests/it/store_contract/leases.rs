//! Leases and the fence.

use std::time::Duration;

use ehr_courier::domain::delivery::Fence;
use ehr_courier::store::{Lane, LeaseRequest, ReleaseStage, RenewLeases, SettleResult};

use super::Home;
use super::world::*;

fn short(holder: &str) -> LeaseRequest {
    LeaseRequest {
        ttl: Duration::from_secs(30),
        ..lease(holder)
    }
}

pub(super) async fn a_free_connection_is_granted_and_one_held_by_another_is_not(home: &dyn Home) {
    let store = home.open().await;
    assert_eq!(
        store.acquire_lease(&short("one"), at(0)).await.unwrap(),
        Some(Fence(1))
    );
    assert_eq!(store.acquire_lease(&short("two"), at(29)).await.unwrap(), None);
}

pub(super) async fn every_grant_raises_the_fence(home: &dyn Home) {
    let store = home.open().await;
    for fence in 1..=3 {
        let granted = store.acquire_lease(&short("one"), at(0)).await.unwrap();
        assert_eq!(granted, Some(Fence(fence)));
    }
}

pub(super) async fn a_lapsed_or_returned_lease_goes_to_another(home: &dyn Home) {
    let store = home.open().await;
    store.acquire_lease(&short("one"), at(0)).await.unwrap().unwrap();
    let second = store.acquire_lease(&short("two"), at(30)).await.unwrap();
    assert_eq!(second, Some(Fence(2)));
    store.release_lease(&mercy(), Fence(1)).await.unwrap();
    assert_eq!(
        store.acquire_lease(&short("one"), at(31)).await.unwrap(),
        None,
        "not given back by the second"
    );
    store.release_lease(&mercy(), Fence(2)).await.unwrap();
    assert_eq!(
        store.acquire_lease(&short("one"), at(31)).await.unwrap(),
        Some(Fence(3))
    );
}

pub(super) async fn renewing_extends_what_the_holder_still_has_and_nothing_else(home: &dyn Home) {
    let store = home.open().await;
    let renew = async |holder: &str, now| {
        let LeaseRequest { holder, ttl, .. } = short(holder);
        store
            .renew_leases(&RenewLeases { holder, ttl }, now)
            .await
            .unwrap()
    };
    let fence = store.acquire_lease(&short("one"), at(0)).await.unwrap().unwrap();
    assert_eq!(renew("one", at(20)).await, [(mercy(), fence)].into());
    assert_eq!(store.acquire_lease(&short("two"), at(40)).await.unwrap(), None);
    assert_eq!(renew("two", at(40)).await, [].into());
    let next = store.acquire_lease(&short("two"), at(60)).await.unwrap().unwrap();
    assert_eq!(renew("one", at(61)).await, [].into());
    assert_eq!(renew("two", at(61)).await, [(mercy(), next)].into());
    assert!(next > fence);
}

pub(super) async fn every_write_under_an_old_fence_is_refused(home: &dyn Home) {
    let world = World::open(home).await;
    world.define(&[subscription("all")]).await;
    world.poll(vec![version("1", 1), reference("2", 1)]).await;
    world.fan_out_all().await;
    world.poll(vec![version("3", 1)]).await;
    let claimed = world.claim(0).await;
    let taken = world.take(0).await;
    let store = &world.store;
    store.acquire_lease(&lease("one"), at(0)).await.unwrap().unwrap();

    let page = world.page(vec![version("4", 1)], done("c2")).await;
    assert_fenced(&store.accept_page(&page).await);
    assert_fenced(&store.stage_page(&page).await);
    assert_fenced(&store.abandon_poll(&page.poll).await);
    let release = ReleaseStage {
        poll: page.poll.clone(),
        limit: 1,
        context: ehr_courier::store::ContextRule::None,
        unchanged: ehr_courier::store::Unchanged::Tell,
        at: at(0),
    };
    assert_fenced(&store.release_stage(&release).await);
    assert_fenced(&store.claim_changes(&world.claiming(0)).await);
    let settle = world.settling(&claimed[0], SettleResult::Fetched(version("2", 1)));
    assert_fenced(&store.settle_changes(&settle).await);
    let slice = world.cut(&Lane::Common, AMPLE).await;
    assert_fenced(&store.fan_out(&slice).await);
    let recorded = world.record(&taken[0], delivered()).await;
    assert_eq!((recorded.recorded, recorded.fenced), (0, 1));
    assert_eq!(
        world.log().await,
        ["1 1 updated", "3 1 updated"],
        "nothing was written"
    );
}

pub(super) async fn a_restart_ends_the_leases_and_keeps_the_fences(home: &dyn Home) {
    let store = home.open().await;
    store.acquire_lease(&short("one"), at(0)).await.unwrap().unwrap();
    drop(store);
    let store = home.open().await;
    let granted = store.acquire_lease(&short("two"), at(1)).await.unwrap();
    assert_eq!(granted, Some(Fence(2)));
}
