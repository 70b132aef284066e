//! Input that means harm, and where each kind of it is tested:
//!
//! | input | tests |
//! |---|---|
//! | body over its limit, declared or chunked; compressed | `abuse`: `a_body_over_its_limit_..`, `a_chunked_body_..`, `a_compressed_body_..`, `bad_chunks_..` |
//! | silent socket, slow head, slow body, slow reader, slow TLS | `abuse`: `a_silent_socket_..`, `a_body_that_comes_too_slowly_..`, `a_client_that_does_not_read_..`; `limits`: `a_slow_body_..`; `tls`: `whoever_does_not_finish_..` |
//! | JSON that is malformed, deep, doubled, NaN, a lone surrogate; numbers that are none; too many writes | here: `what_is_no_json_..`, `numbers_that_are_no_versions_..`; `commit`: `bad_commits_..`; `locks`: `bad_lock_calls_..`; `chains`: `bad_entries_..`; `cache`: `bad_cache_calls_..` |
//! | paths: `..`, `//`, bad UTF-8, NUL, over-long, doubly encoded | `objects`: `keys_in_paths_..`; here: `no_path_makes_the_server_fail` |
//! | line ends and raw bytes in headers | here: `line_ends_and_raw_bytes_..`; `surface`: `text_in_headers_..` |
//! | changed, foreign and odd cursors; event ids | here: `no_changed_cursor_..`; `objects`: `lists_go_page_by_page_..`; `watch`: `a_position_that_is_not_there_..` |
//! | wrong tokens, rights beyond a scope, a false `X-Forwarded-For` | `access`; here: `a_forwarded_address_..` |
//! | too many connections, requests, waits, streams | `limits` |
//! | CL+TE, obs-fold, two Hosts, CONNECT, TRACE, Upgrade | here: `two_lengths_..`, `methods_that_change_the_protocol_..`; `abuse`: `a_head_that_is_too_long_..`, `a_foreign_host_..` |
//! | client gone or deadline past during a commit | `surface`: `a_write_with_the_shortest_deadline_..`; here: `a_client_that_leaves_..` |

use axum::body::Body;
use http::{HeaderValue, Request};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::{Client, Live, rest, soon};

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn two_lengths_are_refused_and_nothing_is_smuggled() {
    let live = Live::start().await;
    let smuggled = live.head("PUT /v1/objects/doc/smuggled") + "If-None-Match: *\r\nContent-Length: 1\r\n\r\n1";
    let head = |lengths: &str| format!("{}If-None-Match: *\r\n{lengths}\r\n\r\n", live.head("PUT /v1/objects/doc/outer"));
    for lengths in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: +5",
        "Content-Length: 5,6",
        "Content-Length: 0x5",
        "Transfer-Encoding: identity, chunked, identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: xchunked",
    ] {
        let said = live.exchange(head(lengths) + "0\r\n\r\n" + &smuggled).await;
        assert!(said.starts_with("HTTP/1.1 400"), "{lengths}: {said}");
        assert_eq!(said.matches("HTTP/1.1").count(), 1, "{lengths}: {said}");
    }
    // Both forms at once: read as chunks or refused, the connection ends, and what follows is never a request.
    let said = live.exchange(head("Content-Length: 5\r\nTransfer-Encoding: chunked") + "0\r\n\r\n" + &smuggled).await;
    assert_eq!(said.matches("HTTP/1.1").count(), 1, "{said}");
    assert!(live.onward.store().get_payload(("doc", "smuggled")).await.unwrap().is_none());
}

