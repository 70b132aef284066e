//! One of many replicas works; a holder that was overtaken is fenced out. `cargo run --example lock`

#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use onward::commit::{Commit, CommitOutcome, WriteCondition};
use onward::lock::{LockOptions, Outcome};
use onward::{Onward, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let onward = Onward::open("memory:").await?;
    let locks = onward.locks().scope("eu-1");

    // Skip kind: every replica would do the same work, so losing is fine.
    match locks.run("report", "nightly", |_grant| async { 42 }).await? {
        Outcome::Ran(rows) => println!("wrote {rows} rows"),
        Outcome::Skipped { held_for } => println!("another replica is at it for {held_for:?}"),
        Outcome::RanUnlocked(rows, why) => println!("wrote {rows} rows without the lock: {why:?}"),
    }

    // A lease ends by itself, so a paused holder can wake up after its time. Its token tells the store.
    let key = locks.key("report", "nightly")?;
    let paused = onward.locks().acquire(&key, LockOptions::fail()).await?;
    let old = paused.token();
    let _ = paused.release().await?; // as if its lease had ended
    let newer = onward.locks().acquire(&key, LockOptions::fail()).await?;

    let write = |token| Commit::new().fence(key.clone(), token).put(("report", "nightly"), &"rows", WriteCondition::MustCreate);
    assert!(matches!(onward.store().commit(write(newer.token())).await?, CommitOutcome::Committed(_)));
    match onward.store().commit(write(old)).await? {
        CommitOutcome::Fenced { newest, .. } => println!("the late write is refused: token {newest} was seen, {old} is older"),
        other => println!("the late write landed: {other:?}"),
    }
    let _ = newer.release().await?;
    Ok(())
}
