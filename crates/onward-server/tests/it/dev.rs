use std::os::unix::fs::PermissionsExt;

use onward_server::{Dev, DevOptions, Drained, Orders, StartError};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{answer, soon};

async fn call(url: &str, request: String) -> (u16, String) {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(&mut stream).await
}

async fn with_dev<T>(options: DevOptions, body: impl AsyncFnOnce(Value) -> T) -> T {
    let dev = Dev::start(options).await.unwrap();
    let ready = serde_json::to_value(dev.ready()).unwrap();
    let orders = Orders::default();
    let task = tokio::spawn({
        let orders = orders.clone();
        async move { dev.run(&orders).await }
    });
    let out = body(ready).await;
    orders.end();
    assert_eq!(soon(task).await.unwrap(), Drained::Clean);
    out
}

#[tokio::test]
async fn a_temporary_server_is_ready_and_leaves_nothing() {
    let options = DevOptions { data: None, port: Some(0) };
    let folder = with_dev(options, async |ready: Value| {
        assert_eq!(ready["temporary"], true);
        assert_eq!((&ready["ui_url"], &ready["docs_url"]), (&Value::Null, &Value::from(format!("{}/docs", ready["url"].as_str().unwrap()))));
        assert_eq!(ready["pid"], std::process::id());
        let folder = ready["data_dir"].as_str().unwrap().to_owned();
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        for secret in ["dev.token", "audit.key"] {
            assert_eq!(std::fs::metadata(format!("{folder}/{secret}")).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let url = ready["url"].as_str().unwrap();
        let token = ready["token"].as_str().unwrap();
        let put = format!("PUT /v1/objects/project/42 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nIf-None-Match: *\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{{\"open\":true}}");
        assert_eq!(call(url, put).await.0, 201);
        assert_eq!(call(url, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned()).await, (200, "ready\n".to_owned()));
        folder
    })
    .await;
    assert!(!std::path::Path::new(&folder).exists());
}

#[tokio::test]
async fn a_kept_folder_keeps_objects_chains_and_token_and_is_for_one_process() {
    let base = tempfile::tempdir().unwrap();
    let options = DevOptions { data: Some(base.path().join("data")), port: Some(0) };
    let token = with_dev(options.clone(), async |ready: Value| {
        let second = Dev::start(options.clone()).await;
        assert!(matches!(second, Err(StartError::Usage(_))), "{second:?}");
        let token = ready["token"].as_str().unwrap().to_owned();
        let body = r#"{"entries":[{"kind":"a"}]}"#;
        let append = format!(
            "POST /v1/chains/main/entries HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(call(ready["url"].as_str().unwrap(), append).await.0, 201);
        token
    })
    .await;
    with_dev(options, async |ready: Value| {
        assert_eq!((ready["token"].as_str(), &ready["temporary"]), (Some(token.as_str()), &Value::Bool(false)));
        let verify = format!(
            "POST /v1/chains/main/verify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
        );
        let (status, report) = call(ready["url"].as_str().unwrap(), verify).await;
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(
            (status, &report["verdict"], &report["authenticated"]),
            (200, &Value::from("ok"), &Value::Bool(true)),
            "keyed: {report}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_busy_port_that_was_asked_for_is_refused() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let refused = Dev::start(DevOptions { data: None, port: Some(port) }).await;
    assert!(matches!(refused, Err(StartError::Usage(_))), "{refused:?}");
}

#[tokio::test]
async fn a_damaged_token_file_is_refused() {
    let base = tempfile::tempdir().unwrap();
    std::fs::write(base.path().join("dev.token"), "onw_x\n").unwrap();
    let refused = Dev::start(DevOptions { data: Some(base.path().to_owned()), port: Some(0) }).await;
    assert!(matches!(refused, Err(StartError::Usage(_))));
}
