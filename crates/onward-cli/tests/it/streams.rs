use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::mpsc::{Sender, channel};

use crate::support::Home;

/// Passes connections on to `target`; each message cuts those that are open.
fn proxy(target: String) -> (String, Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (cut, cuts) = channel::<()>();
    let (opened, open) = channel::<TcpStream>();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(target.trim_start_matches("http://")).unwrap();
            opened.send(client.try_clone().unwrap()).unwrap();
            for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        if to.write_all(&buffer[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    std::thread::spawn(move || {
        while cuts.recv().is_ok() {
            open.try_iter().for_each(|stream| stream.shutdown(std::net::Shutdown::Both).unwrap_or_default());
        }
    });
    (url, cut)
}

fn put(home: &Home, name: &str) {
    let file = home.file("p.json", "{}");
    home.expect(0, &["object", "put", name, &file, "--create"]);
}

fn changed(line: &str) -> String {
    let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
    event["changes"][0]["name"].as_str().unwrap().to_owned()
}

#[test]
fn a_watch_goes_on_after_a_cut_and_skips_nothing() {
    let home = Home::with_server();
    let (url, cut) = proxy(home.ready("url"));
    let token = home.file("token", home.ready("token"));
    let mut watch = home.start(&mut home.command(&["--url", &url, "--token-file", &token, "object", "watch", "project", "--from", "0"]));
    put(&home, "project/a");
    put(&home, "other/x");
    assert_eq!(changed(&watch.line()), "a");
    for name in ["b", "c"] {
        cut.send(()).unwrap();
        put(&home, &format!("project/{name}"));
        assert_eq!(changed(&watch.line()), name);
    }
    watch.signal(rustix::process::Signal::INT);
    assert_eq!(watch.code(), Some(130));
}

#[test]
fn a_tail_follows_and_begins_where_it_is_told() {
    let home = Home::with_server();
    let append = |kind: &str| home.expect(0, &["audit", "append", "orders", "--kind", kind]);
    append("one");
    append("two");
    let mut tail = home.start(&mut home.command(&["audit", "tail", "orders", "-f", "--from", "3"]));
    assert!(tail.line().contains("\"two\""));
    append("three");
    assert!(tail.line().contains("\"three\""));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let home = Home::with_server();
    put(&home, "project/a");
    for args in [&["object", "list", "project"][..], &["object", "list", "project", "-o", "json"], &["object", "watch", "--from", "0"]] {
        let mut child = home.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&ended.stderr).replace("following from revision 0\n", "");
        assert_eq!((ended.status.code(), err.as_str()), (Some(0), ""), "{args:?}");
    }
}
