use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;

use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType, Snapshot};
use raft::{RawNode, SnapshotStatus, StateRole};
use registry::{Answer, Command};
use stdx::{Instant, Prng};

use crate::agreed::{Agreed, MEMORY};
use crate::codec::Frame;
use crate::config::Config;
use crate::duties::{self, Duties};
use crate::error::{Failure, OpenError};
use crate::io::{Input, NotTaken, Output, ReplicaId, Role, Status};
use crate::journal::Journal;
use crate::pending::Pending;
use crate::request::{Request, What};
use crate::roster::Member;
use crate::rules::{Rules, Sound};
use crate::state_machine::StateMachine;

/// A proposal or read that got no answer is given to the leader again after this many ticks.
const AGAIN_TICKS: u32 = 4;
/// An image that has not arrived after this many ticks is sent again.
const IMAGE_TICKS: u32 = 60;
/// Open proposals of one replica; more are refused. Well within what is remembered of an origin.
const OPEN_MAX: u64 = MEMORY / 2;
/// What of a log segment is left for an entry's frame and its clock, in bytes.
const ENTRY_SLACK: u64 = 1_024;
/// Bytes of entries in one message.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// One replica. See the crate's documentation.
pub struct Replica<M, R: Rules = Sound> {
    config: Config,
    member: Member,
    /// None only within [`Replica::begin`].
    blank: Option<Journal>,
    node: Option<RawNode<Journal>>,
    machine: M,
    agreed: Agreed,
    duties: Duties,
    prng: Prng,
    /// Of this start.
    origin: u64,
    next_number: u64,
    next_read: u64,
    pending: Pending,
    /// Whether a proposal has to be given to the leader.
    ungiven: bool,
    /// The term and the leader that the pending ones were given to.
    given_to: (u64, u64),
    reads: Reads,
    now: Instant,
    next_tick: Instant,
    again_at: Instant,
    /// When to stand for election since the leader's connections broke.
    haste_at: Option<Instant>,
    election_ticks: usize,
    drawn_for: (u64, StateRole),
    /// The leader's reading of the registry's clock.
    reading: Instant,
    heard: Instant,
    images_sent: BTreeMap<ReplicaId, Instant>,
    applied: u64,
    removed: bool,
    outputs: Vec<Output>,
    rules: PhantomData<R>,
}

/// Reads on their way.
#[derive(Default)]
struct Reads {
    /// Not asked for yet; with the end of their patience.
    waiting: Vec<(u64, Instant)>,
    /// Asked for.
    asked: VecDeque<Question>,
    /// Confirmed at an index that has not been applied here.
    confirmed: BTreeMap<u64, Vec<u64>>,
}

/// What the leader was asked on behalf of reads.
struct Question {
    number: u64,
    asked_at: Instant,
    /// With the end of their patience.
    reads: Vec<(u64, Instant)>,
}

impl<M: StateMachine, R: Rules> Replica<M, R> {
    /// The replica that goes on from a journal. `member` says its name and addresses; its id is the journal's.
    ///
    /// # Errors
    /// The image is not one of this program's, or Raft refuses the journal.
    pub fn open(
        journal: Journal,
        machine: M,
        config: Config,
        member: Member,
        mut prng: Prng,
        now: Instant,
    ) -> Result<Replica<M, R>, OpenError> {
        let member = Member { id: journal.id(), ..member };
        let origin = prng.next_u64().max(1);
        let mut replica = Replica {
            member,
            blank: None,
            node: None,
            machine,
            agreed: Agreed::default(),
            duties: Duties::default(),
            prng,
            origin,
            next_number: 1,
            next_read: 1,
            pending: Pending::default(),
            ungiven: false,
            given_to: (0, 0),
            reads: Reads::default(),
            now,
            next_tick: now + config.tick,
            again_at: now,
            haste_at: None,
            election_ticks: config.election_ticks,
            drawn_for: (0, StateRole::Follower),
            reading: Instant::ZERO,
            heard: now,
            images_sent: BTreeMap::new(),
            applied: journal.image_index(),
            removed: false,
            outputs: Vec::new(),
            rules: PhantomData,
            config,
        };
        if journal.is_blank() {
            replica.blank = Some(journal);
        } else {
            let image = journal.image_bytes().clone();
            replica.take_image(&image).map_err(OpenError::Image)?;
            replica.begin(journal).map_err(OpenError::Raft)?;
        }
        Ok(replica)
    }

