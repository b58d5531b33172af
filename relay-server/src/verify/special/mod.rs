//! What no rule expresses: a module for each.

mod canonical;
mod gunzip;
mod hook0;
mod http_signature;
mod items;
mod jwt;
mod sns;

pub(super) use canonical::{
    contentful, hygraph, plivo_v3, sign_contentful, sign_hygraph, sign_plivo_v3,
};
pub(super) use gunzip::gunzip;
pub(super) use hook0::{hook0, sign_hook0};
pub(super) use http_signature::http_signature;
pub(super) use items::items;
pub(super) use jwt::{jwt, refresh as refresh_jwt, sign as sign_jwt};
pub(super) use sns::sns;

use super::{Bound, Refusal, Request, Verified, evaluate::same_bytes};

/// A header as text.
fn text_header<'a>(request: &Request<'a>, name: &str) -> Result<&'a str, Refusal> {
    let what = || format!("header:{name}");
    let value = request
        .header(name)?
        .ok_or_else(|| Refusal::missing(what()))?;
    std::str::from_utf8(value).map_err(|_| Refusal::malformed(what(), "it is not UTF-8"))
}

/// Finds the secret whose HMAC-SHA256 over the pieces is one of the signatures.
fn by_mac(bound: &Bound, pieces: &[&[u8]], signatures: &[Vec<u8>]) -> Result<Verified, Refusal> {
    let matches = |tag: &[u8]| signatures.iter().any(|sig| same_bytes(tag, sig));
    let credential = bound
        .keys
        .iter()
        .position(|key| matches(key.mac(pieces).as_ref()));
    match credential {
        Some(_) => Ok(Verified { credential }),
        None => Err(Refusal::Mismatch),
    }
}
