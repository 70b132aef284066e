//! Rows of a chain that somebody changed: the verifier names it, whatever was changed, and never panics (INV-7).

use std::ops::ControlFlow;
use std::sync::Arc;

use onward::Result;
use onward::audit::engine::AuditEngine;
use onward::audit::verify::{Check, Controls, HeadRow, SavedHead, Source, Verdict, View, verify};
use onward::commit::{Commit, CommitOutcome, CommitQueue, QueueOptions, Retention};
use onward::engine::memory::MemoryStore;
use onward::model::{ChainName, Data, Entry, MacKeys, Row, RowRef};
use onward::observe::Silent;
use onward::time::{Clock, Timestamp};

use crate::engine::{Dice, fuzz, spoil};

const ROWS: usize = 12;

/// A chain in memory, as a storage would hand it out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    origin: String,
    head: HeadRow,
    rows: Vec<Row>,
}

impl Source for Chain {
    fn skeleton(&self, _: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn read(&self, from: i64, _: &mut Controls, each: &mut dyn FnMut(RowRef<'_>) -> ControlFlow<()>) -> Result<Option<View>> {
        let mut rows: Vec<&Row> = self.rows.iter().filter(|row| row.seq >= from).collect();
        rows.sort_by_key(|row| row.seq);
        for row in rows {
            if each(row.view()).is_break() {
                break;
            }
        }
        Ok(Some(View { origin: self.origin.clone(), head: Some(self.head.clone()) }))
    }

    fn another(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(self.clone()))
    }
}

/// A good chain, its keys, and its head as somebody saved it.
fn good() -> (Chain, MacKeys, SavedHead) {
    let keys = MacKeys::one("k1", [7; 32]).unwrap();
    let name = ChainName::new("main").unwrap();
    let store = MemoryStore::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let head = runtime.block_on(async {
        let options =
            QueueOptions { clock: Clock::system(), observer: Arc::new(Silent), keys: keys.clone(), retention: Retention::default() };
        let queue = CommitQueue::start(Arc::new(store.clone()), options).await.unwrap();
        for number in 0..ROWS {
            let mut entry = Entry::new("test.done").with_data(Data::text(format!("{{\"n\":{number}}}")));
            if number % 2 == 0 {
                entry = entry.by("user:7").on("thing/x");
            }
            let outcome = queue.submit(Commit::new().audit(name.clone(), entry)).await.unwrap();
            assert!(matches!(outcome, CommitOutcome::Committed(_)));
        }
        store.head(&name).await.unwrap().unwrap()
    });
    let mut rows = Vec::new();
    let view = store.source(&name).unwrap().read(0, &mut Controls::default(), &mut |row| {
        rows.push(row.to_row());
        ControlFlow::Continue(())
    });
    let View { origin, head: row } = view.unwrap().unwrap();
    let saved = SavedHead::of(&name, &head, Timestamp::from_micros(1));
    (Chain { origin, head: row.unwrap(), rows }, keys, saved)
}

#[test]
fn any_changed_row_is_found() {
    let (good, keys, saved) = good();
    let name = ChainName::new("main").unwrap();
    let check = Check { saved: Some(saved), ..Check::default() };
    let judge = |chain: &Chain| verify(chain, &name, &check, &keys, &mut |_| ControlFlow::Continue(()));
    assert_eq!(judge(&good).unwrap().verdict, Verdict::Ok);
    fuzz("chains", |input| {
        let mut dice = Dice::new(input.iter().fold(0, |seed: u64, byte| seed.wrapping_mul(257).wrapping_add(u64::from(*byte))));
        let mut chain = good.clone();
        tamper(&mut chain, &mut dice);
        if chain == good {
            return;
        }
        if let Ok(report) = judge(&chain) {
            assert_ne!(report.verdict, Verdict::Ok, "{chain:?}");
            assert!(!report.findings.is_empty());
        }
    });
}

/// Changes one thing, or a few.
fn tamper(chain: &mut Chain, dice: &mut Dice) {
    for _ in 0..=dice.below(2) {
        let count = chain.rows.len().max(1);
        let (one, two) = (dice.below(count), dice.below(count));
        match dice.below(8) {
            0 if chain.rows.len() > 1 => drop(chain.rows.remove(one)),
            1 => {
                let (first, second) = (chain.rows[one].seq, chain.rows[two].seq);
                chain.rows[one].seq = second;
                chain.rows[two].seq = first;
            }
            2 => chain.rows.truncate(one.max(1)),
            3 => chain.head.seq = chain.head.seq.wrapping_add(i64::try_from(dice.below(5)).unwrap() - 2),
            _ => {
                let row = &mut chain.rows[one];
                let mut data = row.data.to_vec();
                let mut spoilt = |bytes: &mut Vec<u8>| {
                    let others = [b"x".to_vec()];
                    spoil(bytes, &others, dice);
                };
                let field = row.seq.unsigned_abs() as usize + two;
                match field % 8 {
                    0 => spoilt(&mut row.prev),
                    1 => spoilt(&mut row.hash),
                    2 => spoilt(&mut row.kind),
                    3 => spoilt(&mut row.event_id),
                    4 => row.at = row.at.wrapping_add(1),
                    5 => row.flags ^= 1,
                    6 => spoilt(&mut row.kid),
                    _ => {
                        spoilt(&mut data);
                        row.data = data.into();
                    }
                }
            }
        }
    }
}
