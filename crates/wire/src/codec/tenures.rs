//! What a home of available keys keeps of its arcs.

use std::collections::BTreeSet;

use available::Tenure;
use membership::{Epoch, NodeId, Position};

use super::available::{read_vector, write_vector};
use super::bytes_io::{Reader, Writer};
use super::error::CodecError;

/// The shortest tenure of an arc: its ends, epoch, two flags, three sets of nodes, a vector.
pub(super) const TENURE_BYTES_MIN: usize = 16 + 1 + 2 + 3 + 1;

pub(super) fn write_tenure(w: &mut Writer<'_>, tenure: &Tenure) {
    w.fixed_u64(tenure.low.0);
    w.fixed_u64(tenure.high.0);
    w.varint(tenure.epoch.0);
    w.bool(tenure.gained);
    w.bool(tenure.copied);
    for nodes in [&tenure.sources, &tenure.compared, &tenure.known] {
        write_nodes(w, nodes);
    }
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
        known: read_nodes(r)?,
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
