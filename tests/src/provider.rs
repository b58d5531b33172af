//! Whoever posts to the relay: requests that are put together byte by byte.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf, split},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::ClientConfig};

use crate::{
    api::Source,
    eventually::{PATIENCE, pause},
    sign,
    wire::{self, Reply},
};

/// A request to send.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    chunk_bytes: Option<usize>,
}

impl Request {
    /// A POST to a source, without a body or signature.
    pub fn post(source: &Source) -> Self {
        Self::new("POST", &source.path)
    }

    /// A request with any method and target.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            chunk_bytes: None,
        }
    }

    /// Another method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// Something behind the source's URL: a path, a query, or both.
    #[must_use]
    pub fn below(mut self, rest: &str) -> Self {
        self.target.push_str(rest);
        self
    }

    /// One more header field, any bytes.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.as_bytes().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// The body, sent with a Content-Length.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends the body in chunks of this size instead, without a Content-Length.
    #[must_use]
    pub fn chunked(mut self, chunk_bytes: usize) -> Self {
        self.chunk_bytes = Some(chunk_bytes);
        self
    }

    /// Signed as Stripe does it, now. Call it after the body is set.
    #[must_use]
    pub fn stripe(self, secret: &str) -> Self {
        self.stripe_at(secret, sign::now_s())
    }

    /// Signed as Stripe does it, at another time.
    #[must_use]
    pub fn stripe_at(self, secret: &str, at_s: u64) -> Self {
        let signature = sign::stripe(secret, at_s, &self.body);
        self.header("Stripe-Signature", signature)
    }

    /// Signed as GitHub does it, with the id of the delivery. Call it after the body is set.
    #[must_use]
    pub fn github(self, secret: &str, delivery: &str) -> Self {
        let signature = sign::github(secret, &self.body);
        self.header("X-Hub-Signature-256", signature)
            .header("X-GitHub-Delivery", delivery)
            .header("X-GitHub-Event", "push")
    }

    /// Signed as Standard Webhooks prescribe it. Call it after the body is set.
    #[must_use]
    pub fn standard_webhooks(self, secret: &str, id: &str) -> Self {
        let at_s = sign::now_s();
        let signature = sign::standard_webhooks(secret, id, at_s, &self.body);
        self.header("webhook-id", id)
            .header("webhook-timestamp", at_s.to_string())
            .header("webhook-signature", signature)
    }

    /// The bytes on the wire. Host is that of the relay unless a field names another.
    pub fn to_bytes(&self, host: SocketAddr) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        let mut field = |name: &[u8], value: &[u8]| {
            bytes.extend([name, b": ", value, b"\r\n"].concat());
        };
        if !self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case(b"host"))
        {
            field(b"Host", host.to_string().as_bytes());
        }
        for (name, value) in &self.headers {
            field(name, value);
        }
        match self.chunk_bytes {
            Some(_) => field(b"Transfer-Encoding", b"chunked"),
            None if self.body.is_empty() && self.method == "GET" => {}
            None => field(b"Content-Length", self.body.len().to_string().as_bytes()),
        }
        bytes.extend(b"\r\n");
        match self.chunk_bytes {
            Some(chunk_bytes) => {
                for chunk in self.body.chunks(chunk_bytes) {
                    bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
            }
            None => bytes.extend(&self.body),
        }
        bytes
    }
}

/// Posts to one relay.
#[derive(Clone)]
pub struct Provider {
    addr: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl Provider {
    /// A provider for the listener at this address.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, tls: None }
    }

    /// A provider that speaks TLS.
    pub fn with_tls(addr: SocketAddr, tls: Arc<ClientConfig>) -> Self {
        Self {
            addr,
            tls: Some(tls),
        }
    }

    /// Sends one request on a connection of its own.
    pub async fn send(&self, request: &Request) -> Reply {
        let reply = self.raw(&request.to_bytes(self.addr)).await;
        reply.expect("the relay closed the connection without an answer")
    }

    /// Sends any bytes on a connection of its own; `None` if the relay closes it without an answer.
    pub async fn raw(&self, bytes: &[u8]) -> Option<Reply> {
        let mut connection = self.connect().await.unwrap();
        connection.exchange(bytes).await.unwrap_or_default()
    }

