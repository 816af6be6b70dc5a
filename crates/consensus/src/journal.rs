//! What a replica keeps on its disk: who it is, the log, and the last image. It is Raft's `Storage`.
//!
//! Two directories: one for the log ([`store::Log`]), one for the small files that are replaced whole. The image names
//! the log record up to which entries do not count any more (its *fence*): when a leader sends an image, the replica's
//! old log may hold entries beyond it that are not part of the leader's history.

use std::cell::Cell;
use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use stdx::Prng;
use store::identity::{self, Identity};
use store::{AppendError, Disk, Log, LogConfig};

use crate::codec::{Reader, Record, Writer};
use crate::config::Config;
use crate::error::{Failure, OpenError};
use crate::rules::Rules;

/// The image's file.
const IMAGE: &str = "image";
const IMAGE_VERSION: u64 = 1;
/// The identity file asks for a cluster; discovery's directories say this.
const CLUSTER: u64 = 0x6469_7363_6f76_6572;

/// A replica's disk.
pub struct Journal {
    id: u64,
    log: Log,
    files: Box<dyn Disk>,
    hard: HardState,
    configuration: ConfState,
    image: Image,
    /// The log after the entry `first - 1`, whose term is `term_before`. Reaches back behind the image.
    entries: VecDeque<Entry>,
    first: u64,
    term_before: u64,
    /// The log record and the index of each entry after the image, also of replaced ones, in the order of the records.
    positions: VecDeque<(u64, u64)>,
    /// Entries and their bytes since the image.
    since: (u64, u64),
    keep_entries: u64,
    /// A follower needs an image, and the one that is there is too old.
    wanted: Cell<bool>,
}

/// The state at an index.
#[derive(Clone, Debug, Default)]
struct Image {
    index: u64,
    term: u64,
    fence: u64,
    bytes: Bytes,
}

