//! Archives in a bucket, from the command line.

use std::process::Command;

use onward::testing::servers::{Bucket, Spoilt};

use crate::support::{Home, Said};

const URL: &str = "sqlite:./onward.db";

/// The configuration, as a file for a server and as variables for commands.
fn configured(home: &Home, bucket: &Bucket) -> [(&'static str, String); 3] {
    let (key, signing, archive) = ("07".repeat(32), "05".repeat(32), bucket.url());
    let text = format!("[store]\nurl = \"{URL}\"\n\n[audit]\nkey = \"{key}\"\nsigning_key = \"{signing}\"\narchive = \"{archive}\"\n");
    home.file("onward.toml", text);
    [("ONWARD__AUDIT__KEY", key), ("ONWARD__AUDIT__SIGNING_KEY", signing), ("ONWARD__AUDIT__ARCHIVE", archive)]
}

/// Runs a command as somebody who may use the bucket; what it says shows no secret of his.
async fn run(home: &Home, variables: &[(&str, String)], args: &[&str]) -> Said {
    let mut command: Command = home.command(args);
    command.envs(Bucket::environment()).envs(variables.iter().cloned());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = Said { code: output.status.code(), out: output.stdout, err: String::from_utf8_lossy(&output.stderr).into_owned() };
    assert!(!Bucket::shows_secrets(&format!("{said:?}")), "{said:?}");
    said
}

#[tokio::test]
async fn a_trail_is_archived_purged_verified_and_restored_in_a_bucket() {
    let (bucket, home) = (Bucket::start().await, Home::bare());
    let variables = configured(&home, &bucket);
    let expect = async |args: &[&str]| {
        let said = run(&home, &variables, &[&["--url", URL, "audit"], args].concat()).await;
        assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
        said.text()
    };
    for _ in 0..3 {
        expect(&["append", "orders", "--kind", "order.paid"]).await;
    }
    expect(&["seal", "orders", "--reason", "retention"]).await;
    expect(&["archive", "orders", "1", "--reason", "retention"]).await;
    expect(&["purge", "orders", "1", "--reason", "retention", "--yes"]).await;
    expect(&["verify", "orders", "--deep"]).await;
    let names: Vec<String> = bucket.files().into_keys().collect();
    for part in ["/entries.ndjson.zst", "/verify.py", "/checkpoints/"] {
        assert!(names.iter().any(|name| name.contains(part)), "{part}: {names:?}");
    }
    expect(&["restore", "orders", "1", "--reason", "case 4711"]).await;
    assert!(expect(&["query", "orders", "-o", "jsonl"]).await.contains("order.paid"));
    // Somebody whom the bucket does not know.
    let nobody = [&variables[..], &[("AWS_SESSION_TOKEN", "another".to_owned())]].concat();
    let said = run(&home, &nobody, &["--url", URL, "audit", "verify", "orders", "--deep"]).await;
    assert!(said.code == Some(2) && said.err.contains("403 Forbidden"), "{said:?}");
}

#[tokio::test]
async fn a_server_does_not_start_over_a_bucket_that_ignores_conditions_and_does_over_one_that_is_away() {
    let (bucket, home) = (Bucket::start().await, Home::bare());
    let variables = configured(&home, &bucket);
    let append = ["--url", URL, "audit", "append", "orders", "--kind", "order.paid"];
    assert_eq!(run(&home, &variables, &append).await.code, Some(0));
    bucket.spoil(Spoilt { ignores_conditions: true, ..Spoilt::default() });
    for args in [&["serve", "--config", "onward.toml"][..], &["config", "check", "--config", "onward.toml"]] {
        let said = run(&home, &[], args).await;
        assert_ne!(said.code, Some(0), "{args:?}: {said:?}");
        assert!(said.err.contains("ignores If-None-Match"), "{args:?}: {said:?}");
    }
    bucket.spoil(Spoilt { is_away: true, ..Spoilt::default() });
    assert_eq!(run(&home, &[], &["config", "check", "--config", "onward.toml"]).await.code, Some(0));
    assert_eq!(run(&home, &variables, &append).await.code, Some(0));
}
