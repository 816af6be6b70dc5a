//! Connections between replicas: each dials all others, and a frame goes over whichever connection there is.
//!
//! Both ends prove that they know the cluster's secret before a frame passes. A connection over which nothing comes,
//! not even an empty frame, is closed. What cannot be sent is lost: the replicas' protocol does without it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use consensus::{Frame, Roster};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::agreement::Job;

/// The first bytes of each connection; the last two are the version.
const MAGIC: &[u8; 10] = b"everdisc01";
const NAME_MAX: usize = 255;
/// An image of a full registry, with room to spare.
const FRAME_MAX: usize = 256 << 20;
/// Frames that wait for one connection; more are lost.
const QUEUED_MAX: usize = 4_096;
const CONNECT_MAX: Duration = Duration::from_secs(1);
const GREETING_MAX: Duration = Duration::from_secs(2);
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// The longest pause between two attempts; the actual ones are drawn evenly below it.
const PAUSE_MAX: Duration = Duration::from_millis(300);

/// The connections of one replica. Copies share them.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: u64,
    name: String,
    key: [u8; 32],
    runtime: Handle,
    jobs: Sender<Job>,
    /// For each peer its connections, the youngest last.
    open: Mutex<BTreeMap<u64, Vec<Queue>>>,
    dialled: Mutex<BTreeSet<String>>,
    next: AtomicU64,
    closed: watch::Sender<bool>,
}

/// The number of a connection, and the frames that wait to be sent over it.
type Queue = (u64, mpsc::Sender<Vec<u8>>);

impl Links {
    /// For the replica with this identity and name. The connections live on the runtime that this is called in.
    pub(crate) fn new(id: u64, name: &str, secret: &str, jobs: Sender<Job>) -> Links {
        let key = blake3::derive_key("everring 2026 discovery replicas", secret.as_bytes());
        let shared = Shared {
            id,
            name: name.to_owned(),
            key,
            runtime: Handle::current(),
            jobs,
            open: Mutex::default(),
            dialled: Mutex::default(),
            next: AtomicU64::new(1),
            closed: watch::channel(false).0,
        };
        Links { shared: Arc::new(shared) }
    }

    /// Accepts connections until all is closed.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub(crate) fn listen(&self, listener: std::net::TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let _entered = self.shared.runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        let shared = Arc::clone(&self.shared);
        self.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let shared = Arc::clone(&shared);
                        tokio::spawn(async move { shared.clone().accept(stream).await });
                    }
                    // Out of descriptors, say: the next attempt may do better.
                    Err(_) => tokio::time::sleep(PAUSE_MAX).await,
                }
            }
        });
        Ok(())
    }

    /// Keeps a connection to whoever answers at an address, from now on.
    pub(crate) fn dial(&self, address: &str) {
        if lock(&self.shared.dialled).insert(address.to_owned()) {
            let (shared, address) = (Arc::clone(&self.shared), address.to_owned());
            self.spawn(async move { shared.dial(&address).await });
        }
    }

    /// Dials all members but this one.
    pub(crate) fn set_members(&self, roster: &Roster, own: u64) {
        for member in roster.members.values().filter(|member| member.id != own && !member.peer.is_empty()) {
            self.dial(&member.peer);
        }
    }

    /// Sends a frame, over the youngest connection, if there is one. Never waits.
    pub(crate) fn send(&self, to: u64, frame: &Frame) {
        let queue = lock(&self.shared.open).get(&to).and_then(|held| held.last().map(|(_, queue)| queue.clone()));
        if let Some(queue) = queue {
            // A full queue or a broken connection loses it.
            let _ = queue.try_send(frame.encode());
        }
    }

    /// Closes everything.
    pub(crate) fn close(&self) {
        self.shared.closed.send_replace(true);
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut closed = self.shared.closed.subscribe();
        self.shared.runtime.spawn(async move {
            tokio::select! {
                () = work => {}
                _ = closed.wait_for(|closed| *closed) => {}
            }
        });
    }
}

