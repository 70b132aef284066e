use rustix::process::Signal;

use crate::support::{Home, Running};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

/// Runs until it is told to end.
const UNTIL_USR1: &str = "trap 'exit 0' USR1; while :; do sleep 0.05; done";

/// Starts a holder that tells its fencing token and then runs `then`.
fn holder(home: &Home, options: &[&str], then: &str) -> (Running, String) {
    // The trap stands before the token is told.
    let (trap, then) = then.split_once("; ").filter(|(trap, _)| trap.starts_with("trap")).unwrap_or((":", then));
    let script = format!("{trap}; echo $ONWARD_FENCE; {then}");
    let mut running = home.start(&mut home.command(&[&["lock", "run", "nightly"], options, &["--", "sh", "-c", &script]].concat()));
    let token = running.line();
    assert!(token.parse::<u64>().is_ok(), "no token: {token:?} {}", running.complaints());
    (running, token)
}

#[test]
fn the_commands_exit_code_and_environment_pass_through() {
    let home = Home::with_server();
    let run = |script: &str| home.run(&["lock", "run", "nightly", "--", "sh", "-c", script]);
    assert_eq!(run("exit 7").code, Some(7));
    assert_eq!(run("kill -9 $$").code, Some(137));
    let env = run("echo $ONWARD_LOCK_KEY ${#ONWARD_LOCK_OWNER} $((ONWARD_FENCE > 0)) ${ONWARD_UNLOCKED-no}");
    assert_eq!((env.code, env.text().trim()), (Some(0), "nightly 32 1 no"));
    assert_eq!(home.run(&["lock", "run", "nightly", "--", "/no/such/command"]).code, Some(127));
    assert_eq!(home.run(&["lock", "run", "nightly", "--", "no-such-command"]).code, Some(127));
    assert_eq!(home.run(&["lock", "run", "nightly", "--", "/"]).code, Some(126));
    home.expect(2, &["lock", "run", "nightly"]);
    home.expect(2, &["lock", "run", "nightly", "--ttl", "1ms", "--", "true"]);
    home.expect(2, &["lock", "run", "nightly", "--ttl", "3s", "--grace", "2s", "--", "true"]);
    home.expect(2, &["lock", "run", "nightly", "--ttl", "3", "--", "true"]);
    home.expect(4, &["lock", "status", "nightly"]);
}

#[test]
fn the_command_gets_the_three_standard_files_only() {
    let home = Home::bare();
    // A shell leaves file 9 open for whatever it starts.
    let script = format!("exec 9</dev/null; {} lock run nightly -- ls /proc/self/fd", env!("CARGO_BIN_EXE_onward"));
    let said = home.other("sh", &["-c", &script]);
    // Number 3 is the folder that is listed.
    assert_eq!(said.text().split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"], "{said:?}");
}

#[test]
fn one_runs_and_the_others_find_it_taken() {
    let home = Home::with_server();
    one_runs(&home);
}

#[test]
fn two_processes_on_one_file_exclude_each_other() {
    // No URL and no server: the file in the user's data folder.
    one_runs(&Home::bare());
}

fn one_runs(home: &Home) {
    let (mut running, first) = holder(home, &[], UNTIL_USR1);
    home.expect(0, &["lock", "status", "nightly"]);
    home.expect(75, &["lock", "run", "nightly", "--", "true"]);
    home.expect(9, &["lock", "run", "nightly", "--contention-exit", "9", "--", "true"]);
    let skipped = home.run(&["lock", "run", "nightly", "--on-contention", "skip", "--", "echo", "ran"]);
    assert_eq!((skipped.code, skipped.text().as_str()), (Some(0), ""));
    home.expect(0, &["lock", "run", "other", "--", "true"]);
    running.signal(Signal::USR1);
    assert_eq!(running.code(), Some(0));
    let second = home.expect(0, &["lock", "run", "nightly", "--wait", "20s", "--", "sh", "-c", "echo $ONWARD_FENCE"]);
    assert!(second.trim().parse::<u64>().unwrap() > first.parse().unwrap());
}

#[test]
fn a_waiter_gets_the_lock_when_it_is_given_back() {
    let home = Home::with_server();
    let (running, _) = holder(&home, &[], UNTIL_USR1);
    let mut waiter = home.start(&mut home.command(&["lock", "run", "nightly", "--wait", "20s", "--", "echo", "mine"]));
    running.signal(Signal::USR1);
    assert_eq!((waiter.line().as_str(), waiter.code()), ("mine", Some(0)));
}

#[test]
fn signals_go_to_the_command_and_its_answer_counts() {
    let home = Home::with_server();
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT"), (Signal::HUP, "HUP"), (Signal::USR2, "USR2")] {
        let (mut running, _) = holder(&home, &[], &format!("trap 'echo got && exit 9' {name}; while :; do sleep 0.05; done"));
        running.signal(signal);
        assert_eq!((running.line().as_str(), running.code()), ("got", Some(9)), "{name}");
    }
    home.expect(4, &["lock", "status", "nightly"]);
}

