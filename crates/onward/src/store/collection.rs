//! Objects of one kind and one type: the store's verbs keyed by name.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::handle::Store;
use super::list::List;
use super::options::{Delete, Put, WriteOptions};
use super::past::HistoryPage;
use super::update::Update;
use super::watch::{Watch, Watcher};
use crate::commit::engine::At;
use crate::commit::{WriteCondition, Written};
use crate::model::{Key, Meta, Object, Payload, Revision, Version};
use crate::{Refusal, Result};

type Validator<T> = Arc<dyn Fn(&T) -> Result<(), Refusal> + Send + Sync>;

/// The objects of a kind as values of one type; cheap to clone.
///
/// Every value that it writes is judged by its [validator](Collection::validated), in every try of an update. A patch has no value that
/// could be judged before the writer has it, so there is no `apply` here: [`Store::apply`] stays for hot keys.
///
/// # Examples: no write of the collection skips its validator
/// ```
/// # use onward::{Kind, Onward, Refusal, store::Put};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let limits = Onward::open("memory:").await?.store().collection::<u32>("limit").validated(|limit| match limit {
///     0 => Err(Refusal::new("a limit is at least 1")),
///     _ => Ok(()),
/// });
/// let Put::Committed(_) = limits.create("uploads", &3).await? else { panic!() };
/// let refused = limits.update("uploads", |limit, _| Ok(*limit = 0)).await;
/// assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
/// assert_eq!(limits.get("uploads").await?.unwrap().value, 3);
/// # Ok::<(), onward::Error>(()) }).unwrap();
/// ```
pub struct Collection<T> {
    store: Store,
    namespace: String,
    kind: String,
    validator: Option<Validator<T>>,
    shape: PhantomData<fn() -> T>,
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        let Self { store, namespace, kind, validator, shape } = self;
        let (store, namespace, kind) = (store.clone(), namespace.clone(), kind.clone());
        Self { store, namespace, kind, validator: validator.clone(), shape: *shape }
    }
}

impl<T> fmt::Debug for Collection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collection").field("namespace", &self.namespace).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// A page of a collection's objects; see [`Page`](super::Page).
#[derive(Debug, Clone)]
pub struct TypedPage<T> {
    /// The objects.
    pub items: Vec<Object<T>>,
    /// The revision that this page shows, and all pages that follow it.
    pub revision: Revision,
    /// Where the next page begins; `None` only at the end.
    pub next: Option<String>,
}

impl<T: Serialize + DeserializeOwned> Collection<T> {
    pub(super) fn new(store: Store, kind: &str) -> Self {
        let namespace = crate::model::DEFAULT_NAMESPACE.to_owned();
        Self { store, namespace, kind: kind.to_owned(), validator: None, shape: PhantomData }
    }

    /// Means the objects of this namespace instead of `default`.
    #[must_use]
    pub fn in_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Judges every value before it is written through this handle and its clones.
    #[must_use]
    pub fn validated(mut self, validator: impl Fn(&T) -> Result<(), Refusal> + Send + Sync + 'static) -> Self {
        self.validator = Some(Arc::new(validator));
        self
    }

    /// Returns the key of an object.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): namespace, kind or name is malformed.
    pub fn key(&self, name: &str) -> Result<Key> {
        Key::in_namespace(&self.namespace, &self.kind, name)
    }

    fn judged(&self, value: &T) -> Result<()> {
        self.validator.as_ref().map_or(Ok(()), |validator| validator(value).map_err(Refusal::into_error))
    }

