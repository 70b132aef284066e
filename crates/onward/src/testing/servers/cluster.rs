//! A private Redis Cluster.

use super::free_port;
use super::redis::{PATIENCE, Redis};
use crate::time::Clock;

/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// Three masters on loopback, without replicas; dropping it kills them.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts a cluster and waits until it is whole.
    pub fn start() -> Self {
        let start = |_: u16| {
            // The usual one, 10,000 above, may be no port at all.
            let bus = free_port().to_string();
            // A busy machine is not a node that is gone.
            (Redis::start_with(&["--cluster-enabled", "yes", "--cluster-node-timeout", "60000", "--cluster-port", &bus]), bus)
        };
        let (nodes, buses): (Vec<Redis>, Vec<String>) = (0..3).map(start).unzip();
        let cluster = Self { nodes };
        let third = SLOTS / 3;
        for ((place, node), bus) in (0..).zip(&cluster.nodes).zip(&buses) {
            let last = if place == 2 { SLOTS - 1 } else { (place + 1) * third - 1 };
            assert_eq!(node.ask(&format!("CLUSTER ADDSLOTSRANGE {} {last}", place * third)), "OK");
            assert_eq!(cluster.nodes[0].ask(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", node.port())), "OK");
        }
        let patience = Clock::system().now() + PATIENCE;
        let is_whole = |node: &Redis| {
            let info = node.ask("CLUSTER INFO");
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        };
        while !cluster.nodes.iter().all(is_whole) {
            assert!(Clock::system().now() < patience, "the cluster does not come together");
            std::thread::yield_now();
        }
        cluster
    }

    /// Returns its nodes.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// Returns the URL of its first node.
    pub fn url(&self) -> String {
        format!("redis+cluster://127.0.0.1:{}", self.nodes[0].port())
    }

    /// Gives a slot to another node, which has none of its keys: as after a failover to a replica that was far behind.
    pub fn give_empty(&self, slot: u16, to: usize) {
        let id = self.nodes[to].ask("CLUSTER MYID");
        for node in &self.nodes {
            // Who holds keys of a slot does not let go of it.
            assert_eq!(node.ask("FLUSHALL"), "OK");
            assert_eq!(node.ask(&format!("CLUSTER SETSLOT {slot} NODE {id}")), "OK");
        }
    }
}
