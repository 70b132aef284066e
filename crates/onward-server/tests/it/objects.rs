use serde_json::json;

use crate::support::Client;

#[tokio::test]
async fn an_object_is_kept_byte_for_byte() {
    let client = Client::memory().await;
    let body = "{ \"b\": 1.00,\n  \"a\": [ ] }";
    let made = client.put("/v1/objects/doc/a/b", ("if-none-match", "*"), body).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.header("etag"), "\"1\"");
    assert_eq!(made.json(), json!({"version": 1, "revision": 1, "changed": true, "replayed": false}));
    assert_eq!(made.header("cache-control"), "no-store");
    let got = client.get("/v1/objects/doc/a%2Fb").await;
    assert_eq!((got.status.as_u16(), &got.body[..]), (200, body.as_bytes()));
    assert_eq!((got.header("etag"), got.header("content-type"), got.header("onward-revision")), ("\"1\"", "application/json", "1"));
}

#[tokio::test]
async fn the_envelope_has_everything_that_is_known() {
    let client = Client::memory().await;
    client.send("PUT", "/v1/objects/doc/a?overwrite=true&namespace=eu", &[("content-type", "text/plain")], "hi").await;
    let got = client.send("GET", "/v1/objects/doc/a?namespace=eu", &[("accept", "application/vnd.onward.object+json")], "").await.json();
    assert_eq!((&got["namespace"], &got["kind"], &got["name"]), (&json!("eu"), &json!("doc"), &json!("a")));
    assert_eq!((&got["version"], &got["etag"], &got["payload_base64"]), (&json!(1), &json!("\"1\""), &json!("aGk=")));
    assert!(got["created_at"].as_str().unwrap().ends_with('Z') && got["uid"].is_string());
    client.get("/v1/objects/doc/a").await.is_problem(404, "not_found");
}

#[tokio::test]
async fn head_and_not_modified_have_no_body() {
    let client = Client::memory().await;
    client.put("/v1/objects/doc/a", ("if-none-match", "*"), "1").await;
    let head = client.send("HEAD", "/v1/objects/doc/a", &[], "").await;
    assert_eq!((head.status.as_u16(), head.body.len(), head.header("etag")), (200, 0, "\"1\""));
    for tags in ["\"1\"", "W/\"1\"", "\"9\", \"1\"", "*"] {
        let same = client.send("GET", "/v1/objects/doc/a", &[("if-none-match", tags)], "").await;
        assert_eq!((same.status.as_u16(), same.body.len()), (304, 0), "{tags}");
    }
    assert_eq!(client.send("GET", "/v1/objects/doc/a", &[("if-none-match", "\"2\"")], "").await.status, 200);
}

#[tokio::test]
async fn a_write_without_a_condition_is_refused() {
    let client = Client::memory().await;
    client.send("PUT", "/v1/objects/doc/a", &[], "1").await.is_problem(428, "precondition_required");
    client.send("DELETE", "/v1/objects/doc/a", &[], "").await.is_problem(428, "precondition_required");
    let two = [("if-match", "\"1\""), ("if-none-match", "*")];
    client.send("PUT", "/v1/objects/doc/a", &two, "1").await.is_problem(400, "invalid_request");
    client.send("PUT", "/v1/objects/doc/a?overwrite=true", &two[..1], "1").await.is_problem(400, "invalid_request");
    client.send("PUT", "/v1/objects/doc/a?overwrite=yes", &[], "1").await.is_problem(400, "invalid_request");
}

