//! The tokens that a server takes: those that its start named, and those in the store.
//!
//! All are in memory, found by the SHA-256 of what is shown: an unknown token costs what a known one costs and asks the store for
//! nothing. What the store has is read again when it is a second old, by one request while the others go on with what is there; older
//! than five seconds it is not believed, so a revocation acts within five seconds wherever it was done, and nobody is let in on old
//! knowledge while the store is away.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use onward::time::{Clock, Moment};
use onward::{Code, Onward};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, Semaphore};

use super::caller::Known;
use super::kept::{self, Kept};
use super::rate::Limiter;
use super::role::Role;
use super::scope::Scopes;
use super::token::Token;
use crate::config::{ListedToken, Rate};
use crate::refusal::Refusal;
use crate::wait::within;

/// From this age on the store is asked again.
const FRESH: Duration = Duration::from_secs(1);
/// From this age on what it said is not believed.
const LIMIT: Duration = Duration::from_secs(5);
/// How long the store may take to answer.
const ASK: Duration = Duration::from_secs(2);
/// Longest text that is hashed at all.
const LONGEST: usize = 128;

type Table = HashMap<[u8; 32], Arc<Known>>;

/// What each token may use up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Requests; `None` for any number.
    pub(crate) rate: Option<Rate>,
    /// Event streams at a time.
    pub(crate) streams: usize,
}

/// The tokens that a server takes.
#[derive(Debug)]
pub(crate) struct Tokens {
    named: Table,
    /// What the store said, and when it was asked.
    stored: RwLock<(Option<Moment>, Arc<Table>)>,
    /// Held by the request that asks the store.
    asking: Mutex<()>,
    bounds: Bounds,
    clock: Clock,
}

/// Whether a token that was taken is still one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is.
    Good,
    /// It was revoked, or its time is over.
    Ended,
    /// The store does not say.
    Unclear,
}

impl Tokens {
    /// Takes the tokens of the store, and no other.
    pub(crate) fn new(clock: Clock, bounds: Bounds) -> Self {
        Self { named: Table::new(), stored: RwLock::default(), asking: Mutex::default(), bounds, clock }
    }

    /// Takes one more token, which may do everything, under a name.
    pub(crate) fn and_admin(mut self, name: &str, token: &Token) -> Self {
        let everything = Scopes("*".parse().into_iter().collect());
        self.name(name, Role::Admin, everything, hash(token.secret()));
        self
    }

    /// Takes the tokens of the configuration too.
    pub(crate) fn and_listed(mut self, listed: &[ListedToken]) -> Self {
        for token in listed {
            self.name(&token.name, token.role, Scopes(token.scopes.clone()), token.sha256);
        }
        self
    }

    fn name(&mut self, name: &str, role: Role, scopes: Scopes, hash: [u8; 32]) {
        let known = self.known(name.to_owned(), role, scopes, hash, None);
        self.named.insert(hash, known);
    }

    fn known(&self, name: String, role: Role, scopes: Scopes, hash: [u8; 32], expires_at: Option<onward::time::Timestamp>) -> Arc<Known> {
        let limiter = self.bounds.rate.map(|rate| Limiter::new(rate, &self.clock));
        let streams = Arc::new(Semaphore::new(self.bounds.streams.min(Semaphore::MAX_PERMITS)));
        Arc::new(Known { name, role, scopes, expires_at, hash, limiter, streams })
    }

    /// Returns the same tokens with other bounds; nothing is used up of them yet.
    pub(crate) fn with_bounds(&self, bounds: Bounds) -> Self {
        let mut tokens = Self::new(self.clock.clone(), bounds);
        for known in self.named.values() {
            tokens.name(&known.name, known.role, known.scopes.clone(), known.hash);
        }
        tokens
    }

    /// Returns what each token may use up.
    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Tells whether there is a token at all that is one now.
    pub(crate) async fn exist(&self, onward: &Onward) -> onward::Result<bool> {
        let now = self.clock.wall();
        let lives = |kept: &Kept| kept.expires_at.is_none_or(|end| end > now) && kept.read().is_some();
        Ok(!self.named.is_empty() || kept::all(onward).await?.iter().any(lives))
    }

    /// Returns the token that is shown; `None` for any other text, after the same work.
    pub(crate) async fn find(&self, onward: &Onward, shown: &str) -> Result<Option<Arc<Known>>, Refusal> {
        let hash = hash(shown);
        let known = match self.named.get(&hash) {
            Some(known) => Some(known.clone()),
            None => self.stored(onward).await?.get(&hash).cloned(),
        };
        Ok(known.filter(|known| shown.len() <= LONGEST && self.lives(known)))
    }

    /// Tells whether a token that was taken is still one.
    pub(crate) async fn standing(&self, onward: &Onward, known: &Known) -> Standing {
        if !self.lives(known) {
            return Standing::Ended;
        }
        if self.named.contains_key(&known.hash) {
            return Standing::Good;
        }
        match self.stored(onward).await {
            Ok(stored) if stored.contains_key(&known.hash) => Standing::Good,
            Ok(_) => Standing::Ended,
            Err(_) => Standing::Unclear,
        }
    }

    fn lives(&self, known: &Known) -> bool {
        known.expires_at.is_none_or(|end| self.clock.wall() < end)
    }

    /// Asks the store at the next request: this process changed it.
    pub(crate) fn changed(&self) {
        self.stored.write().0 = None;
    }

