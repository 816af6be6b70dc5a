//! DNS: `name.service.consul`, its tags, SRV after RFC 2782, and nodes, over UDP and TCP.
//!
//! Answers come from the shown registry, so they are as fresh as an HTTP read. Instances with a critical check are left
//! out, the order is drawn anew each time, and nothing may be remembered (TTL 0). What does not fit the datagram is
//! cut, and the client comes again by TCP. Only this zone is answered for; everything else is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::op::{Edns, Metadata, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use rand::seq::SliceRandom;
use registry::{Node, Registry, Resource, Service, Status};

use crate::access::Guard;
use crate::host::{DATACENTER, Host, NODE};

/// The zone.
const ZONE: &str = "consul";
/// The largest datagram that is sent, whatever the client would take.
const PAYLOAD_MAX: u16 = 4096;
/// The most instances in one answer.
const ANSWERS_MAX: usize = 512;

/// Answers queries.
pub(crate) struct Resolver {
    pub(crate) host: Arc<Host>,
}

/// What a query gets.
#[derive(Debug)]
struct Answer {
    code: ResponseCode,
    records: Vec<Record>,
    additional: Vec<Record>,
}

impl Answer {
    fn code(code: ResponseCode) -> Answer {
        Answer { code, records: Vec::new(), additional: Vec::new() }
    }

    fn records(records: Vec<Record>) -> Answer {
        Answer { code: ResponseCode::NoError, records, additional: Vec::new() }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Resolver {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut handle: R) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let answer = match request.request_info() {
            Ok(info) => {
                let name = Name::from(info.query.name());
                let guard = Guard::of(&self.host.shown(), &self.host.acl, String::new());
                match guard {
                    Ok(guard) => answer(&self.host.shown(), &guard, &name, info.query.query_type()),
                    Err(_) => Answer::code(ResponseCode::Refused),
                }
            }
            Err(_) => Answer::code(ResponseCode::FormErr),
        };
        metadata.response_code = answer.code;
        metadata.authoritative = answer.code != ResponseCode::Refused;
        let apex: Vec<Record> =
            if answer.records.is_empty() && metadata.authoritative { soa().into_iter().collect() } else { Vec::new() };
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, PAYLOAD_MAX));
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(metadata, &answer.records, std::iter::empty(), &apex, &answer.additional);
        match handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "a DNS answer could not be sent");
                let counts = hickory_proto::op::HeaderCounts::default();
                ResponseInfo::from(hickory_proto::op::Header { metadata, counts })
            }
        }
    }
}

/// Looks a name up.
fn answer(registry: &Registry, guard: &Guard, name: &Name, kind: RecordType) -> Answer {
    let labels: Vec<String> = name.iter().map(|label| String::from_utf8_lossy(label).to_lowercase()).collect();
    let mut labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    if labels.pop() != Some(ZONE) {
        return Answer::code(ResponseCode::Refused);
    }
    if labels.is_empty() {
        return apex(name, kind);
    }
    let kinds = ["service", "node", "addr"];
    // The datacenter may stand between the kind and the zone; another one is not known.
    if labels.len() >= 2 && labels.last() == Some(&DATACENTER) && kinds.contains(&labels[labels.len() - 2]) {
        labels.pop();
    }
    match labels.pop() {
        Some("service") => service(registry, guard, name, &labels, kind),
        Some("node") => node(registry, guard, name, &labels, kind),
        Some("addr") => address(name, &labels, kind),
        _ => Answer::code(ResponseCode::NXDomain),
    }
}

fn apex(name: &Name, kind: RecordType) -> Answer {
    let server = zone_name(&format!("{NODE}.node.{DATACENTER}"));
    let records = match (kind, server) {
        (RecordType::SOA, _) => soa().into_iter().collect(),
        (RecordType::NS, Some(server)) => vec![record(name, RData::NS(NS(server)))],
        _ => Vec::new(),
    };
    Answer::records(records)
}

fn soa() -> Option<Record> {
    let (zone, server) = (zone_name("")?, zone_name(&format!("{NODE}.node.{DATACENTER}"))?);
    let contact = zone_name("hostmaster")?;
    Some(record(&zone, RData::SOA(SOA::new(server, contact, 1, 3600, 600, 86_400, 0))))
}

/// `[tag.]name.service` and `_name._tag.service`.
fn service(registry: &Registry, guard: &Guard, asked: &Name, labels: &[&str], kind: RecordType) -> Answer {
    let (wanted, tag) = match labels {
        [name, protocol] if name.starts_with('_') && protocol.starts_with('_') => {
            let tag = &protocol[1..];
            // RFC 2782 puts the protocol there; as a tag it would be asked for by nobody.
            (name[1..].to_owned(), (tag != "tcp").then(|| tag.to_owned()))
        }
        [name] => ((*name).to_owned(), None),
        [.., name] => ((*name).to_owned(), Some(labels[..labels.len() - 1].join("."))),
        [] => return Answer::code(ResponseCode::NXDomain),
    };
    let known = registry.service_names().find(|known| known.eq_ignore_ascii_case(&wanted));
    let Some(known) = known.filter(|known| guard.sees(Resource::Service, known)) else {
        return Answer::code(ResponseCode::NXDomain);
    };
    let has_tag = |service: &Service| {
        tag.as_ref().is_none_or(|tag| service.definition.tags.iter().any(|held| held.eq_ignore_ascii_case(tag)))
    };
    let well = registry.instances_of(known).filter(|(_, service)| has_tag(service));
    let mut well: Vec<(&Node, &Service, Status)> = well
        .map(|(node, service)| (node, service, worst(registry, node, service)))
        .filter(|(_, _, status)| *status != Status::Critical)
        .collect();
    if well.is_empty() {
        return Answer::code(ResponseCode::NXDomain);
    }
    well.shuffle(&mut rand::rng());
    well.truncate(ANSWERS_MAX);
    if kind == RecordType::SRV {
        return srv(asked, &well);
    }
    let mut records: Vec<Record> = Vec::new();
    for (node, service, _) in &well {
        let held = address_of(node, service);
        // Several instances at one address are one answer.
        records.extend(host_record(asked, held, kind).filter(|one| !records.contains(one)));
    }
    Answer::records(records)
}

