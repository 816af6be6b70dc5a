//! What `everring up` tells people: where everything is, and who died.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use super::directory::DataDirectory;
use super::keeper::{Keeper, Lives};
use super::plan::Plan;
use crate::out::{self, Form};

/// Where everything is.
#[derive(Debug, Serialize)]
pub struct Addresses {
    gateways: Vec<String>,
    discovery: String,
    traces: String,
    data: PathBuf,
    data_stays: bool,
    children: Vec<ChildAddress>,
}

#[derive(Debug, Serialize)]
struct ChildAddress {
    name: String,
    role: &'static str,
    http: String,
    pid: Option<u32>,
    log: PathBuf,
}

impl Addresses {
    /// As they are now.
    pub fn new(plan: &Plan, keeper: &Keeper, traces: &str, data: &DataDirectory) -> Addresses {
        let lives = keeper.lives().borrow();
        let children = plan.specs.iter().map(|spec| ChildAddress {
            name: spec.name.clone(),
            role: spec.role.name(),
            http: format!("http://{}", spec.http),
            pid: lives.get(&spec.name).and_then(|life| life.pid),
            log: spec.log.clone(),
        });
        Addresses {
            gateways: plan.gateways.iter().map(|gateway| format!("http://{gateway}")).collect(),
            discovery: plan.discovery.clone(),
            traces: traces.to_owned(),
            data: data.path().to_owned(),
            data_stays: data.stays(),
            children: children.collect(),
        }
    }

    /// Shows them: as data when they are the answer, beside it when a verdict will be.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn show(&self, form: Form, verdict_follows: bool) -> anyhow::Result<()> {
        match (form, verdict_follows) {
            (Form::Json, false) => out::line(&serde_json::to_string(self)?),
            (Form::Table, false) => out::bytes(self.text().as_bytes()),
            (_, true) => {
                eprint!("{}", self.text());
                Ok(())
            }
        }
    }

    fn text(&self) -> String {
        let fate = if self.data_stays { "" } else { " (removed at the end; --keep or --data DIR keeps it)" };
        let nodes: Vec<&str> = self.children.iter().map(|child| child.name.as_str()).collect();
        let gateway = &self.gateways[0];
        format!(
            "gateways   {}\ndiscovery  {}\ntraces     {}/api/traces?service=everring-gateway\nprocesses  {}\n\
             data       {}{fate}\n\ntry        curl -X PUT --data hello {gateway}/v1/kv/records/greeting\n           \
             curl -i {gateway}/v1/kv/records/greeting\n           everring ring --gateway {gateway}\n",
            self.gateways.join("  "),
            self.discovery,
            self.traces,
            nodes.join(" "),
            self.data.display(),
        )
    }
}

/// Says on standard error who died and who is back, for as long as it is driven.
pub async fn deaths(lives: &Arc<watch::Sender<Lives>>) {
    let mut seen = lives.subscribe();
    let mut before = seen.borrow_and_update().clone();
    while seen.changed().await.is_ok() {
        let now = seen.borrow_and_update().clone();
        for (name, life) in &now {
            let earlier = before.get(name).cloned().unwrap_or_default();
            match (earlier.pid, life.pid) {
                (Some(_), None) => {
                    let how = life.last_end.as_deref().unwrap_or("ended");
                    let then = if life.over { "is not started again" } else { "is started again" };
                    eprintln!("{name} {how}; it {then}");
                }
                (_, Some(pid)) if life.ready && !earlier.ready => eprintln!("{name} is ready again (process {pid})"),
                _ => {}
            }
        }
        before = now;
    }
}
