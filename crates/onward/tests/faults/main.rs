//! Faults of the disk under a real process: an fsync that fails, a disk that is full, a folder that is read-only, a power cut (C3).
//!
//! They need strace, mounts or a loop device, so `./test.sh` runs them by name and not `cargo test` by itself. Where a machine cannot do one,
//! the test says `skipped:` and why, and with `CI` set it fails instead, but for the power cut, which needs a superuser.
//!
//! A child is this very test binary, started anew: it writes one commit after the other, and tells what it was answered.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod child;
mod full;
mod life;
#[path = "../it/outside.rs"]
mod outside;
#[cfg(feature = "postgres")]
mod postgres;
mod power;
mod sync;

/// Says why this machine cannot run a test; fails in CI.
#[allow(clippy::print_stdout, reason = "test.sh reads it")]
fn skip(name: &str, why: &str) {
    assert!(!matches!(std::env::var("CI").as_deref(), Ok("1" | "true")), "{name} cannot run: {why}");
    println!("skipped: {name} ({why})");
}

/// Tells whether a command can be run and succeeds.
fn works(command: &str, arguments: &[&str]) -> bool {
    let mut command = std::process::Command::new(command);
    command.args(arguments).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
