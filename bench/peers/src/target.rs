//! What is measured, and one client's connection to it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use etcd_client::KvClient;
use processes::Process;

use crate::http::HttpConnection;
use crate::{etcd, everring};

/// A system under test, running. Clones share its processes.
#[derive(Clone)]
pub struct Target {
    /// What it is called in the table.
    pub name: String,
    /// A sentence for the table's foot.
    pub description: String,
    /// How it is asked.
    pub protocol: Protocol,
    /// Where it is asked; client `n` asks the address `n` modulo their number.
    pub addresses: Vec<SocketAddr>,
    /// Its processes, which end with the last target that uses them.
    pub servers: Arc<Vec<Server>>,
}

/// One process of a target.
pub struct Server {
    /// What it does in its system: the rows of the processor table.
    pub role: &'static str,
    /// The process.
    pub process: Process,
}

/// How a target is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `PUT` and `GET` of `/v1/kv/records/{key}`: Everring's gateway and the bare handler.
    Records,
    /// etcd's v3 API as JSON over HTTP/1.1.
    EtcdJson,
    /// etcd's v3 API by gRPC.
    EtcdGrpc,
}

/// One client's connection.
pub enum Connection {
    /// HTTP to a gateway or the bare handler.
    Records(HttpConnection),
    /// HTTP to etcd's JSON gateway.
    EtcdJson(HttpConnection),
    /// gRPC.
    EtcdGrpc(Box<KvClient>),
}

impl Target {
    /// The etcd cluster behind it, if it is one.
    pub fn cluster(&self) -> Option<etcd::Cluster> {
        let is_etcd = matches!(self.protocol, Protocol::EtcdGrpc | Protocol::EtcdJson);
        is_etcd.then(|| etcd::Cluster {
            addresses: self.addresses.clone(),
            description: self.description.clone(),
            servers: Arc::clone(&self.servers),
        })
    }

    /// Opens the connection of client `number`.
    ///
    /// # Errors
    /// The target does not take it.
    pub async fn connect(&self, number: usize) -> Result<Connection> {
        let address = self.addresses[number % self.addresses.len()];
        Ok(match self.protocol {
            Protocol::Records => Connection::Records(HttpConnection::open(address).await?),
            Protocol::EtcdJson => Connection::EtcdJson(HttpConnection::open(address).await?),
            Protocol::EtcdGrpc => Connection::EtcdGrpc(Box::new(etcd::connect(address).await?)),
        })
    }
}

impl Connection {
    /// A strict, durable write.
    ///
    /// # Errors
    /// It was not acknowledged.
    pub async fn write(&mut self, key: &str, value: Bytes) -> Result<()> {
        match self {
            Connection::Records(http) => everring::write(http, key, value).await,
            Connection::EtcdJson(http) => etcd::write_json(http, key, &value).await,
            Connection::EtcdGrpc(client) => etcd::write_grpc(client, key, value).await,
        }
    }

    /// A strict (linearizable) read.
    ///
    /// # Errors
    /// There was no answer, or no value.
    pub async fn read(&mut self, key: &str) -> Result<Bytes> {
        match self {
            Connection::Records(http) => everring::read(http, key).await,
            Connection::EtcdJson(http) => etcd::read_json(http, key).await,
            Connection::EtcdGrpc(client) => etcd::read_grpc(client, key).await,
        }
    }
}
