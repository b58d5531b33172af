//! TCP and TLS streams: resolve, look at the addresses, connect to those very addresses.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;

/// Addresses of one name that are tried.
pub const ADDRESSES_MAX: usize = 8;

/// How long an address has before the next one is tried beside it (RFC 8305 calls it 250 ms).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// A connection, with or without TLS.
#[derive(Debug)]
pub enum Stream {
    /// TCP alone.
    Plain(TcpStream),
    /// TLS over TCP, or over the TLS of a proxy.
    Tls(Box<TlsStream<Stream>>),
    /// A socket of this machine.
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

impl Stream {
    /// Which TLS is spoken, if any.
    pub fn tls_version(&self) -> Option<&'static str> {
        match self {
            Self::Tls(stream) => match stream.get_ref().1.protocol_version()? {
                rustls::ProtocolVersion::TLSv1_2 => Some("TLS 1.2"),
                _ => Some("TLS 1.3"),
            },
            _ => None,
        }
    }
}

/// Finds the addresses of a host.
///
/// # Errors
///
/// Those of the operating system, and `NotFound` when the name has no address.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let addresses = tokio::net::lookup_host((host, port)).await?;
    let addresses: Vec<_> = addresses.take(ADDRESSES_MAX).collect();
    if addresses.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ));
    }
    Ok(addresses)
}

/// Connects to the first of some addresses that answers; each has `each` to do so.
///
/// # Errors
///
/// That of the address that was tried first.
pub async fn connect(addresses: &[SocketAddr], each: Duration) -> io::Result<TcpStream> {
    let mut racing: FuturesUnordered<_> = addresses
        .iter()
        .take(ADDRESSES_MAX)
        .zip(0u32..)
        .map(|(address, place)| async move {
            if place > 0 {
                sleep(NEXT_ADDRESS_AFTER * place).await;
            }
            (place, connect_one(*address, each).await)
        })
        .collect();
    let mut first_error: Option<(u32, io::Error)> = None;
    while let Some((place, result)) = racing.next().await {
        match result {
            Ok(stream) => return Ok(stream),
            Err(error) => match &first_error {
                Some((earlier, _)) if *earlier < place => {}
                _ => first_error = Some((place, error)),
            },
        }
    }
    let (_, error) = first_error.unwrap_or_else(|| (0, io::ErrorKind::AddrNotAvailable.into()));
    Err(error)
}

async fn connect_one(address: SocketAddr, each: Duration) -> io::Result<TcpStream> {
    let stream = timeout(each, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn first_address_that_answers_wins() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = {
            let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            gone.local_addr().unwrap()
        };

        let stream = connect(&[closed, open], Duration::from_secs(5))
            .await
            .unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        let error = connect(&[closed], Duration::from_secs(5))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
