//! Hits that nobody decodes: the same promises as for bytes.

use std::sync::Arc;
use std::time::Duration;

use super::{CacheHarness, fill, lease, options};
use crate::Error;
use crate::cache::{Filled, GuardOwner, How, WireAct, WireOp};

/// Every way to remove or end an entry takes what was made of it along (INV-2).
pub async fn a_typed_hit_goes_with_its_entry(h: &CacheHarness) {
    let (here, there) = (h.cache.typed::<u64>(), h.other().typed::<u64>());
    let act = |act| [WireOp { key: b"k".to_vec(), field: None, act }];
    for path in 0..10 {
        fill(&h.cache, "k", path).await;
        for typed in [&here, &there, &here, &there] {
            assert_eq!(typed.get("k").await.unwrap(), Some(Some(Arc::new(path))), "path {path}");
        }
        let guard = match path {
            0 => h.cache.invalidate("k").await.map(|_| None),
            1 => h.cache.invalidate_many(&["k"]).await.map(|_| None),
            2 => h.cache.expire("k").await.map(|_| None),
            3 => h.cache.write_guard(["k"]).await.map(Some),
            4 => h.cache.flush_namespace().await.map(|_| None),
            5 => h.cache.flush_all().await.map(|_| None),
            6 => h.cache.operate_wire(&act(WireAct::Invalidate)).await.map(|_| None),
            7 => h.cache.operate_wire(&act(WireAct::Expire)).await.map(|_| None),
            8 => {
                h.clock.advance(h.cache.options().ttl);
                Ok(None)
            }
            _ => h.engine.release("default", b"k", GuardOwner::random(), Duration::ZERO).await.map(|_| None),
        };
        for typed in [&here, &there] {
            assert_eq!(typed.get("k").await.unwrap(), None, "path {path}");
        }
        if let Some(guard) = guard.unwrap() {
            let _ = guard.release().await.unwrap();
        }
    }
}

/// A new value is what typed readers get from then on; what a reader made of the one before is refused.
pub async fn a_typed_hit_is_of_the_value_that_is_there(h: &CacheHarness) {
    let typed = h.cache.typed::<u64>();
    let slot = crate::cache::Slot { namespace: "default", key: b"k", field: None };
    fill(&h.cache, "k", 1).await;
    assert_eq!(typed.get("k").await.unwrap(), Some(Some(Arc::new(1))));
    let slow = h.engine.near(slot).and_then(|near| near.entry(slot));
    let _ = h.cache.invalidate("k").await.unwrap();
    fill(&h.cache, "k", 2).await;
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(2u64)));
    if let (Some(near), Some(slow)) = (h.engine.near(slot), slow) {
        near.keep(slot, &slow.payload, Arc::new(1u64), 0);
    }
    assert_eq!(typed.get("k").await.unwrap(), Some(Some(Arc::new(2))));
}

/// Another type over the same key, another key and a field are other values; what cannot be read as `T` is a miss.
pub async fn a_typed_hit_is_of_its_key_and_type(h: &CacheHarness) {
    fill(&h.cache, "k", 1).await;
    let (numbers, texts) = (h.cache.typed::<u64>(), h.cache.typed::<String>());
    for _ in 0..2 {
        assert_eq!(numbers.get("k").await.unwrap(), Some(Some(Arc::new(1))));
        assert_eq!(texts.get("k").await.unwrap(), None);
        assert_eq!(h.cache.typed::<i16>().get("k").await.unwrap(), Some(Some(Arc::new(1))));
    }
    assert_eq!(numbers.get("other").await.unwrap(), None);
    assert_eq!(h.cache.field("k", "k").get::<u64>().await.unwrap(), None);
    assert_eq!(h.cache.in_namespace("other").unwrap().typed::<u64>().get("k").await.unwrap(), None);
}

/// A typed load fills for everybody, and absences are remembered for typed readers too.
pub async fn a_typed_load_fills_for_all(h: &CacheHarness) {
    let typed = h.cache.typed::<u64>();
    let load = |value: Option<u64>| move |_| async move { Ok::<_, Error>(value) };
    assert_eq!(typed.fetch("k", load(Some(1))).await.unwrap().how, How::Loaded(Filled::Stored));
    for _ in 0..2 {
        let again = typed.fetch("k", load(Some(2))).await.unwrap();
        assert_eq!((again.value, again.how), (Some(Arc::new(1)), How::Hit));
    }
    assert_eq!(h.cache.get("k").await.unwrap(), Some(Some(1u64)));
    assert_eq!(typed.fetch("none", load(None)).await.unwrap().how, How::Loaded(Filled::Stored));
    assert_eq!(typed.get("none").await.unwrap(), Some(None));
    let absent = typed.get_or_load("none", |_| async { Ok::<_, Error>(7) }).await.unwrap_err();
    assert_eq!(absent.code(), crate::Code::Absent);
    let unread = lease(&h.cache.with(options()).unwrap(), "late").await;
    let _ = h.cache.invalidate("late").await.unwrap();
    assert!(matches!(unread.commit(&3).await.unwrap(), Filled::Superseded { .. }));
    assert_eq!(typed.get("late").await.unwrap(), None);
}
