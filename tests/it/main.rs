//! The integration tests: one binary, one module a subject.

#[cfg(test)]
mod amqp;
#[cfg(test)]
mod at_rest;
#[cfg(test)]
mod auth;
#[cfg(test)]
mod backfilling;
#[cfg(test)]
mod bad_connection;
#[cfg(test)]
mod command_line;
#[cfg(test)]
mod composed;
#[cfg(test)]
mod config;
#[cfg(test)]
mod egress;
#[cfg(test)]
mod face;
#[cfg(test)]
mod failure_modes;
#[cfg(test)]
mod fairness;
#[cfg(test)]
mod history;
#[cfg(test)]
mod hostile_answers;
#[cfg(test)]
mod kindness;
#[cfg(test)]
mod known_versions;
#[cfg(test)]
mod notifications;
#[cfg(test)]
mod operating;
#[cfg(test)]
mod reconciling;
#[cfg(test)]
mod redis;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod schema_migration;
#[cfg(test)]
mod smart;
#[cfg(test)]
mod store_contract;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod watching;
#[cfg(test)]
mod whole_histories;
#[cfg(test)]
mod wrong_dates;
