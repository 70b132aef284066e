//! A private `redis-server`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use super::{Folder, free_port};
use crate::time::Clock;

/// How long a server may take to start or answer; only a broken one lets it pass.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What a restart leaves of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything that was there.
    Data,
    /// Nothing: the server comes back empty.
    Nothing,
}

/// A private `redis-server` on a loopback port; dropping it kills it.
#[derive(Debug)]
pub struct Redis {
    folder: Folder,
    port: u16,
    options: Vec<String>,
    child: Mutex<Child>,
}

impl Redis {
    /// Starts a server that keeps nothing on disk by itself.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with options as on its command line, such as `--maxmemory 4mb`, a word each.
    pub fn start_with(options: &[&str]) -> Self {
        let folder = Folder::new("redis");
        let options: Vec<String> = options.iter().map(|word| (*word).to_owned()).collect();
        // Another process may take the port before the server does.
        for _ in 0..10 {
            let port = free_port();
            if let Some(child) = run(&folder, port, &options) {
                return Self { folder, port, options, child: Mutex::new(child) };
            }
        }
        panic!("redis-server does not start");
    }

    /// Starts a server that follows this one and refuses writes.
    pub fn replica(&self) -> Self {
        let replica = Self::start_with(&["--replicaof", "127.0.0.1", &self.port.to_string()]);
        let patience = Clock::system().now() + PATIENCE;
        while !replica.ask("INFO replication").contains("master_link_status:up") {
            assert!(Clock::system().now() < patience, "the replica does not find its master");
            std::thread::yield_now();
        }
        replica
    }

    /// Returns its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.lock().id()
    }

    /// Sends one command on a connection of its own and returns the answer's text; for what has no argument with a blank in it.
    pub fn ask(&self, command: &str) -> String {
        ask(self.port, command).expect("redis answers")
    }

    /// Kills the server, as `kill -9` does.
    pub fn kill(&self) {
        let mut child = self.child.lock();
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
    }

    /// Starts it again on the same port after [`Redis::kill`], empty.
    pub fn revive(&self) {
        let patience = Clock::system().now() + PATIENCE;
        loop {
            if let Some(child) = run(&self.folder, self.port, &self.options) {
                *self.child.lock() = child;
                return;
            }
            assert!(Clock::system().now() < patience, "redis-server does not start again");
        }
    }

    /// Kills the server and starts it again on the same port.
    pub fn restart(&self, keep: Keep) {
        match keep {
            Keep::Data => assert_eq!(self.ask("SAVE"), "OK"),
            Keep::Nothing => {
                let _ = std::fs::remove_file(self.folder.path().join("dump.rdb"));
            }
        }
        self.kill();
        self.revive();
    }

    /// Lets the server stand still: connections stay and nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a paused server go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("it is ours");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let mut child = self.child.lock();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Starts a server and waits until it answers; `None`: it ended, since its port is taken.
fn run(folder: &Folder, port: u16, options: &[String]) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"])
        .args(["--repl-diskless-sync-delay", "0"])
        .args(options)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    let patience = Clock::system().now() + PATIENCE;
    loop {
        if child.try_wait().expect("it is ours").is_some() {
            return None;
        }
        // One that asks for a password is up, too; one that still loads is not.
        if let Some(answer) = ask(port, "PING")
            && !answer.starts_with("LOADING")
        {
            // An answer from a stranger on the port that we lost: ours ends at once.
            std::thread::yield_now();
            return child.try_wait().expect("it is ours").is_none().then_some(child);
        }
        assert!(Clock::system().now() < patience, "redis-server does not answer");
        std::thread::yield_now();
    }
}

fn ask(port: u16, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.read_line(&mut line).ok()?;
    let line = line.trim_end();
    match line.split_at_checked(1)? {
        ("$", "-1") => Some(String::new()),
        ("$", length) => {
            let mut text = vec![0; length.parse().ok()?];
            answer.read_exact(&mut text).ok()?;
            String::from_utf8(text).ok()
        }
        ("+" | "-" | ":", text) => Some(text.to_owned()),
        _ => Some(line.to_owned()),
    }
}
