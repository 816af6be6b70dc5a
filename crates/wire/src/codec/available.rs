//! What replicas of available keys say to each other, what they keep on disk, and the operations on such keys.

use available::{
    Action, Actor, Body, Change, Claim, Context, Dot, Effect, Entry, EntryBody, Kind, Ledger, Level, Message,
    Operation, Outcome, Past, PastRequest, Print, Question, Range, RangeAnswer, Receipt, Record, Refusal, Seen,
    ShortHash, Shown, State, VersionVector, Wanted, Write,
};
use membership::{Epoch, NodeId};
use replication::{RegisterKey, RequestId};

use super::bytes_io::{Reader, Writer};
use super::error::CodecError;
use super::registers::{KEY_BYTES_MIN, read_key, read_value, read_view, write_key, write_value, write_view};
use super::tenures::{TENURE_BYTES_MIN, read_tenure, write_tenure};

/// The shortest actor.
pub(super) const ACTOR_BYTES_MIN: usize = 8 + 1;
/// The shortest entry: dot, request, time, order, session, flag, body.
const ENTRY_BYTES_MIN: usize = ACTOR_BYTES_MIN + 1 + 16 + 1 + 1 + 8 + 1 + 1;
/// The shortest remembered request: dot, request, time, flag.
const PAST_BYTES_MIN: usize = ACTOR_BYTES_MIN + 1 + 16 + 1 + 1;

pub(super) fn write_actor(w: &mut Writer<'_>, actor: Actor) {
    w.fixed_u64(actor.node.0);
    w.varint(actor.birth);
}

pub(super) fn read_actor(r: &mut Reader) -> Result<Actor, CodecError> {
    Ok(Actor { node: NodeId(r.fixed_u64()?), birth: r.varint()? })
}

pub(super) fn write_dot(w: &mut Writer<'_>, dot: Dot) {
    write_actor(w, dot.actor);
    w.varint(dot.counter);
}

pub(super) fn read_dot(r: &mut Reader) -> Result<Dot, CodecError> {
    Ok(Dot { actor: read_actor(r)?, counter: r.varint()? })
}

pub(super) fn write_vector(w: &mut Writer<'_>, vector: &VersionVector) {
    w.varint(vector.len() as u64);
    for (actor, counter) in vector.iter() {
        write_actor(w, actor);
        w.varint(counter);
    }
}

pub(super) fn read_vector(r: &mut Reader) -> Result<VersionVector, CodecError> {
    let entries = r.list(ACTOR_BYTES_MIN + 1, |r| Ok((read_actor(r)?, r.varint()?)))?;
    Ok(entries.into_iter().collect())
}

pub(super) fn write_context(w: &mut Writer<'_>, context: &Context) {
    write_vector(w, &context.vector);
    w.list(context.dots(), |w, dot| write_dot(w, *dot));
    w.list(&context.requests, |w, request| w.fixed_u128(request.0));
}

pub(super) fn read_context(r: &mut Reader) -> Result<Context, CodecError> {
    let mut context = Context::new(read_vector(r)?, r.list(ACTOR_BYTES_MIN + 1, read_dot)?);
    context.requests = r.list(16, |r| r.fixed_u128().map(RequestId))?;
    Ok(context)
}

fn write_kind(w: &mut Writer<'_>, kind: Kind) {
    w.u8(match kind {
        Kind::Value => 0,
        Kind::LastWriter => 1,
        Kind::Counter => 2,
        Kind::Set => 3,
        Kind::Map => 4,
    });
}

fn read_kind(r: &mut Reader) -> Result<Kind, CodecError> {
    Ok(match r.u8()? {
        0 => Kind::Value,
        1 => Kind::LastWriter,
        2 => Kind::Counter,
        3 => Kind::Set,
        4 => Kind::Map,
        tag => return Err(CodecError::UnknownTag { noun: "merge type", tag }),
    })
}

