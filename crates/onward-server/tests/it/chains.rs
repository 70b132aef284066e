use onward::model::merkle::Frontier;
use serde_json::{Value, json};

use crate::support::Client;

const ENTRIES: &str = "/v1/chains/orders/entries";

#[tokio::test]
async fn entries_are_appended_once_and_read_back() {
    let client = Client::memory().await;
    let one = json!({"entries": [{"kind": "order.made", "actor": "user:7", "resource": "order:1", "data": {"b": [1], "a": "x"}, "event_id": "e1"}]});
    let reply = client.post(ENTRIES, one.clone()).await;
    assert_eq!(reply.status, 201, "{:?}", reply.body);
    let receipt = reply.json()["receipts"][0].clone();
    assert_eq!((&receipt["seq"], &receipt["event_id"], &receipt["replayed"]), (&json!(2), &json!("e1"), &json!(false)));
    let again = client.post(ENTRIES, one).await.json()["receipts"][0].clone();
    assert_eq!((&again["seq"], &again["hash"], &again["replayed"]), (&json!(2), &receipt["hash"], &json!(true)));
    client.post(ENTRIES, json!({"entries": [{"kind": "order.lost", "event_id": "e1"}]})).await.is_problem(422, "request_id_reused");
    let entry = client.get(&format!("{ENTRIES}/2")).await.json();
    assert_eq!((&entry["hash"], &entry["data"], &entry["actor"]), (&receipt["hash"], &json!(r#"{"a":"x","b":[1]}"#), &json!("dev/user:7")));
    let head = client.get("/v1/chains/orders").await.json();
    assert_eq!((&head["head"]["seq"], &head["head"]["hash"]), (&json!(2), &receipt["hash"]));
    assert_eq!(client.get("/v1/chains").await.json()["items"][0], head);
}

#[tokio::test]
async fn many_entries_go_whole_under_one_request_id() {
    let client = Client::memory().await;
    let body = json!({"entries": [{"kind": "a", "data_text": " raw "}, {"kind": "b", "data_base64": "/wA="}, {"kind": "c"}]}).to_string();
    let headers = [("content-type", "application/json"), ("idempotency-key", "batch-1")];
    let first = client.send("POST", ENTRIES, &headers, body.clone()).await.json();
    assert_eq!((&first["receipts"][0]["event_id"], &first["receipts"][2]["seq"]), (&json!("dev/batch-1/0"), &json!(4)));
    let again = client.send("POST", ENTRIES, &headers, body).await.json();
    assert_eq!((&again["receipts"][2]["seq"], &again["receipts"][2]["replayed"]), (&json!(4), &json!(true)));
    assert_eq!(client.get(&format!("{ENTRIES}/2")).await.json()["data"], " raw ");
    assert_eq!(client.get(&format!("{ENTRIES}/3")).await.json()["data_base64"], "/wA=");
    let actor = client.get(&format!("{ENTRIES}/4")).await.json()["actor"].clone();
    assert_eq!(actor, "dev", "the token's name");
}

#[tokio::test]
async fn a_query_goes_page_by_page() {
    let client = Client::memory().await;
    for n in 0..5 {
        client.post(ENTRIES, json!({"entries": [{"kind": if n % 2 == 0 { "even" } else { "odd" }}]})).await;
    }
    let mut seqs = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = client.get(&format!("{ENTRIES}?kind=even&order=desc&limit=2{cursor}")).await.json();
        seqs.extend(page["items"].as_array().unwrap().iter().map(|item| item["seq"].as_u64().unwrap()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seqs, [6, 4, 2]);
    let first = client.get(&format!("{ENTRIES}?limit=1")).await.json()["next_cursor"].as_str().unwrap().to_owned();
    client.get(&format!("{ENTRIES}?limit=1&kind=odd&cursor={first}")).await.is_problem(400, "invalid_cursor");
    for bad in ["order=up", "from_seq=0", "since=now", "limit=0", "knid=x"] {
        client.get(&format!("{ENTRIES}?{bad}")).await.is_problem(400, "invalid_request");
    }
    client.get("/v1/chains/none/entries").await.is_problem(404, "not_found");
    client.get("/v1/chains/none").await.is_problem(404, "not_found");
    client.get(&format!("{ENTRIES}/99")).await.is_problem(404, "not_found");
    client.get("/v1/chains/Orders").await.is_problem(400, "invalid_key");
    client.post("/v1/chains/onward.admin/entries", json!({"entries": [{"kind": "a"}]})).await.is_problem(403, "forbidden");
}

#[tokio::test]
async fn a_tail_resumes_behind_the_last_event() {
    let client = Client::memory().await;
    let append = |kind: &'static str| {
        let client = client.clone();
        async move { client.post(ENTRIES, json!({"entries": [{"kind": kind}]})).await }
    };
    append("a").await;
    let mut tail = client.events(&format!("{ENTRIES}?from_seq=1"), &[("accept", "text/event-stream")]).await;
    assert_eq!(tail.next_of("entry").await.id, Some(1));
    assert_eq!(tail.next_of("entry").await.data["kind"], "a");
    drop(tail);
    append("b").await;
    let mut tail = client.events(ENTRIES, &[("accept", "text/event-stream"), ("last-event-id", "2")]).await;
    assert_eq!(tail.next_of("entry").await.data["kind"], "b");
    append("c").await;
    assert_eq!(tail.next_of("entry").await.id, Some(4));
}

#[tokio::test]
async fn a_chain_is_verified_also_against_a_head_saved_outside() {
    let client = Client::memory().await;
    client.post(ENTRIES, json!({"entries": [{"kind": "a"}, {"kind": "b"}]})).await;
    let report = client.send("POST", "/v1/chains/orders/verify", &[], "").await.json();
    assert_eq!((&report["verdict"], &report["to_seq"]), (&json!("ok"), &json!(3)));
    let kept = client.get("/v1/chains/orders").await.json();
    assert_eq!((&kept["last_verdict"]["verdict"], &kept["last_verdict"]["to_seq"]), (&json!("ok"), &json!(3)), "{kept}");
    let saved = |size: u64, hash: &Value, tree: &Frontier| {
        json!({"onward": "saved-head", "v": 1, "chain": "orders", "origin": report["origin"], "size": size, "hash": hash, "root": tree.root(), "frontier": tree, "saved_at": "2026-01-01T00:00:00Z"}).to_string()
    };
    let tree: Frontier = serde_json::from_value(report["frontier"].clone()).unwrap();
    let head = saved(3, &report["hash"], &tree);
    client.post(ENTRIES, json!({"entries": [{"kind": "c"}]})).await;
    let newer = client.post("/v1/chains/orders/verify", json!({"checkpoint": head, "incremental": true})).await.json();
    assert_eq!((&newer["verdict"], &newer["rows_hashed"], &newer["attested_to"]), (&json!("ok"), &json!(1), &json!(3)), "{newer}");
    client.post("/v1/chains/orders/verify", json!({"incremental": true})).await.is_problem(400, "invalid_request");
    let head = saved(9, &report["hash"], &Frontier::from_bytes(9, &[7; 64]).unwrap());
    let report = client.post("/v1/chains/orders/verify", json!({"checkpoint": head})).await.json();
    assert_eq!((&report["verdict"], &report["findings"][0]["code"]), (&json!("broken"), &json!("TRUNCATED")));
    let kept = client.get("/v1/chains/orders").await.json();
    assert_eq!((&kept["last_verdict"]["verdict"], &kept["last_verdict"]["finding"]), (&json!("broken"), &json!("TRUNCATED")), "{kept}");
    client.post("/v1/chains/orders/verify", json!({"depth": "deep"})).await.is_problem(400, "invalid_request");
    client.post("/v1/chains/orders/verify", json!({"checkpoint": "x"})).await.is_problem(400, "invalid_request");
    client.post("/v1/chains/none/verify", json!({})).await.is_problem(404, "not_found");
}

#[tokio::test]
async fn bad_entries_are_refused_with_their_place() {
    let client = Client::memory().await;
    let many: Vec<_> = (0..129).map(|_| json!({"kind": "a"})).collect();
    for (entries, pointer) in [
        (json!([{"kind": "a"}, {"kind": "chain.created"}]), "/entries/1/kind"),
        (json!([{"kind": "a", "actor": "a\nb"}]), "/entries/0/actor"),
        (json!([{"kind": "a", "event_id": "1"}, {"kind": "b"}]), "/entries/0/event_id"),
        (json!([{"kind": "a", "data_base64": "x"}]), "/entries/0/data_base64"),
        (json!([]), "/entries"),
    ] {
        let problem = client.post(ENTRIES, json!({"entries": entries})).await.is_problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    client.post(ENTRIES, json!({"entries": many})).await.is_problem(400, "invalid_request");
    client.get("/v1/chains/orders").await.is_problem(404, "not_found");
}

/// Appends entries of data, a hundred at a time.
async fn append_many(client: &Client, count: usize, bytes: usize) {
    for _ in 0..count.div_ceil(100) {
        let entry = json!({"kind": "order.made", "actor": "user:7", "data_text": "x".repeat(bytes)});
        let entries: Vec<Value> = std::iter::repeat_n(entry, count.min(100)).collect();
        assert_eq!(client.post(ENTRIES, json!({ "entries": entries })).await.status, 201);
    }
}

#[tokio::test]
async fn an_export_is_a_file_that_the_library_verifies() {
    let client = Client::memory().await;
    append_many(&client, 300, 1_000).await;
    let reply = client.get("/v1/chains/orders/export").await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/x-ndjson"));
    let verify = |file: &[u8]| {
        let keys = onward::model::MacKeys::none();
        onward::audit::verify_export(file, &onward::audit::verify::Check::default(), &keys, &mut |_| std::ops::ControlFlow::Continue(()))
            .unwrap()
    };
    let report = verify(&reply.body);
    assert_eq!((report.exit(), report.from_seq, report.to_seq), (0, 1, 301), "{report}");
    let part = verify(&client.get("/v1/chains/orders/export?from_seq=100&to_seq=200").await.body);
    assert_eq!((part.exit(), part.from_seq, part.to_seq), (0, 100, 200), "{part}");
    client.get("/v1/chains/none/export").await.is_problem(404, "not_found");
    for bad in ["from_seq=0", "from_seq=9&to_seq=8", "to_seq=302", "from_seq=x", "limit=5"] {
        client.get(&format!("/v1/chains/orders/export?{bad}")).await.is_problem(400, "invalid_request");
    }
    client.get("/v1/chains/onward.x/export").await.is_problem(404, "not_found");
}

#[tokio::test]
async fn all_entries_that_match_stream_as_lines() {
    let client = Client::memory().await;
    append_many(&client, 250, 10).await;
    client.post(ENTRIES, json!({"entries": [{"kind": "order.lost"}]})).await;
    let lines = async |query: &str| -> Vec<Value> {
        let reply = client.send("GET", &format!("{ENTRIES}?{query}"), &[("accept", "application/x-ndjson")], "").await;
        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/x-ndjson"));
        std::str::from_utf8(&reply.body).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = lines("").await;
    let seqs: Vec<u64> = all.iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=302).collect::<Vec<u64>>());
    assert_eq!(all[5], client.get(&format!("{ENTRIES}/6")).await.json());
    assert_eq!(lines("kind=order.lost&order=desc").await[0]["seq"], 302);
    assert_eq!(lines("from_seq=10&to_seq=12&order=desc").await.iter().map(|e| e["seq"].clone()).collect::<Vec<_>>(), [12, 11, 10]);
    assert_eq!(lines("kind=none").await, Vec::<Value>::new());
    for bad in ["limit=5", "cursor=x", "order=up"] {
        let reply = client.send("GET", &format!("{ENTRIES}?{bad}"), &[("accept", "application/x-ndjson")], "").await;
        reply.is_problem(400, "invalid_request");
    }
    let none = client.send("GET", "/v1/chains/none/entries", &[("accept", "application/x-ndjson")], "").await;
    none.is_problem(404, "not_found");
}

#[tokio::test]
async fn checkpoints_and_proofs_are_read_and_checked() {
    let client = Client::memory().await;
    client.get("/v1/chains/orders/proofs?seq=1").await.is_problem(404, "not_found");
    client.post(ENTRIES, json!({"entries": [{"kind": "a"}, {"kind": "b"}]})).await;
    let proof: onward::audit::Inclusion = serde_json::from_value(client.get("/v1/chains/orders/proofs?seq=2&size=3").await.json()).unwrap();
    proof.check().unwrap();
    let grown = client.get("/v1/chains/orders/proofs?first=2").await.json();
    let grown: onward::audit::Consistency = serde_json::from_value(grown).unwrap();
    grown.check().unwrap();
    assert_eq!((grown.first, grown.second, grown.second_root), (2, 3, proof.root));
    for bad in ["", "?seq=1&first=1", "?size=2", "?second=2"] {
        client.get(&format!("/v1/chains/orders/proofs{bad}")).await.is_problem(400, "invalid_request");
    }
    for bad in ["?seq=0", "?seq=x"] {
        assert_eq!(client.get(&format!("/v1/chains/orders/proofs{bad}")).await.status, 400);
    }
    assert_eq!(client.get("/v1/chains/orders/proofs?seq=9").await.status, 400);
    // A server without a signing key says so instead of signing with something else.
    client.get("/v1/chains/orders/checkpoint").await.is_problem(501, "unsupported");
    client.post("/v1/chains/orders/verify", json!({"checkpoint": "x", "vkey": "y"})).await.is_problem(400, "invalid_request");
}

#[tokio::test]
async fn a_segment_is_sealed_for_a_reason_and_a_state_in_the_way_is_a_conflict() {
    let client = Client::memory().await;
    client.post(ENTRIES, json!({"entries": [{"kind": "a"}, {"kind": "b"}, {"kind": "c"}]})).await;
    let because = [("content-type", "application/json"), ("onward-reason", "retention")];
    let segments = "/v1/chains/orders/segments";
    client.post(segments, json!({})).await.is_problem(400, "invalid_request");
    let planned = client.send("POST", segments, &because, json!({"to_seq": 3, "dry_run": true}).to_string()).await.json();
    assert_eq!((&planned["to"], &planned["state"]), (&json!(3), &json!("sealed")));
    assert_eq!(client.get(segments).await.json(), json!({"items": [], "next_after": null}));
    let sealed = client.send("POST", segments, &because, json!({"to_seq": 3}).to_string()).await.json();
    assert_eq!((&sealed["from"], &sealed["gen"]), (&json!(1), &json!(1)));
    assert_eq!(client.get(&format!("{segments}/1")).await.json(), sealed);
    client.get(&format!("{segments}/2")).await.is_problem(404, "not_found");
    client.send("POST", segments, &because, json!({"to_seq": 3}).to_string()).await.is_problem(409, "state_conflict");
    client.send("POST", &format!("{segments}/1/restore"), &because, "{}".to_owned()).await.is_problem(501, "unsupported");
    client.send("POST", &format!("{segments}/1/archive"), &because, "{}".to_owned()).await.is_problem(501, "unsupported");
    let placed = client.send("POST", "/v1/chains/orders/holds", &because, json!({"from_seq": 2}).to_string()).await.json();
    let id = placed["hold"]["id"].as_str().unwrap().to_owned();
    assert_eq!(client.get("/v1/chains/orders/holds").await.json()["items"][0], placed["hold"]);
    let gone = client.send("DELETE", &format!("/v1/chains/orders/holds/{id}"), &because, String::new()).await;
    assert_eq!(gone.status, 200);
    client.send("DELETE", &format!("/v1/chains/orders/holds/{id}"), &because, String::new()).await.is_problem(404, "not_found");
    let healed = client.send("POST", "/v1/chains/orders/heal", &because, "{}".to_owned()).await.json();
    assert_eq!(healed, json!({"finished": [], "waiting": [], "collected": 0}));
    assert_eq!(client.post("/v1/chains/orders/verify", json!({"archives": "read"})).await.json()["verdict"], "ok");
}

#[tokio::test]
async fn personal_data_are_read_by_admins_and_forgotten_for_a_reason() {
    let client = Client::memory().await;
    let placed = json!({"kind": "order.placed", "personal": {"subject": "user:ada", "data": {"email": "a@example.org"}}});
    assert_eq!(client.post(ENTRIES, json!({"entries": [placed]})).await.status, 201);
    let entry = client.get(&format!("{ENTRIES}/2")).await.json();
    let kept = client.get(&format!("{ENTRIES}/2/personal")).await.json();
    assert_eq!((&kept["subject"], &kept["data"]), (&json!("user:ada"), &json!(r#"{"email":"a@example.org"}"#)));
    assert_eq!(kept["commitment"], entry["personal"]);
    let redactions = "/v1/chains/orders/redactions";
    let because = [("content-type", "application/json"), ("onward-reason", "request 4711")];
    client.post(redactions, json!({"subject": "user:ada"})).await.is_problem(400, "invalid_request");
    for bad in [json!({}), json!({"subject": "a", "through_seq": 1}), json!({"subject": ""}), json!({"through_seq": 0})] {
        assert_eq!(client.send("POST", redactions, &because, bad.to_string()).await.status, 400, "{bad}");
    }
    let ask = |dry: bool| client.send("POST", redactions, &because, json!({"subject": "user:ada", "dry_run": dry}).to_string());
    assert_eq!(ask(true).await.json(), json!({"values": 1, "entries": [], "erased": false}));
    assert_eq!(ask(false).await.json(), json!({"values": 1, "entries": [3], "erased": true}));
    client.get(&format!("{ENTRIES}/2/personal")).await.is_problem(404, "not_found");
    assert_eq!(client.get(&format!("{ENTRIES}/2")).await.json(), entry);
    assert_eq!(client.post("/v1/chains/orders/verify", json!({})).await.json()["verdict"], "ok");
    let too_long = json!({"kind": "a", "personal": {"subject": "a", "data_text": "x".repeat((64 << 10) + 1)}});
    client.post(ENTRIES, json!({"entries": [too_long]})).await.is_problem(413, "payload_too_large");
}
