//! Asks storage nodes how far they are with copying, while the ring changes.

use std::collections::BTreeMap;
use std::time::Duration;

use client::fleet::NodeAddress;
use serde::Deserialize;
use tokio::task::JoinSet;
use wire::http::CopyProgress;

/// How long a node has to answer: people wait, and one that is dead says nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// A client of the nodes' HTTP sides.
#[derive(Clone, Debug)]
pub struct Statuses {
    http: reqwest::Client,
}

/// What is read of a node's `/status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    copying: Copying,
    available: Available,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Available {
    disk: Table,
    memory: Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Table {
    copying: Copying,
}

/// Of registers, or of available keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Copying {
    arcs: u64,
    arcs_copied: u64,
    registers: u64,
    keys: u64,
    bytes: u64,
}

impl Statuses {
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new() -> Result<Statuses, reqwest::Error> {
        Ok(Statuses { http: reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()? })
    }

    /// How far these nodes are, by name; those that do not answer in time are left out.
    pub async fn copying<'a>(&self, nodes: impl Iterator<Item = &'a NodeAddress>) -> BTreeMap<String, CopyProgress> {
        let mut asked = JoinSet::new();
        for node in nodes.filter(|node| !node.http.is_empty()) {
            let (name, call) = (node.name.clone(), self.http.get(format!("http://{}/status", node.http)));
            asked.spawn(async move { Some((name, call.send().await.ok()?.json::<Status>().await.ok()?)) });
        }
        let answers = asked.join_all().await;
        answers.into_iter().flatten().map(|(name, status)| (name, sum(&status))).collect()
    }
}

fn sum(status: &Status) -> CopyProgress {
    let parts = [&status.copying, &status.available.disk.copying, &status.available.memory.copying];
    let of = |field: fn(&Copying) -> u64| parts.iter().map(|part| field(part)).sum();
    CopyProgress {
        arcs: of(|part| part.arcs),
        arcs_copied: of(|part| part.arcs_copied),
        registers: of(|part| part.registers),
        keys: of(|part| part.keys),
        bytes: of(|part| part.bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the words of the node's own page, which a process test holds against a real one.
    #[test]
    fn both_contracts_are_counted_together() {
        let text = r#"{"name":"n1","copying":{"arcs":3,"arcs_copied":1,"registers":7,"bytes":70},
            "available":{"disk":{"keys":9,
                "copying":{"arcs":3,"arcs_copied":2,"arcs_verified":1,"keys":5,"bytes":50}}}}"#;
        let status: Status = serde_json::from_str(text).expect("a status");
        let expected = CopyProgress { arcs: 6, arcs_copied: 3, registers: 7, keys: 5, bytes: 120 };
        assert_eq!(sum(&status), expected);
        assert_eq!(sum(&serde_json::from_str("{}").expect("an older node's")), CopyProgress::default());
    }
}
