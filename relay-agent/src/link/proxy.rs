//! Through a proxy: HTTP CONNECT for `wss` and `ws` alike, or SOCKS5.
//!
//! A plain `ws` is tunnelled too: proxies that are asked for `GET http://...` drop the upgrade.

mod error;

mod socks;

pub use error::ProxyError;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Empty;
use hyper::{client::conn::http1, upgrade};
use hyper_util::rt::TokioIo;

use crate::{
    config::{Credentials, Proxy, ProxyKind, proxy::authority},
    net,
};

/// Asks the proxy at the other end of `stream` for a connection to `host`. Afterwards the stream is
/// that connection.
///
/// # Errors
///
/// What the proxy did instead. Trying again may help with all of it.
pub(super) async fn tunnel(
    proxy: &Proxy,
    stream: net::Stream,
    host: &str,
    port: u16,
) -> Result<net::Stream, ProxyError> {
    match proxy.kind {
        ProxyKind::Http | ProxyKind::Https => {
            connect(stream, &authority(host, port), proxy.credentials.as_ref()).await
        }
        ProxyKind::Socks5 | ProxyKind::Socks5h => {
            socks::connect(stream, host, port, proxy.credentials.as_ref()).await
        }
    }
}

async fn connect(
    stream: net::Stream,
    authority: &str,
    credentials: Option<&Credentials>,
) -> Result<net::Stream, ProxyError> {
    let mut request = Request::connect(authority)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, super::driver::PROGRAM);
    if let Some(credentials) = credentials {
        request = request.header(header::PROXY_AUTHORIZATION, basic(credentials)?);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|_| ProxyError::Protocol("the name of the relay is no HTTP authority"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let ask = async {
        let response = sender.send_request(request).await?;
        match response.status() {
            status if status.is_success() => Ok(upgrade::on(response).await?),
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(ProxyError::Unauthorised {
                is_known: credentials.is_some(),
                schemes: error::schemes(response.headers()),
            }),
            status => Err(ProxyError::Refused(status)),
        }
    };
    let connection = async { Ok(connection.with_upgrades().await?) };
    let ((), upgraded) = tokio::try_join!(connection, ask)?;
    let parts = upgraded
        .downcast::<TokioIo<net::Stream>>()
        .map_err(|_| ProxyError::Protocol("the connection changed its type"))?;
    // In TLS and HTTP the client speaks first.
    if !parts.read_buf.is_empty() {
        return Err(ProxyError::Protocol("it sent data of its own"));
    }
    Ok(parts.io.into_inner())
}

fn basic(credentials: &Credentials) -> Result<HeaderValue, ProxyError> {
    let pair = format!("{}:{}", credentials.user, credentials.password());
    let mut value: HeaderValue = format!("Basic {}", BASE64_STANDARD.encode(pair))
        .parse()
        .map_err(|_| ProxyError::Protocol("user and password make no header"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
pub(crate) mod sample;
