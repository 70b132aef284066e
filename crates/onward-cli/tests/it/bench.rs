//! `onward bench`: each part under load against the real binary, with the verdict as the exit code.

use crate::support::Home;

fn bench(home: &Home, args: &[&str]) -> serde_json::Value {
    let all = [&["bench"], args, &["--seconds", "1", "--warmup", "0", "--clients", "8", "--seed", "7", "-o", "json"]].concat();
    let said = home.run(&all);
    assert_eq!(said.code, Some(0), "{said:?}");
    said.json()
}

#[test]
fn every_part_keeps_its_promise_under_load() {
    let home = Home::with_server();
    for part in ["lock", "store", "cache", "audit"] {
        let report = bench(&home, &[part, "--strict"]);
        assert_eq!((&report["schema"], &report["verdict"]), (&"onward.bench/1".into(), &"pass".into()), "{report}");
        assert!(
            report["ops"].as_u64() > Some(0) && report["latency_us"]["p99.9"].as_u64() >= report["latency_us"]["p50"].as_u64(),
            "{report}"
        );
        assert_eq!((&report["options"]["seed"], &report["loop"]), (&7.into(), &"closed".into()), "{report}");
    }
}

#[test]
fn without_a_race_the_verdict_is_inconclusive_and_strict_says_no() {
    let home = Home::bare();
    let url = format!("sqlite:{}", home.path("b.db").display());
    let alone = ["bench", "store", "--url", &url, "--seconds", "1", "--warmup", "0", "--clients", "1"];
    assert!(home.expect(0, &alone).contains("INCONCLUSIVE: "));
    home.expect(1, &[&alone[..], &["--strict"]].concat());
}

#[test]
fn a_rate_is_an_open_loop_and_an_earlier_answer_is_compared() {
    let home = Home::bare();
    let report = bench(&home, &["audit", "--rate", "50", "--url", "memory:"]);
    assert_eq!(report["loop"], "open");
    assert!((20..=50).contains(&report["ops"].as_u64().unwrap()), "{report}");
    let old = home.file("old.json", report.to_string());
    let said = home.expect(0, &["bench", "audit", "--url", "memory:", "--seconds", "1", "--warmup", "0", "--compare", &old]);
    assert!(said.contains("to old") && said.contains("rate "), "{said}");
    let other = home.file("other.json", "{}");
    home.expect(2, &["bench", "audit", "--url", "memory:", "--compare", &other]);
}

#[test]
fn a_server_of_another_machine_is_not_loaded_by_accident() {
    let said = Home::bare().run(&["bench", "lock", "--url", "http://192.0.2.1:7337"]);
    assert!(said.code == Some(2) && said.err.contains("--yes"), "{said:?}");
    Home::bare().expect(2, &["bench", "lock", "--clients", "0"]);
    Home::bare().expect(2, &["bench", "lock", "--skew", "-1"]);
}
