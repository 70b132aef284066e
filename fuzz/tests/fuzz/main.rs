//! Spoilt input for every parser: `fuzz/README.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a test that cannot go on fails")]

mod chains;
mod client;
mod config;
mod engine;
mod files;
mod requests;
mod text;
