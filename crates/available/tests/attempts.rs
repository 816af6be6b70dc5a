//! Two attempts of one write at one home: what the first has done there alone is no answer to the second. And a write
//! whose answer was lost: whoever is told that it is done finds it from then on. And a report that comes late: it means
//! what it was asked about.

use available::{
    Action, Answer, Body, Change, Config, Effect, Effects, Input, Level, Message, Operation, Outbox, Outcome, Past,
    Replica, Rule, Seen, Shown, Write,
};
use bytes::Bytes;
use membership::{BucketId, ClusterId, Epoch, KeyHasher, Member, NodeId, Position, View};
use replication::{LogPosition, RegisterKey, RequestId, Ticket, Value};
use stdx::{Instant, Prng, TraceContext};

const WALL_MS: u64 = 1_700_000_000_000;
const FAR: Instant = Instant::from_millis(3_600_000);
/// Rounds of messages and beats after which nothing is left to be done.
const ROUNDS: usize = 200;

/// Three homes whose messages and syncs are under the test's hand.
struct Homes {
    replicas: Vec<Replica>,
    now: Instant,
    under_way: Vec<(usize, usize, Message)>,
    unsynced: [Option<LogPosition>; 3],
    answers: Vec<Answer>,
}

impl Homes {
    fn new(broken: Option<Rule>) -> Homes {
        let view = view();
        let replica = |id: u64| {
            let replica = Replica::new(NodeId(id), 1, view.clone(), b"s", Config::default(), Prng::from_seed(id));
            match broken {
                Some(rule) => replica.without(rule),
                None => replica,
            }
        };
        let replicas = (1..=3).map(replica).collect();
        let mut homes =
            Homes { replicas, now: Instant::ZERO, under_way: Vec::new(), unsynced: [None; 3], answers: Vec::new() };
        for at in 0..3 {
            let mut out = Outbox::default();
            homes.replicas[at].begin(homes.now, WALL_MS, &mut out);
            homes.carry_out(at, out.drain());
        }
        homes.settle();
        assert!(homes.replicas.iter().all(Replica::is_whole), "a new fleet is whole");
        homes
    }

    fn feed(&mut self, at: usize, input: Input) {
        let mut out = Outbox::default();
        self.replicas[at].handle(self.now, input, &mut out);
        self.carry_out(at, out.drain());
    }

    fn carry_out(&mut self, at: usize, effects: Effects) {
        self.unsynced[at] = effects.persist.last().map(|(position, _)| *position).or(self.unsynced[at]);
        let sent = effects.send.into_iter().map(|envelope| (at, envelope.to.0 as usize - 1, envelope.message));
        self.under_way.extend(sent);
        self.answers.extend(effects.answers);
    }

    fn sync(&mut self, at: usize) {
        if let Some(position) = self.unsynced[at].take() {
            self.feed(at, Input::Synced(position));
        }
    }

    /// Delivers those of the messages under way that `which` names by sender, receiver and body; all others are lost.
    fn deliver(&mut self, which: impl Fn(usize, usize, &Body) -> bool) {
        for (from, to, message) in std::mem::take(&mut self.under_way) {
            if which(from, to, &message.body) {
                let from = NodeId(from as u64 + 1);
                self.feed(to, Input::Message { from, message, context: TraceContext::NONE });
            }
        }
    }

    /// Everything arrives, is synced, and is due, for long.
    fn settle(&mut self) {
        for _ in 0..ROUNDS {
            self.deliver(|_, _, _| true);
            (0..3).for_each(|at| self.sync(at));
            self.now = self.replicas.iter().filter_map(Replica::next_timeout).min().expect("a beat is always due");
            (0..3).for_each(|at| self.feed(at, Input::Tick { wall_ms: WALL_MS }));
        }
    }

    fn ask(&mut self, at: usize, ticket: u64, write: &Write) {
        self.ask_after(at, ticket, Action::Write(write.clone()), Past::default());
    }

    fn ask_after(&mut self, at: usize, ticket: u64, action: Action, past: Past) {
        let operation = Operation { key: key(), level: Level::Causal, past, stand_in: false, action };
        let (ticket, context) = (Ticket(ticket), TraceContext::NONE);
        self.feed(at, Input::Operation { ticket, operation, deadline: FAR, wall_ms: WALL_MS, context });
    }

