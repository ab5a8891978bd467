//! Integration tests: one binary, one module per topic.

#[cfg(test)]
mod config;
#[cfg(test)]
mod notifications;
#[cfg(test)]
mod tidy;
