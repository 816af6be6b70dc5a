use actix_web::http::{Method, StatusCode, header};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::StreamExt;
use percent_encoding::percent_decode_str;

use crate::endpoint::Endpoint;
use crate::host::{DATACENTER, Host};
use crate::params::Params;
use crate::reads::read;
use crate::reply::Refused;
use crate::writes::write;

/// The longest body, Consul's bound on a value.
const BODY_MAX: usize = 512 << 10;
/// How much of a longer body is read and dropped, so that its sender is there to read the refusal.
const DRAIN_MAX: usize = 8 << 20;

/// Answers every call of the Consul API.
pub(crate) async fn call(request: HttpRequest, payload: Payload, host: Data<Host>) -> HttpResponse {
    let answer = match attempt(&request, payload, &host).await {
        Ok(answer) => answer,
        Err(refused) => refused.response(),
    };
    close_if(answer, host.is_closing())
}

async fn attempt(request: &HttpRequest, payload: Payload, host: &Host) -> Result<HttpResponse, Refused> {
    let path = request.uri().path();
    let decoded = percent_decode_str(path).decode_utf8();
    let decoded = decoded.map_err(|_| Refused::bad_request("The path is not percent-encoded UTF-8"))?;
    let unknown = || Refused::new(StatusCode::NOT_FOUND, "Invalid URL path: not a recognized HTTP API endpoint");
    let endpoint = Endpoint::parse(decoded.strip_prefix("/v1/").ok_or_else(unknown)?)?;
    endpoint.check_method(request.method())?;
    let params = Params::parse(request.query_string());
    params.refuse_unoffered(DATACENTER)?;
    if request.method() == Method::GET {
        return read(host, &endpoint, &params).await;
    }
    let body = read_body(payload).await?;
    write(host, &endpoint, request.method(), &params, &body).await
}

async fn read_body(mut payload: Payload) -> Result<Vec<u8>, Refused> {
    let mut body = Vec::new();
    let mut length = 0;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| Refused::bad_request(format!("The body could not be read: {error}")))?;
        length += chunk.len();
        if length <= BODY_MAX {
            body.extend_from_slice(&chunk);
        } else if length > DRAIN_MAX {
            break;
        }
    }
    if length > BODY_MAX {
        let text = format!("Request body too large, max size: {BODY_MAX} bytes");
        return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    Ok(body)
}

/// While discovery is stopping, each answer is its connection's last: the client must not ask here again.
fn close_if(mut answer: HttpResponse, closing: bool) -> HttpResponse {
    if closing {
        answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    }
    answer
}