    /// The two attempts have met at the first home, which hears nobody any more. What was answered by then.
    fn attempts_meet(&mut self) -> Vec<Answer> {
        // The second and the third home have what the writer has seen; the first has not.
        self.ask(1, 1, &write(1, None));
        for _ in 0..ROUNDS {
            self.deliver(|from, to, _| from != 0 && to != 0);
            (1..3).for_each(|at| self.sync(at));
        }
        let seen = std::mem::take(&mut self.answers).pop().expect("two of three are a majority");
        let Outcome::Done { seen: Seen { context, .. }, .. } = seen.outcome else { panic!("{seen:?}") };
        let later = write(2, Some(context));
        self.under_way.clear();
        // Each attempt asks the others, and hears the second.
        [2, 3].into_iter().for_each(|ticket| self.ask(0, ticket, &later));
        self.deliver(|_, to, body| to == 1 && matches!(body, Body::Read { .. }));
        self.deliver(|from, to, body| (from, to) == (1, 0) && matches!(body, Body::Report { .. }));
        // What they reported is on disk, so both rounds end: then what the first attempt has stamped is.
        for _ in 0..2 {
            self.sync(0);
            self.under_way.clear();
        }
        std::mem::take(&mut self.answers)
    }
}

#[test]
fn a_retry_is_told_of_what_its_other_attempt_did_once_a_majority_has_that() {
    let mut homes = Homes::new(None);
    assert_eq!(homes.attempts_meet(), [], "nobody else has it yet");
    homes.settle();
    let done = |answer: &Answer| matches!(answer.outcome, Outcome::Done { .. });
    assert!(homes.answers.len() == 2 && homes.answers.iter().all(done), "{:?}", homes.answers);
    let entries = homes.replicas.iter().map(|replica| replica.table().get(&key()).expect("held").state.entries.len());
    assert_eq!(entries.collect::<Vec<_>>(), [1; 3], "it has acted once, in the place of what its writer had seen");
}

/// The planted bug does what once was done.
#[test]
fn an_attempt_that_is_not_settled_would_be_acknowledged() {
    let answers = Homes::new(Some(Rule::AttemptUnsettled)).attempts_meet();
    assert!(matches!(&answers[..], [Answer { outcome: Outcome::Done { .. }, .. }]), "{answers:?}");
}

/// What a session that has seen this much is shown by the third home: at once, if it answers alone.
fn read_at_the_third(homes: &mut Homes, past: &Past) -> Option<Outcome> {
    homes.ask_after(2, 9, Action::Read { kind: available::Kind::Value }, past.clone());
    homes.answers.pop().map(|answer| answer.outcome)
}

#[test]
fn who_is_told_that_a_write_is_done_finds_it_from_then_on_at_every_home() {
    let mut homes = Homes::new(None);
    // The first two homes have it on disk; the third has not heard of it, nor the client of that.
    homes.ask(0, 1, &write(1, None));
    for _ in 0..3 {
        homes.deliver(|_, to, _| to != 2);
        (0..2).for_each(|at| homes.sync(at));
    }
    homes.answers.clear();
    homes.ask_after(1, 2, Action::Outcome { request: RequestId(1) }, Past::default());
    for _ in 0..3 {
        homes.deliver(|from, to, _| from != 2 && to != 2);
        (0..2).for_each(|at| homes.sync(at));
    }
    let told = homes.answers.pop().expect("two of three are a majority").outcome;
    let Outcome::Remembered(Some((effect, seen))) = told else { panic!("{told:?}") };
    assert_eq!(
        (effect, seen.epoch, seen.context.requests.as_slice()),
        (Effect::Created, Epoch(1), &[RequestId(1)][..])
    );
    // Who was told nothing is answered by the third home alone, from before the write.
    let before = read_at_the_third(&mut homes, &Past::default());
    assert!(matches!(before, Some(Outcome::Read { shown: Shown::Nothing, .. })), "{before:?}");
    let mut session = available::Session::new(7);
    session.observe(1, &seen, true, false);
    assert_eq!(read_at_the_third(&mut homes, &session.past), None, "it has to ask the others");
    homes.settle();
    let after = homes.answers.pop().map(|answer| answer.outcome);
    assert!(
        matches!(&after, Some(Outcome::Read { shown: Shown::Values(values), .. }) if values.len() == 1),
        "{after:?}"
    );
    // What was told of it is no more than the write itself: what others wrote stays unseen.
    homes.ask(0, 3, &write(2, None));
    homes.settle();
    homes.answers.clear();
    homes.ask_after(0, 4, Action::Outcome { request: RequestId(1) }, Past::default());
    homes.settle();
    let told = homes.answers.pop().map(|answer| answer.outcome);
    let Some(Outcome::Remembered(Some((_, seen)))) = told else { panic!("{told:?}") };
    let state = &homes.replicas[0].table().get(&key()).expect("held").state;
    let of = |number: u128| state.request(RequestId(number)).expect("it is remembered").0;
    assert!(seen.context.covers(of(1)) && !seen.context.covers(of(2)), "{seen:?}");
}

