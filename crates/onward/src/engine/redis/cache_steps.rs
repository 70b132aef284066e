//! The steps of the cache: scripts, alone or many in one trip.

use bytes::Bytes;
use redis::{Cmd, ErrorKind, Pipeline, RedisResult, ServerErrorKind, Value};

use super::cache_names::{Part, bucket, epochs, name, prefix};
use super::connection::Session;
use super::script::{Script, script};
use super::utopia;
use crate::cache::{Layout, Slot};
use crate::{Result, random};

static RESERVE: Script = script!("cache.lua", "cache_reserve_free.lua", "cache_entry.lua", "cache_reserve.lua");
static COMMIT: Script = script!("cache.lua", "cache_commit_plain.lua", "cache_entry.lua", "cache_commit.lua");
static ABANDON: Script = script!("cache.lua", "cache_abandon.lua");
static PURGE: Script = script!("cache.lua", "cache_entry.lua", "cache_purge.lua");
static EXPIRE: Script = script!("cache.lua", "cache_entry.lua", "cache_expire.lua");
static TOUCH: Script = script!("cache.lua", "cache_entry.lua", "cache_touch.lua");
static LIST: Script = script!("cache.lua", "cache_entry.lua", "cache_list.lua");
static GUARDED: Script = script!("cache.lua", "cache_guarded.lua");
static COUNT: Script = script!("cache.lua", "cache_entry.lua", "cache_count.lua");

/// What a step does; each is one script.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    Reserve,
    Commit,
    Abandon,
    Purge,
    Expire,
    Touch,
    List,
    Guarded,
    Count,
}

impl Act {
    fn script(self, sharing: Layout) -> &'static Script {
        if sharing != Layout::Onward {
            return utopia::script_of(self);
        }
        match self {
            Self::Reserve => &RESERVE,
            Self::Commit => &COMMIT,
            Self::Abandon => &ABANDON,
            Self::Purge => &PURGE,
            Self::Expire => &EXPIRE,
            Self::Touch => &TOUCH,
            Self::List => &LIST,
            Self::Guarded => &GUARDED,
            Self::Count => &COUNT,
        }
    }
}

/// One step on one slot, with what its script takes beside the slot.
pub(super) struct Step<'a> {
    pub(super) act: Act,
    pub(super) slot: Slot<'a>,
    pub(super) args: Vec<Bytes>,
    /// The layout of the keys of its namespace.
    sharing: Layout,
}

impl<'a> Step<'a> {
    pub(super) fn new(act: Act, slot: Slot<'a>) -> Self {
        Self { act, slot, args: Vec::new(), sharing: Layout::Onward }
    }

    /// Takes the step on the other side of a shared key, too.
    pub(super) fn shared(self, sharing: Layout) -> Self {
        match sharing {
            Layout::Onward => self,
            Layout::Utopia | Layout::UtopiaCaseSensitive => Self { sharing, ..self.with_number(random::below(utopia::SEED_BELOW)) },
        }
    }

    fn script(&self) -> &'static Script {
        self.act.script(self.sharing)
    }

    pub(super) fn with(mut self, arg: impl AsRef<[u8]>) -> Self {
        self.args.push(Bytes::copy_from_slice(arg.as_ref()));
        self
    }

    pub(super) fn with_number(self, number: u64) -> Self {
        self.with(number.to_string())
    }

    pub(super) fn with_payload(mut self, payload: Bytes) -> Self {
        self.args.push(payload);
        self
    }

    /// Makes the call, by hash or by text.
    fn command(&self, (verb, script): (&str, &str), server: &str, now: &str) -> Cmd {
        let Slot { namespace, key, field } = self.slot;
        let prefix = prefix(namespace);
        let mut command = redis::cmd(verb);
        let (of, other) = if field.is_none() { (Part::Plain, Part::Fields) } else { (Part::Fields, Part::Plain) };
        let shared = self.sharing.name_in_php(key);
        let is_shared = shared.is_some();
        // Each name costs the server time, so none is sent that the script does not use. A shared one is the sixth.
        let parts: &[Part] = match self.act {
            Act::Reserve if !is_shared => &[of, Part::Leases, Part::Guards],
            Act::Commit | Act::Abandon if !is_shared => &[of, Part::Leases],
            _ => &[of, Part::Leases, Part::Guards, other],
        };
        command.arg(script).arg(1 + parts.len() + usize::from(is_shared)).arg(epochs(bucket(namespace)));
        for part in parts {
            command.arg(name(&prefix, *part, key));
        }
        if let Some(hash) = shared {
            command.arg(&*hash);
        }
        command.arg(namespace).arg(server).arg(now).arg(field.unwrap_or_default());
        for arg in &self.args {
            command.arg(arg.as_ref());
        }
        command
    }
}

/// Carries out steps in one trip, each for itself; a second trip takes those whose script the server did not know, and no others.
pub(super) async fn carry_out(session: &Session, now: &str, steps: &[Step<'_>]) -> Result<Vec<RedisResult<Value>>> {
    let mut pipeline = Pipeline::with_capacity(steps.len());
    for step in steps {
        pipeline.add_command(step.command(("EVALSHA", step.script().hash()), session.server(), now));
    }
    let mut answers = session.each(&pipeline).await?;
    let is_unknown =
        |answer: &RedisResult<Value>| answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript));
    let unknown: Vec<usize> = answers.iter().enumerate().filter(|(_, answer)| is_unknown(answer)).map(|(place, _)| place).collect();
    if unknown.is_empty() {
        return Ok(answers);
    }
    pipeline.clear();
    // The first one brings the text; all steps of a batch are of one script.
    for (sent, step) in unknown.iter().filter_map(|place| steps.get(*place)).enumerate() {
        let script = step.script();
        let call = if sent == 0 { ("EVAL", script.text()) } else { ("EVALSHA", script.hash()) };
        pipeline.add_command(step.command(call, session.server(), now));
    }
    for (place, answer) in unknown.into_iter().zip(session.each(&pipeline).await?) {
        if let Some(old) = answers.get_mut(place) {
            *old = answer;
        }
    }
    Ok(answers)
}