fn srv(asked: &Name, well: &[(&Node, &Service, Status)]) -> Answer {
    let mut found = Answer::records(Vec::new());
    for (node, service, status) in well {
        let weights = &service.definition.weights;
        let weight = if *status == Status::Passing { weights.passing } else { weights.warning };
        let weight = u16::try_from(weight).unwrap_or(u16::MAX);
        let held = address_of(node, service);
        let target = match (service.definition.address.is_empty(), held.parse::<IpAddr>()) {
            // The node's own name says where it is.
            (true, Ok(_)) => zone_name(&format!("{}.node.{DATACENTER}", node.definition.name)),
            (false, Ok(ip)) => zone_name(&format!("{}.addr.{DATACENTER}", hex(ip))),
            (_, Err(_)) => Name::from_utf8(format!("{}.", held.trim_end_matches('.'))).ok(),
        };
        let Some(target) = target else { continue };
        let rdata = SRV::new(1, weight, service.definition.port, target.clone());
        found.records.push(record(asked, RData::SRV(rdata)));
        if let Ok(ip) = held.parse::<IpAddr>() {
            let extra = record(&target, ip_data(ip));
            if !found.additional.contains(&extra) {
                found.additional.push(extra);
            }
        }
    }
    found
}

fn node(registry: &Registry, guard: &Guard, asked: &Name, labels: &[&str], kind: RecordType) -> Answer {
    let wanted = labels.join(".");
    let found = registry.nodes().find(|node| node.definition.name.eq_ignore_ascii_case(&wanted));
    let Some(node) = found.filter(|node| guard.sees(Resource::Node, &node.definition.name)) else {
        return Answer::code(ResponseCode::NXDomain);
    };
    if kind == RecordType::TXT {
        let pairs = node.definition.meta.iter().map(|(key, value)| format!("{key}={value}"));
        // A text of a record holds at most 255 bytes.
        let texts = pairs.filter(|text| text.len() <= 255);
        return Answer::records(texts.map(|text| record(asked, RData::TXT(TXT::new(vec![text])))).collect());
    }
    Answer::records(host_record(asked, &node.definition.address, kind).into_iter().collect())
}

/// `0a000001.addr`: the address that the name itself spells.
fn address(asked: &Name, labels: &[&str], kind: RecordType) -> Answer {
    let ip = match labels {
        [text] if text.len() == 8 => u32::from_str_radix(text, 16).ok().map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        [text] if text.len() == 32 => u128::from_str_radix(text, 16).ok().map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
        _ => None,
    };
    match ip {
        None => Answer::code(ResponseCode::NXDomain),
        Some(ip) => Answer::records(host_record(asked, &ip.to_string(), kind).into_iter().collect()),
    }
}

fn worst(registry: &Registry, node: &Node, service: &Service) -> Status {
    let checks = registry.checks_on(&node.definition.name);
    let id = &service.definition.id;
    let concerns = checks.filter(|check| check.definition.service_id.as_ref().is_none_or(|owner| owner == id));
    concerns.map(|check| check.status).max().unwrap_or(Status::Passing)
}

fn address_of<'a>(node: &'a Node, service: &'a Service) -> &'a str {
    let own = &service.definition.address;
    if own.is_empty() { &node.definition.address } else { own }
}

/// The record of an address if it is of the kind that is asked for, or where a name leads.
fn host_record(asked: &Name, held: &str, kind: RecordType) -> Option<Record> {
    let wants = |own: RecordType| kind == own || kind == RecordType::ANY;
    match held.parse::<IpAddr>() {
        Ok(ip) => {
            let own = if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA };
            wants(own).then(|| record(asked, ip_data(ip)))
        }
        Err(_) => {
            let target = Name::from_utf8(format!("{}.", held.trim_end_matches('.'))).ok()?;
            let leads = wants(RecordType::A) || wants(RecordType::AAAA) || wants(RecordType::CNAME);
            leads.then(|| record(asked, RData::CNAME(CNAME(target))))
        }
    }
}

fn ip_data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

fn hex(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{:08x}", u32::from(ip)),
        IpAddr::V6(ip) => format!("{:032x}", u128::from(ip)),
    }
}

/// A name in the zone; none if it is none (a node may be called anything).
fn zone_name(name: &str) -> Option<Name> {
    let whole = if name.is_empty() { format!("{ZONE}.") } else { format!("{name}.{ZONE}.") };
    Name::from_ascii(whole).ok()
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), 0, data)
}