fn write_entry(w: &mut Writer<'_>, entry: &Entry) {
    write_dot(w, entry.dot);
    w.fixed_u128(entry.request.0);
    w.varint(entry.first_sent_ms);
    w.varint(entry.order);
    w.fixed_u64(entry.session);
    w.bool(entry.existed);
    match &entry.body {
        EntryBody::Value(value) => {
            w.u8(1);
            write_value(w, value);
        }
        EntryBody::Amount(by) => {
            w.u8(2);
            w.signed(*by);
        }
        EntryBody::Element(element) => {
            w.u8(3);
            w.bytes(element);
        }
        EntryBody::Field { name, value } => {
            w.u8(4);
            w.bytes(name);
            w.bytes(value);
        }
        EntryBody::Deleted => w.u8(5),
    }
}

fn read_entry(r: &mut Reader) -> Result<Entry, CodecError> {
    Ok(Entry {
        dot: read_dot(r)?,
        request: RequestId(r.fixed_u128()?),
        first_sent_ms: r.varint()?,
        order: r.varint()?,
        session: r.fixed_u64()?,
        existed: r.bool()?,
        body: match r.u8()? {
            1 => EntryBody::Value(read_value(r)?),
            2 => EntryBody::Amount(r.signed()?),
            3 => EntryBody::Element(r.bytes()?),
            4 => EntryBody::Field { name: r.bytes()?, value: r.bytes()? },
            5 => EntryBody::Deleted,
            tag => return Err(CodecError::UnknownTag { noun: "entry", tag }),
        },
    })
}

fn write_past(w: &mut Writer<'_>, past: &PastRequest) {
    write_dot(w, past.dot);
    w.fixed_u128(past.request.0);
    w.varint(past.first_sent_ms);
    w.bool(past.existed);
}

fn read_past(r: &mut Reader) -> Result<PastRequest, CodecError> {
    Ok(PastRequest {
        dot: read_dot(r)?,
        request: RequestId(r.fixed_u128()?),
        first_sent_ms: r.varint()?,
        existed: r.bool()?,
    })
}

fn write_ledger(w: &mut Writer<'_>, ledger: &Ledger) {
    write_actor(w, ledger.actor);
    w.varint(ledger.closed);
    w.varint(ledger.folded);
    w.signed(ledger.sum);
    w.varint(ledger.base_folded);
    w.signed(ledger.base);
}

fn read_ledger(r: &mut Reader) -> Result<Ledger, CodecError> {
    Ok(Ledger {
        actor: read_actor(r)?,
        closed: r.varint()?,
        folded: r.varint()?,
        sum: r.signed()?,
        base_folded: r.varint()?,
        base: r.signed()?,
    })
}

fn write_state(w: &mut Writer<'_>, state: &State) {
    write_kind(w, state.kind);
    write_context(w, &state.context);
    w.list(&state.entries, write_entry);
    w.list(&state.past, write_past);
    w.list(&state.ledgers, write_ledger);
    w.varint(state.horizon_ms);
    w.varint(state.deps);
}

/// Lists that are to be sorted come sorted, or not at all: the core searches them.
fn sorted<T, K: Ord>(list: Vec<T>, key: impl Fn(&T) -> K) -> Result<Vec<T>, CodecError> {
    if list.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])) { Ok(list) } else { Err(CodecError::Number) }
}

fn read_state(r: &mut Reader) -> Result<State, CodecError> {
    Ok(State {
        kind: read_kind(r)?,
        context: read_context(r)?,
        entries: sorted(r.list(ENTRY_BYTES_MIN, read_entry)?, |entry| entry.dot)?,
        past: sorted(r.list(PAST_BYTES_MIN, read_past)?, PastRequest::key)?,
        ledgers: sorted(r.list(ACTOR_BYTES_MIN + 5, read_ledger)?, |ledger| ledger.actor)?,
        horizon_ms: r.varint()?,
        deps: r.varint()?,
    })
}

fn write_states(w: &mut Writer<'_>, entries: &[(RegisterKey, State)]) {
    w.list(entries, |w, (key, state)| {
        write_key(w, key);
        write_state(w, state);
    });
}

fn read_states(r: &mut Reader) -> Result<Vec<(RegisterKey, State)>, CodecError> {
    r.list(KEY_BYTES_MIN + 8, |r| Ok((read_key(r)?, read_state(r)?)))
}

