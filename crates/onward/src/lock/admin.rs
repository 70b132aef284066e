//! What operators do: look at all locks, take one from its holder, and switch locking off and on.

use std::sync::Arc;
use std::time::Duration;

use super::grant::Grant;
use super::handle::{LockStatus, Locks};
use super::held::valid_until;
use super::obtain::Won;
use super::outcome::switched_off;
use super::release::Leaving;
use super::report::Label;
use super::{Ask, LockOptions, Owner, Place, Renew, Switch, SwitchRecord, SwitchState};
use crate::commit::{Commit, CommitOutcome, CommitQueue};
use crate::model::limits::{KEY_BYTES, PAGE_ITEMS};
use crate::model::{ChainName, Data, Entry, FencingToken, LockKey};
use crate::observe::Finding;
use crate::{Effect, Error, Result, retry};

/// The chain of what operators and administrators did.
const ADMIN_CHAIN: &str = "onward.admin";
/// Longest reason, in bytes.
const REASON_BYTES: usize = 1_024;
/// The lease under which a broken lock is settled.
const BREAKING: Duration = Duration::from_secs(5);
/// How often a break is tried if the counter turns out to be behind the store.
const BREAK_TRIES: usize = 2;
/// How long a look at the engine may take.
const CHECK_MOST: Duration = Duration::from_secs(10);

pub(super) fn admin_chain() -> Result<ChainName> {
    ChainName::new(ADMIN_CHAIN)
}

/// Why an operator does something, and who: it is kept in the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    text: String,
    by: Option<String>,
}

impl Reason {
    /// Makes a reason: 1..=1,024 bytes that are not all blank, without control characters.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid).
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text.trim().is_empty() || text.len() > REASON_BYTES || text.chars().any(char::is_control) {
            return Err(Error::invalid("a reason is 1..=1024 bytes of text without control characters"));
        }
        Ok(Self { text, by: None })
    }

    /// Names who does it.
    #[must_use]
    pub fn by(mut self, actor: impl Into<String>) -> Self {
        self.by = Some(actor.into());
        self
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn actor(&self) -> Option<&str> {
        self.by.as_deref()
    }

    pub(super) fn sign(&self, entry: Entry) -> Entry {
        match &self.by {
            Some(actor) => entry.by(actor.clone()),
            None => entry,
        }
    }
}

/// Whether breaking a lock leaves a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry in the chain `onward.admin`, committed before the lock is touched.
    Audited,
    /// None; for locks without a store.
    Unaudited,
}

/// What came of breaking a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a lock that nobody held was not broken"]
pub enum Broken {
    /// It was taken from its holder and is free now.
    Broken {
        /// Who held it.
        holder: Arc<str>,
        /// The token of the old grant; `None`: a client of another kind held it, and had none.
        old: Option<FencingToken>,
        /// A newer token: the store, if there is one, refuses every older one from now on.
        token: FencingToken,
    },
    /// Nobody held it.
    Absent,
}

/// A page of live locks, in the order of their keys' bytes. A hint, not a snapshot.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The locks.
    pub items: Vec<(LockKey, LockStatus)>,
    /// Where to go on; `None`: these were the last.
    pub next: Option<LockKey>,
}

/// Whether the engine answers, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answered after this time.
    Answers(Duration),
    /// It failed, or did not answer in time.
    Away,
    /// It was not asked: locking is switched off by the configuration.
    NotAsked,
}

