//! Proof on the real binary, real files, real TCP and a real RabbitMQ: killed at random moments under load it loses
//! nothing, invents nothing, keeps each record's order, and repeats only what a kill explains, to two webhooks and to
//! a queue.
//!
//! `CRASH_KILLS` says how often it is killed (default 12), `CRASH_SEED` which sandbox, pauses and refusals are
//! drawn. The checker knows what the source showed and which lives were killed, and each life asks and sends under its
//! own number, so that no clock judges; it shares no code with the courier.

#[cfg(test)]
mod checker;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod courier;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod queue;
#[cfg(test)]
mod receiver;
#[cfg(test)]
mod redis;
#[cfg(test)]
mod source;
#[cfg(test)]
mod terminate;
#[cfg(test)]
mod world;

/// One test at a time: each loads the whole machine, and some measure how long a start takes.
#[cfg(test)]
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Waits for this test's turn.
#[cfg(test)]
fn turn() -> std::sync::MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
