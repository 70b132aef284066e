//! What the program itself costs: memory of an idle `onward dev`, and a command under a lock against the command alone.
//!
//! `cargo bench -p onward-cli --bench command`. Absolute bars: who runs a cron job or a server waits and pays for just this.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark measures time and prints it"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ONWARD: &str = env!("CARGO_BIN_EXE_onward");
const RUNS: usize = 60;
/// How long a server does nothing before its memory is looked at.
const IDLE: Duration = Duration::from_secs(5);

/// A server that is ended with this.
struct Dev(Child);

impl Drop for Dev {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let (dev, url) = dev(folder.path());
    std::thread::sleep(IDLE);
    let status = std::fs::read_to_string(format!("/proc/{}/status", dev.0.id())).unwrap();
    let resident: f64 = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap();
    println!("onward dev, idle for {} s: {:.1} MiB resident (bar 40)", IDLE.as_secs(), resident / 1024.0);
    let token = folder.path().join("dev.token");
    let file = format!("sqlite:{}", folder.path().join("own.db").display());
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..=RUNS {
        times[0].push(run(Command::new("true")));
        for (side, url) in [(1, &url), (2, &file)] {
            let mut locked = Command::new(ONWARD);
            locked
                .args(["--url", url, "--quiet", "lock", "run", "bench", "--", "true"])
                .env("ONWARD_TOKEN", std::fs::read_to_string(&token).unwrap().trim());
            times[side].push(run(locked));
        }
    }
    let [alone, server, file] = times.map(|mut all| {
        // The first one reads the program from the disk.
        all.remove(0);
        all.sort_unstable();
        all[all.len() / 2].as_secs_f64() * 1e3
    });
    println!("`true` takes {alone:.2} ms, p50 of {RUNS}");
    println!(
        "`onward lock run KEY -- true` takes longer by {:.2} ms through a server, {:.2} ms on a file (bar 30)",
        server - alone,
        file - alone
    );
}

fn dev(data: &Path) -> (Dev, String) {
    let mut child = Command::new(ONWARD).args(["dev", "--port", "0", "--data"]).arg(data).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = lines
        .find_map(|line| Some(line.unwrap().strip_prefix("API")?.split_whitespace().next()?.trim_end_matches("/v1").to_owned()))
        .unwrap();
    // What it still has to say is nobody's to read, but must not stop it.
    std::thread::spawn(move || lines.for_each(drop));
    (Dev(child), url)
}

fn run(mut command: Command) -> Duration {
    let begun = Instant::now();
    assert!(command.status().unwrap().success());
    begun.elapsed()
}
