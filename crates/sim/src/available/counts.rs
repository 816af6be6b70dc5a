/// What a run counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations that were answered.
    pub answered: u64,
    /// Operations that ended unknown.
    pub unknown: u64,
    /// Writes without an answer of which their session was told later that they are done.
    pub remembered: u64,
    /// Faults that happened.
    pub faults: u64,
    /// Reads that showed several values.
    pub siblings: u64,
    /// Causal reads that were answered without a message.
    pub local_reads: u64,
    /// Causal reads in all.
    pub causal_reads: u64,
    /// Writes that a stand-in kept.
    pub hinted: u64,
    /// Tombstones that were dropped.
    pub buried: u64,
    /// Late copies of what was gone that were turned away.
    pub stale_refused: u64,
    /// Passes of reconciliation that ended.
    pub passes: u64,
    /// Disks that were lost and got their data back.
    pub refilled: u64,
    /// Changes of membership that were completed or abandoned.
    pub changes: u64,
    /// Keys that were dropped by those who were no homes any more.
    pub released: u64,
    /// Times at which a wall clock was set anew.
    pub clock_jumps: u64,
    /// Times at which a node told its replica that the disk is full.
    pub disks_full: u64,
    /// Segments of logs that were cleaned.
    pub segments_cleaned: u64,
    /// Bits that flipped in what disks held.
    pub bits_rotted: u64,
    /// Times at which a running node found its log damaged.
    pub damage_scrubbed: u64,
    /// Times at which a start found its log damaged, so that the node was given up.
    pub damage_at_start: u64,
    /// Times at which a disk lost syncs that it had acknowledged.
    pub syncs_lost: u64,
    /// Events simulated.
    pub events: u64,
    /// Virtual time that passed, in milliseconds.
    pub simulated_ms: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Counts) {
        self.answered += other.answered;
        self.unknown += other.unknown;
        self.remembered += other.remembered;
        self.faults += other.faults;
        self.siblings += other.siblings;
        self.local_reads += other.local_reads;
        self.causal_reads += other.causal_reads;
        self.hinted += other.hinted;
        self.buried += other.buried;
        self.stale_refused += other.stale_refused;
        self.passes += other.passes;
        self.refilled += other.refilled;
        self.changes += other.changes;
        self.released += other.released;
        self.clock_jumps += other.clock_jumps;
        self.disks_full += other.disks_full;
        self.segments_cleaned += other.segments_cleaned;
        self.bits_rotted += other.bits_rotted;
        self.damage_scrubbed += other.damage_scrubbed;
        self.damage_at_start += other.damage_at_start;
        self.syncs_lost += other.syncs_lost;
        self.events += other.events;
        self.simulated_ms += other.simulated_ms;
    }
}
