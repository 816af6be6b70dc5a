//! Join: find the successor, pull its list, and only then be a member (Zave's operation join).

use stdx::Instant;

use crate::calls::Purpose;
use crate::io::{Event, Outbox};
use crate::member::{Chord, Phase};
use crate::message::Peer;
use crate::rules::Rules;
use crate::successors::list_from;

/// How often a newcomer steps back from a successor to that one's predecessor, or comes back from a dead one, before it
/// begins anew.
const WALK_MAX: u32 = 8;

impl<R: Rules> Chord<R> {
    /// One try to get in: the given contact at first, then any of those known.
    pub(crate) fn join(&mut self, now: Instant, out: &mut Outbox) {
        let Phase::Joining { contact, tries } = self.phase else { return };
        self.timers.join = Some(now + self.jittered(self.config.stabilize_period));
        if self.calls.any(|purpose| matches!(purpose, Purpose::JoinFind | Purpose::JoinPull { .. })) {
            return;
        }
        let choice = if tries == 0 { 0 } else { self.prng.index(self.seeds.len() + 1) };
        let asked = if choice == 0 { contact } else { self.seeds[choice - 1] };
        // A contact at our own position is ourselves before a restart: it cannot let us in.
        if asked.position == self.me.position {
            self.phase = Phase::Joining { contact, tries: tries.saturating_add(1) };
            return;
        }
        self.ask(now, asked, Purpose::JoinFind, out);
    }

    pub(crate) fn handle_join_found(&mut self, now: Instant, successor: Peer, out: &mut Outbox) {
        if successor.position == self.me.position {
            self.try_again(out);
        } else if R::PULL_BEFORE_JOIN {
            self.ask(now, successor, Purpose::JoinPull { walked: 0, fallback: None, dead: None }, out);
        } else {
            self.become_member(now, vec![successor], out);
        }
    }

    /// The successor lives. Somebody may have come in between since the lookup: then that one is asked first, for a
    /// newcomer's list must pass over no member that the ring already counts on.
    pub(crate) fn handle_join_pulled(
        &mut self,
        now: Instant,
        (successor, walked, dead): (Peer, u32, Option<Peer>),
        before: Option<Peer>,
        list: &[Peer],
        out: &mut Outbox,
    ) {
        let nearer = before.filter(|peer| peer.position.between(self.me.position, successor.position));
        match nearer.filter(|nearer| Some(*nearer) != dead) {
            Some(nearer) if walked < WALK_MAX => {
                let purpose = Purpose::JoinPull { walked: walked + 1, fallback: Some(successor), dead: None };
                self.ask(now, nearer, purpose, out);
            }
            Some(_) => self.try_again(out),
            None => {
                let list = list_from::<R>(self.me, successor, list, self.config.successors);
                self.become_member(now, list, out);
            }
        }
    }

    pub(crate) fn handle_join_unanswered(&mut self, now: Instant, (asked, purpose): (Peer, Purpose), out: &mut Outbox) {
        match purpose {
            // The one in between is dead. The successor is asked anew, since its first answer has aged meanwhile: that
            // one it may still name, but others have come.
            Purpose::JoinPull { walked, fallback: Some(successor), .. } => {
                let purpose = Purpose::JoinPull { walked: walked + 1, fallback: None, dead: Some(asked) };
                self.ask(now, successor, purpose, out);
            }
            _ => self.try_again(out),
        }
    }

    /// This try has led nowhere; the timer begins the next.
    fn try_again(&mut self, out: &mut Outbox) {
        if let Phase::Joining { contact, tries } = self.phase {
            let tries = tries.saturating_add(1);
            self.phase = Phase::Joining { contact, tries };
            out.events.push(Event::JoinUnanswered { tries });
        }
    }
}
