//! What leaves the real binary beside notifications: logs, metrics, traces, tables and errors.

mod canary;
mod credentials;
mod echoes;
mod labels;
mod leaks;
mod readiness;
mod scene;
mod tables;
mod traces;
mod unwritable;