fn write_change(w: &mut Writer<'_>, change: &Change) {
    match change {
        Change::Put(value) => {
            w.u8(1);
            write_value(w, value);
        }
        Change::Delete => w.u8(2),
        Change::Add(by) => {
            w.u8(3);
            w.signed(*by);
        }
        Change::Insert(element) => {
            w.u8(4);
            w.bytes(element);
        }
        Change::Remove(element) => {
            w.u8(5);
            w.bytes(element);
        }
        Change::Set { name, value } => {
            w.u8(6);
            w.bytes(name);
            w.bytes(value);
        }
        Change::Unset(name) => {
            w.u8(7);
            w.bytes(name);
        }
    }
}

fn read_change(r: &mut Reader) -> Result<Change, CodecError> {
    Ok(match r.u8()? {
        1 => Change::Put(read_value(r)?),
        2 => Change::Delete,
        3 => Change::Add(r.signed()?),
        4 => Change::Insert(r.bytes()?),
        5 => Change::Remove(r.bytes()?),
        6 => Change::Set { name: r.bytes()?, value: r.bytes()? },
        7 => Change::Unset(r.bytes()?),
        tag => return Err(CodecError::UnknownTag { noun: "change", tag }),
    })
}

fn write_write(w: &mut Writer<'_>, write: &Write) {
    write_key(w, &write.key);
    write_kind(w, write.kind);
    w.fixed_u128(write.request.0);
    w.varint(write.first_sent_ms);
    w.option(write.context.as_ref(), write_context);
    w.varint(write.order);
    w.bool(write.firm);
    write_change(w, &write.change);
}

fn read_write(r: &mut Reader) -> Result<Write, CodecError> {
    Ok(Write {
        key: read_key(r)?,
        kind: read_kind(r)?,
        request: RequestId(r.fixed_u128()?),
        first_sent_ms: r.varint()?,
        context: r.option(read_context)?,
        order: r.varint()?,
        firm: r.bool()?,
        change: read_change(r)?,
    })
}

pub(super) fn write_operation(w: &mut Writer<'_>, operation: &Operation) {
    write_key(w, &operation.key);
    w.u8(match operation.level {
        Level::Eventual => 0,
        Level::Causal => 1,
    });
    w.fixed_u64(operation.past.session);
    w.varint(operation.past.epoch.0);
    w.varint(operation.past.bound);
    write_vector(w, &operation.past.seen);
    w.bool(operation.stand_in);
    match &operation.action {
        Action::Read { kind } => {
            w.u8(1);
            write_kind(w, *kind);
        }
        Action::Write(write) => {
            w.u8(2);
            write_write(w, write);
        }
        Action::Outcome { request } => {
            w.u8(3);
            w.fixed_u128(request.0);
        }
    }
}

pub(super) fn read_operation(r: &mut Reader) -> Result<Operation, CodecError> {
    let key = read_key(r)?;
    let level = match r.u8()? {
        0 => Level::Eventual,
        1 => Level::Causal,
        tag => return Err(CodecError::UnknownTag { noun: "level", tag }),
    };
    let (session, epoch) = (r.fixed_u64()?, Epoch(r.varint()?));
    let past = Past { session, bound: r.varint()?, seen: read_vector(r)?, epoch };
    let stand_in = r.bool()?;
    let action = match r.u8()? {
        1 => Action::Read { kind: read_kind(r)? },
        2 => Action::Write(read_write(r)?),
        3 => Action::Outcome { request: RequestId(r.fixed_u128()?) },
        tag => return Err(CodecError::UnknownTag { noun: "action", tag }),
    };
    Ok(Operation { key, level, past, stand_in, action })
}

fn write_effect(w: &mut Writer<'_>, effect: &Effect) {
    w.u8(match effect {
        Effect::Created => 1,
        Effect::Replaced => 2,
        Effect::Deleted => 3,
        Effect::Hinted => 4,
    });
}

