//! Machines, wires and faults.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use consensus::{Config, Frame, Input, Journal, Member, Output, Replica, Role, Rules};
use registry::{Answer, Command, Registry};
use stdx::{Instant, Prng};
use store::SimDisk;

use crate::clients::{self, Errand};
use crate::judge::Judge;

/// How long faults are injected, and how long the replicas then have to recover.
const TROUBLE: Duration = Duration::from_secs(40);
const RECOVERY: Duration = Duration::from_secs(30);
/// Longer than any message travels.
const UNKNOWN: Duration = Duration::from_secs(2);

struct Machine<R: Rules> {
    name: String,
    log: SimDisk,
    files: SimDisk,
    replica: Option<Replica<Registry, R>>,
    /// The identity of the replica that runs here.
    id: u64,
    /// Counts its starts: what was meant for an earlier one is lost.
    life: u64,
    /// Open errands, by proposal or ticket.
    proposals: BTreeMap<u64, Errand>,
    reads: BTreeMap<u64, Errand>,
    wakes_at: Instant,
    /// How much it had applied when it was last looked at.
    looked: u64,
}

enum Event {
    Deliver {
        from: u64,
        to: usize,
        life: u64,
        bytes: Vec<u8>,
    },
    Link {
        to: usize,
        life: u64,
        peer: u64,
        name: String,
        up: bool,
    },
    Wake {
        machine: usize,
        life: u64,
    },
    Start(usize),
    Client,
    /// A rival gives the lock back, or finds out whether it has it.
    Release(u64),
    Renew,
    Fault,
    /// The replica with this identity is to be taken out of its machine, and another one to begin there.
    Retire(usize, u64),
    Heal,
    Calm,
}

pub struct World<R: Rules> {
    prng: Prng,
    now: Instant,
    sequence: u64,
    events: BTreeMap<(Instant, u64), Event>,
    machines: Vec<Machine<R>>,
    config: Config,
    /// Pairs of machines between which nothing gets through.
    cut: BTreeSet<(usize, usize)>,
    loss: f64,
    calm: bool,
    judge: Judge,
    /// Until when a key is left alone, because a write of unknown fate may still be under way.
    quiet: BTreeMap<u64, Instant>,
    next_value: u64,
    next_ticket: u64,
    set_up: usize,
    answered: u64,
    log: DefaultHasher,
}

impl<R: Rules> World<R> {
    pub fn new(seed: u64) -> World<R> {
        let mut prng = Prng::from_seed(seed);
        let count = [2, 3, 3, 3, 3, 3, 5, 5][prng.index(8)];
        let names: Vec<String> = (1..=count).map(|number| format!("d{number}")).collect();
        let mut config = Config::new(names.clone());
        config.segment_bytes = 64 * 1024;
        config.image_entries = 20 + prng.below(200);
        config.keep_entries = prng.below(30);
        let machines = names.into_iter().map(|name| Machine {
            name,
            log: SimDisk::new(prng.next_u64()),
            files: SimDisk::new(prng.next_u64()),
            replica: None,
            id: 0,
            life: 0,
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            wakes_at: Instant::ZERO,
            looked: 0,
        });
        let machines = machines.collect();
        let loss = [0.0, 0.01, 0.1][prng.index(3)];
        World {
            prng,
            now: Instant::ZERO,
            sequence: 0,
            events: BTreeMap::new(),
            machines,
            config,
            cut: BTreeSet::new(),
            loss,
            calm: false,
            judge: Judge::default(),
            quiet: BTreeMap::new(),
            next_value: 1,
            next_ticket: 1,
            set_up: 0,
            answered: 0,
            log: DefaultHasher::new(),
        }
    }

