//! Everything that leaves a process: frames between nodes, records on disk, the view's JSON, and the words of the HTTP
//! API.
//!
//! - [`node`] says what travels between nodes and from gateways to nodes; [`frame`] is its envelope on a TCP stream
//!   (length, checksum, version, kind, trace context); [`codec`] turns it into bytes and back.
//! - [`view`] and [`http`] are the JSON and the words of the edges, [`backup`] those of a backup.
//! - The encoding is written by hand, field by field, so that a change of a core type is a compile error here and never
//!   a silent change of the format.
//!
//! What this crate is *not*: it opens no socket and no file, and it judges nothing. Whether a message makes sense is
//! for the core that receives it; here only its form is checked.
//!
//! Invariants, each with a test:
//! - whatever [`codec::encode`] writes, [`codec::decode`] reads back as it was;
//! - no input makes decoding panic, and none makes it allocate more than a small multiple of the input's own length;
//! - the bytes of each kind are pinned by an example, so that a change of the format is seen in review;
//! - tags are only ever appended: a number once used keeps its meaning.

pub mod backup;
pub mod codec;
pub mod ending;
pub mod frame;
pub mod http;
pub mod node;
pub mod view;