fn read_effect(r: &mut Reader) -> Result<Effect, CodecError> {
    Ok(match r.u8()? {
        1 => Effect::Created,
        2 => Effect::Replaced,
        3 => Effect::Deleted,
        4 => Effect::Hinted,
        tag => return Err(CodecError::UnknownTag { noun: "effect", tag }),
    })
}

fn write_refusal(w: &mut Writer<'_>, refusal: &Refusal) {
    match refusal {
        Refusal::NotReplica(epoch) => {
            w.u8(1);
            w.varint(epoch.0);
        }
        Refusal::NoQuorum => w.u8(2),
        Refusal::Overloaded => w.u8(3),
        Refusal::DiskFull => w.u8(4),
        Refusal::Draining => w.u8(5),
        Refusal::Refilling => w.u8(6),
        Refusal::TooOld => w.u8(7),
        Refusal::TooManySiblings => w.u8(8),
        Refusal::TooLarge => w.u8(9),
        Refusal::OtherKind(kind) => {
            w.u8(10);
            write_kind(w, *kind);
        }
        Refusal::Behind(order) => {
            w.u8(11);
            w.varint(*order);
        }
    }
}

fn read_refusal(r: &mut Reader) -> Result<Refusal, CodecError> {
    Ok(match r.u8()? {
        1 => Refusal::NotReplica(Epoch(r.varint()?)),
        2 => Refusal::NoQuorum,
        3 => Refusal::Overloaded,
        4 => Refusal::DiskFull,
        5 => Refusal::Draining,
        6 => Refusal::Refilling,
        7 => Refusal::TooOld,
        8 => Refusal::TooManySiblings,
        9 => Refusal::TooLarge,
        10 => Refusal::OtherKind(read_kind(r)?),
        11 => Refusal::Behind(r.varint()?),
        tag => return Err(CodecError::UnknownTag { noun: "refusal", tag }),
    })
}

fn write_seen(w: &mut Writer<'_>, seen: &Seen) {
    write_context(w, &seen.context);
    write_vector(w, &seen.vector);
    w.varint(seen.deps);
    w.varint(seen.time);
    w.varint(seen.epoch.0);
}

fn read_seen(r: &mut Reader) -> Result<Seen, CodecError> {
    let (context, vector) = (read_context(r)?, read_vector(r)?);
    Ok(Seen { context, vector, deps: r.varint()?, time: r.varint()?, epoch: Epoch(r.varint()?) })
}

fn write_shown(w: &mut Writer<'_>, shown: &Shown) {
    match shown {
        Shown::Nothing => w.u8(0),
        Shown::Values(values) => {
            w.u8(1);
            w.list(values, |w, (dot, value)| {
                write_dot(w, *dot);
                write_value(w, value);
            });
        }
        Shown::Number(number) => {
            w.u8(2);
            w.signed(*number);
        }
        Shown::Elements(elements) => {
            w.u8(3);
            w.list(elements, |w, element| w.bytes(element));
        }
        Shown::Fields(fields) => {
            w.u8(4);
            w.list(fields, |w, (name, value)| {
                w.bytes(name);
                w.bytes(value);
            });
        }
    }
}

fn read_shown(r: &mut Reader) -> Result<Shown, CodecError> {
    Ok(match r.u8()? {
        0 => Shown::Nothing,
        1 => Shown::Values(r.list(ACTOR_BYTES_MIN + 3, |r| Ok((read_dot(r)?, read_value(r)?)))?),
        2 => Shown::Number(r.signed()?),
        3 => Shown::Elements(r.list(1, Reader::bytes)?),
        4 => Shown::Fields(r.list(2, |r| Ok((r.bytes()?, r.bytes()?)))?),
        tag => return Err(CodecError::UnknownTag { noun: "value", tag }),
    })
}

pub(super) fn write_outcome(w: &mut Writer<'_>, outcome: &Outcome) {
    match outcome {
        Outcome::Read { shown, seen } => {
            w.u8(1);
            write_shown(w, shown);
            write_seen(w, seen);
        }
        Outcome::Done { effect, number, seen } => {
            w.u8(2);
            write_effect(w, effect);
            w.option(*number, Writer::signed);
            write_seen(w, seen);
        }
        Outcome::Remembered(found) => {
            w.u8(3);
            w.option(found.as_ref(), |w, (effect, seen)| {
                write_effect(w, effect);
                write_seen(w, seen);
            });
        }
        Outcome::Refused(refusal) => {
            w.u8(4);
            write_refusal(w, refusal);
        }
        Outcome::Unknown => w.u8(5),
    }
}

