//! Drives one walk: asks the members that it names, each under a span of its own.

use std::time::{Duration, Instant};

use chord::walk::{Ask, HOPS_MAX, Step, Walk};
use chord::{NextHop, Peer};
use client::fleet::Fleet;
use membership::{NodeId, Position};
use runtime::CallError;
use stdx::TraceContext;
use telemetry::spans;
use telemetry::{KeyValue, SpanKind, names};
use wire::http::Hop;
use wire::node::LookupBy;

use crate::nodes::Nodes;

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

/// What is looked for, and how.
#[derive(Clone, Debug)]
pub struct Search {
    /// The position whose owner is wanted.
    pub target: Position,
    /// By which of the members' pointers.
    pub by: LookupBy,
    /// The nodes to begin at, in order.
    pub starts: Vec<NodeId>,
    /// The time there is.
    pub within: Duration,
}

/// Walks from member to member over their pointers, beginning at the first of the nodes given.
pub async fn by_walk(nodes: &dyn Nodes, fleet: &Fleet, search: Search, parent: TraceContext) -> Found {
    let Search { target, by, starts, within } = search;
    let (strategy, hops_max) = match by {
        LookupBy::Fingers => ("fingers", HOPS_MAX),
        // Half the ring at most, twice, for a walk that must begin anew.
        LookupBy::Neighbours => ("neighbours", fleet.ring.arcs().len() + HOPS_MAX),
    };
    let span = lookup_span(strategy, target, parent);
    let until = Instant::now() + within;
    let mut walk = Walk::new(starts).with_hops_max(hops_max);
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
                let question = Question { target, by, ask, number: hops.len() + 1 };
                let (hop, answer) = ask_hop(nodes, fleet, question, left.min(HOP_TIMEOUT), span.context()).await;
                hops.push(hop);
                step = match answer {
                    Ok(next) => walk.answered(ask, next),
                    Err(_) => walk.failed(ask),
                };
            }
        }
    };
    end_lookup(span, hops.len(), owner.is_some());
    Found { owner, hops }
}

/// One hop straight to the node that is believed to own `target`: whether it says so itself.
pub async fn by_belief(
    nodes: &dyn Nodes,
    fleet: &Fleet,
    (target, believed): (Position, Peer),
    within: Duration,
    parent: TraceContext,
) -> Found {
    let span = lookup_span("index", target, parent);
    let ask = Ask { node: believed.node, at: Some(believed.position) };
    let question = Question { target, by: LookupBy::Fingers, ask, number: 1 };
    let (hop, answer) = ask_hop(nodes, fleet, question, within.min(HOP_TIMEOUT), span.context()).await;
    let owner = match answer {
        Ok(Some(NextHop::Owner(owner))) if owner == believed => Some(owner),
        _ => None,
    };
    end_lookup(span, 1, owner.is_some());
    Found { owner, hops: vec![hop] }
}

/// By the table that this process holds: nobody is asked, the span says when it was looked at.
pub fn by_table(target: Position, found: bool, parent: TraceContext) {
    end_lookup(lookup_span("table", target, parent), 0, found);
}

fn lookup_span(strategy: &'static str, target: Position, parent: TraceContext) -> spans::LiveSpan {
    let attributes =
        [KeyValue::new(names::LOOKUP_STRATEGY, strategy), KeyValue::new(names::KEY_ID, target.to_string())];
    spans::start(SpanKind::Internal, names::lookup_span(strategy), parent, attributes)
}

fn end_lookup(mut span: spans::LiveSpan, hops: usize, found: bool) {
    span.set(names::LOOKUP_HOPS, i64::try_from(hops).unwrap_or(i64::MAX));
    if !found {
        span.fail("lookup-failed");
    }
    span.end();
}

/// One question of a lookup.
#[derive(Clone, Copy)]
struct Question {
    target: Position,
    by: LookupBy,
    ask: Ask,
    number: usize,
}

async fn ask_hop(
    nodes: &dyn Nodes,
    fleet: &Fleet,
    question: Question,
    within: Duration,
    parent: TraceContext,
) -> (Hop, Result<Option<NextHop>, CallError>) {
    let Question { target, by, ask, number } = question;
    let node = fleet.name_of(ask.node);
    let attributes = [
        KeyValue::new(names::HOP, i64::try_from(number).unwrap_or(i64::MAX)),
        KeyValue::new(names::REPLICA, node.clone()),
        KeyValue::new(names::KEY_ID, target.to_string()),
    ];
    let mut span = spans::start(SpanKind::Client, names::LOOKUP_HOP, parent, attributes);
    let asked_at = Instant::now();
    let answer = nodes.lookup(ask.node, target, ask.at, by, within, span.context()).await;
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
