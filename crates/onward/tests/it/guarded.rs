//! The guarded write: lock, compare-and-swap, fence, audit and cache move together, or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onward::commit::{Commit, CommitOutcome, Delivery, Guard, WriteCondition};
use onward::lock::{LockOptions, Outcome};
use onward::model::{Key, LabelChange, Labels, Meta, RequestId, TtlChange};
use onward::store::Put;
use onward::{Code, Config, Kind, Onward, Refusal, Result};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Project {
    open: bool,
    edits: u32,
}

const NEW: Project = Project { open: true, edits: 0 };

/// Runs a claim on both engines.
macro_rules! on_both {
    ($($(#[$doc:meta])* $name:ident($onward:ident) $body:block)*) => {
        mod memory { $($(#[$doc])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { let onward = super::Onward::open("memory:").await.unwrap(); super::$name(onward).await.unwrap(); })* }
        mod sqlite { $($(#[$doc])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() {
            let folder = tempfile::tempdir().unwrap();
            let onward = super::Onward::open(&format!("sqlite:{}", folder.path().join("a.db").display())).await.unwrap();
            super::$name(onward).await.unwrap();
        })* }
        $(async fn $name($onward: Onward) -> Result<()> $body)*
    };
}

on_both! {
    a_guarded_write_moves_object_chain_and_cache(onward) {
        onward.guard("projects", "42").create(&NEW).commit().await?;
        let cached: u32 = onward.cache().get_or_load("project:42", |_| async { Ok::<_, std::io::Error>(1) }).await?;
        assert_eq!(cached, 1);
        let done = onward.guard("projects", "42").by("user:7").update(|p: &mut Project| p.open = false).audit("project.update").invalidate(["project:42"]).commit().await?;
        assert!(done.locked && !done.replayed);
        assert_eq!(done.invalidation, Delivery::Done);
        assert_eq!(onward.cache().get::<u32>("project:42").await?, None);
        let entry = onward.audit().chain("main")?.get(done.audit.unwrap().seq).await?;
        assert_eq!((entry.kind.as_str(), entry.actor.as_deref(), entry.resource.as_deref()), ("project.update", Some("user:7"), Some("projects/42")));
        let data: serde_json::Value = serde_json::from_slice(&entry.data).unwrap();
        assert_eq!(data["base_version"], 1);
        assert!(data["fence"].as_u64().unwrap() > 0);
        assert!(!onward.store().get::<Project>(("projects", "42")).await?.unwrap().value.open);
        Ok(())
    }

    a_refused_guarded_write_leaves_no_entry_and_no_change(onward) {
        onward.guard("projects", "42").create(&NEW).commit().await?;
        let before = onward.store().queue().engine().meta().await?.revision;
        let refused = onward.guard("projects", "42").try_update(|_: &mut Project, _| Err(Refusal::new("not today"))).audit("project.update").commit().await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::ValidationFailed, "not today"));
        let invalid = onward.guard("projects", "42").update(|p: &mut Project| p.edits = 99)
            .validate(|p: &Project| if p.edits < 10 { Ok(()) } else { Err(Refusal::new("too many")) }).audit("project.update").commit().await.unwrap_err();
        assert_eq!(invalid.code(), Code::ValidationFailed);
        let guarded = onward.guard("projects", "42").update(|p: &mut Project| p.edits = 1)
            .also(|c: Commit| c.guard(Guard::Exists(Key::new("projects", "none").unwrap()))).audit("project.update").commit().await.unwrap_err();
        assert_eq!(guarded.kind(), Kind::Conflict);
        assert_eq!(onward.store().queue().engine().meta().await?.revision, before);
        assert!(onward.audit().chain("main")?.head().await?.is_none());
        Ok(())
    }

    a_held_lock_is_contended_after_the_wait(onward) {
        onward.guard("projects", "42").create(&NEW).commit().await?;
        let key = onward.locks().scope("eu").key("projects", "42")?;
        let held = onward.locks().acquire(&key, LockOptions::fail()).await?;
        let options = LockOptions::fail().with_wait(Duration::from_millis(20));
        let busy = onward.guard("projects", "42").scope("eu").lock(options).update(|p: &mut Project| p.edits += 1).commit().await.unwrap_err();
        assert_eq!((busy.kind(), busy.code()), (Kind::Contended, Code::ResourceLocked));
        let _ = held.release().await?;
        assert!(onward.guard("projects", "42").scope("eu").update(|p: &mut Project| p.edits += 1).commit().await?.locked);
        Ok(())
    }

    a_request_is_known_by_its_labels_and_time_to_live_too(onward) {
        onward.guard("projects", "42").create(&NEW).commit().await?;
        let labels = |value: &str| LabelChange::Set(Labels::read([("team", value)]).unwrap());
        let minutes = |count: u64| TtlChange::Set(Duration::from_secs(60 * count));
        let id = RequestId::new("r2")?;
        let edit = |labels, ttl| onward.guard("projects", "42").update(|p: &mut Project| p.edits += 1).labels(labels).ttl(ttl).request(id.clone());
        assert!(!edit(labels("blue"), minutes(5)).commit().await?.replayed);
        assert!(edit(labels("blue"), minutes(5)).commit().await?.replayed);
        for (labels, ttl) in [(labels("red"), minutes(5)), (labels("blue"), minutes(6)), (LabelChange::Keep, minutes(5)), (labels("blue"), TtlChange::Keep)] {
            assert_eq!(edit(labels, ttl).commit().await.unwrap_err().code(), Code::RequestIdReused);
        }
        let id = RequestId::new("r3")?;
        let store = onward.store();
        let change = |p: &mut Project, _: &Meta| { p.edits += 1; Ok::<(), Refusal>(()) };
        let update = |ttl| store.update::<Project, _>(("projects", "42"), change).ttl(ttl).request(id.clone());
        update(minutes(5)).await?;
        assert_eq!(update(minutes(5)).await?.tries, 0);
        assert_eq!(update(TtlChange::Never).await.unwrap_err().code(), Code::RequestIdReused);
        assert_eq!(onward.store().get::<Project>(("projects", "42")).await?.unwrap().value.edits, 2);
        Ok(())
    }

    the_same_request_happens_once(onward) {
        onward.guard("projects", "42").create(&NEW).commit().await?;
        let id = RequestId::new("edit-1")?;
        let edit = || onward.guard("projects", "42").update(|p: &mut Project| p.edits += 1).audit("project.update").request(id.clone());
        let first = edit().commit().await?;
        let again = edit().commit().await?;
        assert!(!first.replayed && again.replayed);
        assert_eq!((first.written.version, first.audit), (again.written.version, again.audit));
        assert_eq!(onward.store().get::<Project>(("projects", "42")).await?.unwrap().value.edits, 1);
        let other = onward.guard("projects", "42").delete().request(id).commit().await.unwrap_err();
        assert_eq!(other.code(), Code::RequestIdReused);
        Ok(())
    }

    a_writer_without_the_lock_makes_it_try_again_on_fresh_state(onward) {
        onward.guard("projects", "42").create(&NEW).commit().await?;
        let (store, tries) = (onward.store(), Arc::new(AtomicU32::new(0)));
        let seen = tries.clone();
        let done = onward.guard("projects", "42").try_update(move |p: &mut Project, meta| {
            if seen.fetch_add(1, Ordering::Relaxed) == 0 {
                // Somebody who ignores the lock is faster.
                let (store, version, faster) = (store.clone(), meta.version, Project { edits: 10, ..p.clone() });
                let wrote = std::thread::spawn(move || tokio::runtime::Runtime::new().unwrap().block_on(store.replace(("projects", "42"), &faster, version))).join().unwrap()?;
                assert!(matches!(wrote, Put::Committed(_)));
            }
            p.edits += 1;
            Ok(())
        }).commit().await?;
        assert_eq!(tries.load(Ordering::Relaxed), 2);
        assert_eq!(onward.store().get::<Project>(("projects", "42")).await?.unwrap().value.edits, 11);
        assert!(done.locked);
        Ok(())
    }

    a_holder_that_was_overtaken_is_fenced_out(onward) {
        onward.guard("projects", "42").create(&NEW).commit().await?;
        let key = onward.locks().scope("").key("projects", "42")?;
        let paused = onward.locks().acquire(&key, LockOptions::fail()).await?;
        let token = paused.token();
        let _ = paused.release().await?;
        onward.guard("projects", "42").update(|p: &mut Project| p.edits += 1).commit().await?;
        // The late writer even knows the newest version: without the fence its write would land.
        let late = |commit: Commit| {
            let onward = onward.clone();
            async move {
                let version = onward.store().get_payload(("projects", "42")).await?.unwrap().meta.version;
                onward.store().commit(commit.put(("projects", "42"), &Project { edits: 0, open: false }, WriteCondition::MatchVersion(version))).await
            }
        };
        let fenced = late(Commit::new().fence(key.clone(), token)).await?;
        assert!(matches!(fenced, CommitOutcome::Fenced { newest, .. } if newest > token));
        assert_eq!(onward.store().get::<Project>(("projects", "42")).await?.unwrap().value.edits, 1);
        assert!(matches!(late(Commit::new()).await?, CommitOutcome::Committed(_)), "without the fence it lands");
        Ok(())
    }

    what_is_missing_or_there_already_is_an_error(onward) {
        let missing = onward.guard("projects", "1").update(|p: &mut Project| p.edits += 1).commit().await.unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound);
        assert_eq!(onward.guard("projects", "1").delete().commit().await.unwrap_err().kind(), Kind::NotFound);
        onward.guard("projects", "1").create(&NEW).commit().await?;
        let there = onward.guard("projects", "1").create(&NEW).commit().await.unwrap_err();
        assert_eq!((there.code(), there.current().unwrap().meta.version.get()), (Code::AlreadyExists, 1));
        assert_eq!(onward.guard("projects", "1").commit().await.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(onward.guard("Projects", "1").delete().commit().await.unwrap_err().code(), Code::InvalidKey);
        assert_eq!(onward.guard("projects", "1").delete().audit("chain.created").commit().await.unwrap_err().kind(), Kind::Invalid);
        onward.guard("projects", "1").delete().commit().await?;
        assert!(onward.store().get_payload(("projects", "1")).await?.is_none());
        Ok(())
    }

    many_guarded_writers_lose_no_update(onward) {
        onward.guard("projects", "42").create(&NEW).commit().await?;
        let writers: Vec<_> = (0..8).map(|_| {
            let onward = onward.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    onward.guard("projects", "42").update(|p: &mut Project| p.edits += 1).audit("project.update").commit().await?;
                }
                Ok::<_, onward::Error>(())
            })
        }).collect();
        for writer in writers {
            writer.await.unwrap()?;
        }
        assert_eq!(onward.store().get::<Project>(("projects", "42")).await?.unwrap().value.edits, 80);
        // chain.created and 80 more.
        assert_eq!(onward.audit().chain("main")?.head().await?.unwrap().seq.get(), 81);
        Ok(())
    }

    // Must not come back: state that was read before the lock, and the whole document written back.
    set_keeps_other_attributes(onward) {
        onward.store().create(("projects", "42"), &serde_json::json!({"name": "a", "accessedAt": 1})).await?.written();
        let eu = onward.locks().scope("eu");
        let Outcome::Ran(version) = eu.set("projects", "42", "accessedAt", 2).await? else { panic!("nobody holds it") };
        assert_eq!(version.get(), 2);
        let Outcome::Ran(same) = eu.set("projects", "42", "accessedAt", 2).await? else { panic!("nobody holds it") };
        assert_eq!(same, version, "an equal value writes nothing");
        assert_eq!(onward.store().get::<serde_json::Value>(("projects", "42")).await?.unwrap().value, serde_json::json!({"name": "a", "accessedAt": 2}));
        let held = onward.locks().acquire(&eu.key("projects", "42")?.attribute("accessedAt")?, LockOptions::fail()).await?;
        assert!(matches!(eu.set("projects", "42", "accessedAt", 3).await?, Outcome::Skipped { .. }));
        let _ = held.release().await?;
        assert_eq!(eu.set("projects", "7", "accessedAt", 3).await.unwrap_err().kind(), Kind::NotFound);
        Ok(())
    }
}

