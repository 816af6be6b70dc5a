use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;

use crate::disk::{Disk, DiskError, FileEntry};
use crate::identity::Place;

/// A directory of the file system, held by this process alone.
pub struct RealDisk {
    directory: PathBuf,
    /// Kept open for its lock, which the operating system gives up when the process ends, however it ends.
    _lock: File,
    /// Files in use, the most recent last. A file stays open from its write to its sync, or an error could get lost.
    open: VecDeque<(String, File)>,
}

const LOCK_NAME: &str = "lock";
const TEMPORARY_SUFFIX: &str = ".tmp";
const OPEN_MAX: usize = 4;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

impl RealDisk {
    /// Takes the directory, which is made if it is missing. Refused when another process has it.
    pub fn open(directory: impl Into<PathBuf>) -> Result<RealDisk, DiskError> {
        let directory = directory.into();
        let is_new = !directory.exists();
        fs::create_dir_all(&directory).map_err(|error| failed("create the directory", &directory, error))?;
        let path = directory.join(LOCK_NAME);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|error| failed("open", &path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DiskError::Locked { directory: directory.display().to_string() });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path, error)),
        }
        let disk = RealDisk { directory, _lock: lock, open: VecDeque::new() };
        // A new directory's own name must survive as well as what is in it.
        if let Some(parent) = disk.directory.parent().filter(|parent| is_new && !parent.as_os_str().is_empty()) {
            sync_directory(parent)?;
        }
        Ok(disk)
    }

    fn path(&self, name: &str) -> PathBuf {
        assert!(!name.contains('/'), "the directory is flat, but a file was named {name}");
        self.directory.join(name)
    }

    fn file(&mut self, name: &str) -> Result<&File, DiskError> {
        if let Some(at) = self.open.iter().position(|(open, _)| open == name) {
            return Ok(&self.open[at].1);
        }
        let path = self.path(name);
        let file =
            OpenOptions::new().read(true).write(true).open(&path).map_err(|error| failed("open", &path, error))?;
        Ok(self.keep(name, file))
    }

    fn keep(&mut self, name: &str, file: File) -> &File {
        if self.open.len() == OPEN_MAX {
            self.open.pop_front();
        }
        self.open.push_back((name.to_owned(), file));
        &self.open[self.open.len() - 1].1
    }
}

impl Disk for RealDisk {
    fn place(&mut self) -> Result<Place, DiskError> {
        let metadata = fs::metadata(&self.directory).map_err(|error| failed("look at", &self.directory, error))?;
        let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let born_ns = born.and_then(|born| u64::try_from(born.as_nanos()).ok());
        Ok(Place { inode: metadata.ino(), born_ns })
    }

    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError> {
        let fail = |error| failed("list", &self.directory, error);
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let metadata = entry.metadata().map_err(fail)?;
            // Names that are not text are not ours, nor is the lock a file to anybody but us.
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string())
                && name != LOCK_NAME
            {
                entries.push(FileEntry { name, len: metadata.len() });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn create(&mut self, name: &str, len: u64) -> Result<(), DiskError> {
        let path = self.path(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| failed("create", &path, error))?;
        let made = preallocate(&file, len).and_then(|()| file.sync_all());
        if let Err(error) = made {
            // The first error is the one to tell; a file that stays behind is short, and is removed when the log is
            // opened.
            let _ = fs::remove_file(&path);
            return Err(failed("preallocate", &path, error));
        }
        sync_directory(&self.directory)?;
        self.keep(name, file);
        Ok(())
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let path = self.path(name);
        self.file(name)?.write_all_at(bytes, offset).map_err(|error| failed("write", &path, error))
    }

    fn sync(&mut self, name: &str) -> Result<(), DiskError> {
        let path = self.path(name);
        self.file(name)?.sync_data().map_err(|error| failed("sync", &path, error))
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let path = self.path(name);
        let file = self.file(name)?;
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &path, error)),
            }
        }
        Ok(filled)
    }

    fn forget_cached(&mut self, name: &str, offset: u64, len: u64) -> Result<(), DiskError> {
        let file = self.file(name)?;
        // Advice: a file system that does not take it leaves the read as good as any other.
        let _ = rustix::fs::fadvise(file, offset, NonZeroU64::new(len), Advice::DontNeed);
        Ok(())
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let path = self.path(name);
        let temporary = self.path(&format!("{name}{TEMPORARY_SUFFIX}"));
        self.open.retain(|(open, _)| open != name);
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        if let Err(error) = written {
            // What stays behind is overwritten by the next attempt.
            let _ = fs::remove_file(&temporary);
            return Err(failed("write", &temporary, error));
        }
        fs::rename(&temporary, &path).map_err(|error| failed("rename", &temporary, error))?;
        sync_directory(&self.directory)
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        let path = self.path(name);
        self.open.retain(|(open, _)| open != name);
        fs::remove_file(&path).map_err(|error| failed("remove", &path, error))?;
        sync_directory(&self.directory)
    }
}

/// Reserves the space of a new file, so that later writes cannot meet a full disk.
fn preallocate(file: &File, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, len),
        Err(error) => Err(error.into()),
    }
}

/// What reserving comes down to on a file system that knows no better.
fn write_zeros(mut file: &File, len: u64) -> io::Result<()> {
    let mut rest = len;
    while rest > 0 {
        let chunk = rest.min(ZEROS.len() as u64);
        file.write_all(&ZEROS[..chunk as usize])?;
        rest -= chunk;
    }
    Ok(())
}

fn sync_directory(path: &Path) -> Result<(), DiskError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|error| failed("sync", path, error))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> DiskError {
    DiskError::from_io(action, path.display().to_string(), source)
}