#[test]
fn a_lease_is_renewed_while_the_command_runs() {
    let home = Home::with_server();
    let (mut running, _) = holder(&home, &["--ttl", "900ms"], "sleep 2; exit 3");
    assert_eq!(running.code(), Some(3), "{}", running.complaints());
}

#[test]
fn a_stopped_holder_ends_after_its_lease_and_its_late_write_is_refused() {
    let home = Home::with_server();
    let file = home.file("p.json", "{}");
    let (mut running, old) = holder(&home, &["--ttl", "500ms"], "exec sleep 600");
    running.signal(Signal::STOP);
    let new = home.expect(0, &["lock", "run", "nightly", "--wait", "20s", "--", "sh", "-c", "echo $ONWARD_FENCE"]);
    let put = |token: &str| home.run(&["object", "put", "report/1", &file, "--overwrite", "--fence", &format!("nightly={token}")]).code;
    assert_eq!(put(new.trim()), Some(0));
    assert_eq!(put(&old), Some(6));
    running.signal(Signal::CONT);
    assert_eq!(running.code(), Some(120));
    // The output ends only when the command is dead.
    assert_eq!(running.rest(), "");
}

#[test]
fn a_command_is_ended_before_a_lease_that_cannot_be_renewed() {
    let mut home = Home::with_server();
    let (mut running, _) = holder(&home, &["--ttl", "900ms"], "trap 'echo asked' TERM; while :; do sleep 0.05; done");
    home.server().signal(Signal::KILL);
    assert_eq!((running.rest().as_str(), running.code()), ("asked\n", Some(120)));
}

#[test]
fn the_command_dies_with_a_wrapper_that_is_killed() {
    let home = Home::with_server();
    let (mut running, _) = holder(&home, &[], "exec sleep 600");
    running.signal(Signal::KILL);
    assert_eq!(running.rest(), "");
}

#[test]
fn without_an_engine_the_policy_decides() {
    let home = Home::bare();
    let away = ["--url", "http://127.0.0.1:1", "lock", "run", "nightly"];
    let run = |rest: &[&str]| home.run(&[&away[..], rest].concat());
    assert_eq!(run(&["--", "true"]).code, Some(125));
    let open = run(&["--on-error", "open", "-q", "--", "sh", "-c", "echo ${ONWARD_FENCE-none} $ONWARD_UNLOCKED"]);
    assert_eq!((open.code, open.text().trim()), (Some(0), "none 1"));
    assert!(open.err.contains("WITHOUT A LOCK"), "{}", open.err);
}

#[test]
fn locking_that_is_switched_off_lets_the_command_run_and_says_so() {
    let home = Home::bare();
    let off = home.command(&["lock", "run", "nightly", "--", "sh", "-c", "echo ${ONWARD_FENCE-none} $ONWARD_UNLOCKED"]);
    let off = { off }.env("ONWARD__LOCKS__ENABLED", "false").output().unwrap();
    assert_eq!((off.status.code(), String::from_utf8_lossy(&off.stdout).trim()), (Some(0), "none 1"), "{off:?}");
    assert!(String::from_utf8_lossy(&off.stderr).contains("switched off"), "{off:?}");
}

#[test]
fn a_waiter_that_is_told_to_end_leaves_no_lock_behind() {
    let home = Home::with_server();
    let (holding, _) = holder(&home, &[], UNTIL_USR1);
    let mut waiter = home.start(&mut home.command(&["lock", "run", "nightly", "--wait", "60s", "-v", "--", "true"]));
    waiters(&home, 1);
    waiter.signal(Signal::TERM);
    assert_eq!(waiter.code(), Some(143));
    holding.signal(Signal::USR1);
    home.expect(0, &["lock", "run", "nightly", "--wait", "20s", "--", "true"]);
}

/// Waits until so many wait; each look is a round trip.
fn waiters(home: &Home, number: u64) {
    while home.run(&["lock", "status", "nightly", "-o", "json"]).json()["waiters"] != number {}
}

#[test]
fn a_least_hold_keeps_the_others_out_after_the_command() {
    let home = Home::with_server();
    home.expect(0, &["lock", "run", "tick", "--ttl", "900ms", "--min-hold", "50s", "--", "true"]);
    home.expect(75, &["lock", "run", "tick", "--", "true"]);
    let left = home.run(&["lock", "status", "tick", "-o", "json"]).json()["remaining_ms"].as_u64().unwrap();
    assert!((30_000..=50_001).contains(&left), "{left}");
    home.expect(2, &["lock", "run", "tick", "--min-hold", "25h", "--", "true"]);
    home.expect(2, &["lock", "run", "tick", "--max-hold", "0s", "--", "true"]);
}

#[test]
fn a_command_is_dead_when_the_longest_hold_is_over() {
    let home = Home::with_server();
    let (mut running, _) = holder(&home, &["--max-hold", "600ms"], "trap 'echo asked' TERM; while :; do sleep 0.05; done");
    assert_eq!((running.rest().as_str(), running.code()), ("asked\n", Some(120)));
    assert!(running.complaints().contains("held no longer"), "{}", running.complaints());
    home.expect(4, &["lock", "status", "nightly"]);
}

