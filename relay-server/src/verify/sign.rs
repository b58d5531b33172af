//! Signing as the provider would, for tests and demos.

use protocol::frame::Headers;

use super::{Bound, Request};

/// A request to be signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignedRequest {
    /// The method.
    pub method: String,
    /// The source's public URL with path and query.
    pub url: String,
    /// Headers; signing adds to them.
    pub headers: Headers,
    /// The body; signing changes it where the provider puts the signature there.
    pub body: Vec<u8>,
}

impl SignedRequest {
    /// The same request, to verify it.
    pub fn as_request(&self) -> Request<'_> {
        Request {
            method: &self.method,
            url: &self.url,
            headers: &self.headers,
            body: &self.body,
        }
    }
}

/// Why a request cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Only the provider can.
    #[error("only the provider holds the private key of this scheme")]
    NeedsPrivateKey,
}

pub(super) fn sign(_: &Bound, _: &mut SignedRequest, _: u64) -> Result<(), SignError> {
    Err(SignError::NeedsPrivateKey)
}
