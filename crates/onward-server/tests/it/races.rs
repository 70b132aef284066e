use serde_json::Value;

use crate::support::Client;

async fn racing(count: usize, one: impl AsyncFn(usize) -> u16 + Clone + 'static) -> Vec<u16> {
    let local = tokio::task::LocalSet::new();
    let tasks: Vec<_> = (0..count)
        .map(|n| {
            let one = one.clone();
            local.spawn_local(async move { one(n).await })
        })
        .collect();
    local.await;
    let mut statuses = Vec::new();
    for task in tasks {
        statuses.push(task.await.unwrap());
    }
    statuses
}

fn count(statuses: &[u16], status: u16) -> usize {
    statuses.iter().filter(|one| **one == status).count()
}

#[tokio::test]
async fn of_racing_replacements_of_one_version_exactly_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::on(&format!("sqlite:{}", folder.path().join("o.db").display())).await;
    client.put("/v1/objects/doc/a", ("if-none-match", "*"), "0").await;
    let to = client.clone();
    let statuses =
        racing(64, async move |n| to.put("/v1/objects/doc/a", ("if-match", "\"1\""), &(n + 1).to_string()).await.status.as_u16()).await;
    assert_eq!((count(&statuses, 200), count(&statuses, 412)), (1, 63));
    assert_eq!(client.get("/v1/objects/doc/a").await.header("etag"), "\"2\"");
}

#[tokio::test]
async fn of_racing_creates_exactly_one_wins() {
    let client = Client::memory().await;
    let to = client.clone();
    let statuses =
        racing(64, async move |n| to.put("/v1/objects/doc/a", ("if-none-match", "*"), &n.to_string()).await.status.as_u16()).await;
    assert_eq!((count(&statuses, 201), count(&statuses, 412)), (1, 63));
}

#[tokio::test]
async fn racing_sends_of_one_request_id_happen_once() {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::on(&format!("sqlite:{}", folder.path().join("o.db").display())).await;
    let to = client.clone();
    let statuses = racing(32, async move |_| {
        let headers = [("content-type", "application/json"), ("if-none-match", "*"), ("idempotency-key", "once")];
        let reply = to.send("PUT", "/v1/objects/doc/a", &headers, "1").await;
        assert_eq!(reply.json()["version"], 1);
        reply.status.as_u16()
    })
    .await;
    assert_eq!(count(&statuses, 201), 32);
    assert_eq!(client.get("/v1/objects/doc").await.json()["revision"], 1);
}

#[tokio::test]
async fn counters_that_many_clients_raise_lose_no_increment() {
    let client = Client::memory().await;
    client.put("/v1/objects/doc/n", ("if-none-match", "*"), "0").await;
    let to = client.clone();
    racing(8, async move |_| {
        for _ in 0..10 {
            let mut current = to.get("/v1/objects/doc/n").await;
            loop {
                let next = current.json().as_u64().unwrap() + 1;
                let tag = current.header("etag").to_owned();
                let reply = to.put("/v1/objects/doc/n", ("if-match", &tag), &next.to_string()).await;
                if reply.status == 200 {
                    break;
                }
                let problem: Value = reply.is_problem(412, "version_conflict");
                assert!(problem["current"]["payload"].as_u64() >= Some(next), "the refusal shows what was missed");
                current = to.get("/v1/objects/doc/n").await;
            }
        }
        200
    })
    .await;
    assert_eq!(&client.get("/v1/objects/doc/n").await.body[..], b"80");
}
