use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::http::StatusCode;
use consensus::{NotTaken, Role, Status};
use registry::{Answer, Command, Registry, Watch};
use tokio::sync::{oneshot, watch};

use crate::access::AclConfig;
use crate::agreement::{Job, NotDone};
use crate::params::{Consistency, ReadOptions};
use crate::reply::Refused;
use crate::shown::{Shown, Waiter};

/// The name of the one node that services register with. It stands for all replicas: what is registered with one of
/// them can be renewed at any other.
pub(crate) const NODE: &str = "everring";
/// The one datacenter.
pub(crate) const DATACENTER: &str = "dc1";

/// What handlers see of a replica: its copy of the registry, those who wait for it, and the way to the others.
#[derive(Debug)]
pub(crate) struct Host {
    shown: Arc<Shown>,
    jobs: Sender<Job>,
    status: watch::Receiver<Seen>,
    closing: watch::Sender<bool>,
    /// Where the HTTP API listens.
    pub(crate) address: SocketAddr,
    /// How requests are held against the access lists.
    pub(crate) acl: AclConfig,
    failure: OnceLock<String>,
}

/// What the replica's thread said of itself last, and when.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) status: Status,
    /// When it last heard of the leader.
    pub(crate) heard: std::time::Instant,
}

impl Seen {
    pub(crate) fn leads(&self) -> bool {
        self.status.role == Role::Leader
    }
}

/// What a reader is told about how fresh the answer is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contact {
    pub(crate) known_leader: bool,
    pub(crate) last_contact_ms: u64,
}

impl Host {
    pub(crate) fn new(
        shown: Arc<Shown>,
        jobs: Sender<Job>,
        status: watch::Receiver<Seen>,
        address: SocketAddr,
        acl: AclConfig,
    ) -> Host {
        let (closing, failure) = (watch::channel(false).0, OnceLock::new());
        Host { shown, jobs, status, closing, address, acl, failure }
    }

    /// This replica's copy, as it is now.
    pub(crate) fn shown(&self) -> Arc<Registry> {
        self.shown.registry()
    }

    /// Looks at this replica's copy, as it is now.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&Registry) -> T) -> T {
        look(&self.shown())
    }

    /// Has the replicas agree on a command; its answer once it has acted here.
    ///
    /// # Errors
    /// 500 with a sentence: there was no leader, or no majority, in time.
    pub(crate) async fn propose(&self, command: Command) -> Result<Answer, Refused> {
        let (answer, answered) = oneshot::channel();
        self.tell(Job::Propose(Box::new(command), answer));
        self.outcome(answered.await.unwrap_or(Err(NotDone::Unknown)))
    }

    /// Has the replicas take one of them out for good.
    ///
    /// # Errors
    /// As [`Host::propose`].
    pub(crate) async fn remove(&self, replica: u64) -> Result<Answer, Refused> {
        let (answer, answered) = oneshot::channel();
        self.tell(Job::Remove(replica, answer));
        self.outcome(answered.await.unwrap_or(Err(NotDone::Unknown)))
    }

    fn outcome(&self, outcome: Result<Answer, NotDone>) -> Result<Answer, Refused> {
        let text = match outcome {
            Ok(answer) => return Ok(answer),
            Err(NotDone::NotTaken(why @ NotTaken::Busy)) => {
                return Err(Refused::new(StatusCode::TOO_MANY_REQUESTS, why.to_string()));
            }
            Err(NotDone::NotTaken(why @ NotTaken::TooLarge { .. })) => {
                return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, why.to_string()));
            }
            Err(NotDone::Unknown) if self.status().leader.is_none() => NO_LEADER.to_owned(),
            Err(NotDone::Unknown) => {
                "The replicas did not agree in time; the change may still be made, so read before trying again"
                    .to_owned()
            }
        };
        Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, text))
    }

    /// The registry to answer a read from. First a majority confirms that it misses nothing, unless `stale` will do;
    /// then, for a blocking query, the index of what it shows has moved on, its time is over, or discovery is stopping.
    ///
    /// An index from the future does not wait: the reader finds a smaller one and begins anew. Whoever asks again and
    /// again hears of a burst of changes together: a change ends no query that began less than [`COALESCED`] ago.
    ///
    /// # Errors
    /// 500 `No cluster leader`.
    pub(crate) async fn read(&self, subject: &Watch, options: &ReadOptions) -> Result<Arc<Registry>, Refused> {
        if options.consistency != Consistency::Stale {
            self.confirm().await?;
        }
        let mut closing = self.closing.subscribe();
        let begun = tokio::time::Instant::now();
        let deadline = begun + options.wait + jitter(options.wait);
        loop {
            let mut waiter = {
                // First the place in the queue, then the look: a change in between is not missed.
                let waiter = Waiter::new(&self.shown, subject);
                let registry = self.shown.registry();
                if options.index == 0 || *closing.borrow_and_update() {
                    return Ok(registry);
                }
                if registry.index_of(subject) != options.index {
                    break;
                }
                waiter
            };
            tokio::select! {
                () = waiter.told() => {}
                _ = closing.changed() => {}
                () = tokio::time::sleep_until(deadline) => return Ok(self.shown()),
            }
        }
        // One that began long ago is answered at once.
        tokio::select! {
            _ = closing.changed() => {}
            () = tokio::time::sleep_until(deadline.min(begun + COALESCED)) => {}
        }
        Ok(self.shown())
    }

    /// Waits for a majority's word that this replica sees everything that was acknowledged before.
    ///
    /// # Errors
    /// 500 `No cluster leader`.
    pub(crate) async fn confirm(&self) -> Result<(), Refused> {
        let (answer, confirmed) = oneshot::channel();
        self.tell(Job::Read(answer));
        match confirmed.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, NO_LEADER)),
        }
    }

    /// How fresh an answer from here is.
    pub(crate) fn contact(&self) -> Contact {
        let seen = self.status.borrow();
        let age = if seen.leads() { Duration::ZERO } else { seen.heard.elapsed() };
        Contact {
            known_leader: seen.status.leader.is_some(),
            last_contact_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// What the replica said of itself last.
    pub(crate) fn status(&self) -> Status {
        self.status.borrow().status.clone()
    }

    /// Whether this replica leads: what must be done once, by one of them, is done by this one.
    pub(crate) fn leads(&self) -> bool {
        self.status.borrow().leads()
    }

    /// Follows what the replica says of itself.
    pub(crate) fn statuses(&self) -> watch::Receiver<Seen> {
        self.status.clone()
    }

    /// Answers all blocking queries now, and from here on at once.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Has somebody else lead, if this one does.
    pub(crate) fn leave(&self) {
        self.tell(Job::Leave);
    }

    /// The replica cannot go on.
    pub(crate) fn fail(&self, why: String) {
        let _ = self.failure.set(why);
    }

    pub(crate) fn failure(&self) -> Option<&String> {
        self.failure.get()
    }

    /// How many kinds of things are waited for; for the metrics and tests.
    pub(crate) fn waiting_len(&self) -> usize {
        self.shown.waiting_len()
    }

    /// A thread that is gone has said why; whoever waits for its answer is told that there is none.
    fn tell(&self, job: Job) {
        let _ = self.jobs.send(job);
    }
}

/// The least time of a blocking query that ends by a change. What changes all the time would have its readers ask all
/// the time; a change after a quiet time is told at once.
const COALESCED: Duration = Duration::from_millis(50);

/// The words that Consul's clients look for.
const NO_LEADER: &str = "No cluster leader";

/// Up to a sixteenth of the wait, so that queries that began together do not end together.
fn jitter(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.0..=1.0 / 16.0))
}
