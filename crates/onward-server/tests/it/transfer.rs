use serde_json::{Value, json};

use crate::support::{Client, Reply};

async fn send(client: &Client, rows: &str) -> Reply {
    client.send("POST", "/v1/objects", &[("content-type", "application/x-ndjson")], rows.to_owned()).await
}

fn lines(reply: &Reply) -> Vec<Value> {
    std::str::from_utf8(&reply.body).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn what_is_exported_imports_byte_for_byte() {
    let from = Client::memory().await;
    for (name, kind, body) in [
        ("plain", "application/json", r#"{"n": 1.0, "big": 12345678901234567890}"#),
        ("lines", "application/json", "{\n \"a\": 1\r\n}"),
        ("space", "application/json", " 1 "),
        ("text", "text/plain", "ä\nb"),
    ] {
        from.send("PUT", &format!("/v1/objects/doc/{name}?namespace=eu"), &[("content-type", kind), ("if-none-match", "*")], body).await;
    }
    from.put("/v1/objects/other/x", ("if-none-match", "*"), "[]").await;
    let exported = from.get("/v1/objects").await;
    assert_eq!((exported.header("content-type"), exported.header("onward-revision")), ("application/x-ndjson", "5"));
    assert!(!exported.header("onward-epoch").is_empty());
    assert_eq!(lines(&exported).len(), 5);
    let to = Client::memory().await;
    let text = std::str::from_utf8(&exported.body).unwrap();
    assert_eq!(send(&to, text).await.json(), json!({"created": 5, "existing": 0}));
    assert_eq!(send(&to, text).await.json(), json!({"created": 0, "existing": 5}), "again is safe");
    for path in ["doc/plain?namespace=eu", "doc/lines?namespace=eu", "doc/space?namespace=eu", "doc/text?namespace=eu", "other/x"] {
        let (was, is) = (from.get(&format!("/v1/objects/{path}")).await, to.get(&format!("/v1/objects/{path}")).await);
        assert_eq!((was.body.clone(), was.header("content-type")), (is.body.clone(), is.header("content-type")), "{path}");
    }
    let head = from.send("HEAD", "/v1/objects", &[], "").await;
    assert_eq!((head.status.as_u16(), head.header("onward-revision"), head.body.len()), (200, "5", 0));
}

#[tokio::test]
async fn an_export_shows_what_was_asked_for() {
    let client = Client::memory().await;
    for path in ["a/x1", "a/y2", "b/x3", "b/x4?namespace=eu"] {
        client.put(&format!("/v1/objects/{path}"), ("if-none-match", "*"), "1").await;
    }
    for (query, names) in
        [("", "x1 y2 x3 x4"), ("?kind=a", "x1 y2"), ("?prefix=x", "x1 x3 x4"), ("?namespace=eu&kind=b", "x4"), ("?kind=c", "")]
    {
        let rows = lines(&client.get(&format!("/v1/objects{query}")).await);
        let found: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(found.join(" "), names, "{query}");
    }
    client.get("/v1/objects?kind=A").await.is_problem(400, "invalid_key");
    client.get("/v1/objects?kind=onward.tokens").await.is_problem(403, "forbidden");
    client.get("/v1/objects?kinds=a").await.is_problem(400, "invalid_request");
}

#[tokio::test]
async fn one_bad_line_refuses_the_request_and_names_itself() {
    let client = Client::memory().await;
    let good = r#"{"kind":"doc","name":"a","payload":1}"#;
    for (bad, pointer, code) in [
        ("{", "/3", "invalid_request"),
        ("[]", "/3", "invalid_request"),
        (r#"{"kind":"doc"}"#, "/3", "invalid_request"),
        (r#"{"kind":"doc","name":"b","payload":1,"nmae":2}"#, "/3/nmae", "invalid_request"),
        (r#"{"kind":"doc","name":"b","name":"c","payload":1}"#, "/3/name", "invalid_request"),
        (r#"{"kind":"doc","name":"b"}"#, "/3/payload", "invalid_request"),
        (r#"{"kind":"doc","name":"b","payload":1,"payload_base64":"MQ=="}"#, "/3/payload", "invalid_request"),
        (r#"{"kind":"doc","name":"b","payload_base64":"*"}"#, "/3/payload_base64", "invalid_request"),
        (r#"{"kind":"doc","name":"b","payload":1,"content_type":"text/plain"}"#, "/3/content_type", "invalid_request"),
        (r#"{"kind":"doc","name":"b","payload":1,"version":0}"#, "/3/version", "invalid_request"),
        (r#"{"kind":"doc","name":"b","payload":1,"version":-1}"#, "/3/version", "invalid_request"),
        (r#"{"kind":"doc","name":"b","payload":1,"version":"9223372036854775807"}"#, "/3/version", "invalid_request"),
        (r#"{"kind":"doc","name":"b","payload":1,"labels":{"a=b":"c"}}"#, "/3/labels", "invalid_request"),
        (r#"{"kind":"doc","name":"b","payload":1,"labels":{"a":"b","a":"c"}}"#, "/3/labels", "invalid_request"),
        (r#"{"kind":"doc","name":"b","payload":1,"labels":["a"]}"#, "/3/labels", "invalid_request"),
        (r#"{"kind":"doc","name":"b","payload":1,"expires_at":"tomorrow"}"#, "/3/expires_at", "invalid_request"),
        (r#"{"kind":"doc","name":"b","payload":1,"expires_at":"2999-01-01T00:00:00Z"}"#, "/3/expires_at", "invalid_request"),
        (r#"{"kind":"Doc","name":"b","payload":1}"#, "/3", "invalid_key"),
        (r#"{"kind":"doc","name":"","payload":1}"#, "/3", "invalid_key"),
        (r#"{"kind":"onward.tokens","name":"b","payload":1}"#, "/3/kind", "forbidden"),
        (r#"{"kind":"doc","namespace":"onward.own","name":"b","payload":1}"#, "/3/namespace", "forbidden"),
    ] {
        // The blank line counts, as an editor counts it.
        let reply = send(&client, &format!("{good}\n\n{bad}\n{good}")).await;
        let problem = reply.json();
        assert_eq!((problem["code"].as_str(), problem["errors"][0]["pointer"].as_str()), (Some(code), Some(pointer)), "{bad}: {problem}");
        assert!(problem["detail"].as_str().unwrap().starts_with("line 3: "), "{problem}");
        assert_eq!(problem["effect"], "not_applied");
    }
    client.get("/v1/objects/doc/a").await.is_problem(404, "not_found");
}

#[tokio::test]
async fn an_import_is_bounded_and_typed() {
    let client = Client::memory().await;
    let wrong = client.send("POST", "/v1/objects", &[("content-type", "application/json")], "{}").await;
    wrong.is_problem(415, "unsupported_media_type");
    assert_eq!(send(&client, &" ".repeat((8 << 20) + 1)).await.is_problem(413, "payload_too_large")["limit_bytes"], 8 << 20);
    assert_eq!(send(&client, "").await.json(), json!({"created": 0, "existing": 0}));
    assert_eq!(
        send(&client, "\r\n {\"kind\":\"doc\",\"name\":\"a\",\"payload\":1} \r\n").await.json(),
        json!({"created": 1, "existing": 0})
    );
    client.send("POST", "/v1/objects?overwrite=true", &[], "").await.is_problem(400, "invalid_request");
}

#[tokio::test]
async fn a_long_export_arrives_whole() {
    let client = Client::memory().await;
    let rows: String =
        (0..3_000).map(|n| format!("{{\"kind\":\"doc\",\"name\":\"n{n:04}\",\"payload\":\"{}\"}}\n", "x".repeat(300))).collect();
    assert_eq!(send(&client, &rows).await.json()["created"], 3_000);
    let rows = lines(&client.get("/v1/objects").await);
    assert_eq!(rows.len(), 3_000);
    assert_eq!(rows[2_999]["name"], "n2999");
}