#[tokio::test]
async fn a_stale_write_is_refused_with_the_current_object() {
    let client = Client::memory().await;
    client.put("/v1/objects/doc/a", ("if-none-match", "*"), "1").await;
    assert_eq!(client.put("/v1/objects/doc/a", ("if-match", "\"1\""), "{\"n\":2}").await.status, 200);
    let problem = client.put("/v1/objects/doc/a", ("if-match", "\"1\""), "3").await.is_problem(412, "version_conflict");
    assert_eq!((&problem["reason"], &problem["effect"], &problem["retryable"]), (&json!("stale"), &json!("not_applied"), &json!(false)));
    assert_eq!((&problem["current"]["version"], &problem["current"]["etag"]), (&json!(2), &json!("\"2\"")));
    assert_eq!(problem["current"]["payload"], json!({"n": 2}));
    let problem = client.put("/v1/objects/doc/a", ("if-none-match", "*"), "3").await.is_problem(412, "already_exists");
    assert_eq!(problem["current"]["version"], 2);
    let problem = client.put("/v1/objects/doc/b", ("if-match", "\"1\""), "3").await.is_problem(412, "version_conflict");
    assert_eq!((&problem["reason"], problem.get("current")), (&json!("missing"), Some(&json!(null))));
    client.put("/v1/objects/doc/b", ("if-match", "*"), "3").await.is_problem(412, "version_conflict");
    assert_eq!(client.put("/v1/objects/doc/a", ("if-match", "*"), "4").await.status, 200);
}

#[tokio::test]
async fn a_weak_tag_never_matches_and_a_list_is_no_condition() {
    let client = Client::memory().await;
    client.put("/v1/objects/doc/a", ("if-none-match", "*"), "1").await;
    let problem = client.put("/v1/objects/doc/a", ("if-match", "W/\"1\""), "2").await.is_problem(412, "version_conflict");
    assert_eq!(problem["current"]["version"], 1);
    for tag in ["\"1\", \"2\"", "1", "\"\"", "\"0\"", "\"-1\"", "\"1.0\"", "\"18446744073709551616\"", "\"a\"", ""] {
        client.put("/v1/objects/doc/a", ("if-match", tag), "2").await.is_problem(400, "invalid_request");
    }
    client.put("/v1/objects/doc/a", ("if-none-match", "\"1\""), "2").await.is_problem(400, "invalid_request");
    assert_eq!(&client.get("/v1/objects/doc/a").await.body[..], b"1");
}

#[tokio::test]
async fn a_delete_is_conditional_and_versions_go_on_after_it() {
    let client = Client::memory().await;
    client.put("/v1/objects/doc/a", ("if-none-match", "*"), "1").await;
    client.send("DELETE", "/v1/objects/doc/a", &[("if-match", "\"7\"")], "").await.is_problem(412, "version_conflict");
    client.send("DELETE", "/v1/objects/doc/a", &[("if-none-match", "*")], "").await.is_problem(400, "invalid_request");
    let gone = client.send("DELETE", "/v1/objects/doc/a", &[("if-match", "\"1\"")], "").await;
    assert_eq!((gone.status.as_u16(), &gone.json()["version"]), (200, &json!(2)));
    for condition in [&[("if-match", "\"1\"")][..], &[("if-match", "*")]] {
        client.send("DELETE", "/v1/objects/doc/a", condition, "").await.is_problem(404, "not_found");
    }
    client.send("DELETE", "/v1/objects/doc/a?overwrite=true", &[], "").await.is_problem(404, "not_found");
    assert_eq!(client.put("/v1/objects/doc/a", ("if-none-match", "*"), "1").await.header("etag"), "\"3\"");
}

