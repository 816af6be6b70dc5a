use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stdx::Prng;

use crate::disk::{Disk, DiskError, FileEntry};
use crate::identity::Place;

/// A disk in memory that forgets like a real one, by chance from a seed.
///
/// A handle: clones share the disk, so a simulator keeps one while a [`crate::Log`] owns another. Unsynced writes are
/// visible until [`SimDisk::crash`], which decides for each of them alone whether it is kept, lost or torn. To stop a
/// process without a power cut, drop its log and open another. Preallocated zeros take no memory.
///
/// A torn write keeps either a prefix of its 512-byte sectors or any of them, as disks do.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    files: BTreeMap<String, SimFile>,
    prng: Prng,
    place: Place,
    /// All files' lengths together may not pass this.
    capacity_bytes: u64,
    calls: u64,
    /// The call in which the power fails.
    crash_at: Option<u64>,
    /// The power is off: every call fails until [`SimDisk::crash`].
    off: bool,
    failing_syncs: u32,
    /// Syncs do nothing, and say that they did.
    lies: bool,
}

#[derive(Clone, Default)]
struct SimFile {
    len: u64,
    /// What a reader sees, up to the last byte ever written; zeros follow.
    content: Vec<u8>,
    /// Oldest first.
    unsynced: Vec<Unsynced>,
}

/// A write that a crash may undo.
#[derive(Clone)]
struct Unsynced {
    offset: usize,
    old: Vec<u8>,
    new: Vec<u8>,
    /// A sync of it failed. The operating system now thinks it written, so no later sync does it again.
    given_up: bool,
}

const SECTOR: usize = 512;

impl SimDisk {
    /// An empty disk whose crashes follow `seed`.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            prng: Prng::from_seed(seed),
            place: Place { inode: seed, born_ns: None },
            capacity_bytes: u64::MAX,
            calls: 0,
            crash_at: None,
            off: false,
            failing_syncs: 0,
            lies: false,
        })))
    }

    /// The power fails and comes back: what was not synced is kept, lost or torn. Every call works again.
    pub fn crash(&self) {
        let mut state = self.state();
        let State { files, prng, .. } = &mut *state;
        for file in files.values_mut() {
            file.crash(prng);
        }
        state.off = false;
        state.crash_at = None;
    }

    /// As [`SimDisk::crash`], but nothing is kept that was not synced.
    pub fn crash_losing_all(&self) {
        let mut state = self.state();
        state.files.values_mut().for_each(|file| drop(file.lose()));
        state.off = false;
        state.crash_at = None;
    }

    /// Lets the power fail within the call after `calls` more calls; that call and all later ones fail until
    /// [`SimDisk::crash`].
    pub fn crash_after(&self, calls: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.calls + calls);
    }

    /// How many calls were made so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Sets how much all files together may take, in bytes. Files that exist stay.
    pub fn set_capacity(&self, capacity_bytes: u64) {
        self.state().capacity_bytes = capacity_bytes;
    }

    /// How much all files together take, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// Lets the next `count` syncs fail. What they should have synced stays visible, is never synced by a later sync,
    /// and may be lost in a crash.
    pub fn fail_syncs(&self, count: u32) {
        self.state().failing_syncs = count;
    }

    /// Whether a sync that is acknowledged has been done. Where it has not, what was written since may be lost in a
    /// crash, each write by itself, until [`SimDisk::settle`] or a sync of an honest disk.
    pub fn set_honest(&self, honest: bool) {
        self.state().lies = !honest;
    }

    /// Does all syncs that it owes.
    pub fn settle(&self) {
        self.state().files.values_mut().for_each(SimFile::sync);
    }

    /// Flips the bits of `mask` in one byte, behind everybody's back and for good. False: there is no such byte.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) -> bool {
        let mut state = self.state();
        match state.files.get_mut(name) {
            Some(file) if offset < file.len => {
                file.grow(offset as usize + 1);
                file.content[offset as usize] ^= mask;
                true
            }
            _ => false,
        }
    }

    /// The disk as it is, to be put back in its place later, or to try several fates of one disk.
    pub fn fork(&self, seed: u64) -> SimDisk {
        let state = self.state();
        SimDisk(Arc::new(Mutex::new(State { files: state.files.clone(), prng: Prng::from_seed(seed), ..*state })))
    }

    /// A copy of its files on another disk.
    pub fn copy(&self, seed: u64) -> SimDisk {
        let copy = self.fork(seed);
        copy.state().place = Place { inode: seed, born_ns: None };
        copy
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it held the disk has failed already.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call. True: the power fails within it.
    fn begin(&self, action: &'static str, name: &str) -> Result<(MutexGuard<'_, State>, bool), DiskError> {
        let mut state = self.state();
        if state.off {
            return Err(power_off(action, name));
        }
        let fails = state.crash_at == Some(state.calls);
        state.calls += 1;
        state.off = fails;
        Ok((state, fails))
    }
}

