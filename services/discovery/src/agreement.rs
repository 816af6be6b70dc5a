//! The thread that a replica lives on: it takes what happened, lets the replica settle, and does what comes out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};

use consensus::{
    Config, Failure, Frame, Input, Journal, Member, NotTaken, OpenError, Output, Replica, Role, Roster, Sound, Status,
};
use registry::{Answer, Command, NodeDefinition};
use stdx::{Instant, Prng};
use tokio::sync::{oneshot, watch};

use crate::host::{NODE, Seen};
use crate::peers::Links;
use crate::shown::{Machine, Shown};

/// What is taken at most before the replica settles: one sync serves all of it.
const BATCH: usize = 1_024;

/// Why there is no answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotDone {
    /// It was not taken; nothing was done.
    NotTaken(NotTaken),
    /// No answer in time: it may have been done or not.
    Unknown,
}

type Answered = oneshot::Sender<Result<Answer, NotDone>>;

/// What the thread is given to do.
#[derive(Debug)]
pub(crate) enum Job {
    Propose(Box<Command>, Answered),
    Remove(u64, Answered),
    /// Answered with true once a majority has confirmed that the copy here misses nothing.
    Read(oneshot::Sender<bool>),
    Frame(u64, Frame),
    Up(u64, String),
    Down(u64),
    Leave,
    Stop,
}

/// The replica, before its thread runs.
pub(crate) struct Agreement {
    replica: Replica<Machine, Sound>,
    shown: Arc<Shown>,
    jobs: Receiver<Job>,
    status: watch::Sender<Seen>,
    started: std::time::Instant,
    own_address: Option<NodeDefinition>,
    proposals: BTreeMap<u64, Answered>,
    reads: BTreeMap<u64, oneshot::Sender<bool>>,
    next_ticket: u64,
    /// The term in which this one, leading, has looked after the node's address.
    tended: u64,
    /// The members that are dialled.
    dialled: Roster,
}

/// The thread. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Running {
    jobs: Sender<Job>,
    thread: Option<JoinHandle<()>>,
}

impl Agreement {
    /// The replica that goes on from `journal`, or begins with what `shown` holds.
    pub(crate) fn new(
        journal: Journal,
        shown: Arc<Shown>,
        config: Config,
        member: Member,
        prng: Prng,
        own_address: Option<NodeDefinition>,
    ) -> Result<(Agreement, Sender<Job>, watch::Receiver<Seen>), OpenError> {
        let started = std::time::Instant::now();
        let machine = Machine(Arc::clone(&shown));
        let mut replica = Replica::open(journal, machine, config, member, prng, Instant::ZERO)?;
        // One that is alone leads before anybody can ask. What others would have to be sent may get lost at any time.
        let settled = replica.settle(Instant::ZERO);
        settled.map_err(|failure| OpenError::Raft(stdx::error_chain(&failure)))?;
        let (sender, jobs) = channel();
        let (status, seen) = watch::channel(Seen { status: replica.status(), heard: started });
        let agreement = Agreement {
            replica,
            shown,
            jobs,
            status,
            started,
            own_address,
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            next_ticket: 1,
            tended: 0,
            dialled: Roster::default(),
        };
        Ok((agreement, sender, seen))
    }

    /// Starts the thread. `failed` is told, at most once, why it ended by itself.
    pub(crate) fn start(
        mut self,
        links: Links,
        jobs: Sender<Job>,
        failed: impl FnOnce(String) + Send + 'static,
    ) -> std::io::Result<Running> {
        let thread = thread::Builder::new().name("replica".to_owned()).spawn(move || {
            if let Err(failure) = self.run(&links) {
                let why = stdx::error_chain(&failure);
                tracing::error!(error = %why, "the replica cannot go on");
                failed(why);
            }
        })?;
        Ok(Running { jobs, thread: Some(thread) })
    }

