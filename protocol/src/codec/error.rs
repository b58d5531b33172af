//! Why bytes were not a frame.

/// Why bytes were not a frame.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its preamble, or than the header it announces.
    #[error("the frame ends before its header does")]
    Truncated,
    /// The header or body is longer than the protocol allows.
    #[error("the frame is longer than the protocol allows")]
    TooLong,
    /// No frame of this direction has this type.
    #[error("no frame has type {0}")]
    UnknownType(u8),
    /// The header is not what its type requires.
    #[error("the header of frame type {kind} is not valid")]
    Header {
        /// The type byte.
        kind: u8,
        /// What the JSON parser says.
        source: serde_json::Error,
    },
    /// A frame that has no body carries one.
    #[error("frame type {0} has no body")]
    UnexpectedBody(u8),
}
