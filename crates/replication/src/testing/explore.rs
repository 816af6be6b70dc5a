//! Walks all states breadth first and remembers those that it has seen.
//!
//! A state is the replicas' own structs, what is on their disks, the messages under way, and what clients asked
//! and were told; a step calls the production step functions. What can happen in a state: a client asks its next
//! thing; a message arrives, in any order, and once in a while twice; a timer runs out; a disk syncs; a node
//! crashes and is there again; a node looks for tombstones; discovery changes the view, and a node hears of it.
//! That a message is lost needs no step: it never arrives.
//!
//! Time is left out. Requests end before what remembers them lapses, as in production by deadlines far below ten
//! minutes: a node looks for tombstones only when no write is open at a node that lives. Messages have no such bound.
//!
//! Bounds, beside those of [`Scope`]: the ends of clients' patience, full disks, catching up after a restart and the
//! notices of broken connections are left out (the simulation has them all). An answer that nobody waits for, and a
//! question other than an accept whose asker has given it up, count as lost. Arcs without keys are copied and confirmed
//! in one step.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use bytes::Bytes;
use membership::{BucketId, ClusterId, Epoch, Member, NodeId, Position, View};
use stdx::{Instant, Prng, TraceContext};

use super::history::{Asked, Level, Told, is_explained};
use super::scopes::{Act, Grain, Kind, Scope};
use super::still::{FAR, Print};
use crate::io::{Answer, Effects, Envelope, Event, Input, Outbox, Ticket};
use crate::message::{Body, LogPosition, Record};
use crate::replica::{Replica, Timer};
use crate::round::Phase;
use crate::rules::{AllBut, Rule};
use crate::types::{
    Ballot, Change, Condition, Effect, Operation, Outcome, RegisterKey, RequestId, Terms, Value, Write,
};

/// What was found.
#[derive(Clone, Debug)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// Steps taken, also those that led to a known state.
    pub steps: u64,
    /// The longest of the shortest ways to a state.
    pub depth: u32,
    /// Whether every state in scope was reached.
    pub complete: bool,
    /// Different histories that were judged.
    pub histories: usize,
    /// States in which a tombstone had been dropped, changes that had ended: that the scope shows what it is for.
    pub dropped: u64,
    /// See `dropped`.
    pub changed: u64,
    /// What is broken first, with the steps that lead to it.
    pub violation: Option<(&'static str, Vec<String>)>,
}

/// One thing that can happen. Nodes are named by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Ask(u8),
    Arrive(u16),
    /// It arrives, and what is answered is lost.
    Unanswered(u16),
    Repeat(u16),
    RunOut(u8, Timer),
    Sync(u8),
    Crash(u8),
    Look(u8),
    BeginChange,
    EndChange,
    Hear(u8),
}

/// A node: what runs, and what is on its disk.
#[derive(Clone)]
struct Node {
    replica: Rc<Replica<AllBut>>,
    log: Rc<Vec<(LogPosition, Record)>>,
    incarnation: u64,
    print: u64,
}

/// A message under way.
#[derive(Clone)]
struct Said {
    from: NodeId,
    incarnation: u64,
    envelope: Rc<Envelope>,
    print: u64,
}

/// A client's session.
#[derive(Clone, Default, Hash)]
struct Client {
    next: u8,
    waits: bool,
    time: Ballot,
}

/// How often what may happen has happened.
#[derive(Clone, Default, Hash)]
struct Used {
    timers: u8,
    crashes: u8,
    repeats: u8,
    losses: u8,
    passes: u8,
    changes: u8,
}

#[derive(Clone)]
struct State {
    nodes: Vec<Node>,
    under_way: Vec<Said>,
    clients: Vec<Client>,
    history: Vec<Asked>,
    said: u8,
    used: Used,
    view: Rc<View>,
    dropped: bool,
    /// The last ballot that was chosen on each key, with the value, and when that happened.
    chosen: [(Ballot, Option<u8>, Ballot); 2],
    /// Up to where each node has confirmed the keys' arc.
    confirmed: [u64; 4],
    /// Something was answered by the last step.
    told: bool,
    /// Answers are being lost.
    mute: bool,
}