    fn run(&mut self, links: &Links) -> Result<(), Failure> {
        loop {
            let wait = self.replica.next_timeout().since(self.now());
            let mut next = match self.jobs.recv_timeout(wait) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            let mut stop = false;
            for _ in 0..BATCH {
                let Some(job) = next.take().or_else(|| self.jobs.try_recv().ok()) else { break };
                stop |= matches!(job, Job::Stop);
                self.take(job);
            }
            let outputs = self.replica.settle(self.now())?;
            for output in outputs {
                self.put_out(output, links);
            }
            let status = self.replica.status();
            self.tend_address(&status);
            self.show_status(status, links);
            if stop {
                return Ok(());
            }
        }
    }

    fn take(&mut self, job: Job) {
        let now = self.now();
        match job {
            Job::Propose(command, answered) => {
                let number = self.replica.propose(now, *command);
                self.await_answer(number, answered);
            }
            Job::Remove(id, answered) => {
                let number = self.replica.propose_removal(now, id);
                self.await_answer(number, answered);
            }
            Job::Read(confirmed) => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.reads.insert(ticket, confirmed);
                self.replica.handle(now, Input::Read(ticket));
            }
            Job::Frame(from, frame) => self.replica.handle(now, Input::Frame(from, frame)),
            Job::Up(peer, name) => self.replica.handle(now, Input::Up(peer, name)),
            Job::Down(peer) => self.replica.handle(now, Input::Down(peer)),
            Job::Leave => self.replica.handle(now, Input::Leave),
            Job::Stop => {}
        }
    }

    fn await_answer(&mut self, taken: Result<u64, NotTaken>, answered: Answered) {
        match taken {
            Ok(number) => {
                self.proposals.insert(number, answered);
            }
            // Whoever asked may have gone away meanwhile.
            Err(why) => drop(answered.send(Err(NotDone::NotTaken(why)))),
        }
    }

    /// Whoever asked may have gone away meanwhile; then the answer is for nobody.
    fn put_out(&mut self, output: Output, links: &Links) {
        match output {
            Output::Send(to, frame) => links.send(to, &frame),
            Output::Answered(number, answer) => {
                if let Some(answered) = self.proposals.remove(&number) {
                    let _ = answered.send(Ok(answer));
                }
            }
            Output::Expired(number) => {
                if let Some(answered) = self.proposals.remove(&number) {
                    let _ = answered.send(Err(NotDone::Unknown));
                }
            }
            Output::Granted(ticket) => {
                if let Some(confirmed) = self.reads.remove(&ticket) {
                    let _ = confirmed.send(true);
                }
            }
            Output::Denied(ticket) => {
                if let Some(confirmed) = self.reads.remove(&ticket) {
                    let _ = confirmed.send(false);
                }
            }
        }
    }

    /// A discovery of one says anew where it listens; one of several keeps what it said when it began, so that no
    /// change of leader is a change for those who watch the node.
    fn tend_address(&mut self, status: &Status) {
        if status.role != Role::Leader || self.tended == status.term {
            return;
        }
        self.tended = status.term;
        let Some(own) = &self.own_address else { return };
        let known = self.shown.registry().node(NODE).map(|node| node.definition.clone());
        let id = known.as_ref().map_or_else(|| own.id.clone(), |known| known.id.clone());
        let wanted = NodeDefinition { id, ..own.clone() };
        if known.as_ref() != Some(&wanted) {
            // A leader begins with nothing open, so it is taken.
            let _ = self.replica.propose(self.now(), Command::RegisterNode(wanted));
        }
    }

    fn show_status(&mut self, status: Status, links: &Links) {
        if self.dialled != status.roster {
            links.set_members(&status.roster, status.id);
            self.dialled = status.roster.clone();
        }
        let heard = self.started + std::time::Duration::from_nanos(self.replica.heard().as_nanos());
        self.status.send_if_modified(|seen| {
            let same = seen.status == status;
            *seen = Seen { status, heard };
            !same
        });
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// All that was acknowledged is on the disk at any time; what is still open when the thread ends is answered as
/// unknown.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.jobs.send(Job::Stop);
        if let Some(thread) = self.thread.take() {
            // It only returns an error when it panicked, which has then been printed.
            let _ = thread.join();
        }
    }
}