    /// Returns what the store said less than five seconds ago.
    async fn stored(&self, onward: &Onward) -> Result<Arc<Table>, Refusal> {
        let younger = |age: Duration| {
            let (asked, table) = &*self.stored.read();
            asked.filter(|asked| self.clock.now().since(*asked) < age).map(|_| table.clone())
        };
        if let Some(table) = younger(FRESH) {
            return Ok(table);
        }
        let _asking = match (self.asking.try_lock(), younger(LIMIT)) {
            (Ok(asking), _) => asking,
            (Err(_), Some(table)) => return Ok(table),
            (Err(_), None) => self.asking.lock().await,
        };
        if let Some(table) = younger(FRESH) {
            return Ok(table);
        }
        // Counted from before the question: what the answer does not show was done later.
        let asked = self.clock.now();
        match within(ASK, Box::pin(kept::all(onward))).await {
            Some(Ok(all)) => {
                let mut stored = self.stored.write();
                let table = Arc::new(self.table(all, &stored.1));
                *stored = (Some(asked), table.clone());
                Ok(table)
            }
            _ => younger(LIMIT).ok_or_else(|| Refusal::new(Code::Unavailable, "the tokens cannot be read")),
        }
    }

    /// Makes the table. A token that was there before keeps what its bearer has left.
    fn table(&self, all: Vec<Kept>, before: &Table) -> Table {
        let read = |kept: Kept| {
            let (hash, role, scopes) = kept.read()?;
            let same = |known: &&Arc<Known>| {
                (&known.name, known.role, &known.scopes, known.expires_at) == (&kept.name, role, &scopes, kept.expires_at)
            };
            let known = match before.get(&hash).filter(same) {
                Some(known) => known.clone(),
                None => self.known(kept.name.clone(), role, scopes, hash, kept.expires_at),
            };
            Some((hash, known))
        };
        all.into_iter().filter_map(read).collect()
    }
}

fn hash(shown: &str) -> [u8; 32] {
    let bytes = shown.as_bytes();
    Sha256::digest(bytes.get(..LONGEST).unwrap_or(bytes)).into()
}

/// Refuses what cannot be the name of a token: it stands in front of a claimed actor, and in the scope of request ids.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) { Ok(()) } else { Err("a name is 1 to 64 of A-Z a-z 0-9 . _ -") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(clock: &Clock) -> Tokens {
        Tokens::new(clock.clone(), Bounds { rate: None, streams: 1 })
    }

    #[tokio::test]
    async fn only_the_token_itself_is_found() {
        let onward = Onward::open("memory:").await.unwrap();
        let token = Token::draw();
        let tokens = tokens(&Clock::system()).and_admin("dev", &token);
        assert_eq!(tokens.find(&onward, token.secret()).await.unwrap().unwrap().name, "dev");
        for other in ["", "onw_", &token.secret()[1..], &format!("{}x", token.secret()), Token::draw().secret(), &"x".repeat(9_000)] {
            assert!(tokens.find(&onward, other).await.unwrap().is_none());
        }
    }

    /// Every text that is no token, and every token that is none any more, takes the way of a good one: one hash of at most 128 bytes, and
    /// a look into the same tables. So the time of a refusal tells nothing of how near the text was.
    #[tokio::test]
    async fn a_wrong_text_asks_the_store_as_often_as_a_right_one() {
        let onward = Onward::open("memory:").await.unwrap();
        let clock = onward.store().queue().clock().clone();
        let (token, tokens) = (Token::draw(), tokens(&clock));
        let made = Kept {
            name: "a".to_owned(),
            role: "viewer".to_owned(),
            scopes: vec!["*".to_owned()],
            sha256: token.sha256(),
            created_at: clock.wall(),
            expires_at: None,
        };
        let store = onward.store();
        let put = store.put_if(
            kept::key(token.id()).unwrap(),
            &made,
            onward::commit::WriteCondition::MustCreate,
            onward::store::WriteOptions::new(),
        );
        drop(put.await.unwrap());
        let typo = format!("{}x", &token.secret()[..token.secret().len() - 1]);
        let near = token.secret().replacen(token.secret().chars().nth(30).unwrap(), "-", 1);
        let long = "x".repeat(9_000);
        for shown in [token.secret(), "", "onw_", &typo, &near, Token::draw().secret(), &long] {
            tokens.changed();
            let found = tokens.find(&onward, shown).await.unwrap();
            assert_eq!(found.is_some(), shown == token.secret());
            let asked = tokens.stored.read().0;
            assert!(asked.is_some(), "the store was not asked for {} characters", shown.len());
            tokens.find(&onward, shown).await.unwrap();
            assert_eq!(tokens.stored.read().0, asked, "a fresh table is not asked for again");
        }
    }

    #[tokio::test]
    async fn a_listed_token_is_taken_for_what_it_is() {
        let onward = Onward::open("memory:").await.unwrap();
        let token = Token::draw();
        let scopes = vec!["cache:web".parse().unwrap()];
        let listed = ListedToken { name: "ci".to_owned(), role: Role::Viewer, scopes, sha256: hash(token.secret()) };
        assert!(!tokens(&Clock::system()).exist(&onward).await.unwrap());
        let taken = tokens(&Clock::system()).and_listed(&[listed]);
        let known = taken.find(&onward, token.secret()).await.unwrap().unwrap();
        assert_eq!((known.name.as_str(), known.role, known.scopes.are_everything()), ("ci", Role::Viewer, false));
        assert!(taken.exist(&onward).await.unwrap());
    }
}
