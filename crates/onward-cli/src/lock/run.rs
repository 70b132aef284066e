//! `lock run`: the command lives no longer than the lease.

use std::ffi::OsString;
use std::pin::Pin;
use std::time::Duration;

use clap::{Args, ValueEnum};
use onward::lock::Owner;
use onward::time::{Clock, Moment};
use rustix::process::Signal;

use super::child::{Running, State};
use super::lease::{Holds, Keep, Lease, Refused, Release, Renewal, give_up};
use super::signals::Signals;
use super::terminal::Terminal;
use crate::failure::{Failure, Result};
use crate::output::Out;
use crate::target::{Otherwise, Target};
use crate::units::{duration, some_time};
use crate::wait;

pub(super) const EXAMPLES: &str = "\
Examples:
  onward lock run nightly -- ./backup.sh
  onward lock run deploy --wait 5m --ttl 1m -- make deploy
  onward lock run tick --min-hold 50s --max-hold 5m -- ./tick.sh       once a minute, whichever host is first
  onward lock run report --on-contention skip -- ./report.sh      in it: --fence report=$ONWARD_FENCE
";

pub(super) const EXIT_CODES: &str = "\
The command gets ONWARD_LOCK_KEY, ONWARD_FENCE (the fencing token) and ONWARD_LOCK_OWNER; without a
lock ONWARD_UNLOCKED=1 instead of the last two. Signals go to the command's process group.

Exit codes: those of the command (128 + N for signal N), and
  75   somebody else holds the lock (--contention-exit)     126  the command cannot be executed
  120  the lease was lost; the command was ended            127  there is no such command
  125  no lock could be had                                 2    usage";

/// The lease was lost.
const LOST: u8 = 120;
/// Something of ours failed.
pub(super) const OURS: u8 = 125;

const TTL_MIN: Duration = Duration::from_millis(10);
const TTL_MAX: Duration = Duration::from_secs(86_400);
const GRACE_MAX: Duration = Duration::from_secs(10);
/// The time between SIGTERM and SIGKILL when the lock is gone already.
const GONE_GRACE: Duration = Duration::from_secs(1);

/// What to do when somebody else holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnContention {
    /// Exit 75
    Fail,
    /// Exit 0 without running the command
    Skip,
}

/// What to do when the lock engine fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnError {
    /// Exit 125
    Closed,
    /// Run the command without a lock, and say so
    Open,
}