impl Locks {
    /// Lists live locks whose key begins with `prefix`, after a key, at most `limit` (1..=1,000) of them.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the prefix is longer than a key, or the limit is out of bounds.
    /// [`Kind::Backend`](crate::Kind::Backend): the engine failed, or (`locking_off`) locking is off by configuration.
    pub async fn list(&self, prefix: &str, after: Option<&LockKey>, limit: usize) -> Result<Listing> {
        if prefix.len() > KEY_BYTES {
            return Err(Error::invalid_key("a prefix is at most 512 bytes"));
        }
        if !(1..=PAGE_ITEMS).contains(&limit) {
            return Err(Error::invalid(format!("a page has 1..={PAGE_ITEMS} items")));
        }
        self.is_configured()?;
        let shared = &*self.core.shared;
        let asked = shared.engine.list(prefix.to_owned(), after.cloned(), limit);
        let rows = shared.bounded(shared.clock.now(), asked).await.map_err(|e| e.during("list"))?;
        let next = rows.last().filter(|_| rows.len() >= limit).map(|(key, _)| key.clone());
        let items = rows.into_iter().map(|(key, row)| {
            let waiters = shared.queues.line(&key).map_or(0, |line| line.waiters);
            (key, LockStatus::of(row, waiters))
        });
        Ok(Listing { items: items.collect(), next })
    }

    /// Takes a lock from whoever holds it, and frees it.
    ///
    /// In this order: the audit entry (who, why, the old holder and token) is committed; the key is taken over with a new token, so the
    /// old holder's renewals find it taken; that token is committed to the store as a fence, so his late writes are refused even before
    /// the next holder writes (INV-1); the key is freed.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported): [`Record::Audited`] without a store to keep the entry.
    /// [`Kind::Backend`](crate::Kind::Backend) with [`Effect::Unknown`]: the lock may be broken, and a key that was taken over is freed
    /// after 5 s; break it again.
    ///
    /// # Cancel safety
    /// A dropped call leaves whole steps behind: at worst the key is free only after 5 s.
    pub async fn break_lock(&self, key: &LockKey, reason: &Reason, record: Record) -> Result<Broken> {
        self.is_configured()?;
        let commits = self.core.config.commits.as_ref();
        let audit = match (record, commits) {
            (Record::Audited, None) => {
                return Err(Error::unsupported("no audit trail is configured to keep why a lock was broken").during("break"));
            }
            (Record::Audited, Some(commits)) => Some(commits),
            (Record::Unaudited, _) => None,
        };
        let shared = &*self.core.shared;
        let row = shared.bounded(shared.clock.now(), shared.engine.inspect(key.clone())).await.map_err(|e| e.during("break"))?;
        let Some(row) = row else { return Ok(Broken::Absent) };
        if let Some(commits) = audit {
            let data = serde_json::json!({"reason": reason.text(), "holder": &*row.holder, "token": row.token.map(FencingToken::get)});
            let entry = reason.sign(Entry::new("lock.break").on(key.as_str()).with_data(Data::json(&data)?));
            submit(commits, Commit::new().audit(admin_chain()?, entry)).await?;
        }
        // Kept until the next take-over: in between the key must not be free.
        let mut behind = None;
        for _ in 0..BREAK_TRIES {
            let grant = match self.take_over(key).await? {
                Some(grant) => grant,
                None if behind.is_none() => return Ok(Broken::Absent),
                None => break,
            };
            let token = grant.token();
            if let Some(commits) = commits
                && let Some(newest) = submit(commits, Commit::new().fence(key.clone(), token)).await.map_err(Error::with_unknown_effect)?
            {
                // The counter was behind the store: it goes on above it, and the lock is taken once more.
                self.raise_tokens(newest).await.map_err(Error::with_unknown_effect)?;
                behind = Some(grant);
                continue;
            }
            let _ = grant.release().await.map_err(|e| e.during("break"))?;
            return Ok(Broken::Broken { holder: row.holder, old: row.token, token });
        }
        Err(Error::unavailable("newer tokens than the counter's are seen again and again").with_unknown_effect().during("break"))
    }

