use thiserror::Error;

use crate::disk::DiskError;
use crate::log::SegmentId;

/// Why a log could not be opened. Damage is never repaired: nothing on the disk was changed by [`OpenError::Damaged`].
#[derive(Debug, Error)]
pub enum OpenError {
    /// The configuration contradicts itself; the sentence says how.
    #[error("{0}")]
    Config(String),
    /// A record that was acknowledged cannot be read. The directory must not be used again: the node comes back as a
    /// new member and is filled from its peers.
    #[error(
        "the log is damaged: {segment} cannot be read at byte {offset}, and what follows shows that it was whole once; \
         set the data directory aside and start with an empty one, so that the node joins as a new member"
    )]
    Damaged {
        /// The damaged segment.
        segment: SegmentId,
        /// Where in its file.
        offset: u64,
    },
    /// There is no log although the directory had one.
    #[error(
        "the data directory has an identity but no log, so its records are lost; \
         set the directory aside and start with an empty one, so that the node joins as a new member"
    )]
    Missing,
    /// The segments belong to another log: files were mixed.
    #[error(
        "{segment} belongs to the log {found:016x}, not to {expected:016x}; files of two data directories were mixed"
    )]
    OtherLog {
        /// The segment.
        segment: SegmentId,
        /// The log id in it.
        found: u64,
        /// The log id of this directory.
        expected: u64,
    },
    /// The segments have a format that this program does not know.
    #[error("{segment} has the format {found}, and this program reads only {supported}; use the program that wrote it")]
    Version {
        /// The segment.
        segment: SegmentId,
        /// Its format.
        found: u32,
        /// What is supported.
        supported: u32,
    },
    /// The disk failed, or has no room for a new log's first segment.
    #[error("the log cannot be opened")]
    Disk(#[source] DiskError),
}

impl From<DiskError> for OpenError {
    fn from(error: DiskError) -> OpenError {
        OpenError::Disk(error)
    }
}

/// The disk failed while the log was in use. What is on it is unknown until it is read again, so every later call fails
/// the same way: the process must stop, and recover from the log when it starts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the disk failed, and the log takes nothing more; the process must stop and recover when it starts: {reason}")]
pub struct Poisoned {
    /// What failed first.
    pub reason: String,
}

/// Why appended records were not made durable. Whether some of them are is unknown.
pub type FlushError = Poisoned;

/// Why a record was not appended. Nothing was changed, except by [`AppendError::Poisoned`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The record can never fit. A bug or an unchecked limit of the caller.
    #[error("a record of {len} bytes does not fit in a segment, which holds {max}")]
    TooLarge {
        /// The body's length, in bytes.
        len: u64,
        /// The longest body, in bytes.
        max: u64,
    },
    /// The disk is full and the reserve is used up. [`crate::Log::is_full`] told so long before.
    #[error("the disk is full")]
    Full,
    /// Too much is appended and not flushed: flush, then append again.
    #[error("{pending} bytes wait to be flushed; flush first")]
    FlushFirst {
        /// Bytes that wait.
        pending: u64,
    },
    /// The disk failed, now or before.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

/// Why a segment could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is no such segment (any more).
    #[error("{0} is no segment of this log")]
    Unknown(SegmentId),
    /// What was durable cannot be read: the node must stop and come back as a new member.
    #[error("the log is damaged: {segment} cannot be read at byte {offset}")]
    Damaged {
        /// The damaged segment.
        segment: SegmentId,
        /// Where in its file.
        offset: u64,
    },
    /// The disk failed, now or before.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

/// Why a segment was not dropped. Nothing was changed, except by [`DropError::Poisoned`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DropError {
    /// Only the oldest segment may go, and never the one that is written to.
    #[error("{0} is not the oldest segment, or the only one")]
    NotOldest(SegmentId),
    /// The copies of what it holds are not durable yet: flush first.
    #[error("records are durable through {durable}, but the copies reach to {needed}; flush first")]
    NotDurable {
        /// The last record that must be durable.
        needed: u64,
        /// The last record that is.
        durable: u64,
    },
    /// The disk failed, now or before.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

/// Why cleaning cannot go on. Like all damage: the process must stop.
#[derive(Debug, Error)]
pub enum CleanError {
    /// What was durable cannot be read: the node must stop and come back as a new member.
    #[error("the log is damaged: {segment} cannot be read at byte {offset}")]
    Damaged {
        /// The damaged segment.
        segment: SegmentId,
        /// Where in its file.
        offset: u64,
    },
    /// The disk failed, now or before.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}
