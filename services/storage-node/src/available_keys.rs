//! The two replicas of a node's available keys: those kept on disk, and those kept in memory only.
//!
//! Both are the same core, set up otherwise (decision 0067): the second one appends nothing, and is somebody new with
//! each start, who stamps nothing and is not counted before its peers have given it back what it held.

use available::{Config, Effects, Input, Outbox, Record, Replica};
use membership::{Epoch, NodeId, View};
use replication::LogPosition;
use stdx::{Budget, Instant, Prng};
use wire::http::Durability;

/// Both, in the order in which they are driven.
pub(crate) const DURABILITIES: [Durability; 2] = [Durability::Disk, Durability::Memory];

/// The replicas of available keys.
pub(crate) struct AvailableKeys {
    disk: Replica,
    memory: Replica,
    /// What both may move while they copy, together with others: given and taken by who drives them.
    pub budget: Budget,
}

impl AvailableKeys {
    /// Replicas that have restored nothing yet.
    pub fn new(me: NodeId, incarnation: u64, view: &View, secret: &[u8], prng: &mut Prng) -> AvailableKeys {
        let mut replica = |durability| {
            let config = Config { durability, ..Config::default() };
            Replica::new(me, incarnation, view.clone(), secret, config, prng.fork())
        };
        let (disk, memory) = (replica(available::Durability::Disk), replica(available::Durability::Memory));
        AvailableKeys { disk, memory, budget: Budget::default() }
    }

    /// Takes a record back from the log, in log order.
    pub fn restore(&mut self, position: LogPosition, record: Record) {
        self.disk.restore(position, record);
    }

    /// The log ends here; see [`Replica::note_log_end`].
    pub fn note_log_end(&mut self, position: LogPosition) {
        self.disk.note_log_end(position);
    }

    /// The replica of the keys that are kept so.
    pub fn of(&self, durability: Durability) -> &Replica {
        match durability {
            Durability::Disk => &self.disk,
            Durability::Memory => &self.memory,
        }
    }

    /// Begins, once every record of the log is restored.
    pub fn begin(&mut self, durability: Durability, now: Instant, wall_ms: u64) -> Effects {
        self.drive(durability, |replica, out| replica.begin(now, wall_ms, out))
    }

    /// Gives one of them one input.
    pub fn handle(&mut self, durability: Durability, now: Instant, input: Input) -> Effects {
        self.drive(durability, |replica, out| replica.handle(now, input, out))
    }

    /// Writes current records of an old segment to the log again.
    pub fn rewrite(&mut self, records: Vec<(LogPosition, Record)>) -> Effects {
        self.drive(Durability::Disk, |replica, out| replica.rewrite(records, out))
    }

    /// When the next timer of either is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.disk.next_timeout().into_iter().chain(self.memory.next_timeout()).min()
    }

    /// Which of them have a timer that is due.
    pub fn due(&self, now: Instant) -> impl Iterator<Item = Durability> + use<> {
        let due = DURABILITIES.map(|durability| self.of(durability).next_timeout().is_some_and(|at| at <= now));
        DURABILITIES.into_iter().zip(due).filter_map(|(durability, due)| due.then_some(durability))
    }

    /// The changes of membership for which this node holds all available keys that they make it a home of.
    pub fn copied_changes(&self) -> Vec<Epoch> {
        let memory = self.memory.copied_changes();
        self.disk.copied_changes().into_iter().filter(|change| memory.contains(change)).collect()
    }

    /// Whether nothing is here that is for others to keep.
    pub fn is_released(&self) -> bool {
        self.disk.is_released() && self.memory.is_released()
    }

    /// Whether both count for all that they hold.
    pub fn is_whole(&self) -> bool {
        self.disk.is_whole() && self.memory.is_whole()
    }

    fn drive(&mut self, durability: Durability, act: impl FnOnce(&mut Replica, &mut Outbox)) -> Effects {
        let mut out = Outbox::default();
        let replica = match durability {
            Durability::Disk => &mut self.disk,
            Durability::Memory => &mut self.memory,
        };
        replica.set_budget(self.budget);
        act(replica, &mut out);
        self.budget = replica.budget();
        out.drain()
    }
}

#[cfg(test)]
mod tests {
    use available::{Action, Change, Kind, Level, Operation, Outcome, Past, Write};
    use bytes::Bytes;
    use membership::{BucketId, ClusterId, Epoch, Member, Position};
    use replication::{RegisterKey, RequestId, Ticket, Value};
    use stdx::TraceContext;

    use super::*;

    fn lone_view() -> View {
        let mut view = View::forming(ClusterId(1), 1, 1, 0);
        let tokens = vec![Position(1 << 60)];
        view.members.push(Member { id: NodeId(1), name: "n1".into(), zone: None, tokens, weight: 1 });
        view.epoch = Epoch(1);
        view
    }

    fn put(durability: Durability, keys: &mut AvailableKeys) -> Effects {
        let key = RegisterKey { position: Position(7), bucket: BucketId(2), key: Bytes::from_static(b"k") };
        let value = Value { body: Bytes::from_static(b"v"), content_type: Bytes::new() };
        let write = Write {
            key: key.clone(),
            kind: Kind::Value,
            request: RequestId(1),
            first_sent_ms: 1,
            context: None,
            order: 1,
            firm: false,
            change: Change::Put(value),
        };
        let action = Action::Write(write);
        let operation = Operation { key, level: Level::Causal, past: Past::default(), stand_in: false, action };
        let (now, context) = (Instant::from_millis(2), TraceContext::NONE);
        let deadline = Instant::from_millis(1_000);
        keys.handle(durability, now, Input::Operation { ticket: Ticket(1), operation, deadline, wall_ms: 1, context })
    }

    #[test]
    fn what_is_kept_in_memory_waits_for_no_disk_and_is_not_logged() {
        let mut keys = AvailableKeys::new(NodeId(1), 1, &lone_view(), b"secret", &mut Prng::from_seed(1));
        let first = keys.begin(Durability::Memory, Instant::ZERO, 1);
        assert_eq!(first.persist, []);
        let effects = put(Durability::Memory, &mut keys);
        assert_eq!(effects.persist, []);
        assert!(matches!(effects.answers[..], [ref answer] if matches!(answer.outcome, Outcome::Done { .. })));
    }

    #[test]
    fn what_is_kept_on_disk_is_answered_once_it_is_there_and_numbered_behind_others_records() {
        let mut keys = AvailableKeys::new(NodeId(1), 1, &lone_view(), b"secret", &mut Prng::from_seed(1));
        keys.note_log_end(LogPosition(10));
        let first = keys.begin(Durability::Disk, Instant::ZERO, 1);
        let last = first.persist.last().expect("a new log says whose it is").0;
        assert!(first.persist[0].0 == LogPosition(11), "{:?}", first.persist);
        let whole = keys.handle(Durability::Disk, Instant::from_millis(1), Input::Synced(last));
        let last = whole.persist.last().map_or(last, |(position, _)| *position);
        keys.handle(Durability::Disk, Instant::from_millis(1), Input::Synced(last));
        keys.note_log_end(LogPosition(40));
        let effects = put(Durability::Disk, &mut keys);
        assert_eq!(effects.answers, []);
        let position = effects.persist.last().expect("a stamp is logged").0;
        assert_eq!(position, LogPosition(41));
        let effects = keys.handle(Durability::Disk, Instant::from_millis(3), Input::Synced(position));
        assert_eq!(effects.answers.len(), 1);
    }
}
