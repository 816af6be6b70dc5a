use serde::{Deserialize, Serialize};
use stdx::Instant;

use crate::machine::{Limits, Registry, State};

/// How far the index jumps over at a restart from a copy that may lag behind what was shown.
///
/// A change of a check's state may have been shown to readers without having reached the disk. Without the jump, the
/// next change after the restart could get the index of such a lost one, and a reader who has seen that would miss it.
const RESTART_STEP: u64 = 1 << 20;

const VERSION: u32 = 2;

/// Why bytes are no snapshot. Nothing was restored; people must decide what to do with the file.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is damaged, or something else.
    #[error("it is damaged, or not a registry's snapshot")]
    Json(#[source] serde_json::Error),
    /// A newer program wrote it.
    #[error("it has format {0}, and this program reads format {VERSION} only")]
    Version(u32),
}

#[derive(Serialize)]
struct SnapshotOut<'a> {
    version: u32,
    state: &'a State,
}

#[derive(Deserialize)]
struct SnapshotIn {
    version: u32,
    state: State,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl Registry {
    /// The whole state as bytes (JSON, so that people can look into it).
    pub fn encode(&self) -> Vec<u8> {
        let snapshot = SnapshotOut { version: VERSION, state: self.state() };
        serde_json::to_vec(&snapshot).expect("the state has string keys only, so it is always JSON")
    }

    /// The whole registry, to the last deadline: what a replica that lags begins from.
    pub fn image(&self) -> Vec<u8> {
        self.encode()
    }

    /// The registry that an image holds, exactly: it acts from here on as the one that was encoded.
    ///
    /// # Errors
    /// The bytes are no snapshot of this format.
    pub fn from_image(bytes: &[u8], limits: Limits) -> Result<Registry, SnapshotError> {
        let VersionOnly { version } = serde_json::from_slice(bytes).map_err(SnapshotError::Json)?;
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        let snapshot: SnapshotIn = serde_json::from_slice(bytes).map_err(SnapshotError::Json)?;
        assert_eq!(snapshot.version, VERSION, "the version was read above");
        Ok(Registry::from_state(snapshot.state, limits))
    }

    /// The registry that `bytes` hold, going on at `now`: each TTL check gets a fresh TTL, and the time for which
    /// services were critical begins anew, because nobody could renew anything while the registry was away.
    ///
    /// # Errors
    /// The bytes are no snapshot of this format.
    pub fn decode(bytes: &[u8], now: Instant, limits: Limits) -> Result<Registry, SnapshotError> {
        let mut registry = Registry::from_image(bytes, limits)?;
        registry.go_on(now, RESTART_STEP);
        Ok(registry)
    }
}
