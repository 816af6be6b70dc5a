use store::DiskError;

/// Why a replica does not start. The data was not changed, except perhaps by the disk's own failure.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory's identity cannot be used.
    #[error("the identity in the data directory cannot be used")]
    Identity(#[from] store::identity::IdentityError),
    /// The log is missing or damaged.
    #[error(
        "the log in the data directory cannot be used; if it is lost, move the whole directory away: the replica then \
         joins as a new one"
    )]
    Log(#[source] store::OpenError),
    /// The image is damaged.
    #[error(
        "the image in the data directory is damaged ({0}); move the whole directory away: the replica then joins \
         as a new one"
    )]
    Image(String),
    /// A record of the log is not one of ours, or does not follow on the one before.
    #[error(
        "record {0} of the log makes no sense; move the whole directory away: the replica then joins \
         as a new one"
    )]
    Record(u64),
    /// The disk failed.
    #[error("the data directory cannot be read or written")]
    Disk(#[source] DiskError),
    /// Raft refused what it was given.
    #[error("the replica cannot begin: {0}")]
    Raft(String),
}

/// Why a replica must stop: it can vouch for nothing any more. The process ends, and starts again from its data.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The log could not be written.
    #[error("the log could not be written ({0})")]
    Log(String),
    /// The image could not be written.
    #[error("the image could not be written")]
    Image(#[source] DiskError),
    /// What was agreed on cannot be understood: this program is older than the one that leads.
    #[error("entry {index} cannot be understood ({why}); this program may be too old for the replicas around it")]
    Entry {
        /// The entry.
        index: u64,
        /// What is wrong with it.
        why: String,
    },
    /// Raft gave up.
    #[error("the replica's state makes no sense: {0}")]
    Raft(String),
}