#[tokio::test]
async fn methods_that_change_the_protocol_are_refused() {
    let live = Live::start().await;
    for line in ["TRACE /v1/info", "CONNECT example.org:443", "OPTIONS *", "PRI *", "get /v1/info"] {
        let said = live.exchange(format!("{}Connection: close\r\n\r\n", live.head(line))).await;
        let status = &said[9..12];
        assert!(["400", "404", "405"].contains(&status), "{line}: {said}");
        assert!(!said.contains("Max-Forwards") && !said.contains(&live.token), "nothing is echoed: {said}");
    }
    for protocol in ["websocket", "h2c"] {
        let head = live.head("GET /v1/info");
        let said =
            live.exchange(format!("{head}Connection: Upgrade, close\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")).await;
        // Upgrades are not offered: the request is answered as if none had been asked for.
        assert!(said.starts_with("HTTP/1.1 200"), "{protocol}: {said}");
    }
    // HTTP/2 by its preface.
    let said = live.exchange("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 400") || said.starts_with("HTTP/1.1 505"), "{said}");
}

#[tokio::test]
async fn line_ends_and_raw_bytes_in_headers_never_come_back_out() {
    let live = Live::start().await;
    for header in ["Idempotency-Key: a\r\n X-Injected: 1", "X-Any: a\0b", "X-Any: a\nX-Injected: 1\rb", "X Any: a", ": a"] {
        let said = live.exchange(format!("{}Connection: close\r\n{header}\r\n\r\n", live.head("DELETE /v1/cache/web"))).await;
        assert!(said.starts_with("HTTP/1.1 400") && !said.contains("X-Injected"), "{header:?}: {said}");
    }
    let client = Client::memory().await;
    // Percent-encoded ones are read, and refused as text.
    for (name, value) in
        [("onward-reason", "a%0d%0ab"), ("onward-reason", "%00"), ("onward-reason", "%ff"), ("onward-reason", "%"), ("onward-reason", "")]
    {
        client.send("DELETE", "/v1/cache/web", &[(name, value)], "").await.is_problem(400, "invalid_request");
    }
    for header in [("onward-label", "a=%0d%0a"), ("onward-label", "%0a=b"), ("onward-fence", "1 a%0ab"), ("content-type", "text/plain\tx")]
    {
        let reply = client.send("PUT", "/v1/objects/doc/a", &[("if-none-match", "*"), header], "1").await;
        assert_eq!(reply.status, 400, "{header:?}: {:?}", reply.body);
    }
    for id in ["a b", "caf%C3%A9 ", "", &"x".repeat(129)] {
        let reply = client.send("PUT", "/v1/objects/doc/a", &[("if-none-match", "*"), ("idempotency-key", id)], "1").await;
        reply.is_problem(400, "invalid_request");
    }
    let mut request = Request::builder().method("PUT").uri("/v1/objects/doc/a").body(Body::from("1")).unwrap();
    request.headers_mut().insert("content-type", HeaderValue::from_bytes(b"text/caf\xe9").unwrap());
    client.raw(request).await.is_problem(400, "invalid_request");
    client.get("/v1/objects/doc/a").await.is_problem(404, "not_found");
}

