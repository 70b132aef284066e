//! blocked-archive: the past of a chain is written to a file while others append to the chain.
//!
//! After each page of the archive, every writer has an entry to append, and the archive goes on when each of them was answered: so an
//! entry meets the archive at every point of its way, however fast this machine is. Unprotected, it is done as it often is: one lock on
//! the chain, which the archive holds from beginning to end and renews, and which every append takes. A writer waits for it a while, then
//! drops its entry. Protected, nobody takes anything: an archive meets the head of the chain for one short commit.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use onward::audit::verify::{Check, Verdict};
use onward::audit::{Act, AppendOptions, Chain};
use onward::lock::{LockOptions, Outcome as Locked};
use onward::model::{Data, Entry, Seq};
use onward::{Config, Kind, Onward};

use super::setting::Failure;
use super::{Claim, Count, Outcome, Setting, Side};

pub(super) const CLAIM: Claim = Claim {
    tried: "4 writers append while a segment is archived: under one lock on the chain, or beside it",
    counted: "entries dropped after a wait in vain",
};

/// Entries of the segment unless it is said; the predecessor's outage had 1,000,000.
const ENTRIES: u64 = 10_000;
const ROUNDS: u64 = 1;
/// Each has a handle of its own, as a replica has.
const WRITERS: usize = 4;
const CHAIN: &str = "orders";
/// How long a writer waits for the lock before it drops its entry.
const PATIENCE: Duration = Duration::from_millis(25);

pub(super) async fn run(setting: &Setting, side: Side) -> Outcome {
    let room = setting.room("blocked-archive")?;
    let open = async || {
        let config = Config::new(room.url("store.db")).with_archive_at(format!("file:{}", room.path("archive").display()));
        Onward::connect(config).await
    };
    let archiver = open().await?;
    let mut writers = Vec::with_capacity(WRITERS);
    for _ in 0..WRITERS {
        writers.push(open().await?);
    }
    let chain = archiver.audit().chain(CHAIN)?;
    let (rounds, entries) = (setting.rounds(ROUNDS), setting.entries().unwrap_or(ENTRIES));
    let mut count = Count::default();
    let mut written = 0;
    for round in 0..rounds {
        written += fill(&chain, entries).await?;
        let from = Seq::new(chain.seal(None, &Act::because("a proof")).await?.from)?;
        let told = Arc::new(AtomicU64::new(0));
        let act = Act::because("a proof").watched({
            let told = told.clone();
            move |done, _| told.store(done, Ordering::Relaxed)
        });
        let archive = async {
            match side {
                Side::Protected => chain.archive(from, &act).await.map(drop),
                Side::Unprotected => {
                    let locks = archiver.locks().scope("");
                    locks.run_or_fail("chains", CHAIN, async |_| chain.archive(from, &act).await).await?.locked()?.map(drop)
                }
            }
        };
        let (mut archive, mut seen) = (pin!(archive), 0);
        while page(archive.as_mut(), &told, &mut seen).await?.is_none() {
            for answer in appended(&writers, side, round).await? {
                written += u64::from(answer);
                count.refused += u64::from(answer);
                count.round(!answer, || format!("with {seen} of {entries} entries archived, a writer waited in vain"));
            }
            setting.progress().show(round * entries + seen, rounds * entries);
        }
    }
    // What was said to be written is there, and what the archive wrote of itself.
    let report = chain.verify(Check::default()).await?;
    if report.verdict != Verdict::Ok || report.to_seq != written + 1 + 2 * rounds {
        return Err(format!("{written} entries were acknowledged, and this is there: {report}").into());
    }
    Ok(count)
}

/// Appends entries to be archived; returns how many.
async fn fill(chain: &Chain, entries: u64) -> Result<u64, Failure> {
    let mut left = entries;
    while left > 0 {
        let some = left.min(128);
        let entry = |number: u64| Entry::new("order.paid").by("user:7").with_data(Data::text(format!("{{\"cents\":{number}}}")));
        chain.append_many((0..some).map(|number| entry(left - number)).collect(), AppendOptions::new()).await?;
        left -= some;
    }
    Ok(entries)
}

/// Lets the archive go on to its next page; then it stands still, with all that it holds. `Some` at its end.
async fn page(
    mut archive: Pin<&mut impl Future<Output = onward::Result<()>>>,
    told: &AtomicU64,
    seen: &mut u64,
) -> onward::Result<Option<()>> {
    std::future::poll_fn(|cx| match archive.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(ended.map(Some)),
        Poll::Pending => {
            let done = told.load(Ordering::Relaxed);
            if done == *seen {
                return Poll::Pending;
            }
            *seen = done;
            Poll::Ready(Ok(None))
        }
    })
    .await
}

/// One entry of every writer at one time; whether each was written.
async fn appended(writers: &[Onward], side: Side, round: u64) -> Result<Vec<bool>, Failure> {
    let mut appends = tokio::task::JoinSet::new();
    for writer in writers {
        appends.spawn(append(writer.clone(), side, round));
    }
    let mut answers = Vec::with_capacity(writers.len());
    while let Some(answer) = appends.join_next().await {
        answers.push(answer??);
    }
    Ok(answers)
}

async fn append(writer: Onward, side: Side, round: u64) -> Result<bool, Failure> {
    let chain = writer.audit().chain(CHAIN)?;
    let write = async || chain.append(Entry::new("order.refund").on(format!("order:{round}")), AppendOptions::new()).await;
    if side == Side::Protected {
        write().await?;
        return Ok(true);
    }
    let key = writer.locks().scope("").key("chains", CHAIN)?;
    match writer.locks().with_key(&key, LockOptions::fail().with_wait(PATIENCE), async |_| write().await).await {
        Ok(Locked::Ran(receipt) | Locked::RanUnlocked(receipt, _)) => Ok(receipt.map(|_| true)?),
        Ok(Locked::Skipped { .. }) => Ok(false),
        Err(error) if error.kind() == Kind::Contended => Ok(false),
        Err(error) => Err(error.into()),
    }
}
