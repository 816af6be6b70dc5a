use std::time::Duration;

/// How a replica behaves. All replicas of one discovery should agree on it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The unit of Raft's time. 50 ms.
    pub tick: Duration,
    /// Ticks between a leader's signs of life. 2: smaller than `election_ticks` by far.
    pub heartbeat_ticks: usize,
    /// Ticks of silence after which a leader is doubted; up to twice as many, drawn anew each time. 20: longer than a
    /// slow disk's sync and a busy machine's pause. A leader that dies is noticed by its connections, long before.
    pub election_ticks: usize,
    /// After a leader's connections broke, up to how long to wait before standing for election: so that not all stand
    /// at once. 100 ms.
    pub haste_max: Duration,
    /// How long a proposal is tried, and a read waits for a leader. 4 s: an election fits, and a client's 5 s hold it.
    pub patience: Duration,
    /// How far the registry's clock goes on at a time at most, however long the process slept. 1 s.
    pub clock_step_max: Duration,
    /// Entries after which an image is taken.
    pub image_entries: u64,
    /// Bytes of entries after which an image is taken.
    pub image_bytes: u64,
    /// Entries that are kept in memory behind an image, for followers that lag.
    pub keep_entries: u64,
    /// The size of the log's segments in bytes; no entry may be larger.
    pub segment_bytes: u64,
    /// Names of the replicas that begin together, its own included. One: it begins alone.
    pub founders: Vec<String>,
}

impl Config {
    /// The defaults, for a discovery that begins with these replicas.
    pub fn new(founders: Vec<String>) -> Config {
        Config {
            tick: Duration::from_millis(50),
            heartbeat_ticks: 2,
            election_ticks: 20,
            haste_max: Duration::from_millis(100),
            patience: Duration::from_secs(4),
            clock_step_max: Duration::from_secs(1),
            image_entries: 20_000,
            image_bytes: 16 << 20,
            keep_entries: 2_000,
            segment_bytes: 16 << 20,
            founders,
        }
    }
}