pub(super) fn read_outcome(r: &mut Reader) -> Result<Outcome, CodecError> {
    Ok(match r.u8()? {
        1 => Outcome::Read { shown: read_shown(r)?, seen: read_seen(r)? },
        2 => Outcome::Done { effect: read_effect(r)?, number: r.option(Reader::signed)?, seen: read_seen(r)? },
        3 => Outcome::Remembered(r.option(|r| Ok((read_effect(r)?, read_seen(r)?)))?),
        4 => Outcome::Refused(read_refusal(r)?),
        5 => Outcome::Unknown,
        tag => return Err(CodecError::UnknownTag { noun: "outcome", tag }),
    })
}

pub(super) fn write_receipt(w: &mut Writer<'_>, receipt: &Receipt) {
    w.varint(receipt.epoch.0);
    w.list(&receipt.voters, |w, node| w.fixed_u64(node.0));
    w.varint(u64::from(receipt.rounds));
}

pub(super) fn read_receipt(r: &mut Reader) -> Result<Receipt, CodecError> {
    Ok(Receipt {
        epoch: Epoch(r.varint()?),
        voters: r.list(8, |r| r.fixed_u64().map(NodeId))?,
        rounds: r.varint_u32()?,
    })
}

fn write_range(w: &mut Writer<'_>, range: &Range) {
    w.fixed_u64(range.first);
    // Ranges get small: most of the last position is that of the first.
    w.varint(range.last - range.first);
}

fn read_range(r: &mut Reader) -> Result<Range, CodecError> {
    let first = r.fixed_u64()?;
    let last = first.checked_add(r.varint()?).ok_or(CodecError::Number)?;
    Ok(Range { first, last })
}

fn write_print(w: &mut Writer<'_>, print: &Print) {
    print.0.iter().for_each(|byte| w.u8(*byte));
}

fn read_print(r: &mut Reader) -> Result<Print, CodecError> {
    let mut print = [0; 12];
    for byte in &mut print {
        *byte = r.u8()?;
    }
    Ok(Print(print))
}

fn write_hashes(w: &mut Writer<'_>, hashes: &[ShortHash]) {
    w.list(hashes, |w, hash| w.fixed_u64(hash.0));
}

fn read_hashes(r: &mut Reader) -> Result<Vec<ShortHash>, CodecError> {
    r.list(8, |r| r.fixed_u64().map(ShortHash))
}

fn write_range_answer(w: &mut Writer<'_>, answer: &RangeAnswer) {
    match answer {
        RangeAnswer::Same => w.u8(0),
        RangeAnswer::Parts(prints) => {
            w.u8(1);
            w.list(prints, write_print);
        }
        RangeAnswer::Leaf(hashes) => {
            w.u8(2);
            write_hashes(w, hashes);
        }
    }
}

fn read_range_answer(r: &mut Reader) -> Result<RangeAnswer, CodecError> {
    Ok(match r.u8()? {
        0 => RangeAnswer::Same,
        1 => RangeAnswer::Parts(r.list(12, read_print)?),
        2 => RangeAnswer::Leaf(read_hashes(r)?),
        tag => return Err(CodecError::UnknownTag { noun: "answer", tag }),
    })
}

fn write_claim(w: &mut Writer<'_>, claim: &Claim) {
    w.varint(claim.low);
    w.varint(claim.high);
}

fn read_claim(r: &mut Reader) -> Result<Claim, CodecError> {
    Ok(Claim { low: r.varint()?, high: r.varint()? })
}

fn write_graves(w: &mut Writer<'_>, keys: &[(RegisterKey, VersionVector)]) {
    w.list(keys, |w, (key, vector)| {
        write_key(w, key);
        write_vector(w, vector);
    });
}

