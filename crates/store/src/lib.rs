//! The durable record log of a storage node, over a [`Disk`] that is real ([`RealDisk`]) or simulated ([`SimDisk`]).
//!
//! The log *is* the store: a node keeps its registers in memory, appends a record for every change that it vouches
//! for, and reads the log once, when it starts. Records are opaque bytes, numbered 1, 2, 3… in the order they were
//! appended, in segments of a fixed size that are preallocated one ahead. One [`Log::flush`] makes all appended
//! records durable with one write and one sync: group commit.
//!
//! What this crate is *not*: it knows no registers, no keys and no threads; it does not decide which records are still
//! needed (the owner does, in [`Log::clean_step`]); it never repairs damage by guessing.
//!
//! Invariants:
//! - What `flush` returned as durable is given back, whole and in order, by every later [`Log::open`], until its
//!   segment is dropped; where the disk spoiled it, `open` refuses with [`OpenError::Damaged`] (but for the exception
//!   below).
//! - `open` invents nothing: each record that it gives back was appended, and one that an `open` did not give back
//!   never appears again.
//! - A segment is written only after the one before it was synced whole, so only the last one can be torn by a crash.
//! - Each frame tells up to which record the log was durable when it was written. So an unreadable record followed by a
//!   frame that vouches for it is *damage*, whereas one followed only by frames of its own batch is the *torn tail* of
//!   a flush that nobody was told of: disks may write the sectors of one unsynced write in any order.
//! - A full disk is met when the spare segment cannot be made, never in the middle of a record.
//! - Damage that [`Log::scrub_step`] finds while the log is in use is told and remembered; nothing of that segment is
//!   read again. What its owner still holds in memory is appended anew before the segment goes.
//! - After a failed write or sync the log is poisoned: every call fails, and the process must stop and start again.
//!
//! What it cannot tell: bit rot within the very last batch of a log looks like a torn tail, and is cut, unless nothing
//! would be left of a log that once had records. Checksums find accidents, not forgers.
//!
//! Sources: "All File Systems Are Not Created Equal" (OSDI 2014) for what survives a crash; "Can Applications Recover
//! from fsync Failures?" (USENIX ATC 2020) for why a failed sync is never tried again; "Protocol-Aware Recovery for
//! Consensus-Based Storage" (FAST 2018) for telling a torn tail from damage; log-structured file systems (SOSP 1991)
//! for cleaning.
//!
//! ```
//! use store::{Log, LogConfig, SimDisk};
//!
//! let disk = SimDisk::new(7);
//! let config = LogConfig { segment_bytes: 64 * 1024, ..LogConfig::new(0x10c) };
//! let mut log = Log::open(disk.clone(), config.clone(), &mut |_, _| {}).expect("an empty disk makes a new log");
//! log.append(b"first").expect("there is room");
//! assert_eq!(log.flush().expect("the disk works"), 1);
//!
//! disk.crash();
//! let mut restored = Vec::new();
//! Log::open(disk, config, &mut |sequence, body| restored.push((sequence, body.to_vec()))).expect("it was flushed");
//! assert_eq!(restored, [(1, b"first".to_vec())]);
//! ```

mod clean;
mod config;
mod disk;
mod error;
mod frame;
pub mod identity;
mod log;
mod real_disk;
mod recovery;
mod scrub;
mod sim_disk;

pub use clean::{CleanStep, Moved};
pub use config::{LogConfig, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
pub use disk::{Disk, DiskError, FileEntry};
pub use error::{AppendError, CleanError, DropError, FlushError, OpenError, Poisoned, ReadError};
pub use frame::framed_len;
pub use log::{CLEAN_SLACK_BYTES, Log, PENDING_BYTES_MAX, ReadFrom, Recovery, SegmentId, SegmentInfo, Sizes};
pub use real_disk::RealDisk;
pub use scrub::{Damage, ScrubStep};
pub use sim_disk::SimDisk;
