//! A backup's file: written line by line, and read back with every doubt.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use wire::backup::{ArcEnd, BACKUP_VERSION, BackupEntry, BackupLine, End, Head};

/// The longest line: the largest key of an available bucket has about 4 MiB, and values side by side have more.
const LINE_MAX_BYTES: u64 = 256 << 20;

/// Why a file is no use.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is a file of this name, and it was not said that it may be replaced.
    #[error("it is there already; take another name, or say --overwrite")]
    Exists,
    /// It cannot be read or written.
    #[error("it cannot be read or written")]
    Io(#[from] std::io::Error),
    /// It does not begin as a backup does.
    #[error("it is no backup of a bucket: {0}")]
    Foreign(String),
    /// It is of a later version of the program.
    #[error("it has the form {0}, and this program knows form {BACKUP_VERSION}; restore it with a later version")]
    OtherVersion(u32),
    /// Its end is missing.
    #[error("it is cut off: its last line is missing, after {entries} keys; nothing was restored")]
    CutOff {
        /// Entries that were read.
        entries: u64,
    },
    /// Something in it was changed.
    #[error("it is damaged in line {line}: {what}; nothing was restored")]
    Damaged {
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// Writes a file beside its place, and moves it there when it is whole.
pub(super) struct FileWriter {
    path: PathBuf,
    part: PathBuf,
    out: BufWriter<File>,
    hasher: blake3::Hasher,
    at: Mark,
    /// Where the arc began that is not told to the end.
    arc: Option<(Mark, blake3::Hasher)>,
}

/// A place in the file.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    bytes: u64,
    entries: u64,
    arcs: u64,
}

impl FileWriter {
    pub(super) fn create(path: &Path, head: &Head) -> Result<FileWriter, FileError> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let out = BufWriter::new(File::create(&part)?);
        let hasher = blake3::Hasher::new();
        let mut file = FileWriter { path: path.to_owned(), part, out, hasher, at: Mark::default(), arc: None };
        file.line(head)?;
        Ok(file)
    }

    fn line(&mut self, line: &impl serde::Serialize) -> Result<(), FileError> {
        let mut bytes = serde_json::to_vec(line).map_err(std::io::Error::from)?;
        bytes.push(b'\n');
        self.out.write_all(&bytes)?;
        self.hasher.update(&bytes);
        self.at.bytes += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn entry(&mut self, entry: &BackupEntry) -> Result<(), FileError> {
        if self.arc.is_none() {
            self.arc = Some((self.at, self.hasher.clone()));
        }
        self.line(entry)?;
        self.at.entries += 1;
        Ok(())
    }

    /// Whether some of an arc is written, and not all of it.
    pub(super) fn is_within_arc(&self) -> bool {
        self.arc.is_some()
    }

    /// Forgets what is written of the arc that is not told to the end.
    pub(super) fn roll_back(&mut self) -> Result<(), FileError> {
        let Some((at, hasher)) = self.arc.take() else { return Ok(()) };
        self.out.flush()?;
        self.out.get_mut().set_len(at.bytes)?;
        self.out.seek(SeekFrom::Start(at.bytes))?;
        (self.at, self.hasher) = (at, hasher);
        Ok(())
    }

    pub(super) fn end_arc(&mut self, through: &str, time: u64) -> Result<(), FileError> {
        let before = self.arc.take().map_or(self.at.entries, |(at, _)| at.entries);
        let entries = self.at.entries - before;
        self.line(&ArcEnd { arc: through.to_owned(), time, entries })?;
        self.at.arcs += 1;
        Ok(())
    }

    pub(super) fn entries(&self) -> u64 {
        self.at.entries
    }

    pub(super) fn arcs(&self) -> u64 {
        self.at.arcs
    }

    /// Writes the last line, sees it to the disk, and gives the file its name: its length and its fingerprint.
    pub(super) fn finish(mut self, ended_ms: u64) -> Result<(u64, String), FileError> {
        let end = End { end: self.at.entries, arcs: self.at.arcs, ended_ms, fingerprint: String::new() };
        let fingerprint = fingerprint_of(&self.hasher, &end)?;
        self.line(&End { fingerprint: fingerprint.clone(), ..end })?;
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        fs::rename(&self.part, &self.path)?;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok((self.at.bytes, fingerprint))
    }
}

/// What a whole file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its first line.
    pub head: Head,
    /// Its last line.
    pub end: End,
}

