//! The words of a backup: what a gateway tells of a bucket, key by key, and what a backup's file holds.
//!
//! A file is JSON, one document a line: [`Head`], then the entries of each arc followed by an [`ArcEnd`], at last an
//! [`End`] with counts and a fingerprint of all that. So it can be read with any tool, and a file that was
//! cut off or changed is told from a whole one before anything is done with it.

use serde::{Deserialize, Serialize};

use crate::http::BucketDefinition;

/// The form's version, in a file's first line.
pub const BACKUP_VERSION: u32 = 1;

/// One key with all that it holds: exactly one of the four is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupEntry {
    /// The key.
    pub key: String,
    /// Its value; of an available bucket perhaps several, side by side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<BackupValue>>,
    /// A counter's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    /// A set's elements, each in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elements: Option<Vec<String>>,
    /// A map's fields: name and value, each in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<(String, String)>>,
}

/// One value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupValue {
    /// The bytes, in base64.
    pub value: String,
    /// Their media type; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content_type: String,
    /// How long it had still to live when it was read, in milliseconds; none for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// The last line of each answer of `GET /v1/backup/{bucket}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPage {
    /// Entries in this answer.
    pub entries: u64,
    /// Whether this is the first part of its arc. What was told of an arc that was not told to the end is void then:
    /// its cut was lost, and the arc begins again with another one.
    pub begins: bool,
    /// Whether it is the last part of its arc.
    pub ends: bool,
    /// The position at which the arc ends, 16 hex digits.
    pub through: String,
    /// The time of the cut that the arc's entries are of, on the Lamport scale; 0 of an available bucket, whose keys
    /// are read one by one.
    pub time: u64,
    /// The cluster, 16 hex digits.
    pub cluster: String,
    /// The epoch in which it was told.
    pub epoch: u64,
    /// Where to go on; none when all is told.
    pub next: Option<String>,
}

/// A page on its own line, told from an entry by its only member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupPageLine {
    /// The page.
    pub page: BackupPage,
}

/// A file's first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The form's version: [`BACKUP_VERSION`].
    pub everring_backup: u32,
    /// The bucket's name.
    pub bucket: String,
    /// How it is defined.
    pub definition: BucketDefinition,
    /// The cluster that it is of, 16 hex digits.
    pub cluster: String,
    /// The view's epoch when the backup began.
    pub epoch: u64,
    /// When it began, milliseconds of the Unix epoch.
    pub began_ms: u64,
}

/// The line behind an arc's entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArcEnd {
    /// The position at which the arc ends, 16 hex digits.
    pub arc: String,
    /// As [`BackupPage::time`].
    pub time: u64,
    /// Entries of it.
    pub entries: u64,
}

/// A file's last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// That this is the end: how many entries there are.
    pub end: u64,
    /// How many arcs.
    pub arcs: u64,
    /// When the backup was complete, milliseconds of the Unix epoch.
    pub ended_ms: u64,
    /// BLAKE3, in hex, of all lines before this one, line ends included, and of this one with an empty fingerprint and
    /// without its end.
    pub fingerprint: String,
}

/// A file's line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupLine {
    /// The first one.
    Head(Head),
    /// A key.
    Entry(BackupEntry),
    /// The end of an arc.
    ArcEnd(ArcEnd),
    /// The last one.
    End(End),
}

impl BackupEntry {
    /// Whether it holds exactly one kind of thing, and something of it.
    pub fn is_sound(&self) -> bool {
        let BackupEntry { key, values, number, elements, fields } = self;
        let kinds = [values.is_some(), number.is_some(), elements.is_some(), fields.is_some()];
        let values = values.as_ref().is_none_or(|values| !values.is_empty());
        (1..=crate::http::KEY_MAX_BYTES).contains(&key.len()) && kinds.iter().filter(|is| **is).count() == 1 && values
    }
}

impl BackupLine {
    /// Reads a line.
    ///
    /// # Errors
    /// It is none of the four kinds.
    pub fn read(line: &[u8]) -> Result<BackupLine, serde_json::Error> {
        // Each kind has a member that no other has; which one it is decides what the error is about.
        #[derive(Deserialize)]
        struct Kind {
            everring_backup: Option<serde_json::Value>,
            arc: Option<serde_json::Value>,
            end: Option<serde_json::Value>,
        }
        let kind: Kind = serde_json::from_slice(line)?;
        Ok(match kind {
            Kind { everring_backup: Some(_), .. } => BackupLine::Head(serde_json::from_slice(line)?),
            Kind { arc: Some(_), .. } => BackupLine::ArcEnd(serde_json::from_slice(line)?),
            Kind { end: Some(_), .. } => BackupLine::End(serde_json::from_slice(line)?),
            _ => BackupLine::Entry(serde_json::from_slice(line)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart_and_come_back_as_they_were() {
        let head = Head {
            everring_backup: BACKUP_VERSION,
            bucket: "records".into(),
            definition: BucketDefinition::default(),
            cluster: "00000000000000c1".into(),
            epoch: 3,
            began_ms: 5,
        };
        let value = BackupValue { value: "dg==".into(), content_type: "text/plain".into(), ttl_ms: Some(7) };
        let entry = BackupEntry { key: "end".into(), values: Some(vec![value]), ..BackupEntry::default() };
        let counter = BackupEntry { key: "arc".into(), number: Some(-1), ..BackupEntry::default() };
        let arc = ArcEnd { arc: "0000000000000009".into(), time: 300, entries: 2 };
        let end = End { end: 2, arcs: 1, ended_ms: 9, fingerprint: "ab".into() };
        for (json, line) in [
            (serde_json::to_string(&head), BackupLine::Head(head)),
            (serde_json::to_string(&entry), BackupLine::Entry(entry)),
            (serde_json::to_string(&counter), BackupLine::Entry(counter)),
            (serde_json::to_string(&arc), BackupLine::ArcEnd(arc)),
            (serde_json::to_string(&end), BackupLine::End(end)),
        ] {
            assert_eq!(BackupLine::read(json.expect("JSON").as_bytes()).expect("a line"), line);
        }
        for broken in ["", "{}", "7", "{\"key\":\"k\",\"vale\":1}", "{\"arc\":\"a\"}", "{\"everring_backup\":1}"] {
            assert!(BackupLine::read(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn an_entry_holds_one_kind_of_thing() {
        let key = || BackupEntry { key: "k".into(), ..BackupEntry::default() };
        assert!(!key().is_sound());
        assert!(BackupEntry { number: Some(0), ..key() }.is_sound());
        assert!(!BackupEntry { number: Some(0), elements: Some(vec![]), ..key() }.is_sound());
        assert!(!BackupEntry { values: Some(vec![]), ..key() }.is_sound());
        assert!(!BackupEntry { number: Some(0), ..BackupEntry::default() }.is_sound(), "no key");
    }
}
