//! Drives one walk: asks the members that it names, each under a span of its own.

use std::time::{Duration, Instant};

use chord::Peer;
use client::fleet::Fleet;
use membership::{NodeId, Position};
use runtime::CallError;
use stdx::TraceContext;
use telemetry::spans;
use telemetry::{KeyValue, SpanKind, names};
use wire::http::Hop;

use crate::nodes::Nodes;
use crate::walk::{Ask, Step, Walk};

/// How long one member may take to answer. It answers from memory, so silence means that it is dead or paused.
const HOP_TIMEOUT: Duration = Duration::from_millis(250);

/// The end of a lookup.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The owner; none when the walk did not reach it.
    pub owner: Option<Peer>,
    /// The members asked, in order.
    pub hops: Vec<Hop>,
}

/// Finds the owner of `target` over the ring's fingers, beginning at the first of `starts`, within `within`.
pub async fn by_fingers(
    nodes: &dyn Nodes,
    fleet: &Fleet,
    target: Position,
    starts: Vec<NodeId>,
    within: Duration,
    parent: TraceContext,
) -> Found {
    let attributes =
        [KeyValue::new(names::LOOKUP_STRATEGY, "fingers"), KeyValue::new(names::KEY_ID, target.to_string())];
    let mut span = spans::start(SpanKind::Internal, names::lookup_span("fingers"), parent, attributes);
    let until = Instant::now() + within;
    let mut walk = Walk::new(starts);
    let (mut hops, mut step) = (Vec::new(), walk.begin());
    let owner = loop {
        match step {
            Step::Found(owner) => break Some(owner),
            Step::GiveUp => break None,
            Step::Ask(ask) => {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break None;
                }
                let number = hops.len() + 1;
                let (hop, answer) =
                    ask_hop(nodes, fleet, target, ask, number, left.min(HOP_TIMEOUT), span.context()).await;
                hops.push(hop);
                step = match answer {
                    Ok(next) => walk.answered(ask, next),
                    Err(_) => walk.failed(ask),
                };
            }
        }
    };
    span.set(names::LOOKUP_HOPS, i64::try_from(hops.len()).unwrap_or(i64::MAX));
    if owner.is_none() {
        span.fail("lookup-failed");
    }
    span.end();
    Found { owner, hops }
}

async fn ask_hop(
    nodes: &dyn Nodes,
    fleet: &Fleet,
    target: Position,
    ask: Ask,
    number: usize,
    within: Duration,
    parent: TraceContext,
) -> (Hop, Result<Option<chord::NextHop>, CallError>) {
    let node = fleet.name_of(ask.node);
    let attributes = [
        KeyValue::new(names::HOP, i64::try_from(number).unwrap_or(i64::MAX)),
        KeyValue::new(names::REPLICA, node.clone()),
        KeyValue::new(names::KEY_ID, target.to_string()),
    ];
    let mut span = spans::start(SpanKind::Client, names::LOOKUP_HOP, parent, attributes);
    let asked_at = Instant::now();
    let answer = nodes.lookup(ask.node, target, ask.at, within, span.context()).await;
    let us = u64::try_from(asked_at.elapsed().as_micros()).unwrap_or(u64::MAX);
    if let Err(error) = &answer {
        span.fail(match error {
            CallError::NotConnected => "not-connected",
            CallError::Reset => "reset",
            CallError::Deadline => "deadline",
            CallError::GoingAway => "going-away",
            CallError::QueueFull => "queue-full",
        });
    }
    span.end();
    (Hop { node, us }, answer)
}
