//! Public behaviour of the library, and the conformance suite on every engine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod audit;
mod backup;
mod bounds;
mod cache;
mod crash;
mod files;
mod guarded;
mod guarded_steps;
mod histories;
mod house;
mod lock;
mod observe;
mod outside;
mod own_table;
mod planted;
mod postgres;
mod postgres_schema;
mod redis;
mod schema;
mod schema_processes;
mod store;
mod store_model;
