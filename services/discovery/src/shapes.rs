//! What filter expressions may ask of each call's answers, in the names of its JSON.

use registry::filter::{Fields, Filter, Kind};

use crate::endpoint::Endpoint;
use crate::params::Params;
use crate::reply::Refused;

const ADDRESS: Fields = &[("Address", Kind::Text), ("Port", Kind::Number)];
const WEIGHTS: Fields = &[("Passing", Kind::Number), ("Warning", Kind::Number)];
const NODE: Fields = &[
    ("ID", Kind::Text),
    ("Node", Kind::Text),
    ("Address", Kind::Text),
    ("Datacenter", Kind::Text),
    ("TaggedAddresses", Kind::TextMap),
    ("Meta", Kind::TextMap),
    ("PeerName", Kind::Text),
];
const SERVICE: Fields = &[
    ("ID", Kind::Text),
    ("Service", Kind::Text),
    ("Kind", Kind::Text),
    ("Tags", Kind::Texts),
    ("Meta", Kind::TextMap),
    ("Port", Kind::Number),
    ("Address", Kind::Text),
    ("TaggedAddresses", Kind::ObjectMap(ADDRESS)),
    ("Weights", Kind::Object(WEIGHTS)),
    ("EnableTagOverride", Kind::Truth),
    ("Datacenter", Kind::Text),
    ("PeerName", Kind::Text),
];
const CHECK: Fields = &[
    ("Node", Kind::Text),
    ("CheckID", Kind::Text),
    ("Name", Kind::Text),
    ("Status", Kind::Text),
    ("Notes", Kind::Text),
    ("Output", Kind::Text),
    ("ServiceID", Kind::Text),
    ("ServiceName", Kind::Text),
    ("ServiceTags", Kind::Texts),
    ("Type", Kind::Text),
    ("Interval", Kind::Text),
    ("Timeout", Kind::Text),
    ("PeerName", Kind::Text),
];
const INSTANCE: Fields =
    &[("Node", Kind::Object(NODE)), ("Service", Kind::Object(SERVICE)), ("Checks", Kind::Objects(CHECK))];
const CATALOG_SERVICE: Fields = &[
    ("ID", Kind::Text),
    ("Node", Kind::Text),
    ("Address", Kind::Text),
    ("Datacenter", Kind::Text),
    ("TaggedAddresses", Kind::TextMap),
    ("NodeMeta", Kind::TextMap),
    ("ServiceID", Kind::Text),
    ("ServiceName", Kind::Text),
    ("ServiceKind", Kind::Text),
    ("ServiceTags", Kind::Texts),
    ("ServiceAddress", Kind::Text),
    ("ServiceTaggedAddresses", Kind::ObjectMap(ADDRESS)),
    ("ServiceWeights", Kind::Object(WEIGHTS)),
    ("ServiceMeta", Kind::TextMap),
    ("ServicePort", Kind::Number),
    ("ServiceEnableTagOverride", Kind::Truth),
    ("PeerName", Kind::Text),
];
const SERVICE_NAME: Fields =
    &[("ServiceName", Kind::Text), ("ServiceTags", Kind::Texts), ("ServiceMeta", Kind::TextMap)];

/// The filter of a request, if it has one and its call takes one; calls that take none ignore it, as in Consul.
pub(crate) fn filter_of(endpoint: &Endpoint, params: &Params) -> Result<Option<Filter>, Refused> {
    let Some(text) = params.get("filter").filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    let fields = match endpoint {
        Endpoint::CatalogNodes => NODE,
        Endpoint::CatalogServices => SERVICE_NAME,
        Endpoint::CatalogService(_) => CATALOG_SERVICE,
        Endpoint::CatalogNode(_) | Endpoint::CatalogNodeServices(_) | Endpoint::AgentServices => SERVICE,
        Endpoint::HealthService(_) => INSTANCE,
        Endpoint::HealthNode(_) | Endpoint::HealthChecks(_) | Endpoint::HealthState(_) | Endpoint::AgentChecks => CHECK,
        _ => return Ok(None),
    };
    let failed = |error| Refused::by_server(format!("Failed to create boolean expression evaluator: {error}"));
    Filter::parse(text, Kind::Object(fields)).map(Some).map_err(failed)
}
