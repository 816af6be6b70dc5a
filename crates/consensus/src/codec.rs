//! What travels between replicas, and what stands in the log, as bytes. Written by hand: nothing that comes from
//! outside is given to the parser of the protobuf crate that Raft's types were made with.

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot};

use crate::roster::Member;

/// The longest list of entries or identities that is believed.
const LIST_MAX: usize = 1 << 20;

/// What one replica sends to another.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// A message of Raft's.
    Raft(Box<Message>),
    /// A proposal for whoever leads.
    Forward(Vec<u8>),
    /// Asks whether there is a discovery already.
    Ask,
    /// Whether the sender is part of one, and whether the receiver was taken out of it for good.
    Tell {
        /// Part of one.
        formed: bool,
        /// Taken out.
        removed: bool,
    },
    /// The sender wants to be a member, or its addresses have changed.
    Introduce(Member),
}

/// The bytes are no frame: the connection they came over is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not what a replica sends")]
pub struct FrameError;

impl Frame {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Frame::Raft(message) => {
                out.byte(1);
                out.message(message);
            }
            Frame::Forward(request) => {
                out.byte(2);
                out.bytes(request);
            }
            Frame::Ask => out.byte(3),
            Frame::Tell { formed, removed } => {
                out.byte(4);
                out.byte(u8::from(*formed));
                out.byte(u8::from(*removed));
            }
            Frame::Introduce(member) => {
                out.byte(5);
                out.number(member.id);
                for text in [&member.name, &member.peer, &member.http] {
                    out.bytes(text.as_bytes());
                }
            }
        }
        out.0
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are no frame of this version.
    pub fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
        let mut from = Reader(bytes);
        let frame = match from.byte()? {
            1 => Frame::Raft(Box::new(from.message()?)),
            2 => Frame::Forward(from.bytes()?.to_vec()),
            3 => Frame::Ask,
            4 => Frame::Tell { formed: from.truth()?, removed: from.truth()? },
            5 => Frame::Introduce(Member {
                id: from.number()?,
                name: from.text()?,
                peer: from.text()?,
                http: from.text()?,
            }),
            _ => return Err(FrameError),
        };
        from.end(frame)
    }
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    /// An entry; it replaces those from its index on.
    Entry(Entry),
    /// Term, vote, and how far is surely committed.
    Hard(HardState),
}

impl Record {
    pub(crate) fn entry(entry: &Entry) -> Vec<u8> {
        let mut out = Writer::default();
        out.byte(1);
        out.entry(entry);
        out.0
    }

    pub(crate) fn hard(state: &HardState) -> Vec<u8> {
        let mut out = Writer::default();
        out.byte(2);
        for number in [state.term, state.vote, state.commit] {
            out.number(number);
        }
        out.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Record, FrameError> {
        let mut from = Reader(bytes);
        let record = match from.byte()? {
            1 => Record::Entry(from.entry()?),
            2 => {
                let (term, vote, commit) = (from.number()?, from.number()?, from.number()?);
                Record::Hard(HardState { term, vote, commit, ..HardState::default() })
            }
            _ => return Err(FrameError),
        };
        from.end(record)
    }
}

#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn entry(&mut self, entry: &Entry) {
        self.byte(entry.entry_type as u8);
        self.number(entry.term);
        self.number(entry.index);
        self.bytes(&entry.data);
        self.bytes(&entry.context);
    }

    pub(crate) fn configuration(&mut self, state: &ConfState) {
        for list in [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next] {
            self.number(list.len() as u64);
            list.iter().for_each(|id| self.number(*id));
        }
        self.byte(u8::from(state.auto_leave));
    }

    fn message(&mut self, message: &Message) {
        self.byte(message.msg_type as u8);
        let Message { to, from, term, log_term, index, commit, commit_term, request_snapshot, reject_hint, .. } =
            message;
        for number in [to, from, term, log_term, index, commit, commit_term, request_snapshot, reject_hint] {
            self.number(*number);
        }
        self.byte(u8::from(message.reject));
        self.number(message.priority.cast_unsigned());
        self.bytes(&message.context);
        self.number(message.entries.len() as u64);
        message.entries.iter().for_each(|entry| self.entry(entry));
        match message.snapshot.as_ref() {
            None => self.byte(0),
            Some(snapshot) => {
                self.byte(1);
                let metadata = snapshot.get_metadata();
                self.number(metadata.index);
                self.number(metadata.term);
                self.configuration(metadata.get_conf_state());
                self.bytes(&snapshot.data);
            }
        }
    }
}

pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, FrameError> {
        let (first, rest) = self.0.split_first().ok_or(FrameError)?;
        self.0 = rest;
        Ok(*first)
    }

    fn truth(&mut self) -> Result<bool, FrameError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FrameError),
        }
    }

    pub(crate) fn number(&mut self) -> Result<u64, FrameError> {
        let (first, rest) = self.0.split_first_chunk::<8>().ok_or(FrameError)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*first))
    }

    /// A length that the rest can hold, each thing taking at least `each` bytes: so nothing is reserved in vain.
    fn length(&mut self, each: usize) -> Result<usize, FrameError> {
        let length = usize::try_from(self.number()?).map_err(|_| FrameError)?;
        if length > self.0.len() / each { Err(FrameError) } else { Ok(length) }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], FrameError> {
        let length = self.length(1)?;
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<String, FrameError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| FrameError)
    }

    fn entry(&mut self) -> Result<Entry, FrameError> {
        let entry_type = match self.byte()? {
            0 => EntryType::EntryNormal,
            1 => EntryType::EntryConfChange,
            2 => EntryType::EntryConfChangeV2,
            _ => return Err(FrameError),
        };
        let (term, index) = (self.number()?, self.number()?);
        let (data, context) = (Bytes::copy_from_slice(self.bytes()?), Bytes::copy_from_slice(self.bytes()?));
        Ok(Entry { entry_type, term, index, data, context, ..Entry::default() })
    }

    pub(crate) fn configuration(&mut self) -> Result<ConfState, FrameError> {
        let mut list = || -> Result<Vec<u64>, FrameError> {
            let length = self.length(8)?;
            if length > LIST_MAX {
                return Err(FrameError);
            }
            (0..length).map(|_| self.number()).collect()
        };
        let (voters, learners, voters_outgoing, learners_next) = (list()?, list()?, list()?, list()?);
        let auto_leave = self.truth()?;
        Ok(ConfState { voters, learners, voters_outgoing, learners_next, auto_leave, ..ConfState::default() })
    }

    fn message(&mut self) -> Result<Message, FrameError> {
        let msg_type = message_type(self.byte()?)?;
        let mut message = Message { msg_type, ..Message::default() };
        for field in [
            &mut message.to,
            &mut message.from,
            &mut message.term,
            &mut message.log_term,
            &mut message.index,
            &mut message.commit,
            &mut message.commit_term,
            &mut message.request_snapshot,
            &mut message.reject_hint,
        ] {
            *field = self.number()?;
        }
        message.reject = self.truth()?;
        message.priority = self.number()?.cast_signed();
        message.context = Bytes::copy_from_slice(self.bytes()?);
        let entries = self.length(33)?;
        if entries > LIST_MAX {
            return Err(FrameError);
        }
        for _ in 0..entries {
            message.entries.push(self.entry()?);
        }
        if self.truth()? {
            let mut snapshot = Snapshot::default();
            snapshot.mut_metadata().index = self.number()?;
            snapshot.mut_metadata().term = self.number()?;
            *snapshot.mut_metadata().mut_conf_state() = self.configuration()?;
            snapshot.data = Bytes::copy_from_slice(self.bytes()?);
            message.set_snapshot(snapshot);
        }
        Ok(message)
    }

    pub(crate) fn end<T>(self, value: T) -> Result<T, FrameError> {
        if self.0.is_empty() { Ok(value) } else { Err(FrameError) }
    }
}

