//! Legal holds: nothing of a held range is purged, whatever the retention says.
//!
//! The holds of a chain are one object. Every batch that deletes guards its version, so when a hold is placed, no batch that did not see
//! it can commit any more.

use onward_api::number;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Act, refused};
use crate::audit::chain::Chain;
use crate::audit::verify::SegmentState;
use crate::commit::{Commit, CommitOutcome, Guard, WriteCondition};
use crate::model::{Data, Entry, Key, Seq};
use crate::time::Timestamp;
use crate::{Error, Result, random};

const KIND: &str = "onward.holds";
/// Most holds of a chain.
const HOLDS: usize = 1_000;
/// How often a change is tried against others who place holds.
const TRIES: usize = 8;

/// A range that is not to be purged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its name.
    pub id: String,
    /// The first entry.
    #[serde(with = "number")]
    pub from: u64,
    /// The last entry; absent: all that come, too.
    #[serde(default, with = "number::optional")]
    pub to: Option<u64>,
    /// Why.
    pub reason: String,
    /// Who placed it.
    pub by: Option<String>,
    /// When.
    pub at: Timestamp,
}

impl Hold {
    pub(in crate::audit) fn covers(&self, from: u64, to: u64) -> bool {
        self.from <= to && self.to.is_none_or(|last| last >= from)
    }
}

/// The holds of a chain, and what they came too late for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    /// The holds, in the order in which they were placed.
    pub holds: Vec<Hold>,
}

impl Holds {
    /// Tells whether they keep a segment from losing what it could lose next.
    pub(super) fn keep(&self, segment: &super::Segment) -> bool {
        let loses = matches!(segment.state, SegmentState::Purging | SegmentState::Archived | SegmentState::Purged);
        loses && self.holds.iter().any(|hold| hold.covers(segment.from, segment.to))
    }
}

impl Chain {
    /// Lists the holds.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the engine is away, or the holds are damaged.
    pub async fn holds(&self) -> Result<Vec<Hold>> {
        Ok(self.read_holds().await.map_err(|e| e.during("holds"))?.0.holds)
    }

    /// Holds a range; by default the whole chain, and what comes. A running purge stops within one batch.
    ///
    /// Returns the hold, and the first entries of the segments whose rows were purged, wholly or in part, before it came.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the range, or the reason. `NotFound`: no such chain. `Conflict`: 1,000 holds are placed.
    pub async fn hold(&self, from: Option<Seq>, to: Option<Seq>, act: &Act) -> Result<(Hold, Vec<u64>)> {
        self.place_hold(from.map_or(1, Seq::get), to.map(Seq::get), act).await.map_err(|e| e.during("hold"))
    }

    async fn place_hold(&self, from: u64, to: Option<u64>, act: &Act) -> Result<(Hold, Vec<u64>)> {
        act.check()?;
        if to.is_some_and(|to| to < from) {
            return Err(Error::invalid("the range ends before it begins"));
        }
        self.head().await?.ok_or_else(|| Error::not_found("no such chain"))?;
        let at = self.trail().queue().clock().wall();
        let id = hex::encode(random::bytes::<6>());
        let hold = Hold { id, from, to, reason: act.reason.clone(), by: act.actor.clone(), at };
        if !act.dry {
            let data = json!({"id": hold.id, "from": from, "to": to, "reason": act.reason});
            self.change_holds("hold.placed", &data, act, |holds| {
                holds.push(hold.clone());
                if holds.len() > HOLDS { Err(refused("a chain has at most 1,000 holds")) } else { Ok(()) }
            })
            .await?;
        }
        let late = |segment: &super::Segment| hold.covers(segment.from, segment.to) && segment.state.may_lack_rows();
        let late = self.all_segments().await?.iter().filter(|segment| late(segment)).map(|segment| segment.from).collect();
        Ok((hold, late))
    }

    /// Ends a hold.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound): no such hold. `Invalid`: the reason.
    pub async fn release_hold(&self, id: &str, act: &Act) -> Result<()> {
        let release = async {
            act.check()?;
            let absent = || Error::not_found("no such hold");
            if act.dry {
                let (holds, _) = self.read_holds().await?;
                return holds.holds.iter().any(|hold| hold.id == id).then_some(()).ok_or_else(absent);
            }
            self.change_holds("hold.released", &json!({"id": id, "reason": act.reason}), act, |holds| {
                let before = holds.len();
                holds.retain(|hold| hold.id != id);
                if holds.len() == before { Err(absent()) } else { Ok(()) }
            })
            .await
        };
        release.await.map_err(|e| e.during("release_hold"))
    }

    async fn change_holds(&self, kind: &str, data: &Value, act: &Act, change: impl Fn(&mut Vec<Hold>) -> Result<()>) -> Result<()> {
        let mut entry = Entry::new(kind).with_data(Data::json(data)?);
        entry.actor.clone_from(&act.actor);
        for _ in 0..TRIES {
            let (mut holds, guard) = self.read_holds().await?;
            change(&mut holds.holds)?;
            let condition = match guard {
                Guard::At(_, version) => WriteCondition::MatchVersion(version),
                _ => WriteCondition::MustCreate,
            };
            let commit = Commit::new().put(self.holds_key()?, &holds, condition).control(self.name().clone(), entry.clone());
            if let CommitOutcome::Committed(_) = self.trail().queue().submit(commit).await? {
                return Ok(());
            }
        }
        Err(Error::overloaded("others change the holds of the chain", std::time::Duration::from_millis(100)))
    }

    fn holds_key(&self) -> Result<Key> {
        Key::new(KIND, self.name().as_str())
    }

    /// The holds, and the guard that they are still these.
    pub(in crate::audit) async fn read_holds(&self) -> Result<(Holds, Guard)> {
        let key = self.holds_key()?;
        match self.trail().queue().engine().get(&key).await? {
            Some(object) => Ok((super::read(object.value.read())?, Guard::At(key, object.meta.version))),
            None => Ok((Holds::default(), Guard::Absent(key))),
        }
    }

    /// The guard that nothing holds a range, if nothing does.
    pub(super) async fn free_of_holds(&self, from: u64, to: u64) -> Result<Guard> {
        let (holds, guard) = self.read_holds().await?;
        match holds.holds.iter().find(|hold| hold.covers(from, to)) {
            Some(hold) => Err(refused(format!("the hold {} covers the segment", hold.id))),
            None => Ok(guard),
        }
    }

    /// Tells whether a segment may not lose anything now.
    pub(super) async fn is_held(&self, segment: &super::Segment) -> Result<bool> {
        Ok(self.read_holds().await?.0.keep(segment))
    }
}
