//! The table of metrics against everything that is made from it or names it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use onward_server::{METRICS, Metric, MetricKind};
use serde_json::{Value, json};

use crate::support::Client;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The names that a query may use.
fn scraped() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for metric in METRICS {
        match metric.kind {
            MetricKind::Histogram => names.extend(["_bucket", "_sum", "_count"].map(|part| format!("{}{part}", metric.name))),
            _ => drop(names.insert(metric.name.to_owned())),
        }
    }
    names
}

/// A server on which everything happened once.
async fn busy() -> String {
    let client = Client::memory().await;
    client.put("/v1/objects/doc/secret-name", ("if-none-match", "*"), "1").await;
    client.put("/v1/objects/doc/secret-name", ("if-none-match", "*"), "1").await;
    client.post("/v1/locks/secret-key", json!({"ttl_ms": 60_000})).await;
    client.post("/v1/locks/secret-key", json!({"ttl_ms": 60_000})).await;
    let ran = client.onward.locks().scope("eu-1").run("projects", "secret-id", |_| async {}).await.unwrap();
    assert!(matches!(ran, onward::lock::Outcome::Ran(())));
    client.post("/v1/chains/secret-chain/entries", json!({"entries": [{"kind": "k", "event_id": "e"}]})).await;
    client.post("/v1/chains/secret-chain/entries", json!({"entries": [{"kind": "k", "event_id": "e"}]})).await;
    client.post("/v1/chains/secret-chain/verify", json!({})).await;
    client.post("/v1/chains/none/verify", json!({})).await;
    let miss = client.get("/v1/cache/web/secret-row").await;
    client.send("PUT", "/v1/cache/web/secret-row", &[("onward-fill", miss.header("onward-fill"))], "1").await;
    client.get("/v1/cache/web/secret-row").await;
    client.send("DELETE", "/v1/cache/web/secret-row", &[], "").await;
    drop(client.events("/v1/watch", &[]).await);
    client.get("/v1/nowhere").await;
    client.raw(http::Request::builder().uri("/v1/info").body(axum::body::Body::empty()).unwrap()).await.is_problem(401, "unauthenticated");
    client.get("/v1/info").await;
    String::from_utf8(client.get("/metrics").await.body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_scrape_shows_the_table_and_nothing_else() {
    let text = busy().await;
    let shown: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let table: BTreeMap<&str, &str> = METRICS.iter().map(|m| (m.name.trim_end_matches("_total"), m.kind.as_str())).collect();
    assert_eq!(shown, table);
    assert!(!text.contains("secret"), "no label holds what a caller wrote");
}

#[tokio::test]
async fn every_label_has_a_value_of_the_table() {
    let mut seen = BTreeSet::new();
    for line in busy().await.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        assert!(scraped().contains(name), "{line}");
        let metric = METRICS.iter().find(|m| name == m.name || name.rsplit_once('_').is_some_and(|(base, _)| base == m.name)).unwrap();
        for label in labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty()) {
            let (label, value) = label.split_once("=\"").unwrap();
            let value = value.trim_end_matches('"');
            if label == "le" {
                continue;
            }
            let (_, values) = metric.labels.iter().find(|(known, _)| *known == label).unwrap_or_else(|| panic!("{line}"));
            assert!(values.is_empty() || values.contains(&value), "{line}");
            seen.insert(format!("{name} {label}={value}"));
        }
    }
    for wanted in [
        "onward_commit_total outcome=conflict",
        "onward_audit_append_duration_seconds_count result=replayed",
        "onward_audit_verify_total verdict=failed",
        "onward_engine_up part=locks",
        "onward_lock_attempts_total outcome=contended",
        "http_server_request_duration_seconds_count route=none",
    ] {
        assert!(seen.contains(wanted), "{wanted}: {seen:#?}");
    }
}

