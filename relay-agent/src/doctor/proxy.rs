//! The third hop: the proxy's connection to the relay.

use tokio::net::TcpStream;

use super::{
    Way,
    check::{Check, Hop, Step},
};
use crate::{config::ProxyKind, net};

/// Asks the proxy for a connection, if there is one.
pub(super) async fn check(way: &Way, stream: TcpStream) -> Step<net::Stream> {
    let Some(via) = &way.link.proxy else {
        let check = Check::skipped(Hop::Proxy, "no proxy is used for this relay");
        return Step::on(check, net::Stream::Plain(stream));
    };
    let server = &way.link.server;
    let asked = match via.proxy.kind {
        ProxyKind::Http | ProxyKind::Https => "CONNECT",
        ProxyKind::Socks5 | ProxyKind::Socks5h => "a SOCKS5 connection",
    };
    let tried = format!(
        "ask {} ({}) for {asked} to {}:{}",
        via.proxy,
        via.origin.name(),
        server.host,
        server.port
    );
    let user = via.proxy.credentials.is_some();
    match way.dialer.pass_proxy(stream, way.dialer.deadline()).await {
        Ok(stream) => {
            let check = Check::ok(Hop::Proxy, tried, "it connected")
                .fact("proxy", via.proxy.to_string())
                .fact("named_by", via.origin.name())
                .fact("with_user", user);
            Step::on(check, stream)
        }
        Err(error) => Step::stop(Check::failed(Hop::Proxy, tried, &error.failure())),
    }
}