/// Runs a command under a lock.
#[derive(Args, Debug)]
pub(crate) struct Run {
    /// The key of the lock
    key: String,
    /// How long the lease lives without renewal
    #[arg(long, value_parser = duration, default_value = "30s", value_name = "TIME")]
    ttl: Duration,
    /// How long to wait for another holder
    #[arg(long, value_parser = duration, default_value = "0s", value_name = "TIME")]
    wait: Duration,
    /// What to do when somebody else holds the lock
    #[arg(long, value_enum, default_value = "fail", value_name = "WHAT")]
    on_contention: OnContention,
    /// What to do when the lock engine fails
    #[arg(long, value_enum, default_value = "closed", value_name = "WHAT")]
    on_error: OnError,
    /// How long the key stays taken at least, also if the command ends before
    #[arg(long, value_parser = duration, value_name = "TIME")]
    min_hold: Option<Duration>,
    /// How long the lock is held at most: the command is dead by then
    #[arg(long, value_parser = some_time, value_name = "TIME")]
    max_hold: Option<Duration>,
    /// The time between SIGTERM and SIGKILL when the lease cannot be renewed [default: the lesser of 10s and ttl/3]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    grace: Option<Duration>,
    /// The exit code when somebody else holds the lock
    #[arg(long, default_value_t = 75, value_name = "CODE")]
    contention_exit: u8,
    /// The command and its arguments, run without a shell
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Run {
    pub(crate) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let grace = self.grace()?;
        let holds = Holds { least: self.min_hold.unwrap_or_default(), most: self.max_hold };
        let mut signals = Signals::listen().map_err(|e| Failure::io("cannot listen for signals", &e).with_exit(OURS))?;
        let lease = match target.client(Otherwise::OwnFile).await {
            Ok(client) => {
                let owner = Owner::draw();
                let acquired = tokio::select! {
                    acquired = Lease::acquire(&client, &self.key, &owner, self.ttl, self.wait, holds) => acquired,
                    signal = signals.ending() => {
                        give_up(&client, &self.key, &owner).await;
                        return Err(Failure::Exit(128 + signal));
                    }
                };
                acquired.map(Some).or_else(|refused| self.without(refused, out).map(|()| None))?
            }
            Err(Failure::Problem(problem)) if problem.code().exit() != 2 => self.without(Refused::Failed(problem), out).map(|()| None)?,
            Err(failure) => return Err(failure),
        };
        let mut env = vec![("ONWARD_LOCK_KEY", self.key.clone())];
        let without: &[&str] = match &lease {
            Some(lease) => {
                env.extend([("ONWARD_FENCE", lease.token().to_string()), ("ONWARD_LOCK_OWNER", lease.owner().to_string())]);
                &["ONWARD_UNLOCKED"]
            }
            None => {
                env.push(("ONWARD_UNLOCKED", "1".to_owned()));
                &["ONWARD_FENCE", "ONWARD_LOCK_OWNER"]
            }
        };
        let code = match Running::start(&self.command, &env, without) {
            Ok(child) => {
                let terminal = Terminal::lend(child.pid());
                if terminal.is_some() {
                    // It may have reached for the terminal before it was its own, and been stopped for that.
                    child.signal(Signal::CONT);
                }
                supervise(child, lease, grace, &mut signals, out).await
            }
            Err(e) => {
                out.failure(&Failure::io("cannot start the command", &e));
                if let Some(lease) = lease {
                    lease.release(Keep::Nothing).await;
                }
                OURS
            }
        };
        if code == 0 { Ok(()) } else { Err(Failure::Exit(code)) }
    }

    /// Checks what the parser cannot.
    fn grace(&self) -> Result<Duration> {
        if !(TTL_MIN..=TTL_MAX).contains(&self.ttl) {
            return Err(Failure::usage("a ttl is between 10ms and 1d"));
        }
        if self.min_hold.is_some_and(|least| least > TTL_MAX) {
            return Err(Failure::usage("the least hold is at most 1d"));
        }
        match self.grace {
            Some(grace) if grace > self.ttl / 3 => Err(Failure::usage("the grace is at most a third of the ttl")),
            Some(grace) => Ok(grace),
            None => Ok(GRACE_MAX.min(self.ttl / 3)),
        }
    }

    /// Decides what a missing lock means; success means to run without one.
    fn without(&self, refused: Refused, out: &Out) -> Result<()> {
        let end = |problem, exit| Err(Failure::Problem(problem).with_exit(exit));
        match refused {
            Refused::Contended(_) if self.on_contention == OnContention::Skip => {
                out.say(format_args!("onward: skipped: somebody else holds the lock"));
                Err(Failure::Exit(0))
            }
            Refused::Contended(problem) => end(problem, self.contention_exit),
            Refused::Wrong(problem) if problem.code().exit() == 2 => end(problem, 2),
            Refused::Wrong(problem) => end(problem, OURS),
            Refused::Failed(problem) if self.on_error == OnError::Closed => end(problem, OURS),
            Refused::Failed(problem) => {
                out.warn(format_args!("onward: RUNNING WITHOUT A LOCK: {problem}"));
                Ok(())
            }
            Refused::SwitchedOff => {
                out.warn(format_args!("onward: RUNNING WITHOUT A LOCK: locking is switched off"));
                Ok(())
            }
        }
    }
}