#[tokio::test]
async fn what_is_counted_is_what_happened() {
    let text = busy().await;
    for line in [
        r#"onward_commit_total{outcome="conflict"} 1"#,
        r#"onward_commit_total{outcome="fenced"} 0"#,
        r#"onward_audit_append_duration_seconds_count{result="replayed"} 1"#,
        r#"onward_audit_verify_total{verdict="ok"} 1"#,
        r#"onward_audit_verify_total{verdict="broken"} 0"#,
        r#"onward_engine_up{part="store",engine="memory"} 1"#,
        r#"onward_cache_fills_total{result="stored"} 1"#,
        r#"onward_auth_total{result="refused"} 1"#,
        "onward_commit_queue 0",
        "onward_panics_total 0",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
    let verified = text.lines().find_map(|line| line.strip_prefix("onward_audit_last_verify_timestamp_seconds ")).unwrap();
    assert!(verified.parse::<f64>().unwrap() > 1.7e9, "{verified}");
}

fn page() -> String {
    let mut out = String::from(
        "# Metrics\n\nWhat `GET /metrics` shows, in the OpenMetrics text format. It asks for a token of any role. Labels come from closed or configured sets, \
         never from a key, a\nname or a token. This page is made from the table in `crates/onward-server/src/metrics.rs`; a test fails when the two differ.\n\n\
         | metric | type | labels | what it tells |\n|---|---|---|---|\n",
    );
    for Metric { name, kind, labels, help } in METRICS {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, values)| if values.is_empty() { format!("`{label}`") } else { format!("`{label}`: {}", values.join(", ")) })
            .collect();
        let _ = writeln!(out, "| `{name}` | {} | {} | {help} |", kind.as_str(), labels.join("; "));
    }
    out
}

#[test]
fn the_page_of_metrics_is_the_table() {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("metrics.md");
    std::fs::write(&made, page()).unwrap();
    assert!(read("docs/metrics.md") == page(), "docs/metrics.md is not the table: cp {} docs/metrics.md", made.display());
}

/// The words of a query that look like metrics.
fn named(query: &str) -> BTreeSet<&str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| ["onward_", "http_server_", "db_client_"].iter().any(|start| word.starts_with(start))).collect()
}

#[test]
fn the_dashboard_shows_every_metric_and_no_other() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/onward.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries: Vec<&str> =
        panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten()).map(|t| t["expr"].as_str().unwrap()).collect();
    let known = scraped();
    let mut shown = BTreeSet::new();
    for name in queries.iter().flat_map(|query| named(query)) {
        assert!(known.contains(name), "{name}");
        shown
            .insert(METRICS.iter().find(|m| m.name == name || name.rsplit_once('_').is_some_and(|(base, _)| base == m.name)).unwrap().name);
    }
    assert_eq!(shown, METRICS.iter().map(|m| m.name).collect());
    let variable = dashboard["templating"]["list"][1]["query"]["query"].as_str().unwrap();
    assert!(named(variable).iter().all(|name| known.contains(*name)));
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
}

#[test]
fn the_alerts_name_metrics_that_exist_and_each_is_tested_and_explained() {
    let (rules, tests, page) =
        (read("deploy/prometheus/alerts.yml"), read("deploy/prometheus/alerts.test.yml"), read("docs/operations.md"));
    let known = scraped();
    for name in named(&rules).into_iter().chain(named(&tests)) {
        assert!(known.contains(name), "{name}");
    }
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        for what in ["quiet", "fires"] {
            assert!(tests.contains(&format!("- name: {alert} {what}\n")), "{alert} {what}");
        }
        assert!(page.contains(&format!("### {alert}\n")), "{alert} has no section in docs/operations.md");
        assert!(rules.contains(&format!("runbook: docs/operations.md#{}\n", alert.to_ascii_lowercase())), "{alert}");
    }
    // A label value that no metric takes would never fire.
    for values in rules.split("outcome").skip(1).chain(rules.split("result").skip(1)).chain(rules.split("verdict").skip(1)) {
        let Some(values) = values.trim_start_matches(['=', '~']).strip_prefix('"').and_then(|rest| rest.split('"').next()) else {
            continue;
        };
        for value in values.split('|') {
            let closed = METRICS.iter().flat_map(|m| m.labels).any(|(_, values)| values.contains(&value));
            let of_locks = METRICS.iter().any(|m| m.name == "onward_lock_attempts_total" && m.help.contains(value));
            assert!(closed || of_locks, "{value}");
        }
    }
}
