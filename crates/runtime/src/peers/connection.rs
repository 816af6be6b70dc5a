use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use available::ListingPage;
use bytes::{BufMut, Bytes, BytesMut};
use chord::NextHop;
use membership::Epoch;
use replication::{Outcome, Receipt, ScanOutcome};
use stdx::{TraceContext, error_chain};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, MissedTickBehavior, Sleep, interval, sleep_until};
use tracing::{debug, warn};
use wire::codec::{self, CodecError, SHARED_BYTES_MIN};
use wire::frame::{self, FRAME_BYTES_MAX};
use wire::node::{Finding, Frame, Payload, Sender};

use super::handshake::ConnectError;
use super::links::Change;
use super::{CallError, ConnectionId, Limits, PeerEvent, Shared, lock};

/// One established connection.
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) peer: Sender,
    /// The address, if we dialled it.
    pub(super) dialled: Option<SocketAddr>,
    limits: Limits,
    queue: Mutex<Queue>,
    /// Something was queued.
    queued: Notify,
    /// The queue ran empty, or the connection ended.
    emptied: Notify,
    /// The calls that wait for an answer; none once the connection has ended.
    calls: Mutex<Option<HashMap<u64, Waiting>>>,
    open: AtomicBool,
    going_away: AtomicBool,
    close: Notify,
}

/// Who waits for which kind of answer.
pub(super) enum Waiting {
    Operation(oneshot::Sender<(Outcome, Receipt)>),
    Available(oneshot::Sender<(available::Outcome, available::Receipt)>),
    Lookup(oneshot::Sender<Option<NextHop>>),
    Scan(oneshot::Sender<ScanOutcome>),
    List(oneshot::Sender<Result<ListingPage, Epoch>>),
    Inquiry(oneshot::Sender<Finding>),
}

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Enqueued {
    Queued,
    Full,
    Closed,
}

