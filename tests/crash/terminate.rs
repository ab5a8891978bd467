//! SIGTERM under load: it drains, nothing is lost, and nothing comes twice.

use std::io::Write as _;
use std::time::Duration;

use ehr_courier::sandbox::Faults;

use crate::checker::Verdict;
use crate::kill::number;
use crate::receiver::Manner;
use crate::world::World;

/// Changes per second.
const PACE: u64 = 60;

/// The longest a drain may take.
const GRACE: Duration = Duration::from_secs(20);

#[test]
fn sigterm_under_load_drains_and_exits_0_with_nothing_lost_and_nothing_twice() {
    let _turn = crate::turn();
    let seed = number("CRASH_SEED", 7);
    let mut world = World::new(
        seed,
        &Faults::default(),
        Manner {
            delay_ms_max: 8,
            refusals: 0.0,
        },
    );
    world.source.set_pace(PACE);
    let mut slowest = Duration::ZERO;
    for life_ms in [1_200, 2_000, 2_900] {
        let life = world.start();
        std::thread::sleep(Duration::from_millis(life_ms));
        let (status, took) = life.terminate(GRACE);
        assert_eq!(status.code(), Some(0), "SIGTERM:\n{}", world.courier.log_tail());
        slowest = slowest.max(took);
    }
    let mut life = world.start();
    world.become_quiet(&mut life);
    let (status, _) = life.terminate(GRACE);
    assert_eq!(status.code(), Some(0));
    let verdicts = world.judge();
    let arrived = World::by_name(&verdicts, Verdict::arrived);
    let (shown, unproven, missed) = world.counts(&verdicts);
    writeln!(
        std::io::stderr(),
        "sigterm: seed {seed}, versions shown {shown} ({unproven} last seen by a courier stopping then, {missed} of them overwritten before the next poll), \
         arrived ({arrived}), slowest drain {slowest:?}"
    )
    .unwrap();
    world.assert_good(seed);
}
