//! Which server holds a namespace: the one, or the master of its slot in a cluster.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use redis::{ErrorKind, Pipeline, RedisResult, ServerErrorKind, Value};

use super::address::Address;
use super::cache_names::{BUCKETS, epochs};
use super::cache_steps::{self, Step};
use super::connection::{Link, Session};
use crate::{Error, Result};

/// Most nodes of a cluster that are asked who owns what.
const ASKED: usize = 8;

/// Which connection a call takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// Reads and fills.
    Calls,
    /// What kills or removes: no big value stands before it.
    Purges,
}

/// The two connections to a server.
#[derive(Clone, Debug)]
struct Pair {
    calls: Link,
    purges: Link,
}

impl Pair {
    async fn open(address: &Address) -> Result<Self> {
        Ok(Self { calls: Link::open(address).await?, purges: Link::open(address).await? })
    }

    fn session(&self, way: Way) -> Result<Session> {
        match way {
            Way::Calls => self.calls.session(),
            Way::Purges => self.purges.session(),
        }
    }
}

/// The servers of a cache.
#[derive(Debug)]
pub(super) enum Nodes {
    Single(Box<Address>, OnePair),
    Cluster(Box<Cluster>),
}

/// The connections to a server that is alone.
pub(super) struct OnePair(Pair);

impl fmt::Debug for OnePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Nodes {
    pub(super) async fn open(address: &Address) -> Result<Self> {
        if address.is_cluster() {
            return Ok(Self::Cluster(Box::new(Cluster::open(address).await?)));
        }
        let pair = Pair::open(address).await?;
        // Refuses a server that can't be told from its successor.
        pair.calls.session()?;
        Ok(Self::Single(Box::new(address.clone()), OnePair(pair)))
    }

    /// Returns the address to listen at: purges anywhere are told everywhere.
    pub(super) fn address(&self) -> &Address {
        match self {
            Self::Single(address, _) => address,
            Self::Cluster(cluster) => &cluster.seed,
        }
    }

    /// Returns a connection to every server.
    pub(super) fn links(&self) -> Vec<Link> {
        match self {
            Self::Single(_, pair) => vec![pair.0.calls.clone()],
            Self::Cluster(cluster) => cluster.known.lock().pairs.values().map(|pair| pair.calls.clone()).collect(),
        }
    }

    /// Returns a connection to the server of a bucket; in a cluster one that is gone may have another master by now.
    pub(super) async fn session(&self, bucket: u8, way: Way) -> Result<Session> {
        match self {
            Self::Single(_, pair) => pair.0.session(way),
            Self::Cluster(cluster) => match cluster.pair(bucket).and_then(|pair| pair.session(way)) {
                Ok(session) => Ok(session),
                Err(_) => {
                    cluster.look_again().await?;
                    cluster.pair(bucket)?.session(way)
                }
            },
        }
    }

    /// Sends commands that may be sent twice to the server of a bucket; also tells which process answered.
    pub(super) async fn each(&self, bucket: u8, way: Way, commands: &Pipeline) -> Result<(Vec<RedisResult<Value>>, Arc<str>)> {
        let session = self.session(bucket, way).await?;
        let answers = session.each(commands).await?;
        if !answers.iter().any(is_elsewhere) {
            return Ok((answers, session.shared_server()));
        }
        let session = self.session_elsewhere(bucket, way).await?;
        Ok((session.each(commands).await?, session.shared_server()))
    }

    /// Carries out steps of one bucket; those that the server sends elsewhere did nothing and are sent there.
    pub(super) async fn carry_out(&self, bucket: u8, way: Way, now: &str, steps: &[Step<'_>]) -> Result<Vec<RedisResult<Value>>> {
        let session = self.session(bucket, way).await?;
        let answers = cache_steps::carry_out(&session, now, steps).await?;
        if !answers.iter().any(is_elsewhere) {
            return Ok(answers);
        }
        let session = self.session_elsewhere(bucket, way).await?;
        let mut settled = Vec::with_capacity(steps.len());
        for (step, answer) in steps.iter().zip(answers) {
            if is_elsewhere(&answer) {
                settled.extend(cache_steps::carry_out(&session, now, std::slice::from_ref(step)).await?);
            } else {
                settled.push(answer);
            }
        }
        Ok(settled)
    }

    async fn session_elsewhere(&self, bucket: u8, way: Way) -> Result<Session> {
        match self {
            Self::Single(..) => Err(Error::unsupported("this redis is a node of a cluster: its URL begins with redis+cluster")),
            Self::Cluster(cluster) => {
                cluster.look_again().await?;
                cluster.pair(bucket)?.session(way)
            }
        }
    }
}

/// Tells whether a server says that another one has the slot.
fn is_elsewhere(answer: &RedisResult<Value>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::Moved))
}