/// With so few things that may happen, no way is longer than this.
const DEPTH_MAX: u32 = 150;
const NOW: Instant = Instant::ZERO;
/// The end of the arc on which both keys lie.
const ARC: Position = Position(100);
/// What clocks show while clients are served, and when what was asked then is long past.
const EARLY_MS: u64 = 1_000;
const LATE_MS: u64 = EARLY_MS + 2 * crate::memory::REQUESTS_AGE_MAX_MS;

/// Explores all of `scope` with all rules kept but `broken`.
pub fn explore(scope: &Scope, broken: Option<Rule>) -> Explored {
    let first = State::first(scope, AllBut(broken));
    let mut seen: HashMap<u64, (u64, Step)> = HashMap::new();
    let mut judged: HashSet<u64> = HashSet::new();
    let root = first.fingerprint();
    seen.insert(root, (root, Step::BeginChange));
    let mut found = Explored {
        states: 1,
        steps: 0,
        depth: 0,
        complete: false,
        histories: 0,
        dropped: 0,
        changed: 0,
        violation: None,
    };
    let mut level = vec![(root, first)];
    while !level.is_empty() {
        let mut next = Vec::new();
        for (from, state) in level {
            for step in state.steps(scope) {
                let mut after = state.clone();
                after.take(step, scope, AllBut(broken));
                found.steps += 1;
                let fingerprint = after.fingerprint();
                let Entry::Vacant(entry) = seen.entry(fingerprint) else { continue };
                entry.insert((from, step));
                found.states += 1;
                found.dropped += u64::from(after.dropped);
                found.changed += u64::from(after.used.changes > 1);
                let mut sound = after.note_chosen();
                if after.told && judged.insert(hash_of(&after.history)) {
                    found.histories += 1;
                    sound = sound.and_then(|()| after.judge());
                }
                if found.depth > DEPTH_MAX {
                    sound = sound.and(Err("whatever is begun comes to an end"));
                }
                if let Err(sentence) = sound {
                    let way = way_to(&seen, root, fingerprint, scope, AllBut(broken));
                    found.violation = Some((sentence, way));
                    found.depth += 1;
                    return found;
                }
                if found.states >= scope.states_max {
                    return found;
                }
                next.push((fingerprint, after));
            }
        }
        found.depth += u32::from(!next.is_empty());
        level = next;
    }
    found.complete = true;
    found
}

/// The steps from the beginning to a state, in words: taken again one by one.
fn way_to(seen: &HashMap<u64, (u64, Step)>, root: u64, to: u64, scope: &Scope, rules: AllBut) -> Vec<String> {
    let mut steps = Vec::new();
    let mut at = to;
    while at != root {
        let (from, step) = seen[&at];
        steps.push(step);
        at = from;
    }
    steps.reverse();
    let mut state = State::first(scope, rules);
    let said = steps.into_iter().map(|step| {
        let words = state.words(step, scope);
        state.take(step, scope, rules);
        words
    });
    said.collect()
}

