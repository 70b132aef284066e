//! Names: where a value lies, and who may fill or guard it.

use std::fmt;
use std::sync::Arc;

use crate::random;

/// The place of one cached value: namespace, key and, for a field, its name. Bytes, never folded or normalised.
#[derive(Clone, Copy)]
pub struct Slot<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The key, 1..=512 bytes.
    pub key: &'a [u8],
    /// The field, 1..=512 bytes; `None` is the key's plain value.
    pub field: Option<&'a [u8]>,
}

impl fmt::Debug for Slot<'_> {
    /// Shows the namespace only: keys don't belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// A slot that owns its bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct SlotBuf {
    pub(super) namespace: Arc<str>,
    pub(super) key: Box<[u8]>,
    pub(super) field: Option<Box<[u8]>>,
}

impl SlotBuf {
    pub(super) fn as_slot(&self) -> Slot<'_> {
        Slot { namespace: &self.namespace, key: &self.key, field: self.field.as_deref() }
    }
}

/// The one-time value of a fill lease: 128 random bits, never drawn twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// Draws a nonce.
    pub fn random() -> Self {
        Self(random::bytes())
    }

    /// Makes a nonce from its bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Nonce {
    /// Shows nothing: who knows a nonce may fill.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

/// The owner of a write guard: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GuardOwner([u8; 16]);

impl GuardOwner {
    /// Who holds fills off after an invalidation.
    pub const HOLD_OFF: Self = Self([0; 16]);

    /// Draws an owner.
    pub fn random() -> Self {
        Self(random::bytes())
    }

    /// Returns the bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for GuardOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuardOwner(..)")
    }
}
