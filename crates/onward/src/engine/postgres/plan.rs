//! A batch on its way: what it wants to read, and its plan as statements that travel together.

use std::collections::HashMap;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::connection::{Param, Step};
use super::log;
use super::personal;
use super::rows::{self, damaged, signed};
use super::united::Part;
use crate::commit::engine::{Plan, StoreMeta, Wanted};
use crate::model::{Key, Labels, Meta, Object, Sealed};
use crate::{Error, Result};

/// The keys of objects in columns.
#[derive(Default)]
pub(super) struct Keys<'a> {
    namespace: Vec<&'a str>,
    kind: Vec<&'a str>,
    name: Vec<&'a str>,
}

impl<'a> Keys<'a> {
    pub(super) fn push(&mut self, key: &'a Key) {
        self.namespace.push(key.namespace());
        self.kind.push(key.kind());
        self.name.push(key.name());
    }

    pub(super) fn params(&self) -> Vec<Param<'_>> {
        vec![(&self.namespace, Type::TEXT_ARRAY), (&self.kind, Type::TEXT_ARRAY), (&self.name, Type::TEXT_ARRAY)]
    }
}

/// What a batch wants to read.
pub(super) struct Reading<'a> {
    objects: Keys<'a>,
    fences: Vec<&'a str>,
    requests: Vec<&'a str>,
    chains: Vec<&'a str>,
    sql: String,
}

/// The rows that came, in the same places.
#[derive(Default)]
pub(super) struct Read {
    pub(super) objects: Vec<Row>,
    pub(super) fences: Vec<Row>,
    pub(super) requests: Vec<Row>,
    pub(super) heads: Vec<Row>,
}

impl<'a> Reading<'a> {
    pub(super) fn of(wanted: &'a Wanted) -> Self {
        let mut objects = Keys::default();
        wanted.objects.iter().for_each(|key| objects.push(key));
        Self {
            objects,
            fences: wanted.fences.iter().map(|lock| lock.as_str()).collect(),
            requests: wanted.requests.iter().map(|id| id.as_str()).collect(),
            chains: wanted.chains.iter().map(|chain| chain.as_str()).collect(),
            // Locked, in the order of their bytes, against whoever writes past this library.
            sql: format!(
                "SELECT o.namespace, o.kind, o.name, {} FROM unnest($1::text[], $2::text[], $3::text[]) AS w(namespace, kind, name)
                 JOIN onward_objects AS o ON o.namespace = w.namespace AND o.kind = w.kind AND o.name = w.name
                 ORDER BY 1, 2, 3 FOR UPDATE OF o",
                log::state("o")
            ),
        }
    }

    /// Adds the statements for what is wanted at all.
    pub(super) fn add<'s>(&'s self, steps: &mut Vec<Step<'s>>) {
        if !self.objects.name.is_empty() {
            steps.push(Step::Often(&self.sql, self.objects.params()));
        }
        let others = [
            (&self.fences, "SELECT lock_key, token FROM onward_fences WHERE lock_key = ANY($1) ORDER BY 1 FOR UPDATE"),
            (&self.requests, "SELECT id, fingerprint, receipt, expires_at FROM onward_requests WHERE id = ANY($1)"),
            (
                &self.chains,
                "SELECT c.origin, h.seq, h.hash, h.frontier, h.at, c.name FROM onward_chains AS c JOIN onward_heads AS h ON h.chain = c.id
                 WHERE c.name = ANY($1) ORDER BY c.name FOR UPDATE OF h",
            ),
        ];
        for (names, sql) in others.into_iter().filter(|(names, _)| !names.is_empty()) {
            steps.push(Step::Often(sql, vec![(names, Type::TEXT_ARRAY)]));
        }
    }

    /// Takes the answers of [`Reading::add`] apart.
    pub(super) fn read(&self, mut answers: impl Iterator<Item = Vec<Row>>) -> Read {
        let mut next = |wanted: bool| if wanted { answers.next().unwrap_or_default() } else { Vec::new() };
        Read {
            objects: next(!self.objects.name.is_empty()),
            fences: next(!self.fences.is_empty()),
            requests: next(!self.requests.is_empty()),
            heads: next(!self.chains.is_empty()),
        }
    }
}

/// Labels of objects in columns.
#[derive(Default)]
struct LabelRows<'a> {
    of: Keys<'a>,
    key: Vec<&'a str>,
    value: Vec<&'a str>,
}

