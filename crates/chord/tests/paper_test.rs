//! One test for each sentence of the papers that the ring relies on. "Zave" is "Reasoning about identifier spaces:
//! how to make Chord correct" (IEEE TSE 2017), cited by the name of the operation (join, stabilize, rectify, fail);
//! "Chord" is SIGCOMM 2001.

use std::time::Duration;

use chord::{Body, CallId, Chord, Config, Effects, Envelope, Event, Input, NextHop, Outbox, Peer};
use membership::{NodeId, Position};
use stdx::{Instant, Prng};

/// The member under test, at position 100, and the only clock there is.
struct Subject {
    chord: Chord,
    now: Instant,
}

fn peer(at: u64) -> Peer {
    Peer { position: Position(at), node: NodeId(at) }
}

fn peers(at: &[u64]) -> Vec<Peer> {
    at.iter().map(|at| peer(*at)).collect()
}

const ME: u64 = 100;

impl Subject {
    fn new() -> Subject {
        let config = Config { successors: 3, ..Config::default() };
        Subject { chord: Chord::new(peer(ME), config, Prng::from_seed(5)), now: Instant::ZERO }
    }

    /// A member with this list, in the middle of no round.
    fn member(list: &[u64]) -> Subject {
        let mut subject = Subject::new();
        subject.tell(Input::Join { contact: peer(list[0]) });
        let joining = subject.chord.clone();
        let mut subject = Subject { chord: joining, now: subject.now };
        // The question is open: find its number by asking the core to send it again.
        let call = subject.call_to(list[0], subject.now + Config::default().answer_timeout);
        let pull = subject.hear(list[0], Body::Found { call, successor: peer(list[0]), hops: 1 });
        let call = call_of(&pull);
        let rest = peers(&list[1..]);
        let round = subject.hear(list[0], Body::Pulled { call, predecessor: None, successors: rest.clone() });
        let call = call_of(&round);
        subject.hear(list[0], Body::Pulled { call, predecessor: None, successors: rest });
        assert!(subject.chord.is_member());
        assert_eq!(subject.list(), list);
        subject
    }

    fn tell(&mut self, input: Input) -> Effects {
        let mut out = Outbox::default();
        self.chord.handle(self.now, input, &mut out);
        out.drain()
    }

    fn hear(&mut self, from: u64, body: Body) -> Effects {
        self.tell(Input::Message(Envelope { from: peer(from), to: peer(ME), body }))
    }

    fn call_to(&mut self, to: u64, at: Instant) -> CallId {
        self.now = at;
        let sent = self.tell(Input::Tick).send;
        let envelope = sent.iter().find(|envelope| envelope.to == peer(to)).expect("the question is sent again");
        call_in(&envelope.body)
    }

    /// Lets time pass until the member begins a round of stabilize, and gives the number of its question.
    fn round(&mut self) -> CallId {
        for _ in 0..20 {
            self.now = self.chord.next_timeout().expect("a member always waits for something");
            let sent = self.tell(Input::Tick).send;
            if let Some(envelope) = sent.iter().find(|envelope| matches!(envelope.body, Body::Pull { .. })) {
                assert_eq!(envelope.to, self.chord.successors()[0], "a round begins at the head");
                return call_in(&envelope.body);
            }
        }
        panic!("no round of stabilize began");
    }

    /// Lets the time pass in which all attempts of the questions that are open go unanswered.
    fn silence(&mut self) -> Effects {
        let mut all = Effects::default();
        for _ in 0..Config::default().attempts {
            self.now = self.now + Config::default().answer_timeout;
            let effects = self.tell(Input::Tick);
            all.send.extend(effects.send);
            all.events.extend(effects.events);
        }
        all
    }

    fn list(&self) -> Vec<u64> {
        self.chord.successors().iter().map(|peer| peer.position.0).collect()
    }
}

fn call_in(body: &Body) -> CallId {
    match body {
        Body::Pull { call } | Body::Ping { call } | Body::FindSuccessor { call, .. } => *call,
        other => panic!("{other:?} is no question"),
    }
}

fn call_of(effects: &Effects) -> CallId {
    let mut questions = effects.send.iter().filter(|envelope| !matches!(envelope.body, Body::Notify));
    call_in(&questions.next_back().expect("something is asked").body)
}

fn sent(effects: &Effects) -> Vec<(u64, &Body)> {
    effects.send.iter().map(|envelope| (envelope.to.position.0, &envelope.body)).collect()
}