fn read_graves(r: &mut Reader) -> Result<Vec<(RegisterKey, VersionVector)>, CodecError> {
    r.list(KEY_BYTES_MIN + 1, |r| Ok((read_key(r)?, read_vector(r)?)))
}

pub(super) fn write_message(w: &mut Writer<'_>, message: &Message) {
    w.varint(message.epoch.0);
    w.varint(message.clock);
    write_actor(w, message.actor);
    w.varint(message.start);
    write_body(w, &message.body);
}

fn write_body(w: &mut Writer<'_>, body: &Body) {
    match body {
        Body::Store { id, claim, entries } => {
            begin(w, 1, *id);
            w.option(claim.as_ref(), write_claim);
            write_states(w, entries);
        }
        Body::Stored { id, mark, of } => {
            begin(w, 2, *id);
            w.varint(*mark);
            write_actor(w, *of);
        }
        Body::Beat { claim, mark, of, ask } => {
            w.u8(3);
            w.option(claim.as_ref(), write_claim);
            w.varint(*mark);
            write_actor(w, *of);
            w.bool(*ask);
        }
        Body::Read { round, key, digest } => {
            begin(w, 4, *round);
            write_key(w, key);
            w.fixed_u128(*digest);
        }
        Body::Report { round, whole, state } => {
            begin(w, 5, *round);
            w.bool(*whole);
            w.option(state.as_ref(), write_state);
        }
        Body::Take { hint, write, session, deps } => {
            begin(w, 6, *hint);
            write_write(w, write);
            w.fixed_u64(*session);
            w.varint(*deps);
        }
        Body::Taken { hint, refused } => {
            begin(w, 7, *hint);
            w.option(refused.as_ref(), write_refusal);
        }
        Body::Ask { pass, question, ranges } => {
            step(w, 8, *pass, *question);
            w.list(ranges, write_question);
        }
        Body::Tell { pass, question, answers, whole, marks } => {
            step(w, 9, *pass, *question);
            write_told(w, answers, (*whole, marks));
        }
        Body::Want { pass, question, wanted } => {
            step(w, 10, *pass, *question);
            w.list(wanted, |w, wanted| {
                write_range(w, &wanted.range);
                write_hashes(w, &wanted.hashes);
            });
        }
        Body::Have { pass, question, entries } => {
            step(w, 11, *pass, *question);
            write_states(w, entries);
        }
        Body::Bury { keys } => graves(w, 12, keys),
        Body::Buried { keys } => graves(w, 13, keys),
        Body::Drop { keys } => graves(w, 14, keys),
        Body::OtherEpoch { view } => {
            w.u8(15);
            w.option(view.as_ref(), write_view);
        }
        Body::Hints { from_ms } => begin(w, 16, *from_ms),
    }
}

fn write_question(w: &mut Writer<'_>, question: &Question) {
    write_range(w, &question.range);
    w.option(question.print.as_ref(), write_print);
}

fn write_told(w: &mut Writer<'_>, answers: &[RangeAnswer], (whole, marks): (bool, &VersionVector)) {
    w.list(answers, write_range_answer);
    w.bool(whole);
    write_vector(w, marks);
}

fn begin(w: &mut Writer<'_>, tag: u8, number: u64) {
    w.u8(tag);
    w.varint(number);
}

fn step(w: &mut Writer<'_>, tag: u8, pass: u64, question: u32) {
    w.u8(tag);
    w.fixed_u64(pass);
    w.varint(u64::from(question));
}

fn graves(w: &mut Writer<'_>, tag: u8, keys: &[(RegisterKey, VersionVector)]) {
    w.u8(tag);
    write_graves(w, keys);
}

pub(super) fn read_message(r: &mut Reader) -> Result<Message, CodecError> {
    Ok(Message {
        epoch: Epoch(r.varint()?),
        clock: r.varint()?,
        actor: read_actor(r)?,
        start: r.varint()?,
        body: read_body(r)?,
    })
}