    /// Reads an object.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn get(&self, name: &str) -> Result<Option<Object<T>>> {
        self.store.get(self.key(name)?).await
    }

    /// Reads an object as it was at a revision or version; see [`Store::get_at`].
    ///
    /// # Errors
    /// As [`Store::get_at`].
    pub async fn get_at(&self, name: &str, at: At) -> Result<Option<Object<T>>> {
        self.store.get_at(self.key(name)?, at).await?.map(Object::read).transpose()
    }

    /// Creates an object; a conflict shows the one that exists.
    ///
    /// # Errors
    /// As [`Store::put_if`]; `validation_failed`: the validator refused.
    pub async fn create(&self, name: &str, value: &T) -> Result<Put<T>> {
        self.put_if(name, value, WriteCondition::MustCreate, WriteOptions::new()).await
    }

    /// Replaces an object that still is at `version`; a conflict shows where it is now.
    ///
    /// # Errors
    /// As [`Collection::create`].
    pub async fn replace(&self, name: &str, value: &T, version: Version) -> Result<Put<T>> {
        self.put_if(name, value, WriteCondition::MatchVersion(version), WriteOptions::new()).await
    }

    /// Writes a value if the condition holds.
    ///
    /// # Errors
    /// As [`Collection::create`].
    ///
    /// # Cancel safety
    /// As [`Store::put_if`].
    pub async fn put_if(&self, name: &str, value: &T, condition: WriteCondition, options: WriteOptions) -> Result<Put<T>> {
        self.judged(value)?;
        self.store.put_if(self.key(name)?, value, condition, options).await
    }

    /// Writes a value blindly: whatever is there is lost.
    ///
    /// # Errors
    /// As [`Collection::create`].
    pub async fn overwrite(&self, name: &str, value: &T, options: WriteOptions) -> Result<Written> {
        self.judged(value)?;
        self.store.overwrite(self.key(name)?, Payload::json(value)?, options).await
    }

    /// Gives an object a new version, and the time to live and labels of the options; see [`Store::touch`].
    ///
    /// # Errors
    /// As [`Store::touch`].
    pub async fn touch(&self, name: &str, at: Option<Version>, options: WriteOptions) -> Result<Put<Payload>> {
        self.store.touch(self.key(name)?, at, options).await
    }

    /// Deletes an object that still is at `version`.
    ///
    /// # Errors
    /// As [`Store::delete_if`].
    pub async fn delete_if(&self, name: &str, version: Version, options: WriteOptions) -> Result<Delete<Payload>> {
        self.store.delete_if(self.key(name)?, version, options).await
    }

    /// Changes an object by compare-and-swap; see [`Store::update`]. The collection's validator judges before one of the update's own.
    pub fn update<F>(&self, name: &str, change: F) -> Update<'_, T, F>
    where
        F: FnMut(&mut T, &Meta) -> Result<(), Refusal> + Send,
        T: 'static,
    {
        let update = Update::new(&self.store, self.key(name), change);
        match self.validator.clone() {
            Some(validator) => update.validate(move |value, _| validator(value)),
            None => update,
        }
    }

    /// Lists objects of the collection, a page at a time; namespace and kind of the list are the collection's. See [`Store::list`].
    ///
    /// # Errors
    /// As [`Store::list`]; [`Kind::Invalid`](crate::Kind::Invalid): an object has another shape.
    pub async fn list(&self, list: List) -> Result<TypedPage<T>> {
        let page = self.store.list(list.of(&self.namespace, &self.kind)).await?;
        let items = page.items.into_iter().map(Object::read).collect::<Result<_>>()?;
        Ok(TypedPage { items, revision: page.revision, next: page.next })
    }

    /// Reads the changes of an object, the newest first; see [`Store::history`].
    ///
    /// # Errors
    /// As [`Store::history`].
    pub async fn history(&self, name: &str, before: Option<Revision>, limit: usize) -> Result<HistoryPage> {
        self.store.history(self.key(name)?, before, limit).await
    }

    /// Watches changes of the collection's objects; namespace and kind of the watch are the collection's. See [`Store::watch`].
    ///
    /// # Errors
    /// As [`Store::watch`].
    pub async fn watch(&self, watch: Watch) -> Result<Watcher> {
        let (namespace, kind) = (Some(self.namespace.clone()), Some(self.kind.clone()));
        self.store.watch(Watch { namespace, kind, ..watch }).await
    }
}
