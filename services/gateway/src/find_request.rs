//! Which key a request was of, when its client does not say.
//!
//! What became of a write is remembered beside its key. A gateway knows the keys of the writes that it took itself a
//! moment ago; of others it asks every member of the ring, each of which knows those of the latest writes that it took
//! as a replica. What they say only tells whom to ask: what became of the write is then asked of the key's replicas.

use std::collections::BTreeSet;

use replication::RequestId;
use serde_json::json;
use wire::node::{Finding, Inquiry};

use crate::buckets::{self, SYSTEM_BUCKET};
use crate::problem::Refuse;
use crate::records::Incoming;

impl Incoming<'_> {
    /// The bucket and the key that a request was of.
    ///
    /// # Errors
    /// `bad-request`, with what to add: nobody remembers the request, or it was made of several keys.
    pub(crate) async fn find_request(&self, request: RequestId) -> Result<(String, String), Refuse> {
        let gateway = self.gateway;
        if let Some(found) = gateway.recent().find(request) {
            return Ok(found);
        }
        let within = gateway.clock.until(self.deadline);
        let said = gateway.inquire_all(&Inquiry::Request(request), within, self.context).await;
        let silent = said.iter().filter(|(_, said)| said.is_err()).count();
        let mut keys = BTreeSet::new();
        for (_, said) in said {
            if let Ok(Finding::Request(found)) = said {
                // Keys of the system's own are nobody's to ask for.
                keys.extend(found.into_iter().filter(|key| key.bucket != SYSTEM_BUCKET));
            }
        }
        if keys.is_empty() {
            let detail = format!(
                "neither this gateway nor any node that could be asked ({silent} could not) has taken the request \
                 lately; what became of it is remembered beside its key, so name that: \
                 GET /v1/requests/{{id}}?bucket=…&key=…"
            );
            return Err(Refuse::bad_request(detail).with("nodes_silent", silent as u64));
        }
        let made = gateway.read_buckets(self.deadline, self.context).await?;
        let named = made.list().into_iter().filter_map(|bucket| {
            let known = buckets::always(&bucket.name).or_else(|| made.find(&bucket.name))?;
            Some((known.id, bucket.name))
        });
        let named: std::collections::BTreeMap<_, _> = named.collect();
        let mut found = keys.into_iter().filter_map(|key| {
            let bucket = named.get(&key.bucket)?;
            Some((bucket.clone(), String::from_utf8_lossy(&key.key).into_owned()))
        });
        let Some(first) = found.next() else {
            return Err(Refuse::bad_request("the request was of a key in a bucket that is no more"));
        };
        let others: Vec<(String, String)> = found.collect();
        if others.is_empty() {
            return Ok(first);
        }
        let all = std::iter::once(&first).chain(&others);
        let keys: Vec<_> = all.map(|(bucket, key)| json!({ "bucket": bucket, "key": key })).collect();
        let detail = "the request id was used for several keys, and acted once for each; name the one that is meant: \
                      GET /v1/requests/{id}?bucket=…&key=…";
        Err(Refuse::bad_request(detail).with("keys", keys))
    }
}
