//! What a home of available keys keeps of its arcs.

use std::collections::BTreeSet;

use available::Tenure;
use membership::{Epoch, NodeId, Position};

use super::available::{ACTOR_BYTES_MIN, read_actor, read_vector, write_actor, write_vector};
use super::bytes_io::{Reader, Writer};
use super::error::CodecError;

/// The shortest tenure of an arc: its ends, epoch, two flags, two sets of nodes, one of actors, a vector.
pub(super) const TENURE_BYTES_MIN: usize = 16 + 1 + 2 + 3 + 1;

pub(super) fn write_tenure(w: &mut Writer<'_>, tenure: &Tenure) {
    w.fixed_u64(tenure.low.0);
    w.fixed_u64(tenure.high.0);
    w.varint(tenure.epoch.0);
    w.bool(tenure.gained);
    w.bool(tenure.copied);
    for nodes in [&tenure.sources, &tenure.compared] {
        write_nodes(w, nodes);
    }
    w.varint(tenure.known.len() as u64);
    tenure.known.iter().for_each(|actor| write_actor(w, *actor));
    write_vector(w, &tenure.inherited);
}

pub(super) fn read_tenure(r: &mut Reader) -> Result<Tenure, CodecError> {
    Ok(Tenure {
        low: Position(r.fixed_u64()?),
        high: Position(r.fixed_u64()?),
        epoch: Epoch(r.varint()?),
        gained: r.bool()?,
        copied: r.bool()?,
        sources: read_nodes(r)?,
        compared: read_nodes(r)?,
        known: r.list(ACTOR_BYTES_MIN, read_actor)?.into_iter().collect(),
        inherited: read_vector(r)?,
    })
}

fn write_nodes(w: &mut Writer<'_>, nodes: &BTreeSet<NodeId>) {
    w.varint(nodes.len() as u64);
    nodes.iter().for_each(|node| w.fixed_u64(node.0));
}

fn read_nodes(r: &mut Reader) -> Result<BTreeSet<NodeId>, CodecError> {
    Ok(r.list(8, |r| r.fixed_u64().map(NodeId))?.into_iter().collect())
}
