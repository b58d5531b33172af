//! What a store cannot do, and whether it may have happened all the same.

use std::time::Duration;

/// Broken or exhausted infrastructure. A provider is answered 503 (429 for `Overloaded`), never 2xx.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing happened: the disk is too full to accept more. Settlements still work.
    #[error("the disk is too full to accept events")]
    Full,
    /// Nothing happened: more waits to be written than the store takes. Try again after a moment.
    #[error("the store is overloaded")]
    Overloaded {
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// Nothing happened, and nothing will until an operator looks.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// It may or may not have happened. Never answer 2xx; a repeat is absorbed by its dedupe key.
    #[error("the store cannot tell whether the change was made: {0}")]
    Indeterminate(String),
    /// Stored bytes are not what was written.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
}
