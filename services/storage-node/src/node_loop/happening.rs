//! What can happen to a node.

use runtime::{LogEvent, PeerEvent};

use super::Ended;

/// What the loop waits for.
#[expect(
    clippy::large_enum_variant,
    reason = "each is made, taken and gone at once; a box would be one for each message"
)]
pub(super) enum Happening {
    Peer(PeerEvent),
    Log(LogEvent),
    Fleet,
    Timer,
    Housekeeping,
    Cleaning,
    /// It is told to end, or whether it may leave the ring.
    Told,
    End(Ended),
}

impl Happening {
    pub fn of_log(event: Option<LogEvent>) -> Happening {
        match event {
            Some(LogEvent::Failed(sentence)) => Happening::End(Ended::DiskFailed(sentence)),
            Some(event) => Happening::Log(event),
            None => Happening::End(Ended::DiskFailed("the log's thread has ended".to_owned())),
        }
    }

    /// For the one who reads the log.
    pub fn name(&self) -> &'static str {
        match self {
            Happening::Peer(PeerEvent::Frame { .. }) => "a message",
            Happening::Peer(_) => "a peer's coming or going",
            Happening::Log(_) => "word of the log",
            Happening::Fleet => "news from discovery",
            Happening::Timer => "timers",
            Happening::Housekeeping => "housekeeping",
            Happening::Cleaning => "cleaning the log",
            Happening::Told | Happening::End(_) => "the end",
        }
    }
}
