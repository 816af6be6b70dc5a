//! Locks: a register that holds a holder and a queue, and what a call does to it.
//!
//! The order of grants is the order in which calls were applied to the register, which is that of their ballots:
//! Lamport order (Lamport, "Time, clocks, and the ordering of events in a distributed system", 1978). Leases run by the
//! clock of whichever replica coordinates, so two owners may believe to hold a lock at the same time. What keeps that
//! harmless is the fencing token: each grant's is greater than all before, and a write that carries it (`If-Fence`) is
//! refused once a greater one was seen (Kleppmann, "How to do distributed locking", 2016).

use bytes::{BufMut, Bytes, BytesMut};

use crate::coordinator::BATCH_MAX;
use crate::message::State;
use crate::types::{Effect, LockCall, Value, Version};

/// Owners that can wait for one lock. Who comes later is told its place, and is not in the queue.
pub const WAITERS_MAX: usize = 256;
/// How long a lock that nobody holds or waits for is remembered, in milliseconds: a day. The token outlives it.
const IDLE_MS: u64 = 86_400_000;
/// The encoding's first byte.
const FORMAT: u8 = 1;

/// What a lock's register holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// Who has it.
    pub holder: Option<Holder>,
    /// Who waits, first come first.
    pub queue: Vec<Waiter>,
}

/// The owner of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The name it gave.
    pub owner: Bytes,
    /// The grant's fencing token.
    pub fence: u64,
    /// When the lease ends, milliseconds of the Unix epoch.
    pub ends_ms: u64,
}

/// An owner that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// The name it gave.
    pub owner: Bytes,
    /// How long it will hold the lock without renewing it, in milliseconds.
    pub ttl_ms: u64,
    /// Until when it waits, milliseconds of the Unix epoch.
    pub until_ms: u64,
}

impl Lock {
    /// Reads what [`Lock::to_bytes`] wrote; none for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Lock> {
        let mut reader = Reader(bytes);
        if reader.u8()? != FORMAT {
            return None;
        }
        let holder = match reader.u8()? {
            0 => None,
            1 => Some(Holder { fence: reader.u64()?, ends_ms: reader.u64()?, owner: reader.owner()? }),
            _ => return None,
        };
        let waiters = reader.u16()?;
        let mut queue = Vec::new();
        for _ in 0..waiters {
            queue.push(Waiter { ttl_ms: reader.u64()?, until_ms: reader.u64()?, owner: reader.owner()? });
        }
        reader.0.is_empty().then_some(Lock { holder, queue })
    }

    /// The lock as bytes: format, holder (0, or 1 with token, end and owner), queue. Integers big-endian, owners and
    /// the queue with 16 bits of length.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u8(FORMAT);
        match &self.holder {
            None => bytes.put_u8(0),
            Some(Holder { owner, fence, ends_ms }) => {
                bytes.put_u8(1);
                bytes.put_u64(*fence);
                bytes.put_u64(*ends_ms);
                put_owner(&mut bytes, owner);
            }
        }
        bytes.put_u16(self.queue.len() as u16);
        for Waiter { owner, ttl_ms, until_ms } in &self.queue {
            bytes.put_u64(*ttl_ms);
            bytes.put_u64(*until_ms);
            put_owner(&mut bytes, owner);
        }
        bytes.freeze()
    }

    /// A name's place in the queue, from 1.
    pub fn place_of(&self, owner: &[u8]) -> Option<u32> {
        self.queue.iter().position(|waiter| waiter.owner == owner).map(|at| at as u32 + 1)
    }

    /// Takes the lock from a holder whose lease is over, drops who waits no longer, and hands a free lock to the first
    /// in the queue.
    fn settle(&mut self, token: u64, now_ms: u64) {
        self.queue.retain(|waiter| waiter.until_ms > now_ms);
        if self.holder.as_ref().is_some_and(|holder| holder.ends_ms <= now_ms) {
            self.holder = None;
        }
        if self.holder.is_none() && !self.queue.is_empty() {
            let Waiter { owner, ttl_ms, .. } = self.queue.remove(0);
            self.holder = Some(Holder { owner, fence: token, ends_ms: now_ms.saturating_add(ttl_ms) });
        }
    }

    fn held_by(&self, fence: u64) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.fence == fence)
    }
}