/// Reads a file to its end, and says what it is if it is whole.
///
/// # Errors
/// See [`FileError`].
pub fn check(path: &Path) -> Result<Checked, FileError> {
    let mut reader = FileReader::open(path)?;
    while reader.next_entry()?.is_some() {}
    let FileReader { head, end, entries, .. } = reader;
    Ok(Checked { head, end: end.ok_or(FileError::CutOff { entries })? })
}

/// Reads a file entry by entry. Only what comes to the end without an error is known to be whole.
pub(super) struct FileReader {
    lines: BufReader<File>,
    hasher: blake3::Hasher,
    head: Head,
    line: u64,
    entries: u64,
    arcs: u64,
    arc_entries: u64,
    end: Option<End>,
}

impl FileReader {
    pub(super) fn open(path: &Path) -> Result<FileReader, FileError> {
        let mut lines = BufReader::with_capacity(1 << 16, File::open(path)?);
        // Whatever it is, the first line of a backup is short.
        let mut first = Vec::new();
        lines.by_ref().take(1 << 16).read_until(b'\n', &mut first)?;
        let head = match BackupLine::read(&first) {
            Ok(BackupLine::Head(head)) => head,
            Ok(_) => return Err(FileError::Foreign("its first line is another one".to_owned())),
            Err(error) => return Err(version_of(&first).unwrap_or_else(|| FileError::Foreign(error.to_string()))),
        };
        if head.everring_backup != BACKUP_VERSION {
            return Err(FileError::OtherVersion(head.everring_backup));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&first);
        Ok(FileReader { lines, hasher, head, line: 1, entries: 0, arcs: 0, arc_entries: 0, end: None })
    }

    /// The next entry; none at the end of a whole file.
    pub(super) fn next_entry(&mut self) -> Result<Option<BackupEntry>, FileError> {
        loop {
            let Some(bytes) = self.next_line()? else {
                let entries = self.entries;
                return if self.end.is_some() { Ok(None) } else { Err(FileError::CutOff { entries }) };
            };
            if self.end.is_some() {
                return Err(self.damaged("there is more behind the last line"));
            }
            let read = BackupLine::read(&bytes).map_err(|error| self.damaged(&error.to_string()))?;
            match read {
                BackupLine::Head(_) => return Err(self.damaged("a second first line")),
                BackupLine::Entry(entry) if entry.is_sound() => {
                    self.hasher.update(&bytes);
                    self.entries += 1;
                    self.arc_entries += 1;
                    return Ok(Some(entry));
                }
                BackupLine::Entry(_) => return Err(self.damaged("an entry that holds nothing, or two things")),
                BackupLine::ArcEnd(arc) => {
                    if arc.entries != self.arc_entries {
                        return Err(self.damaged("another number of keys in this arc than is told"));
                    }
                    self.hasher.update(&bytes);
                    self.arcs += 1;
                    self.arc_entries = 0;
                }
                BackupLine::End(end) => {
                    let whole = end.end == self.entries && end.arcs == self.arcs && self.arc_entries == 0;
                    if !whole || end.fingerprint != fingerprint_of(&self.hasher, &end)? {
                        return Err(self.damaged("what comes before is not what was written"));
                    }
                    self.end = Some(end);
                }
            }
        }
    }

    /// The next line with its end; one without is cut off.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>, FileError> {
        let mut bytes = Vec::new();
        self.lines.by_ref().take(LINE_MAX_BYTES).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        if bytes.last() != Some(&b'\n') {
            let too_long = bytes.len() as u64 == LINE_MAX_BYTES;
            return Err(match too_long {
                true => self.damaged("a line without an end"),
                false => FileError::CutOff { entries: self.entries },
            });
        }
        Ok(Some(bytes))
    }

    fn damaged(&self, what: &str) -> FileError {
        FileError::Damaged { line: self.line, what: what.to_owned() }
    }
}