#[tokio::test]
async fn what_is_no_json_is_refused_and_nothing_is_written() {
    let client = Client::memory().await;
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let bad: [&[u8]; 14] = [
        b"{",
        b"nul",
        b"NaN",
        b"[Infinity]",
        b"{\"a\":1,}",
        b"'a'",
        b"01",
        b"1e",
        b"\"\\ud800\"",
        b"\"\\udc00\\ud800\"",
        b"\"a\nb\"",
        b"\"\xff\"",
        b"{} {}",
        deep.as_bytes(),
    ];
    for body in bad {
        let shown = String::from_utf8_lossy(body);
        let reply = client.send("PUT", "/v1/objects/doc/a", &[("if-none-match", "*"), JSON], body.to_vec()).await;
        assert_eq!(reply.is_problem(400, "invalid_request")["effect"], "not_applied", "{shown}");
        for path in ["/v1/commit", "/v1/locks/k", "/v1/locks", "/v1/cache/web", "/v1/chains/main/entries", "/v1/chains/main/verify"] {
            let reply = client.send("POST", path, &[JSON], body.to_vec()).await;
            assert_eq!(reply.is_problem(400, "invalid_request")["retryable"], false, "{path}: {shown}");
        }
    }
    // As payloads inside a commit they are refused by the same rules.
    for payload in ["NaN", "\"\\ud800\"", "1e", deep.as_str()] {
        let body = format!(r#"{{"writes":[{{"op":"create","kind":"doc","name":"a","payload":{payload}}}]}}"#);
        client.send("POST", "/v1/commit", &[JSON], body).await.is_problem(400, "invalid_request");
    }
    assert_eq!(client.get("/v1/objects/doc").await.json()["revision"], 0);
    client.get("/v1/chains/main").await.is_problem(404, "not_found");
}

#[tokio::test]
async fn numbers_that_are_no_versions_match_nothing() {
    let client = Client::memory().await;
    client.put("/v1/objects/doc/a", ("if-none-match", "*"), "1").await;
    for version in ["0", "-1", "1.0", "1e0", "18446744073709551616", "9223372036854775808", "+1"] {
        for number in [version.to_owned(), format!("\"{version}\"")] {
            let body = format!(r#"{{"writes":[{{"op":"replace","kind":"doc","name":"a","version":{number},"payload":2}}]}}"#);
            let reply = client.send("POST", "/v1/commit", &[JSON], body).await;
            reply.is_problem(400, "invalid_request");
        }
    }
    for tag in ["\"0\"", "\"-1\"", "\"1.0\"", "\"18446744073709551616\"", "1", "W/\"1\"", "\"1\", \"2\"", "\"01\"", "\"+1\"", ""] {
        let reply = client.put("/v1/objects/doc/a", ("if-match", tag), "2").await;
        assert!([400, 412].contains(&reply.status.as_u16()), "{tag}: {:?}", reply.body);
    }
    for ttl in ["0", "-1", "1.5", "18446744073709551616", "soon"] {
        let reply = client.send("PUT", "/v1/objects/doc/b", &[("if-none-match", "*"), ("onward-ttl-ms", ttl)], "1").await;
        reply.is_problem(400, "invalid_request");
    }
    let left = client.get("/v1/objects/doc").await.json();
    assert_eq!((&left["revision"], left["items"].as_array().unwrap().len()), (&json!(1), 1));
}

#[tokio::test]
async fn no_changed_cursor_is_taken() {
    let client = Client::memory().await;
    for n in 0..3 {
        client.put(&format!("/v1/objects/doc/n{n}"), ("if-none-match", "*"), "1").await;
        client.post(&format!("/v1/chains/c{n}/entries"), json!({"entries": [{"kind": "k"}, {"kind": "k"}]})).await;
    }
    for list in
        ["/v1/objects/doc?limit=1", "/v1/chains?limit=1", "/v1/chains/c0/entries?limit=1", "/v1/objects/doc/n0?history=true&limit=1"]
    {
        client.put("/v1/objects/doc/n0", ("if-match", "*"), &format!("{}", list.len())).await;
        let first = client.get(list).await.json();
        let cursor = first["next_cursor"].as_str().unwrap_or_else(|| panic!("{list}: {first}")).to_owned();
        let next = format!("{list}&cursor=");
        assert_eq!(client.get(&format!("{next}{cursor}")).await.status, 200, "{list}");
        for at in 0..cursor.len() {
            let mut bytes = cursor.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            let reply = client.get(&format!("{next}{changed}")).await;
            reply.is_problem(400, "invalid_cursor");
        }
        for odd in [&cursor[1..], &format!("{cursor}A"), "", "AAAA", "%00", "\u{fc}", &"A".repeat(2_000)] {
            let reply = client.get(&format!("{next}{}", onward_api::path::encode(odd.as_bytes()).trim_start_matches('~'))).await;
            assert_eq!(reply.status, 400, "{list}: {odd}");
        }
        // Another list's cursor.
        for other in ["/v1/objects/other?limit=1", "/v1/chains/c1/entries?limit=1", "/v1/objects/doc/n1?history=true"] {
            client.get(&format!("{other}&cursor={cursor}")).await.is_problem(400, "invalid_cursor");
        }
    }
}

/// Numbers that look random and come again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn path(&mut self) -> String {
        const PARTS: [&str; 26] = [
            "a", "b", "/", "/", "%2F", "%2f", ".", "..", "%2e", "%2E%2e", "~", "~YQ", "%7E", "%", "%0", "%zz", "%00", "%ff", "%c3%a4",
            "%25", "%252F", "+", "@:=,", "*", "onward.", "\\",
        ];
        (0..=self.roll(12)).map(|_| PARTS[self.roll(PARTS.len() as u64) as usize]).collect()
    }
}

