//! Chaining: each entry gets its place, its hash and its MAC under the writer's right, in memory, before anything is written.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::limits::SEQ_MAX;
use crate::model::merkle::Frontier;
use crate::model::{
    CLOCK_BEHIND, ChainName, Entry, HAS_ACTOR, HAS_RESOURCE, Hash, Head, KeptPersonal, MacKeys, PINNED, Prehashed, RequestId, Sealed, Seq,
    commitment, finish, genesis, is_control, prehash,
};
use crate::time::Timestamp;
use crate::{Error, Result, random};

use super::outcome::EntryReceipt;

/// An entry of a commit with everything hashed that does not depend on its place.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) chain: ChainName,
    origin: Arc<str>,
    event_id: String,
    entry: Entry,
    /// The salt of its personal data, and the commitment to both.
    salt: Option<([u8; 32], Hash)>,
    hashed: Prehashed,
}

/// Hashes what can be hashed before the writer's right is held, in the caller's own task.
pub(crate) fn prepare(base: &str, entries: &[(ChainName, Entry)], ids: &[String]) -> Vec<Prepared> {
    let each = |((chain, entry), event_id): (&(ChainName, Entry), &String)| {
        let origin: Arc<str> = format!("{base}/{chain}").into();
        let salt = entry.personal.as_ref().map(|personal| {
            let salt = random::bytes::<32>();
            (salt, commitment(&salt, &personal.value))
        });
        let hashed = prehash(&origin, event_id, entry, salt.as_ref().map(|(_, commitment)| commitment));
        Prepared { chain: chain.clone(), origin, event_id: event_id.clone(), entry: entry.clone(), salt, hashed }
    };
    entries.iter().zip(ids).map(each).collect()
}

/// The event ids of a commit's entries: from its request id, from the entry itself when it is appended alone, or new ones.
pub(crate) fn event_ids(entries: &[(ChainName, Entry)], request: Option<&RequestId>, fresh: impl Fn() -> String) -> Vec<String> {
    if entries.is_empty() {
        return Vec::new();
    }
    let base = match request {
        Some(id) if id.as_str().len() <= 120 => id.as_str().to_owned(),
        // A scoped id may be longer than the field allows: its hash names it as well.
        Some(id) => crate::model::digest_hex(id.as_str().as_bytes()),
        None => fresh(),
    };
    let alone = entries.len() == 1;
    let each = |(index, (_, entry)): (usize, &(ChainName, Entry))| match &entry.event_id {
        Some(own) => own.clone(),
        None if alone => base.clone(),
        None => format!("{base}/{index}"),
    };
    entries.iter().enumerate().map(each).collect()
}

/// Entries with their places, the personal data beside them, and what their authors are told.
#[derive(Debug, Default)]
pub(crate) struct Chained {
    pub(crate) entries: Vec<(ChainName, Arc<Sealed>)>,
    pub(crate) personal: Vec<(ChainName, KeptPersonal)>,
    pub(crate) receipts: Vec<EntryReceipt>,
}

/// Chains the entries of one commit onto copies of the heads, so that a refused commit leaves no hole.
///
/// # Errors
/// The chain is at the end of its numbers.
pub(crate) fn chain(prepared: &[Prepared], heads: &mut HashMap<ChainName, Head>, keys: &MacKeys, now: Timestamp) -> Result<Chained> {
    let mut changed: HashMap<ChainName, Head> = HashMap::new();
    let mut chained = Chained::default();
    for one in prepared {
        let known = changed.get(&one.chain).or_else(|| heads.get(&one.chain)).cloned();
        let head = match known {
            Some(head) => head,
            None => {
                let (first, head) = create(&one.origin, keys, now)?;
                chained.entries.push((one.chain.clone(), first));
                head
            }
        };
        let entry = &one.entry;
        let hashed = if head.origin == one.origin {
            one.hashed.clone()
        } else {
            // The chain was created under another base.
            prehash(&head.origin, &one.event_id, entry, one.salt.as_ref().map(|(_, commitment)| commitment))
        };
        let flags = if entry.actor.is_some() { HAS_ACTOR } else { 0 } | if entry.resource.is_some() { HAS_RESOURCE } else { 0 };
        let flags = flags | if is_control(&entry.kind) { PINNED } else { 0 };
        let (mut entry, head) = link(hashed, entry, &one.event_id, flags, Some(head), &one.origin, keys, now)?;
        if let (Some((salt, commitment)), Some(personal)) = (one.salt, &one.entry.personal) {
            entry.personal = Some(commitment);
            chained.personal.push((one.chain.clone(), KeptPersonal { seq: entry.seq, salt, personal: personal.clone() }));
        }
        chained.receipts.push(EntryReceipt {
            chain: one.chain.clone(),
            seq: entry.seq,
            hash: entry.hash,
            at: entry.at.as_micros(),
            event_id: entry.event_id.clone(),
        });
        chained.entries.push((one.chain.clone(), Arc::new(entry)));
        changed.insert(one.chain.clone(), head);
    }
    heads.extend(changed);
    Ok(chained)
}

/// Makes the first entry of a chain: it says what the chain is.
fn create(origin: &Arc<str>, keys: &MacKeys, now: Timestamp) -> Result<(Arc<Sealed>, Head)> {
    let nonce = hex::encode(random::bytes::<16>());
    // The origin's alphabet needs no JSON escapes.
    let data = format!(r#"{{"alg":"sha256","nonce":"{nonce}","origin":"{origin}","v":1}}"#);
    let entry = Entry::new("chain.created").with_data(crate::model::Data::text(data));
    let hashed = prehash(origin, "created", &entry, None);
    let (sealed, head) = link(hashed, &entry, "created", PINNED, None, origin, keys, now)?;
    Ok((Arc::new(sealed), head))
}

/// Puts one entry behind a head.
#[allow(clippy::too_many_arguments, reason = "the fields of one entry, used in one place")]
fn link(
    hashed: Prehashed,
    entry: &Entry,
    event_id: &str,
    flags: u64,
    head: Option<Head>,
    origin: &Arc<str>,
    keys: &MacKeys,
    now: Timestamp,
) -> Result<(Sealed, Head)> {
    let (last, prev, floor, mut frontier, origin) = match head {
        Some(head) => (head.seq.get(), head.hash, head.at, head.frontier, head.origin),
        None => (0, genesis(origin), now, Frontier::default(), origin.clone()),
    };
    if last >= SEQ_MAX {
        return Err(Error::unsupported("the chain is at the end of its numbers"));
    }
    let seq = Seq::new(last + 1)?;
    let at = now.max(floor);
    let flags = if now < floor { flags | CLOCK_BEHIND } else { flags };
    let kid = keys.active();
    let hash = finish(hashed, kid, flags, at, seq, &prev);
    frontier.push(&hash);
    let sealed = Sealed {
        seq,
        prev,
        hash,
        mac: keys.sign(kid, &hash),
        kid: kid.to_owned(),
        flags,
        at,
        event_id: event_id.to_owned(),
        kind: entry.kind.clone(),
        actor: entry.actor.clone(),
        resource: entry.resource.clone(),
        data: entry.data.as_bytes().clone(),
        personal: None,
    };
    Ok((sealed, Head { origin, seq, hash, at, frontier }))
}