    /// Runs to the end; what it came to in a few words, or what did not hold.
    pub fn run(mut self) -> Result<String, String> {
        for machine in 0..self.machines.len() {
            self.after_ms(20, Event::Start(machine));
        }
        self.at(Duration::from_millis(5), Event::Client);
        self.at(clients::RENEW_EVERY, Event::Renew);
        self.at(Duration::from_secs(6), Event::Fault);
        self.at(TROUBLE, Event::Calm);
        let end = Instant::ZERO + TROUBLE + RECOVERY;
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > end {
                break;
            }
            self.now = at;
            self.happen(event).map_err(|why| format!("at {}: {why}", self.now))?;
        }
        self.judge_end()?;
        Ok(format!("{:x} answered {}", self.log.finish(), self.answered))
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Deliver { from, to, life, bytes } => {
                (self.now.as_nanos(), from, &bytes).hash(&mut self.log);
                let frame = Frame::decode(&bytes).map_err(|error| error.to_string())?;
                self.give(to, life, Input::Frame(from, frame))
            }
            Event::Link { to, life, peer, name, up } => {
                let input = if up { Input::Up(peer, name) } else { Input::Down(peer) };
                self.give(to, life, input)
            }
            Event::Wake { machine, life } => {
                if self.machines[machine].life == life {
                    self.settle(machine)
                } else {
                    Ok(())
                }
            }
            Event::Start(machine) => self.start(machine),
            Event::Client => self.client(),
            Event::Release(rival) => self.release(rival),
            Event::Renew => self.renew(),
            Event::Fault => self.fault(),
            Event::Retire(at, id) => self.retire(at, id),
            Event::Heal => {
                self.cut.clear();
                Ok(())
            }
            Event::Calm => self.be_calm(),
        }
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + after, self.sequence), event);
    }

    fn after_ms(&mut self, most: u64, event: Event) {
        let after = Duration::from_micros(self.prng.below(most * 1_000) + 100);
        self.at(after, event);
    }

    fn running(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|machine| self.machines[*machine].replica.is_some()).collect()
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn start(&mut self, at: usize) -> Result<(), String> {
        if self.machines[at].replica.is_some() {
            return Ok(());
        }
        let machine = &mut self.machines[at];
        let mut prng = self.prng.fork();
        let (log, files) = (machine.log.clone(), machine.files.clone());
        let journal = Journal::open::<R>(log, files, &self.config, &mut prng);
        let journal =
            journal.map_err(|error| format!("{} does not start: {}", machine.name, stdx::error_chain(&error)))?;
        machine.id = journal.id();
        machine.life += 1;
        machine.looked = 0;
        let member = Member { id: 0, name: machine.name.clone(), peer: machine.name.clone(), http: String::new() };
        let replica = Replica::open(journal, Registry::new(), self.config.clone(), member, prng, self.now);
        machine.replica = Some(replica.map_err(|error| stdx::error_chain(&error))?);
        for other in self.running().into_iter().filter(|other| *other != at) {
            self.link(at, other, true);
            self.link(other, at, true);
        }
        self.settle(at)
    }

    /// Tells `to` that there is, or is no more, a connection with `peer`.
    fn link(&mut self, to: usize, peer: usize, up: bool) {
        let (life, id, name) = (self.machines[to].life, self.machines[peer].id, self.machines[peer].name.clone());
        self.after_ms(5, Event::Link { to, life, peer: id, name, up });
    }

    fn crash(&mut self, at: usize) {
        for other in self.running().into_iter().filter(|other| *other != at) {
            // Through a cut no connection is seen to break.
            if !self.is_cut(at, other) {
                self.link(other, at, false);
            }
        }
        let machine = &mut self.machines[at];
        machine.replica = None;
        machine.life += 1;
        machine.log.crash();
        machine.files.crash();
        machine.reads.clear();
        let lost = std::mem::take(&mut machine.proposals);
        for errand in lost.into_values() {
            self.unknown(errand);
        }
    }

    fn give(&mut self, at: usize, life: u64, input: Input) -> Result<(), String> {
        if self.machines[at].life != life {
            return Ok(());
        }
        let now = self.now;
        if let Some(replica) = &mut self.machines[at].replica {
            replica.handle(now, input);
        }
        self.settle(at)
    }

    fn settle(&mut self, at: usize) -> Result<(), String> {
        let now = self.now;
        let machine = &mut self.machines[at];
        let Some(replica) = &mut machine.replica else { return Ok(()) };
        let outputs = replica.settle(now).map_err(|error| stdx::error_chain(&error))?;
        let wakes_at = replica.next_timeout();
        if wakes_at != machine.wakes_at {
            machine.wakes_at = wakes_at;
            let life = machine.life;
            self.at(wakes_at.since(now), Event::Wake { machine: at, life });
        }
        for output in outputs {
            self.put_out(at, output)?;
        }
        let machine = &mut self.machines[at];
        let Some(replica) = &machine.replica else { return Ok(()) };
        let status = replica.status();
        self.judge.look_at_role(&status)?;
        // The image is long: it is looked at when something has acted, or the replica is another one.
        if status.applied == machine.looked {
            return Ok(());
        }
        machine.looked = status.applied;
        self.judge.look_at_state(&status, replica.machine(), &replica.image())
    }

    fn put_out(&mut self, at: usize, output: Output) -> Result<(), String> {
        match output {
            Output::Send(to, frame) => {
                self.send(at, to, &frame);
                Ok(())
            }
            Output::Answered(number, answer) => match self.machines[at].proposals.remove(&number) {
                Some(errand) => self.answered(errand, &answer),
                None => Ok(()),
            },
            Output::Expired(number) => {
                if let Some(errand) = self.machines[at].proposals.remove(&number) {
                    self.unknown(errand);
                }
                Ok(())
            }
            Output::Granted(ticket) => {
                let machine = &mut self.machines[at];
                let errand = machine.reads.remove(&ticket);
                let (Some(Errand::Read { key, least }), Some(replica)) = (errand, &machine.replica) else {
                    return Ok(());
                };
                self.answered += 1;
                let value = clients::value_of(replica.machine(), key);
                self.judge.judge_read(key, least, value)
            }
            Output::Denied(ticket) => {
                self.machines[at].reads.remove(&ticket);
                Ok(())
            }
        }
    }

    fn send(&mut self, from: usize, to: u64, frame: &Frame) {
        let Some(target) = (0..self.machines.len()).find(|machine| self.machines[*machine].id == to) else { return };
        if self.machines[target].replica.is_none() || self.is_cut(from, target) || self.prng.chance(self.loss) {
            return;
        }
        let (life, id) = (self.machines[target].life, self.machines[from].id);
        let most = if self.prng.one_in(50) { 400 } else { 3 };
        self.after_ms(most, Event::Deliver { from: id, to: target, life, bytes: frame.encode() });
    }

    fn propose(&mut self, at: usize, command: Command, errand: Errand) -> Result<(), String> {
        let now = self.now;
        let machine = &mut self.machines[at];
        if let Some(Ok(number)) = machine.replica.as_mut().map(|replica| replica.propose(now, command)) {
            machine.proposals.insert(number, errand);
        }
        self.settle(at)
    }

    fn answered(&mut self, errand: Errand, answer: &Answer) -> Result<(), String> {
        self.answered += 1;
        match errand {
            Errand::Setup => self.set_up += 1,
            Errand::Write { key, value } => {
                let seen = self.judge.seen.entry(key).or_default();
                *seen = value.max(*seen);
            }
            Errand::Take { rival } if *answer == Answer::Done => {
                if let Some(other) = self.judge.holder.replace(rival) {
                    return Err(format!("{rival} got the lock that {other} holds"));
                }
                self.after_ms(500, Event::Release(rival));
            }
            Errand::Take { .. } | Errand::Give { .. } | Errand::Renew | Errand::Read { .. } => {}
        }
        Ok(())
    }

    /// Nobody knows what became of it.
    fn unknown(&mut self, errand: Errand) {
        match errand {
            Errand::Setup => self.set_up = 0,
            Errand::Write { key, .. } => {
                self.quiet.insert(key, self.now + UNKNOWN);
            }
            Errand::Take { rival } | Errand::Give { rival, .. } => self.at(UNKNOWN, Event::Release(rival)),
            Errand::Read { .. } | Errand::Renew => {}
        }
    }

    fn client(&mut self) -> Result<(), String> {
        let pause = 5 + self.prng.below(40);
        self.at(Duration::from_millis(pause), Event::Client);
        let running = self.running();
        if running.is_empty() {
            return Ok(());
        }
        let at = running[self.prng.index(running.len())];
        let key = self.prng.below(clients::KEYS);
        if self.prng.one_in(2) {
            let least = self.judge.seen.get(&key).copied().unwrap_or(0);
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            let machine = &mut self.machines[at];
            machine.reads.insert(ticket, Errand::Read { key, least });
            let life = machine.life;
            return self.give(at, life, Input::Read(ticket));
        }
        if self.prng.one_in(5) {
            let rival = self.next_value;
            self.next_value += 1;
            return self.propose(at, clients::take(rival), Errand::Take { rival });
        }
        if self.quiet.get(&key).is_some_and(|until| *until > self.now) {
            return Ok(());
        }
        let busy = |errand: &Errand| matches!(errand, Errand::Write { key: held, .. } if *held == key);
        if self.machines.iter().any(|machine| machine.proposals.values().any(busy)) {
            return Ok(());
        }
        let value = self.next_value;
        self.next_value += 1;
        self.judge.tried.insert(key, value);
        self.propose(at, clients::write(key, value), Errand::Write { key, value })
    }

    /// A rival that has the lock, or may have it, gives it back. It says so before it does.
    fn release(&mut self, rival: u64) -> Result<(), String> {
        if self.judge.holder == Some(rival) {
            self.judge.holder = None;
        }
        let running = self.running();
        if running.is_empty() {
            self.at(UNKNOWN, Event::Release(rival));
            return Ok(());
        }
        let at = running[self.prng.index(running.len())];
        let held = self.machines[at].replica.as_ref().and_then(|replica| replica.machine().kv(clients::LOCK));
        let own = held.filter(|entry| entry.value == rival.to_string().into_bytes());
        match own.map(|entry| entry.modify_index) {
            Some(index) => self.propose(at, clients::give(index), Errand::Give { rival, index }),
            // This replica may not have heard of it yet.
            None if self.prng.one_in(2) => {
                self.at(UNKNOWN, Event::Release(rival));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The check's owner renews it wherever somebody listens.
    fn renew(&mut self) -> Result<(), String> {
        self.at(clients::RENEW_EVERY, Event::Renew);
        for at in self.running() {
            if self.set_up < 2 {
                for command in clients::setup() {
                    self.propose(at, command, Errand::Setup)?;
                }
            }
            self.propose(at, clients::renew(), Errand::Renew)?;
        }
        Ok(())
    }

    fn fault(&mut self) -> Result<(), String> {
        if self.calm {
            return Ok(());
        }
        let pause = 300 + self.prng.below(5_000);
        self.at(Duration::from_millis(pause), Event::Fault);
        let running = self.running();
        if running.is_empty() {
            return Ok(());
        }
        let at = running[self.prng.index(running.len())];
        match self.prng.below(9) {
            0..=2 => self.crash_for_a_while(at),
            3 => {
                for machine in running {
                    self.crash_for_a_while(machine);
                }
            }
            4 => self.lose_disk(at),
            5 if self.is_whole() => return self.retire(at, self.machines[at].id),
            6 => {
                let life = self.machines[at].life;
                return self.give(at, life, Input::Leave);
            }
            _ => self.cut_off(),
        }
        Ok(())
    }

    fn crash_for_a_while(&mut self, at: usize) {
        self.crash(at);
        let pause = 50 + self.prng.below(6_000);
        self.at(Duration::from_millis(pause), Event::Start(at));
    }

    /// Whether every replica is well and votes.
    fn is_whole(&self) -> bool {
        let ids: BTreeSet<u64> = self.machines.iter().map(|machine| machine.id).collect();
        let statuses = self.machines.iter().filter_map(|machine| machine.replica.as_ref().map(Replica::status));
        let whole = statuses
            .filter(|status| status.voters.iter().copied().collect::<BTreeSet<_>>() == ids && status.roster.formed);
        whole.count() == self.machines.len() && self.cut.is_empty()
    }

    /// A disk is lost only while all is whole, and one of two never: more is not promised.
    fn lose_disk(&mut self, at: usize) {
        if self.machines.len() > 2 && self.is_whole() {
            self.replace(at);
        }
    }

    /// The machine's replica ends without a trace, and another one begins there.
    fn replace(&mut self, at: usize) {
        self.crash(at);
        let seeds = (self.prng.next_u64(), self.prng.next_u64());
        let machine = &mut self.machines[at];
        (machine.log, machine.files) = (SimDisk::new(seeds.0), SimDisk::new(seeds.1));
        self.after_ms(2_000, Event::Start(at));
    }

    /// Asks again and again, whoever runs, to take a replica out; once somebody says that it is gone, its disk goes
    /// too.
    fn retire(&mut self, at: usize, id: u64) -> Result<(), String> {
        if self.machines[at].id != id {
            return Ok(());
        }
        let others: Vec<usize> = self.running().into_iter().filter(|other| *other != at).collect();
        let statuses = others.iter().filter_map(|other| self.machines[*other].replica.as_ref().map(Replica::status));
        let mut votes = statuses.filter(|status| !status.voters.is_empty()).map(|status| status.voters.contains(&id));
        let (now, is_gone) = (self.now, votes.any(|votes| !votes));
        if is_gone {
            self.replace(at);
            return Ok(());
        }
        self.at(Duration::from_millis(500), Event::Retire(at, id));
        let Some(asked) = others.first().copied() else { return Ok(()) };
        if let Some(replica) = &mut self.machines[asked].replica {
            // What became of it is seen by its effect.
            let _ = replica.propose_removal(now, id);
        }
        self.settle(asked)
    }

    fn cut_off(&mut self) {
        let one = self.prng.index(self.machines.len());
        for other in (0..self.machines.len()).filter(|other| *other != one) {
            if self.prng.chance(0.8) {
                self.cut.insert((one.min(other), one.max(other)));
            }
        }
        let pause = 200 + self.prng.below(6_000);
        self.at(Duration::from_millis(pause), Event::Heal);
    }

    fn be_calm(&mut self) -> Result<(), String> {
        (self.calm, self.loss) = (true, 0.0);
        self.cut.clear();
        for at in 0..self.machines.len() {
            self.after_ms(100, Event::Start(at));
        }
        Ok(())
    }

    /// Once the faults have stopped, all is well again: one leads, all vote, all are equal, everything is there.
    fn judge_end(&mut self) -> Result<(), String> {
        let statuses: Vec<_> =
            self.machines.iter().filter_map(|machine| Some(machine.replica.as_ref()?.status())).collect();
        let leaders = statuses.iter().filter(|status| status.role == Role::Leader).count();
        let ids: BTreeSet<u64> = self.machines.iter().map(|machine| machine.id).collect();
        let all_vote = |voters: &[u64]| voters.iter().copied().collect::<BTreeSet<_>>() == ids;
        if leaders != 1 || statuses.len() != ids.len() || !statuses.iter().all(|status| all_vote(&status.voters)) {
            return Err(format!("the replicas did not recover: {statuses:#?}"));
        }
        for machine in &self.machines {
            let Some(replica) = &machine.replica else { continue };
            for (key, seen) in &self.judge.seen {
                let value = clients::value_of(replica.machine(), *key);
                let behind = statuses.iter().map(|status| status.applied).max() > Some(replica.status().applied);
                if value < *seen && !behind {
                    return Err(format!("key {key} is {value} at the end, after {seen} had been seen"));
                }
            }
        }
        if self.set_up < 2 || self.answered < 100 {
            return Err(format!("only {} requests were answered", self.answered));
        }
        Ok(())
    }
}
