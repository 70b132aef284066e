//! Tokens as the store keeps them: objects of the kind `onward.token`, named by their id, without the secret.

use onward::model::{Key, Object};
use onward::store::List;
use onward::time::Timestamp;
use onward::{Onward, Result};
use serde::{Deserialize, Serialize};

use super::role::Role;
use super::scope::{Scope, Scopes};

/// The kind of the objects.
const KIND: &str = "onward.token";
/// How many tokens there may be; what lies beyond is not looked at.
pub(crate) const TOKENS: usize = 10_000;
const PAGE: usize = 1_000;

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The name that audit entries show.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) role: String,
    /// Where.
    pub(crate) scopes: Vec<String>,
    /// SHA-256 of the token, in hex.
    pub(crate) sha256: String,
    /// When it was made.
    pub(crate) created_at: Timestamp,
    /// From when on it is none; absent: it does not end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<Timestamp>,
}

impl Kept {
    /// Returns the hash, role and scopes; `None` if they are not what they should be.
    pub(crate) fn read(&self) -> Option<([u8; 32], Role, Scopes)> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&self.sha256, &mut hash).ok()?;
        let scopes = self.scopes.iter().map(|scope| scope.parse::<Scope>().ok()).collect::<Option<_>>()?;
        Some((hash, self.role.parse().ok()?, Scopes(scopes)))
    }
}

/// The key of a token's object.
pub(crate) fn key(id: &str) -> Result<Key> {
    Key::new(KIND, id)
}

/// Reads a page of tokens with their ids; what is no token is left out.
pub(crate) async fn page(onward: &Onward, cursor: Option<&str>, limit: usize) -> Result<(Vec<(String, Kept)>, Option<String>)> {
    let list = List::new(KIND).with_limit(limit);
    let page = onward.store().list(if let Some(cursor) = cursor { list.after(cursor) } else { list }).await?;
    let read = |object: Object| Some((object.key.name().to_owned(), object.read::<Kept>().ok()?.value));
    Ok((page.items.into_iter().filter_map(read).collect(), page.next))
}

/// Reads every token.
pub(crate) async fn all(onward: &Onward) -> Result<Vec<Kept>> {
    let (mut found, mut cursor) = (Vec::new(), None);
    while found.len() < TOKENS {
        let (tokens, next) = page(onward, cursor.as_deref(), PAGE).await?;
        found.extend(tokens.into_iter().map(|(_, kept)| kept));
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    Ok(found)
}
