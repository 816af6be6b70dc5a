/// Why bytes are not what they should be. On a connection each of these ends it: a stream that was misread once cannot
/// be trusted again. In the log it means a damaged record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end before the message does.
    #[error("the message ends too early")]
    Truncated,
    /// The message claims a length past the bound; nothing was allocated for it.
    #[error("the message claims {bytes} bytes, and {bytes_max} are allowed")]
    Oversize {
        /// What it claims.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The format's version is another one: the other end is an older or newer program.
    #[error("the message is in format {theirs}, and this program speaks format {ours}")]
    OtherVersion {
        /// What came.
        theirs: u8,
        /// What is spoken here.
        ours: u8,
    },
    /// The bytes were changed on their way.
    #[error("the checksum does not match")]
    Checksum,
    /// A tag that this program does not know.
    #[error("{tag} is no known {noun}")]
    UnknownTag {
        /// What the tag selects.
        noun: &'static str,
        /// The tag.
        tag: u8,
    },
    /// Bytes follow the end of the message.
    #[error("{0} bytes follow the end of the message")]
    TrailingBytes(usize),
    /// A number is too large for its type, or not written in its shortest form.
    #[error("a number is malformed or too large")]
    Number,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A view is not of the form that discovery holds, or not sound.
    #[error("a view cannot be read")]
    View,
    /// A list claims more entries than the bytes that follow could hold.
    #[error("a list claims {entries} entries, more than can follow")]
    ListLength {
        /// What it claims.
        entries: u64,
    },
}