/// Applies a call to the register's state as the version `version`, at `now_ms` by the coordinator's clock.
pub(crate) fn apply(state: &mut State, call: &LockCall, version: Version, now_ms: u64) -> Effect {
    let lock = match &state.value {
        None => Some(Lock::default()),
        Some(value) => Lock::from_bytes(&value.body),
    };
    let Some(mut lock) = lock else { return Effect::Unfit };
    // Above every earlier grant's: above the last one that is remembered, and by the ballot above those that are not,
    // for a register's ballots only grow. A round holds at most `BATCH_MAX` calls.
    let token =
        (version.ballot.counter.saturating_mul(BATCH_MAX as u64) + u64::from(version.index)).max(state.fence + 1);
    lock.settle(token, now_ms);
    let effect = match call {
        LockCall::Acquire { owner, ttl_ms, wait_ms } => acquire(&mut lock, owner, (*ttl_ms, *wait_ms), token, now_ms),
        LockCall::Renew { fence, ttl_ms } => match lock.holder.as_mut().filter(|holder| holder.fence == *fence) {
            Some(holder) => {
                holder.ends_ms = now_ms.saturating_add(*ttl_ms);
                Effect::Granted { fence: *fence, ends_ms: holder.ends_ms }
            }
            None => Effect::NotHeld,
        },
        LockCall::Release { fence } if lock.held_by(*fence) => {
            lock.holder = None;
            lock.settle(token, now_ms);
            Effect::Released
        }
        LockCall::Release { .. } => Effect::NotHeld,
    };
    if let Some(holder) = &lock.holder {
        state.fence = state.fence.max(holder.fence);
    }
    let last_ms =
        lock.queue.iter().map(|waiter| waiter.until_ms).chain(lock.holder.iter().map(|held| held.ends_ms)).max();
    state.value = last_ms.map(|_| Value { body: lock.to_bytes(), content_type: Bytes::new() });
    state.ends_ms = last_ms.map_or(0, |last| last.saturating_add(IDLE_MS));
    state.version = version;
    effect
}

fn acquire(lock: &mut Lock, owner: &Bytes, (ttl_ms, wait_ms): (u64, u64), token: u64, now_ms: u64) -> Effect {
    let ends_ms = now_ms.saturating_add(ttl_ms);
    let Some(holder) = &mut lock.holder else {
        lock.holder = Some(Holder { owner: owner.clone(), fence: token, ends_ms });
        return Effect::Granted { fence: token, ends_ms };
    };
    if holder.owner == *owner {
        holder.ends_ms = holder.ends_ms.max(ends_ms);
        return Effect::Granted { fence: holder.fence, ends_ms: holder.ends_ms };
    }
    let held = |place: usize| Effect::Held { place: place as u32 + 1, ends_ms: holder.ends_ms };
    let until_ms = now_ms.saturating_add(wait_ms);
    match lock.queue.iter().position(|waiter| waiter.owner == *owner) {
        Some(at) if wait_ms == 0 => {
            lock.queue.remove(at);
            held(at)
        }
        Some(at) => {
            lock.queue[at].ttl_ms = ttl_ms;
            lock.queue[at].until_ms = until_ms;
            held(at)
        }
        None => {
            let place = lock.queue.len();
            if wait_ms > 0 && place < WAITERS_MAX {
                lock.queue.push(Waiter { owner: owner.clone(), ttl_ms, until_ms });
            }
            held(place)
        }
    }
}

fn put_owner(bytes: &mut BytesMut, owner: &[u8]) {
    // The gateway takes names of at most 256 bytes.
    let owner = &owner[..owner.len().min(usize::from(u16::MAX))];
    bytes.put_u16(owner.len() as u16);
    bytes.put_slice(owner);
}

/// Reads front to back; none when the bytes run out.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn owner(&mut self) -> Option<Bytes> {
        let len = usize::from(self.u16()?);
        let (owner, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(Bytes::copy_from_slice(owner))
    }
}

#[cfg(test)]
mod tests {
    use membership::NodeId;

    use super::*;
    use crate::types::Ballot;

    /// Applies calls one after the other, each in a round of its own.
    #[derive(Default)]
    struct Calls {
        state: State,
        counter: u64,
    }

    impl Calls {
        fn at(&mut self, now_ms: u64, call: LockCall) -> Effect {
            self.counter += 1;
            let version = Version { ballot: Ballot { counter: self.counter, node: NodeId(1) }, index: 0 };
            apply(&mut self.state, &call, version, now_ms)
        }

        fn lock(&self) -> Lock {
            self.state.value.as_ref().map_or_else(Lock::default, |value| Lock::from_bytes(&value.body).expect("a lock"))
        }
    }

    fn acquire_as(owner: &'static str, wait_ms: u64) -> LockCall {
        LockCall::Acquire { owner: Bytes::from_static(owner.as_bytes()), ttl_ms: 100, wait_ms }
    }

    fn fence_of(effect: Effect) -> u64 {
        match effect {
            Effect::Granted { fence, .. } => fence,
            other => panic!("not granted: {other:?}"),
        }
    }

