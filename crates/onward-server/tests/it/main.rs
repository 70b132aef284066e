//! The HTTP surface: the real router in process, and the real listener over TCP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod abuse;
mod access;
mod admin;
mod auth;
mod cache;
mod chains;
mod chores;
mod commit;
mod dev;
mod drain;
mod hostile;
mod limits;
mod locks;
mod metrics;
mod objects;
mod races;
mod serve;
mod support;
mod surface;
mod tls;
mod transfer;
mod watch;
