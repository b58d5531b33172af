//! The second hop: a TCP connection.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::{
    Way,
    check::{Check, Hop, Step},
};

/// Connects to the first of the addresses that answers.
pub(super) async fn check(way: &Way, addresses: &[SocketAddr]) -> Step<TcpStream> {
    let tried = match addresses {
        [only] => format!("connect to {only}"),
        [first, ..] => format!("connect to {first} or one of {} more", addresses.len() - 1),
        [] => "connect".to_owned(),
    };
    let stream = match way.dialer.connect(addresses).await {
        Ok(stream) => stream,
        Err(error) => return Step::stop(Check::failed(Hop::Tcp, tried, &error.failure())),
    };
    let check = match stream.peer_addr() {
        Ok(address) => Check::ok(Hop::Tcp, tried, format!("{address} accepted"))
            .fact("address", address.to_string()),
        Err(_) => Check::ok(Hop::Tcp, tried, "accepted"),
    };
    Step::on(check, stream)
}
