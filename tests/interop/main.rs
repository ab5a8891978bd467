//! The courier against FHIR servers that nobody here wrote, while a writer keeps changing their records.
//!
//! A proxy between the two notes what the server showed; the writer notes what it was told it wrote. Every version
//! that was current at a poll must arrive, every record's last version too, nothing else, in order, once: at a webhook
//! and at a real RabbitMQ. What is known to be odd about each server is tested by itself (`traps`): that it is still so,
//! and that the connector gets the right result in spite of it.
//! Not part of `cargo test`: `tests/interop/run` installs the servers, starts a RabbitMQ and runs this.

#[cfg(test)]
mod book;
#[cfg(test)]
#[allow(dead_code, reason = "the crash tests use more of it")]
#[path = "../crash/checker.rs"]
mod checker;
#[cfg(test)]
#[allow(dead_code, reason = "the crash tests use more of it")]
#[path = "../crash/courier.rs"]
mod courier;
#[cfg(test)]
#[allow(dead_code, reason = "the crash tests use more of it")]
#[path = "../crash/journal.rs"]
mod journal;
#[cfg(test)]
mod judge;
#[cfg(test)]
mod proxy;
#[cfg(test)]
#[path = "../crash/queue.rs"]
mod queue;
#[cfg(test)]
#[allow(dead_code, reason = "the crash tests use more of it")]
#[path = "../crash/receiver.rs"]
mod receiver;
#[cfg(test)]
mod run;
#[cfg(test)]
mod server;
#[cfg(test)]
mod traps;
#[cfg(test)]
mod writer;