impl<'a> LabelRows<'a> {
    /// Adds the labels of an object that `other` has not.
    fn add(&mut self, key: &'a Key, labels: Option<&'a Labels>, other: Option<&Labels>) {
        let has = |label, value| other.is_some_and(|other| other.get(label) == Some(value));
        for (label, value) in labels.into_iter().flat_map(Labels::iter).filter(|(label, value)| !has(label, value)) {
            self.of.push(key);
            self.key.push(label);
            self.value.push(value);
        }
    }

    fn part(&self, sql: &'static str) -> Option<Part<'_>> {
        let mut params = self.of.params();
        params.extend([(&self.key as _, Type::TEXT_ARRAY), (&self.value as _, Type::TEXT_ARRAY)]);
        (!self.key.is_empty()).then_some(Part::any(sql, params))
    }
}

/// Objects in columns.
#[derive(Default)]
struct Objects<'a> {
    of: Keys<'a>,
    /// The version that each replaces.
    was: Vec<i64>,
    uid: Vec<Uuid>,
    version: Vec<i64>,
    revision: Vec<i64>,
    create_revision: Vec<i64>,
    content_type: Vec<&'a str>,
    payload: Vec<&'a [u8]>,
    created_at: Vec<i64>,
    updated_at: Vec<i64>,
    labels: Vec<Option<String>>,
    expires_at: Vec<Option<i64>>,
}

impl<'a> Objects<'a> {
    fn push(&mut self, object: &'a Object) -> Result<()> {
        let (meta, value) = (&object.meta, &object.value);
        self.of.push(&object.key);
        self.uid.push(meta.uid);
        self.version.push(signed(meta.version.get())?);
        self.revision.push(signed(meta.revision.get())?);
        self.create_revision.push(signed(meta.create_revision.get())?);
        self.content_type.push(value.content_type());
        self.payload.push(value.bytes());
        self.created_at.push(meta.created_at.as_micros());
        self.updated_at.push(meta.updated_at.as_micros());
        self.labels.push(rows::labels_text(&meta.labels)?);
        self.expires_at.push(meta.expires_at.map(|at| at.as_micros()));
        Ok(())
    }

    fn params(&self) -> Vec<Param<'_>> {
        let mut params = self.of.params();
        let rest: [Param<'_>; 10] = [
            (&self.uid, Type::UUID_ARRAY),
            (&self.version, Type::INT8_ARRAY),
            (&self.revision, Type::INT8_ARRAY),
            (&self.create_revision, Type::INT8_ARRAY),
            (&self.content_type, Type::TEXT_ARRAY),
            (&self.payload, Type::BYTEA_ARRAY),
            (&self.created_at, Type::INT8_ARRAY),
            (&self.updated_at, Type::INT8_ARRAY),
            (&self.labels, Type::TEXT_ARRAY),
            (&self.expires_at, Type::INT8_ARRAY),
        ];
        params.extend(rest);
        params
    }
}

/// Makes objects; one that is there after all stops the batch.
const MAKE: &str = "INSERT INTO onward_objects (namespace, kind, name, uid, version, revision, create_revision, content_type, payload,
       created_at, updated_at, labels, expires_at)
     SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[],
       $9::bytea[], $10::bigint[], $11::bigint[], $12::text[], $13::bigint[])";
/// Replaces objects at the versions that are known.
const REPLACE: &str = "UPDATE onward_objects AS o SET uid = w.uid, version = w.version, revision = w.revision,
       create_revision = w.create_revision, content_type = w.content_type, payload = w.payload, created_at = w.created_at,
       updated_at = w.updated_at, labels = w.labels, expires_at = w.expires_at
     FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::bytea[],
       $10::bigint[], $11::bigint[], $12::text[], $13::bigint[], $14::bigint[]) AS w(namespace, kind, name, uid, version, revision,
       create_revision, content_type, payload, created_at, updated_at, labels, expires_at, was)
     WHERE o.namespace = w.namespace AND o.kind = w.kind AND o.name = w.name AND o.version = w.was";
/// Deletes objects at the versions that are known.
const DELETE: &str = "DELETE FROM onward_objects AS o USING unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
       AS w(namespace, kind, name, was)
     WHERE o.namespace = w.namespace AND o.kind = w.kind AND o.name = w.name AND o.version = w.was";
const UNLABEL: &str = "DELETE FROM onward_labels AS l USING unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
       AS w(namespace, kind, name, key, value)
     WHERE l.namespace = w.namespace AND l.kind = w.kind AND l.name = w.name AND l.key = w.key AND l.value = w.value";
const LABEL: &str = "INSERT INTO onward_labels (namespace, kind, name, key, value)
     SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])";
