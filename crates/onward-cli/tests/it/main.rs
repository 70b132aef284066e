//! The real binary, against a real `onward dev` and against engine files: output, exit codes, signals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod archive;
mod bench;
mod cache_and_audit;
mod clients;
mod config;
mod crash;
mod deploy;
mod dev;
mod doctor;
mod golden;
mod lock_admin;
mod lock_run;
mod maintain;
mod objects;
mod postgres;
mod redis;
mod replicas;
mod serve;
mod streams;
mod support;
mod surface;
mod token;
mod transfer;
