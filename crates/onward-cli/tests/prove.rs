//! `onward prove`: each proof holds, and each can fail.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::{Command, Output};

use serde_json::Value;

fn prove(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onward")).arg("prove").args(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Runs one scenario as a user does; the bug must appear without the protection and not with it.
fn holds(scenario: &str, rounds: &str) {
    let output = prove(&[scenario, "--rounds", rounds, "-o", "json"]);
    let proof = json(&output);
    let shown = &proof["scenarios"][0];
    assert_eq!((output.status.code(), &shown["verdict"]), (Some(0), &Value::from("pass")), "{proof:#}");
    assert!(shown["unprotected"]["bad"].as_u64().unwrap() > 0, "{proof:#}");
    assert!(shown["unprotected"]["example"].is_string(), "{proof:#}");
    assert_eq!(shown["protected"]["bad"], 0, "{proof:#}");
    assert!(shown["protected"]["rounds"].as_u64().unwrap() > 0, "{proof:#}");
    assert!(shown["protected"]["refused"].as_u64().unwrap() > 0, "{proof:#}");
}

/// Takes the protection away from the protected side: the proof must go red.
fn can_fail(scenario: &str, rounds: &str) {
    let output = prove(&[scenario, "--rounds", rounds, "-o", "json", "--remove-protection"]);
    let proof = json(&output);
    let shown = &proof["scenarios"][0];
    assert_eq!((output.status.code(), &shown["verdict"]), (Some(1), &Value::from("fail")), "{proof:#}");
    assert!(shown["protected"]["bad"].as_u64().unwrap() > 0, "{proof:#}");
    assert!(shown["reason"].as_str().unwrap().starts_with("with the protection: "), "{proof:#}");
}

macro_rules! scenarios {
    ($($module:ident: $name:literal, $rounds:literal;)*) => {
        $(mod $module {
            #[test]
            fn appears_without_the_protection_only() {
                super::holds($name, $rounds);
            }

            #[test]
            fn goes_red_when_the_protection_is_removed() {
                super::can_fail($name, $rounds);
            }
        })*
    };
}

scenarios! {
    lost_update: "lost-update", "5";
    lost_create: "lost-create", "20";
    stale_cache: "stale-cache", "10";
    herd: "herd", "2";
    paused_holder: "paused-holder", "2";
    tampering: "tampering", "1";
    blocked_archive: "blocked-archive", "1";
}

#[test]
fn the_answer_has_the_published_shape() {
    let output = prove(&["lost-create", "--rounds", "3", "--seed", "7", "-o", "json"]);
    let proof = json(&output);
    let members = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(members(&proof), ["ms", "scenarios", "schema", "seed", "url", "verdict", "version"]);
    assert_eq!((&proof["schema"], &proof["seed"]), (&Value::from("onward.prove/1"), &Value::from(7)));
    assert_eq!((&proof["url"], &proof["version"]), (&Value::Null, &Value::from(env!("CARGO_PKG_VERSION"))));
    let shown = &proof["scenarios"][0];
    assert_eq!(members(shown), ["claim", "ms", "name", "on", "protected", "unprotected", "verdict"]);
    assert_eq!(members(&shown["unprotected"]), ["bad", "example", "rounds"]);
    assert_eq!(members(&shown["protected"]), ["bad", "refused", "rounds"]);
}

#[test]
fn a_table_shows_both_counts_and_the_seed() {
    let output = prove(&["lost-create", "--rounds", "3", "--seed", "7"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(squeezed.starts_with("seed 7;"), "{text}");
    assert!(squeezed.contains("unprotected 3/3 protected 0/3 ok"), "{text}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "a progress line without a terminal");
}

#[test]
fn what_makes_no_sense_is_usage() {
    for arguments in [
        &["lost-everything"][..],
        &["herd", "--rounds", "0"],
        &["herd", "--rounds", "10001"],
        &["herd", "--seed", "-1"],
        &["blocked-archive", "--entries", "999"],
    ] {
        assert_eq!(prove(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
