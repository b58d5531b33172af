//! A relay behind something that takes offence at WebSockets, and lets single requests pass as a test
//! says.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use protocol::{
    id::PipeId,
    limits,
    poll::{self, Answer, Farewell, RelayPipe, Upward},
};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use super::{Connection, TOKEN, Wire};

/// What becomes of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Upgrades {
    /// It is answered with this status by what is no relay.
    Answered(u16),
    /// It is answered by the relay itself.
    Refused(u16, &'static str),
    /// The connection is closed.
    Dropped,
    /// It gets through, and nothing after it.
    Starved,
    /// It gets through.
    Passed,
}

/// A relay behind a middlebox.
pub(in super::super) struct Middlebox {
    shared: Arc<Shared>,
    address: std::net::SocketAddr,
    links: mpsc::Receiver<Connection>,
    /// The paths that were asked for.
    asked: mpsc::Receiver<String>,
}

struct Shared {
    manner: Mutex<Manner>,
    pipes: Mutex<HashMap<PipeId, Arc<Pipe>>>,
    links: mpsc::Sender<Connection>,
    asked: mpsc::Sender<String>,
}

#[derive(Clone, Copy)]
struct Manner {
    upgrades: Upgrades,
    /// What a request is answered with, if not what it asks for.
    requests: Option<(u16, &'static str)>,
    /// Every so many answers one is lost after the request was carried out.
    loses_every: usize,
    answers: usize,
}

impl Middlebox {
    pub(in super::super) async fn start(upgrades: Upgrades) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (links, received) = mpsc::channel(8);
        let (asked, paths) = mpsc::channel(4096);
        let shared = Arc::new(Shared {
            manner: Mutex::new(Manner {
                upgrades,
                requests: None,
                loses_every: usize::MAX,
                answers: 0,
            }),
            pipes: Mutex::default(),
            links,
            asked,
        });
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                let connection = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                tokio::spawn(connection);
            }
        });
        Self {
            shared,
            address,
            links: received,
            asked: paths,
        }
    }

    pub(in super::super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Treats upgrades differently from now on.
    pub(in super::super) fn upgrades(&self, upgrades: Upgrades) {
        self.shared.manner().upgrades = upgrades;
    }

    /// Answers requests with this from now on.
    pub(in super::super) fn refuses_requests(&self, status: u16, code: &'static str) {
        self.shared.manner().requests = Some((status, code));
    }

    /// Loses one of so many answers.
    pub(in super::super) fn loses_one_of(&self, answers: usize) {
        self.shared.manner().loses_every = answers;
    }

    /// The next link that is opened.
    pub(in super::super) async fn accept(&mut self) -> Connection {
        self.links.recv().await.unwrap()
    }

    /// The path of the next request.
    pub(in super::super) async fn asked(&mut self) -> String {
        self.asked.recv().await.unwrap()
    }

    /// Whether nothing was asked that nobody looked at.
    pub(in super::super) fn is_quiet(&mut self) -> bool {
        self.asked.try_recv().is_err()
    }

    /// Looks at nothing that was asked so far.
    pub(in super::super) fn forget_asked(&mut self) {
        while self.asked.try_recv().is_ok() {}
    }
}

impl Shared {
    fn manner(&self) -> MutexGuard<'_, Manner> {
        self.manner.lock().unwrap()
    }

    /// Whether the next answer is lost.
    fn loses(&self) -> bool {
        let mut manner = self.manner();
        manner.answers += 1;
        manner.answers.is_multiple_of(manner.loses_every)
    }
}

async fn answer(
    shared: Arc<Shared>,
    mut request: Request<Incoming>,
) -> io::Result<Response<Full<Bytes>>> {
    assert_eq!(
        request.headers()["authorization"],
        format!("Bearer {TOKEN}").as_str()
    );
    let path = request.uri().path().to_owned();
    shared.asked.send(path.clone()).await.unwrap();
    if path == "/agent/v1/poll" {
        let Manner { requests, .. } = *shared.manner();
        return match requests {
            Some((status, code)) => Ok(refused(status, code)),
            None => post(&shared, request).await,
        };
    }
    assert_eq!(path, "/agent/v1/connect");
    let upgrades = shared.manner().upgrades;
    match upgrades {
        Upgrades::Answered(status) => Ok(stranger(status)),
        Upgrades::Refused(status, code) => Ok(refused(status, code)),
        Upgrades::Dropped => Err(io::ErrorKind::ConnectionReset.into()),
        Upgrades::Starved | Upgrades::Passed => {
            let key = request.headers()["sec-websocket-key"].as_bytes();
            let accept = derive_accept_key(key);
            let upgrading = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let upgraded = TokioIo::new(upgrading.await.unwrap());
                let stream = WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await;
                if upgrades == Upgrades::Starved {
                    return std::future::pending().await;
                }
                let wire = Wire::Upgraded(Box::new(stream));
                let _ = shared.links.send(Connection::new(wire)).await;
            });
            let response = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(header::CONNECTION, "Upgrade")
                .header(header::UPGRADE, "websocket")
                .header(header::SEC_WEBSOCKET_PROTOCOL, limits::SUBPROTOCOL)
                .header(header::SEC_WEBSOCKET_ACCEPT, accept);
            Ok(response.body(Full::default()).unwrap())
        }
    }
}

