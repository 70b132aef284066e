//! paused-holder: a real process takes a lock, is stopped past its lease, wakes up and writes.
//!
//! The child renews its lease by itself, so only the stop ends it. It is stopped between its last look at the lease and its write, which
//! is where no look can help: whoever looked may be paused right after.

use std::io::{BufRead, BufReader, Write, stdout};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use onward::Kind;
use onward::lock::{LockOptions, Locks};
use onward::model::{FencingToken, LockKey, Payload};
use onward::store::{Store, WriteOptions};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::setting::{Failure, open_with};
use super::{Claim, Count, LOCKS, Outcome, Setting, Side};
use crate::seed::draw_seed;

pub(super) const CLAIM: Claim = Claim {
    tried: "a stopped process wakes up past its lease and writes: lock only, or its token in the commit",
    counted: "late writes that landed",
};

const ROUNDS: u64 = 6;
/// Children that live at the same time.
const AT_ONCE: u64 = 6;
/// Renewed at every third of it; the stop comes long before the first renewal, or the child could stand still inside a transaction.
const LEASE: Duration = Duration::from_millis(900);
/// How long the second holder waits for the first one's lease to end.
const WAIT: Duration = Duration::from_secs(20);
const KIND: &str = "report";
const LATE: &str = "late";

/// What the child is told.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    /// The URL of the SQLite file that both share.
    pub(crate) url: String,
    /// Where the locks are; beside the store if absent.
    pub(crate) locks: Option<String>,
    /// The name of the object and of the lock.
    pub(crate) name: String,
    /// Whether the write carries the fencing token.
    pub(crate) fenced: bool,
}

/// The hidden command of the child: says `held`, waits for a line, writes, says what came of it. Returns the exit code.
pub(crate) async fn hold(holder: Holder) -> u8 {
    match hold_and_write(holder).await {
        Ok(()) => 0,
        Err(e) => {
            super::report::complain(&format!("the holder failed: {e}"));
            1
        }
    }
}