/// Zave, join: the newcomer looks up its successor, gets that one's list, and is a member only then.
#[test]
fn a_newcomer_is_no_member_before_its_successor_has_answered() {
    let mut subject = Subject::new();
    let asked = subject.tell(Input::Join { contact: peer(7) });
    let call = call_of(&asked);
    let target = Position(ME + 1);
    assert_eq!(sent(&asked), [(7, &Body::FindSuccessor { call, target, origin: peer(ME), hops: 0 })]);
    let pulling = subject.hear(9, Body::Found { call, successor: peer(120), hops: 2 });
    assert_eq!(sent(&pulling), [(120, &Body::Pull { call: call_of(&pulling) })]);
    assert!(subject.hear(50, Body::Pull { call: CallId(1) }).send.is_empty(), "not a member yet");
    assert!(subject.hear(50, Body::Ping { call: CallId(1) }).send.is_empty());
    let call = call_of(&pulling);
    let joined =
        subject.hear(120, Body::Pulled { call, predecessor: Some(peer(50)), successors: peers(&[130, 140, 150]) });
    assert!(joined.events.contains(&Event::Joined { successor: peer(120) }));
    assert_eq!(subject.list(), [120, 130, 140], "head + its list minus the last");
    assert_eq!(subject.hear(50, Body::Ping { call: CallId(1) }).send.len(), 1);
}

/// Zave, join: if the successor does not answer, the join is abandoned (here: begun anew).
#[test]
fn a_newcomer_does_not_adopt_a_dead_successor() {
    let mut subject = Subject::new();
    let asked = subject.tell(Input::Join { contact: peer(7) });
    subject.hear(7, Body::Found { call: call_of(&asked), successor: peer(120), hops: 1 });
    let effects = subject.silence();
    assert!(effects.events.contains(&Event::JoinUnanswered { tries: 1 }));
    assert!(!subject.chord.is_member());
    subject.tell(Input::Seeds(peers(&[ME, 200])));
    for _ in 0..20 {
        subject.now = subject.chord.next_timeout().expect("a newcomer tries on");
        let sent = subject.tell(Input::Tick).send;
        assert!(sent.iter().all(|envelope| envelope.to != peer(ME)), "never itself");
        if sent.iter().any(|envelope| envelope.to == peer(200)) {
            return;
        }
    }
    panic!("the seed was never asked");
}

/// Two that join at one place: the lookup of the second may be older than the membership of the first.
#[test]
fn a_newcomer_steps_back_to_whoever_came_in_between() {
    let mut subject = Subject::new();
    let asked = subject.tell(Input::Join { contact: peer(7) });
    let pulling = subject.hear(7, Body::Found { call: call_of(&asked), successor: peer(120), hops: 1 });
    let answer = Body::Pulled { call: call_of(&pulling), predecessor: Some(peer(110)), successors: peers(&[130]) };
    let nearer = subject.hear(120, answer);
    assert_eq!(sent(&nearer), [(110, &Body::Pull { call: call_of(&nearer) })]);
    // It is dead: back to the successor, which is asked anew.
    let again = subject.silence();
    let back = again.send.last().expect("the successor is asked again");
    assert_eq!(back.to, peer(120));
    let call = call_in(&back.body);
    subject.hear(120, Body::Pulled { call, predecessor: Some(peer(110)), successors: peers(&[130]) });
    assert_eq!(subject.list(), [120, 130]);
}

/// Zave, stabilize from successor: it answered, so it lives, and its list continues ours.
#[test]
fn stabilize_adopts_the_heads_list_and_notifies() {
    let mut subject = Subject::member(&[120, 130, 140]);
    let call = subject.round();
    let effects =
        subject.hear(120, Body::Pulled { call, predecessor: Some(peer(ME)), successors: peers(&[125, 130, 140]) });
    assert_eq!(subject.list(), [120, 125, 130]);
    assert_eq!(sent(&effects), [(120, &Body::Notify)]);
}

/// Zave, stabilize from predecessor: the better successor is adopted only when it has answered itself.
#[test]
fn a_better_successor_is_asked_before_it_is_adopted() {
    let mut subject = Subject::member(&[120, 130, 140]);
    let call = subject.round();
    let rest = peers(&[130, 140]);
    let answer = Body::Pulled { call, predecessor: Some(peer(110)), successors: rest };
    let asking = subject.hear(120, answer);
    assert_eq!(sent(&asking), [(110, &Body::Pull { call: call_of(&asking) })]);
    assert_eq!(subject.list(), [120, 130, 140], "not adopted yet");
    let effects = subject
        .hear(110, Body::Pulled { call: call_of(&asking), predecessor: None, successors: peers(&[120, 130, 140]) });
    assert_eq!(subject.list(), [110, 120, 130]);
    assert_eq!(sent(&effects), [(110, &Body::Notify)]);
}

/// The same, when the better successor is dead: the 2001 protocol adopts it, and that breaks rings.
#[test]
fn a_dead_better_successor_is_not_adopted() {
    let mut subject = Subject::member(&[120, 130, 140]);
    let call = subject.round();
    subject.hear(120, Body::Pulled { call, predecessor: Some(peer(110)), successors: peers(&[130, 140]) });
    let effects = subject.silence();
    assert_eq!(subject.list(), [120, 130, 140]);
    assert!(effects.send.iter().any(|envelope| envelope.to == peer(120) && envelope.body == Body::Notify));
}

