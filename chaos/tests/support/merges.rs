//! The fake gateway's sets and counters: each addition is there at once and stays - or not, if told so.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{BREAK_EVERY, FakeFleet, Mode, answer, no_answer};

/// All of them: by bucket and key.
#[derive(Default)]
pub struct Merges {
    types: BTreeMap<String, String>,
    sets: BTreeMap<(String, String), BTreeSet<Bytes>>,
    counters: BTreeMap<(String, String), i64>,
    done: BTreeSet<String>,
    additions: u64,
}

impl Merges {
    /// The body of a read; none if the bucket has neither sets nor counters.
    pub fn shown(&self, bucket: &str, key: &str) -> Option<String> {
        let place = (bucket.to_owned(), key.to_owned());
        Some(match self.types.get(bucket)?.as_str() {
            "set" => {
                let elements = self.sets.get(&place).into_iter().flatten().map(|element| STANDARD.encode(element));
                json!({ "elements": elements.collect::<Vec<_>>() }).to_string()
            }
            _ => self.counters.get(&place).copied().unwrap_or_default().to_string(),
        })
    }

    /// Whether it is answered.
    fn add(&mut self, mode: Mode, place: (String, String), by: Option<i64>, element: Bytes) -> bool {
        self.additions += 1;
        let breaks = self.additions.is_multiple_of(BREAK_EVERY);
        let times = match mode {
            Mode::LostAdds if breaks => 0,
            Mode::DoubleAdds if breaks => 2,
            _ => 1,
        };
        match by {
            Some(by) => *self.counters.entry(place).or_default() += by * times,
            None if times > 0 => drop(self.sets.entry(place).or_default().insert(element)),
            None => {}
        }
        !(breaks && mode == Mode::Mute)
    }
}

pub async fn make(fleet: Data<FakeFleet>, bucket: Path<String>, body: Bytes) -> HttpResponse {
    let definition: Value = serde_json::from_slice(&body).expect("JSON");
    let value_type = definition["type"].as_str().expect("our client names a type").to_owned();
    assert_eq!(definition["contract"], "available", "an ordered bucket has no types");
    fleet.lock().merges.types.insert(bucket.into_inner(), value_type);
    HttpResponse::Created().finish()
}

pub async fn add(
    fleet: Data<FakeFleet>,
    request: HttpRequest,
    place: Path<(String, String)>,
    body: Bytes,
) -> HttpResponse {
    let (bucket, key) = place.into_inner();
    let by = request.query_string().split('&').find_map(|word| word.strip_prefix("by=")?.parse().ok());
    let request_id = request.headers().get("everring-request-id").expect("our client always names its requests");
    let (response, answered) = {
        let inner = &mut *fleet.lock();
        let first = inner.merges.done.insert(request_id.to_str().expect("text").to_owned());
        let answered = !first || inner.merges.add(fleet.mode, (bucket.clone(), key.clone()), by, body);
        let shown = inner.merges.shown(&bucket, &key).expect("a bucket that was made");
        (answer(&fleet, inner, &request, 200, &key).body(shown), answered)
    };
    if !answered {
        no_answer().await;
    }
    response
}
