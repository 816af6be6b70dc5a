use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use registry::{NodeDefinition, ServiceDefinition, Weights};
use serde_json::{Map, Value};

use crate::check_input::{ServiceChecks, service_checks};
use crate::reply::Refused;
use crate::units::parse_duration;

/// A JSON object's fields, found whatever the case of their names and with or without underscores: Consul takes
/// `ServiceID`, `serviceid` and `service_id` alike.
#[derive(Debug, Default)]
pub(crate) struct Fields(BTreeMap<String, Value>);

impl Fields {
    /// The object in a request's body.
    pub(crate) fn of_body(body: &[u8]) -> Result<Fields, Refused> {
        let value = serde_json::from_slice(body);
        let value: Value = value.map_err(|error| Refused::bad_request(format!("Request decode failed: {error}")))?;
        Fields::of(value, "the body")
    }

    pub(crate) fn of(value: Value, what: &str) -> Result<Fields, Refused> {
        let Value::Object(map) = value else { return Err(wrong_kind(what, "an object")) };
        Ok(Fields(map.into_iter().map(|(name, value)| (plain(&name), value)).collect()))
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(&plain(name)).filter(|value| !value.is_null())
    }

    /// A text; empty when it is not there.
    pub(crate) fn text(&mut self, name: &str) -> Result<String, Refused> {
        match self.take(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(wrong_kind(name, "a string")),
        }
    }

    /// The first of several names of one thing that holds a text.
    pub(crate) fn first_text(&mut self, names: &[&str]) -> Result<String, Refused> {
        let mut found = String::new();
        for name in names {
            let text = self.text(name)?;
            if found.is_empty() {
                found = text;
            }
        }
        Ok(found)
    }

    pub(crate) fn truth(&mut self, name: &str) -> Result<bool, Refused> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(truth)) => Ok(truth),
            Some(_) => Err(wrong_kind(name, "true or false")),
        }
    }

    pub(crate) fn port(&mut self, name: &str) -> Result<u16, Refused> {
        let Some(value) = self.take(name) else { return Ok(0) };
        let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
        port.ok_or_else(|| wrong_kind(name, "a port from 0 to 65535"))
    }

    /// A duration, as text (`10s`) or as nanoseconds.
    pub(crate) fn duration(&mut self, name: &str) -> Result<Option<Duration>, Refused> {
        let wrong = || wrong_kind(name, "a duration such as \"10s\"");
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => parse_duration(&text).map(Some).ok_or_else(wrong),
            Some(value) => value.as_u64().map(|nanos| Some(Duration::from_nanos(nanos))).ok_or_else(wrong),
        }
    }

    /// A session's lock delay: a small bare number means seconds.
    pub(crate) fn lock_delay(&mut self, name: &str) -> Result<Option<Duration>, Refused> {
        let delay = self.duration(name)?;
        Ok(delay.map(|delay| match u64::try_from(delay.as_nanos()) {
            Ok(seconds) if seconds < 1000 => Duration::from_secs(seconds),
            _ => delay,
        }))
    }

    /// A number from 0 up; 0 when it is not there.
    pub(crate) fn number(&mut self, name: &str) -> Result<u64, Refused> {
        let Some(value) = self.take(name) else { return Ok(0) };
        value.as_u64().ok_or_else(|| wrong_kind(name, "a number from 0 up"))
    }

    /// A number that may not be there, and fits 32 bits.
    pub(crate) fn small_number(&mut self, name: &str) -> Result<u32, Refused> {
        let number = self.number(name)?;
        u32::try_from(number).map_err(|_| wrong_kind(name, "a small number"))
    }

    /// A list of texts; none when it is not there.
    pub(crate) fn texts_if_given(&mut self, name: &str) -> Result<Option<Vec<String>>, Refused> {
        let given = self.0.get(&plain(name)).is_some_and(|value| !value.is_null());
        let texts = self.texts(name)?;
        Ok(given.then_some(texts))
    }

    pub(crate) fn texts(&mut self, name: &str) -> Result<Vec<String>, Refused> {
        let wrong = || wrong_kind(name, "a list of strings");
        let Value::Array(values) = self.take(name).unwrap_or_else(|| Value::Array(Vec::new())) else {
            return Err(wrong());
        };
        values.into_iter().map(|value| value.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
    }

    /// Pairs of texts. Their names are data, and keep their case.
    pub(crate) fn pairs(&mut self, name: &str) -> Result<BTreeMap<String, String>, Refused> {
        let wrong = || wrong_kind(name, "an object of strings");
        let pairs = self.object(name)?.into_iter();
        pairs.map(|(key, value)| Ok((key, value.as_str().ok_or_else(wrong)?.to_owned()))).collect()
    }

    /// An object with names that are data; empty when it is not there.
    pub(crate) fn object(&mut self, name: &str) -> Result<Map<String, Value>, Refused> {
        match self.take(name) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map),
            Some(_) => Err(wrong_kind(name, "an object")),
        }
    }

    /// An object with names that are fields.
    pub(crate) fn fields(&mut self, name: &str) -> Result<Option<Fields>, Refused> {
        self.take(name).map(|value| Fields::of(value, name)).transpose()
    }

    /// A list of objects; empty when it is not there.
    pub(crate) fn list(&mut self, name: &str) -> Result<Vec<Fields>, Refused> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values.into_iter().map(|value| Fields::of(value, name)).collect(),
            Some(_) => Err(wrong_kind(name, "a list of objects")),
        }
    }

    /// Whether a field holds anything that means something.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        match self.0.get(&plain(name)) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(values)) => !values.is_empty(),
            Some(Value::Object(map)) => !map.is_empty(),
            Some(_) => true,
        }
    }
}

