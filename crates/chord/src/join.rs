//! Join: find the successor, pull its list, and only then be a member (Zave's operation join).

use stdx::Instant;

use crate::calls::Purpose;
use crate::io::{Event, Outbox};
use crate::member::{Chord, Phase};
use crate::message::Peer;
use crate::rules::Rules;
use crate::successors::list_from;

/// How often a newcomer steps back from a successor to that one's predecessor before it contents itself.
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
            self.handle_join_unanswered(now, Purpose::JoinFind, out);
        } else if R::PULL_BEFORE_JOIN {
            self.ask(now, successor, Purpose::JoinPull { walked: 0, fallback: None }, out);
        } else {
            self.become_member(now, vec![successor], out);
        }
    }

    /// The successor lives. Somebody may have come in between since the lookup: then that one is asked first, for a
    /// newcomer's list must pass over no member that the ring already counts on.
    pub(crate) fn handle_join_pulled(
        &mut self,
        now: Instant,
        (successor, walked, _): (Peer, u32, Option<Peer>),
        before: Option<Peer>,
        list: &[Peer],
        out: &mut Outbox,
    ) {
        let nearer = before.filter(|peer| peer.position.between(self.me.position, successor.position));
        match nearer {
            Some(nearer) if walked < WALK_MAX => {
                self.ask(now, nearer, Purpose::JoinPull { walked: walked + 1, fallback: Some(successor) }, out);
            }
            _ => {
                let list = list_from::<R>(self.me, successor, list, self.config.successors);
                self.become_member(now, list, out);
            }
        }
    }

    pub(crate) fn handle_join_unanswered(&mut self, now: Instant, purpose: Purpose, out: &mut Outbox) {
        if let Purpose::JoinPull { fallback: Some(successor), .. } = purpose {
            // The one in between is dead. The successor is asked anew, since its first answer has aged meanwhile.
            self.ask(now, successor, Purpose::JoinPull { walked: WALK_MAX, fallback: None }, out);
        } else if let Phase::Joining { contact, tries } = self.phase {
            let tries = tries.saturating_add(1);
            self.phase = Phase::Joining { contact, tries };
            out.events.push(Event::JoinUnanswered { tries });
        }
    }
}
