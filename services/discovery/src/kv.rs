//! The KV store's calls.

use actix_web::HttpResponse;
use actix_web::http::{Method, StatusCode};
use registry::{Command, KvEntry, KvLock, KvWrite, Registry, Resource};
use serde_json::{Value, json};

use crate::access::Guard;
use crate::api::Call;
use crate::params::Params;
use crate::render;
use crate::reply::{Body, Refused, written};
use crate::writes::{submit, truth_of};

/// Longer keys are refused. Consul's own bound is that of its HTTP server's head, a megabyte.
const KEY_MAX: usize = 2048;

/// What a read of the store wants.
#[derive(Debug, Default)]
pub(crate) struct KvQuery {
    pub(crate) recurse: bool,
    pub(crate) keys: bool,
    separator: String,
    raw: bool,
}

impl KvQuery {
    pub(crate) fn parse(params: &Params) -> KvQuery {
        KvQuery {
            recurse: params.has("recurse"),
            keys: params.has("keys"),
            separator: params.get("separator").unwrap_or_default().to_owned(),
            raw: params.has("raw"),
        }
    }
}

/// Does a PUT or DELETE.
pub(crate) async fn write(call: &Call<'_>, key: &str) -> Result<HttpResponse, Refused> {
    let (params, guard) = (&call.params, &call.guard);
    let done = if call.method == Method::DELETE {
        params.refuse_conflict(&["recurse", "cas"])?;
        let cas = params.number("cas")?;
        if params.has("recurse") {
            guard.write_tree(key)?;
            submit(call.host, Command::KvDeleteTree { prefix: key.to_owned() }).await?
        } else {
            check_key(key)?;
            guard.write(Resource::Key, key)?;
            submit(call.host, Command::KvDelete { key: key.to_owned(), cas }).await?
        }
    } else {
        check_key(key)?;
        params.refuse_conflict(&["cas", "acquire", "release"])?;
        guard.write(Resource::Key, key)?;
        submit(call.host, put(key, params, &call.body)?).await.map_err(by_raft)?
    };
    Ok(written(&json!(truth_of(&done)), params.pretty()))
}

fn put(key: &str, params: &Params, body: &[u8]) -> Result<Command, Refused> {
    let flags = params.number("flags")?.unwrap_or(0);
    let cas = params.number("cas")?;
    let lock = |session: &str| {
        let missing = || Refused::by_server("raft apply failed: missing session");
        if session.is_empty() {
            return Err(missing());
        }
        Ok(KvLock { key: key.to_owned(), value: body.to_vec(), flags, session: session.to_owned() })
    };
    if let Some(session) = params.get("acquire") {
        return lock(session).map(Command::KvLock);
    }
    if let Some(session) = params.get("release") {
        return lock(session).map(Command::KvUnlock);
    }
    Ok(Command::KvPut(KvWrite { key: key.to_owned(), value: body.to_vec(), flags, cas }))
}

/// Some clients look for the words before the reason.
fn by_raft(refused: Refused) -> Refused {
    if refused.text.starts_with("invalid session") {
        return Refused { text: format!("raft apply failed: {}", refused.text), ..refused };
    }
    refused
}

/// Refuses keys that the store does not take.
pub(crate) fn check_key(key: &str) -> Result<(), Refused> {
    if key.is_empty() {
        return Err(Refused::bad_request("Missing key name"));
    }
    if key.len() > KEY_MAX {
        let text = format!("The key is {} bytes long; at most {KEY_MAX} are taken", key.len());
        return Err(Refused::new(StatusCode::BAD_REQUEST, text));
    }
    Ok(())
}

/// Answers a read.
pub(crate) fn read(registry: &Registry, key: &str, query: &KvQuery, guard: &Guard) -> Body {
    if query.keys {
        let keys = keys_under(registry, key, &query.separator, guard);
        // The root is never absent, only empty.
        return if keys.is_empty() && !key.is_empty() { Body::Absent } else { Body::Json(json!(keys)) };
    }
    if query.recurse {
        let seen = registry.kv_under(key).filter(|(key, _)| guard.sees(Resource::Key, key));
        let pairs: Vec<Value> = seen.map(|(key, entry)| render::pair(key, entry)).collect();
        return if pairs.is_empty() { Body::Absent } else { Body::Json(Value::Array(pairs)) };
    }
    match registry.kv(key) {
        None => Body::Absent,
        Some(KvEntry { value, .. }) if query.raw => Body::Raw(value.clone()),
        Some(entry) => Body::Json(json!([render::pair(key, entry)])),
    }
}

/// The keys under a prefix; with a separator, only up to its first place after the prefix, each once.
fn keys_under(registry: &Registry, prefix: &str, separator: &str, guard: &Guard) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for (key, _) in registry.kv_under(prefix).filter(|(key, _)| guard.sees(Resource::Key, key)) {
        let rest = &key[prefix.len()..];
        let end = if separator.is_empty() { None } else { rest.find(separator) };
        let shown = end.map_or(key.as_str(), |end| &key[..prefix.len() + end + separator.len()]);
        if keys.last().map(String::as_str) != Some(shown) {
            keys.push(shown.to_owned());
        }
    }
    keys
}