/// What something in between says.
fn stranger(status: u16) -> Response<Full<Bytes>> {
    let page = Full::from(r#"{"detail":"not for you","code":"none of ours"}"#);
    Response::builder().status(status).body(page).unwrap()
}

/// What the relay says.
fn refused(status: u16, code: &str) -> Response<Full<Bytes>> {
    let response = Response::builder()
        .status(status)
        .header("hookferry-code", code)
        .header("retry-after", "0");
    response.body(Full::default()).unwrap()
}

async fn post(shared: &Shared, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let named = request.headers()["hookferry-link"].clone();
    let body = request.into_body().collect().await;
    let body = body.map_err(io::Error::other)?.to_bytes();
    let request = poll::Request::decode(body).unwrap();
    let link = request.link();
    assert_eq!(named, link.to_string().as_str());
    let known = shared.pipes.lock().unwrap().get(&link).cloned();
    let answer = match (request, known) {
        (poll::Request::Open { .. }, None) => {
            let pipe = Arc::<Pipe>::default();
            let opened = Arc::clone(&pipe);
            shared.pipes.lock().unwrap().insert(link, opened);
            let connection = Connection::new(Wire::Poll(pipe));
            shared.links.send(connection).await.unwrap();
            Answer::Opened.encode()
        }
        (poll::Request::Open { .. }, Some(_)) => Answer::Opened.encode(),
        (
            poll::Request::Up {
                batch,
                close,
                frames,
                ..
            },
            Some(pipe),
        ) => pipe.take(batch, frames, close).await,
        (
            poll::Request::Poll {
                received, hold_ms, ..
            },
            Some(pipe),
        ) => pipe.hold(received, hold_ms.unwrap()).await,
        (_, None) => panic!("a request for a link that is not open"),
    };
    if shared.loses() {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(Response::new(Full::new(answer)))
}

/// The relay's end of a link of single requests.
#[derive(Default)]
pub(super) struct Pipe {
    relay: Mutex<RelayPipe>,
    changed: Notify,
}

impl Pipe {
    pub(super) fn push(&self, frame: Bytes) {
        self.act(|relay| relay.push(frame));
    }

    pub(super) async fn next(&self) -> Option<Bytes> {
        self.until(|relay| match (relay.read(), relay.agent_closed()) {
            (Some(frame), _) => Some(Some(frame)),
            (None, Some(_)) => Some(None),
            (None, None) => None,
        })
        .await
    }

    async fn take(&self, batch: u64, frames: Vec<Bytes>, close: Option<Farewell>) -> Bytes {
        let mut what = Some((frames, close));
        let batch = self.until(|relay| {
            match relay.judge(batch).unwrap() {
                Upward::Full => return None,
                Upward::Repeated => {}
                Upward::Next => {
                    let (frames, close) = what.take()?;
                    relay.take(frames, close);
                }
            }
            Some(relay.taken())
        });
        let batch = batch.await;
        self.changed.notify_waiters();
        Answer::Taken { batch }.encode()
    }

    async fn hold(&self, received: u64, hold_ms: u64) -> Bytes {
        let ticket = self.act(|relay| relay.begin_poll(received).unwrap());
        let hold = std::time::Duration::from_millis(hold_ms);
        let answered = timeout(hold, self.until(|relay| relay.answer_poll(ticket))).await;
        answered.unwrap_or_else(|_| Answer::NOTHING.encode())
    }

    fn act<T>(&self, act: impl FnOnce(&mut RelayPipe) -> T) -> T {
        let done = act(&mut self.relay.lock().unwrap());
        self.changed.notify_waiters();
        done
    }

    /// Waits until there is something; looks again after every change.
    async fn until<T>(&self, mut look: impl FnMut(&mut RelayPipe) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let found = look(&mut self.relay.lock().unwrap());
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }
}
