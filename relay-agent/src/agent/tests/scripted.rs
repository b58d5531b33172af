//! A relay that does what a test says, and a service that answers what a test says.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use protocol::{
    frame::{
        Hello, ListenedSource, Listening, Offer, Receipt, ServedDestination, ToRelay, Welcome,
    },
    id::SessionId,
    limits,
    session::{RelayConfig, RelayOutput, RelaySession},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request as UpgradeRequest, Response as UpgradeResponse},
    },
};

/// The token every test uses.
pub(super) const TOKEN: &str = "hf_agent_test";

/// Often enough that a test of silence is short.
const HEARTBEAT: Duration = Duration::from_secs(1);

mod middlebox;

pub(super) use middlebox::{Middlebox, Upgrades};

/// A relay that has one connection at a time.
pub(super) struct Relay {
    listener: TcpListener,
}

impl Relay {
    pub(super) async fn start() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub(super) fn address(&self) -> std::net::SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Takes the next connection and its upgrade.
    pub(super) async fn accept(&self) -> Connection {
        let (stream, _) = self.listener.accept().await.unwrap();
        #[expect(clippy::result_large_err, reason = "the type is the library's")]
        let check = |request: &UpgradeRequest, mut response: UpgradeResponse| {
            assert_eq!(request.uri().path(), "/agent/v1/connect");
            assert_eq!(
                request.headers()["authorization"],
                format!("Bearer {TOKEN}").as_str()
            );
            assert_eq!(
                request.headers()["sec-websocket-protocol"],
                limits::SUBPROTOCOL
            );
            let protocol = limits::SUBPROTOCOL.parse().unwrap();
            response
                .headers_mut()
                .insert("sec-websocket-protocol", protocol);
            Ok(response)
        };
        let stream = accept_hdr_async(stream, check).await.unwrap();
        Connection::new(Wire::WebSocket(Box::new(stream)))
    }

    /// Answers the next connection's upgrade with an error.
    pub(super) async fn reject(&self, answer: &str) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }
}

/// What carries the frames of one session.
enum Wire {
    WebSocket(Box<WebSocketStream<TcpStream>>),
    Upgraded(Box<WebSocketStream<TokioIo<Upgraded>>>),
    Poll(Arc<middlebox::Pipe>),
}

impl Wire {
    /// The agent may be gone already; reading tells.
    async fn send(&mut self, frame: Bytes) {
        match self {
            Self::WebSocket(stream) => drop(stream.send(Message::Binary(frame)).await),
            Self::Upgraded(stream) => drop(stream.send(Message::Binary(frame)).await),
            Self::Poll(pipe) => pipe.push(frame),
        }
    }

    /// The next frame; nothing once the agent is gone.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let message = match self {
                Self::WebSocket(stream) => stream.next().await?.ok()?,
                Self::Upgraded(stream) => stream.next().await?.ok()?,
                Self::Poll(pipe) => return pipe.next().await,
            };
            if let Message::Binary(bytes) = message {
                return Some(bytes);
            }
        }
    }
}

/// The relay's end of one session.
pub(super) struct Connection {
    wire: Wire,
    pub(super) session: RelaySession,
}

impl Connection {
    fn new(wire: Wire) -> Self {
        let config = RelayConfig {
            heartbeat: HEARTBEAT,
            silence_max: limits::SILENCE_MAX,
        };
        Self {
            wire,
            session: RelaySession::new(config, Instant::now()),
        }
    }

    /// Whether it is carried by single requests.
    pub(super) fn is_polled(&self) -> bool {
        matches!(self.wire, Wire::Poll(_))
    }

    /// Sends what is to be sent and reads until there is an output the test looks for.
    pub(super) async fn wait<T>(&mut self, mut wanted: impl FnMut(RelayOutput) -> Option<T>) -> T {
        loop {
            while let Some(output) = self.session.poll_output() {
                match output {
                    RelayOutput::Send(frame) => self.wire.send(frame.encode()).await,
                    output => {
                        if let Some(found) = wanted(output) {
                            self.flush().await;
                            return found;
                        }
                    }
                }
            }
            match self.wire.next().await {
                Some(bytes) => {
                    let frame = ToRelay::decode(bytes).unwrap();
                    self.session.handle_frame(frame, Instant::now()).unwrap();
                }
                None => self.session.handle_disconnect(),
            }
        }
    }

