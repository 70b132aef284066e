//! Redis: its servers for tests, and the parts on it.

mod cache;
mod cache_faults;
mod tls;
mod utopia;
mod wiring;

use onward::testing::servers::{Keep, Redis};

#[test]
fn a_private_server_is_killed_paused_and_restarted() {
    let server = Redis::start();
    assert_eq!(server.ask("SET a 1"), "OK");
    server.restart(Keep::Data);
    assert_eq!(server.ask("GET a"), "1");
    server.pause();
    server.go_on();
    assert_eq!(server.ask("PING"), "PONG");
    server.restart(Keep::Nothing);
    assert_eq!(server.ask("GET a"), "");
    let replica = server.replica();
    assert!(replica.ask("SET a 1").starts_with("READONLY"));
}
