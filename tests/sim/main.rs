//! The seeded simulation: whole worlds in simulated time, with faults, crashes and a checker that keeps its own books.
//!
//! `SIM_SEEDS` says how many seeds to run, `SEED` runs one alone. A seed that fails prints the command that repeats it.

#[cfg(test)]
mod book;
#[cfg(test)]
mod checker;
#[cfg(test)]
mod clinic;
#[cfg(test)]
mod clock;
#[cfg(test)]
mod clock_changes;
#[cfg(test)]
mod crashing;
#[cfg(test)]
mod dice;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod life;
#[cfg(test)]
mod long;
#[cfg(test)]
mod naive;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod remembering;
#[cfg(test)]
mod rhythm;
#[cfg(test)]
mod run;
#[cfg(test)]
mod sink;
#[cfg(test)]
mod staff;
#[cfg(test)]
mod world;
