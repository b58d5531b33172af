//! How much may be in flight.

/// Credit for one destination: deliveries and body bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Deliveries.
    pub deliveries: u64,
    /// Body bytes. An event larger than the whole window travels when nothing else is in flight.
    pub bytes: u64,
}
