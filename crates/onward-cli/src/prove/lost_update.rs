//! lost-update: several writers read one value, and each writes back its own sum.

use std::sync::{Arc, Barrier};

use onward::Kind;
use onward::model::Payload;
use onward::store::{Put, Store, WriteOptions};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::setting::{Failure, open};
use super::{Claim, Count, Outcome, Setting, Side};

pub(super) const CLAIM: Claim =
    Claim { tried: "8 writers add to one object: read and overwrite, or update", counted: "additions that were acknowledged and lost" };

const WRITERS: usize = 8;
const ROUNDS: u64 = 25;
const KEY: (&str, &str) = ("counter", "one");

/// What an addition was told.
struct Added {
    acknowledged: u64,
    refused: u64,
}

pub(super) async fn run(setting: &Setting, side: Side) -> Outcome {
    let room = setting.room("lost-update")?;
    let onward = open(&room.url("store.db")).await?;
    let store = onward.store();
    let Put::Committed(_) = store.create(KEY, &0_u64).await? else { return Err("the object exists already".into()) };
    let rounds = setting.rounds(ROUNDS);
    let mut count = Count::default();
    for round in 0..rounds {
        let meeting = Arc::new(Barrier::new(WRITERS));
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| {
                let (store, meeting, handle) = (store.clone(), Meeting(Some(meeting.clone())), Handle::current());
                // A thread each: the meeting blocks inside the closure of the update.
                spawn_blocking(move || handle.block_on(add(&store, meeting, side)))
            })
            .collect();
        for writer in writers {
            let added = writer.await??;
            count.rounds += added.acknowledged;
            count.refused += added.refused;
        }
        setting.progress().show(round + 1, rounds);
    }
    let found = store.get::<u64>(KEY).await?.map_or(0, |object| object.value);
    if found > count.rounds {
        return Err("the object holds more than was acknowledged".into());
    }
    count.bad = count.rounds - found;
    count.example = (count.bad > 0).then(|| format!("{} additions were acknowledged, and the object holds {found}", count.rounds));
    Ok(count)
}

/// Adds one; all writers have read before the first one writes.
async fn add(store: &Store, mut meeting: Meeting, side: Side) -> Result<Added, Failure> {
    match side {
        Side::Unprotected => {
            let read = store.get::<u64>(KEY).await;
            meeting.hold();
            let value = read?.ok_or("the object is gone")?.value;
            store.overwrite(KEY, Payload::json(&(value + 1))?, WriteOptions::new()).await?;
            Ok(Added { acknowledged: 1, refused: 0 })
        }
        Side::Protected => {
            let change = |value: &mut u64, _: &_| {
                meeting.hold();
                *value += 1;
                Ok(())
            };
            match store.update(KEY, change).await {
                Ok(updated) => Ok(Added { acknowledged: 1, refused: u64::from(updated.tries) - 1 }),
                // Told so, and so not lost.
                Err(e) if e.kind() == Kind::Conflict => Ok(Added { acknowledged: 0, refused: e.tries().map_or(1, u64::from) }),
                Err(e) => Err(e.into()),
            }
        }
    }
}

/// Waits for the other writers, once; also if the writer ends before it comes to that, or they would wait for ever.
struct Meeting(Option<Arc<Barrier>>);

impl Meeting {
    fn hold(&mut self) {
        if let Some(barrier) = self.0.take() {
            barrier.wait();
        }
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        self.hold();
    }
}
