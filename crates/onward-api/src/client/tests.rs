use std::convert::Infallible;

use http_body_util::Full;
use tower::service_fn;

use super::*;

/// A server that answers every request with `status`, `headers` and `body`.
fn answering(status: u16, headers: &'static [(&'static str, &'static str)], body: &'static str) -> Client {
    let service = service_fn(move |_request: http::Request<Full<Bytes>>| async move {
        let mut response = http::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        Ok::<_, Infallible>(response.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap())
    });
    Client::local(Local::new(service), Some("secret")).unwrap()
}

#[tokio::test]
async fn a_problem_document_is_read_with_its_members_and_headers() {
    let body = r#"{"type":"urn:onward:problem:version_conflict","title":"version conflict","status":412,"code":"version_conflict",
        "detail":"it is at another version","effect":"not_applied","retryable":false,"request_id":"r1","current":{"version":7}}"#;
    let problem = answering(412, &[("etag", "\"7\"")], body).call(Request::put("objects/a/b")).await.unwrap_err();
    assert_eq!((problem.code(), problem.effect(), problem.document().status), (Code::VersionConflict, Effect::NotApplied, 412));
    assert_eq!((problem.current().unwrap().get(), problem.request_id()), (r#"{"version":7}"#, Some("r1")));
    assert_eq!(problem.header("etag"), Some("\"7\""));
}

#[tokio::test]
async fn a_proxys_page_leaves_the_effect_of_a_write_unknown() {
    let client = answering(502, &[], "<html>bad gateway</html>");
    assert_eq!(client.call(Request::put("objects/a/b")).await.unwrap_err().effect(), Effect::Unknown);
    let read = client.call(Request::get("objects/a/b")).await.unwrap_err();
    assert_eq!((read.effect(), read.code()), (Effect::NotApplied, Code::Unavailable));
}

#[tokio::test]
async fn a_refused_connection_means_not_applied() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = Client::connect(&format!("http://{free}"), None).unwrap();
    let problem = client.call(Request::put("objects/a/b")).await.unwrap_err();
    assert_eq!((problem.code(), problem.effect(), problem.code().exit()), (Code::Unavailable, Effect::NotApplied, 8));
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_send_leaves_a_write_unknown() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Client::connect(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        std::io::Read::read(&mut socket, &mut [0; 4]).unwrap();
    });
    let problem = client.call(Request::put("objects/a/b").body("text/plain", "x")).await.unwrap_err();
    server.join().unwrap();
    assert_eq!((problem.code(), problem.effect()), (Code::OutcomeUnknown, Effect::Unknown));
}

#[test]
fn plain_http_goes_to_loopback_only() {
    for good in ["http://127.0.0.1:1", "http://localhost", "http://[::1]:7337/", "http://127.9.9.9"] {
        assert!(Client::connect(good, None).is_ok(), "{good}");
    }
    for bad in [
        "http://example.com",
        "http://10.0.0.1",
        "ftp://localhost",
        "http://u:p@localhost",
        "http://localhost/x",
        "nonsense",
        "http://127.0.0.1.example.com",
    ] {
        assert_eq!(Client::connect(bad, None).unwrap_err().code(), Code::InvalidRequest, "{bad}");
    }
    assert!(Client::connect("http://example.com?insecure=true", None).is_ok(), "who says so means it");
    assert!(Client::connect("http://example.com?insecure=false", None).is_err());
}

#[test]
fn a_ca_file_without_a_certificate_trusts_nobody() {
    let connect = |path: &str| Client::connect_trusting("https://example.com", None, Path::new(path)).unwrap_err();
    assert_eq!(connect("/nowhere").code(), Code::InvalidRequest);
    assert_eq!(connect(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).code(), Code::InvalidRequest);
}

#[tokio::test]
async fn a_header_that_cannot_travel_is_refused_before_the_send() {
    let problem = answering(200, &[], "").call(Request::put("x").header("idempotency-key", "a\nb")).await.unwrap_err();
    assert_eq!((problem.code(), problem.effect()), (Code::InvalidRequest, Effect::NotApplied));
}

#[tokio::test]
async fn events_are_read_across_comments_and_line_ends() {
    let body = ": hello\r\n\r\nevent: open\ndata: {\"epoch\":\"e\"}\n\nevent: change\nid: 7\ndata: a\ndata: b\n\nretry: 250\nevent: bye\ndata: {}\n\n";
    let mut events = answering(200, &[], body).stream(Request::get("watch")).await.unwrap();
    let open = events.next().await.unwrap().unwrap();
    assert_eq!((open.name.as_str(), open.id, open.data.as_str()), ("open", None, "{\"epoch\":\"e\"}"));
    let change = events.next().await.unwrap().unwrap();
    assert_eq!((change.id.as_deref(), change.data.as_str()), (Some("7"), "a\nb"));
    assert_eq!(events.next().await.unwrap().unwrap().retry, Some(Duration::from_millis(250)));
    assert_eq!(events.next().await.unwrap(), None);
}
