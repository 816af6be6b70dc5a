//! The fleet's data directory: one `everring up` at a time, and always for a fleet of one size.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::plan::LOGS;

/// A directory in use by this process.
pub struct DataDirectory {
    path: PathBuf,
    remove: bool,
    /// Kept open for its lock, which ends with the process, however that ends.
    _lock: File,
}

/// What a data directory was made for.
#[derive(Serialize, Deserialize)]
struct Made {
    nodes: u16,
    #[serde(default = "one")]
    discovery: u16,
}

/// What a directory was made for that does not say.
fn one() -> u16 {
    1
}

impl DataDirectory {
    /// Takes `given`, or makes a fresh temporary one, which goes away at the end unless it is to be kept.
    ///
    /// # Errors
    /// It cannot be used, belongs to another `everring up`, or was made for a fleet of another size.
    pub fn take(given: Option<&Path>, keep: bool, nodes: u16, discovery: u16) -> anyhow::Result<DataDirectory> {
        let (path, remove) = match given {
            Some(path) => (path.to_owned(), false),
            None => (fresh_name(), !keep),
        };
        let unusable = || format!("cannot use the data directory {}; give one to write to with --data", path.display());
        let mut builder = DirBuilder::new();
        // Whatever the fleet keeps is its user's own.
        builder.recursive(given.is_some()).mode(0o700).create(&path).with_context(unusable)?;
        let path = path.canonicalize().with_context(unusable)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("up.lock"));
        let lock = lock.with_context(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "the data directory {} is in use by another `everring up`; end that one, or give another with --data",
                path.display()
            ),
            Err(TryLockError::Error(error)) => return Err(error).with_context(unusable),
        }
        check_size(&path, nodes, discovery)?;
        std::fs::create_dir_all(path.join(LOGS)).with_context(unusable)?;
        Ok(DataDirectory { path, remove, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it behind, as evidence.
    pub fn keep(&mut self) {
        self.remove = false;
    }

    /// Whether it stays when this process ends.
    pub fn stays(&self) -> bool {
        !self.remove
    }
}

impl Drop for DataDirectory {
    fn drop(&mut self) {
        if self.remove
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("everring: the data directory {} could not be removed: {error}", self.path.display());
        }
    }
}

fn check_size(path: &Path, nodes: u16, discovery: u16) -> anyhow::Result<()> {
    let file = path.join("fleet.json");
    let unreadable = || format!("cannot read {}, which says how large this data's fleet is", file.display());
    match std::fs::read(&file) {
        Ok(text) => {
            let made: Made = serde_json::from_slice(&text).with_context(unreadable)?;
            if made.nodes != nodes {
                bail!(
                    "the data in {} is that of a fleet of {} storage nodes, not of {nodes}; start it with --nodes {}, \
                     or give another directory with --data",
                    path.display(),
                    made.nodes,
                    made.nodes
                );
            }
            if made.discovery != discovery {
                bail!(
                    "the data in {} is that of a discovery of {}; start it with --discovery {}, or give another \
                     directory with --data",
                    path.display(),
                    made.discovery,
                    made.discovery
                );
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = serde_json::to_string(&Made { nodes, discovery })?;
            std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        }
        Err(error) => Err(error).with_context(unreadable),
    }
}

fn fresh_name() -> PathBuf {
    std::env::temp_dir().join(format!("everring-{}-{:08x}", std::process::id(), rand::random::<u32>()))
}