/// The first home asks the others for a key, and is asked to write it while the second one's answer, that it holds the
/// same, is under way; the question was asked again by then. What is answered when that answer has come.
fn late_report(broken: Option<Rule>) -> Vec<Answer> {
    let mut homes = Homes::new(broken);
    homes.ask(0, 1, &write(1, None));
    homes.settle();
    homes.answers.clear();
    homes.under_way.clear();
    // It has seen what no home can vouch for alone.
    let past = Past { bound: 1 << 40, ..Past::default() };
    homes.ask_after(0, 2, Action::Read { kind: available::Kind::Value }, past);
    homes.deliver(|_, to, body| to == 1 && matches!(body, Body::Read { .. }));
    let late = std::mem::take(&mut homes.under_way);
    let says_same = |(from, to, message): &(usize, usize, Message)| {
        (*from, *to) == (1, 0) && matches!(message.body, Body::Report { state: None, .. })
    };
    assert!(late.iter().filter(|sent| says_same(sent)).count() == 1, "{late:?}");
    homes.ask(0, 3, &write(2, None));
    homes.sync(0);
    homes.now = Instant::from_millis(homes.now.as_millis() + 1_000);
    homes.feed(0, Input::Tick { wall_ms: WALL_MS });
    // Nothing else arrives: nobody but the first home has the second write.
    homes.under_way = late;
    homes.deliver(|from, to, body| (from, to) == (1, 0) && matches!(body, Body::Report { .. }));
    homes.under_way.clear();
    homes.sync(0);
    std::mem::take(&mut homes.answers)
}

#[test]
fn a_late_report_means_what_it_was_asked_about() {
    assert_eq!(late_report(None), [], "a majority has yet to hold what is shown");
}

/// The planted bug does what once was done.
#[test]
fn a_report_taken_for_another_would_show_what_one_home_has() {
    let answers = late_report(Some(Rule::ReportOfAnother));
    let [Answer { outcome: Outcome::Read { shown: Shown::Values(values), .. }, .. }] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert!(values.iter().any(|(_, value)| value.body == "2"), "{values:?}");
}

fn write(number: u64, context: Option<available::Context>) -> Write {
    let body = Bytes::from(number.to_string());
    Write {
        key: key(),
        kind: available::Kind::Value,
        request: RequestId(u128::from(number)),
        first_sent_ms: WALL_MS,
        context,
        order: 0,
        firm: false,
        change: Change::Put(Value { body, content_type: Bytes::new() }),
    }
}

fn key() -> RegisterKey {
    let key = Bytes::from_static(b"k");
    RegisterKey { position: KeyHasher::new(b"h").position(BucketId(1), &key), bucket: BucketId(1), key }
}

fn view() -> View {
    let mut view = View::forming(ClusterId(1), 3, 3, KeyHasher::new(b"h").fingerprint());
    for id in 1..=3 {
        let tokens = vec![Position(id << 62)];
        view.members.push(Member { id: NodeId(id), name: format!("n{id}"), zone: None, weight: 1, tokens });
    }
    view.epoch = Epoch(1);
    view.validate().expect("the view is sound");
    view
}
