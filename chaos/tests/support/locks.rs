//! The fake gateway's locks: one holder, tokens that grow, and records that remember the greatest - or not, if told so.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::{FakeFleet, Inner, Mode, answer, problem};

/// All locks, and the tokens that records have seen.
#[derive(Default)]
pub struct Locks {
    held: BTreeMap<String, Holder>,
    tokens: u64,
    /// Grants of each lock, and the last one's token.
    granted: BTreeMap<String, (u64, u64)>,
    calls: u64,
    seen: BTreeMap<String, u64>,
}

#[derive(Clone)]
struct Holder {
    owner: String,
    fence: u64,
    ends: Instant,
}

/// Every so many calls a lock goes wrong, if it does.
const BREAK_EVERY: u64 = 7;

impl Locks {
    /// Whether a write of `key` under `fence` is let through; else the greatest token that was seen.
    pub fn passes(&mut self, mode: Mode, key: &str, fence: u64) -> Result<(), u64> {
        let seen = self.seen.entry(key.to_owned()).or_default();
        let lower = fence < *seen;
        *seen = fence.max(*seen);
        if lower && mode != Mode::BlindFence { Err(*seen) } else { Ok(()) }
    }

    fn holder(&self, name: &str) -> Option<Holder> {
        self.held.get(name).filter(|holder| holder.ends > Instant::now()).cloned()
    }

    fn acquire(&mut self, mode: Mode, name: &str, words: &Value) -> Result<Holder, Holder> {
        self.calls += 1;
        let breaks = self.calls.is_multiple_of(BREAK_EVERY);
        let owner = words["owner"].as_str().expect("our client names an owner").to_owned();
        if let Some(holder) = self.holder(name)
            && holder.owner != owner
            && !(breaks && mode == Mode::TwoHolders)
        {
            return Err(holder);
        }
        self.tokens += 1;
        // Every third grant of a lock repeats the token of the one before: calls that are refused count for nothing
        // here.
        let (grants, last) = self.granted.entry(name.to_owned()).or_default();
        *grants += 1;
        let fence = if mode == Mode::SameToken && grants.is_multiple_of(3) { *last } else { self.tokens };
        *last = fence;
        let ttl = Duration::from_millis(words["ttl_ms"].as_u64().expect("our client names a lease"));
        let holder = Holder { owner, fence, ends: Instant::now() + ttl };
        self.held.insert(name.to_owned(), holder.clone());
        Ok(holder)
    }
}

pub async fn acquire(fleet: Data<FakeFleet>, request: HttpRequest, name: Path<String>, body: Bytes) -> HttpResponse {
    let words: Value = serde_json::from_slice(&body).expect("JSON");
    let inner = &mut *fleet.lock();
    match inner.locks.acquire(fleet.mode, &name, &words) {
        Ok(holder) => granted(&fleet, inner, &request, &name, &holder),
        Err(_) => problem(answer(&fleet, inner, &request, 409, &name), 409, "held"),
    }
}

pub async fn renew(fleet: Data<FakeFleet>, request: HttpRequest, name: Path<String>, body: Bytes) -> HttpResponse {
    let words: Value = serde_json::from_slice(&body).expect("JSON");
    let inner = &mut *fleet.lock();
    let Some(mut holder) = inner.locks.holder(&name).filter(|holder| Some(holder.fence) == fence_of(&request)) else {
        return problem(answer(&fleet, inner, &request, 412, &name), 412, "fenced-off");
    };
    holder.ends = Instant::now() + Duration::from_millis(words["ttl_ms"].as_u64().expect("our client names a lease"));
    inner.locks.held.insert(name.clone(), holder.clone());
    granted(&fleet, inner, &request, &name, &holder)
}

pub async fn release(fleet: Data<FakeFleet>, request: HttpRequest, name: Path<String>) -> HttpResponse {
    let inner = &mut *fleet.lock();
    if inner.locks.holder(&name).is_some_and(|holder| Some(holder.fence) == fence_of(&request)) {
        inner.locks.held.remove(name.as_str());
    }
    answer(&fleet, inner, &request, 204, &name).finish()
}

/// The token of `If-Fence`.
pub fn fence_of(request: &HttpRequest) -> Option<u64> {
    request.headers().get("if-fence")?.to_str().ok()?.parse().ok()
}

fn granted(fleet: &FakeFleet, inner: &mut Inner, request: &HttpRequest, name: &str, holder: &Holder) -> HttpResponse {
    let left = holder.ends.saturating_duration_since(Instant::now()).as_millis() as u64;
    let words = json!({"fence": holder.fence, "expires_in_ms": left, "owner": holder.owner});
    answer(fleet, inner, request, 200, name).json(words)
}
