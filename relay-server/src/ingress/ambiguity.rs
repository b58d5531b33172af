//! Requests that two readers may understand differently are refused, whoever of them is right:
//! that is how request smuggling and host confusion begin (RFC 9112 3.2, 6.1 and 11.2).

use http::{HeaderMap, Uri, Version, header};

use crate::listener::Head;

/// What is ambiguous about a request, for people; `None` if nothing is.
pub(super) fn find(
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
    head: &Head,
) -> Option<&'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Some("it has more than one Host header");
    }
    if host.is_none() && version == Version::HTTP_11 {
        return Some("it has no Host header");
    }
    let named = uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    if let (Some(named), Some(host)) = (named, host)
        && !named.eq_ignore_ascii_case(host.as_bytes())
    {
        return Some("its target names another host than its Host header");
    }
    if headers.contains_key(header::TRANSFER_ENCODING) && head.may_have("content-length") {
        return Some(
            "it has both Content-Length and Transfer-Encoding, or was pipelined with the latter",
        );
    }
    None
}
