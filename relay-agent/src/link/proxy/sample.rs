//! Proxies for tests: they check what they are shown, tell what they are asked for, and connect all
//! to one address, whatever its name.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// Whom the proxies know.
pub(crate) const USER: &str = "corp\\jo";
pub(crate) const PASSWORD: &str = "sEcret@1:2";
pub(crate) const USER_INFO: &str = "corp%5Cjo:sEcret%401%3A2";

pub(crate) struct SampleProxy {
    pub(crate) address: SocketAddr,
    asked: mpsc::Receiver<String>,
}

impl SampleProxy {
    /// HTTP CONNECT, for those who know the password; over TLS if it gets a certificate.
    pub(crate) async fn http(upstream: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let (proxy, listener, sender) = Self::bind().await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sender, tls) = (sender.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve_http(stream, upstream, sender).await;
                            }
                        }
                        None => serve_http(stream, upstream, sender).await,
                    }
                });
            }
        });
        proxy
    }

    /// SOCKS5, for those who know the password.
    pub(crate) async fn socks(upstream: SocketAddr) -> Self {
        let (proxy, listener, sender) = Self::bind().await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve_socks(stream, upstream, sender.clone()));
            }
        });
        proxy
    }

    /// Waits for some bytes, answers these, and closes; says nothing at all if there is no answer.
    pub(crate) async fn answering(answer: Option<&'static [u8]>) -> Self {
        let (proxy, listener, sender) = Self::bind().await;
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 4096];
                let count = stream.read(&mut buffer).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&buffer[..count]).into_owned();
                let _ = sender.send(head).await;
                match answer {
                    Some(answer) => drop(stream.write_all(answer).await),
                    None => held.push(stream),
                }
            }
        });
        proxy
    }

    async fn bind() -> (Self, TcpListener, mpsc::Sender<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, asked) = mpsc::channel(16);
        (Self { address, asked }, listener, sender)
    }

    /// What it was asked for next.
    pub(crate) async fn asked(&mut self) -> String {
        let asked = timeout(Duration::from_secs(30), self.asked.recv()).await;
        asked.expect("nobody asked the proxy").unwrap()
    }

    /// Whether nobody asked for anything more.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.asked.try_recv().is_err()
    }
}

async fn serve_http(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    upstream: SocketAddr,
    sender: mpsc::Sender<String>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let basic = BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let is_known = head
        .lines()
        .any(|line| line.eq_ignore_ascii_case(&format!("proxy-authorization: Basic {basic}")));
    let _ = sender.send(head.lines().next().unwrap().to_owned()).await;
    if !is_known {
        let answer = "HTTP/1.1 407 Who?\r\nProxy-Authenticate: Negotiate\r\n\
                      Proxy-Authenticate: Basic realm=\"corp\"\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        return;
    }
    let mut upstream = TcpStream::connect(upstream).await.unwrap();
    let answer = b"HTTP/1.1 200 Connection established\r\nVia: sample\r\n\r\n";
    stream.write_all(answer).await.unwrap();
    let _ = copy_bidirectional(&mut stream, &mut upstream).await;
}

async fn serve_socks(mut stream: TcpStream, upstream: SocketAddr, sender: mpsc::Sender<String>) {
    let [5, count] = [
        stream.read_u8().await.unwrap(),
        stream.read_u8().await.unwrap(),
    ] else {
        panic!("another version");
    };
    let mut methods = vec![0; count.into()];
    stream.read_exact(&mut methods).await.unwrap();
    if !methods.contains(&2) {
        let _ = sender.send("no method".to_owned()).await;
        stream.write_all(&[5, 0xff]).await.unwrap();
        return;
    }
    stream.write_all(&[5, 2]).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), 1);
    let user = counted(&mut stream).await;
    let is_known = user == USER && counted(&mut stream).await == PASSWORD;
    stream.write_all(&[1, u8::from(!is_known)]).await.unwrap();
    if !is_known {
        return;
    }
    let mut start = [0; 4];
    stream.read_exact(&mut start).await.unwrap();
    let host = match start {
        [5, 1, 0, 1] => {
            let mut octets = [0; 4];
            stream.read_exact(&mut octets).await.unwrap();
            std::net::Ipv4Addr::from(octets).to_string()
        }
        [5, 1, 0, 3] => counted(&mut stream).await,
        other => panic!("asked for {other:?}"),
    };
    let port = stream.read_u16().await.unwrap();
    let _ = sender.send(format!("{host}:{port}")).await;
    let mut upstream = TcpStream::connect(upstream).await.unwrap();
    // A name in the answer: the rarest form.
    stream
        .write_all(b"\x05\0\0\x03\x05proxy\0\x50")
        .await
        .unwrap();
    let _ = copy_bidirectional(&mut stream, &mut upstream).await;
}

async fn counted(stream: &mut TcpStream) -> String {
    let mut text = vec![0; stream.read_u8().await.unwrap().into()];
    stream.read_exact(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}
