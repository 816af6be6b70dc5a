use std::io::Write;

use actix_web::body::MessageBody;
use actix_web::http::{Method, StatusCode, header};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use percent_encoding::percent_decode_str;

use crate::access::{Guard, secret_of};
use crate::endpoint::{AclCall, Endpoint};
use crate::host::{DATACENTER, Host};
use crate::params::Params;
use crate::reply::Refused;
use crate::{acl, agent, kv, raft_calls, reads, session, snapshot, txn, writes};

/// The longest body, Consul's bound on a value.
const BODY_MAX: usize = 512 << 10;
/// The longest snapshot that is taken back.
const SNAPSHOT_MAX: usize = 256 << 20;
/// How much of a longer body is read and dropped, so that its sender is there to read the refusal.
const DRAIN_MAX: usize = 8 << 20;

/// The shortest answer that is worth packing: it would fit one packet of the network as it is.
const PACKED_MIN: usize = 1_400;

/// One request, as far as it is understood before it is done.
pub(crate) struct Call<'a> {
    pub(crate) host: &'a Host,
    pub(crate) endpoint: Endpoint,
    pub(crate) method: Method,
    pub(crate) params: Params,
    pub(crate) guard: Guard,
    pub(crate) body: Vec<u8>,
}

/// Answers every call of the Consul API.
pub(crate) async fn call(request: HttpRequest, payload: Payload, host: Data<Host>) -> HttpResponse {
    let mut answer = match attempt(&request, payload, &host).await {
        Ok(answer) => answer,
        Err(refused) => refused.response(),
    };
    let policy = header::HeaderValue::from_static(host.acl.default_word());
    answer.headers_mut().insert(header::HeaderName::from_static("x-consul-default-acl-policy"), policy);
    close_if(pack_if(&request, answer), host.is_closing())
}

async fn attempt(request: &HttpRequest, payload: Payload, host: &Host) -> Result<HttpResponse, Refused> {
    let path = request.uri().path();
    let decoded = percent_decode_str(path).decode_utf8();
    let decoded = decoded.map_err(|_| Refused::bad_request("The path is not percent-encoded UTF-8"))?;
    let unknown = || Refused::not_found("Invalid URL path: not a recognized HTTP API endpoint");
    let endpoint = Endpoint::parse(decoded.strip_prefix("/v1/").ok_or_else(unknown)?)?;
    let method = if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
    if method == Method::OPTIONS {
        return Ok(HttpResponse::Ok().insert_header((header::ALLOW, endpoint.allow())).finish());
    }
    endpoint.check_method(&method)?;
    let params = Params::parse(request.query_string());
    params.refuse_unoffered(DATACENTER)?;
    let secret = secret_of(request, &params);
    let is_first_step = endpoint == Endpoint::Acl(AclCall::Bootstrap);
    let guard = if is_first_step {
        Guard::of(&host.shown(), &host.acl, String::new())?
    } else {
        Guard::of(&host.shown(), &host.acl, secret)?
    };
    let most = if endpoint == Endpoint::Snapshot { SNAPSHOT_MAX } else { BODY_MAX };
    let body = if method == Method::GET { Vec::new() } else { read_body(payload, most).await? };
    answer(Call { host, endpoint, method, params, guard, body }).await
}

async fn answer(call: Call<'_>) -> Result<HttpResponse, Refused> {
    let is_get = call.method == Method::GET;
    match &call.endpoint {
        Endpoint::Kv(key) if !is_get => kv::write(&call, key).await,
        Endpoint::SessionCreate => session::create(&call).await,
        Endpoint::SessionDestroy(id) => session::destroy(&call, id).await,
        Endpoint::SessionRenew(id) => session::renew(&call, id).await,
        Endpoint::Txn => txn::run(&call).await,
        Endpoint::Snapshot if is_get => snapshot::save(&call).await,
        Endpoint::Snapshot => snapshot::restore(&call).await,
        Endpoint::RaftConfiguration => raft_calls::configuration(&call).await,
        Endpoint::RaftPeer => raft_calls::remove_peer(&call).await,
        Endpoint::Acl(which) => acl::answer(&call, which).await,
        Endpoint::AgentHealth { by_name, which } => agent::health(&call, *by_name, which),
        Endpoint::AgentService(id) => agent::service(&call, id).await,
        _ if is_get => reads::read(&call).await,
        _ => writes::write(&call).await,
    }
}

async fn read_body(mut payload: Payload, most: usize) -> Result<Vec<u8>, Refused> {
    let mut body = Vec::new();
    let mut length = 0;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| Refused::bad_request(format!("The body could not be read: {error}")))?;
        length += chunk.len();
        if length <= most {
            body.extend_from_slice(&chunk);
        } else if length > most + DRAIN_MAX {
            break;
        }
    }
    if length > most {
        let text = format!("Request body({length} bytes) too large, max size: {most} bytes");
        return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    Ok(body)
}

/// Packs a longer answer for clients that take it so, as Go's do by themselves. A snapshot is packed already.
fn pack_if(request: &HttpRequest, answer: HttpResponse) -> HttpResponse {
    let offered = [header::Encoding::gzip(), header::Encoding::identity()];
    let accepted = <header::AcceptEncoding as header::Header>::parse(request).ok();
    let packs = accepted.and_then(|accepted| accepted.negotiate(offered.iter())) == Some(header::Encoding::gzip());
    let is_text = answer.headers().get(header::CONTENT_TYPE).is_none_or(|kind| *kind != snapshot::CONTENT_TYPE);
    if !packs || !is_text {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let bytes = match body.try_into_bytes() {
        Ok(bytes) if bytes.len() >= PACKED_MIN => bytes,
        Ok(bytes) => return head.set_body(bytes).map_into_boxed_body(),
        Err(body) => return head.set_body(body),
    };
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = packer.write_all(&bytes).and_then(|()| packer.finish());
    let Ok(packed) = packed else { return head.set_body(bytes).map_into_boxed_body() };
    let headers = head.headers_mut();
    headers.insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
    headers.append(header::VARY, header::HeaderValue::from_static("Accept-Encoding"));
    head.set_body(packed).map_into_boxed_body()
}

/// While discovery is stopping, each answer is its connection's last: the client must not ask here again.
fn close_if(mut answer: HttpResponse, closing: bool) -> HttpResponse {
    if closing {
        answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    }
    answer
}
