//! The store on every engine.

use onward::commit::{Commit, CommitOutcome, WriteCondition};
use onward::model::{ChainName, Entry};
use onward::store::Put;
use onward::{Onward, Result};

#[tokio::test]
async fn thin_line() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}/a.db", dir.path().display());
    let store = Onward::open(&url).await?.store();
    let Put::Committed(first) = store.create(("project", "42"), &1).await? else { panic!() };
    let Put::Committed(second) = store.replace(("project", "42"), &2, first.version).await? else { panic!() };
    let Put::Conflict(lost) = store.replace(("project", "42"), &3, first.version).await? else { panic!() };
    assert_eq!(lost.current.unwrap().value, 2);
    let c = Commit::new().put(("project", "43"), &1, WriteCondition::MustCreate).audit(ChainName::new("main")?, Entry::new("x.y"));
    let CommitOutcome::Committed(r) = store.commit(c).await? else { panic!() };
    assert_eq!(r.revision.get(), second.revision.get() + 1);
    assert_eq!(r.audit[0].seq.get(), 2);
    drop(store);
    let store = Onward::open(&url).await?.store();
    assert_eq!(store.get::<i32>(("project", "42")).await?.unwrap().value, 2);
    Ok(())
}
