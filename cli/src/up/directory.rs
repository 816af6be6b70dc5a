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
    made: Made,
    /// Kept open for its lock, which ends with the process, however that ends.
    _lock: File,
}

/// What a data directory was made for.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    /// How many nodes its ring formed with.
    nodes: u16,
    /// Nodes that were added since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    added: Vec<String>,
    /// Replicas of discovery.
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
        let made = check_size(&path, nodes, discovery)?;
        std::fs::create_dir_all(path.join(LOGS)).with_context(unusable)?;
        Ok(DataDirectory { path, remove, made, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The storage nodes whose data it holds, but for those that have left the ring.
    pub fn nodes(&self) -> Vec<String> {
        let first = (1..=self.made.nodes).map(|number| format!("n{number}"));
        first.chain(self.made.added.iter().cloned()).filter(|name| !self.has_left(name)).collect()
    }

    /// Whether the node of this name has left the ring.
    pub fn has_left(&self, name: &str) -> bool {
        self.path.join(name).join(storage_node::RETIRED_FILE).exists()
    }

    /// Notes a node that is added, so that it is there the next time too.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn note_added(&mut self, name: &str) -> anyhow::Result<()> {
        self.made.added.push(name.to_owned());
        write_made(&self.path, &self.made)
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

const MADE_FILE: &str = "fleet.json";

fn write_made(path: &Path, made: &Made) -> anyhow::Result<()> {
    let (file, fresh) = (path.join(MADE_FILE), path.join("fleet.json.new"));
    // Renamed over the old one, so that it is never there in part.
    let written = std::fs::write(&fresh, serde_json::to_string(made)?).and_then(|()| std::fs::rename(&fresh, &file));
    written.with_context(|| format!("cannot write {}", file.display()))
}

fn check_size(path: &Path, nodes: u16, discovery: u16) -> anyhow::Result<Made> {
    let file = path.join(MADE_FILE);
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
            Ok(made)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = Made { nodes, added: Vec::new(), discovery };
            write_made(path, &made)?;
            Ok(made)
        }
        Err(error) => Err(error).with_context(unreadable),
    }
}

fn fresh_name() -> PathBuf {
    std::env::temp_dir().join(format!("everring-{}-{:08x}", std::process::id(), rand::random::<u32>()))
}