fn read_body(r: &mut Reader) -> Result<Body, CodecError> {
    Ok(match r.u8()? {
        1 => Body::Store { id: r.varint()?, claim: r.option(read_claim)?, entries: read_states(r)? },
        2 => Body::Stored { id: r.varint()?, mark: r.varint()?, of: read_actor(r)? },
        3 => Body::Beat { claim: r.option(read_claim)?, mark: r.varint()?, of: read_actor(r)?, ask: r.bool()? },
        4 => Body::Read { round: r.varint()?, key: read_key(r)?, digest: r.fixed_u128()? },
        5 => Body::Report { round: r.varint()?, whole: r.bool()?, state: r.option(read_state)? },
        6 => Body::Take { hint: r.varint()?, write: read_write(r)?, session: r.fixed_u64()?, deps: r.varint()? },
        7 => Body::Taken { hint: r.varint()?, refused: r.option(read_refusal)? },
        8 => Body::Ask {
            pass: r.fixed_u64()?,
            question: r.varint_u32()?,
            ranges: r.list(10, |r| Ok(Question { range: read_range(r)?, print: r.option(read_print)? }))?,
        },
        9 => Body::Tell {
            pass: r.fixed_u64()?,
            question: r.varint_u32()?,
            answers: r.list(1, read_range_answer)?,
            whole: r.bool()?,
            marks: read_vector(r)?,
        },
        10 => Body::Want {
            pass: r.fixed_u64()?,
            question: r.varint_u32()?,
            wanted: r.list(10, |r| Ok(Wanted { range: read_range(r)?, hashes: read_hashes(r)? }))?,
        },
        11 => Body::Have { pass: r.fixed_u64()?, question: r.varint_u32()?, entries: read_states(r)? },
        12 => Body::Bury { keys: read_graves(r)? },
        13 => Body::Buried { keys: read_graves(r)? },
        14 => Body::Drop { keys: read_graves(r)? },
        15 => Body::OtherEpoch { view: r.option(read_view)? },
        16 => Body::Hints { from_ms: r.varint()? },
        tag => return Err(CodecError::UnknownTag { noun: "message", tag }),
    })
}

pub(super) fn write_record(w: &mut Writer<'_>, record: &Record) {
    match record {
        Record::Born(actor) => {
            w.u8(1);
            write_actor(w, *actor);
        }
        Record::Held { key, state } => {
            w.u8(2);
            write_key(w, key);
            write_state(w, state);
        }
        Record::Dropped(key) => {
            w.u8(3);
            write_key(w, key);
        }
        Record::Ceiling(ceiling) => {
            w.u8(4);
            w.varint(*ceiling);
        }
        Record::Mark { actor, counter } => {
            w.u8(5);
            write_actor(w, *actor);
            w.varint(*counter);
        }
        Record::Whole => w.u8(6),
        Record::Hint { id, write, session, deps } => {
            begin(w, 7, *id);
            write_write(w, write);
            w.fixed_u64(*session);
            w.varint(*deps);
        }
        Record::HintGone { id, request } => {
            begin(w, 8, *id);
            w.fixed_u128(request.0);
        }
        Record::Homes { epoch, tenures } => {
            begin(w, 10, epoch.0);
            w.list(tenures, write_tenure);
        }
    }
}

pub(super) fn read_record(r: &mut Reader) -> Result<Record, CodecError> {
    Ok(match r.u8()? {
        1 => Record::Born(read_actor(r)?),
        2 => Record::Held { key: read_key(r)?, state: read_state(r)? },
        3 => Record::Dropped(read_key(r)?),
        4 => Record::Ceiling(r.varint()?),
        5 => Record::Mark { actor: read_actor(r)?, counter: r.varint()? },
        6 => Record::Whole,
        7 => Record::Hint { id: r.varint()?, write: read_write(r)?, session: r.fixed_u64()?, deps: r.varint()? },
        8 => Record::HintGone { id: r.varint()?, request: RequestId(r.fixed_u128()?) },
        10 => Record::Homes { epoch: Epoch(r.varint()?), tenures: r.list(TENURE_BYTES_MIN, read_tenure)? },
        tag => return Err(CodecError::UnknownTag { noun: "record", tag }),
    })
}