/// Watches over the command until it has ended, renews the lease beside it, and ends the command before the lease does.
async fn supervise(child: Running, mut lease: Option<Lease>, grace: Duration, signals: &mut Signals, out: &Out) -> u8 {
    let clock = Clock::system();
    let mut renewal: Option<Pin<Box<dyn Future<Output = Renewal>>>> = None;
    let mut end = End::default();
    loop {
        let (term_at, kill_at) = lease.as_ref().map(|lease| deadlines(lease, grace, end.gone_at)).unzip();
        let renew_at = lease.as_ref().map(Lease::renew_at).filter(|_| renewal.is_none() && !end.lost);
        // Time first: whoever was stopped past the lease must not do anything else before.
        tokio::select! {
            biased;
            () = wait::until(&clock, kill_at), if !end.killed => {
                (end.lost, end.killed) = (true, true);
                out.warn(format_args!("onward: the lease is over: killing the command"));
                child.signal(Signal::KILL);
            }
            () = wait::until(&clock, term_at), if !end.lost => {
                end.lost = true;
                let over = lease.as_ref().is_some_and(|lease| lease.is_held_too_long(grace));
                let why = if !over { "the lease could not be renewed in time" } else { "the lock may be held no longer" };
                out.warn(format_args!("onward: {why}: ending the command"));
                child.signal(Signal::TERM);
            }
            signal = signals.next() => match signal {
                Some(signal) => child.signal(signal),
                None => match child.look() {
                    State::Ended => break,
                    // Nobody could continue it from this terminal, and its lease goes on: it does not stop.
                    State::StoppedByTerminal => child.signal(Signal::CONT),
                    State::Alive => {}
                }
            },
            Some(renewed) = poll(&mut renewal) => {
                renewal = None;
                match (renewed, &mut lease) {
                    (Renewal::Until { until, renew_at }, Some(lease)) if !end.lost => lease.renewed(until, renew_at),
                    (Renewal::Failed { again_at, why }, Some(lease)) => {
                        out.detail(format_args!("onward: the lease was not renewed yet: {why}"));
                        lease.again_at(again_at);
                    }
                    (Renewal::Gone, _) if !end.lost => {
                        (end.lost, end.gone_at) = (true, Some(clock.now()));
                        out.warn(format_args!("onward: the lock is gone: ending the command"));
                        child.signal(Signal::TERM);
                    }
                    _ => {}
                }
            }
            () = wait::until(&clock, renew_at) => renewal = lease.as_ref().map(|lease| Box::pin(lease.renew()) as _),
        }
    }
    if end.lost {
        // The group is still its own: its leader is not reaped.
        child.signal(Signal::KILL);
    }
    let code = child.reap();
    let Some(lease) = lease else { return code };
    let late = clock.now() >= lease.until();
    // A least hold is void after a loss.
    let keep = if end.lost || late { Keep::Nothing } else { Keep::LeastHold };
    match lease.release(keep).await {
        _ if end.lost => LOST,
        Release::AlreadyLost => {
            out.warn(format_args!("onward: the lease had ended before the command did"));
            LOST
        }
        _ if late => LOST,
        Release::Released => code,
        Release::Failed(problem) => {
            out.warn(format_args!("onward: the lock was not given back, it ends by itself: {problem}"));
            code
        }
    }
}

/// How far the end of a lost lease has gone.
#[derive(Debug, Default)]
struct End {
    lost: bool,
    killed: bool,
    gone_at: Option<Moment>,
}

/// When to send SIGTERM and when SIGKILL: all is dead before the lease ends, and when the lock was held as long as it may be.
fn deadlines(lease: &Lease, grace: Duration, gone_at: Option<Moment>) -> (Moment, Moment) {
    let kill_at = lease.until() - Duration::from_millis(200).min(lease.ttl() / 10);
    let kill_at = gone_at.map_or(kill_at, |gone| kill_at.min(gone + GONE_GRACE));
    let term_at = kill_at - grace;
    match lease.max_until() {
        Some(max) => (term_at.min(max - lease.grace_of_longest_hold(grace)), kill_at.min(max)),
        None => (term_at, kill_at),
    }
}

async fn poll(renewal: &mut Option<Pin<Box<dyn Future<Output = Renewal>>>>) -> Option<Renewal> {
    match renewal {
        Some(renewal) => Some(renewal.await),
        None => std::future::pending().await,
    }
}
