//! Backups of buckets to files, and back.
//!
//! A backup is read page by page ([`wire::backup`]); each page can be asked for at any gateway. It is written beside
//! its place and moved there when it is whole and on the disk, so a file of that name is always a whole one. A restore
//! reads the file through first and touches nothing if it is not whole; then it writes each key anew, by requests whose
//! ids come from the file's fingerprint and the key: a restore that is repeated acts once, for as long as a key
//! remembers its requests.
//!
//! Memory: one page of a backup, and some dozens of entries of a restore, however large the bucket is.

mod file;
mod pages;
mod restore;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use wire::backup::{BACKUP_VERSION, BackupEntry, BackupPage, BackupPageLine, Head};

use crate::gateway::{AskError, GatewayClient};
use file::FileWriter;
pub use file::{Checked, FileError, check};
pub use restore::{Existing, Restored, restore};

/// How long one page may take, over all gateways and attempts.
const PAGE_PATIENCE: Duration = Duration::from_secs(60);
/// How often one arc is begun before the backup is given up: each time its replica was lost while it told the arc.
const ARC_TRIES_MAX: u32 = 20;

/// Why a backup or a restore was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The gateways did not answer, or refused.
    #[error("the gateways could not be asked")]
    Ask(#[from] AskError),
    /// The file cannot be written, or is no whole backup.
    #[error("the file {} cannot be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// An arc's cut was lost each time before it was told to the end.
    #[error("an arc was begun {ARC_TRIES_MAX} times, and its replica was lost each time; try again when nodes stay up")]
    Restless,
    /// The bucket keeps its keys otherwise than the backup's did.
    #[error(
        "the bucket `{bucket}` has contract {present}, and the backup is of one with contract {saved}; name another \
         bucket, which is made then"
    )]
    OtherKind {
        /// The bucket.
        bucket: String,
        /// Its contract and type.
        present: String,
        /// Those in the file.
        saved: String,
    },
    /// A key could not be written. What was written before stays.
    #[error(
        "`{key}` could not be written ({why}), after {done} of {of} keys; what was written stays, and the same command \
         goes on from there"
    )]
    Write {
        /// The key.
        key: String,
        /// The last refusal.
        why: String,
        /// Keys that were done before.
        done: u64,
        /// Keys in the file.
        of: u64,
    },
}

/// How far it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Keys so far.
    pub entries: u64,
    /// Of how many, where that is known.
    pub of: Option<u64>,
    /// Arcs so far.
    pub arcs: u64,
}

/// What a backup came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Keys.
    pub entries: u64,
    /// Arcs.
    pub arcs: u64,
    /// The file's length.
    pub bytes: u64,
    /// Arcs that had to be begun again, since their replica was lost.
    pub begun_again: u64,
    /// The fingerprint of what the file holds.
    pub fingerprint: String,
}

/// Saves a bucket to a file, which must not be there yet unless `overwrite`.
///
/// # Errors
/// See [`BackupError`]. No file of that name was made or changed.
pub async fn backup(
    client: &GatewayClient,
    bucket: &str,
    path: &Path,
    overwrite: bool,
    mut progress: impl FnMut(Progress),
) -> Result<Saved, BackupError> {
    let at_file = |source| BackupError::File { path: path.to_owned(), source };
    if !overwrite && path.exists() {
        return Err(at_file(FileError::Exists));
    }
    let definition = client.bucket(bucket, PAGE_PATIENCE).await?.ok_or_else(|| {
        let detail = format!("there is no bucket `{bucket}`; `GET /v1/buckets` lists them");
        AskError::Refused { status: 404, detail }
    })?;
    let mut page = client.backup_page(bucket, None, PAGE_PATIENCE).await?;
    let head = Head {
        everring_backup: BACKUP_VERSION,
        bucket: bucket.to_owned(),
        definition: definition.definition,
        cluster: page.1.cluster.clone(),
        epoch: page.1.epoch,
        began_ms: now_ms(),
    };
    let mut file = FileWriter::create(path, &head).map_err(at_file)?;
    let (mut begun_again, mut tries) = (0, 0);
    loop {
        let (entries, told) = &page;
        if told.begins && file.is_within_arc() {
            file.roll_back().map_err(at_file)?;
            begun_again += 1;
            tries += 1;
            if tries >= ARC_TRIES_MAX {
                return Err(BackupError::Restless);
            }
        }
        for entry in entries {
            file.entry(entry).map_err(at_file)?;
        }
        if told.ends {
            file.end_arc(&told.through, told.time).map_err(at_file)?;
            tries = 0;
        }
        progress(Progress { entries: file.entries(), of: None, arcs: file.arcs() });
        let Some(next) = told.next.clone() else { break };
        page = client.backup_page(bucket, Some(&next), PAGE_PATIENCE).await?;
    }
    let (entries, arcs) = (file.entries(), file.arcs());
    let (bytes, fingerprint) = file.finish(now_ms()).map_err(at_file)?;
    Ok(Saved { entries, arcs, bytes, begun_again, fingerprint })
}

/// Reads an answer of `GET /v1/backup/{bucket}`: the entries, and the page behind them.
///
/// # Errors
/// It is of another form, or not whole.
pub fn read_page(body: &[u8]) -> Result<(Vec<BackupEntry>, BackupPage), AskError> {
    let broken = |what: String| AskError::NotUnderstood(what);
    let mut lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let last = lines.pop().ok_or_else(|| broken("an empty answer".to_owned()))?;
    let BackupPageLine { page } = serde_json::from_slice(last).map_err(|error| broken(error.to_string()))?;
    let mut entries = Vec::with_capacity(lines.len());
    for line in lines {
        let entry: BackupEntry = serde_json::from_slice(line).map_err(|error| broken(error.to_string()))?;
        if !entry.is_sound() {
            return Err(broken(format!("an entry that holds nothing, or two things: `{}`", entry.key)));
        }
        entries.push(entry);
    }
    if entries.len() as u64 != page.entries {
        return Err(broken(format!("{} entries, and {} are told", entries.len(), page.entries)));
    }
    Ok((entries, page))
}

fn now_ms() -> u64 {
    // A clock before 1970 shows 0: it is for people.
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
