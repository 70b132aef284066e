use http_body_util::BodyExt as _;
use onward::Onward;
use onward_server::Limits;
use serde_json::json;
use tower::ServiceExt as _;

use crate::support::{Client, soon};

async fn on_file() -> (Client, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::on(&format!("sqlite:{}", folder.path().join("o.db").display())).await;
    (client, folder)
}

async fn fill(client: &Client, count: u32) {
    for n in 0..count {
        client.put(&format!("/v1/objects/doc/n{n}"), ("if-none-match", "*"), "1").await;
    }
}

#[tokio::test]
async fn a_compacted_log_says_so_and_objects_stay() {
    let (client, _folder) = on_file().await;
    fill(&client, 5).await;
    assert_eq!(client.post("/v1/admin/compact", json!({"up_to": 3})).await.json(), json!({"compacted": 3}));
    assert_eq!(client.post("/v1/admin/compact", json!({"up_to": 1})).await.json(), json!({"compacted": 3}), "it never goes back");
    let gone = client.get("/v1/watch?from=2").await.is_problem(410, "cursor_compacted");
    assert_eq!((&gone["oldest"], &gone["newest"]), (&json!(3), &json!(9)), "five objects, and two entries for each act");
    assert_eq!(client.get("/v1/objects/doc/n0").await.status, 200);
    // Beyond the newest is up to the newest, the entry that this begins among it.
    assert_eq!(client.post("/v1/admin/compact", json!({"up_to": 99})).await.json(), json!({"compacted": 10}));
    for bad in [json!({}), json!({"up_to": -1}), json!({"up_to": 1.5}), json!({"up_to": "x"}), json!({"up_to": 1, "force": true})] {
        client.post("/v1/admin/compact", bad).await.is_problem(400, "invalid_request");
    }
    client.post("/v1/admin/compact?now=true", json!({"up_to": 3})).await.is_problem(400, "invalid_request");
}

#[tokio::test]
async fn a_backup_is_streamed_and_opens_as_a_store_of_its_own() {
    let (client, folder) = on_file().await;
    fill(&client, 3).await;
    let reply = client.get("/v1/admin/backup").await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/vnd.sqlite3"));
    assert_eq!(reply.header("content-length"), reply.body.len().to_string());
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.contains("backup")), "{left:?}");
    let copy = folder.path().join("copy.db");
    std::fs::write(&copy, &reply.body).unwrap();
    let restored = Onward::open(&format!("sqlite:{}", copy.display())).await.unwrap().store();
    assert_eq!(restored.get::<u32>(("doc", "n2")).await.unwrap().unwrap().value, 1);
    let epochs = [restored.queue().engine().meta().await.unwrap(), client.onward.store().queue().engine().meta().await.unwrap()];
    assert_ne!(epochs[0].epoch, epochs[1].epoch);
    // A caller names no place.
    client.get("/v1/admin/backup?path=/tmp/x").await.is_problem(400, "invalid_request");
    Client::memory().await.get("/v1/admin/backup").await.is_problem(501, "unsupported");
}

#[tokio::test]
async fn a_check_finds_what_contradicts_itself() {
    let (client, folder) = on_file().await;
    fill(&client, 3).await;
    let failed = async || {
        let found = client.get("/v1/admin/check").await.json();
        let bad = found["findings"].as_array().unwrap().iter().filter(|finding| finding["grade"] == "fail");
        bad.map(|finding| finding["check"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(failed().await, [""; 0]);
    let file = rusqlite::Connection::open(folder.path().join("o.db")).unwrap();
    file.execute_batch("DELETE FROM onward_changes WHERE id / 256 = 2; UPDATE onward_objects SET revision = 9 WHERE name = 'n0'").unwrap();
    assert_eq!(failed().await, ["store.objects", "store.log"]);
    assert_eq!(Client::memory().await.get("/v1/admin/check").await.json(), json!({"findings": []}));
}

#[tokio::test]
async fn work_on_a_whole_store_takes_a_place_among_the_waits() {
    let client = Client::limited(Limits { waits: 0, ..Limits::default() }).await;
    client.get("/v1/admin/check").await.is_problem(503, "overloaded");
    client.post("/v1/admin/compact", json!({"up_to": 1})).await.is_problem(503, "overloaded");
}

#[tokio::test]
async fn a_revoked_token_gets_no_more_of_a_download() {
    let (client, _folder) = on_file().await;
    // More than the pieces on their way hold.
    for n in 0..40 {
        let big = format!("\"{}\"", "x".repeat(50_000));
        assert_eq!(client.put(&format!("/v1/objects/doc/big{n}"), ("if-none-match", "*"), &big).await.status, 201);
    }
    let (id, admin) = client.token("admin", &["*"]).await;
    let request = http::Request::builder().uri("/v1/admin/backup").header("authorization", admin.bearer());
    let reply = admin.router.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
    let length: u64 = reply.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let mut body = reply.into_body();
    let first = soon(body.frame()).await.unwrap().unwrap().into_data().unwrap();
    let revoked = client.send("DELETE", &format!("/v1/admin/tokens/{id}"), &[("onward-reason", "left")], "").await;
    assert_eq!(revoked.json()["outcome"], "revoked");
    let (mut got, mut cut) = (first.len() as u64, false);
    while let Some(frame) = soon(body.frame()).await {
        match frame {
            Ok(frame) => got += frame.into_data().unwrap().len() as u64,
            Err(_) => cut = true,
        }
    }
    assert!(cut && got < length, "{got} of {length}");
}

#[tokio::test]
async fn the_entry_of_an_act_has_a_time_of_its_own() {
    let (client, _folder) = on_file().await;
    for _ in 0..20 {
        let headers = [("onward-reason", "x"), ("onward-timeout-ms", "1")];
        let done = client.send("DELETE", "/v1/cache/web", &headers, "").await;
        assert_eq!((done.status.as_u16(), done.json()), (200, json!({"outcome": "flushed"})));
    }
}