    #[test]
    fn one_holds_the_others_wait_in_their_order() {
        let mut calls = Calls::default();
        let first = fence_of(calls.at(0, acquire_as("a", 0)));
        assert_eq!(calls.at(1, acquire_as("b", 500)), Effect::Held { place: 1, ends_ms: 100 });
        assert_eq!(calls.at(2, acquire_as("c", 500)), Effect::Held { place: 2, ends_ms: 100 });
        assert_eq!(calls.at(3, acquire_as("b", 500)), Effect::Held { place: 1, ends_ms: 100 }, "asking again keeps it");
        assert_eq!(calls.at(4, acquire_as("d", 0)), Effect::Held { place: 3, ends_ms: 100 });
        assert_eq!(calls.lock().place_of(b"d"), None, "who does not wait is not in the queue");
        assert_eq!(calls.at(5, LockCall::Release { fence: first }), Effect::Released);
        let second = fence_of(calls.at(6, acquire_as("b", 0)));
        assert!(second > first);
        assert_eq!(calls.lock().place_of(b"c"), Some(1));
        assert_eq!(calls.at(7, LockCall::Release { fence: first }), Effect::NotHeld, "an old token gives nothing back");
    }

    #[test]
    fn a_lease_that_ran_out_goes_to_the_next_and_the_sleeper_learns_it() {
        let mut calls = Calls::default();
        let first = fence_of(calls.at(0, acquire_as("a", 0)));
        assert_eq!(
            calls.at(50, LockCall::Renew { fence: first, ttl_ms: 100 }),
            Effect::Granted { fence: first, ends_ms: 150 }
        );
        calls.at(60, acquire_as("b", 500));
        assert_eq!(calls.at(150, LockCall::Renew { fence: first, ttl_ms: 100 }), Effect::NotHeld);
        let second = fence_of(calls.at(151, acquire_as("b", 0)));
        assert!(second > first);
        let third = fence_of(calls.at(400, acquire_as("a", 0)));
        assert!(third > second);
    }

    #[test]
    fn who_gave_up_is_passed_over() {
        let mut calls = Calls::default();
        let first = fence_of(calls.at(0, acquire_as("a", 0)));
        calls.at(1, acquire_as("b", 20));
        calls.at(2, acquire_as("c", 500));
        assert_eq!(calls.at(50, LockCall::Release { fence: first }), Effect::Released);
        assert_eq!(calls.lock().holder.map(|holder| holder.owner), Some(Bytes::from_static(b"c")));
        calls.at(51, acquire_as("d", 500));
        assert_eq!(calls.at(52, acquire_as("d", 0)), Effect::Held { place: 1, ends_ms: 150 }, "leaves the queue");
        assert_eq!(calls.lock().queue, Vec::new());
    }

    #[test]
    fn tokens_grow_over_a_lock_that_is_forgotten() {
        let mut calls = Calls::default();
        let first = fence_of(calls.at(0, acquire_as("a", 0)));
        assert_eq!(calls.at(1, LockCall::Release { fence: first }), Effect::Released);
        assert_eq!(calls.state.value, None, "an idle lock holds nothing");
        // All that is left of a register whose tombstone went: its ballots go on.
        let mut later = Calls { state: State::default(), counter: calls.counter };
        assert!(fence_of(later.at(2, acquire_as("a", 0))) > first);
    }

    #[test]
    fn within_one_round_each_grant_has_its_token() {
        let mut state = State { fence: 1_000_000, ..State::default() };
        let ballot = Ballot { counter: 7, node: NodeId(1) };
        let mut last = state.fence;
        for index in 0..10 {
            let version = Version { ballot, index };
            let fence = fence_of(apply(&mut state, &acquire_as("a", 0), version, 0));
            assert!(fence > last, "{fence} after {last}");
            last = fence;
            assert_eq!(apply(&mut state, &LockCall::Release { fence }, version, 0), Effect::Released);
        }
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut calls = Calls::default();
        calls.at(0, acquire_as("a", 0));
        for waiter in 0..WAITERS_MAX + 5 {
            let owner = Bytes::from(format!("w{waiter}"));
            calls.at(1, LockCall::Acquire { owner, ttl_ms: 1, wait_ms: 50 });
        }
        assert_eq!(calls.lock().queue.len(), WAITERS_MAX);
    }

    #[test]
    fn bytes_are_read_back_and_others_refused() {
        let mut calls = Calls::default();
        calls.at(0, acquire_as("a", 0));
        calls.at(1, acquire_as("b", 50));
        let bytes = calls.lock().to_bytes();
        assert_eq!(Lock::from_bytes(&bytes), Some(calls.lock()));
        for cut in 0..bytes.len() {
            assert_eq!(Lock::from_bytes(&bytes[..cut]), None, "cut at {cut}");
        }
        let mut other = calls;
        other.state.value = Some(Value { body: Bytes::from_static(b"text"), content_type: Bytes::new() });
        assert_eq!(other.at(2, acquire_as("a", 0)), Effect::Unfit, "what is no lock is left alone");
    }
}