#[tokio::test]
async fn the_same_request_id_gets_the_same_answer() {
    let client = Client::memory().await;
    let headers = [("content-type", "application/json"), ("if-none-match", "*"), ("idempotency-key", "k-1")];
    let first = client.send("PUT", "/v1/objects/doc/a", &headers, "1").await;
    assert_eq!((first.status.as_u16(), first.header("onward-request-id")), (201, "k-1"));
    client.put("/v1/objects/doc/a", ("if-match", "\"1\""), "2").await;
    let again = client.send("PUT", "/v1/objects/doc/a", &headers, "1").await;
    assert_eq!((again.status.as_u16(), again.header("etag")), (201, "\"1\""));
    assert_eq!((&again.json()["replayed"], &again.json()["version"]), (&json!(true), &json!(1)));
    client.send("PUT", "/v1/objects/doc/a", &headers, "3").await.is_problem(422, "request_id_reused");
    for bad in ["", "a b", &"x".repeat(129)] {
        let headers = [("if-none-match", "*"), ("idempotency-key", bad)];
        client.send("PUT", "/v1/objects/doc/c", &headers, "1").await.is_problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_request_id_that_the_server_drew_settles_a_lost_answer() {
    let client = Client::memory().await;
    let first = client.put("/v1/objects/doc/a", ("if-none-match", "*"), "1").await;
    let id = first.header("onward-request-id").to_owned();
    assert_eq!(id.len(), 36);
    let headers = [("content-type", "application/json"), ("if-none-match", "*"), ("idempotency-key", &id)];
    let again = client.send("PUT", "/v1/objects/doc/a", &headers, "1").await;
    assert_eq!((again.status.as_u16(), &again.json()["replayed"]), (201, &json!(true)));
}

#[tokio::test]
async fn an_older_fencing_token_is_refused() {
    let client = Client::memory().await;
    let fenced = |token: &'static str, tag: &'static str| [("onward-fence", token), ("if-match", tag)];
    client.put("/v1/objects/doc/a", ("if-none-match", "*"), "1").await;
    assert_eq!(client.send("PUT", "/v1/objects/doc/a", &fenced("9 lock:a%20b", "*"), "2").await.status, 200);
    let problem = client.send("PUT", "/v1/objects/doc/a", &fenced("8 lock:a%20b", "*"), "3").await.is_problem(409, "fenced");
    assert_eq!(problem["newest_token"], 9);
    for bad in ["8", "x lock", "0 lock", "8 %zz", "8 "] {
        let reply = client.send("PUT", "/v1/objects/doc/a", &fenced(bad, "*"), "3").await;
        assert_eq!(reply.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn lists_go_page_by_page_with_a_cursor_of_their_own() {
    let client = Client::memory().await;
    for name in ["a1", "a2", "a3", "b1"] {
        client.put(&format!("/v1/objects/doc/{name}"), ("if-none-match", "*"), "1").await;
    }
    let mut names = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = client.get(&format!("/v1/objects/doc?prefix=a&limit=2&payload=false{cursor}")).await.json();
        assert_eq!(page["revision"], 4);
        names.extend(page["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        assert!(page["items"][0].get("payload").is_none());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["a1", "a2", "a3"]);
    let first = client.get("/v1/objects/doc?limit=1").await.json()["next_cursor"].as_str().unwrap().to_owned();
    client.get(&format!("/v1/objects/doc?limit=1&prefix=a&cursor={first}")).await.is_problem(400, "invalid_cursor");
    client.get("/v1/objects/doc?cursor=zz").await.is_problem(400, "invalid_cursor");
    for bad in ["limit=0", "limit=1001", "limit=x", "payload=1", "limit=1&limit=2", "prefix=%zz", "prefix=%ff"] {
        client.get(&format!("/v1/objects/doc?{bad}")).await.is_problem(400, "invalid_request");
    }
    let problem = client.get("/v1/objects/doc?limt=1").await.is_problem(400, "invalid_request");
    assert!(problem["detail"].as_str().unwrap().contains("`limit`"));
}

#[tokio::test]
async fn keys_in_paths_are_decoded_once() {
    let client = Client::memory().await;
    client.put("/v1/objects/doc/%252F", ("if-none-match", "*"), "1").await;
    // The name is the three characters %2F; its total form is the same object.
    assert_eq!(client.get("/v1/objects/doc/~JTJG").await.status, 200);
    for path in ["a//b", "../a", "a/..", "./a", "%2e%2e/a", "a/", "", "%", "%zz", "a%00b", "%ff", "~*", "~"] {
        client.get(&format!("/v1/objects/doc/{path}")).await.is_problem(400, "invalid_key");
    }
    client.get(&format!("/v1/objects/doc/{}", "x".repeat(385))).await.is_problem(400, "invalid_key");
    client.get("/v1/objects/Doc/a").await.is_problem(400, "invalid_key");
    client.get("/v1/objects/do%2Fc/a").await.is_problem(400, "invalid_key");
    client.get("/v1/objects/onward.token/a").await.is_problem(403, "forbidden");
    client.get("/v1/objects/doc/a?namespace=onward.x").await.is_problem(403, "forbidden");
    // What the others rewrite travels in the total form.
    let dots = format!("/v1/objects/doc/{}", onward_api::path::encode(b"../a"));
    assert_eq!(client.put(&dots, ("if-none-match", "*"), "1").await.status, 201);
    assert_eq!(client.get(&dots).await.status, 200);
}

#[tokio::test]
async fn a_payload_that_claims_to_be_json_is_checked() {
    let client = Client::memory().await;
    for body in ["{", "{\"a\":NaN}", "\"\\ud800\"", "", &format!("{}{}", "[".repeat(129), "]".repeat(129))] {
        client.put("/v1/objects/doc/a", ("if-none-match", "*"), body).await.is_problem(400, "invalid_request");
    }
    let deepest = format!("{}{}", "[".repeat(128), "]".repeat(128));
    assert_eq!(client.put("/v1/objects/doc/deep", ("if-none-match", "*"), &deepest).await.status, 201);
    client.onward.store().get::<serde_json::Value>(("doc", "deep")).await.unwrap().unwrap();
    let headers = [("if-none-match", "*"), ("content-type", "text/plain")];
    assert_eq!(client.send("PUT", "/v1/objects/doc/a", &headers, "{").await.status, 201);
}

#[tokio::test]
async fn a_patch_is_applied_to_the_newest_state() {
    let client = Client::memory().await;
    let path = "/v1/objects/doc/a";
    let (merge, steps) = ("application/merge-patch+json", "application/vnd.onward.patch+json");
    let patch = async |kind: &str, body: &str, more: &[(&str, &str)]| {
        client.send("PATCH", path, &[&[("content-type", kind)], more].concat(), body.to_owned()).await
    };
    patch(merge, "{}", &[]).await.is_problem(404, "not_found");
    client.put(path, ("if-none-match", "*"), r#"{"n":1,"draft":true}"#).await;
    let merged = patch(merge, r#"{"draft":null,"state":"open"}"#, &[]).await;
    assert_eq!((merged.status.as_u16(), merged.header("etag")), (200, "\"2\""));
    let body = r#"[{"compare":"/state","value":"open"},{"add":"/n","value":41}]"#;
    assert_eq!(patch(steps, body, &[("if-match", "\"2\"")]).await.status, 200);
    assert_eq!(&client.get(path).await.body[..], br#"{"n":42,"state":"open"}"#);
    patch(steps, body, &[("if-match", "\"2\"")]).await.is_problem(412, "version_conflict");
    patch(steps, body, &[("if-match", "W/\"3\"")]).await.is_problem(412, "version_conflict");
    patch(steps, body, &[("if-none-match", "*")]).await.is_problem(400, "invalid_request");
    let lost = patch(steps, r#"[{"compare":"/state","value":"closed"}]"#, &[]).await.is_problem(409, "version_conflict");
    assert_eq!((&lost["reason"], &lost["current"]["version"]), (&json!("compare"), &json!(3)));
    let unfit = patch(steps, r#"[{"set":"/a","value":1},{"add":"/state","value":1}]"#, &[]).await.is_problem(422, "validation_failed");
    assert_eq!(unfit["errors"][0]["pointer"], "/1");
    patch(steps, r#"[{"mangle":"/a"}]"#, &[]).await.is_problem(400, "invalid_request");
    patch(merge, "{", &[]).await.is_problem(400, "invalid_request");
    patch("application/json-patch+json", "[]", &[]).await.is_problem(415, "unsupported_media_type");
    let again = [("idempotency-key", "p1")];
    let first = patch(steps, r#"[{"add":"/n","value":1}]"#, &again).await.json();
    let second = patch(steps, r#"[{"add":"/n","value":1}]"#, &again).await.json();
    assert_eq!((&first["version"], &second["version"], &second["replayed"]), (&json!(4), &json!(4), &json!(true)));
}

#[tokio::test]
async fn a_touch_leaves_the_content_and_renews_the_rest() {
    let client = Client::memory().await;
    let path = "/v1/objects/doc/a";
    let touch = async |query: &str, headers: &[(&str, &str)], body: &str| {
        client.send("PATCH", &format!("{path}?{query}"), headers, body.to_owned()).await
    };
    let envelope = async || client.send("GET", path, &[("accept", "application/vnd.onward.object+json")], "").await.json();
    touch("touch=true", &[], "").await.is_problem(404, "not_found");
    client.send("PUT", path, &[("if-none-match", "*"), ("content-type", "text/plain")], "hello").await;
    let touched = touch("touch=true", &[("onward-ttl-ms", "60000"), ("onward-label", "team=blue")], "").await;
    assert_eq!((touched.status.as_u16(), touched.header("etag")), (200, "\"2\""));
    assert_eq!(&client.get(path).await.body[..], b"hello");
    let now = envelope().await;
    assert_eq!((&now["labels"], now["expires_at"].is_string()), (&json!({"team": "blue"}), true));
    touch("touch=true", &[("if-match", "\"1\"")], "").await.is_problem(412, "version_conflict");
    assert_eq!(touch("touch=true", &[("if-match", "\"2\"")], "").await.status, 200);
    touch("touch=true", &[("content-type", "application/merge-patch+json")], "{}").await.is_problem(400, "invalid_request");
    touch("touch=yes", &[], "").await.is_problem(400, "invalid_request");
    touch("touch=false", &[], "").await.is_problem(415, "unsupported_media_type");
    touch("touch=true", &[("onward-ttl-ms", "0")], "").await.is_problem(400, "invalid_request");
    assert_eq!(envelope().await["version"], 3);
    // And in a commit.
    let commit = async |write: serde_json::Value| client.post("/v1/commit", json!({ "writes": [write] })).await;
    let reply = commit(json!({"op": "touch", "kind": "doc", "name": "a", "ttl_ms": "never"})).await.json();
    assert_eq!((&reply["writes"][0]["version"], &reply["writes"][0]["changed"]), (&json!(4), &json!(true)));
    assert!(envelope().await.get("expires_at").is_none());
    commit(json!({"op": "touch", "kind": "doc", "name": "a", "version": 3})).await.is_problem(409, "version_conflict");
    for more in [json!({"payload": 1}), json!({"merge": {}}), json!({"version": 0})] {
        let mut write = json!({"op": "touch", "kind": "doc", "name": "a"});
        write.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        commit(write).await.is_problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_list_takes_one_of_several_values() {
    let client = Client::memory().await;
    for (name, team) in [("a", "blue"), ("b", "red"), ("c", "green,dark")] {
        client
            .send(
                "PUT",
                &format!("/v1/objects/doc/{name}"),
                &[("if-none-match", "*"), ("onward-label", &format!("team={}", team.replace(',', "%2C")))],
                "1",
            )
            .await;
    }
    let names = async |label: &str| -> Vec<String> {
        let page = client.get(&format!("/v1/objects/doc?label={label}")).await.json();
        page["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("team+in+(blue,red)").await, ["a", "b"]);
    assert_eq!(names("team%20in%20(red,%22green,dark%22)").await, ["b", "c"]);
    client.get("/v1/objects/doc?label=team+in+()").await.is_problem(400, "invalid_request");
}

#[tokio::test]
async fn a_commit_applies_patches() {
    let client = Client::memory().await;
    client.put("/v1/objects/doc/a", ("if-none-match", "*"), r#"{"n":1}"#).await;
    let commit = async |write: serde_json::Value| client.post("/v1/commit", json!({ "writes": [write] })).await;
    let write = |more: serde_json::Value| {
        let mut write = json!({"op": "apply", "kind": "doc", "name": "a"});
        write.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        write
    };
    let step = json!([{"add": "/n", "value": 2}]);
    assert_eq!(commit(write(json!({ "patch": step }))).await.status, 200);
    assert_eq!(commit(write(json!({"merge": {"m": 1}, "version": 2}))).await.status, 200);
    assert_eq!(&client.get("/v1/objects/doc/a").await.body[..], br#"{"m":1,"n":3}"#);
    commit(write(json!({"merge": {"m": 1}, "version": 2}))).await.is_problem(409, "version_conflict");
    for bad in [json!({}), json!({"patch": step, "merge": {}}), json!({"patch": step, "payload": 1}), json!({"patch": [{}]})] {
        commit(write(bad)).await.is_problem(400, "invalid_request");
    }
    let unfit = commit(write(json!({"patch": [{"remove": "/gone"}]}))).await.is_problem(422, "validation_failed");
    assert_eq!(unfit["errors"][0]["pointer"], "/writes/0/patch/0");
}

#[tokio::test]
async fn the_past_of_an_object_is_there() {
    let client = Client::memory().await;
    let path = "/v1/objects/doc/a";
    client.put(path, ("if-none-match", "*"), "1").await;
    client.put(path, ("if-match", "\"1\""), "2").await;
    client.send("DELETE", path, &[("if-match", "\"2\"")], "").await;
    let past = client.get("/v1/objects/doc/a?at=1").await;
    assert_eq!((&past.body[..], past.header("etag"), past.header("onward-revision")), (&b"1"[..], "\"1\"", "1"));
    client.get("/v1/objects/doc/a?at=3").await.is_problem(404, "not_found");
    client.get("/v1/objects/doc/a?at=4").await.is_problem(410, "cursor_compacted");
    let all = client.get("/v1/objects/doc/a?history=true&limit=2").await.json();
    assert_eq!((&all["items"][0]["op"], &all["items"][0]["version"], &all["oldest"]), (&json!("delete"), &json!(3), &json!(0)));
    assert_eq!(all["items"][1]["payload"], 2);
    let cursor = all["next_cursor"].as_str().unwrap();
    let rest = client.get(&format!("/v1/objects/doc/a?history=true&limit=2&cursor={cursor}&payload=false")).await.json();
    assert_eq!(
        (rest["items"].as_array().unwrap().len(), &rest["items"][0]["revision"], &rest["next_cursor"]),
        (1, &json!(1), &json!(null))
    );
    assert!(rest["items"][0].get("payload").is_none());
    for bad in ["at=x", "at=-1", "history=1", "limit=5", "history=true&limit=0", "history=true&at=1", "history=true&limit=1001"] {
        client.get(&format!("{path}?{bad}")).await.is_problem(400, "invalid_request");
    }
    client.get(&format!("{path}?history=true&cursor=x")).await.is_problem(400, "invalid_cursor");
}

/// The envelope of an object.
async fn envelope(client: &Client, path: &str) -> serde_json::Value {
    client.send("GET", path, &[("accept", "application/vnd.onward.object+json")], "").await.json()
}

#[tokio::test]
async fn labels_stay_unless_a_write_names_them() {
    let client = Client::memory().await;
    let path = "/v1/objects/doc/a";
    let put = async |headers: &[(&str, &str)], body: &str| {
        let headers = [&[("content-type", "application/json"), ("if-match", "*")], headers].concat();
        client.send("PUT", path, &headers, body.to_owned()).await
    };
    let two = [("if-none-match", "*"), ("onward-label", "team=blue"), ("onward-label", "gr%C3%B6%C3%9Fe=a=b%25")];
    assert_eq!(client.send("PUT", path, &two, "1").await.status, 201);
    assert_eq!(envelope(&client, path).await["labels"], json!({"team": "blue", "größe": "a=b%"}));
    assert_eq!(put(&[], "2").await.status, 200);
    assert_eq!(envelope(&client, path).await["labels"], json!({"team": "blue", "größe": "a=b%"}));
    put(&[("onward-label", "team=red"), ("onward-labels", "merge")], "2").await;
    assert_eq!(envelope(&client, path).await["labels"], json!({"team": "red", "größe": "a=b%"}));
    let same = put(&[("onward-label", "team=red"), ("onward-labels", "merge")], "2").await.json();
    assert_eq!((&same["changed"], &same["version"]), (&json!(false), &json!(3)));
    let patch = [("content-type", "application/merge-patch+json"), ("onward-label", "x=")];
    assert_eq!(client.send("PATCH", path, &patch, "{\"n\":1}").await.status, 200);
    assert_eq!(envelope(&client, path).await["labels"], json!({"x": ""}));
    put(&[("onward-labels", "set")], "3").await;
    assert_eq!(envelope(&client, path).await["labels"], json!({}));
    // Each earlier state has its own.
    let past = client.get(&format!("{path}?history=true&payload=false")).await.json();
    let labels: Vec<_> = past["items"].as_array().unwrap().iter().map(|item| item["labels"].clone()).collect();
    let blue = json!({"team": "blue", "größe": "a=b%"});
    assert_eq!(labels, [json!({}), json!({"x": ""}), json!({"team": "red", "größe": "a=b%"}), blue.clone(), blue.clone()]);
    assert_eq!(envelope(&client, &format!("{path}?at=2")).await["labels"], blue);
}

#[tokio::test]
async fn bad_labels_and_times_to_live_are_refused_and_write_nothing() {
    let client = Client::memory().await;
    let long = format!("a={}", "v".repeat(257));
    let key = format!("{}=v", "k".repeat(65));
    let mut cases: Vec<Vec<(&str, &str)>> =
        ["", "=v", "novalue", "a=%zz", "a=%ff", "a=%0a", "a%00=b", &long, &key].iter().map(|bad| vec![("onward-label", *bad)]).collect();
    cases.extend(["", "both", "Set"].map(|bad| vec![("onward-label", "a=b"), ("onward-labels", bad)]));
    cases.push(vec![("onward-label", "a=1"), ("onward-label", "a=2")]);
    cases.push(vec![("onward-labels", "set"), ("onward-labels", "set")]);
    let many: Vec<String> = (0..33).map(|n| format!("k{n}=v")).collect();
    cases.push(many.iter().map(|label| ("onward-label", label.as_str())).collect());
    cases.extend(
        ["", "0", "999", "-1", "1.5", "1s", "Never", "315619200001", "18446744073709551616"].map(|bad| vec![("onward-ttl-ms", bad)]),
    );
    cases.push(vec![("onward-ttl-ms", "5000"), ("onward-ttl-ms", "5000")]);
    for case in &cases {
        let headers = [&[("content-type", "application/json"), ("if-none-match", "*")], &case[..]].concat();
        client.send("PUT", "/v1/objects/p/a", &headers, "1").await.is_problem(400, "invalid_request");
    }
    assert_eq!(client.get("/v1/objects/p/a").await.status, 404);
    // At the limits; a delete leaves nothing that could have them.
    let most: Vec<_> = many[..32].iter().map(|label| ("onward-label", label.as_str())).collect();
    let headers = [&[("if-none-match", "*"), ("onward-ttl-ms", "315619200000")], &most[..]].concat();
    assert_eq!(client.send("PUT", "/v1/objects/p/a", &headers, "1").await.status, 201);
    let one_more = [("if-match", "*"), ("onward-label", "more=1"), ("onward-labels", "merge")];
    client.send("PUT", "/v1/objects/p/a", &one_more, "1").await.is_problem(400, "invalid_request");
    for wish in [("onward-label", "a=b"), ("onward-ttl-ms", "5000")] {
        client.send("DELETE", "/v1/objects/p/a", &[("if-match", "*"), wish], "").await.is_problem(400, "invalid_request");
    }
    assert_eq!(client.get("/v1/objects/p/a").await.header("etag"), "\"1\"");
}

#[tokio::test]
async fn lists_are_by_label_and_a_cursor_belongs_to_its_labels() {
    let client = Client::memory().await;
    for (name, labels) in [("a", &["team=blue", "urgent="][..]), ("b", &["team=red"]), ("c", &["team=blue"]), ("d", &[])] {
        let headers: Vec<_> = [("if-none-match", "*")].into_iter().chain(labels.iter().map(|label| ("onward-label", *label))).collect();
        client.send("PUT", &format!("/v1/objects/doc/{name}"), &headers, "1").await;
    }
    for (query, names) in [
        ("label=team%3Dblue", &["a", "c"][..]),
        ("label=team=blue", &["a", "c"]),
        ("label=team", &["a", "b", "c"]),
        ("label=team=blue&label=urgent", &["a"]),
        ("label=urgent=", &["a"]),
        ("label=urgent=yes", &[]),
        ("label=team=red&label=team=blue", &[]),
        ("label=t%25", &[]),
        ("prefix=b&label=team", &["b"]),
    ] {
        let page = client.get(&format!("/v1/objects/doc?{query}")).await.json();
        let found: Vec<_> = page["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
        assert_eq!(found, names, "{query}");
    }
    let first = client.get("/v1/objects/doc?label=team&limit=1").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = client.get(&format!("/v1/objects/doc?label=team&limit=1&cursor={cursor}")).await.json();
    assert_eq!((&first["items"][0]["labels"]["team"], &second["items"][0]["name"]), (&json!("blue"), &json!("b")));
    for other in ["", "label=team=blue&", "label=team&label=urgent&"] {
        client.get(&format!("/v1/objects/doc?{other}cursor={cursor}")).await.is_problem(400, "invalid_cursor");
    }
    let seventeen: String = (0..17).map(|n| format!("label=k{n}&")).collect();
    for bad in ["label=", "label==v", "label=a%00", &seventeen, &format!("label=a={}", "v".repeat(257))] {
        client.get(&format!("/v1/objects/doc?{bad}")).await.is_problem(400, "invalid_request");
        client.get(&format!("/v1/watch?{bad}")).await.is_problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn an_object_expires_by_a_delete_that_says_so() {
    let clock = onward::time::Clock::manual();
    let client = Client::by_clock(clock.clone()).await;
    let mut events = client.events("/v1/watch", &[]).await;
    let headers = [("if-none-match", "*"), ("onward-ttl-ms", "60000"), ("onward-label", "a=b")];
    client.send("PUT", "/v1/objects/session/a", &headers, "1").await;
    client.send("PUT", "/v1/objects/session/b", &headers, "1").await;
    client.send("PUT", "/v1/objects/session/b", &[("if-match", "*"), ("onward-ttl-ms", "never")], "1").await;
    let made = envelope(&client, "/v1/objects/session/a").await;
    assert!(made["expires_at"].as_str().unwrap() > made["created_at"].as_str().unwrap());
    assert!(envelope(&client, "/v1/objects/session/b").await.get("expires_at").is_none());
    clock.advance(std::time::Duration::from_secs(60));
    let gone = loop {
        let change = events.next_of("change").await;
        if change.data["changes"][0]["op"] != "put" {
            break change;
        }
    };
    let change = &gone.data["changes"][0];
    assert_eq!((&change["op"], &change["name"], &change["version"]), (&json!("expire"), &json!("a"), &json!(2)));
    assert_eq!(change["labels"], json!({"a": "b"}));
    client.get("/v1/objects/session/a").await.is_problem(404, "not_found");
    assert_eq!(client.get("/v1/objects/session/b").await.status, 200);
    let past = client.get("/v1/objects/session/a?history=true").await.json();
    assert_eq!((&past["items"][0]["op"], past["items"][1]["expires_at"].is_string()), (&json!("expire"), true));
}