impl Journal {
    /// Opens what is there, or makes a new identity.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open<R: Rules>(
        log: impl Disk + 'static,
        files: impl Disk + 'static,
        config: &Config,
        prng: &mut Prng,
    ) -> Result<Journal, OpenError> {
        let mut files: Box<dyn Disk> = Box::new(files);
        let known = identity::load(&mut *files)?;
        let (node, log_id) = (prng.next_u64().max(1), prng.next_u64());
        let fresh = Identity { cluster: CLUSTER, node, log: log_id, incarnation: 1, place: None };
        let own = known.unwrap_or(fresh);
        own.check(CLUSTER, None)?;
        let (image, configuration) = read_image(&mut *files)?.unwrap_or_default();
        let mut restored = Restored { fence: image.fence, first: image.index + 1, ..Restored::default() };
        let log_config =
            LogConfig { segment_bytes: config.segment_bytes, may_create: known.is_none(), ..LogConfig::new(own.log) };
        let opened = Log::open(log, log_config, &mut |sequence, body| restored.take(sequence, body));
        let log = opened.map_err(OpenError::Log)?;
        if let Some(bad) = restored.bad {
            return Err(OpenError::Record(bad));
        }
        if known.is_none() {
            // The log first and the identity last: an identity without a log always means loss.
            identity::create(&mut *files, own)?;
        }
        let mut hard = restored.hard;
        // An image is of what is committed, and a new one may be on the disk while the log does not say so yet.
        hard.commit = hard.commit.max(image.index);
        if image.term > hard.term {
            // Nobody was voted for in a term that the log knows nothing of.
            (hard.term, hard.vote) = (image.term, 0);
        }
        let bytes = restored.entries.iter().map(|entry| entry.data.len() as u64).sum();
        Ok(Journal {
            id: own.node,
            log,
            files,
            hard,
            configuration,
            since: (restored.entries.len() as u64, bytes),
            entries: restored.entries,
            first: image.index + 1,
            term_before: image.term,
            positions: restored.positions,
            keep_entries: config.keep_entries,
            image,
            wanted: Cell::new(false),
        })
    }

    /// Who the replica is: drawn with its data, and gone with it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it belongs to a discovery yet.
    pub(crate) fn is_blank(&self) -> bool {
        self.image.index == 0
    }

    pub(crate) fn image_bytes(&self) -> &Bytes {
        &self.image.bytes
    }

    pub(crate) fn image_index(&self) -> u64 {
        self.image.index
    }

    pub(crate) fn configuration(&self) -> &ConfState {
        &self.configuration
    }

    pub(crate) fn set_configuration(&mut self, configuration: ConfState) {
        self.configuration = configuration;
    }

    /// Whether enough has happened since the last image, or a follower waits for one.
    pub(crate) fn wants_image(&self, config: &Config) -> bool {
        let (entries, bytes) = self.since;
        // An image costs its own size to write: it must have been worth it.
        let worth = config.image_bytes.max(2 * self.image.bytes.len() as u64);
        self.wanted.get() || entries >= config.image_entries || bytes >= worth
    }

    /// Appends entries, which replace those that have their places. Durable after [`Journal::flush`].
    pub(crate) fn append(&mut self, entries: &[Entry]) -> Result<(), Failure> {
        for entry in entries {
            assert!(entry.index >= self.first && entry.index <= self.end() + 1, "entries follow on each other");
            self.entries.truncate((entry.index - self.first) as usize);
            let sequence = self.write(&Record::entry(entry))?;
            self.positions.push_back((sequence, entry.index));
            self.since = (self.since.0 + 1, self.since.1 + entry.data.len() as u64);
            self.entries.push_back(entry.clone());
        }
        Ok(())
    }

    /// Notes term, vote and commit. Durable after [`Journal::flush`].
    pub(crate) fn set_hard(&mut self, hard: HardState) -> Result<(), Failure> {
        self.write(&Record::hard(&hard))?;
        self.hard = hard;
        Ok(())
    }

    /// Notes how far is committed; for memory only, the leader tells it again after a restart.
    pub(crate) fn set_commit(&mut self, commit: u64) {
        self.hard.commit = commit;
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.log.flush().map(drop).map_err(|error| Failure::Log(stdx::error_chain(&error)))
    }

    /// Takes over an image that a leader sent: it replaces the whole log.
    pub(crate) fn install<R: Rules>(&mut self, snapshot: &Snapshot) -> Result<(), Failure> {
        self.flush()?;
        let metadata = snapshot.get_metadata();
        self.configuration = metadata.get_conf_state().clone();
        let fence = if R::FENCE_OLD_LOG { self.log.last_sequence() } else { self.image.fence };
        let bytes = snapshot.data.clone();
        self.put_image(Image { index: metadata.index, term: metadata.term, fence, bytes })?;
        self.entries.clear();
        self.positions.clear();
        self.first = metadata.index + 1;
        self.term_before = metadata.term;
        self.hard.commit = self.hard.commit.max(metadata.index);
        self.hard.term = self.hard.term.max(metadata.term);
        self.drop_old()
    }

    /// Keeps an image of the state at `index`, which was applied, and forgets entries far behind it.
    pub(crate) fn keep_image(&mut self, index: u64, bytes: Vec<u8>) -> Result<(), Failure> {
        self.flush()?;
        let term = self.term(index).map_err(|error| Failure::Raft(error.to_string()))?;
        let fence = self.image.fence;
        self.put_image(Image { index, term, fence, bytes: Bytes::from(bytes) })?;
        while self.first + self.keep_entries <= index {
            let Some(old) = self.entries.pop_front() else { break };
            self.first = old.index + 1;
            self.term_before = old.term;
        }
        self.positions.retain(|(_, held)| *held > index);
        self.drop_old()
    }

    /// Begins a discovery of which this replica is the only member so far.
    pub(crate) fn found(&mut self, bytes: Vec<u8>) -> Result<(), Failure> {
        self.configuration = ConfState { voters: vec![self.id], ..ConfState::default() };
        self.put_image(Image { index: 1, term: 1, fence: 0, bytes: Bytes::from(bytes) })?;
        (self.first, self.term_before) = (2, 1);
        let hard = HardState { term: 1, commit: 1, ..HardState::default() };
        self.set_hard(hard)?;
        self.flush()
    }

    fn put_image(&mut self, image: Image) -> Result<(), Failure> {
        let mut body = Writer::default();
        for number in [IMAGE_VERSION, image.index, image.term, image.fence] {
            body.number(number);
        }
        body.configuration(&self.configuration);
        body.bytes(&image.bytes);
        let crc = crc32c::crc32c(&body.0);
        body.0.extend_from_slice(&crc.to_le_bytes());
        self.files.replace(IMAGE, &body.0).map_err(Failure::Image)?;
        self.image = image;
        self.since = (0, 0);
        self.wanted.set(false);
        Ok(())
    }

    /// Drops the segments of which nothing is needed any more.
    fn drop_old(&mut self) -> Result<(), Failure> {
        // Term and vote are said again, so that the newest record of them is in the newest segment.
        self.set_hard(self.hard.clone())?;
        self.flush()?;
        let failed = |error: store::DropError| Failure::Log(stdx::error_chain(&error));
        while let Some(oldest) = self.log.oldest_segment() {
            let needed = self.positions.front().is_some_and(|(sequence, _)| *sequence <= oldest.last_sequence);
            if needed || oldest.last_sequence >= self.log.durable() {
                break;
            }
            self.log.drop_segment(oldest.id, self.log.durable()).map_err(failed)?;
        }
        Ok(())
    }

    fn write(&mut self, body: &[u8]) -> Result<u64, Failure> {
        loop {
            match self.log.append(body) {
                Ok(sequence) => return Ok(sequence),
                Err(AppendError::FlushFirst { .. }) => self.flush()?,
                Err(error) => return Err(Failure::Log(stdx::error_chain(&error))),
            }
        }
    }

    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }
}