/// Only what replicas say to each other: Raft's notes to itself are no messages, and proposals have a frame of their
/// own.
fn message_type(byte: u8) -> Result<MessageType, FrameError> {
    use MessageType::{
        MsgAppend, MsgAppendResponse, MsgHeartbeat, MsgHeartbeatResponse, MsgReadIndex, MsgReadIndexResp,
        MsgRequestPreVote, MsgRequestPreVoteResponse, MsgRequestVote, MsgRequestVoteResponse, MsgSnapshot,
        MsgTimeoutNow, MsgTransferLeader,
    };
    let known = [
        MsgAppend,
        MsgAppendResponse,
        MsgHeartbeat,
        MsgHeartbeatResponse,
        MsgReadIndex,
        MsgReadIndexResp,
        MsgRequestPreVote,
        MsgRequestPreVoteResponse,
        MsgRequestVote,
        MsgRequestVoteResponse,
        MsgSnapshot,
        MsgTimeoutNow,
        MsgTransferLeader,
    ];
    known.into_iter().find(|kind| *kind as u8 == byte).ok_or(FrameError)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Frame> {
        let entry = |index, kind| Entry {
            entry_type: kind,
            term: 3,
            index,
            data: Bytes::from_static(b"data"),
            context: Bytes::from_static(b"context"),
            ..Entry::default()
        };
        let mut append = Message { to: 1, from: u64::MAX, term: 4, log_term: 3, index: 9, ..Message::default() };
        append.msg_type = MessageType::MsgAppend;
        append.entries = vec![entry(10, EntryType::EntryNormal), entry(11, EntryType::EntryConfChangeV2)].into();
        append.priority = -1;
        append.reject = true;
        let mut install = Message { msg_type: MessageType::MsgSnapshot, ..Message::default() };
        install.mut_snapshot().data = Bytes::from_static(b"image");
        install.mut_snapshot().mut_metadata().index = 7;
        let voters = ConfState { voters: vec![1, 2], learners: vec![3], auto_leave: true, ..ConfState::default() };
        *install.mut_snapshot().mut_metadata().mut_conf_state() = voters;
        let member = Member { id: 5, name: "d1".into(), peer: "a:1".into(), http: "a:2".into() };
        vec![
            Frame::Raft(Box::new(append)),
            Frame::Raft(Box::new(install)),
            Frame::Forward(b"{}".to_vec()),
            Frame::Ask,
            Frame::Tell { formed: true, removed: false },
            Frame::Introduce(member),
        ]
    }

    #[test]
    fn what_is_written_is_read_and_what_is_cut_or_longer_is_refused() {
        for frame in samples() {
            let bytes = frame.encode();
            assert_eq!(Frame::decode(&bytes), Ok(frame));
            for end in 0..bytes.len() {
                assert_eq!(Frame::decode(&bytes[..end]), Err(FrameError), "cut at {end}");
            }
            assert_eq!(Frame::decode(&[bytes, vec![0]].concat()), Err(FrameError));
        }
    }

    #[test]
    fn no_flipped_bit_makes_it_panic_or_reserve_much() {
        for frame in samples() {
            let bytes = frame.encode();
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let _ = Frame::decode(&bad);
                let _ = Record::decode(&bad);
            }
        }
    }

    #[test]
    fn raft_s_notes_to_itself_are_not_taken_from_others() {
        for kind in [MessageType::MsgHup, MessageType::MsgBeat, MessageType::MsgPropose, MessageType::MsgCheckQuorum] {
            let message = Message { msg_type: kind, ..Message::default() };
            assert_eq!(Frame::decode(&Frame::Raft(Box::new(message)).encode()), Err(FrameError), "{kind:?}");
        }
    }
}
