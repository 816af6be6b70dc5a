use crate::error::OpenError;
use crate::frame::{FRAME_HEAD, SEGMENT_HEAD};
use crate::log::PENDING_BYTES_MAX;

/// How a log is laid out. May differ from one start to the next, except for the log id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The random number that tells this log's bytes from any other's; kept in the directory's identity file.
    pub log_id: u64,
    /// The size of new segments, in bytes: [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`]. A record must fit in one.
    pub segment_bytes: u64,
    /// The most that all segments together may take, in bytes; reaching it counts as a full disk. None: the disk's
    /// size. At least two segments.
    pub data_bytes_max: Option<u64>,
    /// Whether a directory without a log gets a new one. False for a node that has an identity already: its missing log
    /// is a loss, and a node that lost its records must not go on as the one that wrote them.
    pub may_create: bool,
}

/// A segment's size unless configured: large enough that switching is rare, small enough to clean in little time.
pub const SEGMENT_BYTES_DEFAULT: u64 = 16 * 1024 * 1024;
/// The smallest segment, for simulations.
pub const SEGMENT_BYTES_MIN: u64 = 1024;
/// The largest segment: recovery holds one in memory, and one record may fill it and must fit what waits for a flush.
pub const SEGMENT_BYTES_MAX: u64 = PENDING_BYTES_MAX;

impl LogConfig {
    /// The defaults, for the log of that id.
    pub fn new(log_id: u64) -> LogConfig {
        LogConfig { log_id, segment_bytes: SEGMENT_BYTES_DEFAULT, data_bytes_max: None, may_create: true }
    }

    /// The largest body that a record may have, in bytes.
    pub fn body_bytes_max(&self) -> u64 {
        self.segment_bytes - (SEGMENT_HEAD + FRAME_HEAD) as u64
    }

    /// Whether the values fit together; the error is a sentence.
    pub(crate) fn validate(&self) -> Result<(), OpenError> {
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return Err(OpenError::Config(format!(
                "segment_bytes is {}, but must lie between {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}",
                self.segment_bytes
            )));
        }
        match self.data_bytes_max {
            Some(max) if max < 2 * self.segment_bytes => Err(OpenError::Config(format!(
                "data_bytes_max is {max}, but must hold two segments of {} bytes",
                self.segment_bytes
            ))),
            _ => Ok(()),
        }
    }
}
