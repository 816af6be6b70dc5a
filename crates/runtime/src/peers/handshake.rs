use std::io;
use std::time::Duration;

use bytes::BytesMut;
use membership::{ClusterId, NodeId};
use stdx::TraceContext;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::codec::{self, CodecError};
use wire::frame;
use wire::node::{Frame, Hello, Payload};

/// Why a connection was not established. What it is about stays unreachable until someone acts, except where said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers at the address, or the connection broke during the Hello. Passes when the node is back.
    #[error("the peer cannot be reached ({0})")]
    Unreachable(io::ErrorKind),
    /// The other end took too long. Passes when it is less busy, or back.
    #[error("the peer did not answer in time")]
    Timeout,
    /// The other end belongs to another cluster: an address or the cluster's settings are wrong on one side.
    #[error(
        "the peer belongs to cluster {theirs}, and this is cluster {ours}: check the addresses and cluster settings"
    )]
    OtherCluster {
        /// Its cluster.
        theirs: ClusterId,
        /// Ours.
        ours: ClusterId,
    },
    /// The other end is a program of another generation.
    #[error("the peer speaks protocol {theirs}, and this program speaks {ours}: bring both to one version")]
    OtherProtocol {
        /// Its protocol.
        theirs: u16,
        /// Ours.
        ours: u16,
    },
    /// Another node answers at the address, whose lease is old. Passes when discovery's news arrives.
    #[error("node {expected} was dialled and {found} answered")]
    WrongNode {
        /// Who was dialled.
        expected: NodeId,
        /// Who answered; none when it is no node at all.
        found: String,
    },
    /// The other end has our own identity: a data directory was copied.
    #[error("the peer has this node's own identity: a data directory exists twice")]
    OwnIdentity,
    /// A newer start of the same node has been met; this one is a leftover.
    #[error("the peer is start {theirs} of its node, and start {newest} has been met: it is fenced off")]
    Fenced {
        /// Its incarnation.
        theirs: u64,
        /// The newest met.
        newest: u64,
    },
    /// The address is no longer the node's; the new one is being dialled.
    #[error("the address is no longer in use")]
    AddressGone,
    /// The first frame was something else: not one of ours, or out of step.
    #[error("the first frame was no Hello")]
    NoHello,
    /// The other end sends no frames: something else listens there, or its program is of another generation.
    #[error("the peer's bytes are no frame")]
    Malformed(#[source] CodecError),
    /// This process is closing.
    #[error("this process is closing its connections")]
    Closing,
}

/// A Hello is no longer than this; a stranger cannot make us set aside more.
const HELLO_BYTES_MAX: usize = 1024;

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> ConnectError {
        ConnectError::Unreachable(error.kind())
    }
}

/// Which end of the connection we are.
#[derive(Clone, Copy)]
pub(super) enum Side {
    /// We dialled, and expect this node.
    Dialled(NodeId),
    Accepted,
}

/// Exchanges Hellos and judges the other's. The dialler speaks first; who listens says nothing to a stranger.
pub(super) async fn shake(
    stream: &mut TcpStream,
    ours: &Hello,
    side: Side,
    within: Duration,
) -> Result<Hello, ConnectError> {
    let exchange = async {
        stream.set_nodelay(true)?;
        // Each end tells who it is before it judges, so that both can say what is wrong.
        let theirs = match side {
            Side::Dialled(_) => {
                write_hello(stream, ours).await?;
                read_hello(stream).await?
            }
            Side::Accepted => {
                let theirs = read_hello(stream).await?;
                write_hello(stream, ours).await?;
                theirs
            }
        };
        judge(ours, &theirs, side)?;
        Ok(theirs)
    };
    tokio::time::timeout(within, exchange).await.unwrap_or(Err(ConnectError::Timeout))
}

fn judge(ours: &Hello, theirs: &Hello, side: Side) -> Result<(), ConnectError> {
    if theirs.protocol != ours.protocol {
        return Err(ConnectError::OtherProtocol { theirs: theirs.protocol, ours: ours.protocol });
    }
    if theirs.cluster != ours.cluster {
        return Err(ConnectError::OtherCluster { theirs: theirs.cluster, ours: ours.cluster });
    }
    let found = theirs.sender.node_id();
    if found.is_some() && found == ours.sender.node_id() {
        return Err(ConnectError::OwnIdentity);
    }
    match side {
        Side::Dialled(expected) if found != Some(expected) => {
            let found = found.map_or_else(|| format!("client {:?}", theirs.sender.name()), |id| format!("node {id}"));
            Err(ConnectError::WrongNode { expected, found })
        }
        Side::Dialled(_) | Side::Accepted => Ok(()),
    }
}

async fn write_hello(stream: &mut TcpStream, hello: &Hello) -> Result<(), ConnectError> {
    let mut out = BytesMut::new();
    codec::encode(&Frame { context: TraceContext::NONE, payload: Payload::Hello(hello.clone()) }, &mut out);
    Ok(stream.write_all(&out).await?)
}

/// Reads exactly the first frame, and not a byte of the next.
async fn read_hello(stream: &mut TcpStream) -> Result<Hello, ConnectError> {
    let mut bytes = BytesMut::zeroed(frame::PREFIX_BYTES);
    stream.read_exact(&mut bytes).await?;
    let whole = frame::whole_length(&bytes, HELLO_BYTES_MAX).map_err(ConnectError::Malformed)?;
    bytes.resize(whole.unwrap_or(frame::PREFIX_BYTES), 0);
    stream.read_exact(&mut bytes[frame::PREFIX_BYTES..]).await?;
    match codec::decode(bytes.freeze()).map_err(ConnectError::Malformed)?.payload {
        Payload::Hello(hello) => Ok(hello),
        _ => Err(ConnectError::NoHello),
    }
}
