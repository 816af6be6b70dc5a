//! The loop's part in available keys: the same as for registers, for each of the two replicas.

use std::time::Duration;

use available::{Answer, CopyStatus, Effects, Event, Input, Message, Replica};
use membership::NodeId;
use runtime::ConnectionId;
use stdx::TraceContext;
use wire::http::Durability;
use wire::node::{AvailableCall, Frame, LogRecord, Payload};

use super::{NodeLoop, name_in};
use crate::available_keys::DURABILITIES;
use crate::status::{AvailableCopying, AvailableStatus, AvailableStatuses};

/// How long the deletion of a value whose time is up may take.
const SWEEP_DEADLINE: Duration = Duration::from_secs(1);

impl NodeLoop {
    pub(super) fn begin_available(&mut self) {
        for durability in DURABILITIES {
            let (now, wall_ms) = (self.parts.clock.now(), self.parts.clock.wall_ms());
            let effects = self.parts.host.begin_available(durability, now, wall_ms);
            self.carry_out_available(durability, effects);
        }
    }

    /// Tells both replicas.
    pub(super) fn tell_available(&mut self, input: impl Fn() -> Input) {
        for durability in DURABILITIES {
            self.tell_available_of(durability, input());
        }
    }

    pub(super) fn tell_available_of(&mut self, durability: Durability, input: Input) {
        let now = self.parts.clock.now();
        let effects = self.parts.host.available(durability, now, input);
        self.carry_out_available(durability, effects);
    }

    pub(super) fn tick_available(&mut self) {
        let now = self.parts.clock.now();
        for durability in self.parts.host.available.due(now) {
            let wall_ms = self.parts.clock.wall_ms();
            self.tell_available_of(durability, Input::Tick { wall_ms });
        }
    }

    pub(super) fn take_available(
        &mut self,
        from: NodeId,
        durability: Durability,
        message: Message,
        context: TraceContext,
    ) {
        let now = self.parts.clock.now();
        let context = self.spans.available_arrived(now, (from, durability), &message.body, &self.parts.name, context);
        self.tell_available_of(durability, Input::Message { from, message, context });
    }

    pub(super) fn take_available_operation(&mut self, via: ConnectionId, call: AvailableCall, context: TraceContext) {
        let AvailableCall { call, deadline_ms, durability, operation } = call;
        let ticket = self.next_ticket();
        let epoch = self.parts.host.available.of(durability).view().epoch.0;
        let context = self.spans.coordinate_available(ticket, &operation, epoch, &self.parts.name, context);
        self.callers.insert(ticket, (via, call));
        let deadline = self.parts.clock.now() + Duration::from_millis(u64::from(deadline_ms));
        let wall_ms = self.parts.clock.wall_ms();
        self.tell_available_of(durability, Input::Operation { ticket, operation, deadline, wall_ms, context });
    }

    /// Persist, then send, then answer, as for registers.
    pub(super) fn carry_out_available(&mut self, durability: Durability, effects: Effects) {
        let records = effects.persist.into_iter().map(|(position, record)| (position, LogRecord::Available(record)));
        self.parts.log.append(records.collect());
        let now = self.parts.clock.now();
        for envelope in effects.send {
            let name = self.names.get(&envelope.to).map_or("", String::as_str);
            let context = self.spans.available_leaving(now, durability, &envelope, name);
            let payload = Payload::Available { durability, message: envelope.message };
            self.parts.peers.send(envelope.to, Frame { context, payload });
        }
        for answer in effects.answers {
            self.answer_available(answer);
        }
        for event in effects.events {
            self.note_available(durability, event);
        }
    }

    /// Proposes the end of values whose time is up. Nobody waits for the answers: what was refused is proposed again.
    pub(super) fn sweep_available(&mut self) {
        if self.draining {
            return;
        }
        let (me, wall_ms) = (self.parts.id, self.parts.clock.wall_ms());
        let ring = std::sync::Arc::clone(&self.parts.fleet.borrow().ring);
        for (at, durability) in DURABILITIES.into_iter().enumerate() {
            let table = self.parts.host.available.of(durability).table();
            let due = self.sweeps[at].next(table, me, |position| ring.replicas_of(position), wall_ms);
            for operation in due {
                let (ticket, deadline) = (self.next_ticket(), self.parts.clock.now() + SWEEP_DEADLINE);
                let context = TraceContext::NONE;
                self.tell_available_of(durability, Input::Operation { ticket, operation, deadline, wall_ms, context });
            }
        }
    }

    fn answer_available(&mut self, answer: Answer) {
        let names = &self.names;
        self.spans.coordinated_available(&answer, |node| name_in(names, node));
        let Answer { ticket, outcome, receipt } = answer;
        self.reply(ticket, |call| Payload::AvailableReply { call, outcome, receipt });
    }

    fn note_available(&self, durability: Durability, event: Event) {
        match event {
            Event::Whole => {
                tracing::info!(?durability, "available keys: compared with every home; counted from now on")
            }
            Event::Reconciled { peer, fetched: 0, sent: 0 } => {
                tracing::debug!(?durability, peer = %self.name_of(peer), "available keys: compared, and equal");
            }
            Event::Reconciled { peer, fetched, sent } => {
                tracing::info!(?durability, peer = %self.name_of(peer), fetched, sent, "available keys: compared");
            }
            Event::StaleRefused => tracing::debug!(?durability, "a late copy of what is gone was turned away"),
            Event::Buried { count } => tracing::debug!(?durability, count, "tombstones were dropped"),
            Event::ViewLearned(view) => self.parts.discovery.directory.learn(view),
            Event::ArcCopied { high, keys, verified_with } => {
                let status = self.parts.host.available.of(durability).copy_status();
                let (copied, of, bytes) = (status.arcs_copied, status.arcs, status.bytes);
                tracing::info!(
                    ?durability, arc = %high, keys, verified_with, arcs_copied = copied, of, bytes,
                    "available keys: an arc is copied"
                );
            }
            Event::Released { keys } => {
                tracing::info!(?durability, keys, "available keys: others hold them now: dropped");
            }
            Event::EpochDiffers { peer } => tracing::debug!(peer = %self.name_of(peer), "holds another view"),
        }
    }

    /// Whether its available keys keep a node from being ready: until they count it is not as it was. While some member
    /// cannot be reached that is not waited for, for it may take until that one is back.
    pub(super) fn available_lags(&self) -> bool {
        let view = self.parts.host.replica.view();
        let others = || view.ring_members().filter(|member| member.id != self.parts.id);
        !self.parts.host.available.is_whole() && others().all(|member| self.parts.peers.is_up(member.id))
    }

    pub(super) fn available_status(&self) -> AvailableStatuses {
        let of = |durability| status_of(self.parts.host.available.of(durability));
        AvailableStatuses { disk: of(Durability::Disk), memory: of(Durability::Memory) }
    }
}

fn status_of(replica: &Replica) -> AvailableStatus {
    let (hints, hints_taken) = replica.hints();
    let CopyStatus { arcs, arcs_copied, arcs_verified, keys, bytes } = replica.copy_status();
    AvailableStatus {
        keys: replica.table().len(),
        bytes: replica.table().bytes(),
        whole: replica.is_whole(),
        copying: AvailableCopying { arcs, arcs_copied, arcs_verified, keys, bytes },
        hints,
        hints_taken,
        waiting: replica.waiting(),
    }
}
