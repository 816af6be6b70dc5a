//! The three that are compared: three members each, on loopback, with data on this machine's disk.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use processes::{Process, free_ports};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::http::{Connection, Failed};

/// Members of each.
pub const MEMBERS: usize = 3;
const READY_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everring's discovery.
    Ours,
    /// Consul's servers, with the multiplier that its documents advise for production.
    Consul,
    /// etcd with its defaults.
    Etcd,
}

impl Kind {
    /// Its name among the figures.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ours => "ours",
            Kind::Consul => "consul",
            Kind::Etcd => "etcd",
        }
    }
}

/// A cluster that runs.
pub struct Cluster {
    pub kind: Kind,
    pub addresses: Vec<SocketAddr>,
    program: PathBuf,
    directory: PathBuf,
    ports: Vec<u16>,
    members: Vec<Option<Process>>,
    starts: usize,
}

impl Cluster {
    /// Starts it, and waits until it takes writes at each member.
    pub fn start(kind: Kind, program: &Path, directory: &Path) -> Result<Cluster> {
        std::fs::create_dir_all(directory)?;
        let ports = free_ports(MEMBERS * 3)?;
        let addresses = ports[..MEMBERS].iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect();
        let (program, directory) = (program.to_owned(), directory.to_owned());
        let members = (0..MEMBERS).map(|_| None).collect();
        let mut cluster = Cluster { kind, addresses, program, directory, ports, members, starts: 0 };
        for at in 0..MEMBERS {
            cluster.run(at)?;
        }
        cluster.until_whole()?;
        Ok(cluster)
    }

    /// Starts a member, with the data it had.
    pub fn run(&mut self, at: usize) -> Result<()> {
        self.starts += 1;
        let name = format!("{}{}-{}", self.kind.name(), at + 1, self.starts);
        let command = self.command(at);
        self.members[at] = Some(Process::start(&name, command, &self.directory)?);
        Ok(())
    }

