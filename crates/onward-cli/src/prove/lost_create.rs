//! lost-create: two replicas look whether a name is free, and both take it.

use std::sync::Arc;

use onward::model::Payload;
use onward::store::{Put, Store, WriteOptions};
use tokio::sync::Barrier;

use super::setting::{Failure, open};
use super::{Claim, Count, Outcome, Setting, Side};

pub(super) const CLAIM: Claim = Claim {
    tried: "two replicas on one file create one name: look and write, or create",
    counted: "rounds in which both were told \"created\"",
};

const ROUNDS: u64 = 200;
const KIND: &str = "account";

pub(super) async fn run(setting: &Setting, side: Side) -> Outcome {
    let room = setting.room("lost-create")?;
    let url = room.url("store.db");
    let replicas = [open(&url).await?, open(&url).await?].map(|onward| (onward.store(), onward));
    let mut random = setting.random("lost-create");
    let rounds = setting.rounds(ROUNDS);
    let mut count = Count::default();
    for round in 0..rounds {
        let name: Arc<str> = format!("{round}-{:08x}", random.bits() >> 32).into();
        let meeting = Arc::new(Barrier::new(replicas.len()));
        let tries = [0, 1].map(|replica| {
            let [(one, _), (two, _)] = &replicas;
            let store = if replica == 0 { one.clone() } else { two.clone() };
            tokio::spawn(create(store, name.clone(), replica, meeting.clone(), side))
        });
        let mut created = 0;
        for attempt in tries {
            created += u64::from(attempt.await??);
        }
        if created == 0 {
            return Err("nobody created the name".into());
        }
        count.refused += 2 - created;
        count.round(created > 1, || format!("{name}: both replicas were told \"created\", and one erased the other"));
        setting.progress().show(round + 1, rounds);
    }
    Ok(count)
}

/// Creates the name if it is free; both replicas have looked before one writes. Returns whether it was told "created".
async fn create(store: Store, name: Arc<str>, replica: usize, meeting: Arc<Barrier>, side: Side) -> Result<bool, Failure> {
    let looked = store.get_payload((KIND, &*name)).await;
    meeting.wait().await;
    if looked?.is_some() {
        return Ok(false);
    }
    match side {
        Side::Unprotected => {
            store.overwrite((KIND, &*name), Payload::json(&replica)?, WriteOptions::new()).await?;
            Ok(true)
        }
        Side::Protected => Ok(matches!(store.create((KIND, &*name), &replica).await?, Put::Committed(_))),
    }
}
