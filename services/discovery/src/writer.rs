use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use registry::{Registry, Watch};

use crate::disk::Disk;
use crate::host::Host;

/// The pause after a failed write: a full disk is not helped by haste.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The thread that brings what is staged to the disk and then shows it. All that was staged while it wrote goes with
/// its next write: one sync serves many writers.
#[derive(Debug)]
pub(crate) struct Writer {
    host: Arc<Host>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. Without a disk the state is shown at once, and is gone with the process.
    pub(crate) fn start(host: Arc<Host>, disk: Option<Disk>) -> std::io::Result<Writer> {
        let of_thread = Arc::clone(&host);
        let thread = thread::Builder::new().name("registry-writer".to_owned());
        let thread = thread.spawn(move || write_on(&of_thread, disk.as_ref()))?;
        Ok(Writer { host, thread: Some(thread) })
    }
}

/// Ends the thread after a last write of what is staged.
impl Drop for Writer {
    fn drop(&mut self) {
        self.host.lock().stopping = true;
        self.host.staged.notify_one();
        if let Some(thread) = self.thread.take() {
            // It only returns an error when it panicked, which has then been printed.
            let _ = thread.join();
        }
    }
}

fn write_on(host: &Host, disk: Option<&Disk>) {
    let mut written = 0;
    while let Some((registry, version, changed)) = next_batch(host, written) {
        let outcome = disk.map_or(Ok(()), |disk| disk.write(&registry.encode()));
        match outcome {
            Ok(()) => {
                written = version;
                host.publish(registry, version, &changed);
            }
            Err(error) => {
                tracing::error!(%error, "the registry could not be written; trying again");
                host.publication_failed(version, changed, &error.to_string());
                if host.lock().stopping {
                    return;
                }
                thread::sleep(RETRY_PAUSE);
            }
        }
    }
}

/// Waits for something staged; none when it is time to stop and all is written.
fn next_batch(host: &Host, written: u64) -> Option<(Registry, u64, BTreeSet<Watch>)> {
    let mut inner = host.lock();
    while inner.version == written {
        if inner.stopping {
            return None;
        }
        inner = host.staged.wait(inner).unwrap_or_else(|poisoned| poisoned.into_inner());
    }
    let changed = std::mem::take(&mut inner.changed);
    Some((inner.staged.clone(), inner.version, changed))
}
