//! The fake gateway's available bucket: what a session has not seen stays beside what it writes. Its token is the list
//! of all versions that it has seen.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{FakeFleet, Inner, Mode, answer, no_answer, problem};

/// The bucket's keys: their values, each with its version.
#[derive(Default)]
pub struct Siblings {
    keys: BTreeMap<String, BTreeMap<u64, Bytes>>,
    last: u64,
    /// The versions of writes that got no answer.
    mute: BTreeSet<u64>,
}

/// Whether values of this bucket stay side by side.
pub fn are_kept(mode: Mode, bucket: &str) -> bool {
    bucket == "sessions" && matches!(mode, Mode::SideBySide | Mode::Mute | Mode::MuteAndForgetful)
}

/// The versions that a session has seen.
fn seen(request: &HttpRequest) -> BTreeSet<u64> {
    let token = request.headers().get("everring-token").and_then(|token| token.to_str().ok()).unwrap_or_default();
    token.split('.').filter_map(|version| version.parse().ok()).collect()
}

fn token(seen: &BTreeSet<u64>) -> String {
    seen.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

pub fn get(fleet: &FakeFleet, inner: &mut Inner, request: &HttpRequest, key: &str) -> HttpResponse {
    let mut seen = seen(request);
    let siblings = &mut inner.siblings;
    let held = siblings.keys.get(key).cloned().unwrap_or_default();
    if fleet.mode == Mode::MuteAndForgetful && held.keys().any(|version| siblings.mute.contains(version)) {
        let Siblings { keys, mute, .. } = siblings;
        keys.entry(key.to_owned()).or_default().retain(|version, _| !mute.contains(version));
    }
    seen.extend(held.keys());
    let status = [404, 200].get(held.len()).copied().unwrap_or(300);
    let mut response = answer(fleet, inner, request, status, key);
    response.insert_header(("everring-token", token(&seen))).insert_header(("etag", format!("\"{:?}\"", held.keys())));
    match held.values().next() {
        None => problem(response, 404, "no-such-key"),
        Some(value) if status == 200 => response.body(value.clone()),
        Some(_) => {
            let one = |value: &Bytes| json!({ "value": STANDARD.encode(value), "etag": "\"one\"" });
            response.json(json!({ "siblings": held.values().map(one).collect::<Vec<_>>() }))
        }
    }
}

pub async fn write(fleet: &FakeFleet, request: &HttpRequest, key: &str, body: Option<Bytes>) -> HttpResponse {
    let (response, breaks) = {
        let inner = &mut *fleet.lock();
        let breaks = inner.breaks() && fleet.mode != Mode::SideBySide;
        let mut seen = seen(request);
        let Siblings { keys, last, mute } = &mut inner.siblings;
        let held = keys.entry(key.to_owned()).or_default();
        held.retain(|version, _| !seen.contains(version));
        *last += 1;
        seen.insert(*last);
        if breaks {
            mute.insert(*last);
        }
        let status = if body.is_some() { 200 } else { 204 };
        held.extend(body.map(|body| (*last, body)));
        let mut response = answer(fleet, inner, request, status, key);
        (response.insert_header(("everring-token", token(&seen))).finish(), breaks)
    };
    if breaks {
        no_answer().await;
    }
    response
}