const FENCE: &str = "INSERT INTO onward_fences (lock_key, token, used_at)
     SELECT lock_key, token, $3 FROM unnest($1::text[], $2::bigint[]) AS w(lock_key, token)
     ON CONFLICT (lock_key) DO UPDATE SET token = excluded.token, used_at = excluded.used_at";
/// Makes the chains that are not there.
const CHAIN: &str = "INSERT INTO onward_chains (name, origin, created_at)
     SELECT name, origin, $3 FROM unnest($1::text[], $2::text[]) AS w(name, origin)
     WHERE NOT EXISTS (SELECT 1 FROM onward_chains AS c WHERE c.name = w.name)";
/// Moves the heads of chains that are there.
const HEAD: &str = "INSERT INTO onward_heads (chain, seq, hash, frontier, at)
     SELECT c.id, w.seq, w.hash, w.frontier, w.at
     FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bigint[]) AS w(name, seq, hash, frontier, at)
     JOIN onward_chains AS c USING (name)
     ON CONFLICT (chain) DO UPDATE SET seq = excluded.seq, hash = excluded.hash, frontier = excluded.frontier, at = excluded.at";
/// Each batch takes away twice what it adds, so the table is bounded by its window without a sweeper.
const FORGET: &str = "DELETE FROM onward_requests
     WHERE id = ANY(ARRAY(SELECT id FROM onward_requests WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2))";
const ANSWER: &str = "INSERT INTO onward_requests (id, fingerprint, receipt, expires_at)
     SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[], $4::bigint[])
     ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, receipt = excluded.receipt, expires_at = excluded.expires_at";

/// Entries in columns.
#[derive(Default)]
pub(super) struct Entries<'a> {
    chain: Vec<&'a str>,
    seq: Vec<i64>,
    prev: Vec<&'a [u8]>,
    hash: Vec<&'a [u8]>,
    mac: Vec<Option<&'a [u8]>>,
    kid: Vec<&'a str>,
    at: Vec<i64>,
    event_id: Vec<&'a str>,
    kind: Vec<&'a str>,
    actor: Vec<Option<&'a str>>,
    resource: Vec<Option<&'a str>>,
    data: Vec<&'a [u8]>,
    flags: Vec<i64>,
    pii: Vec<Option<&'a [u8]>>,
}

/// Inserts entries of chains that are there, from the parameters that [`Entries::params`] gives.
pub(super) const INSERT_ENTRIES: &str =
    "INSERT INTO onward_entries (chain, seq, prev, hash, mac, kid, at, event_id, kind, actor, resource, data, flags, pii)
     SELECT c.id, w.seq, w.prev, w.hash, w.mac, w.kid, w.at, w.event_id, w.kind, w.actor, w.resource, w.data, w.flags, w.pii
     FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bytea[], $6::text[], $7::bigint[], $8::text[], $9::text[],
       $10::text[], $11::text[], $12::bytea[], $13::bigint[], $14::bytea[])
       AS w(name, seq, prev, hash, mac, kid, at, event_id, kind, actor, resource, data, flags, pii)
     JOIN onward_chains AS c USING (name)";

impl<'a> Entries<'a> {
    pub(super) fn push(&mut self, chain: &'a str, entry: &'a Sealed) -> Result<()> {
        self.chain.push(chain);
        self.seq.push(signed(entry.seq.get())?);
        self.prev.push(entry.prev.as_bytes());
        self.hash.push(entry.hash.as_bytes());
        self.mac.push(entry.mac.as_ref().map(<[u8; 32]>::as_slice));
        self.kid.push(&entry.kid);
        self.at.push(entry.at.as_micros());
        self.event_id.push(&entry.event_id);
        self.kind.push(&entry.kind);
        self.actor.push(entry.actor.as_deref());
        self.resource.push(entry.resource.as_deref());
        self.data.push(&entry.data);
        self.flags.push(signed(entry.flags)?);
        self.pii.push(entry.personal.as_ref().map(|commitment| commitment.as_bytes().as_slice()));
        Ok(())
    }