impl Disk for SimDisk {
    fn place(&mut self) -> Result<Place, DiskError> {
        Ok(self.state().place)
    }

    fn list(&mut self) -> Result<Vec<FileEntry>, DiskError> {
        let (state, fails) = self.begin("list", "")?;
        let entries = state.files.iter().map(|(name, file)| FileEntry { name: name.clone(), len: file.len }).collect();
        if fails { Err(power_off("list", "")) } else { Ok(entries) }
    }

    fn create(&mut self, name: &str, len: u64) -> Result<(), DiskError> {
        let (mut state, fails) = self.begin("create", name)?;
        if state.files.contains_key(name) {
            return Err(refused("create", name, io::ErrorKind::AlreadyExists));
        }
        if state.used_bytes().saturating_add(len) > state.capacity_bytes {
            return Err(if fails { power_off("create", name) } else { DiskError::Full });
        }
        if !fails {
            state.files.insert(name.to_owned(), SimFile { len, ..SimFile::default() });
            return Ok(());
        }
        // The name may be there or not, and the space reserved or not.
        let len = match state.prng.below(4) {
            0 => return Err(power_off("create", name)),
            1 => 0,
            2 => state.prng.below(len),
            _ => len,
        };
        state.files.insert(name.to_owned(), SimFile { len, ..SimFile::default() });
        Err(power_off("create", name))
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let (mut state, fails) = self.begin("write", name)?;
        let file = state.files.get_mut(name).ok_or_else(|| refused("write", name, io::ErrorKind::NotFound))?;
        if offset + bytes.len() as u64 > file.len {
            return Err(refused("write", name, io::ErrorKind::InvalidInput));
        }
        file.write(offset as usize, bytes);
        if fails { Err(power_off("write", name)) } else { Ok(()) }
    }

    fn sync(&mut self, name: &str) -> Result<(), DiskError> {
        let (mut state, fails) = self.begin("sync", name)?;
        if fails {
            return Err(power_off("sync", name));
        }
        let (bad, lies) = (state.failing_syncs > 0, state.lies);
        state.failing_syncs = state.failing_syncs.saturating_sub(1);
        let file = state.files.get_mut(name).ok_or_else(|| refused("sync", name, io::ErrorKind::NotFound))?;
        if bad {
            file.unsynced.iter_mut().for_each(|write| write.given_up = true);
            return Err(DiskError::Io { action: "sync", path: name.to_owned(), source: io::Error::other("injected") });
        }
        if !lies {
            file.sync();
        }
        Ok(())
    }