#[tokio::test]
async fn no_path_makes_the_server_fail() {
    let client = Client::memory().await;
    let mut dice = Dice(7);
    for _ in 0..4_000 {
        let path = dice.path();
        let route =
            ["objects/doc/", "objects/", "locks/", "cache/web/", "cache/", "chains/", "chains/c/entries/", ""][dice.roll(8) as usize];
        let target = format!("/v1/{route}{path}");
        let Ok(request) = Request::builder().uri(&target).header("authorization", client.bearer()).body(Body::empty()) else { continue };
        let reply = client.raw(request).await;
        let status = reply.status.as_u16();
        assert!([200, 202, 400, 403, 404, 405, 501].contains(&status), "{target}: {status} {:?}", reply.body);
        if status >= 400 {
            let code = reply.json()["code"].as_str().unwrap_or_default().to_owned();
            reply.is_problem(status, &code);
        }
        // Reading decides which key is meant, and a write means the same one.
        let Some(key) = onward_api::path::decode(&path).filter(|_| route == "objects/doc/") else {
            assert!(route != "objects/doc/" || status != 200, "{target}");
            continue;
        };
        let total = format!("/v1/objects/doc/~{}", onward_api::base64::encode_url(&key));
        let written = client.put(&total, ("if-none-match", "*"), "1").await.status.as_u16();
        assert_eq!(written == 201 || written == 412, client.get(&target).await.status == 200, "{target}");
    }
}

#[tokio::test]
async fn a_forwarded_address_changes_nothing() {
    let client = Client::memory().await;
    for header in ["x-forwarded-for", "forwarded", "x-real-ip", "x-forwarded-host", "x-http-method-override", "x-original-url"] {
        let request = Request::builder().uri("/v1/info").header(header, "127.0.0.1").body(Body::empty()).unwrap();
        client.raw(request).await.is_problem(401, "unauthenticated");
    }
    let reply = client.send("GET", "/v1/objects/doc/a", &[("x-http-method-override", "DELETE"), ("x-original-url", "/v1/info")], "").await;
    reply.is_problem(404, "not_found");
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_write_leaves_it_whole_or_absent() {
    let live = Live::start().await;
    for n in 0..40 {
        let body = format!(
            r#"{{"writes":[{{"op":"create","kind":"doc","name":"a{n}","payload":1}},{{"op":"create","kind":"doc","name":"b{n}","payload":1}}]}}"#
        );
        let mut stream = live.connect().await;
        let head = format!("{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", live.head("POST /v1/commit"), body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        // A different part of the body each time, the whole of it in the last rounds.
        let part = (body.len() * n / 20).min(body.len());
        stream.write_all(&body.as_bytes()[..part]).await.unwrap();
        drop(stream);
    }
    // Every connection is gone, and with it whatever its request held.
    live.shows("onward_connections 0").await;
    for n in 0..40 {
        let there = async |name: String| live.onward.store().get_payload(("doc", name)).await.unwrap().is_some();
        assert_eq!(there(format!("a{n}")).await, there(format!("b{n}")).await, "{n}");
    }
    let mut stream = live.connect().await;
    stream.write_all(format!("{}Connection: close\r\n\r\n", live.head("GET /v1/info")).as_bytes()).await.unwrap();
    assert!(soon(rest(&mut stream)).await.starts_with("HTTP/1.1 200"));
}