    /// What happened. [`Replica::settle`] follows, once for any number of inputs.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Frame(from, frame) => self.receive(now, from, frame),
            Input::Up(peer, name) => self.duties.up(peer, name),
            Input::Down(peer) => self.lost(now, peer),
            Input::Read(ticket) => self.reads.waiting.push((ticket, now + self.config.patience)),
            Input::Leave => self.leave(),
        }
    }

    /// Proposes a command; its number comes back in an output.
    ///
    /// # Errors
    /// See [`NotTaken`].
    pub fn propose(&mut self, now: Instant, command: Command) -> Result<u64, NotTaken> {
        self.propose_what(now, What::Command(Box::new(command)))
    }

    /// Proposes to take a replica out for good.
    ///
    /// # Errors
    /// See [`NotTaken`].
    pub fn propose_removal(&mut self, now: Instant, replica: ReplicaId) -> Result<u64, NotTaken> {
        self.propose_what(now, What::Remove(replica))
    }

    fn propose_what(&mut self, now: Instant, what: What) -> Result<u64, NotTaken> {
        let number = self.next_number;
        if self.pending.oldest().is_some_and(|oldest| number - oldest >= OPEN_MAX) {
            return Err(NotTaken::Busy);
        }
        let request = Request { origin: self.origin, number, at: 0, what };
        let (size, most) = (request.encode().len() as u64, self.config.segment_bytes.saturating_sub(ENTRY_SLACK));
        if size > most {
            return Err(NotTaken::TooLarge { size, most });
        }
        self.next_number += 1;
        self.pending.insert(request, now + self.config.patience);
        self.ungiven = true;
        Ok(number)
    }

    /// Lets time pass and does what there is to do; afterwards all that must be on the disk is there.
    ///
    /// # Errors
    /// The replica can vouch for nothing any more: the process must end.
    pub fn settle(&mut self, now: Instant) -> Result<Vec<Output>, Failure> {
        self.pass_time(now);
        self.form(now)?;
        loop {
            self.do_duties(now);
            self.give_pending(now);
            self.ask_reads();
            if !self.turn(now)? {
                break;
            }
        }
        if self.journal().is_some_and(|journal| journal.wants_image(&self.config)) && self.applied > 0 {
            self.keep_image()?;
        }
        Ok(std::mem::take(&mut self.outputs))
    }

    /// When [`Replica::settle`] is due even if nothing happens.
    pub fn next_timeout(&self) -> Instant {
        let times = [self.haste_at, self.pending.next_timeout()];
        times.into_iter().flatten().fold(self.next_tick, Instant::min)
    }

    /// The state machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Everything that is agreed on, as bytes: two replicas that applied as much have the same.
    pub fn image(&self) -> Vec<u8> {
        self.agreed.image(&self.machine.image())
    }

    /// What there is to know about it.
    pub fn status(&self) -> Status {
        let base = Status {
            id: self.member.id,
            applied: self.applied,
            roster: self.agreed.roster.clone(),
            removed: self.removed,
            ..Status::default()
        };
        let Some(node) = &self.node else { return base };
        let raft = &node.raft;
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if raft.promotable() => Role::Follower,
            StateRole::Follower => Role::Learner,
        };
        let configuration = node.store().configuration();
        Status {
            role,
            term: raft.term,
            leader: Some(raft.leader_id).filter(|id| *id != raft::INVALID_ID),
            last: raft.raft_log.last_index(),
            voters: configuration.voters.clone(),
            ..base
        }
    }

    /// When it last heard of the leader, were that not itself.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    fn journal(&self) -> Option<&Journal> {
        self.blank.as_ref().or(self.node.as_ref().map(RawNode::store))
    }

    /// Starts Raft over the journal.
    fn begin(&mut self, journal: Journal) -> Result<(), String> {
        let alone = journal.configuration().voters == [self.member.id];
        let config = raft::Config {
            id: self.member.id,
            election_tick: self.config.election_ticks,
            heartbeat_tick: self.config.heartbeat_ticks,
            applied: journal.image_index(),
            max_size_per_msg: MESSAGE_BYTES_MAX,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut node = RawNode::new(&config, journal, &logger).map_err(|error| error.to_string())?;
        if alone {
            // Nobody else could lead: there is nothing to wait for.
            node.campaign().map_err(|error| error.to_string())?;
        }
        self.node = Some(node);
        self.draw();
        Ok(())
    }

    fn receive(&mut self, now: Instant, from: ReplicaId, frame: Frame) {
        match frame {
            Frame::Raft(message) => self.step(now, from, *message),
            Frame::Forward(request) => {
                if let (true, Ok(request)) = (self.leads(), Request::decode(&request)) {
                    self.give_to_log(request);
                }
            }
            Frame::Ask => {
                let removed = self.agreed.roster.removed.contains(&from);
                self.send(from, Frame::Tell { formed: self.node.is_some(), removed });
            }
            Frame::Tell { formed, removed } => {
                self.removed |= removed;
                self.duties.told(now, from, formed);
            }
            Frame::Introduce(member) => self.duties.introduced(member),
        }
    }

    fn step(&mut self, now: Instant, from: ReplicaId, message: Message) {
        if message.to != self.member.id || message.from != from || self.is_gone(from) {
            return;
        }
        if let Some(journal) = self.blank.take()
            && let Err(why) = self.begin(journal)
        {
            // Raft takes every journal that was opened; should it not, this replica stays away.
            self.removed = true;
            debug_assert!(false, "{why}");
        }
        let Some(node) = &mut self.node else { return };
        // What Raft does not like about a message (from a removed replica, say) it says by not acting on it.
        let _ = node.step(message);
        if node.raft.leader_id == from {
            self.heard = now;
            self.haste_at = None;
        }
        self.draw();
    }

    /// Whether a replica was taken out. One that is only to go still votes: of two, none could go without its vote.
    fn is_gone(&self, replica: ReplicaId) -> bool {
        let inside = |node: &RawNode<Journal>| duties::everybody(node.store().configuration()).contains(&replica);
        self.agreed.roster.removed.contains(&replica) && !(R::HEAR_OUT && self.node.as_ref().is_some_and(inside))
    }

    /// The last connection with a replica broke. If it led, that is as good as silence, and sooner.
    fn lost(&mut self, now: Instant, peer: ReplicaId) {
        self.duties.down(peer);
        let Some(node) = &mut self.node else { return };
        node.report_unreachable(peer);
        if node.raft.leader_id == peer && node.raft.promotable() {
            // Forgotten, so that whoever stands for election gets this one's vote at once.
            let term = node.raft.term;
            node.raft.become_follower(term, raft::INVALID_ID);
            let haste_ns = self.prng.below(self.config.haste_max.as_nanos() as u64);
            self.haste_at = Some(now + std::time::Duration::from_nanos(haste_ns));
            self.draw();
        }
    }

    fn leave(&mut self) {
        let Some(node) = &mut self.node else { return };
        let raft = &node.raft;
        if raft.state != StateRole::Leader {
            return;
        }
        let voters = node.store().configuration().voters.iter().filter(|id| **id != self.member.id);
        let heir = voters.max_by_key(|id| raft.prs().get(**id).map_or(0, |progress| progress.matched)).copied();
        if let Some(heir) = heir {
            node.transfer_leader(heir);
        }
    }

    fn leads(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.raft.state == StateRole::Leader)
    }

    fn pass_time(&mut self, now: Instant) {
        let passed = now.since(self.now);
        self.now = now;
        if !R::CLOCK_WAITS {
            self.reading = self.reading + passed;
        } else if self.leads() {
            self.reading = self.reading + passed.min(self.config.clock_step_max);
        }
        for number in self.pending.expired(now) {
            self.outputs.push(Output::Expired(number));
        }
        self.deny_reads(now);
        if let Some(node) = &mut self.node {
            if now >= self.next_tick {
                node.tick();
            }
            if self.haste_at.is_some_and(|at| at <= now) {
                self.haste_at = None;
                if node.raft.leader_id == raft::INVALID_ID && node.raft.state == StateRole::Follower {
                    // It says no only to those without a vote.
                    let _ = node.campaign();
                }
            }
            let overdue = self.images_sent.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id);
            for id in overdue.collect::<Vec<_>>() {
                self.images_sent.remove(&id);
                node.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
        if now >= self.next_tick {
            // However long it slept, it is one tick: its own sleep is no reason to doubt the leader.
            self.next_tick = now + self.config.tick;
        }
        self.draw();
    }

    /// Raft draws its election timeout from a generator of its own. It is drawn again here, so that a seed replays.
    fn draw(&mut self) {
        let Some(node) = &mut self.node else { return };
        let state = (node.raft.term, node.raft.state);
        if state != self.drawn_for {
            self.drawn_for = state;
            let ticks = self.config.election_ticks;
            self.election_ticks = ticks + self.prng.below(ticks as u64) as usize;
        }
        node.raft.set_randomized_election_timeout(self.election_ticks);
    }

    /// While it is part of nothing: asks around, and begins a discovery if it is the one to do so.
    fn form(&mut self, now: Instant) -> Result<(), Failure> {
        if self.blank.is_none() {
            return Ok(());
        }
        if self.duties.is_due(now, self.config.tick * AGAIN_TICKS) {
            for peer in self.duties.peers() {
                self.outputs.push(Output::Send(peer, Frame::Ask));
            }
            self.introduce_itself();
        }
        if !self.duties.may_found(now, &self.config, &self.member) {
            return Ok(());
        }
        let Some(mut journal) = self.blank.take() else { return Ok(()) };
        let expected = self.config.founders.len().max(1);
        self.agreed.roster.expected = expected;
        self.agreed.roster.formed = expected == 1;
        self.agreed.roster.members.insert(self.member.id, self.member.clone());
        journal.found(self.agreed.image(&self.machine.image()))?;
        self.applied = journal.image_index();
        self.begin(journal).map_err(Failure::Raft)
    }

    fn introduce_itself(&mut self) {
        for peer in self.duties.formed_peers() {
            self.outputs.push(Output::Send(peer, Frame::Introduce(self.member.clone())));
        }
    }

    /// What a member, and above all a leader, has to see to.
    fn do_duties(&mut self, now: Instant) {
        let Some(node) = &mut self.node else { return };
        let term = node.raft.term;
        let leads = node.raft.state == StateRole::Leader;
        if leads && R::CLOCK_WAITS && self.duties.began != term {
            self.duties.began = if self.give_own(What::Command(Box::new(Command::GiveTime))) { term } else { 0 };
        }
        let due = self.machine.next_timeout().is_some_and(|at| at <= self.reading);
        if leads && due && (self.duties.time_given == term || !R::CLOCK_WAITS) && self.duties.ticked != term {
            self.duties.ticked = if self.give_own(What::Command(Box::new(Command::Tick))) { term } else { 0 };
        }
        if !self.duties.is_due(now, self.config.tick * AGAIN_TICKS) {
            return;
        }
        if self.agreed.roster.members.get(&self.member.id) != Some(&self.member) {
            self.duties.introduced(self.member.clone());
            for peer in self.duties.peers() {
                self.outputs.push(Output::Send(peer, Frame::Ask));
            }
            self.introduce_itself();
        }
        if leads {
            self.tend_members();
        }
    }

    fn tend_members(&mut self) {
        let roster = &self.agreed.roster;
        for member in self.duties.take_introduced() {
            let known = roster.members.get(&member.id) == Some(&member);
            if !known && !roster.removed.contains(&member.id) {
                self.give_own(What::Introduce(member));
                // One at a time: the roster is looked at anew before the next.
                return;
            }
        }
        let Some(node) = &mut self.node else { return };
        match duties::next_change(&node.raft, node.store().configuration(), roster) {
            None => {}
            Some(duties::Change::HandOver(heir)) => node.transfer_leader(heir),
            Some(duties::Change::Configuration(change)) => {
                let context = duties::encode_change(&change);
                // While another change is under way it is not taken; it will be thought of again.
                let _ = node.propose_conf_change(context, change);
            }
        }
    }

    /// A leader's own request. Whether the log took it.
    fn give_own(&mut self, what: What) -> bool {
        self.give_to_log(Request { origin: 0, number: 0, at: 0, what })
    }

    /// Gives a request to the log, with the time. Only a leader does. Whether the log took it.
    fn give_to_log(&mut self, mut request: Request) -> bool {
        let from_client = request.origin != 0;
        let acted = R::ACT_ONCE && from_client && self.agreed.has_acted(request.origin, request.number);
        let Some(node) = &mut self.node else { return false };
        if acted || (from_client && !self.agreed.roster.formed) {
            return false;
        }
        request.at = self.reading.as_nanos();
        // Refused while too much is uncommitted or another one is to lead; whoever asked asks again.
        node.propose(Vec::new(), request.encode()).is_ok()
    }

    /// Gives the open proposals to whoever leads now.
    fn give_pending(&mut self, now: Instant) {
        let Some(node) = &self.node else { return };
        let (term, leader) = (node.raft.term, node.raft.leader_id);
        let again = now >= self.again_at;
        if again {
            self.again_at = now + self.config.tick * AGAIN_TICKS;
        }
        if leader == raft::INVALID_ID || !(again || self.ungiven || self.given_to != (term, leader)) {
            return;
        }
        (self.ungiven, self.given_to) = (false, (term, leader));
        let pause = self.config.tick * AGAIN_TICKS;
        let mut give = Vec::new();
        for proposal in self.pending.iter_mut() {
            let fresh = proposal.given.is_some_and(|(t, l, at)| (t, l) == (term, leader) && now.since(at) < pause);
            if !fresh {
                proposal.given = Some((term, leader, now));
                give.push(proposal.request.clone());
            }
        }
        for request in give {
            if leader == self.member.id {
                self.give_to_log(request);
            } else {
                self.send(leader, Frame::Forward(request.encode()));
            }
        }
    }

    /// Asks a majority, by way of the leader, on behalf of all reads that wait.
    fn ask_reads(&mut self) {
        let Some(node) = &mut self.node else { return };
        if self.reads.waiting.is_empty() || node.raft.leader_id == raft::INVALID_ID {
            return;
        }
        let waiting = std::mem::take(&mut self.reads.waiting);
        if !R::CONFIRM_READS && node.raft.state == StateRole::Leader {
            self.outputs.extend(waiting.into_iter().map(|(ticket, _)| Output::Granted(ticket)));
            return;
        }
        let number = self.next_read;
        self.next_read += 1;
        let question = [self.member.id.to_le_bytes(), self.origin.to_le_bytes(), number.to_le_bytes()].concat();
        node.read_index(question);
        self.reads.asked.push_back(Question { number, asked_at: self.now, reads: waiting });
    }

    /// Gives up reads whose time is over, and asks anew for those that got no answer: questions get lost, and a leader
    /// that has committed nothing yet passes over them.
    fn deny_reads(&mut self, now: Instant) {
        let pause = self.config.tick * AGAIN_TICKS;
        let leaderless = self.node.as_ref().is_none_or(|node| node.raft.leader_id == raft::INVALID_ID);
        let asked = std::mem::take(&mut self.reads.asked);
        for question in asked {
            if leaderless || now.since(question.asked_at) >= pause {
                self.reads.waiting.extend(question.reads);
            } else {
                self.reads.asked.push_back(question);
            }
        }
        let (over, on): (Vec<_>, Vec<_>) = self.reads.waiting.drain(..).partition(|(_, until)| *until <= now);
        self.outputs.extend(over.into_iter().map(|(ticket, _)| Output::Denied(ticket)));
        self.reads.waiting = on;
    }

    /// Handles what Raft has ready, once; false if it has nothing.
    fn turn(&mut self, now: Instant) -> Result<bool, Failure> {
        let Some(node) = &mut self.node else { return Ok(false) };
        if !node.has_ready() {
            return Ok(false);
        }
        let mut ready = node.ready();
        let before = ready.take_messages();
        let after = ready.take_persisted_messages();
        let confirmed = ready.take_read_states();
        self.send_messages(now, before);
        if !R::SYNC_BEFORE_SEND {
            self.send_messages(now, after.clone());
        }
        if !ready.snapshot().is_empty() {
            self.install(&ready.snapshot().clone())?;
        }
        let Some(node) = &mut self.node else { return Ok(false) };
        let journal = node.mut_store();
        journal.append(ready.entries())?;
        if let Some(hard) = ready.hs() {
            journal.set_hard(hard.clone())?;
        }
        if ready.must_sync() && R::SYNC_BEFORE_SEND {
            journal.flush()?;
        }
        if R::SYNC_BEFORE_SEND {
            self.send_messages(now, after);
        }
        let committed = ready.take_committed_entries();
        self.apply(committed)?;
        let Some(node) = &mut self.node else { return Ok(false) };
        let mut light = node.advance(ready);
        if let Some(commit) = light.commit_index() {
            node.mut_store().set_commit(commit);
        }
        let (messages, committed) = (light.take_messages(), light.take_committed_entries());
        self.send_messages(now, messages);
        self.apply(committed)?;
        if let Some(node) = &mut self.node {
            node.advance_apply();
        }
        for state in confirmed {
            self.confirm(&state.request_ctx, state.index);
        }
        self.grant();
        self.draw();
        Ok(true)
    }

    fn confirm(&mut self, question: &[u8], index: u64) {
        let number = question.last_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        let place = self.reads.asked.iter().position(|question| Some(question.number) == number);
        if let Some(question) = place.and_then(|place| self.reads.asked.remove(place)) {
            self.reads.confirmed.entry(index).or_default().extend(question.reads.into_iter().map(|(ticket, _)| ticket));
        }
    }

    fn grant(&mut self) {
        while let Some(first) = self.reads.confirmed.first_entry().filter(|first| *first.key() <= self.applied) {
            self.outputs.extend(first.remove().into_iter().map(Output::Granted));
        }
    }

    fn send(&mut self, to: ReplicaId, frame: Frame) {
        self.outputs.push(Output::Send(to, frame));
    }

    fn send_messages(&mut self, now: Instant, messages: Vec<Message>) {
        for message in messages {
            let to = message.to;
            if message.msg_type == MessageType::MsgSnapshot {
                self.images_sent.insert(to, now + self.config.tick * IMAGE_TICKS);
            }
            self.send(to, Frame::Raft(Box::new(message)));
        }
    }

    fn install(&mut self, snapshot: &Snapshot) -> Result<(), Failure> {
        let Some(node) = &mut self.node else { return Ok(()) };
        node.mut_store().install::<R>(snapshot)?;
        self.applied = snapshot.get_metadata().index;
        let image = snapshot.data.clone();
        self.take_image(&image).map_err(|why| Failure::Entry { index: self.applied, why })?;
        // Those of its own that acted before the image: with what answer, nobody here knows any more.
        let acted = |number: &u64| self.agreed.has_acted(self.origin, *number);
        let lost: Vec<u64> = self.pending.numbers().filter(acted).collect();
        for number in lost {
            self.pending.take(number);
            self.outputs.push(Output::Expired(number));
        }
        Ok(())
    }

    fn take_image(&mut self, image: &[u8]) -> Result<(), String> {
        let (agreed, machine) = Agreed::split(image)?;
        self.machine.become_image(machine)?;
        self.agreed = agreed;
        self.reading = self.agreed.clock();
        if !R::WHOLE_IMAGES {
            self.machine.apply(self.agreed.clock(), Command::GiveTime);
        }
        Ok(())
    }

    fn keep_image(&mut self) -> Result<(), Failure> {
        let image = self.image();
        let applied = self.applied;
        match &mut self.node {
            Some(node) => node.mut_store().keep_image(applied, image),
            None => Ok(()),
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), Failure> {
        for entry in entries {
            assert_eq!(entry.index, self.applied + 1, "entries act in order, each once");
            self.applied = entry.index;
            match entry.entry_type {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => self.act(&entry)?,
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.reconfigure(&entry)?,
            }
        }
        Ok(())
    }

    fn act(&mut self, entry: &Entry) -> Result<(), Failure> {
        let index = entry.index;
        let request = Request::decode(&entry.data);
        let request = request.map_err(|error| Failure::Entry { index, why: error.to_string() })?;
        self.agreed.clock = self.agreed.clock.max(request.at);
        if R::CLOCK_WAITS || self.leads() {
            self.reading = self.reading.max(self.agreed.clock());
        }
        let Request { origin, number, what, .. } = request;
        if origin != 0 {
            if R::ACT_ONCE && self.agreed.has_acted(origin, number) {
                return Ok(());
            }
            self.agreed.note(origin, number, index);
        }
        let own_term = self.node.as_ref().is_some_and(|node| node.raft.term == entry.term);
        let answer = match what {
            What::Command(command) => {
                match *command {
                    Command::Tick => self.duties.ticked = 0,
                    Command::GiveTime if own_term => self.duties.time_given = entry.term,
                    _ => {}
                }
                self.machine.apply(self.agreed.clock(), *command)
            }
            What::Introduce(member) => {
                if !self.agreed.roster.removed.contains(&member.id) {
                    self.agreed.roster.members.insert(member.id, member);
                }
                Answer::Done
            }
            What::Remove(id) => {
                self.agreed.roster.removed.insert(id);
                Answer::Done
            }
        };
        if origin == self.origin && self.pending.take(number).is_some() {
            self.outputs.push(Output::Answered(number, answer));
        }
        Ok(())
    }

    fn reconfigure(&mut self, entry: &Entry) -> Result<(), Failure> {
        let index = entry.index;
        let change: ConfChangeV2 =
            duties::decode_change(&entry.context).map_err(|why| Failure::Entry { index, why })?;
        let Some(node) = &mut self.node else { return Ok(()) };
        let before = node.store().configuration().clone();
        // A change that does not fit what is in force is refused alike by all, and changes nothing.
        let Ok(after) = node.apply_conf_change(&change) else { return Ok(()) };
        node.mut_store().set_configuration(after.clone());
        let gone: Vec<u64> = duties::everybody(&before).difference(&duties::everybody(&after)).copied().collect();
        let roster = &mut self.agreed.roster;
        for id in gone {
            roster.members.remove(&id);
            roster.removed.insert(id);
        }
        roster.formed |= after.voters.len() >= roster.expected;
        self.ungiven = true;
        self.note_own_place(&after);
        // Who votes must not be forgotten in a crash: a founder would believe to be alone again.
        if R::KEEP_CONFIGURATION { self.keep_image() } else { Ok(()) }
    }

    fn note_own_place(&mut self, configuration: &ConfState) {
        self.removed |= self.agreed.roster.removed.contains(&self.member.id)
            && !duties::everybody(configuration).contains(&self.member.id);
    }
}