/// The body of `PUT /v1/agent/service/register`.
pub(crate) fn agent_service(body: &[u8]) -> Result<ServiceChecks, Refused> {
    let mut fields = Fields::of_body(body)?;
    for (field, what) in [("Connect", "Connect is"), ("Proxy", "Connect is"), ("Kind", "Connect is")] {
        if fields.is_set(field) {
            return Err(Refused::not_offered(what));
        }
    }
    let name = fields.text("Name")?;
    if name.is_empty() {
        return Err(Refused::bad_request("Missing service name"));
    }
    let mut service = service(&mut fields, name)?;
    // Consul's agents say by which protocol a service's address is reached.
    let family = match service.address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => Some("ipv4"),
        Ok(IpAddr::V6(_)) => Some("ipv6"),
        Err(_) => None,
    };
    for network in family.into_iter().flat_map(|family| [format!("lan_{family}"), format!("wan_{family}")]) {
        service.tagged_addresses.entry(network).or_insert((service.address.clone(), service.port));
    }
    service_checks(&mut fields, service)
}

/// A node in the body of `PUT /v1/catalog/register` or `/v1/txn`.
pub(crate) fn catalog_node(fields: &mut Fields) -> Result<NodeDefinition, Refused> {
    let (registered, meta) = (fields.pairs("NodeMeta")?, fields.pairs("Meta")?);
    Ok(NodeDefinition {
        id: fields.text("ID")?,
        name: fields.text("Node")?,
        address: fields.text("Address")?,
        tagged_addresses: fields.pairs("TaggedAddresses")?,
        meta: if registered.is_empty() { meta } else { registered },
    })
}

/// The service in the body of `PUT /v1/catalog/register`, whose name is called `Service`.
pub(crate) fn catalog_service(fields: &mut Fields) -> Result<ServiceDefinition, Refused> {
    let name = fields.first_text(&["Service", "Name"])?;
    if name.is_empty() {
        return Err(Refused::bad_request("Must provide service name (Service.Service) when service is provided"));
    }
    service(fields, name)
}

/// The fields that both forms of a service share.
fn service(fields: &mut Fields, name: String) -> Result<ServiceDefinition, Refused> {
    let id = fields.text("ID")?;
    let address = fields.text("Address")?;
    if ["0.0.0.0", "::", "[::]"].contains(&address.as_str()) {
        return Err(Refused::bad_request("Invalid service address"));
    }
    let weights = match fields.fields("Weights")? {
        None => Weights::default(),
        Some(mut weights) => {
            Weights { passing: weight(&mut weights, "Passing")?, warning: weight(&mut weights, "Warning")? }
        }
    };
    let mut tagged_addresses = BTreeMap::new();
    for (network, value) in fields.object("TaggedAddresses")? {
        let mut at = Fields::of(value, "TaggedAddresses")?;
        tagged_addresses.insert(network, (at.text("Address")?, at.port("Port")?));
    }
    Ok(ServiceDefinition {
        id: if id.is_empty() { name.clone() } else { id },
        name,
        tags: fields.texts("Tags")?,
        meta: fields.pairs("Meta")?,
        address,
        port: fields.port("Port")?,
        tagged_addresses,
        weights,
        enable_tag_override: fields.truth("EnableTagOverride")?,
    })
}

fn weight(fields: &mut Fields, name: &str) -> Result<u32, Refused> {
    let Some(value) = fields.take(name) else { return Ok(1) };
    let weight = value.as_u64().and_then(|weight| u32::try_from(weight).ok());
    weight.ok_or_else(|| wrong_kind(name, "a weight from 0 up"))
}

fn wrong_kind(name: &str, expected: &str) -> Refused {
    Refused::bad_request(format!("Request decode failed: {name} must be {expected}"))
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fields_have_no_case_but_those_of_meta_do() {
        let body = br#"{"name":"web","id":"w1","META":{"Zone":"a"},"port":80,"enable_tag_override":true}"#;
        let (service, checks) = agent_service(body).expect("a registration");
        assert_eq!((service.id.as_str(), service.port, checks.len()), ("w1", 80, 0));
        assert_eq!(service.meta.get("Zone").map(String::as_str), Some("a"));
        assert!(service.enable_tag_override);
    }

    #[test]
    fn wrong_kinds_are_refused_with_their_name() {
        for (body, word) in [
            (&br#"{"Name":"w","Port":"80"}"#[..], "Port"),
            (br#"{"Name":"w","Tags":"x"}"#, "Tags"),
            (br#"{"Name":"w","Meta":{"a":1}}"#, "Meta"),
            (br#"{"Name":7}"#, "Name"),
            (br#"{}"#, "Missing service name"),
            (br#"[]"#, "the body"),
            (br#"{"#, "Request decode failed"),
        ] {
            let refused = agent_service(body).expect_err("wrong");
            assert_eq!(refused.status.as_u16(), 400);
            assert!(refused.text.contains(word), "{}", refused.text);
        }
    }
}