/// The fingerprint of what was hashed so far, and of what the last line says beside it.
fn fingerprint_of(before: &blake3::Hasher, end: &End) -> Result<String, FileError> {
    let bare = End { fingerprint: String::new(), ..end.clone() };
    let mut hasher = before.clone();
    hasher.update(&serde_json::to_vec(&bare).map_err(std::io::Error::from)?);
    Ok(hasher.finalize().to_hex().to_string())
}

/// The version that a first line names which is of another form than ours.
fn version_of(line: &[u8]) -> Option<FileError> {
    let json: serde_json::Value = serde_json::from_slice(line).ok()?;
    let version = u32::try_from(json.get("everring_backup")?.as_u64()?).ok()?;
    (version != BACKUP_VERSION).then_some(FileError::OtherVersion(version))
}

#[cfg(test)]
mod tests {
    use wire::http::BucketDefinition;

    use super::*;

    fn head() -> Head {
        Head {
            everring_backup: BACKUP_VERSION,
            bucket: "b".into(),
            definition: BucketDefinition::default(),
            cluster: "c1".into(),
            epoch: 1,
            began_ms: 2,
        }
    }

    fn entry(at: u64) -> BackupEntry {
        BackupEntry { key: format!("k{at}"), number: Some(at as i64), ..BackupEntry::default() }
    }

    /// A file of two arcs, one of which was begun twice.
    fn written(directory: &Path) -> PathBuf {
        let path = directory.join("b.backup");
        let mut file = FileWriter::create(&path, &head()).expect("a new file");
        file.entry(&entry(1)).expect("room");
        file.end_arc("01", 5).expect("room");
        file.entry(&entry(7)).expect("room");
        file.entry(&entry(8)).expect("room");
        assert!(file.is_within_arc() && !path.exists(), "it has its name when it is whole");
        file.roll_back().expect("room");
        file.entry(&entry(2)).expect("room");
        file.entry(&entry(3)).expect("room");
        file.end_arc("02", 6).expect("room");
        file.end_arc("03", 7).expect("an empty arc");
        let (bytes, _) = file.finish(9).expect("room");
        assert_eq!(bytes, fs::metadata(&path).expect("it is there").len());
        path
    }

    #[test]
    fn a_file_reads_back_as_it_was_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = written(directory.path());
        let checked = check(&path).expect("whole");
        assert_eq!((checked.head, checked.end.end, checked.end.arcs), (head(), 3, 3));
        let mut reader = FileReader::open(&path).expect("whole");
        let entries: Vec<_> = std::iter::from_fn(|| reader.next_entry().expect("whole")).collect();
        assert_eq!(entries, [entry(1), entry(2), entry(3)]);
    }

    #[test]
    fn a_file_that_was_cut_off_or_changed_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = written(directory.path());
        let whole = fs::read(&path).expect("it is there");
        let changed = directory.path().join("changed");
        for length in 0..whole.len() {
            fs::write(&changed, &whole[..length]).expect("room");
            let why = check(&changed).expect_err("cut off");
            let first = whole.iter().position(|byte| *byte == b'\n').expect("lines");
            assert_eq!(length >= first, matches!(why, FileError::CutOff { .. }), "{length}: {why:?}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&changed, &bytes).expect("room");
            assert!(check(&changed).is_err(), "byte {at} of {}", String::from_utf8_lossy(&bytes));
        }
        fs::write(&changed, [&whole[..], b"\n"].concat()).expect("room");
        assert!(matches!(check(&changed), Err(FileError::Damaged { .. })), "more behind the end");
    }

    #[test]
    fn what_is_no_backup_says_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("other");
        for text in ["", "hello\n", "{}\n", "{\"key\":\"k\",\"number\":1}\n"] {
            fs::write(&path, text).expect("room");
            assert!(matches!(check(&path), Err(FileError::Foreign(_))), "{text}");
        }
        fs::write(&path, "{\"everring_backup\":2,\"new\":true}\n").expect("room");
        assert!(matches!(check(&path), Err(FileError::OtherVersion(2))));
        assert!(matches!(check(&directory.path().join("none")), Err(FileError::Io(_))));
    }
}