/// Must not come back: a wrapper that killed the shell but not its child (hashicorp/consul#2022).
#[test]
fn grandchildren_die_with_the_lease() {
    let mut home = Home::with_server();
    // The shell waits; its child holds the output open until it is dead.
    let (mut running, _) = holder(&home, &["--ttl", "900ms"], "trap '' TERM; (trap '' TERM; while :; do sleep 0.05; done) & wait; wait");
    home.server().signal(Signal::KILL);
    assert_eq!((running.rest().as_str(), running.code()), ("", Some(120)));
}

#[test]
fn a_stopped_command_keeps_its_lock() {
    let home = Home::with_server();
    let (mut running, _) = holder(&home, &["--ttl", "500ms"], "trap 'exit 0' USR1; kill -STOP $$; while :; do sleep 0.05; done");
    // Renewed beyond its first lease while nothing of it runs.
    let token = |home: &Home| home.run(&["lock", "status", "nightly", "-o", "json"]).json()["token"].clone();
    let first = token(&home);
    assert_eq!(home.run(&["lock", "run", "nightly", "--wait", "1500ms", "--", "true"]).code, Some(75));
    assert_eq!(token(&home), first);
    running.signal(Signal::CONT);
    running.signal(Signal::USR1);
    assert_eq!(running.code(), Some(0));
}

#[test]
fn every_signal_of_a_job_reaches_the_command() {
    let home = Home::with_server();
    for (signal, name) in [(Signal::QUIT, "QUIT"), (Signal::USR1, "USR1"), (Signal::WINCH, "WINCH"), (Signal::CONT, "CONT")] {
        let (mut running, _) = holder(&home, &[], &format!("trap 'echo got && exit 9' {name}; while :; do sleep 0.05; done"));
        running.signal(signal);
        assert_eq!((running.line().as_str(), running.code()), ("got", Some(9)), "{name}");
    }
}

#[test]
fn bad_keys_and_times_are_usage() {
    use std::os::unix::ffi::OsStrExt as _;
    let home = Home::bare();
    for key in ["", "onward:ours", "line\nbreak", &"x".repeat(513)] {
        home.expect(2, &["lock", "run", key, "--", "true"]);
    }
    let mut odd = home.command(&["lock", "run"]);
    let odd = odd.arg(std::ffi::OsStr::from_bytes(b"\xff")).args(["--", "true"]).output().unwrap();
    assert_eq!(odd.status.code(), Some(2), "{odd:?}");
    for time in ["-1s", "5", "99999999999999999999s", "ever", "25h"] {
        home.expect(2, &["lock", "run", "nightly", "--ttl", time, "--", "true"]);
    }
    for (flag, time) in [("--wait", "forever"), ("--grace", "1"), ("--min-hold", "-1s"), ("--max-hold", "0")] {
        home.expect(2, &["lock", "run", "nightly", flag, time, "--", "true"]);
    }
}

/// On a terminal the command is the foreground group while it runs: it may read, which a background group may not. Afterwards the caller is.
#[test]
fn the_command_has_the_terminal_while_it_runs_and_the_caller_has_it_again() {
    let home = Home::with_server();
    let both = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let master = openpt(both).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let terminal = File::from(ioctl_tiocgptpeer(&master, both).unwrap());
    // The shell leads a session that the terminal controls, as a login has it.
    let inner = "read line; echo the command read $line";
    let script = format!("'{}' lock run nightly -- sh -c '{inner}'; read line; echo the caller read $line", env!("CARGO_BIN_EXE_onward"));
    let mut shell = Command::new("setsid");
    home.isolate(&mut shell);
    let end = || Stdio::from(terminal.try_clone().unwrap());
    let mut shell = shell.args(["--ctty", "--wait", "sh", "-c", &script]).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    drop(terminal);
    let mut keys = File::from(master);
    let mut screen = keys.try_clone().unwrap();
    let (told, lines) = channel();
    std::thread::spawn(move || {
        let mut piece = [0; 1_024];
        // The last one who has the terminal open closes it: reading fails then.
        while let Ok(read @ 1..) = screen.read(&mut piece) {
            if told.send(String::from_utf8_lossy(&piece[..read]).into_owned()).is_err() {
                return;
            }
        }
    });
    let mut shown = String::new();
    for (typed, wanted) in [("one\n", "the command read one"), ("two\n", "the caller read two")] {
        keys.write_all(typed.as_bytes()).unwrap();
        while !shown.contains(wanted) {
            let Ok(more) = lines.recv_timeout(Duration::from_secs(20)) else {
                shell.kill().unwrap();
                panic!("`{wanted}` is not on the terminal: {shown}");
            };
            shown += &more;
        }
    }
    assert!(shell.wait().unwrap().success(), "{shown}");
    home.expect(4, &["lock", "status", "nightly"]);
}