    pub(super) fn params(&self) -> Vec<Param<'_>> {
        let params: [Param<'_>; 14] = [
            (&self.chain, Type::TEXT_ARRAY),
            (&self.seq, Type::INT8_ARRAY),
            (&self.prev, Type::BYTEA_ARRAY),
            (&self.hash, Type::BYTEA_ARRAY),
            (&self.mac, Type::BYTEA_ARRAY),
            (&self.kid, Type::TEXT_ARRAY),
            (&self.at, Type::INT8_ARRAY),
            (&self.event_id, Type::TEXT_ARRAY),
            (&self.kind, Type::TEXT_ARRAY),
            (&self.actor, Type::TEXT_ARRAY),
            (&self.resource, Type::TEXT_ARRAY),
            (&self.data, Type::BYTEA_ARRAY),
            (&self.flags, Type::INT8_ARRAY),
            (&self.pii, Type::BYTEA_ARRAY),
        ];
        params.into()
    }
}

#[derive(Default)]
struct Heads<'a> {
    chain: Vec<&'a str>,
    origin: Vec<&'a str>,
    seq: Vec<i64>,
    hash: Vec<&'a [u8]>,
    frontier: Vec<Vec<u8>>,
    at: Vec<i64>,
}

impl Heads<'_> {
    fn params(&self) -> Vec<Param<'_>> {
        let params: [Param<'_>; 5] = [
            (&self.chain, Type::TEXT_ARRAY),
            (&self.seq, Type::INT8_ARRAY),
            (&self.hash, Type::BYTEA_ARRAY),
            (&self.frontier, Type::BYTEA_ARRAY),
            (&self.at, Type::INT8_ARRAY),
        ];
        params.into()
    }
}

#[derive(Default)]
struct Answers<'a> {
    id: Vec<&'a str>,
    fingerprint: Vec<&'a [u8]>,
    receipt: Vec<String>,
    expires_at: Vec<i64>,
    forget: i64,
}

/// A plan in columns.
pub(super) struct Columns<'a> {
    now: i64,
    log: log::Rows<'a>,
    /// What its rows count in the log.
    pub(super) log_bytes: i64,
    made: Objects<'a>,
    replaced: Objects<'a>,
    deleted: Keys<'a>,
    deleted_at: Vec<i64>,
    unlabelled: LabelRows<'a>,
    labelled: LabelRows<'a>,
    fences: Vec<&'a str>,
    tokens: Vec<i64>,
    answers: Answers<'a>,
    heads: Heads<'a>,
    entries: Entries<'a>,
    personal: personal::Columns<'a>,
    /// The facts as they will be.
    pub(super) facts: [i64; 4],
    /// What is told to who listens; empty if nothing is.
    pub(super) word: String,
}

/// The facts that commits move: revision, version_floor, newest_token, newest_at.
pub(super) fn facts(meta: &StoreMeta) -> Result<[i64; 4]> {
    Ok([signed(meta.revision.get())?, signed(meta.version_floor)?, signed(meta.newest_token)?, meta.at.as_micros()])
}

impl<'a> Columns<'a> {
    pub(super) fn of(plan: &'a Plan) -> Result<Self> {
        let log = log::Rows::of(&plan.records)?;
        let meta = &plan.meta;
        let mut columns = Self {
            now: plan.now.as_micros(),
            log_bytes: log.bytes(),
            log,
            made: Objects::default(),
            replaced: Objects::default(),
            deleted: Keys::default(),
            deleted_at: Vec::new(),
            unlabelled: LabelRows::default(),
            labelled: LabelRows::default(),
            fences: plan.fences.keys().map(|lock| lock.as_str()).collect(),
            tokens: plan.fences.values().map(|token| signed(token.get())).collect::<Result<_>>()?,
            answers: Answers::default(),
            heads: Heads::default(),
            entries: Entries::default(),
            personal: personal::Columns::of(plan)?,
            facts: facts(meta)?,
            word: if plan.records.is_empty() { String::new() } else { super::word(meta.epoch, meta.revision) },
        };
        columns.objects(plan)?;
        columns.answers(plan)?;
        columns.chains(plan)?;
        Ok(columns)
    }

    fn objects(&mut self, plan: &'a Plan) -> Result<()> {
        // From the first state to the last, whatever the batch did in between.
        let mut first: HashMap<&Key, Option<&Meta>> = HashMap::new();
        for change in plan.records.iter().flat_map(|record| &record.changes) {
            first.entry(&change.key).or_insert_with(|| change.before.as_ref().map(|object| &object.meta));
        }
        // In the order of their bytes, in which whoever locks several rows locks them.
        let mut last: Vec<_> = plan.objects.iter().collect();
        last.sort_unstable_by_key(|(key, _)| *key);
        for (key, after) in last {
            let before = first.get(key).copied().flatten();
            match (before, after) {
                (None, None) => {}
                (None, Some(after)) => self.made.push(after)?,
                (Some(before), Some(after)) => {
                    self.replaced.was.push(signed(before.version.get())?);
                    self.replaced.push(after)?;
                }
                (Some(before), None) => {
                    self.deleted.push(key);
                    self.deleted_at.push(signed(before.version.get())?);
                }
            }
            let (before, after) = (before.map(|meta| &meta.labels), after.as_ref().map(|object| &object.meta.labels));
            self.unlabelled.add(key, before, after);
            self.labelled.add(key, after, before);
        }
        Ok(())
    }