    /// Takes a key from its holder; `None`: it has none.
    async fn take_over(&self, key: &LockKey) -> Result<Option<Grant>> {
        let shared = &*self.core.shared;
        let owner = Owner::draw();
        let options = LockOptions::fail().with_ttl(BREAKING).with_renew(Renew::Off);
        let ask = Ask { key: key.clone(), owner, holder: "onward lock break".into(), ttl: BREAKING, place: Place::None };
        let sent = shared.clock.now();
        match shared.bounded(sent, shared.engine.take_over(ask)).await {
            Ok(None) => Ok(None),
            Ok(Some(token)) => {
                let answered = shared.clock.now();
                let until = valid_until(sent, BREAKING, BREAKING);
                let won =
                    Won { owner, token, remaining: BREAKING, already_ours: false, sent, until, answered, waited: answered.since(sent) };
                Ok(Some(Grant::new(Arc::clone(&self.core), key.clone(), &won, &options, Label::default())))
            }
            Err(error) => {
                if error.effect() == Effect::Unknown {
                    self.core.give_back(Leaving::new(key.clone(), owner, shared.clock.now() + BREAKING));
                }
                Err(error.during("break"))
            }
        }
    }

    /// Flips the live switch of all processes on this store: each follows with its next call, a second later at most.
    ///
    /// The record and its audit entry (chain `onward.admin`) are one commit. Returns what the switch was set to before, if ever, and now.
    /// Held grants stay valid, can be renewed and released. Callers who wait for a lock go on unlocked, or are refused.
    ///
    /// # Errors
    /// [`Kind::Conflict`](crate::Kind::Conflict), `state_conflict`: the configuration switched locking off, so it cannot be switched on
    /// here. [`Kind::Unsupported`](crate::Kind::Unsupported): there is no store. [`Kind::Backend`](crate::Kind::Backend): see the effect.
    pub async fn switch(&self, to: Switch, reason: &Reason) -> Result<(Option<SwitchRecord>, SwitchRecord)> {
        let shared = &*self.core.shared;
        let set = shared.switch.set(to, reason).await.map_err(|e| e.during("switch"))?;
        if shared.switch.was_set(set.1.enabled) {
            shared.flipped();
        }
        Ok(set)
    }

    /// Reads the kill switch, both halves of it.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the store failed; what this process knew last still holds, see [`Locks::is_enabled`].
    pub async fn switch_state(&self) -> Result<SwitchState> {
        let shared = &*self.core.shared;
        shared.bounded(shared.clock.now(), Box::pin(shared.switch.state())).await.map_err(|e| e.during("switch"))
    }

    /// Looks at what the engine stands on, such as a server; changes nothing. Where the configuration forbids to ask it, it is not asked.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): it is away.
    pub async fn check(&self) -> Result<Vec<Finding>> {
        if self.is_configured().is_err() {
            return Ok(Vec::new());
        }
        // As patient as people are; not a call of the service.
        let engine = &self.core.shared.engine;
        let over = self.core.shared.clock.now() + CHECK_MOST;
        let found = retry::deadline(&self.core.shared.clock, over, engine.check()).await;
        found.unwrap_or_else(|| Err(Error::unavailable("the lock engine does not answer"))).map_err(|error| error.during("check"))
    }

    /// Asks the engine about a key and tells how long that took.
    pub async fn health(&self) -> Health {
        let shared = &*self.core.shared;
        let Ok(probe) = LockKey::raw("health") else { return Health::Away };
        if !shared.switch.is_configured() {
            return Health::NotAsked;
        }
        let asked = shared.clock.now();
        match shared.bounded(asked, shared.engine.inspect(probe)).await {
            Ok(_) => Health::Answers(shared.clock.now().since(asked)),
            Err(_) => Health::Away,
        }
    }

    /// Refuses what must ask the engine while the configuration forbids that. The live switch stops new locks only.
    pub(super) fn is_configured(&self) -> Result<()> {
        if self.core.shared.switch.is_configured() { Ok(()) } else { Err(switched_off()) }
    }
}

/// Commits what cannot conflict; `Some`: a newer token was seen.
async fn submit(commits: &CommitQueue, commit: Commit) -> Result<Option<FencingToken>> {
    match commits.submit(commit).await.map_err(|e| e.during("break"))? {
        CommitOutcome::Committed(_) => Ok(None),
        CommitOutcome::Fenced { newest, .. } => Ok(Some(newest)),
        CommitOutcome::Conflict(_) => Err(Error::integrity("a commit without conditions was refused").during("break")),
    }
}
