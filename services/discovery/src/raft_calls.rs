//! The calls about the replicas themselves: who they are, who leads, taking one out.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use consensus::{Member, Status};
use registry::Resource;
use serde_json::{Value, json};

use crate::api::Call;
use crate::host::{DATACENTER, Host};
use crate::params::Consistency;
use crate::reply::{Refused, written};

/// The HTTP address of whoever leads; empty when nobody is known to.
pub(crate) fn leader(host: &Host) -> Value {
    let status = host.status();
    let member = status.leader.and_then(|id| status.roster.members.get(&id));
    json!(member.map(|member| member.http.clone()).unwrap_or_default())
}

/// The HTTP addresses of those that vote.
pub(crate) fn peers(host: &Host) -> Value {
    let status = host.status();
    let voters = status.voters.iter().filter_map(|id| status.roster.members.get(id));
    voters.map(|member| member.http.clone()).collect()
}

/// The replicas as members of the agents' pool. The words of status: 1 alive, 4 failed; a replica knows surely only of
/// itself and of whom it hears.
pub(crate) fn members(host: &Host) -> Value {
    let status = host.status();
    status.roster.members.values().map(|member| agent_member(host, &status, member)).collect()
}

/// This replica as a member.
pub(crate) fn own_member(host: &Host) -> Value {
    let status = host.status();
    match status.roster.members.get(&status.id) {
        Some(member) => agent_member(host, &status, member),
        None => Value::Null,
    }
}

fn agent_member(host: &Host, status: &Status, member: &Member) -> Value {
    let (address, port) = member.http.rsplit_once(':').unwrap_or((&member.http, "0"));
    json!({
        "Name": member.name,
        "Addr": address,
        "Port": port.parse::<u16>().unwrap_or(host.address.port()),
        "Tags": {
            "dc": DATACENTER,
            "role": "consul",
            "build": env!("CARGO_PKG_VERSION"),
            "id": format!("{:016x}", member.id),
            "voter": if status.voters.contains(&member.id) { "true" } else { "false" },
        },
        "Status": 1,
        "ProtocolMin": 1,
        "ProtocolMax": 5,
        "ProtocolCur": 2,
        "DelegateMin": 2,
        "DelegateMax": 5,
        "DelegateCur": 4,
    })
}

/// `GET /v1/operator/raft/configuration`.
pub(crate) async fn configuration(call: &Call<'_>) -> Result<HttpResponse, Refused> {
    let host = call.host;
    call.guard.read(Resource::Operator, "")?;
    let options = call.params.read_options()?;
    if options.consistency != Consistency::Stale {
        host.confirm().await?;
    }
    let status = host.status();
    let servers: Vec<Value> = status
        .roster
        .members
        .values()
        .map(|member| {
            json!({
                "ID": format!("{:016x}", member.id),
                "Node": member.name,
                "Address": member.peer,
                "HTTPAddress": member.http,
                "Leader": status.leader == Some(member.id),
                "Voter": status.voters.contains(&member.id),
                "ProtocolVersion": "3",
                "LastIndex": if member.id == status.id { status.last } else { 0 },
            })
        })
        .collect();
    Ok(written(&json!({"Servers": servers, "Index": status.applied}), options.pretty))
}

/// `DELETE /v1/operator/raft/peer?id=`: takes a replica out for good. It would have to come back as a new one.
pub(crate) async fn remove_peer(call: &Call<'_>) -> Result<HttpResponse, Refused> {
    let (host, params) = (call.host, &call.params);
    call.guard.write(Resource::Operator, "")?;
    let status = host.status();
    let by_id = params.get("id").and_then(|text| u64::from_str_radix(text, 16).ok());
    let by_address = params.get("address").and_then(|address| {
        status.roster.members.values().find(|member| member.peer == address || member.http == address)
    });
    let Some(id) = by_id.or(by_address.map(|member| member.id)) else {
        let text = "Must specify either ?id with the server's ID or ?address with IP:port of peer to remove";
        return Err(Refused::bad_request(text));
    };
    if !status.roster.members.contains_key(&id) {
        return Err(Refused::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("id {id:016x} was not found in the Raft configuration"),
        ));
    }
    if status.voters == [id] {
        return Err(Refused::bad_request("The last replica cannot be removed"));
    }
    host.remove(id).await?;
    Ok(HttpResponse::Ok().finish())
}
