use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::serve::StartError;

const SNAPSHOT: &str = "registry.json";
const SCRATCH: &str = "registry.json.tmp";
const LOCK: &str = "lock";

/// The data directory, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
    /// Held for its lock, which the system gives back when the process ends, however it ends.
    _lock: File,
}

impl Disk {
    /// Makes the directory if need be and locks it.
    pub(crate) fn open(dir: &Path) -> Result<Disk, StartError> {
        let data_error = |error: io::Error| StartError::Data { dir: dir.to_owned(), why: error.to_string() };
        fs::create_dir_all(dir).map_err(data_error)?;
        let lock = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(data_error)?;
        match lock.try_lock() {
            Ok(()) => Ok(Disk { dir: dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StartError::Locked { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => Err(data_error(error)),
        }
    }

    /// Where the snapshot stands.
    pub(crate) fn snapshot_path(&self) -> PathBuf {
        self.dir.join(SNAPSHOT)
    }

    /// The last snapshot; none before the first.
    pub(crate) fn read(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.snapshot_path()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the snapshot so that a crash at any moment leaves the old one or the new one, whole. Each attempt
    /// writes a file of its own: one whose sync has failed is never trusted again.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let scratch = self.dir.join(SCRATCH);
        let mut file = File::create(&scratch)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&scratch, self.snapshot_path())?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_user_and_keeps_the_last_snapshot() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = Disk::open(dir.path()).expect("it is free");
        assert_eq!(disk.read().expect("readable"), None);
        disk.write(b"one").expect("writable");
        disk.write(b"two").expect("writable");
        assert!(matches!(Disk::open(dir.path()), Err(StartError::Locked { .. })));
        drop(disk);
        let again = Disk::open(dir.path()).expect("it is free again");
        assert_eq!(again.read().expect("readable").as_deref(), Some(&b"two"[..]));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_said_so() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let file = dir.path().join("file");
        fs::write(&file, b"").expect("writable");
        assert!(matches!(Disk::open(&file.join("under")), Err(StartError::Data { .. })));
    }
}
