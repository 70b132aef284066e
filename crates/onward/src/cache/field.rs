//! The handle of one field of a key.

use std::error::Error as StdError;
use std::future::Future;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fetched::Fill;
use super::handle::Cache;
use super::lease::{self, Lookup};
use super::outcome::{Expiry, Invalidation, Touched};
use super::slot::Slot;
use crate::Result;

/// One field of a key: a value of its own that goes with the key.
///
/// Invalidating the key drops all its fields. Invalidating a field refuses the fills in flight of all fields of the key, and drops
/// only its own value.
#[derive(Clone, Debug)]
pub struct FieldRef {
    pub(super) cache: Cache,
    pub(super) key: Box<[u8]>,
    pub(super) field: Box<[u8]>,
}

impl FieldRef {
    /// As [`Cache::get`].
    ///
    /// # Errors
    /// As [`Cache::get`]; also for a field that is not 1..=512 bytes.
    pub async fn get<T: DeserializeOwned>(&self) -> Result<Option<Option<T>>> {
        self.cache.get_at(self.slot()?).await
    }

    /// As [`Cache::get_or_load`].
    ///
    /// # Errors
    /// As [`Cache::get_or_load`]; also for a field that is not 1..=512 bytes.
    pub async fn get_or_load<T, E, F, Fut>(&self, load: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        E: Into<Box<dyn StdError + Send + Sync>>,
        F: FnOnce(Fill) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.cache.get_or_load_at(self.slot()?, load).await
    }

    /// As [`Cache::begin`].
    ///
    /// # Errors
    /// As [`Cache::begin`]; also for a field that is not 1..=512 bytes.
    pub async fn begin<T: DeserializeOwned>(&self) -> Result<Lookup<T>> {
        lease::begin(&self.cache, self.slot()?).await
    }

    /// Drops this field and kills the fills in flight of all fields of the key; stored siblings and the plain value stay.
    ///
    /// # Errors
    /// As [`Cache::invalidate`]; also for a field that is not 1..=512 bytes.
    pub async fn invalidate(&self) -> Result<Invalidation> {
        self.cache.invalidate_at(self.slot()?).await
    }

    /// As [`Cache::expire`], for this field alone; kills the fills in flight of all fields of the key.
    ///
    /// # Errors
    /// As [`Cache::expire`]; also for a field that is not 1..=512 bytes.
    pub async fn expire(&self) -> Result<Expiry> {
        self.cache.expire_at(self.slot()?).await
    }

    /// As [`Cache::touch`].
    ///
    /// # Errors
    /// As [`Cache::touch`]; also for a field that is not 1..=512 bytes.
    pub async fn touch(&self, ttl: Duration) -> Result<Touched> {
        self.cache.touch_at(self.slot()?, ttl).await
    }

    fn slot(&self) -> Result<Slot<'_>> {
        self.cache.slot(&self.key, Some(&self.field))
    }
}
