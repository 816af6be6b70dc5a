//! The calls that explain the ring: who belongs, and which node holds a key.

use actix_web::HttpResponse;
use client::fleet::Fleet;
use membership::Position;
use telemetry::{KeyValue, SpanKind, names, spans};
use wire::http::{LookupKeeps, RingAnswer, RingMember, RouteAnswer};

use crate::nodes::Nodes;
use crate::problem::Refuse;
use crate::records::Incoming;
use crate::words;

impl Incoming<'_> {
    /// `GET /v1/ring`
    ///
    /// # Errors
    /// The problem to answer with.
    pub async fn ring(&self) -> Result<HttpResponse, Refuse> {
        words::query(self.request.query_string(), &[])?;
        let fleet = self.gateway.fleet();
        let mut answer = ring(&fleet, &*self.gateway.nodes);
        if let Some(statuses) = self.gateway.statuses.as_ref().filter(|_| !fleet.view.pending.is_empty()) {
            // Who cannot be reached is not waited for.
            let reached = fleet.nodes.iter().filter(|(id, _)| self.gateway.nodes.is_up(**id)).map(|(_, node)| node);
            let copying = statuses.copying(reached).await;
            for member in &mut answer.members {
                member.copying = copying.get(&member.name).copied();
            }
        }
        Ok(HttpResponse::Ok().json(answer))
    }

    /// `GET /v1/route/{bucket}/{key}?lookup=index|table|neighbours|fingers`
    ///
    /// # Errors
    /// The problem to answer with.
    pub async fn route(&mut self, bucket_name: &str, key: &str) -> Result<HttpResponse, Refuse> {
        let gateway = self.gateway;
        let query = words::query(self.request.query_string(), &["lookup"])?;
        // Which node holds a key can be told for every bucket, also for those whose records are not offered yet.
        let bucket = gateway.find_bucket(bucket_name, self.deadline, self.context).await?;
        let position = gateway.hasher.position(bucket.id, key.as_bytes());
        self.span.set(names::KEY_ID, position.to_string());
        let answer = match query.get("lookup").map_or("table", String::as_str) {
            "table" => {
                let attributes = [
                    KeyValue::new(names::LOOKUP_STRATEGY, "table"),
                    KeyValue::new(names::LOOKUP_HOPS, 0),
                    KeyValue::new(names::KEY_ID, position.to_string()),
                ];
                let name = names::lookup_span("table");
                let mut span = spans::start(SpanKind::Internal, name, self.context, attributes);
                let answer = by_table(&gateway.fleet(), position);
                if answer.is_err() {
                    span.fail("lookup-failed");
                }
                span.end();
                answer?
            }
            strategy @ ("fingers" | "neighbours" | "index") => {
                let Some(router) = &gateway.router else {
                    let detail = "this gateway has no discovery to find a router in; ask with ?lookup=table";
                    return Err(Refuse::new(wire::http::ProblemCode::RouterUnavailable, detail));
                };
                let within = gateway.clock.until(self.deadline);
                router.lookup(position, strategy, within, self.context).await?
            }
            _ => return Err(Refuse::bad_request("`lookup` must be one of table, fingers, index, neighbours")),
        };
        Ok(HttpResponse::Ok().json(answer))
    }
}

/// The ring as this process sees it.
fn ring(fleet: &Fleet, nodes: &dyn Nodes) -> RingAnswer {
    let view = &fleet.view;
    let state = |member: &membership::Member| {
        if !view.is_formed() || view.is_joining(member.id) {
            return "joining";
        }
        if view.is_leaving(member.id) { "leaving" } else { "member" }
    };
    let members = view.members.iter().map(|member| RingMember {
        id: member.id.to_string(),
        name: member.name.clone(),
        zone: member.zone.clone(),
        state: state(member).to_owned(),
        alive: nodes.is_up(member.id),
        share: fleet.ring.share_of(member.id),
        tokens: member.tokens.iter().map(Position::to_string).collect(),
        copying: None,
    });
    RingAnswer {
        cluster: view.cluster.to_string(),
        epoch: view.epoch.0,
        replication: view.replication,
        pending_change: pending_change(fleet),
        members: members.collect(),
    }
}

/// The changes of membership under way, in words.
fn pending_change(fleet: &Fleet) -> Option<String> {
    let view = &fleet.view;
    let word = |pending: &membership::Pending| {
        let copied = pending.copied.len();
        let of = view.awaited(pending.id).map_or(copied, |awaited| awaited.len());
        format!("{} (change {}; {copied} of {of} have copied)", view.describe(&pending.change), pending.id)
    };
    let words: Vec<String> = view.pending.iter().map(word).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// The owner by the table of all tokens: the view that the data path itself goes by, so nobody is asked.
fn by_table(fleet: &Fleet, position: Position) -> Result<RouteAnswer, Refuse> {
    let replicas: Vec<String> = fleet.ring.replicas_of(position).iter().map(|node| fleet.name_of(*node)).collect();
    let Some(owner) = replicas.first().cloned() else {
        let detail = "the ring has no member yet; it forms when enough storage nodes have started";
        return Err(Refuse::new(wire::http::ProblemCode::NoQuorum, detail));
    };
    Ok(RouteAnswer {
        lookup: "table".to_owned(),
        identifier: position.to_string(),
        owner,
        replicas,
        epoch: fleet.view.epoch.0,
        pending_change: fleet.pending_change_at(position),
        agrees_with_view: true,
        hops: Vec::new(),
        keeps: Some(LookupKeeps { entries: fleet.ring.arcs().len() as f64, stale: None }),
    })
}