trait Wrote {
    fn written(self);
}

impl<T: std::fmt::Debug> Wrote for Put<T> {
    fn written(self) {
        assert!(matches!(self, Put::Committed(_)), "{self:?}");
    }
}

#[tokio::test]
async fn switched_off_the_compare_and_swap_alone_protects_and_says_so() -> Result<()> {
    let onward = Onward::connect(Config::new("memory:").with_locks_off()).await?;
    onward.guard("projects", "42").create(&NEW).commit().await?;
    let done = onward.guard("projects", "42").update(|p: &mut Project| p.edits += 1).audit("project.update").commit().await?;
    assert!(!done.locked);
    let entry = onward.audit().chain("main")?.get(done.audit.unwrap().seq).await?;
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&entry.data).unwrap()["fence"], serde_json::Value::Null);
    Ok(())
}

/// Another process's cache, seen through a second handle on the file: it learns of the write from the change log alone.
#[tokio::test]
async fn the_change_log_cleans_the_caches_that_the_writer_cannot_reach() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("a.db").display());
    let (writer, reader) = (Onward::open(&url).await?, Onward::open(&url).await?);
    writer.guard("projects", "42").create(&NEW).commit().await?;
    let load = |edits: u32| move |_| async move { Ok::<_, std::io::Error>(edits) };
    assert_eq!(reader.cache().get_or_load("project:42", load(0)).await?, 0);
    writer.guard("projects", "42").update(|p: &mut Project| p.edits += 1).invalidate(["project:42"]).commit().await?;
    // Bounded by the test's own patience: the delivery is an event, not a moment.
    let clean = async {
        while reader.cache().get::<u32>("project:42").await?.is_some() {
            tokio::task::yield_now().await;
        }
        Ok::<_, onward::Error>(())
    };
    #[allow(clippy::disallowed_methods, reason = "a bound on the wait for an event")]
    tokio::time::timeout(Duration::from_secs(10), clean).await.expect("the change log was not delivered")?;
    assert_eq!(reader.cache().get_or_load("project:42", load(1)).await?, 1);
    Ok(())
}

/// Whoever keeps nothing but the cache still hears of other processes' writes (INV-2).
#[tokio::test]
async fn a_cache_outlives_the_rest_and_is_still_cleaned() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("a.db").display());
    let cache = Onward::open(&url).await?.cache();
    let writer = Onward::open(&url).await?;
    writer.guard("projects", "42").create(&NEW).commit().await?;
    assert_eq!(cache.get_or_load("project:42", |_| async { Ok::<_, std::io::Error>(0) }).await?, 0);
    writer.guard("projects", "42").update(|p: &mut Project| p.edits += 1).invalidate(["project:42"]).commit().await?;
    let clean = async {
        while cache.get::<u32>("project:42").await?.is_some() {
            tokio::task::yield_now().await;
        }
        Ok::<_, onward::Error>(())
    };
    #[allow(clippy::disallowed_methods, reason = "a bound on the wait for an event")]
    tokio::time::timeout(Duration::from_secs(10), clean).await.expect("the change log was not delivered")
}