/// Zave, stabilize: a dead successor is removed and the next one is asked in the same round; one silence is not
/// death, since a message may be lost.
#[test]
fn a_dead_head_is_dropped_after_all_attempts_and_no_sooner() {
    let mut subject = Subject::member(&[120, 130, 140]);
    subject.round();
    subject.now = subject.now + Config::default().answer_timeout;
    let again = subject.tell(Input::Tick);
    assert!(again.send.iter().any(|envelope| envelope.to == peer(120)), "asked a second time");
    assert_eq!(subject.list(), [120, 130, 140]);
    let effects = subject.silence();
    assert_eq!(subject.list(), [130, 140]);
    assert!(effects.events.contains(&Event::SuccessorDropped(peer(120))));
    assert!(effects.send.iter().any(|envelope| envelope.to == peer(130)), "the next is asked at once");
}

/// Zave, rectify: adopt who is nearer; else check that the old predecessor lives.
#[test]
fn rectify_takes_the_nearer_and_doubts_the_present_one() {
    let mut subject = Subject::member(&[120, 130, 140]);
    assert_eq!(subject.chord.predecessor(), None);
    subject.hear(80, Body::Notify);
    assert_eq!(subject.chord.predecessor(), Some(peer(80)), "anybody is better than nobody");
    subject.hear(90, Body::Notify);
    assert_eq!(subject.chord.predecessor(), Some(peer(90)), "90 is nearer");

    let doubt = subject.hear(70, Body::Notify);
    assert_eq!(sent(&doubt), [(90, &Body::Ping { call: call_of(&doubt) })]);
    subject.hear(90, Body::Pong { call: call_of(&doubt) });
    subject.silence();
    assert_eq!(subject.chord.predecessor(), Some(peer(90)), "it lives, so it stays");

    subject.hear(70, Body::Notify);
    subject.hear(75, Body::Notify);
    assert_eq!(subject.chord.predecessor(), Some(peer(90)));
    subject.silence();
    assert_eq!(subject.chord.predecessor(), Some(peer(75)), "it is dead; of those who claim its place, the nearest");
}

/// An answer counts once, from the one who was asked, and at the member that asked.
#[test]
fn late_forged_and_misrouted_messages_change_nothing() {
    let mut subject = Subject::member(&[120, 130, 140]);
    let call = subject.round();
    let lie = Body::Pulled { call, predecessor: Some(peer(101)), successors: peers(&[105]) };
    assert!(subject.hear(130, lie.clone()).send.is_empty(), "130 was not asked");
    subject.hear(120, Body::Pulled { call, predecessor: None, successors: peers(&[130, 140]) });
    assert!(subject.hear(120, lie).send.is_empty(), "the question is closed");
    let elsewhere = Envelope { from: peer(90), to: peer(99), body: Body::Notify };
    subject.tell(Input::Message(elsewhere));
    let other_node = Peer { node: NodeId(1), ..peer(ME) };
    subject.tell(Input::Message(Envelope { from: peer(90), to: other_node, body: Body::Notify }));
    assert_eq!(subject.chord.predecessor(), None);
    assert_eq!(subject.list(), [120, 130, 140]);
}

/// A broken connection ends the waiting, for this question; the peer may be asked again at any time.
#[test]
fn a_lost_connection_fails_open_questions_at_once_and_is_forgiven() {
    let mut subject = Subject::member(&[120, 130, 140]);
    subject.round();
    let effects = subject.tell(Input::PeerLost(NodeId(120)));
    assert_eq!(subject.list(), [130, 140]);
    let asked = call_of(&effects);
    assert_eq!(subject.chord.next_hop(Position(110)), NextHop::Owner(peer(130)));
    let back = Body::Pulled { call: asked, predecessor: Some(peer(120)), successors: peers(&[140]) };
    let asking = subject.hear(130, back);
    assert_eq!(sent(&asking), [(120, &Body::Pull { call: call_of(&asking) })], "it gets its chance");
    subject.hear(120, Body::Pulled { call: call_of(&asking), predecessor: None, successors: peers(&[130, 140]) });
    assert_eq!(subject.list(), [120, 130, 140]);
    subject.tell(Input::PeerLost(NodeId(120)));
    assert_eq!(subject.list(), [120, 130, 140], "no question was open: a hint proves nothing");
    assert_eq!(subject.chord.next_hop(Position(110)), NextHop::Owner(peer(130)), "but routes go round it");
    subject.hear(120, Body::Ping { call: CallId(1) });
    assert_eq!(subject.chord.next_hop(Position(110)), NextHop::Owner(peer(120)), "until it is heard from");
}