impl Shared {
    async fn dial(self: Arc<Shared>, address: &str) {
        loop {
            if let Ok(Ok(stream)) = timeout(CONNECT_MAX, TcpStream::connect(address)).await
                && stream.set_nodelay(true).is_ok()
            {
                let (read, write) = stream.into_split();
                match timeout(GREETING_MAX, self.greet(read, write, true)).await {
                    // It dialled itself: nobody else will ever answer there.
                    Ok(Ok((peer, ..))) if peer.id == self.id => return,
                    Ok(Ok((peer, read, write))) => Arc::clone(&self).serve(peer, read, write).await,
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            tokio::time::sleep(PAUSE_MAX.mul_f64(rand::random_range(0.1..=1.0))).await;
        }
    }

    async fn accept(self: Arc<Shared>, stream: TcpStream) {
        let mut closed = self.closed.subscribe();
        let work = async {
            if stream.set_nodelay(true).is_err() {
                return;
            }
            let (read, write) = stream.into_split();
            if let Ok(Ok((peer, read, write))) = timeout(GREETING_MAX, self.greet(read, write, false)).await
                && peer.id != self.id
            {
                Arc::clone(&self).serve(peer, read, write).await;
            }
        };
        tokio::select! {
            () = work => {}
            _ = closed.wait_for(|closed| *closed) => {}
        }
    }

    /// Each says who it is with a number drawn for the occasion, and proves over the other's number that it knows the
    /// secret.
    async fn greet<Rd, Wr>(&self, mut read: Rd, mut write: Wr, dialled: bool) -> io::Result<(Peer, Rd, Wr)>
    where
        Rd: AsyncRead + Unpin,
        Wr: AsyncWrite + Unpin,
    {
        let nonce: [u8; 16] = rand::random();
        let mut hello = MAGIC.to_vec();
        hello.extend_from_slice(&self.id.to_le_bytes());
        hello.push(u8::try_from(self.name.len()).unwrap_or(u8::MAX));
        hello.extend_from_slice(&self.name.as_bytes()[..self.name.len().min(NAME_MAX)]);
        hello.extend_from_slice(&nonce);
        write.write_all(&hello).await?;
        let mut magic = [0; MAGIC.len()];
        read.read_exact(&mut magic).await?;
        if magic != *MAGIC {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let id = read.read_u64_le().await?;
        let mut name = vec![0; usize::from(read.read_u8().await?)];
        read.read_exact(&mut name).await?;
        let mut theirs = [0; 16];
        read.read_exact(&mut theirs).await?;
        write.write_all(self.proof(dialled, self.id, self.name.as_bytes(), &theirs).as_bytes()).await?;
        let mut proof = [0; 32];
        read.read_exact(&mut proof).await?;
        // blake3's hashes compare in constant time.
        if self.proof(!dialled, id, &name, &nonce) != proof {
            tracing::warn!("a connection of a replica with another cluster secret was refused");
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let name = String::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok((Peer { id, name }, read, write))
    }

    fn proof(&self, dialled: bool, id: u64, name: &[u8], nonce: &[u8; 16]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[u8::from(dialled)]).update(&id.to_le_bytes()).update(name).update(nonce);
        hasher.finalize()
    }

    async fn serve<Rd, Wr>(self: Arc<Shared>, peer: Peer, read: Rd, write: Wr)
    where
        Rd: AsyncRead + Unpin,
        Wr: AsyncWrite + Unpin,
    {
        let (queue, waiting) = mpsc::channel(QUEUED_MAX);
        let open = Open::new(&self, peer, queue);
        tokio::select! {
            () = write_frames(write, waiting) => {}
            () = self.read_frames(read, open.peer) => {}
        }
    }

    async fn read_frames<Rd: AsyncRead + Unpin>(&self, mut read: Rd, from: u64) {
        loop {
            let Ok(Ok(length)) = timeout(SILENCE_MAX, read.read_u32_le()).await else { return };
            let length = length as usize;
            if length == 0 {
                continue;
            }
            if length > FRAME_MAX {
                return;
            }
            let mut bytes = Vec::new();
            // What is announced is not reserved before it comes.
            let taken = (&mut read).take(length as u64).read_to_end(&mut bytes).await;
            let Ok(frame) = Frame::decode(&bytes) else { return };
            if taken.is_err() || bytes.len() != length || self.jobs.send(Job::Frame(from, frame)).is_err() {
                return;
            }
        }
    }
}

async fn write_frames<Wr: AsyncWrite + Unpin>(write: Wr, mut waiting: mpsc::Receiver<Vec<u8>>) {
    let mut write = BufWriter::new(write);
    let mut written = async |frame: &[u8], last: bool| -> io::Result<()> {
        let length = u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        write.write_all(&length.to_le_bytes()).await?;
        write.write_all(frame).await?;
        if last { write.flush().await } else { Ok(()) }
    };
    loop {
        let frame = match timeout(SIGN_OF_LIFE, waiting.recv()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(_) => Vec::new(),
        };
        if written(&frame, waiting.is_empty()).await.is_err() {
            return;
        }
    }
}

#[derive(Debug)]
struct Peer {
    id: u64,
    name: String,
}

/// A connection in the table. The first one with a peer is told, and the end of the last one.
struct Open<'a> {
    shared: &'a Shared,
    peer: u64,
    number: u64,
}

impl<'a> Open<'a> {
    fn new(shared: &'a Shared, peer: Peer, queue: mpsc::Sender<Vec<u8>>) -> Open<'a> {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let mut open = lock(&shared.open);
        let held = open.entry(peer.id).or_default();
        held.push((number, queue));
        if held.len() == 1 {
            // Told under the lock, so that up and down alternate.
            let _ = shared.jobs.send(Job::Up(peer.id, peer.name));
        }
        Open { shared, peer: peer.id, number }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut open = lock(&self.shared.open);
        let Some(held) = open.get_mut(&self.peer) else { return };
        held.retain(|(number, _)| *number != self.number);
        if held.is_empty() {
            open.remove(&self.peer);
            let _ = self.shared.jobs.send(Job::Down(self.peer));
        }
    }
}

/// No critical section here leaves its data half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