/// Encoded frames that wait to be written, several to a chunk, so that one write takes many.
#[derive(Default)]
struct Queue {
    chunks: VecDeque<BytesMut>,
    /// Frames not yet handed to the operating system, those being written included.
    frames: usize,
    /// The same, in bytes.
    bytes: usize,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer closed it")]
    ByPeer,
    #[error("it was closed here")]
    ByUs,
    #[error("it broke")]
    Broke(#[from] io::Error),
    #[error("the peer was silent for {0:?}")]
    Silent(Duration),
    #[error("the peer's bytes are no frame")]
    Malformed(#[source] CodecError),
    #[error("the peer sent what does not belong there: {0}")]
    OutOfStep(&'static str),
    #[error("nobody receives its frames any more")]
    OwnerGone,
}

/// Frames are gathered in chunks of about this size; also what is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Makes a connection known and says `Up`. What is returned runs it to its end and takes it out again, so it must be
/// run.
pub(super) async fn register(
    shared: &Arc<Shared>,
    stream: TcpStream,
    peer: Sender,
    dialled: Option<SocketAddr>,
) -> Result<impl Future<Output = ()> + Send + 'static + use<>, ConnectError> {
    let connection = Arc::new(Connection::new(shared.next_connection(), peer, dialled, shared.limits));
    // The event's place is reserved first, so that the change and its event are one step and the order of
    // events is the order of changes.
    let permit = shared.events.reserve().await.map_err(|_| ConnectError::Closing)?;
    {
        let mut links = shared.links();
        if *shared.closed.borrow() {
            return Err(ConnectError::Closing);
        }
        if let Change::Up(node) = links.register(&connection)? {
            permit.send(PeerEvent::Up(node));
        }
        if links.is_going_away() {
            connection.enqueue(&Frame { context: TraceContext::NONE, payload: Payload::GoAway });
        }
    }
    Ok(run(Arc::clone(shared), connection, stream))
}

async fn run(shared: Arc<Shared>, connection: Arc<Connection>, mut stream: TcpStream) {
    let (reader, writer) = stream.split();
    let end = tokio::select! {
        end = connection.read_frames(reader, &shared) => end,
        end = connection.write_frames(writer) => end,
        () = connection.close.notified() => End::ByUs,
        () = shared.wait_closed() => End::ByUs,
    };
    // The waiting calls fail first: nothing may delay them.
    connection.shut();
    drop(stream);
    let name = connection.peer.name();
    match &end {
        End::Malformed(_) | End::OutOfStep(_) | End::Silent(_) => {
            warn!(peer = name, error = error_chain(&end), "a connection was closed");
        }
        End::ByPeer | End::ByUs | End::Broke(_) | End::OwnerGone => {
            debug!(peer = name, error = error_chain(&end), "a connection ended");
        }
    }
    match shared.events.reserve().await {
        Ok(permit) => {
            if let Change::Down(node) = shared.links().remove(&connection) {
                permit.send(PeerEvent::Down(node));
            }
        }
        // Nobody listens; the table is still kept right.
        Err(_) => {
            shared.links().remove(&connection);
        }
    }
}

impl Connection {
    fn new(id: ConnectionId, peer: Sender, dialled: Option<SocketAddr>, limits: Limits) -> Connection {
        Connection {
            id,
            peer,
            dialled,
            limits,
            queue: Mutex::default(),
            queued: Notify::new(),
            emptied: Notify::new(),
            calls: Mutex::new(Some(HashMap::new())),
            open: AtomicBool::new(true),
            going_away: AtomicBool::new(false),
            close: Notify::new(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn is_going_away(&self) -> bool {
        self.going_away.load(Ordering::Acquire)
    }

    /// Asks the connection's task to end.
    pub(super) fn close(&self) {
        self.close.notify_one();
    }

    /// Encodes a frame into the queue.
    ///
    /// Only large frames are refused for the queue's bytes; small ones are bounded by their number. So a backlog of
    /// values does not keep out the messages on which agreement, and the word that a value is not coming, depend.
    pub(super) fn enqueue(&self, frame: &Frame) -> Enqueued {
        let mut queue = lock(&self.queue);
        if !self.is_open() {
            return Enqueued::Closed;
        }
        if queue.frames >= self.limits.queue_frames_max {
            return Enqueued::Full;
        }
        if queue.chunks.back().is_none_or(|chunk| chunk.len() >= CHUNK_BYTES) {
            queue.chunks.push_back(BytesMut::new());
        }
        let queued_bytes = queue.bytes;
        let Some(chunk) = queue.chunks.back_mut() else { return Enqueued::Full };
        let start = chunk.len();
        codec::encode(frame, chunk);
        let bytes = chunk.len() - start;
        let too_large = bytes > FRAME_BYTES_MAX;
        if too_large || (bytes >= SHARED_BYTES_MIN && queued_bytes + bytes > self.limits.queue_bytes_max) {
            // An emptied chunk goes, with the memory that it grew to: only a lone spare in the queue may be empty.
            match start {
                0 => drop(queue.chunks.pop_back()),
                _ => chunk.truncate(start),
            }
            if too_large {
                warn!(bytes, peer = self.peer.name(), "a frame is too large to be sent");
            }
            return Enqueued::Full;
        }
        queue.frames += 1;
        queue.bytes += bytes;
        drop(queue);
        self.queued.notify_one();
        Enqueued::Queued
    }

    /// Resolves when nothing is left to be written, or never can be.
    pub(super) async fn flushed(&self) {
        loop {
            let emptied = self.emptied.notified();
            if !self.is_open() || lock(&self.queue).frames == 0 {
                return;
            }
            emptied.await;
        }
    }

    pub(super) fn open_call(&self, call: u64, waiting: Waiting) -> Result<(), CallError> {
        match lock(&self.calls).as_mut() {
            None => Err(CallError::NotConnected),
            Some(calls) if calls.len() >= self.limits.calls_max => Err(CallError::QueueFull),
            Some(calls) => {
                calls.insert(call, waiting);
                Ok(())
            }
        }
    }

    pub(super) fn forget_call(&self, call: u64) {
        if let Some(calls) = lock(&self.calls).as_mut() {
            calls.remove(&call);
        }
    }

    /// Hands an answer to its call. One that nobody waits for any more is dropped.
    fn answer(&self, payload: Payload) -> Result<(), End> {
        let call = match &payload {
            Payload::OperationReply { call, .. }
            | Payload::AvailableReply { call, .. }
            | Payload::LookupReply { call, .. }
            | Payload::ScanReply { call, .. }
            | Payload::ListReply { call, .. }
            | Payload::InquiryReply { call, .. } => *call,
            _ => return Err(End::OutOfStep("no answer where an answer was expected")),
        };
        let Some(waiting) = lock(&self.calls).as_mut().and_then(|calls| calls.remove(&call)) else { return Ok(()) };
        // A receiver that is gone gave up in this moment; its loss.
        match (waiting, payload) {
            (Waiting::Operation(waiting), Payload::OperationReply { outcome, receipt, .. }) => {
                let _ = waiting.send((outcome, receipt));
                Ok(())
            }
            (Waiting::Available(waiting), Payload::AvailableReply { outcome, receipt, .. }) => {
                let _ = waiting.send((outcome, receipt));
                Ok(())
            }
            (Waiting::Lookup(waiting), Payload::LookupReply { hop, .. }) => {
                let _ = waiting.send(hop);
                Ok(())
            }
            (Waiting::Scan(waiting), Payload::ScanReply { outcome, .. }) => {
                let _ = waiting.send(outcome);
                Ok(())
            }
            (Waiting::List(waiting), Payload::ListReply { listed, .. }) => {
                let _ = waiting.send(listed);
                Ok(())
            }
            (Waiting::Inquiry(waiting), Payload::InquiryReply { finding, .. }) => {
                let _ = waiting.send(finding);
                Ok(())
            }
            _ => Err(End::OutOfStep("an answer of another kind than the call")),
        }
    }

    /// Takes nothing more, and fails every waiting call.
    fn shut(&self) {
        {
            let mut queue = lock(&self.queue);
            self.open.store(false, Ordering::Release);
            *queue = Queue::default();
        }
        // Dropping the senders is what fails the calls.
        drop(lock(&self.calls).take());
        self.emptied.notify_waiters();
    }

    async fn write_frames(&self, mut stream: WriteHalf<'_>) -> End {
        let mut ping = interval(self.limits.ping_interval);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let Some((chunks, frames)) = self.take_queued() else {
                tokio::select! {
                    () = self.queued.notified() => {}
                    _ = ping.tick() => {
                        self.enqueue(&Frame { context: TraceContext::NONE, payload: Payload::Ping });
                    }
                }
                continue;
            };
            for chunk in &chunks {
                if let Err(error) = stream.write_all(chunk).await {
                    return End::Broke(error);
                }
            }
            self.note_written(chunks, frames);
        }
    }

    /// All that waits, and how many frames that is. They stay counted until they are written.
    fn take_queued(&self) -> Option<(VecDeque<BytesMut>, usize)> {
        let mut queue = lock(&self.queue);
        if queue.chunks.front().is_none_or(BytesMut::is_empty) {
            return None;
        }
        Some((std::mem::take(&mut queue.chunks), queue.frames))
    }

    fn note_written(&self, mut chunks: VecDeque<BytesMut>, frames: usize) {
        let mut queue = lock(&self.queue);
        queue.frames -= frames;
        queue.bytes -= chunks.iter().map(BytesMut::len).sum::<usize>();
        if queue.frames == 0 {
            // One chunk of ordinary size is used again; larger ones go back, or an idle connection would hold them.
            if let Some(mut chunk) = chunks.pop_front().filter(|chunk| chunk.capacity() <= 2 * CHUNK_BYTES) {
                chunk.clear();
                queue.chunks.push_back(chunk);
            }
            drop(queue);
            self.emptied.notify_waiters();
        }
    }

    async fn read_frames(&self, mut stream: ReadHalf<'_>, shared: &Shared) -> End {
        let mut silence = Silence::new(self.limits.silence_max);
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        loop {
            let frame = match self.read_frame(&mut stream, &mut buffer, &mut silence).await {
                Ok(frame) => frame,
                Err(end) => return end,
            };
            let handled = match codec::decode(frame) {
                Ok(frame) => self.handle_frame(frame, shared).await,
                Err(error) => Err(End::Malformed(error)),
            };
            if let Err(end) = handled {
                return end;
            }
        }
    }

    /// The next whole frame.
    ///
    /// A frame that holds byte strings large enough to be shared gets memory of its own, so that whoever keeps such a
    /// string keeps that frame alive and not the whole read buffer. Of shorter frames everything is copied out.
    async fn read_frame(
        &self,
        stream: &mut ReadHalf<'_>,
        buffer: &mut BytesMut,
        silence: &mut Silence,
    ) -> Result<Bytes, End> {
        loop {
            let whole = frame::whole_length(buffer, FRAME_BYTES_MAX).map_err(End::Malformed)?;
            match whole {
                Some(whole) if whole < SHARED_BYTES_MIN && whole <= buffer.len() => {
                    return Ok(buffer.split_to(whole).freeze());
                }
                Some(whole) if whole >= SHARED_BYTES_MIN => {
                    let mut own = BytesMut::with_capacity(whole);
                    own.put(buffer.split_to(whole.min(buffer.len())));
                    while own.len() < whole {
                        let missing = whole - own.len();
                        read_some(stream, &mut (&mut own).limit(missing), silence).await?;
                    }
                    return Ok(own.freeze());
                }
                _ => {
                    buffer.reserve(SHARED_BYTES_MIN);
                    read_some(stream, buffer, silence).await?;
                }
            }
        }
    }

    async fn handle_frame(&self, frame: Frame, shared: &Shared) -> Result<(), End> {
        match frame.payload {
            Payload::Ping => Ok(()),
            Payload::GoAway => {
                self.going_away.store(true, Ordering::Release);
                Ok(())
            }
            Payload::Hello(_) => Err(End::OutOfStep("a second Hello")),
            Payload::OperationReply { .. }
            | Payload::AvailableReply { .. }
            | Payload::LookupReply { .. }
            | Payload::ScanReply { .. }
            | Payload::ListReply { .. }
            | Payload::InquiryReply { .. } => self.answer(frame.payload),
            Payload::Replica(_)
            | Payload::Chord(_)
            | Payload::Operation(_)
            | Payload::Available { .. }
            | Payload::AvailableOperation(_)
            | Payload::Scan(_)
            | Payload::List { .. }
            | Payload::Inquiry { .. }
            | Payload::Lookup { .. } => {
                let event = PeerEvent::Frame { from: self.peer.clone(), via: self.id, frame };
                shared.events.send(event).await.map_err(|_| End::OwnerGone)
            }
        }
    }
}

/// Reads at least one byte.
async fn read_some(
    stream: &mut ReadHalf<'_>,
    buffer: &mut (impl BufMut + ?Sized),
    silence: &mut Silence,
) -> Result<(), End> {
    silence.begin();
    tokio::select! {
        // Bytes that are there count before a timer that ran out: this process may have been paused, not the peer.
        biased;
        read = stream.read_buf(buffer) => match read {
            Ok(0) => Err(End::ByPeer),
            Ok(_) => Ok(()),
            Err(error) => Err(End::Broke(error)),
        },
        () = silence.over() => Err(End::Silent(silence.max)),
    }
}

/// Notices that nothing came for too long. One timer for all reads: setting one a read would cost more than the read.
struct Silence {
    max: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    fn new(max: Duration) -> Silence {
        let since = Instant::now();
        Silence { max, since, timer: Box::pin(sleep_until(since + max)) }
    }

    /// A wait begins.
    fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// Resolves when the wait has lasted too long.
    async fn over(&mut self) {
        loop {
            self.timer.as_mut().await;
            let end = self.since + self.max;
            if end <= Instant::now() {
                return;
            }
            self.timer.as_mut().reset(end);
        }
    }
}
