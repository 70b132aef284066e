//! A checker of recorded acquisitions: tokens, and who believed that it held when (INV-1).
//!
//! Times are of one clock that all clients share. A client that dies tells nothing more: its hold counts until the end of its validity.

use std::collections::BTreeMap;

use super::history::{Flaw, flaw};

/// One acquisition of a key that was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Who asked.
    pub owner: String,
    /// When it asked.
    pub asked: u64,
    /// When it had the answer.
    pub granted: u64,
    /// The token that it was given.
    pub token: u64,
    /// Until when it relied on the grant at most.
    pub until: u64,
    /// When it began to release, if it did.
    pub released: Option<u64>,
    /// When it was told that it held the key no more.
    pub lost: Option<u64>,
}

impl Hold {
    fn end(&self) -> u64 {
        self.released.map_or(self.until, |released| released.min(self.until))
    }
}

/// Judges the acquisitions of one key: a token names one owner, tokens rise in real time, no lease ends under its holder, and no
/// two believe that they hold at once.
///
/// # Errors
/// The first flaw.
pub fn check_holds(history: &[Hold]) -> Result<(), Flaw> {
    let mut by_token: BTreeMap<u64, &Hold> = BTreeMap::new();
    for hold in history {
        if let Some(other) = by_token.insert(hold.token, hold)
            && other.owner != hold.owner
        {
            return flaw("one token for two owners", (other, hold));
        }
        if hold.lost.is_some_and(|lost| lost < hold.until) {
            return flaw("a lease that ended under its holder", hold);
        }
    }
    let mut by_ask: Vec<&Hold> = history.iter().collect();
    by_ask.sort_unstable_by_key(|hold| hold.asked);
    let mut by_grant: Vec<&Hold> = history.iter().collect();
    by_grant.sort_unstable_by_key(|hold| hold.granted);
    let mut granted = by_grant.iter().peekable();
    let mut newest: Option<&Hold> = None;
    for hold in by_ask {
        while let Some(before) = granted.next_if(|before| before.granted < hold.asked) {
            newest = newest.filter(|newest| newest.token >= before.token).or(Some(before));
        }
        if let Some(before) = newest.filter(|before| before.token >= hold.token && before.owner != hold.owner) {
            return flaw("a token that does not rise", (before, hold));
        }
    }
    let mut last: Option<&Hold> = None;
    for hold in by_grant {
        if let Some(other) = last.filter(|other| hold.granted < other.end().min(hold.end()) && other.owner != hold.owner) {
            return flaw("two believe that they hold", (other, hold));
        }
        last = last.filter(|last| last.end() >= hold.end()).or(Some(hold));
    }
    Ok(())
}
