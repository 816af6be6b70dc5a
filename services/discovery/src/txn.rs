//! `PUT /v1/txn`.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use registry::{Answer, Command, KvLock, KvWrite, Resource, TxnError, TxnOp, TxnResult, Verb};
use serde_json::{Value, json};

use crate::access::Guard;
use crate::api::Call;
use crate::check_input::catalog_check;
use crate::input::{Fields, catalog_node, catalog_service};
use crate::params::Consistency;
use crate::render;
use crate::reply::{Refused, with_status};
use crate::writes::submit;

/// The most operations of one transaction, and the longest value.
const OPS_MAX: usize = 128;
const VALUE_MAX: usize = 512 << 10;

/// Why an operation of the body is none: the whole body is refused, or the operation alone is told.
enum Wrong {
    Body(Refused),
    Op(String),
}

impl From<Refused> for Wrong {
    fn from(refused: Refused) -> Wrong {
        Wrong::Body(Refused { text: refused.text.replace("Request decode failed", "Failed to parse body"), ..refused })
    }
}

pub(crate) async fn run(call: &Call<'_>) -> Result<HttpResponse, Refused> {
    let failed = |why: String| Refused::bad_request(format!("Failed to parse body: {why}"));
    let value: Value = serde_json::from_slice(&call.body).map_err(|error| failed(error.to_string()))?;
    let Value::Array(list) = value else { return Err(failed("it must be a list of operations".to_owned())) };
    if list.len() > OPS_MAX {
        let text = format!("Transaction contains too many operations ({} > {OPS_MAX})", list.len());
        return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    let (mut ops, mut errors) = (Vec::with_capacity(list.len()), Vec::new());
    for (op, value) in list.into_iter().enumerate() {
        match operation(value) {
            Ok(operation) => {
                if let Err(refused) = allow(&operation, &call.guard) {
                    errors.push(TxnError { op, what: refused.text });
                }
                ops.push(operation);
            }
            Err(Wrong::Op(what)) => errors.push(TxnError { op, what }),
            Err(Wrong::Body(refused)) => return Err(refused),
        }
    }
    let only_reads = ops.iter().all(TxnOp::only_reads);
    let answer = if !errors.is_empty() {
        Answer::TxnFailed(errors)
    } else if only_reads {
        if call.params.read_options()?.consistency != Consistency::Stale {
            call.host.confirm().await?;
        }
        call.host.shown().read_txn(&ops)
    } else {
        submit(call.host, Command::Txn(ops)).await?
    };
    Ok(response(&answer, only_reads, &call.guard, call.params.pretty()))
}

fn response(answer: &Answer, only_reads: bool, guard: &Guard, pretty: bool) -> HttpResponse {
    let (status, results, errors) = match answer {
        Answer::Txn(results) => (StatusCode::OK, results.as_slice(), &[][..]),
        Answer::TxnFailed(errors) => (StatusCode::CONFLICT, &[][..], errors.as_slice()),
        // A transaction has no other answer; if it had, nothing was done.
        _ => (StatusCode::CONFLICT, &[][..], &[][..]),
    };
    let seen = results.iter().filter(|result| match result {
        TxnResult::Kv { key, .. } => guard.sees(Resource::Key, key),
        TxnResult::Node(node) => guard.sees(Resource::Node, &node.definition.name),
        TxnResult::Service { service, .. } => guard.sees(Resource::Service, &service.definition.name),
        TxnResult::Check { node, .. } => guard.sees(Resource::Node, node),
    });
    let results: Vec<Value> = seen.map(result).collect();
    let errors: Vec<Value> = errors.iter().map(|error| json!({"OpIndex": error.op, "What": error.what})).collect();
    let none_if = |none: bool, list: Vec<Value>| if none { Value::Null } else { Value::Array(list) };
    let failed = status == StatusCode::CONFLICT;
    let mut body = json!({"Results": none_if(failed, results), "Errors": none_if(errors.is_empty(), errors)});
    if only_reads {
        body["Index"] = json!(1);
        body["LastContact"] = json!(0);
        body["KnownLeader"] = json!(true);
    }
    let mut answer = with_status(status, &body, pretty);
    if only_reads {
        let headers = answer.headers_mut();
        for (name, value) in [("x-consul-lastcontact", "0"), ("x-consul-knownleader", "true")] {
            headers.insert(
                actix_web::http::header::HeaderName::from_static(name),
                actix_web::http::header::HeaderValue::from_static(value),
            );
        }
    }
    answer
}

fn result(result: &TxnResult) -> Value {
    match result {
        TxnResult::Kv { key, entry } => json!({"KV": render::pair(key, entry)}),
        TxnResult::Node(node) => json!({"Node": render::node(node)}),
        TxnResult::Service { service, .. } => json!({"Service": render::service(service)}),
        TxnResult::Check { node, check } => json!({"Check": render::check_on(node, "", &[], check)}),
    }
}

/// What an operation needs the right for.
fn allow(op: &TxnOp, guard: &Guard) -> Result<(), Refused> {
    match op {
        TxnOp::KvSet(KvWrite { key, .. }) | TxnOp::KvDelete { key, .. } => guard.write(Resource::Key, key),
        TxnOp::KvLock(lock) | TxnOp::KvUnlock(lock) => guard.write(Resource::Key, &lock.key),
        TxnOp::KvDeleteTree(prefix) => guard.write_tree(prefix),
        // What is read is left out of the answer where it may not be seen.
        TxnOp::KvGetTree(_) => Ok(()),
        TxnOp::KvGet(key)
        | TxnOp::KvGetOrEmpty(key)
        | TxnOp::KvCheckIndex { key, .. }
        | TxnOp::KvCheckSession { key, .. }
        | TxnOp::KvCheckNotExists(key) => guard.read(Resource::Key, key),
        TxnOp::Node(Verb::Get, node) => guard.read(Resource::Node, &node.name),
        TxnOp::Node(_, node) => guard.write(Resource::Node, &node.name),
        TxnOp::Service(Verb::Get, _, service) => guard.read(Resource::Service, &service.name),
        TxnOp::Service(_, _, service) => guard.write(Resource::Service, &service.name),
        TxnOp::Check(Verb::Get, node, _) => guard.read(Resource::Node, node),
        TxnOp::Check(_, node, _) => guard.write(Resource::Node, node),
        // Whose session it is stands in the registry; whoever may write none may end none.
        TxnOp::SessionDelete(_) => guard.write(Resource::Session, ""),
    }
}

fn operation(value: Value) -> Result<TxnOp, Wrong> {
    let mut fields = Fields::of(value, "an operation")?;
    if let Some(kv) = fields.fields("KV")? {
        return kv_operation(kv);
    }
    for kind in ["Node", "Service", "Check", "Session"] {
        if let Some(inner) = fields.fields(kind)? {
            return catalog_operation(kind, inner);
        }
    }
    Err(Wrong::Op("unknown operation type".to_owned()))
}

fn kv_operation(mut kv: Fields) -> Result<TxnOp, Wrong> {
    let verb = kv.text("Verb")?;
    let key = kv.text("Key")?;
    let flags = kv.number("Flags")?;
    let index = kv.number("Index")?;
    let session = kv.text("Session")?;
    let value = BASE64.decode(kv.text("Value")?);
    let value = value.map_err(|error| Refused::bad_request(format!("Failed to parse body: Value: {error}")))?;
    if value.len() > VALUE_MAX {
        let text = format!("Value for key {key:?} is too large ({} > {VALUE_MAX} bytes)", value.len());
        return Err(Wrong::Body(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, text)));
    }
    let takes_empty = ["get-tree", "delete-tree"].contains(&verb.as_str());
    if key.is_empty() && !takes_empty {
        return Err(Wrong::Op("Must provide key".to_owned()));
    }
    if !key.is_empty() {
        crate::kv::check_key(&key)?;
    }
    let lock = |key: String, value: Vec<u8>| {
        if session.is_empty() {
            return Err(Wrong::Op("missing session".to_owned()));
        }
        Ok(KvLock { key, value, flags, session: session.clone() })
    };
    Ok(match verb.as_str() {
        "set" => TxnOp::KvSet(KvWrite { key, value, flags, cas: None }),
        "cas" => TxnOp::KvSet(KvWrite { key, value, flags, cas: Some(index) }),
        "lock" => TxnOp::KvLock(lock(key, value)?),
        "unlock" => TxnOp::KvUnlock(lock(key, value)?),
        "get" => TxnOp::KvGet(key),
        "get-or-empty" => TxnOp::KvGetOrEmpty(key),
        "get-tree" => TxnOp::KvGetTree(key),
        "check-index" => TxnOp::KvCheckIndex { key, index },
        "check-session" => TxnOp::KvCheckSession { key, session },
        "check-not-exists" => TxnOp::KvCheckNotExists(key),
        "delete" => TxnOp::KvDelete { key, cas: None },
        "delete-cas" => TxnOp::KvDelete { key, cas: Some(index) },
        "delete-tree" => TxnOp::KvDeleteTree(key),
        _ => return Err(Wrong::Op(format!("unknown KV operation: {verb}"))),
    })
}

