//! Who a data directory belongs to: a small checksummed file beside the log, replaced atomically.
//!
//! A node that starts on a directory for the first time makes its log first and its identity last, so that an identity
//! without a log always means loss (see [`crate::LogConfig::may_create`]).

use thiserror::Error;

use crate::disk::{Disk, DiskError};

/// What a data directory says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster that the node belongs to.
    pub cluster: u64,
    /// The node whose data it is.
    pub node: u64,
    /// The log's id: random, drawn with the directory.
    pub log: u64,
    /// The number of the node's latest start; it only grows.
    pub incarnation: u64,
}

/// Why an identity is no good. The directory was not changed, except perhaps by [`IdentityError::Disk`].
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The directory belongs to another cluster.
    #[error(
        "the data directory belongs to the cluster {found:016x}, not to {expected:016x}; \
         give this node another directory, or start it with that cluster's discovery and secret"
    )]
    OtherCluster {
        /// The cluster in the file.
        found: u64,
        /// The cluster of this start.
        expected: u64,
    },
    /// The directory belongs to another node.
    #[error(
        "the data directory belongs to the node {found:016x}, not to {expected:016x}; \
         give each node a directory of its own"
    )]
    OtherNode {
        /// The node in the file.
        found: u64,
        /// The node of this start.
        expected: u64,
    },
    /// The directory has an identity already.
    #[error("the data directory already belongs to the node {found:016x}; start with an empty one")]
    Exists {
        /// The node in the file.
        found: u64,
    },
    /// The file cannot be understood: it was damaged, or edited.
    #[error(
        "the identity file in the data directory is damaged; set the directory aside and start with an empty one, \
         so that the node joins as a new member"
    )]
    Damaged,
    /// The file has a format that this program does not know.
    #[error(
        "the identity file has the format {found}, and this program reads only {FORMAT_VERSION}; use a newer program"
    )]
    Version {
        /// Its format.
        found: u32,
    },
    /// The disk failed. The identity is the old one or the new one.
    #[error("the identity file cannot be read or written")]
    Disk(#[source] DiskError),
}

/// The name of the identity file.
pub const FILE_NAME: &str = "identity";
const FORMAT_VERSION: u32 = 1;
/// A whole file takes about 120 bytes; a longer one is not ours.
const FILE_BYTES_MAX: usize = 4096;

/// The identity in the directory; none when there is none yet.
pub fn load(disk: &mut dyn Disk) -> Result<Option<Identity>, IdentityError> {
    if !disk.list().map_err(IdentityError::Disk)?.iter().any(|entry| entry.name == FILE_NAME) {
        return Ok(None);
    }
    let mut bytes = vec![0; FILE_BYTES_MAX];
    let len = disk.read_at(FILE_NAME, 0, &mut bytes).map_err(IdentityError::Disk)?;
    bytes.truncate(len);
    let text = String::from_utf8(bytes).map_err(|_| IdentityError::Damaged)?;
    parse(&text).map(Some)
}

/// Gives the directory its first identity.
pub fn create(disk: &mut dyn Disk, identity: Identity) -> Result<(), IdentityError> {
    match load(disk)? {
        Some(found) => Err(IdentityError::Exists { found: found.node }),
        None => write(disk, identity),
    }
}

/// Notes a new start, durably: the incarnation grows by one, or to `at_least` if that is more. Returns the new
/// identity.
pub fn bump_incarnation(disk: &mut dyn Disk, identity: Identity, at_least: u64) -> Result<Identity, IdentityError> {
    let next = Identity { incarnation: identity.incarnation.saturating_add(1).max(at_least), ..identity };
    write(disk, next)?;
    Ok(next)
}

impl Identity {
    /// Refuses a directory of another cluster, or of another node where the node is given.
    pub fn check(&self, cluster: u64, node: Option<u64>) -> Result<(), IdentityError> {
        if self.cluster != cluster {
            return Err(IdentityError::OtherCluster { found: self.cluster, expected: cluster });
        }
        match node {
            Some(expected) if expected != self.node => Err(IdentityError::OtherNode { found: self.node, expected }),
            _ => Ok(()),
        }
    }
}

fn write(disk: &mut dyn Disk, identity: Identity) -> Result<(), IdentityError> {
    disk.replace(FILE_NAME, print(identity).as_bytes()).map_err(IdentityError::Disk)
}

/// Text, so that people can read whose directory it is; the last line guards the others.
fn print(identity: Identity) -> String {
    let Identity { cluster, node, log, incarnation } = identity;
    let body = format!(
        "everring identity {FORMAT_VERSION}\ncluster {cluster:016x}\nnode {node:016x}\nlog {log:016x}\n\
         incarnation {incarnation}\n"
    );
    let crc = crc32c::crc32c(body.as_bytes());
    format!("{body}crc32c {crc:08x}\n")
}

fn parse(text: &str) -> Result<Identity, IdentityError> {
    let (body, crc) = text.rsplit_once("crc32c ").ok_or(IdentityError::Damaged)?;
    if crc != format!("{:08x}\n", crc32c::crc32c(body.as_bytes())) {
        return Err(IdentityError::Damaged);
    }
    let mut lines = body.lines();
    let mut field = |name: &str| {
        let rest = lines.next()?.strip_prefix(name)?;
        rest.strip_prefix(' ')
    };
    let version = field("everring identity").and_then(|text| text.parse().ok()).ok_or(IdentityError::Damaged)?;
    if version != FORMAT_VERSION {
        return Err(IdentityError::Version { found: version });
    }
    let mut number = |name, radix| field(name).and_then(|text| u64::from_str_radix(text, radix).ok());
    let fields = (number("cluster", 16), number("node", 16), number("log", 16), number("incarnation", 10));
    let (Some(cluster), Some(node), Some(log), Some(incarnation)) = fields else { return Err(IdentityError::Damaged) };
    Ok(Identity { cluster, node, log, incarnation })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_the_file_is_found() {
        let identity = Identity { cluster: 1, node: u64::MAX, log: 3, incarnation: 12 };
        let mut bytes = print(identity).into_bytes();
        assert_eq!(parse(std::str::from_utf8(&bytes).expect("text")).expect("whole"), identity);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(text) = std::str::from_utf8(&bytes) {
                assert!(matches!(parse(text), Err(IdentityError::Damaged)), "bit {bit}: {text}");
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_later_format_is_named() {
        let body = "everring identity 2\nsomething else\n";
        let text = format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
        assert!(matches!(parse(&text), Err(IdentityError::Version { found: 2 })));
    }
}