    fn answers(&mut self, plan: &'a Plan) -> Result<()> {
        let answers = &mut self.answers;
        for (id, known) in &plan.requests {
            answers.id.push(id.as_str());
            answers.fingerprint.push(&known.fingerprint.0);
            answers.receipt.push(serde_json::to_string(&*known.receipt).map_err(damaged)?);
            answers.expires_at.push(known.expires_at.as_micros());
        }
        answers.forget = signed(plan.requests.len() as u64 * 2)?;
        Ok(())
    }

    fn chains(&mut self, plan: &'a Plan) -> Result<()> {
        let heads = &mut self.heads;
        for (chain, head) in &plan.heads {
            heads.chain.push(chain.as_str());
            heads.origin.push(&head.origin);
            heads.seq.push(signed(head.seq.get())?);
            heads.hash.push(head.hash.as_bytes());
            heads.frontier.push(head.frontier.to_bytes());
            heads.at.push(head.at.as_micros());
        }
        let entries = &mut self.entries;
        for (chain, entry) in &plan.entries {
            if !plan.heads.contains_key(chain) {
                return Err(Error::integrity("an entry without the head of its chain"));
            }
            entries.push(chain.as_str(), entry)?;
        }
        Ok(())
    }

    /// What is changed beside the facts, in one statement with them.
    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = Vec::with_capacity(16);
        if !self.log.is_empty() {
            parts.push(Part::each(log::APPEND, self.log.params()));
        }
        let (made, replaced) = (&self.made, &self.replaced);
        if !made.uid.is_empty() {
            parts.push(Part::each(MAKE, made.params()));
        }
        if !replaced.uid.is_empty() {
            let mut params = replaced.params();
            params.push((&replaced.was, Type::INT8_ARRAY));
            parts.push(Part::each(REPLACE, params));
        }
        if !self.deleted_at.is_empty() {
            let mut params = self.deleted.params();
            params.push((&self.deleted_at, Type::INT8_ARRAY));
            parts.push(Part::each(DELETE, params));
        }
        parts.extend(self.unlabelled.part(UNLABEL));
        parts.extend(self.labelled.part(LABEL));
        if !self.fences.is_empty() {
            let params: [Param<'_>; 3] = [(&self.fences, Type::TEXT_ARRAY), (&self.tokens, Type::INT8_ARRAY), (&self.now, Type::INT8)];
            parts.push(Part::each(FENCE, params.into()));
        }
        // Else they come behind the chains, which are made in a statement of their own.
        if !self.heads.chain.is_empty() && !self.makes_chains() {
            parts.extend([Part::each(HEAD, self.heads.params()), Part::each(INSERT_ENTRIES, self.entries.params())]);
        }
        parts
    }

    /// A chain comes with its first entry.
    fn makes_chains(&self) -> bool {
        self.entries.seq.contains(&1)
    }

    /// What relies on rows that were changed before: entries and personal data of chains that are made first, and answers.
    pub(super) fn rest(&self) -> Vec<Step<'_>> {
        let mut steps = Vec::new();
        if self.makes_chains() {
            let Heads { chain, origin, .. } = &self.heads;
            steps.push(Step::Often(CHAIN, vec![(chain, Type::TEXT_ARRAY), (origin, Type::TEXT_ARRAY), (&self.now, Type::INT8)]));
            steps.extend([Step::Often(HEAD, self.heads.params()), Step::Often(INSERT_ENTRIES, self.entries.params())]);
        }
        let Answers { id, fingerprint, receipt, expires_at, forget } = &self.answers;
        if !id.is_empty() {
            steps.push(Step::Often(FORGET, vec![(&self.now, Type::INT8), (forget, Type::INT8)]));
            let params: [Param<'_>; 4] =
                [(id, Type::TEXT_ARRAY), (fingerprint, Type::BYTEA_ARRAY), (receipt, Type::TEXT_ARRAY), (expires_at, Type::INT8_ARRAY)];
            steps.push(Step::Often(ANSWER, params.into()));
        }
        self.personal.add(&mut steps);
        steps
    }
}