fn catalog_operation(kind: &str, mut fields: Fields) -> Result<TxnOp, Wrong> {
    let word = fields.text("Verb")?;
    if kind == "Session" {
        let mut session = fields.fields("Session")?.unwrap_or_default();
        let id = session.text("ID")?;
        let unknown = || Wrong::Op(format!("unknown session operation: {word}"));
        return if word == "delete" { Ok(TxnOp::SessionDelete(id)) } else { Err(unknown()) };
    }
    let mut inner = fields.fields(kind)?.unwrap_or_default();
    let index = inner.number("ModifyIndex")?;
    let verb = match word.as_str() {
        "get" => Verb::Get,
        "set" => Verb::Set,
        "cas" => Verb::Cas(index),
        "delete" => Verb::Delete,
        "delete-cas" => Verb::DeleteCas(index),
        _ => return Err(Wrong::Op(format!("unknown {kind} operation: {word}"))),
    };
    Ok(match kind {
        "Node" => TxnOp::Node(verb, catalog_node(&mut inner)?),
        "Service" => TxnOp::Service(verb, fields.text("Node")?, catalog_service(&mut inner)?),
        _ => {
            let node = inner.text("Node")?;
            TxnOp::Check(verb, node, catalog_check(&mut inner)?)
        }
    })
}
