//! The whole state as one file: `GET` and `PUT /v1/snapshot`. The file is ours, not Consul's; its clients pass it on
//! unread.

use std::io::{Read, Write};

use actix_web::HttpResponse;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use registry::Command;

use crate::api::Call;
use crate::params::Consistency;
use crate::reply::Refused;
use crate::writes::submit;

/// What a snapshot is sent as.
pub(crate) const CONTENT_TYPE: &str = "application/x-gzip";
/// A snapshot unpacks to no more than this.
const UNPACKED_MAX: u64 = 1 << 30;

pub(crate) async fn save(call: &Call<'_>) -> Result<HttpResponse, Refused> {
    call.guard.manage()?;
    if call.params.read_options()?.consistency != Consistency::Stale {
        call.host.confirm().await?;
    }
    let (registry, contact) = (call.host.shown(), call.host.contact());
    let failed = |error: std::io::Error| Refused::by_server(format!("the snapshot could not be packed: {error}"));
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(&registry.encode()).map_err(failed)?;
    let packed = packer.finish().map_err(failed)?;
    let mut answer = HttpResponse::Ok();
    answer.insert_header(("X-Consul-Index", registry.index()));
    answer.insert_header(("X-Consul-KnownLeader", contact.known_leader.to_string()));
    answer.insert_header(("X-Consul-LastContact", contact.last_contact_ms.to_string()));
    Ok(answer.content_type(CONTENT_TYPE).body(packed))
}

pub(crate) async fn restore(call: &Call<'_>) -> Result<HttpResponse, Refused> {
    call.guard.manage()?;
    let mut snapshot = Vec::new();
    let unpacked = GzDecoder::new(call.body.as_slice()).take(UNPACKED_MAX).read_to_end(&mut snapshot);
    unpacked.map_err(|error| Refused::by_server(format!("failed to decompress snapshot: {error}")))?;
    submit(call.host, Command::Restore { snapshot }).await?;
    Ok(HttpResponse::Ok().finish())
}
