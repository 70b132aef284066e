//! Many acts on keys in one request: invalidations in one call to the engine, each act answered for itself.

use std::fmt;

use super::batch::check_len;
use super::detach::detached;
use super::handle::Cache;
use super::outcome::{Expiry, Invalidation};
use super::slot::{Nonce, Slot, SlotBuf};
use super::wire::parse_fill;
use crate::observe::Event;
use crate::{Error, Result};

/// One act on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireOp {
    /// The key, 1..=512 bytes.
    pub key: Vec<u8>,
    /// The field, 1..=512 bytes; `None` is the plain value and, but for a lease, all fields.
    pub field: Option<Vec<u8>>,
    /// What to do with it.
    pub act: WireAct,
}

/// What to do with a key.
#[derive(Clone, PartialEq, Eq)]
pub enum WireAct {
    /// As [`Cache::invalidate`].
    Invalidate,
    /// As [`Cache::expire`].
    Expire,
    /// As [`Cache::abandon_wire`], with the lease.
    Abandon(String),
}

impl fmt::Debug for WireAct {
    /// Leaves the lease out: who knows it may fill.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalidate => "Invalidate",
            Self::Expire => "Expire",
            Self::Abandon(_) => "Abandon(..)",
        })
    }
}

/// How an act ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum WireDone {
    /// What the invalidation found.
    Invalidated(Invalidation),
    /// What the expiry found.
    Expired(Expiry),
    /// The lease was given back, or had ended already.
    Abandoned,
}

/// An act whose names are checked.
enum Checked {
    Invalidate,
    Expire,
    Abandon(Nonce),
}

impl Cache {
    /// Does up to 1,024 acts, in no order; one answer an act, in the order asked, and no atomicity across them.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): too many acts, or one with a bad name or lease; nothing was done. Each answer may be an error
    /// of its own: see its effect, and ask again.
    ///
    /// # Cancel safety
    /// Once polled it runs to its end, also if the future is dropped (C6).
    pub async fn operate_wire(&self, ops: &[WireOp]) -> Result<Vec<Result<WireDone>>> {
        let checked = self.check_ops(ops).map_err(|error| error.during("operate"))?;
        let (calls, hold_off) = (self.calls.clone(), self.options.hold_off.unwrap_or_default());
        let call = async move {
            let invalidated = checked.iter().filter(|(act, _)| matches!(act, Checked::Invalidate));
            let slots: Vec<Slot<'_>> = invalidated.map(|(_, slot)| slot.as_slot()).collect();
            let mut invalidated = calls.invalidate_many(&slots, hold_off).await.into_iter();
            let mut answers = Vec::with_capacity(checked.len());
            for (act, slot) in &checked {
                answers.push(match act {
                    Checked::Invalidate => match invalidated.next() {
                        Some(answer) => answer.map(WireDone::Invalidated),
                        None => Err(Error::integrity("an invalidation of the batch has no answer")),
                    },
                    Checked::Expire => calls.expire(slot.as_slot()).await.map(WireDone::Expired),
                    Checked::Abandon(nonce) => calls.abandon(slot.as_slot(), *nonce).await.map(|()| WireDone::Abandoned),
                });
            }
            Ok(answers)
        };
        let answers = detached(call).await?;
        Ok(ops.iter().zip(answers).map(|(op, answer)| self.told(op, answer)).collect())
    }

    fn check_ops(&self, ops: &[WireOp]) -> Result<Vec<(Checked, SlotBuf)>> {
        check_len(ops.len())?;
        let check = |(place, op): (usize, &WireOp)| {
            let slot = self.slot(&op.key, op.field.as_deref()).map(|slot| self.own(slot));
            let act = match &op.act {
                WireAct::Invalidate => Ok(Checked::Invalidate),
                WireAct::Expire => Ok(Checked::Expire),
                WireAct::Abandon(fill) => parse_fill(fill).map(Checked::Abandon),
            };
            slot.and_then(|slot| Ok((act?, slot))).map_err(|error| error.with_pointer(format!("/ops/{place}")))
        };
        ops.iter().enumerate().map(check).collect()
    }

    /// Tells the observer of an answer.
    fn told(&self, op: &WireOp, answer: Result<WireDone>) -> Result<WireDone> {
        match (&op.act, &answer) {
            (WireAct::Invalidate, Ok(WireDone::Invalidated(found))) => {
                let _ = self.invalidated(Ok(*found), "operate");
            }
            (WireAct::Invalidate, _) => self.observe(&Event::CacheInvalidation { result: "failed" }),
            (WireAct::Abandon(_), _) => self.observe(&Event::CacheFill { result: "abandoned" }),
            (WireAct::Expire, _) => {}
        }
        answer.map_err(|error| error.during("operate"))
    }
}
