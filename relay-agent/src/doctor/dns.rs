//! The first hop: the name of the relay, or of the proxy that leads to it.

use std::net::SocketAddr;

use super::{
    Way,
    check::{Check, Hop, Step},
};

/// Resolves the name.
pub(super) async fn check(way: &Way) -> Step<Vec<SocketAddr>> {
    let host = way.first_host();
    let tried = format!("resolve {host}");
    let addresses = match way.dialer.find().await {
        Ok(addresses) => addresses,
        Err(error) => return Step::stop(Check::failed(Hop::Dns, tried, &error.failure())),
    };
    let shown: Vec<_> = addresses
        .iter()
        .map(|address| address.ip().to_string())
        .collect();
    let seen = match shown.as_slice() {
        [only] if only == host => "it is an address".to_owned(),
        [first, second, _, ..] => format!("{first}, {second} and {} more", shown.len() - 2),
        few => few.join(", "),
    };
    let check = Check::ok(Hop::Dns, tried, seen).fact("addresses", shown);
    Step::on(check, addresses)
}
