//! An archive that fails at any of its calls: while a segment is archived, purged, restored, while its file is purged, and while what
//! dead attempts left is collected.

use std::time::Duration;

use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use onward::audit::verify::{Archives, Check, FindingCode, SegmentState, Verdict};
use onward::audit::{Act, AppendOptions, Chain, Healed};
use onward::engine::memory::MemoryStore;
use onward::model::{Entry, Seq};
use onward::testing::archive_faults::{ArchiveFault, ArchiveFaults, faulty};
use onward::testing::audit::Harness;
use onward::testing::deed::Deed;
use onward::time::Clock;
use onward::{Effect, Kind};

fn one() -> Seq {
    Seq::new(1).unwrap()
}

/// Longer than a worker's silence is waited for.
const LATER: Duration = Duration::from_secs(31);

fn act() -> Act {
    Act::because("retention")
}

/// Makes a chain whose segment is where the deed begins.
async fn prepare(deed: Deed, h: &Harness, files: &InMemory, name: &str) -> Chain {
    let chain = h.first.chain(name).unwrap();
    chain.append_many(vec![Entry::new("order.paid"); 5], AppendOptions::new()).await.unwrap();
    chain.seal(None, &act()).await.unwrap();
    deed.prepare(&chain, &act()).await.unwrap();
    if deed == Deed::Collect {
        // What an attempt left that died.
        let named = chain.segment(one()).await.unwrap().archive.unwrap().name;
        let folder = named.rsplitn(3, '/').nth(2).unwrap();
        for file in ["entries.ndjson.zst", "manifest", "verify.py"] {
            files.put(&Path::from(format!("{folder}/9-dead/{file}")), "x".into()).await.unwrap();
        }
    }
    chain
}

async fn state(chain: &Chain) -> SegmentState {
    chain.segment(one()).await.unwrap().state
}

async fn verified(chain: &Chain, what: &str, may_be_left_over: bool) {
    let report = chain.verify(Check { archives: Archives::Read, ..Check::default() }).await.unwrap();
    let fine = report.findings.iter().all(|finding| may_be_left_over && finding.code == FindingCode::Leftover);
    assert!(report.verdict == Verdict::Ok && fine, "{what}: {report}");
}

/// A store, its archive, and what goes wrong with that.
struct Place<'a> {
    h: &'a Harness,
    files: &'a InMemory,
    faults: &'a ArchiveFaults,
}

/// Whatever call fails, before or after it was done: the error is typed, nothing is lost, and the next one ends it.
#[tokio::test]
async fn an_error_at_any_call_to_the_archive_loses_nothing() {
    let (store, faults) = (MemoryStore::new(), ArchiveFaults::default());
    let (archive, files) = faulty(&faults);
    let h = Harness::archiving(store.clone(), store, Clock::manual(), archive, ()).await;
    let at = Place { h: &h, files: &files, faults: &faults };
    for deed in Deed::ALL {
        for fault in [ArchiveFault::Refused, ArchiveFault::Lost, ArchiveFault::Spoilt] {
            let mut nth = 1;
            while fails_and_heals(&at, deed, fault, nth).await {
                nth += 1;
            }
            // The archive is asked for at least two things by everything that anybody does to it.
            assert!(nth > 2, "{deed:?} {fault:?}: {nth}");
        }
    }
}

/// Lets one call fail and looks at what is left; tells whether there was such a call.
async fn fails_and_heals(at: &Place<'_>, deed: Deed, fault: ArchiveFault, nth: u64) -> bool {
    let what = format!("{deed:?}-{fault:?}-{nth}");
    let chain = &prepare(deed, at.h, at.files, &what.to_lowercase()).await;
    let (begins, ends) = deed.states();
    at.faults.at(nth, fault);
    let ended = deed.run(chain, &act()).await;
    let met = at.faults.calm();
    let now = state(chain).await;
    match &ended {
        Ok(()) => assert_eq!(now, ends, "{what}"),
        Err(error) => {
            assert!(met && error.kind() == Kind::Backend, "{what}: {error}");
            // Only what surely changed nothing says so.
            assert!(error.effect() == Effect::Unknown || now == begins, "{what}: {now}, and {error} says that nothing happened");
        }
    }
    // Until the next heal a file whose purge is announced may still be there, and is called so. Nothing else is.
    verified(chain, &what, deed == Deed::PurgeFile && ended.is_err()).await;
    at.h.clock.advance(LATER);
    let act = Act::because("after the fault");
    assert_eq!(chain.heal(&act).await.unwrap_or_else(|e| panic!("{what}: {e}")).waiting, Vec::<u64>::new(), "{what}");
    let now = state(chain).await;
    assert!(now == begins || now == ends, "{what}: {now}");
    if now != ends {
        deed.run(chain, &act).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    verified(chain, &what, false).await;
    assert_eq!(chain.heal(&act).await.unwrap(), Healed::default(), "{what}: something is left over");
    met
}
