//! Who a data directory belongs to: a small checksummed file beside the log, replaced atomically.
//!
//! A node that starts on a directory for the first time makes its log first and its identity last, so that an identity
//! without a log always means loss (see [`crate::LogConfig::may_create`]).
//!
//! A directory also says where it is, and a start is told how far the node's log had come: so that a copy, and an
//! older state that was put back, are known for what they are ([`Doubt`], decision 0073).

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
    /// Where the directory was at that start; none in a file of format 1.
    pub place: Option<Place>,
}

/// Where a directory is: what a copy of its files does not have in common with it, however it was made, and what stays
/// when the machine starts again, and when the file system is mounted elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory's number in its file system.
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970; none where the file system does not say.
    pub born_ns: Option<u64>,
}

/// Why a data directory may not hold all that its node has promised: then it must not come back as the one it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Doubt {
    /// It was copied from where its node ran last; what that one promised afterwards is not in it.
    #[error("it is a copy, or was moved: its node ran last in another directory or on another file system")]
    Copied,
    /// The node was started again since: an older state was put back.
    #[error("it is older than its node's last start, number {last}")]
    Older {
        /// The latest start that is known of.
        last: u64,
    },
    /// Its node had made more durable than it holds: an older state was put back, or the disk lost what it had synced.
    #[error("its log ends at record {held}, and its node had synced record {told}")]
    RolledBack {
        /// The last record in it.
        held: u64,
        /// A record that is known to have been synced.
        told: u64,
    },
}

impl Doubt {
    /// The doubt that a directory raises which is `found` at a place, and says that it was at `recorded`.
    pub fn of_place(recorded: Option<Place>, found: Place) -> Option<Doubt> {
        let recorded = recorded?;
        // Where one of the two times is not known, the number has to do: a new kernel may begin to tell it.
        let born = recorded.born_ns.zip(found.born_ns).is_none_or(|(one, other)| one == other);
        (recorded.inode != found.inode || !born).then_some(Doubt::Copied)
    }

    /// The doubt that a log raises which ends at record `held`, where its node was `told` to have synced another.
    pub fn of_end(held: u64, told: Option<u64>) -> Option<Doubt> {
        let told = told.filter(|told| *told > held)?;
        Some(Doubt::RolledBack { held, told })
    }
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
        "the identity file has the format {found}, and this program reads none after {FORMAT_VERSION}; use a newer one"
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
/// Format 1 had no place.
const FORMAT_VERSION: u32 = 2;
/// A whole file takes about 170 bytes; a longer one is not ours.
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

/// Notes a new start in the directory where it is now, durably: the incarnation grows by one, or to `at_least` if that
/// is more. Returns the new identity.
pub fn bump_incarnation(disk: &mut dyn Disk, identity: Identity, at_least: u64) -> Result<Identity, IdentityError> {
    let place = Some(disk.place().map_err(IdentityError::Disk)?);
    let next = Identity { incarnation: identity.incarnation.saturating_add(1).max(at_least), place, ..identity };
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
    let Identity { cluster, node, log, incarnation, place } = identity;
    let inode = place.map_or("unknown".to_owned(), |place| place.inode.to_string());
    let born = place.and_then(|place| place.born_ns).map_or("unknown".to_owned(), |born| born.to_string());
    let body = format!(
        "everring identity {FORMAT_VERSION}\ncluster {cluster:016x}\nnode {node:016x}\nlog {log:016x}\n\
         incarnation {incarnation}\ninode {inode}\nborn {born}\n"
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
    if version > FORMAT_VERSION {
        return Err(IdentityError::Version { found: version });
    }
    let mut number = |name, radix| field(name).and_then(|text| u64::from_str_radix(text, radix).ok());
    let fields = (number("cluster", 16), number("node", 16), number("log", 16), number("incarnation", 10));
    let (Some(cluster), Some(node), Some(log), Some(incarnation)) = fields else { return Err(IdentityError::Damaged) };
    let inode = number("inode", 10);
    let born_ns = number("born", 10);
    Ok(Identity { cluster, node, log, incarnation, place: inode.map(|inode| Place { inode, born_ns }) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_the_file_is_found() {
        let place = Some(Place { inode: u64::MAX, born_ns: Some(7) });
        let identity = Identity { cluster: 1, node: u64::MAX, log: 3, incarnation: 12, place };
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
        let body = "everring identity 3\nsomething else\n";
        assert!(matches!(parse(&guarded(body)), Err(IdentityError::Version { found: 3 })));
    }

    #[test]
    fn the_first_format_has_no_place() {
        let body = "everring identity 1\ncluster 01\nnode 02\nlog 03\nincarnation 4\n";
        let expected = Identity { cluster: 1, node: 2, log: 3, incarnation: 4, place: None };
        assert_eq!(parse(&guarded(body)).expect("it can be read"), expected);
        let unborn = Identity { place: Some(Place { inode: 5, born_ns: None }), ..expected };
        assert_eq!(parse(&print(unborn)).expect("it can be read"), unborn);
    }

    fn guarded(body: &str) -> String {
        format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()))
    }

    #[test]
    fn a_place_is_told_by_what_is_known_of_it() {
        let place = |inode, born_ns| Place { inode, born_ns };
        let known = Some(place(1, Some(10)));
        assert_eq!(Doubt::of_place(known, place(1, Some(10))), None);
        assert_eq!(Doubt::of_place(known, place(1, None)), None, "the file system does not say");
        assert_eq!(Doubt::of_place(None, place(1, Some(10))), None, "of an earlier format");
        assert_eq!(Doubt::of_place(known, place(1, Some(11))), Some(Doubt::Copied), "a number is used again");
        assert_eq!(Doubt::of_place(known, place(2, Some(10))), Some(Doubt::Copied));
    }

    #[test]
    fn an_end_below_what_was_synced_is_in_doubt() {
        assert_eq!(Doubt::of_end(5, None), None);
        assert_eq!(Doubt::of_end(5, Some(5)), None);
        assert_eq!(Doubt::of_end(5, Some(6)), Some(Doubt::RolledBack { held: 5, told: 6 }));
    }
}