fn node_id(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

fn member(at: usize) -> Member {
    let tokens = vec![Position(100 * (at as u64 + 1))];
    Member { id: node_id(at), name: format!("n{}", at + 1), zone: None, weight: 1, tokens }
}

fn key_of(key: u8) -> RegisterKey {
    RegisterKey { position: Position(10 + u64::from(key)), bucket: BucketId(1), key: Bytes::from(vec![b'a' + key]) }
}

fn hash_of(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

impl State {
    fn first(scope: &Scope, rules: AllBut) -> State {
        let base = View::forming(ClusterId(1), 3, 3, 0);
        let view = View { epoch: Epoch(1), members: (0..3).map(member).collect(), ..base };
        let mut state = State {
            nodes: Vec::new(),
            under_way: Vec::new(),
            clients: vec![Client::default(); scope.clients.len() + scope.before.len()],
            history: Vec::new(),
            said: 0,
            used: Used::default(),
            view: Rc::new(view),
            dropped: false,
            chosen: [(Ballot::ZERO, None, Ballot::ZERO); 2],
            confirmed: [0; 4],
            told: false,
            mute: false,
        };
        for at in 0..3 {
            state.start(at, Vec::new(), rules, scope);
        }
        for (number, prior) in scope.before.iter().enumerate() {
            let client = prior.by.map_or(scope.clients.len() + number, usize::from);
            let unheard = std::mem::take(&mut state.under_way);
            state.ask(client, prior.act, scope);
            state.clients[client].next = 0;
            let hears = |said: &Said| prior.deaf.is_none_or(|deaf| said.envelope.to != NodeId(u64::from(deaf)));
            while let Some(at) = state.under_way.iter().position(hears) {
                state.arrive(at, false, scope);
            }
            assert!(!state.clients[client].waits, "what is done beforehand is done: {prior:?}");
            state.under_way.extend(unheard);
        }
        state.forget_the_void();
        state
    }

    /// What a majority holds is chosen; is that sound? (While the replicas change, only what clients are told counts.)
    fn note_chosen(&mut self) -> Result<(), &'static str> {
        if self.used.changes > 0 {
            return Ok(());
        }
        for key in 0..2u8 {
            let held: Vec<_> = self.nodes.iter().map(|node| node.replica.inspect(&key_of(key))).collect();
            let majority = |ballot: Ballot| held.iter().filter(|(other, _)| *other == ballot).count() >= 2;
            let (last, before, time) = self.chosen[usize::from(key)];
            let Some((ballot, state)) = held.iter().find(|(ballot, _)| *ballot > last && majority(*ballot)) else {
                continue;
            };
            let value = state.value.as_ref().map(|value| value.body[0]);
            if before.is_none() && value.is_some() && last > Ballot::ZERO && state.version.ballot <= time {
                return Err("a deleted value never comes back");
            }
            if value != before && state.version.ballot <= time {
                return Err("a later write has a later time");
            }
            let confirmed = self.confirmed.iter().enumerate();
            let below = |(at, up_to): (usize, &u64)| node_id(at) != ballot.node && ballot.counter <= *up_to;
            if confirmed.into_iter().any(below) {
                return Err("nothing new is chosen below a confirmation");
            }
            self.chosen[usize::from(key)] = (*ballot, value, state.time(*ballot));
        }
        Ok(())
    }

    /// Whether what was told can be explained.
    fn judge(&self) -> Result<(), &'static str> {
        if !is_explained(&self.history, Level::Strict) {
            return Err("writes and strict reads are linearizable");
        }
        if !is_explained(&self.history, Level::Sequential) {
            return Err("all operations have one order that agrees with each session's");
        }
        Ok(())
    }

    fn steps(&self, scope: &Scope) -> Vec<Step> {
        let mut steps: Vec<Step> = (0..self.under_way.len()).map(|at| Step::Arrive(at as u16)).collect();
        for (at, acts) in scope.clients.iter().enumerate() {
            let client = &self.clients[at];
            let ready = acts.get(usize::from(client.next)).is_some_and(|act| usize::from(act.at) <= self.nodes.len());
            if ready && !client.waits {
                steps.push(Step::Ask(at as u8));
            }
        }
        if self.used.losses < scope.losses {
            let asks = |said: &Said| is_question(&said.envelope.message.body);
            let asked = (0..self.under_way.len()).filter(|at| asks(&self.under_way[*at]));
            steps.extend(asked.map(|at| Step::Unanswered(at as u16)));
        }
        if self.used.repeats < scope.repeats {
            steps.extend((0..self.under_way.len()).map(|at| Step::Repeat(at as u16)));
        }
        for (at, node) in self.nodes.iter().enumerate() {
            let index = at as u8;
            if self.used.timers < scope.timers {
                let timers = node.replica.timers.iter().map(|(_, timer)| *timer);
                steps.extend(timers.filter(|timer| self.may_run_out(node, *timer)).map(|t| Step::RunOut(index, t)));
            }
            if node.replica.acceptor.synced() < node.replica.acceptor.log_end() {
                steps.push(Step::Sync(index));
            }
            if self.used.crashes < scope.crashes {
                steps.push(Step::Crash(index));
            }
            if self.used.passes < scope.passes && self.is_quiet() && node.replica.tombstones() > 0 {
                steps.push(Step::Look(index));
            }
            if node.replica.view().epoch < self.view.epoch {
                steps.push(Step::Hear(index));
            }
        }
        if scope.replace && self.used.changes == 0 {
            steps.push(Step::BeginChange);
        }
        let newcomer = self.nodes.get(3).filter(|_| self.used.changes == 1);
        if newcomer.is_some_and(|node| !node.replica.copied_changes().is_empty()) {
            steps.push(Step::EndChange);
        }
        steps
    }

    /// Which timers matter here: not those of clients' patience, of catching up, and of what is merely slow.
    fn may_run_out(&self, node: &Node, timer: Timer) -> bool {
        match timer {
            Timer::Round(round) => node.replica.rounds.get(&round).is_some_and(|round| {
                matches!(round.phase, Phase::BackingOff) || !round.waiting.is_empty() && !round.has_all_answers()
            }),
            Timer::Confirm(_) => true,
            Timer::Deadline(_) | Timer::CatchUp | Timer::Transfer | Timer::Release | Timer::Cut => false,
        }
    }

    /// Whether no write is open at a node that lives: those that crashed since have forgotten theirs.
    fn is_quiet(&self) -> bool {
        self.history.iter().enumerate().all(|(ticket, asked)| {
            let open = |node: &Node| node.replica.open.contains_key(&Ticket(ticket as u64));
            asked.writes.is_none() || asked.told.is_some() || !self.nodes.iter().any(open)
        })
    }

    fn take(&mut self, step: Step, scope: &Scope, rules: AllBut) {
        self.told = false;
        match step {
            Step::Ask(client) => {
                let client = usize::from(client);
                let act = scope.clients[client][usize::from(self.clients[client].next)];
                self.ask(client, act, scope);
            }
            Step::Arrive(at) => self.arrive(usize::from(at), false, scope),
            Step::Unanswered(at) => {
                self.used.losses += 1;
                self.mute = true;
                self.arrive(usize::from(at), false, scope);
                self.mute = false;
            }
            Step::Repeat(at) => {
                self.used.repeats += 1;
                self.arrive(usize::from(at), true, scope);
            }
            Step::RunOut(node, timer) => {
                self.used.timers += 1;
                self.with(usize::from(node), scope, |replica, out| replica.run_out(timer, out));
            }
            Step::Sync(node) => {
                let end = self.nodes[usize::from(node)].replica.acceptor.log_end();
                self.tell(usize::from(node), Input::Synced(end), scope);
            }
            Step::Crash(node) => {
                self.used.crashes += 1;
                let node = usize::from(node);
                let synced = self.nodes[node].replica.acceptor.synced();
                let mut log = self.nodes[node].log.to_vec();
                log.retain(|(position, _)| *position <= synced);
                self.start(node, log, rules, scope);
            }
            Step::Look(node) => {
                self.used.passes += 1;
                self.tell(usize::from(node), Input::Collect { wall_ms: LATE_MS }, scope);
            }
            Step::BeginChange => {
                let view = self.view.begin_replace(node_id(2), member(3)).expect("node 3 can be replaced");
                self.publish(view);
                self.start(3, Vec::new(), rules, scope);
            }
            Step::EndChange => {
                let change = self.nodes[3].replica.copied_changes()[0];
                let view = self.view.note_copied(change, node_id(3)).expect("it is under way");
                self.publish(view);
            }
            Step::Hear(node) => {
                self.tell(usize::from(node), Input::View((*self.view).clone()), scope);
                if self.used.changes == 1 {
                    // It refused what the newcomer asked before.
                    self.with(3, scope, |replica, out| {
                        replica.transfer.ask_again();
                        replica.run_out(Timer::Transfer, out);
                    });
                }
            }
        }
        self.forget_the_void();
    }

    fn publish(&mut self, view: View) {
        self.used.changes += 1;
        self.view = Rc::new(view);
    }

    /// Starts a node on what its disk holds.
    fn start(&mut self, at: usize, log: Vec<(LogPosition, Record)>, rules: AllBut, scope: &Scope) {
        let before = self.nodes.get(at);
        let view = before.map_or_else(|| (*self.view).clone(), |node| node.replica.view().clone());
        let incarnation = before.map_or(1, |node| node.incarnation + 1);
        // Rounds are numbered from another start each time.
        let seed = 100 * (at as u64 + 1) + incarnation;
        let mut replica = Replica::with_rules(node_id(at), view, Prng::from_seed(seed), rules);
        replica.set_incarnation(incarnation);
        for (position, record) in &log {
            replica.restore(*position, record.clone());
        }
        let node = Node { replica: Rc::new(replica), log: Rc::new(log), incarnation, print: 0 };
        if at < self.nodes.len() {
            self.nodes[at] = node;
        } else {
            self.nodes.push(node);
        }
        self.with(at, scope, |replica, out| replica.begin(NOW, out));
        // The ceiling and the epoch: without them it can say nothing.
        self.sync(at, scope);
    }

    fn sync(&mut self, at: usize, scope: &Scope) {
        while self.nodes[at].replica.acceptor.synced() < self.nodes[at].replica.acceptor.log_end() {
            let end = self.nodes[at].replica.acceptor.log_end();
            self.tell_once(at, Input::Synced(end), scope);
        }
    }

    fn ask(&mut self, client: usize, act: Act, scope: &Scope) {
        let (writes, strict) = match act.kind {
            Kind::Write(value) | Kind::Create(value) => (Some(Some(value)), true),
            Kind::Delete => (Some(None), true),
            Kind::Read => (None, true),
            Kind::SequentialRead => (None, false),
        };
        let ticket = Ticket(self.history.len() as u64);
        let creates = matches!(act.kind, Kind::Create(_));
        let (key, asked) = (act.key, self.said);
        self.history.push(Asked { client: client as u8, key, writes, creates, strict, asked, told: None });
        self.said += 1;
        self.clients[client].waits = true;
        self.clients[client].next += 1;
        let wall_ms = if self.used.passes == 0 { EARLY_MS } else { LATE_MS };
        let key = key_of(act.key);
        let operation = match writes {
            None => Operation::Read { key },
            Some(value) => {
                let put = |value: u8| Value { body: Bytes::from(vec![value]), content_type: Bytes::new() };
                let change = value.map_or(Change::Delete, |value| Change::Put(put(value)));
                let condition = if creates { Condition::Absent } else { Condition::Always };
                let (request, terms) = (RequestId(1 + u128::from(ticket.0)), Terms::default());
                Operation::Write(Write { key, request, first_sent_ms: wall_ms, retry: false, condition, change, terms })
            }
        };
        let since = self.clients[client].time;
        let operation = Operation::InSession { since, sequential: !strict, operation: Box::new(operation) };
        let input = Input::Operation { ticket, operation, deadline: FAR, wall_ms, context: TraceContext::NONE };
        self.tell(usize::from(act.at) - 1, input, scope);
    }

    fn arrive(&mut self, at: usize, stays: bool, scope: &Scope) {
        let said = if stays { self.under_way[at].clone() } else { self.under_way.remove(at) };
        self.hear(said, scope);
    }

    fn hear(&mut self, said: Said, scope: &Scope) {
        let to = (said.envelope.to.0 - 1) as usize;
        if to >= self.nodes.len() {
            return;
        }
        let Envelope { message, context, .. } = Envelope::clone(&said.envelope);
        self.tell(to, Input::Message { from: said.from, incarnation: said.incarnation, message, context }, scope);
    }

    fn tell(&mut self, at: usize, input: Input, scope: &Scope) {
        self.tell_once(at, input, scope);
        if !scope.slow_disks {
            self.sync(at, scope);
        }
    }

    fn tell_once(&mut self, at: usize, input: Input, scope: &Scope) {
        self.with(at, scope, |replica, out| replica.handle(NOW, input, out));
    }

    fn with(&mut self, at: usize, scope: &Scope, act: impl FnOnce(&mut Replica<AllBut>, &mut Outbox)) {
        let mut out = Outbox::default();
        let replica = Rc::make_mut(&mut self.nodes[at].replica);
        act(replica, &mut out);
        // A copy goes on at once: how fast it does is no matter of safety.
        while replica.transfer.owes() || replica.timers.contains(&(NOW, Timer::Transfer)) {
            replica.stop_clocks();
            replica.run_out(Timer::Transfer, &mut out);
        }
        replica.stop_clocks();
        self.nodes[at].print = replica.print();
        self.carry_out(at, out.drain(), scope);
    }

    fn carry_out(&mut self, at: usize, effects: Effects, scope: &Scope) {
        let Effects { persist, send, answers, events, .. } = effects;
        if !persist.is_empty() {
            Rc::make_mut(&mut self.nodes[at].log).extend(persist);
        }
        for Answer { ticket, outcome, receipt } in answers {
            self.answered(ticket, &outcome, receipt.time);
        }
        for event in &events {
            if let Event::ArcConfirmed { high: ARC, up_to } = event {
                self.confirmed[at] = self.confirmed[at].max(*up_to);
            }
        }
        self.dropped |= events.iter().any(|event| matches!(event, Event::Collected { .. }));
        for envelope in send {
            let (from, incarnation) = (node_id(at), self.nodes[at].incarnation);
            let mut print = Print::default();
            print.add(format_args!("{from}{incarnation}{envelope:?}"));
            let aside = self.is_aside(node_id(at), &envelope, scope.grain);
            let said = Said { from, incarnation, envelope: Rc::new(envelope), print: print.finish() };
            match aside {
                Some(true) => {}
                Some(false) => self.hear(said, scope),
                None => self.under_way.push(said),
            }
        }
    }

    fn answered(&mut self, ticket: Ticket, outcome: &Outcome, time: Ballot) {
        let Some(asked) = self.history.get_mut(ticket.0 as usize) else { return };
        let told = match outcome {
            Outcome::Value(value) => Told::Value(value.as_ref().map(|(_, value)| value.body[0])),
            Outcome::Done { effect: Effect::ConditionFailed(_), .. } => Told::Exists,
            Outcome::Done { .. } => Told::Done,
            Outcome::Refused(_) => Told::Refused,
            // Nobody's patience ends, and nobody asks what became of a write.
            Outcome::Remembered(_) | Outcome::Unknown => return,
        };
        asked.told = Some((self.said, told));
        self.said += 1;
        self.told = true;
        let client = &mut self.clients[usize::from(asked.client)];
        client.waits = false;
        client.time = client.time.max(time);
    }

    /// What is not a step of its own: catching up, refusals for another epoch and lost answers, which are left out
    /// (true); what is about arcs without keys, and answers where steps are coarse, which happens at once (false).
    fn is_aside(&self, from: NodeId, envelope: &Envelope, grain: Grain) -> Option<bool> {
        if is_answer(&envelope.message.body) && grain == Grain::Exchanges {
            return Some(self.mute);
        }
        let asker = self.nodes.get((envelope.to.0 - 1) as usize).map(|node| &node.replica);
        let arc = match &envelope.message.body {
            Body::Digest { .. } | Body::DigestPage { .. } | Body::Fenced { .. } | Body::OtherEpoch { .. } => {
                return Some(true);
            }
            Body::Copy { high, .. } | Body::Fetch { high, .. } | Body::Confirm { arc: high, .. } => Some(*high),
            Body::CopyPage { round, .. } | Body::Fetched { round, .. } => {
                asker.and_then(|asker| asker.transfer.asked(from, *round))
            }
            Body::Confirmed { round, .. } => asker.and_then(|asker| asker.confirmations.arc_asked(*round)),
            _ => None,
        };
        arc.filter(|arc| *arc != ARC).map(|_| false)
    }

    /// Drops what counts as lost, and second copies.
    fn forget_the_void(&mut self) {
        let nodes = &self.nodes;
        let node = |id: NodeId| nodes.get((id.0 - 1) as usize).map(|node| &node.replica);
        self.under_way.retain(|said| {
            let (Some(from), Some(to)) = (node(said.from), node(said.envelope.to)) else { return true };
            matters(from, to, said)
        });
        self.under_way.sort_unstable_by_key(|said| said.print);
        self.under_way.dedup_by_key(|said| said.print);
    }

    /// Two states with one fingerprint can do the same.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.clients, &self.history, self.said, &self.used, self.view.epoch, self.dropped).hash(&mut hasher);
        self.confirmed.hash(&mut hasher);
        self.nodes.iter().for_each(|node| (node.print, node.incarnation).hash(&mut hasher));
        self.under_way.iter().for_each(|said| said.print.hash(&mut hasher));
        hasher.finish()
    }

    fn words(&self, step: Step, scope: &Scope) -> String {
        match step {
            Step::Ask(client) => {
                let next = usize::from(self.clients[usize::from(client)].next);
                format!("client {client} asks: {:?}", scope.clients[usize::from(client)][next])
            }
            Step::Arrive(at) => self.under_way[usize::from(at)].to_string(),
            Step::Unanswered(at) => format!("{}, whose answer is lost", self.under_way[usize::from(at)]),
            Step::Repeat(at) => format!("{}, and will again", self.under_way[usize::from(at)]),
            Step::RunOut(node, timer) => format!("{}: {timer:?} runs out", node_id(usize::from(node))),
            Step::Sync(node) => format!("{} syncs", node_id(usize::from(node))),
            Step::Crash(node) => format!("{} crashes and starts again", node_id(usize::from(node))),
            Step::Look(node) => format!("{} looks for tombstones", node_id(usize::from(node))),
            Step::BeginChange => "node 4 is to replace node 3".to_owned(),
            Step::EndChange => "node 4 has replaced node 3".to_owned(),
            Step::Hear(node) => format!("{} hears of the new view", node_id(usize::from(node))),
        }
    }
}