    /// Sends one request; `None` if there is no relay, or no answer.
    pub async fn try_send(&self, request: &Request) -> Option<Reply> {
        let mut connection = self.connect().await.ok()?;
        connection
            .exchange(&request.to_bytes(self.addr))
            .await
            .ok()?
    }

    /// Sends one request until it is accepted, as providers do, on a connection that is kept while it
    /// lasts. Any answer but 200, 429 and 503 fails the test.
    pub async fn insist(&self, kept: &mut Option<Connection>, request: &Request) -> Reply {
        let started = Instant::now();
        loop {
            if kept.is_none() {
                *kept = self.connect().await.ok();
            }
            if let Some(connection) = kept {
                match connection.send(request).await {
                    Ok(reply) if reply.status == 200 => return reply,
                    Ok(reply) => assert!(matches!(reply.status, 429 | 503), "{reply:?}"),
                    Err(_) => *kept = None,
                }
            }
            assert!(started.elapsed() < PATIENCE, "the relay accepts nothing");
            pause().await;
        }
    }

    /// Opens a connection that can carry many requests.
    ///
    /// # Errors
    ///
    /// The relay is not there.
    pub async fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let name = "localhost".try_into().map_err(io::Error::other)?;
                Box::new(
                    TlsConnector::from(Arc::clone(config))
                        .connect(name, stream)
                        .await?,
                )
            }
        };
        let (read, write) = split(stream);
        Ok(Connection {
            addr: self.addr,
            read: BufReader::new(read),
            write,
        })
    }
}

/// What a connection is made of.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that is kept alive.
pub struct Connection {
    addr: SocketAddr,
    read: BufReader<ReadHalf<Box<dyn Stream>>>,
    write: WriteHalf<Box<dyn Stream>>,
}

impl Connection {
    /// Sends a request and reads the answer.
    ///
    /// # Errors
    ///
    /// The connection broke; whether the request was accepted is unknown.
    pub async fn send(&mut self, request: &Request) -> io::Result<Reply> {
        let reply = self.exchange(&request.to_bytes(self.addr)).await?;
        reply.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Only sends a request.
    ///
    /// # Errors
    ///
    /// The connection broke.
    pub async fn begin(&mut self, request: &Request) -> io::Result<()> {
        self.write(&request.to_bytes(self.addr)).await
    }

    /// Only writes.
    ///
    /// # Errors
    ///
    /// The connection broke.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write.write_all(bytes).await?;
        self.write.flush().await
    }

    /// Only reads; `None` if the relay closes the connection without an answer.
    ///
    /// # Errors
    ///
    /// The connection broke.
    pub async fn read(&mut self) -> io::Result<Option<Reply>> {
        timeout(PATIENCE, wire::read_reply(&mut self.read))
            .await
            .map_err(io::Error::from)?
    }

    /// Reads the start of an answer, without its body; `None` if the relay closes the connection
    /// without one.
    ///
    /// # Errors
    ///
    /// The connection broke.
    pub async fn read_head(&mut self) -> io::Result<Option<Reply>> {
        timeout(PATIENCE, wire::read_head(&mut self.read))
            .await
            .map_err(io::Error::from)?
    }

    /// Reads the next chunk of a body that has no length; the last one is empty.
    ///
    /// # Errors
    ///
    /// The connection broke before the end of the body.
    pub async fn read_chunk(&mut self) -> io::Result<Vec<u8>> {
        timeout(PATIENCE, wire::chunk(&mut self.read))
            .await
            .map_err(io::Error::from)?
    }

    /// Writes and reads at the same time: an answer may come before everything is written, and the
    /// relay may then stop to read.
    async fn exchange(&mut self, bytes: &[u8]) -> io::Result<Option<Reply>> {
        let (read, write) = (&mut self.read, &mut self.write);
        let writing = async {
            if write.write_all(bytes).await.is_ok() {
                let _ = write.flush().await;
            }
            std::future::pending::<()>().await;
        };
        let reading = timeout(PATIENCE, wire::read_reply(read));
        tokio::select! {
            reply = reading => reply.map_err(io::Error::from)?,
            () = writing => unreachable!("writing never ends"),
        }
    }
}