/// A cluster, as far as it is known: who is the master of each bucket's slot.
pub(super) struct Cluster {
    seed: Address,
    known: Mutex<Known>,
    looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    owners: Vec<String>,
    pairs: HashMap<String, Pair>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl Cluster {
    async fn open(address: &Address) -> Result<Self> {
        let cluster = Self { seed: address.clone(), known: Mutex::default(), looking: tokio::sync::Mutex::default() };
        cluster.look_again().await?;
        for bucket in 0..BUCKETS {
            cluster.pair(bucket)?.calls.session()?;
        }
        Ok(cluster)
    }

    fn pair(&self, bucket: u8) -> Result<Pair> {
        let known = self.known.lock();
        let pair = known.owners.get(usize::from(bucket)).and_then(|owner| known.pairs.get(owner));
        pair.cloned().ok_or_else(|| Error::unavailable("no node of the redis cluster has this slot"))
    }

    /// Asks who owns what, one caller at a time: first the nodes that are known, then the one that the URL names.
    async fn look_again(&self) -> Result<()> {
        let _one = self.looking.lock().await;
        let links: Vec<Link> = self.known.lock().pairs.values().map(|pair| pair.calls.clone()).filter(Link::is_up).take(ASKED).collect();
        let mut slots = None;
        for link in links {
            if let Ok(answer) = link.call::<Value>(redis::cmd("CLUSTER").arg("SLOTS")).await {
                slots = Some(answer);
                break;
            }
        }
        let slots = match slots {
            Some(slots) => slots,
            None => Link::open(&self.seed).await?.call(redis::cmd("CLUSTER").arg("SLOTS")).await?,
        };
        let owners = owners(&slots, &self.seed);
        let mut wanted: Vec<&(String, Address)> = owners.iter().collect();
        wanted.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        wanted.dedup_by(|one, other| one.0 == other.0);
        for (name, address) in wanted {
            let is_known = self.known.lock().pairs.contains_key(name);
            if !is_known {
                // A node that can't be reached is tried again by whoever needs it.
                if let Ok(pair) = Pair::open(address).await {
                    self.known.lock().pairs.insert(name.clone(), pair);
                }
            }
        }
        let mut known = self.known.lock();
        known.owners = owners.into_iter().map(|(name, _)| name).collect();
        let Known { owners, pairs } = &mut *known;
        pairs.retain(|name, _| owners.contains(name));
        Ok(())
    }
}

/// Reads the masters of all buckets from what `CLUSTER SLOTS` answers; a bucket without one has no name.
fn owners(slots: &Value, seed: &Address) -> Vec<(String, Address)> {
    let owner = |bucket| {
        let slot = slot(bucket);
        let Value::Array(ranges) = slots else { return None };
        ranges.iter().find_map(|range| {
            let Value::Array(parts) = range else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = parts.as_slice() else { return None };
            if !(*first..=*last).contains(&i64::from(slot)) {
                return None;
            }
            let host = match master.first() {
                Some(Value::BulkString(host)) => std::str::from_utf8(host).ok()?,
                _ => "",
            };
            let port = match master.get(1) {
                Some(Value::Int(port)) => u16::try_from(*port).ok()?,
                _ => return None,
            };
            let address = seed.node(host, port);
            Some((format!("{host}:{port}"), address))
        })
    };
    (0..BUCKETS).map(|bucket| owner(bucket).unwrap_or_else(|| (String::new(), seed.clone()))).collect()
}

/// Returns the cluster's slot of a bucket: CRC-16 (XMODEM) of what stands between the braces.
fn slot(bucket: u8) -> u16 {
    let name = epochs(bucket);
    let tag = name.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(tag, _)| tag);
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 })
    });
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        // `CLUSTER KEYSLOT` of `on:c1:{0}` .. `on:c1:{15}` says the same.
        let slots: Vec<u16> = (0..BUCKETS).map(slot).collect();
        assert_eq!(slots[..4], [13_907, 9_842, 5_649, 1_584]);
    }
}
