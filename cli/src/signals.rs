//! The signals that end a process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::lineage;

/// What a shell reports for a process that a second Ctrl-C ended at once.
const EXIT_INTERRUPTED: i32 = 130;

/// Completes at the first SIGTERM or SIGINT. A second one ends the process on the spot.
///
/// A process that `everring up` keeps leaves SIGINT to its keeper: a terminal sends it to all of them at once, while
/// the keeper may still need its fleet to finish a proof.
///
/// # Errors
/// The system takes no handler.
pub fn shutdown() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let obeys_interrupt = !lineage::is_kept();
    Ok(async move {
        next(&mut terminate, &mut interrupt, obeys_interrupt).await;
        tokio::spawn(async move {
            next(&mut terminate, &mut interrupt, obeys_interrupt).await;
            std::process::exit(EXIT_INTERRUPTED);
        });
    })
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal, obeys_interrupt: bool) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv(), if obeys_interrupt => {}
    }
}

/// Counts the requests to end: the first one asks, the second one hurries.
#[derive(Clone)]
pub struct Interrupts(watch::Receiver<u32>);

impl Interrupts {
    /// Counts SIGINT, SIGTERM and SIGHUP from now on.
    ///
    /// # Errors
    /// The system takes no handler.
    pub fn listen() -> io::Result<Interrupts> {
        let (count, counted) = watch::channel(0);
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let mut signals = signal(kind)?;
            let count = count.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    count.send_modify(|count| *count += 1);
                }
            });
        }
        Ok(Interrupts(counted))
    }

    /// Completes once there were `times` of them.
    pub async fn reached(&self, times: u32) {
        let mut counted = self.0.clone();
        // The listeners live as long as the runtime: an error only means that it is ending.
        let _ = counted.wait_for(|count| *count >= times).await;
    }

    /// How many there were.
    pub fn count(&self) -> u32 {
        *self.0.borrow()
    }
}