    /// Sends what is to be sent, and looks at nothing.
    pub(super) async fn flush(&mut self) {
        let mut kept = Vec::new();
        while let Some(output) = self.session.poll_output() {
            match output {
                RelayOutput::Send(frame) => self.wire.send(frame.encode()).await,
                output => kept.push(output),
            }
        }
        assert!(
            kept.iter()
                .all(|output| matches!(output, RelayOutput::Credit { .. })),
            "{kept:?}"
        );
    }

    pub(super) async fn hello(&mut self) -> Box<Hello> {
        self.wait(|output| match output {
            RelayOutput::Hello(hello) => Some(hello),
            _ => None,
        })
        .await
    }

    /// Lets the agent in for whatever it asked.
    pub(super) async fn welcome(&mut self) -> Box<Hello> {
        self.welcome_as(None).await
    }

    /// The same as a certain one of several relays.
    pub(super) async fn welcome_as(&mut self, node: Option<&str>) -> Box<Hello> {
        let hello = self.hello().await;
        self.let_in(&hello, node).await;
        hello
    }

    /// Answers a Hello.
    pub(super) async fn let_in(&mut self, hello: &Hello, node: Option<&str>) {
        let names = hello
            .destinations
            .iter()
            .map(|destination| destination.name.clone());
        let listening = hello.listen.as_ref().map(|listen| Listening {
            destination: "listen-1".to_owned(),
            sources: listen
                .sources
                .iter()
                .map(|name| ListenedSource {
                    name: name.clone(),
                    url: format!("http://relay/in/{name}"),
                })
                .collect(),
        });
        let listened = listening
            .iter()
            .map(|listening| listening.destination.clone());
        let served = names.chain(listened);
        let welcome = Welcome {
            version: limits::VERSION,
            session: SessionId::from_u128(1),
            heartbeat_ms: HEARTBEAT.as_millis() as u64,
            silence_ms: 45_000,
            chunk_bytes_max: limits::CHUNK_BYTES_MAX as u64,
            destinations: served
                .map(|name| ServedDestination {
                    name,
                    timeout_ms: 10_000,
                })
                .collect(),
            node: node.map(str::to_owned),
            listening,
        };
        self.session.welcome(welcome, Instant::now());
        self.flush().await;
    }

    pub(super) async fn offer(&mut self, offer: Offer) {
        self.session.offer(Box::new(offer)).unwrap();
        self.flush().await;
    }

    pub(super) async fn receipt(&mut self) -> Receipt {
        self.wait(|output| match output {
            RelayOutput::Receipt(receipt) => Some(*receipt),
            _ => None,
        })
        .await
    }

    pub(super) async fn confirm(&mut self, receipt: &Receipt) {
        self.session.confirm(vec![receipt.key()]);
        self.flush().await;
    }

    /// Waits for the end. Whether the agent said Bye.
    pub(super) async fn end(mut self) -> bool {
        self.wait(|output| match output {
            RelayOutput::Close { said_bye, .. } => Some(said_bye),
            _ => None,
        })
        .await
    }
}

/// What a service received.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// An internal service: tells what it receives, answers when it is let.
pub(super) struct Service {
    address: std::net::SocketAddr,
    received: mpsc::Receiver<Received>,
    answers: Arc<Semaphore>,
}

impl Service {
    /// A service that answers at once.
    pub(super) async fn start(status: u16) -> Self {
        let service = Self::held(status).await;
        service.answer(1 << 20);
        service
    }

    /// A service that answers only as often as it is let.
    pub(super) async fn held(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, received) = mpsc::channel(64);
        let answers = Arc::new(Semaphore::new(0));
        let gate = answers.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sender, gate) = (sender.clone(), gate.clone());
                let service = service_fn(move |request| {
                    answer(request, status, sender.clone(), gate.clone())
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self {
            address,
            received,
            answers,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Lets it answer some more times.
    pub(super) fn answer(&self, times: usize) {
        self.answers.add_permits(times);
    }

    pub(super) async fn next(&mut self) -> Received {
        self.received.recv().await.unwrap()
    }

    pub(super) fn is_quiet(&mut self) -> bool {
        self.received.try_recv().is_err()
    }
}

async fn answer(
    request: Request<Incoming>,
    status: u16,
    sender: mpsc::Sender<Received>,
    gate: Arc<Semaphore>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let received = Received {
        method: parts.method,
        target: parts.uri.to_string(),
        headers: parts.headers,
        body: body
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default(),
    };
    let _ = sender.send(received).await;
    gate.acquire().await.unwrap().forget();
    let mut response = Response::new(Full::new(Bytes::from_static(b"answer")));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    Ok(response)
}