async fn hold_and_write(holder: Holder) -> Result<(), Failure> {
    let onward = open_with(&holder.url, holder.locks.as_deref()).await?;
    let lock = lock_key(&holder.name)?;
    // No wait: nobody else wants it yet.
    let grant = onward.locks().acquire(&lock, LockOptions::fail().with_ttl(LEASE).with_wait(Duration::ZERO)).await?;
    grant.check()?;
    say("held")?;
    let mut go = String::new();
    // Blocks this task only: renewals go on elsewhere until the process is stopped.
    let go = spawn_blocking(move || std::io::stdin().read_line(&mut go).map(|_| go)).await??;
    if go.trim() != "go" {
        return Err("nobody said go".into());
    }
    let fence = holder.fenced.then(|| grant.token());
    match write(&onward.store(), &holder.name, LATE, &lock, fence).await {
        Ok(()) => say("landed")?,
        Err(e) if e.kind() == Kind::Lost => say("refused")?,
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

fn say(word: &str) -> std::io::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{word}")?;
    out.flush()
}

fn lock_key(name: &str) -> onward::Result<LockKey> {
    LockKey::typed("prove", "", KIND, name)
}

async fn write(store: &Store, name: &str, text: &str, lock: &LockKey, fence: Option<FencingToken>) -> onward::Result<()> {
    let options = match fence {
        Some(token) => WriteOptions::new().with_fence(lock.clone(), token),
        None => WriteOptions::new(),
    };
    store.overwrite((KIND, name), Payload::json(text)?, options).await.map(|_| ())
}

pub(super) async fn run(setting: &Setting, side: Side) -> Outcome {
    let room = setting.room("paused-holder")?;
    let url = room.url("store.db");
    let onward = open_with(&url, setting.locks()).await?;
    // Locks of another run may still be there.
    let run = draw_seed();
    let rounds = setting.rounds(ROUNDS);
    let mut count = Count::default();
    let mut next = 0;
    while next < rounds {
        let batch = next..(next + AT_ONCE).min(rounds);
        let turns: Vec<_> = batch
            .clone()
            .map(|round| {
                let (url, at, name) = (url.clone(), setting.locks().map(str::to_owned), format!("{run:08x}-{round}"));
                let turn = Turn { store: onward.store(), locks: onward.locks(), url, at, name, side };
                let handle = Handle::current();
                // A thread each: pipes and the wait for a stopped child block.
                spawn_blocking(move || turn.play(&handle))
            })
            .collect();
        for turn in turns {
            let landed = turn.await??;
            count.refused += u64::from(!landed);
            count.round(landed, || "the stopped holder's write replaced that of the holder after it".to_owned());
        }
        next = batch.end;
        setting.progress().show(next, rounds);
    }
    Ok(count)
}

/// One child, stopped and woken.
struct Turn {
    store: Store,
    locks: Locks,
    url: String,
    /// Where the locks are, if not beside the store.
    at: Option<String>,
    name: String,
    side: Side,
}

impl Turn {
    /// Returns whether the late write landed.
    fn play(self, runtime: &Handle) -> Result<bool, Failure> {
        let fenced = self.side == Side::Protected;
        let mut first = Paused::start(&self.url, self.at.as_deref(), &self.name, fenced)?;
        first.hear("held")?;
        let lock = lock_key(&self.name)?;
        let now = LockOptions::fail().with_wait(Duration::ZERO);
        match runtime.block_on(self.locks.acquire(&lock, now)) {
            Err(e) if e.kind() == Kind::Contended => {}
            Err(e) => return Err(e.into()),
            Ok(_) => return Err("two holders have one lock, and none of them was stopped".into()),
        }
        first.stop()?;
        let landed = runtime.block_on(async {
            // Only the end of the first one's lease lets the second one in.
            let grant = self.locks.acquire(&lock, LockOptions::fail().with_ttl(WAIT).with_wait(WAIT)).await?;
            write(&self.store, &self.name, "second", &lock, fenced.then(|| grant.token())).await?;
            first.wake()?;
            let told = first.listen()?;
            let _ = grant.release().await?;
            let found = self.store.get::<String>((KIND, self.name.as_str())).await?.ok_or("the object is gone")?.value;
            match (told.as_str(), found == LATE) {
                ("landed", true) => Ok(true),
                ("refused", false) => Ok(false),
                _ => Err(Failure::from(format!("the holder said {told:?}, and the object holds {found:?}"))),
            }
        })?;
        first.end()?;
        Ok(landed)
    }
}

/// A child of this process; killed and reaped when it is dropped.
struct Paused {
    child: Child,
    pid: Pid,
    lines: BufReader<ChildStdout>,
}

impl Paused {
    fn start(url: &str, locks: Option<&str>, name: &str, fenced: bool) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["prove-holder", url, name]);
        match locks {
            Some(locks) => command.env(LOCKS, locks),
            None => command.env_remove(LOCKS),
        };
        if fenced {
            command.arg("--fenced");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let pid = Pid::from_child(&child);
        let lines = BufReader::new(child.stdout.take().ok_or("the child has no output")?);
        Ok(Self { child, pid, lines })
    }

    /// Reads the child's next word; ends when the child does.
    fn listen(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn hear(&mut self, word: &str) -> Result<(), Failure> {
        let said = self.listen()?;
        if said == word { Ok(()) } else { Err(format!("the holder said {said:?} instead of {word:?}").into()) }
    }

    /// Stops the child and waits until it stands.
    fn stop(&self) -> Result<(), Failure> {
        kill_process(self.pid, Signal::STOP)?;
        match waitpid(Some(self.pid), WaitOptions::UNTRACED)? {
            Some((_, status)) if status.stopped() => Ok(()),
            _ => Err("the holder ended instead of standing still".into()),
        }
    }

    /// Tells the child to write, and wakes it.
    fn wake(&mut self) -> Result<(), Failure> {
        let stdin = self.child.stdin.as_mut().ok_or("the child has no input")?;
        stdin.write_all(b"go\n")?;
        kill_process(self.pid, Signal::CONT)?;
        Ok(())
    }

    fn end(mut self) -> Result<(), Failure> {
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the holder ended with {status}").into()) }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // Killed even while it is stopped; after `end` there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
