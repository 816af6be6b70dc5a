//! Who is in the fleet, on which ports, with which arguments.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use socket2::{Domain, Socket, Type};

use super::keeper::{Spec, Stage};

/// A child's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Discovery.
    Discovery,
    /// Router.
    Router,
    /// Storage node.
    StorageNode,
    /// Gateway.
    Gateway,
}

impl Role {
    /// The role as the program calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Discovery => "discovery",
            Role::Router => "router",
            Role::StorageNode => "storage-node",
            Role::Gateway => "gateway",
        }
    }

    /// From when on it runs: the others look for discovery when they start.
    pub const fn start_stage(self) -> Stage {
        match self {
            Role::Discovery => Stage::Discovery,
            Role::Router | Role::StorageNode | Role::Gateway => Stage::All,
        }
    }

    /// When it ends: whoever depends on others ends before them.
    pub const fn end_stage(self) -> Stage {
        match self {
            Role::Router | Role::Gateway => Stage::EndFronts,
            Role::StorageNode => Stage::EndNodes,
            Role::Discovery => Stage::EndDiscovery,
        }
    }
}

/// The size of a fleet.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Storage nodes.
    pub nodes: u16,
    /// Gateways.
    pub gateways: u16,
    /// Replicas of discovery.
    pub discovery: u16,
    /// The first gateway's port, the others follow; none for any free ones.
    pub port: Option<u16>,
}

/// A port of this machine that nobody else is given while this is held.
///
/// The socket is bound and does not listen. Linux lets a child that sets `SO_REUSEADDR`, as every listener of Rust's
/// standard library does, bind beside it and listen, and gives the port to nobody who asks for any free one: so a
/// child's port is still there when it starts again.
pub struct ReservedPort {
    address: SocketAddr,
    _socket: Option<Socket>,
}

impl ReservedPort {
    /// Takes a free port.
    ///
    /// # Errors
    /// The system has none.
    pub fn take() -> std::io::Result<ReservedPort> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = socket.local_addr()?.as_socket();
        let address = address.ok_or_else(|| std::io::Error::other("the socket has no internet address"))?;
        // Other systems refuse a second binding even so: there the port is only free, and not held.
        let held = cfg!(target_os = "linux").then_some(socket);
        Ok(ReservedPort { address, _socket: held })
    }
}

/// The fleet, and the ports that are held for it.
pub struct Plan {
    /// Whom to start.
    pub specs: Vec<Spec>,
    /// The base URLs of discovery's replicas, separated by commas.
    pub discovery: String,
    /// The gateways' addresses.
    pub gateways: Vec<String>,
    draft: Draft,
    /// How many nodes the ring formed with.
    ring_size: u16,
    /// Given up with the plan.
    ports: Mutex<Vec<ReservedPort>>,
}

impl Plan {
    /// Draws up a fleet with these storage nodes and its data below `data`.
    ///
    /// # Errors
    /// There are not enough free ports, or a directory cannot be made.
    pub fn draw_up(size: Size, nodes: &[String], data: &Path) -> anyhow::Result<Plan> {
        let mut ports = Vec::new();
        let mut any = || {
            let port = ReservedPort::take().context("this machine has no free port")?;
            let address = port.address.to_string();
            ports.push(port);
            Ok::<_, anyhow::Error>(address)
        };
        let mut replicas = Vec::new();
        for number in 1..=size.discovery {
            replicas.push(Replica { name: format!("d{number}"), http: any()?, peer: any()? });
        }
        let urls: Vec<String> = replicas.iter().map(|replica| format!("http://{}", replica.http)).collect();
        let draft = Draft { data: data.to_owned(), discovery: urls.join(",") };
        let mut specs: Vec<Spec> = replicas.iter().map(|replica| draft.discovery_spec(replica, &replicas)).collect();
        specs.push(draft.front_spec(Role::Router, "r1", any()?)?);
        for name in nodes {
            specs.push(draft.node_spec(name, any()?, any()?, size.nodes));
        }
        let mut gateways = Vec::new();
        for number in 0..size.gateways {
            let address = match size.port {
                Some(first) => format!("127.0.0.1:{}", first.checked_add(number).context("--port is too high")?),
                None => any()?,
            };
            gateways.push(address.clone());
            specs.push(draft.front_spec(Role::Gateway, &format!("g{}", number + 1), address)?);
        }
        let (discovery, ports) = (draft.discovery.clone(), Mutex::new(ports));
        Ok(Plan { specs, discovery, gateways, draft, ring_size: size.nodes, ports })
    }

    /// One more storage node.
    ///
    /// # Errors
    /// There are not enough free ports.
    pub fn another_node(&self, name: &str) -> anyhow::Result<Spec> {
        let taken =
            [ReservedPort::take(), ReservedPort::take()].map(|port| port.context("this machine has no free port"));
        let [http, peer] = taken;
        let (http, peer) = (http?, peer?);
        let spec = self.draft.node_spec(name, http.address.to_string(), peer.address.to_string(), self.ring_size);
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).extend([http, peer]);
        Ok(spec)
    }
}

/// A replica of discovery.
struct Replica {
    name: String,
    http: String,
    peer: String,
}

struct Draft {
    data: PathBuf,
    discovery: String,
}

impl Draft {
    fn spec(&self, role: Role, name: &str, http: String, more: Vec<(&str, OsString)>) -> Spec {
        let mut args = vec![OsString::from(role.name())];
        let flags = [("--name", OsString::from(name)), ("--listen", OsString::from(&http))];
        for (flag, value) in flags.into_iter().chain(more) {
            args.push(OsString::from(flag));
            args.push(value);
        }
        let log = self.data.join(LOGS).join(format!("{name}.log"));
        Spec { name: name.to_owned(), role, http, args, log }
    }

    fn discovery_spec(&self, own: &Replica, all: &[Replica]) -> Spec {
        let mut more = vec![("--data", self.data.join(&own.name).into())];
        if all.len() > 1 {
            let list: Vec<String> = all.iter().map(|replica| format!("{}={}", replica.name, replica.peer)).collect();
            more.push(("--replicas", OsString::from(list.join(","))));
        }
        self.spec(Role::Discovery, &own.name, own.http.clone(), more)
    }

    fn node_spec(&self, name: &str, http: String, peer: String, ring_size: u16) -> Spec {
        let more = vec![
            ("--peer-listen", OsString::from(peer)),
            ("--discovery", OsString::from(&self.discovery)),
            ("--data", self.data.join(name).into()),
            ("--ring-size", OsString::from(ring_size.to_string())),
        ];
        self.spec(Role::StorageNode, name, http, more)
    }

    fn front_spec(&self, role: Role, name: &str, http: String) -> anyhow::Result<Spec> {
        let directory = self.data.join(name);
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let more = vec![
            ("--discovery", OsString::from(&self.discovery)),
            ("--fleet-cache", directory.join("fleet.json").into()),
            // Nobody spreads requests over this fleet but clients that go on at a refusal.
            ("--drain", OsString::from("100ms")),
        ];
        Ok(self.spec(role, name, http, more))
    }
}

/// Where the children's output goes, below the data directory.
pub const LOGS: &str = "logs";

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_held_port_can_be_listened_at_again_and_again() {
        let port = ReservedPort::take().expect("a free port");
        for _ in 0..3 {
            assert!(TcpStream::connect(port.address).is_err(), "nobody listens at a port that is only held");
            let listener = TcpListener::bind(port.address).expect("beside the holder");
            let client = TcpStream::connect(port.address).expect("somebody listens");
            listener.accept().expect("the connection");
            drop(client);
        }
    }
}
