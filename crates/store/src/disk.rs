use std::io;

use thiserror::Error;

use crate::identity::Place;

/// A flat directory of files with explicit durability: all that the log may do to the world.
///
/// Names are plain file names, without a separator. Calls are made by one thread at a time.
pub trait Disk: Send {
    /// Where the directory is.
    fn place(&mut self) -> Result<Place, DiskError>;

    /// All files, by name in ascending order.
    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError>;

    /// Makes a file of `len` zero bytes whose space is reserved, and makes it and its name durable.
    ///
    /// On [`DiskError::Full`] nothing is left behind. A crash within the call may leave a shorter file of zeros. A name
    /// that is taken is an error.
    fn create(&mut self, name: &str, len: u64) -> Result<(), DiskError>;

    /// Writes within the file's length. Not durable before [`Disk::sync`]; a crash before that keeps any of its
    /// sectors.
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Makes all writes to the file durable. After an error the file's contents are unknown, and trying again proves
    /// nothing.
    fn sync(&mut self, name: &str) -> Result<(), DiskError>;

    /// Fills `buffer` from `offset` on; returns fewer bytes only at the end of the file. Sees unsynced writes.
    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError>;

    /// Lets the next read of this part come from the disk itself, as far as the operating system can be moved to that:
    /// what it remembers of a part proves nothing about the disk. Does nothing where there is no such memory.
    fn forget_cached(&mut self, _name: &str, _offset: u64, _len: u64) -> Result<(), DiskError> {
        Ok(())
    }

    /// Replaces a small file's contents whole, durably and atomically: after a crash it is the old file or the new one.
    fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError>;

    /// Removes a file durably. A crash within the call may leave it.
    fn remove(&mut self, name: &str) -> Result<(), DiskError>;
}

/// A file in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// Why a disk did not do what it was asked.
#[derive(Debug, Error)]
pub enum DiskError {
    /// No space is left. Nothing was changed; the call may be made again when there is space.
    #[error("no space is left on the disk")]
    Full,
    /// Another process holds the directory. Nothing was changed.
    #[error("the data directory {directory} is in use by another process; stop that one, or give this one its own")]
    Locked {
        /// The directory.
        directory: String,
    },
    /// The operating system refused or failed. What the call changed is unknown.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
}

impl DiskError {
    /// The typed form of an operating system's error.
    pub(crate) fn from_io(action: &'static str, path: impl Into<String>, source: io::Error) -> DiskError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::Full,
            _ => DiskError::Io { action, path: path.into(), source },
        }
    }
}
