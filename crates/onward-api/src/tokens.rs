//! Tokens on the wire.

use serde::{Deserialize, Serialize};

/// Asks for a token. It lives for `ttl_ms`, or until it is revoked: exactly one of the two is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// The name that audit entries show: 1 to 64 of `A-Z a-z 0-9 . _ -`; its id if absent. Several tokens may share one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `viewer`, `writer`, `operator` or `admin`.
    pub role: String,
    /// Where it may do that, 1 to 64: `*`, `locks:KEY..`, `objects:[NAMESPACE/]KIND`, `cache:NAMESPACE..`, `chains:CHAIN`.
    pub scopes: Vec<String>,
    /// How long it lives: 1 to 315,360,000,000 (ten years).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// `true`: it does not end by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub never_expires: bool,
}

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The part of it that is no secret.
    pub id: String,
    /// The name that audit entries show.
    pub name: String,
    /// What it may do.
    pub role: String,
    /// Where.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: String,
    /// From when on it is none; `null` if it does not end by itself.
    pub expires_at: Option<String>,
}

/// A token that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The whole token; this is the only time that it is shown.
    pub token: String,
    /// What is known about it.
    #[serde(flatten)]
    pub about: Token,
}

/// A page of tokens, by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// The tokens.
    pub items: Vec<Token>,
    /// Where the next page begins; `null` only at the end.
    pub next_cursor: Option<String>,
}