/// Whether it answers a question.
fn is_answer(body: &Body) -> bool {
    match body {
        Body::Promise { .. }
        | Body::Accepted { .. }
        | Body::Nack { .. }
        | Body::Report { .. }
        | Body::DigestPage { .. }
        | Body::Confirmed { .. }
        | Body::OtherEpoch { .. }
        | Body::CopyPage { .. }
        | Body::Fetched { .. }
        | Body::Collectable { .. }
        | Body::Fenced { .. } => true,
        Body::Prepare { .. }
        | Body::Accept { .. }
        | Body::Query { .. }
        | Body::Learn { .. }
        | Body::Digest { .. }
        | Body::Confirm { .. }
        | Body::Copy { .. }
        | Body::Fetch { .. }
        | Body::Collect { .. }
        | Body::Collected { .. } => false,
    }
}

/// Whether it is a question that changes who is asked, so that it matters whether its answer is lost.
fn is_question(body: &Body) -> bool {
    matches!(body, Body::Prepare { .. } | Body::Accept { .. } | Body::Confirm { .. } | Body::Collect { .. })
}

/// Whether a message can still have an effect that counts.
fn matters(from: &Replica<AllBut>, to: &Replica<AllBut>, said: &Said) -> bool {
    let sender = said.from;
    let asks = |round| from.rounds.get(&round).is_some_and(|round| !round.has_answered(said.envelope.to));
    match &said.envelope.message.body {
        Body::Prepare { round, .. } | Body::Query { round, .. } => asks(*round),
        Body::Promise { round, .. }
        | Body::Accepted { round }
        | Body::Nack { round, .. }
        | Body::Report { round, .. } => to.rounds.get(round).is_some_and(|round| !round.has_answered(sender)),
        Body::Confirm { round, .. } => from.confirmations.waits_for(*round, said.envelope.to),
        Body::Confirmed { round, .. } => to.confirmations.waits_for(*round, sender),
        Body::Copy { round, .. } | Body::Fetch { round, .. } => from.transfer.asked(said.envelope.to, *round).is_some(),
        Body::CopyPage { round, .. } | Body::Fetched { round, .. } => to.transfer.asked(sender, *round).is_some(),
        Body::Collect { round, .. } => from.collections.waits_for(*round, said.envelope.to),
        Body::Collectable { round, .. } => to.collections.waits_for(*round, sender),
        Body::Learn { key, ballot, .. } => to.acceptor.register(key).is_none_or(|held| held.chosen < *ballot),
        Body::Accept { .. }
        | Body::Collected { .. }
        | Body::OtherEpoch { .. }
        | Body::Fenced { .. }
        | Body::Digest { .. }
        | Body::DigestPage { .. } => true,
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}: {:?}", self.from, self.envelope.to, self.envelope.message.body)
    }
}
