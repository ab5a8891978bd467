//! The script of brief worlds: blows, limits, and what brokers and what stands in front of the store do.

use std::time::Duration;

use ehr_courier::pipeline::limits::Limits;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{BlowPlan, BrokerShares, How};
use crate::dice::pick;
use crate::life::{Op, Side};
use crate::remembering::DedupPlan;

pub(super) const OPS: [Op; 9] = [
    Op::AcceptPage,
    Op::AcceptPage,
    Op::StagePage,
    Op::ReleaseStage,
    Op::ClaimChanges,
    Op::SettleChanges,
    Op::FanOut,
    Op::ClaimDeliveries,
    Op::RecordAttempts,
];

pub(super) fn broker(dice: &mut StdRng) -> BrokerShares {
    BrokerShares {
        returned: pick(dice, &[0.0, 0.1]),
        nacked: pick(dice, &[0.0, 0.1]),
        lost: pick(dice, &[0.01, 0.05]),
    }
}

pub(super) fn dedup(dice: &mut StdRng) -> DedupPlan {
    pick(
        dice,
        &[
            DedupPlan::Faithful,
            DedupPlan::Evicting(0.2),
            DedupPlan::Evicting(1.0),
            DedupPlan::Flushed(0.1),
            DedupPlan::Away(0.05),
            DedupPlan::Slow(0.3),
        ],
    )
}

pub(super) fn blows(dice: &mut StdRng, rivals: bool) -> Vec<BlowPlan> {
    let count = if rivals || dice.random_bool(0.85) {
        dice.random_range(1..=6)
    } else {
        0
    };
    let count = if rivals { count.min(2) } else { count };
    (0..count)
        .map(|_| BlowPlan {
            how: if !rivals && dice.random_bool(0.12) {
                How::Stop
            } else {
                How::Crash {
                    op: pick(dice, &OPS),
                    nth: dice.random_range(1..=6),
                    side: pick(dice, &[Side::Before, Side::After]),
                }
            },
            at_latest: Duration::from_millis(dice.random_range(4_000..16_000)),
            pause: Duration::from_millis(dice.random_range(0..4_000)),
            reopen: dice.random_bool(0.75),
        })
        .collect()
}

pub(super) fn limits(dice: &mut StdRng, rivals: bool) -> Limits {
    let brief = dice.random_bool(0.3);
    let [ttl, renewal, trust] = if rivals || dice.random_bool(0.5) {
        [6, 2, 4]
    } else {
        [30, 10, 20]
    }
    .map(Duration::from_secs);
    Limits {
        polls: pick(dice, &[1, 3, 64]),
        pages_per_turn: pick(dice, &[1, 3, 20]),
        inbox: pick(dice, &[20, 10_000]),
        log: pick(dice, &[50, 100_000]),
        outbox: pick(dice, &[8, 40, 100_000]),
        fetch_batch: pick(dice, &[2, 16]),
        fan_out_events: pick(dice, &[2, 10, 500]),
        fan_out_rows: pick(dice, &[2, 7, 50, 1_000]),
        in_flight_per_destination: pick(dice, &[2, 8, 64]),
        unrecorded: pick(dice, &[1, 16, 256]),
        retention: if brief {
            Duration::from_secs(10)
        } else {
            Duration::from_hours(168)
        },
        lease_ttl: ttl,
        lease_renewal: renewal,
        lease_trust: trust,
        sweep_every: if brief {
            Duration::from_secs(3)
        } else {
            Duration::from_mins(1)
        },
        ..Limits::default()
    }
}