    fn read_at(&mut self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let (state, fails) = self.begin("read", name)?;
        let file = state.files.get(name).ok_or_else(|| refused("read", name, io::ErrorKind::NotFound))?;
        if fails {
            return Err(power_off("read", name));
        }
        let len = (buffer.len() as u64).min(file.len.saturating_sub(offset)) as usize;
        let written = file.content.get(offset as usize..).unwrap_or_default();
        let copied = written.len().min(len);
        buffer[..copied].copy_from_slice(&written[..copied]);
        buffer[copied..len].fill(0);
        Ok(len)
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let (mut state, fails) = self.begin("replace", name)?;
        // Old and new stand side by side for a moment.
        if state.used_bytes().saturating_add(bytes.len() as u64) > state.capacity_bytes {
            return Err(if fails { power_off("replace", name) } else { DiskError::Full });
        }
        let new = SimFile { len: bytes.len() as u64, content: bytes.to_vec(), unsynced: Vec::new() };
        if !fails || state.prng.one_in(2) {
            state.files.insert(name.to_owned(), new);
        }
        if fails { Err(power_off("replace", name)) } else { Ok(()) }
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        let (mut state, fails) = self.begin("remove", name)?;
        if !state.files.contains_key(name) {
            return Err(refused("remove", name, io::ErrorKind::NotFound));
        }
        if !fails || state.prng.one_in(2) {
            state.files.remove(name);
        }
        if fails { Err(power_off("remove", name)) } else { Ok(()) }
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        self.files.values().map(|file| file.len).sum()
    }
}

impl SimFile {
    fn grow(&mut self, len: usize) {
        if self.content.len() < len {
            self.content.resize(len, 0);
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.grow(end);
        let old = self.content[offset..end].to_vec();
        self.content[offset..end].copy_from_slice(bytes);
        self.unsynced.push(Unsynced { offset, old, new: bytes.to_vec(), given_up: false });
    }

    fn sync(&mut self) {
        let mut kept: Vec<Unsynced> = Vec::new();
        for write in std::mem::take(&mut self.unsynced) {
            if write.given_up {
                kept.push(write);
                continue;
            }
            // What an older, given-up write may lose is what this write now made sure.
            for older in &mut kept {
                older.settle(&write);
            }
        }
        self.unsynced = kept;
    }

    /// Takes back what was not synced; what that was.
    fn lose(&mut self) -> Vec<Unsynced> {
        let writes = std::mem::take(&mut self.unsynced);
        for write in writes.iter().rev() {
            self.content[write.offset..write.offset + write.old.len()].copy_from_slice(&write.old);
        }
        writes
    }

    fn crash(&mut self, prng: &mut Prng) {
        let writes = self.lose();
        for write in &writes {
            let fate = prng.below(4);
            let sectors = write.sectors();
            let prefix = prng.below(sectors.len() as u64 + 1) as usize;
            for (index, (from, to)) in sectors.into_iter().enumerate() {
                let kept = match fate {
                    0 => true,
                    1 => false,
                    2 => index < prefix,
                    _ => prng.one_in(2),
                };
                if kept {
                    self.content[write.offset + from..write.offset + to].copy_from_slice(&write.new[from..to]);
                }
            }
        }
    }
}

impl Unsynced {
    /// The parts of the write that a disk takes whole, as ranges of its bytes.
    fn sectors(&self) -> Vec<(usize, usize)> {
        let mut sectors = Vec::new();
        let mut from = 0;
        while from < self.new.len() {
            let to = (from + SECTOR - (self.offset + from) % SECTOR).min(self.new.len());
            sectors.push((from, to));
            from = to;
        }
        sectors
    }

    /// Takes over what a later write made durable, where the two overlap.
    fn settle(&mut self, later: &Unsynced) {
        let from = self.offset.max(later.offset);
        let to = (self.offset + self.new.len()).min(later.offset + later.new.len());
        if from < to {
            let durable = &later.new[from - later.offset..to - later.offset];
            self.old[from - self.offset..to - self.offset].copy_from_slice(durable);
            self.new[from - self.offset..to - self.offset].copy_from_slice(durable);
        }
    }
}

fn power_off(action: &'static str, name: &str) -> DiskError {
    DiskError::Io { action, path: name.to_owned(), source: io::Error::other("the simulated power failed") }
}

fn refused(action: &'static str, name: &str, kind: io::ErrorKind) -> DiskError {
    DiskError::Io { action, path: name.to_owned(), source: kind.into() }
}