/// Chord 4.3: find_successor goes to the closest preceding node that is known, and ends at the successor.
#[test]
fn a_lookup_is_passed_on_to_the_closest_before_the_target() {
    let mut subject = Subject::member(&[120, 130, 140]);
    let find = |target: u64, origin: u64, hops| Body::FindSuccessor {
        call: CallId(9),
        target: Position(target),
        origin: peer(origin),
        hops,
    };
    let answer = subject.hear(50, find(115, 60, 3));
    assert_eq!(sent(&answer), [(60, &Body::Found { call: CallId(9), successor: peer(120), hops: 4 })]);
    let passed = subject.hear(50, find(135, 60, 3));
    assert_eq!(sent(&passed), [(130, &find(135, 60, 4))]);
    assert_eq!(sent(&subject.hear(50, find(20, 60, 0))), [(140, &find(20, 60, 1))], "the circle wraps");
    assert!(subject.hear(50, find(20, 60, 256)).send.is_empty(), "the hop limit ends a lookup that circles");
    let own = subject.hear(50, find(ME, 60, 0));
    assert_eq!(sent(&own), [(60, &Body::Found { call: CallId(9), successor: peer(ME), hops: 1 })]);
    // 120 died, comes back under its old identifier and asks for its place, while we still list it.
    let back = subject.hear(50, find(121, 120, 0));
    assert_eq!(sent(&back), [(120, &Body::Found { call: CallId(9), successor: peer(130), hops: 1 })]);
}

/// Chord 4.2: a key belongs to the first node at or after it, so `(predecessor, self]` is ours.
#[test]
fn the_arc_of_a_member_ends_at_it() {
    let mut subject = Subject::member(&[120, 130, 140]);
    subject.hear(80, Body::Notify);
    assert_eq!(subject.chord.next_hop(Position(ME)), NextHop::Owner(peer(ME)));
    assert_eq!(subject.chord.next_hop(Position(81)), NextHop::Owner(peer(ME)));
    assert_eq!(subject.chord.next_hop(Position(80)), NextHop::Ask(peer(140)));
    assert_eq!(subject.chord.next_hop(Position(ME + 1)), NextHop::Owner(peer(120)));
    assert_eq!(subject.chord.next_hop(Position(120)), NextHop::Owner(peer(120)));
}

/// Ours: a lone member that learns of others joins them without ceasing to be a member.
#[test]
fn a_lone_member_finds_the_others_through_seeds() {
    let mut subject = Subject::new();
    subject.tell(Input::Create);
    assert_eq!(subject.chord.next_hop(Position(5)), NextHop::Owner(peer(ME)));
    subject.tell(Input::Seeds(peers(&[ME, 200])));
    subject.now = Instant::ZERO + Duration::from_secs(1);
    let asked = subject.tell(Input::Tick);
    assert_eq!(asked.send[0].to, peer(200));
    let call = call_of(&asked);
    let asking = subject.hear(200, Body::Found { call, successor: peer(150), hops: 1 });
    assert_eq!(sent(&asking), [(150, &Body::Pull { call: call_of(&asking) })], "asked before it is adopted");
    subject.hear(150, Body::Pulled { call: call_of(&asking), predecessor: None, successors: peers(&[200, 150]) });
    assert_eq!(subject.list(), [150, 200]);
}

/// Ours: a seed that the list passes over is considered, so that two rings become one again.
#[test]
fn a_seed_before_the_head_is_considered() {
    let mut subject = Subject::member(&[120, 130, 140]);
    subject.tell(Input::Seeds(peers(&[115, 110, 60])));
    let call = subject.round();
    let answer = Body::Pulled { call, predecessor: Some(peer(ME)), successors: peers(&[130, 140]) };
    assert_eq!(sent(&subject.hear(120, answer.clone()))[0].0, 110);
    subject.silence();
    assert_eq!(subject.list(), [120, 130, 140], "it did not answer");
    let call = subject.round();
    let answer = match answer {
        Body::Pulled { predecessor, successors, .. } => Body::Pulled { call, predecessor, successors },
        other => other,
    };
    assert_eq!(sent(&subject.hear(120, answer))[0].0, 115, "the next one");
}

/// Zave, fail: a member leaves by ceasing to answer; there is no farewell that could go wrong.
#[test]
fn whoever_left_is_silent() {
    let mut subject = Subject::member(&[120, 130, 140]);
    assert_eq!(subject.tell(Input::Leave).events, [Event::Left]);
    assert_eq!(subject.chord.next_timeout(), None);
    assert_eq!(subject.hear(50, Body::Ping { call: CallId(1) }), Effects::default());
    assert_eq!(subject.tell(Input::Create), Effects::default(), "coming back takes a new member");
    assert!(!subject.chord.is_member());
}