/// What the log says, as it is read.
#[derive(Default)]
struct Restored {
    fence: u64,
    first: u64,
    hard: HardState,
    entries: VecDeque<Entry>,
    positions: VecDeque<(u64, u64)>,
    bad: Option<u64>,
}

impl Restored {
    fn take(&mut self, sequence: u64, body: &[u8]) {
        match Record::decode(body) {
            Ok(Record::Hard(hard)) => self.hard = hard,
            Ok(Record::Entry(entry)) if sequence > self.fence && entry.index >= self.first => {
                let place = (entry.index - self.first) as usize;
                if place > self.entries.len() {
                    self.bad.get_or_insert(sequence);
                }
                self.entries.truncate(place);
                self.positions.push_back((sequence, entry.index));
                self.entries.push_back(entry);
            }
            Ok(Record::Entry(_)) => {}
            Err(_) => {
                self.bad.get_or_insert(sequence);
            }
        }
    }
}

fn read_image(files: &mut dyn Disk) -> Result<Option<(Image, ConfState)>, OpenError> {
    let found = files.list().map_err(OpenError::Disk)?.into_iter().find(|entry| entry.name == IMAGE);
    let Some(entry) = found else { return Ok(None) };
    let mut bytes = vec![0; entry.len as usize];
    let read = files.read_at(IMAGE, 0, &mut bytes).map_err(OpenError::Disk)?;
    bytes.truncate(read);
    let damaged = |why: &str| OpenError::Image(why.to_owned());
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| damaged("it is cut short"))?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(damaged("its checksum is wrong"));
    }
    let mut from = Reader(body);
    let parts = (|| {
        let (version, index, term, fence) = (from.number()?, from.number()?, from.number()?, from.number()?);
        let configuration = from.configuration()?;
        let bytes = Bytes::copy_from_slice(from.bytes()?);
        Ok::<_, crate::codec::FrameError>((version, Image { index, term, fence, bytes }, configuration))
    })();
    match parts {
        Ok((IMAGE_VERSION, image, configuration)) => Ok(Some((image, configuration))),
        Ok((version, ..)) => Err(damaged(&format!("it has format {version}, and this program reads {IMAGE_VERSION}"))),
        Err(_) => Err(damaged("its parts do not fit together")),
    }
}

impl Storage for Journal {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard.clone(), conf_state: self.configuration.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.end() + 1, "Raft asks for entries that it was given");
        let most = max_size.into().unwrap_or(u64::MAX);
        let wanted = self.entries.range((low - self.first) as usize..(high - self.first) as usize);
        let mut size = 0;
        let mut taken = Vec::new();
        for entry in wanted {
            size += (entry.data.len() + entry.context.len()) as u64 + 32;
            if size > most && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index + 1 == self.first {
            return Ok(self.term_before);
        }
        if index == self.image.index {
            return Ok(self.image.term);
        }
        if index < self.first {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get((index - self.first) as usize);
        entry.map(|entry| entry.term).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.end())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // A follower that lags behind what the log still holds needs an image that reaches into it.
        if self.image.index < request_index || self.image.index + 1 < self.first {
            self.wanted.set(true);
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot { data: self.image.bytes.clone(), ..Snapshot::default() };
        snapshot.mut_metadata().index = self.image.index;
        snapshot.mut_metadata().term = self.image.term;
        *snapshot.mut_metadata().mut_conf_state() = self.configuration.clone();
        Ok(snapshot)
    }
}
