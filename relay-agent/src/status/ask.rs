//! Asking a running agent how it is: `relay-agent ready` and `relay-agent status`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::explain::{Code, Failure};

/// How long an agent of this machine has to answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What an agent answered.
#[derive(Debug)]
pub struct Asked {
    /// Its status.
    pub status: StatusCode,
    /// Its text.
    pub text: String,
}

/// Asks the agent whose local listener is there.
///
/// # Errors
///
/// [`Code::AgentUnreachable`] if nobody answers.
pub async fn ask(listener: SocketAddr, path: &str) -> Result<Asked, Failure> {
    let address = reachable(listener);
    let nobody = |why: String| {
        Failure::new(
            Code::AgentUnreachable,
            format!("no agent answers at {address}: {why}"),
        )
    };
    match timeout(ANSWER_MAX, exchange(address, path)).await {
        Ok(Ok(asked)) => Ok(asked),
        Ok(Err(error)) => Err(nobody(error.to_string())),
        Err(_) => Err(nobody(format!("silent for {} s", ANSWER_MAX.as_secs()))),
    }
}

/// A listener on every address is asked on this machine's own.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

async fn exchange(
    address: SocketAddr,
    path: &str,
) -> Result<Asked, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?;
    Ok(Asked {
        status: parts.status,
        text: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_here() {
        for (listener, expected) in [
            ("0.0.0.0:9091", "127.0.0.1:9091"),
            ("[::]:9091", "[::1]:9091"),
            ("10.0.0.1:9", "10.0.0.1:9"),
        ] {
            let address = reachable(listener.parse().unwrap());
            assert_eq!(address.to_string(), expected);
        }
    }
}
