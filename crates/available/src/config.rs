use std::time::Duration;

use crate::state::Limits;

/// What may differ from node to node; the defaults are for a local network and disks that sync within milliseconds.
#[derive(Clone, Debug)]
pub struct Config {
    /// How often a replica looks after its peers: what it owes them, and tells them how far it has come. A causal read
    /// right after another node's write waits for this at most before it needs no message.
    pub beat: Duration,
    /// When what was not answered is sent again; longer than a round trip with a sync.
    pub resend: Duration,
    /// How often all is compared with each peer, as a safety net.
    pub pass_every: Duration,
    /// How long requests are remembered at least, in milliseconds of the shells' wall clocks.
    pub memory_ms: u64,
    /// What a key's state may remember.
    pub limits: Limits,
    /// Hints that a stand-in keeps at most; past it, writes that no home can take are refused.
    pub hints_max: usize,
    /// Bytes of hints at most, about.
    pub hint_bytes_max: usize,
    /// What a write's place is, once it is acknowledged.
    pub durability: Durability,
}

/// Where a replica keeps what it has taken: the choice of its buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// In its log: it still has it after a restart.
    #[default]
    Disk,
    /// Nowhere else: nothing is written. A home that restarts is empty and somebody new, and is not counted until it
    /// has
    /// got back from the other homes what they hold.
    Memory,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            beat: Duration::from_millis(50),
            resend: Duration::from_millis(100),
            pass_every: Duration::from_secs(60),
            memory_ms: 600_000,
            limits: Limits::default(),
            hints_max: 4_096,
            hint_bytes_max: 16 << 20,
            durability: Durability::Disk,
        }
    }
}
