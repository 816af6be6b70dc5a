use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use membership::NodeId;
use serde::{Deserialize, Serialize};

use crate::fleet::{Fleet, NodeAddress};

/// What the cache file holds: the last known fleet, so that a service can start while discovery is down.
#[derive(Serialize, Deserialize)]
struct CacheJson {
    view: String,
    nodes: Vec<NodeJson>,
}

#[derive(Serialize, Deserialize)]
struct NodeJson {
    id: String,
    name: String,
    peer: String,
    http: String,
    incarnation: u64,
}

/// The fleet that the cache holds; none if there is no file, or an unusable one (which is logged).
pub(crate) fn load(path: &Path) -> Option<Fleet> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the fleet cache cannot be read; starting without it");
            return None;
        }
    };
    let fleet = parse(&text);
    if fleet.is_none() {
        tracing::warn!(path = %path.display(), "the fleet cache is damaged; starting without it");
    }
    fleet
}

/// Replaces the cache file. It is not synced: losing it costs nothing but a start that waits for discovery.
pub(crate) fn save(path: &Path, fleet: &Fleet) {
    let scratch = path.with_extension("tmp");
    let done = fs::write(&scratch, render(fleet)).and_then(|()| fs::rename(&scratch, path));
    if let Err(error) = done {
        tracing::warn!(path = %path.display(), %error, "the fleet cache cannot be written");
    }
}

fn render(fleet: &Fleet) -> String {
    let nodes = fleet.nodes.iter().map(|(id, node)| NodeJson {
        id: id.to_string(),
        name: node.name.clone(),
        peer: node.peer.to_string(),
        http: node.http.clone(),
        incarnation: node.incarnation,
    });
    let cache = CacheJson { view: wire::view::to_json(&fleet.view), nodes: nodes.collect() };
    serde_json::to_string(&cache).expect("a struct of strings and numbers is always JSON")
}

fn parse(text: &str) -> Option<Fleet> {
    let cache: CacheJson = serde_json::from_str(text).ok()?;
    let view = wire::view::from_json(&cache.view).ok()?;
    let mut nodes = BTreeMap::new();
    for node in cache.nodes {
        let id = NodeId(u64::from_str_radix(&node.id, 16).ok()?);
        let peer = node.peer.parse().ok()?;
        nodes.insert(id, NodeAddress { name: node.name, peer, http: node.http, incarnation: node.incarnation });
    }
    Some(Fleet { ring: Arc::new(view.ring()), view: Arc::new(view), nodes })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use membership::{ClusterId, Epoch, Member, Position, View};

    use super::*;

    #[test]
    fn a_fleet_survives_its_cache() {
        let member = |id: u64| Member {
            id: NodeId(id),
            name: format!("n{id}"),
            zone: None,
            weight: 1,
            tokens: vec![Position(id), Position(u64::MAX - id)],
        };
        let view =
            View { epoch: Epoch(1), members: vec![member(1), member(2)], ..View::forming(ClusterId(5), 2, 2, 7) };
        let address = NodeAddress {
            name: "n1".to_owned(),
            peer: SocketAddr::from(([127, 0, 0, 1], 9000)),
            http: "127.0.0.1:9001".to_owned(),
            incarnation: 3,
        };
        let nodes = BTreeMap::from([(NodeId(1), address)]);
        let fleet = Fleet { ring: Arc::new(view.ring()), view: Arc::new(view), nodes };
        assert_eq!(parse(&render(&fleet)), Some(fleet));
        assert_eq!(parse("{\"view\":\"\",\"nodes\":[]}"), None, "damage is no fleet");
    }
}