    /// Ends a member with no warning.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        let process = self.members[at].take().context("it runs")?;
        let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, Signal::KILL).context("it is ours to kill")?;
        // Waits for its end.
        drop(process);
        Ok(())
    }

    /// The processes of those members that run.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().flatten().map(Process::pid).collect()
    }

    fn command(&self, at: usize) -> Command {
        let mut command = Command::new(&self.program);
        let data = self.directory.join(format!("data{at}")).display().to_string();
        let at_port = |which: usize, member: usize| self.ports[which * MEMBERS + member];
        let (http, peer, other) = (at_port(0, at), at_port(1, at), at_port(2, at));
        let name = |member: usize| format!("m{}", member + 1);
        let all = |form: &dyn Fn(usize) -> String| (0..MEMBERS).map(form).collect::<Vec<_>>().join(",");
        match self.kind {
            Kind::Ours => {
                let replicas = all(&|member| format!("{}=127.0.0.1:{}", name(member), at_port(1, member)));
                command.args(["discovery", "--name", &name(at), "--listen", &format!("127.0.0.1:{http}")]);
                command.args(["--data", &data, "--replicas", &replicas]);
            }
            Kind::Consul => {
                command.args(["agent", "-server", "-bootstrap-expect=3", "-node", &name(at), "-data-dir", &data]);
                command.args(["-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn", "-dns-port=-1"]);
                command.args(["-grpc-port=-1", "-grpc-tls-port=-1", "-serf-wan-port=-1"]);
                command.args([&format!("-http-port={http}"), &format!("-server-port={peer}")]);
                command.arg(format!("-serf-lan-port={other}"));
                for member in (0..MEMBERS).filter(|member| *member != at) {
                    command.arg(format!("-retry-join=127.0.0.1:{}", at_port(2, member)));
                }
                command.args(["-hcl", "performance { raft_multiplier = 1 }", "-hcl", "disable_update_check = true"]);
            }
            Kind::Etcd => {
                let members = all(&|member| format!("{}=http://127.0.0.1:{}", name(member), at_port(1, member)));
                let (client, peer) = (format!("http://127.0.0.1:{http}"), format!("http://127.0.0.1:{peer}"));
                command.args(["--name", &name(at), "--data-dir", &data, "--initial-cluster", &members]);
                command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
                command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
                command.args(["--initial-cluster-state", "new", "--logger", "zap"]);
            }
        }
        for prefix in ["ETCD_", "CONSUL_", "EVERRING_"] {
            for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with(prefix)) {
                command.env_remove(variable);
            }
        }
        command
    }

    /// Waits until every member takes a write, and all agree on who leads.
    pub fn until_whole(&self) -> Result<usize> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            let leaders: Vec<Option<usize>> =
                self.addresses.iter().map(|address| self.leader_seen_by(*address)).collect();
            let agreed = leaders[0].filter(|_| leaders.iter().all(|leader| *leader == leaders[0]));
            let written = || {
                self.addresses.iter().all(|address| {
                    let mut connection = Connection::new(*address, Duration::from_secs(5));
                    matches!(put(self.kind, &mut connection, "warm", "1"), Ok(true))
                })
            };
            if let Some(leader) = agreed.filter(|_| written()) {
                return Ok(leader);
            }
            if Instant::now() > deadline {
                bail!(
                    "{} was not whole within {READY_MAX:?}; its logs are in {}",
                    self.kind.name(),
                    self.directory.display()
                );
            }
            std::thread::sleep(POLL);
        }
    }

    fn leader_seen_by(&self, address: SocketAddr) -> Option<usize> {
        let mut connection = Connection::new(address, Duration::from_secs(2));
        if self.kind == Kind::Etcd {
            let leader = etcd_status(&mut connection)?["leader"].as_str()?.to_owned();
            return self.addresses.iter().position(|address| {
                let mut connection = Connection::new(*address, Duration::from_secs(2));
                etcd_status(&mut connection).is_some_and(|status| status["header"]["member_id"] == leader.as_str())
            });
        }
        let (_, body) = connection.ask("GET", "/v1/status/leader", b"").ok()?;
        let leader: String = serde_json::from_slice(&body).ok()?;
        let port: u16 = leader.rsplit(':').next()?.parse().ok()?;
        // Consul names its server's port, ours the one of its HTTP API.
        let which = if self.kind == Kind::Consul { 1 } else { 0 };
        self.ports[which * MEMBERS..(which + 1) * MEMBERS].iter().position(|held| *held == port)
    }
}

fn etcd_status(connection: &mut Connection) -> Option<Value> {
    let (_, body) = connection.ask("POST", "/v3/maintenance/status", b"{}").ok()?;
    serde_json::from_slice(&body).ok()
}

/// Writes a key. True: acknowledged. False: refused, and it may have been done all the same.
pub fn put(kind: Kind, connection: &mut Connection, key: &str, value: &str) -> Result<bool, Failed> {
    let (status, body) = if kind == Kind::Etcd {
        let body = json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)}).to_string();
        connection.ask("POST", "/v3/kv/put", body.as_bytes())?
    } else {
        connection.ask("PUT", &format!("/v1/kv/{key}"), value.as_bytes())?
    };
    Ok(status == 200 && (kind == Kind::Etcd || body.starts_with(b"true")))
}

/// Reads a key at the strongest level; none when it is not there.
pub fn get(kind: Kind, connection: &mut Connection, key: &str) -> Result<Option<String>, Failed> {
    if kind == Kind::Etcd {
        let body = json!({"key": STANDARD.encode(key)}).to_string();
        let (status, body) = connection.ask("POST", "/v3/kv/range", body.as_bytes())?;
        let answer: Value = serde_json::from_slice(&body).map_err(|_| Failed::Unknown)?;
        let text = answer["kvs"][0]["value"].as_str().map(|text| STANDARD.decode(text).unwrap_or_default());
        return if status == 200 {
            Ok(text.map(|text| String::from_utf8_lossy(&text).into_owned()))
        } else {
            Err(Failed::Unknown)
        };
    }
    let (status, body) = connection.ask("GET", &format!("/v1/kv/{key}?raw&consistent"), b"")?;
    match status {
        200 => Ok(Some(String::from_utf8_lossy(&body).into_owned())),
        404 => Ok(None),
        _ => Err(Failed::Unknown),
    }
}
