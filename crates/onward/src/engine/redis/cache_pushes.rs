//! Purges by others, told to the near copies of this process.

use std::sync::Arc;
use std::time::Duration;

use super::cache::RedisCache;
use super::cache_names::PURGED;
use super::connection::{Link, Pushed};
use crate::Result;
use crate::cache::{CacheEngine, Slot, in_background};

/// Who keeps near copies.
struct Copies(Arc<dyn CacheEngine>);

impl Copies {
    fn drop_all(&self) {
        let near = Arc::clone(&self.0);
        in_background(async move {
            // One in memory cannot fail; else the copies end by their bound.
            let _ = near.flush_all().await;
        });
    }
}

impl Pushed for Copies {
    /// Drops what was purged: `NAMESPACE:KEY`, `NAMESPACE:` for a flush, nothing for a flush of all.
    fn message(self: Arc<Self>, _: &[u8], payload: &[u8]) {
        let Some(end) = payload.iter().position(|byte| *byte == b':') else { return self.drop_all() };
        let (namespace, key) = payload.split_at(end);
        let Ok(namespace) = std::str::from_utf8(namespace) else { return self.drop_all() };
        let (namespace, key, near) = (namespace.to_owned(), key.get(1..).unwrap_or_default().to_vec(), Arc::clone(&self.0));
        in_background(async move {
            if key.is_empty() {
                let _ = near.flush(&namespace).await;
            } else {
                let _ = near.invalidate(Slot { namespace: &namespace, key: &key, field: None }, Duration::ZERO).await;
            }
        });
    }

    fn lost(self: Arc<Self>) {
        // Copies are served until their bound at most, as if every message were lost.
    }

    /// What was told in between was missed.
    fn returned(self: Arc<Self>) {
        self.drop_all();
    }
}

impl RedisCache {
    /// Tells an engine in this process of purges by anyone, as long as this one lives; after each reconnect it drops everything.
    ///
    /// A hint, not a promise: copies must be bounded in time, as [`Tiered`](crate::cache::layers::Tiered) bounds them.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the server is away, or permits this user no channel.
    pub async fn tell(&self, near: Arc<dyn CacheEngine>) -> Result<()> {
        let link = Link::listen(self.nodes.address(), vec![PURGED.to_owned()], Arc::new(Copies(near))).await?;
        self.told.lock().push(link);
        Ok(())
    }
}
