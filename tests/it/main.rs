//! Integration tests: one binary, one module per topic.

#[cfg(test)]
mod config;
