//! What a person sees while a run goes on: one line that renews itself on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::latency::quantiles_of_us;
use crate::level_ticks::LevelTicks;
use crate::nemesis::Shared;
use crate::recorder::Recorder;
use crate::tick::Ticks;

/// What is shown.
pub struct Progress {
    /// Requests and latencies.
    pub recorder: Arc<Recorder>,
    /// Faults.
    pub shared: Arc<Shared>,
    /// Downtime of strict requests and locks.
    pub ticks: Arc<Ticks>,
    /// Downtime at the other levels, if there is traffic at them.
    pub level_ticks: Option<Arc<LevelTicks>>,
    /// How long traffic is to run, if that is known.
    pub duration: Option<Duration>,
    /// Becomes true when the traffic has ended, and the keys are read for the last time.
    pub load_stopped: watch::Receiver<bool>,
}

/// How often the line on a terminal is renewed.
const RENEW: Duration = Duration::from_millis(500);
/// How often a line is written elsewhere.
const LINE: Duration = Duration::from_secs(5);
/// The windows still open to late answers, which say nothing yet, in nanoseconds.
const UNSETTLED_NS: u64 = 200_000_000;

impl Progress {
    /// Shows it on standard error until `stop` becomes true.
    pub async fn show(self, mut stop: watch::Receiver<bool>) {
        let terminal = std::io::stderr().is_terminal();
        let every = if terminal { RENEW } else { LINE };
        let start = Instant::now();
        let mut load_ended_ns = None;
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep(every) => {}
            }
            if *self.load_stopped.borrow() {
                load_ended_ns.get_or_insert_with(|| self.recorder.now_ns());
            }
            let line = self.line(start.elapsed(), load_ended_ns);
            let mut out = std::io::stderr().lock();
            // Who closed our standard error wants to see nothing.
            let _ = if terminal { write!(out, "\r\x1b[2K{line}") } else { writeln!(out, "{line}") };
            let _ = out.flush();
        }
        if terminal {
            let _ = writeln!(std::io::stderr());
        }
    }

    /// That of the kind of request that it hit worst.
    fn downtime_ms(&self, from_ns: u64, to_ns: u64) -> u64 {
        let below = self.level_ticks.as_ref().map_or(0, |ticks| ticks.downtime_ms(from_ns, to_ns));
        below.max(self.ticks.downtime_ms(from_ns, to_ns))
    }

    fn line(&self, elapsed: Duration, load_ended_ns: Option<u64>) -> String {
        let tally = self.recorder.tally();
        let latency = quantiles_of_us(&self.recorder.take_recent_us());
        let faults = self.shared.faults();
        let awaited = faults.iter().rev().find(|fault| fault.healed_ns.is_none() && fault.injected.is_ok());
        let state = match (load_ended_ns, awaited) {
            (Some(_), _) => "reading every key".to_owned(),
            (None, Some(fault)) => format!("{} {}", fault.kind, fault.target),
            (None, None) => self.shared.reason(),
        };
        // After the traffic's end nothing can succeed any more.
        let until_ns = load_ended_ns.unwrap_or(self.recorder.now_ns()).saturating_sub(UNSETTLED_NS);
        let down = faults.iter().map(|fault| self.downtime_ms(fault.at_ns, until_ns)).max().unwrap_or(0);
        let of = self.duration.map(|duration| format!("/{}", duration.as_secs())).unwrap_or_default();
        format!(
            "{:>5.1}{of} s  kills {}  requests {}  failed {}  p50 {:.1} ms  p99 {:.1} ms  downtime {down} ms  {state}",
            elapsed.as_secs_f64(),
            faults.iter().filter(|fault| fault.injected.is_ok()).count(),
            tally.total,
            tally.failed + tally.unknown,
            latency.p50,
            latency.p99,
        )
    }
}
