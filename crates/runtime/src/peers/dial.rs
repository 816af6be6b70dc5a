use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use membership::NodeId;
use stdx::{Prng, error_chain};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::Shared;
use super::connection;
use super::handshake::{ConnectError, Side, shake};

/// The first pause after a failed attempt is drawn below this.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// After a failed accept (too many open files, mostly): time for some to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) fn set_addresses(shared: &Arc<Shared>, mut addresses: BTreeMap<NodeId, SocketAddr>) {
    if let Some(own) = shared.hello.sender.node_id() {
        addresses.remove(&own);
    }
    let mut links = shared.links();
    if *shared.closed.borrow() {
        return;
    }
    for (node, address) in links.retarget(&addresses) {
        let task = tokio::spawn(keep_dialled(Arc::clone(shared), node, address));
        links.set_dialler(node, address, task.abort_handle());
    }
}

pub(super) fn listen(shared: &Arc<Shared>, listener: std::net::TcpListener) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(&shared, &listener) => {}
            () = shared.wait_closed() => {}
        }
    });
    Ok(())
}

/// Connects, waits until the connection ends, connects again; until it is aborted or all is closed.
async fn keep_dialled(shared: Arc<Shared>, node: NodeId, address: SocketAddr) {
    let mut prng = Prng::from_seed(RandomState::new().hash_one(node));
    let mut pause_max = BACKOFF_MIN;
    while !*shared.closed.borrow() {
        let outcome = dial(&shared, node, address).await;
        let is_news = shared.links().note_dial(node, outcome.as_ref().err().cloned());
        match outcome {
            Ok(connected) => {
                pause_max = BACKOFF_MIN;
                // The connection is a task of its own: aborting this one must not cut off its clean end.
                if let Err(panicked) = connected.await {
                    warn!(%node, error = error_chain(&panicked), "a connection's task ended badly");
                }
            }
            Err(error @ (ConnectError::Unreachable(_) | ConnectError::Timeout)) if is_news => {
                info!(%node, %address, error = error_chain(&error), "a peer cannot be reached");
            }
            Err(error) if is_news => {
                warn!(%node, %address, error = error_chain(&error), "a peer was refused");
            }
            Err(_) => {}
        }
        sleep(pause_max.mul_f64(prng.unit())).await;
        pause_max = (pause_max * 2).min(shared.limits.backoff_max);
    }
}

async fn dial(
    shared: &Arc<Shared>,
    node: NodeId,
    address: SocketAddr,
) -> Result<tokio::task::JoinHandle<()>, ConnectError> {
    let limits = &shared.limits;
    let mut stream =
        timeout(limits.connect_timeout, TcpStream::connect(address)).await.map_err(|_| ConnectError::Timeout)??;
    let theirs = shake(&mut stream, &shared.hello, Side::Dialled(node), limits.hello_timeout).await?;
    let running = connection::register(shared, stream, theirs.sender, Some(address)).await?;
    Ok(tokio::spawn(running))
}

async fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    let places = Arc::new(Semaphore::new(shared.limits.accepted_max));
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            warn!(%address, accepted_max = shared.limits.accepted_max, "a connection was closed: too many are open");
            continue;
        };
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            serve(&shared, stream, address).await;
            drop(place);
        });
    }
}

async fn serve(shared: &Arc<Shared>, mut stream: TcpStream, address: SocketAddr) {
    let welcome = async {
        let theirs = shake(&mut stream, &shared.hello, Side::Accepted, shared.limits.hello_timeout).await?;
        connection::register(shared, stream, theirs.sender, None).await
    };
    match welcome.await {
        Ok(running) => running.await,
        // A port that is merely probed: no reason for a warning.
        Err(error @ (ConnectError::Unreachable(_) | ConnectError::Timeout)) => {
            debug!(%address, error = error_chain(&error), "a connection ended before its Hello");
        }
        Err(error) => warn!(%address, error = error_chain(&error), "a connection was refused"),
    }
}
