//! A replica without time: clocks stand still, and any timer may run out at any moment.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};

use stdx::{Instant, Prng};

use crate::io::Outbox;
use crate::replica::{Replica, Timer};
use crate::rules::Rules;

/// When everything is to happen: never, unless the explorer lets it.
pub(super) const FAR: Instant = Instant::from_nanos(1 << 60);

impl<R: Rules> Replica<R> {
    /// Takes time and chance out of the replica, so that two that can do the same are equal.
    pub(super) fn stop_clocks(&mut self) {
        self.timers = self.timers.iter().map(|(_, timer)| (FAR, *timer)).collect();
        for round in self.rounds.values_mut() {
            round.resend_at = FAR;
        }
        self.confirmations.stop_clocks(FAR);
        self.transfer.stop_clocks(FAR);
        self.prng = Prng::from_seed(0);
    }

    /// Lets a timer run out.
    pub(super) fn run_out(&mut self, timer: Timer, out: &mut Outbox) {
        self.timers.remove(&(FAR, timer));
        match timer {
            Timer::Round(round) => self.handle_round_timer(round, out),
            Timer::Confirm(round) => {
                self.confirmations.end_grace(round);
                self.handle_confirm_timer(round, out);
            }
            Timer::Transfer => self.transfer_continue(out),
            Timer::Deadline(_) | Timer::CatchUp | Timer::Release | Timer::Cut => {}
        }
        self.settle_inbox(out);
        self.confirm_continue_all(out);
        self.settle_inbox(out);
    }

    /// A number that is the same for replicas that can do the same.
    pub(super) fn print(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.view.epoch, &self.acceptor, &self.ledger, &self.rounds, &self.lanes).hash(&mut hasher);
        (&self.confirmations, &self.transfer, &self.collections, &self.open, self.round_last).hash(&mut hasher);
        let mut print = Print(hasher);
        // Messages hold views, which are no numbers.
        print.add(format_args!("{:?}", self.held));
        print.finish()
    }
}

/// Takes what is written into a hash, without the text ever being there.
#[derive(Default)]
pub(super) struct Print(DefaultHasher);

impl Print {
    pub fn add(&mut self, words: fmt::Arguments<'_>) {
        self.write_fmt(words).expect("a hash takes everything");
    }

    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}

impl fmt::Write for Print {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}
