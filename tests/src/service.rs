//! The internal service: it keeps what it is sent and answers as told.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    certificate::Certificate,
    eventually, pass,
    wire::{self, Headers, Kind, Message},
};

/// A request that reached the service.
#[derive(Debug, Clone)]
pub struct Received {
    /// When it was complete.
    pub at: Instant,
    /// Its method.
    pub method: String,
    /// Its target, exactly as on the wire.
    pub target: String,
    /// Its header fields, in the order of the wire.
    pub headers: Headers,
    /// Its body.
    pub body: Vec<u8>,
}

impl Received {
    /// The event it replays.
    pub fn event(&self) -> String {
        self.headers.text("hookferry-event-id")
    }

    /// The number of the attempt.
    pub fn attempt(&self) -> u32 {
        self.headers.text("hookferry-attempt").parse().unwrap()
    }
}

/// What the service answers.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    held: bool,
    takes: Duration,
    trickles: bool,
    echoes: bool,
    parts: Vec<Vec<u8>>,
}

impl Answer {
    /// An answer with this status and a short body.
    pub fn status(status: u16) -> Self {
        let body = format!("the service says {status}").into_bytes();
        Self {
            status,
            headers: Vec::new(),
            body,
            held: false,
            takes: Duration::ZERO,
            trickles: false,
            echoes: false,
            parts: Vec::new(),
        }
    }

    /// One more header field.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Is given after so long.
    #[must_use]
    pub fn after(mut self, takes: Duration) -> Self {
        self.takes = takes;
        self
    }

    /// Another body.
    #[must_use]
    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    /// The body never ends: a byte of it comes every now and then.
    #[must_use]
    pub fn trickling(mut self) -> Self {
        self.trickles = true;
        self
    }

    /// The body is that of the request.
    #[must_use]
    pub fn echoing(mut self) -> Self {
        self.echoes = true;
        self
    }

    /// The head comes at once, each of these parts only after [`Service::release`], and nothing tells
    /// how long the body is.
    #[must_use]
    pub fn in_parts(mut self, parts: Vec<Vec<u8>>) -> Self {
        self.parts = parts;
        self
    }

    /// Is given only after [`Service::release`].
    #[must_use]
    pub fn held(mut self) -> Self {
        self.held = true;
        self
    }
}

/// A service of its own. Dropped, it is gone with all its connections.
pub struct Service {
    place: Place,
    shared: Arc<Shared>,
    taken: usize,
    acceptor: JoinHandle<()>,
}

enum Place {
    Port { addr: SocketAddr, tls: bool },
    Socket(String),
}

struct Shared {
    received: Mutex<Vec<Received>>,
    answers: Mutex<VecDeque<Answer>>,
    usual: Mutex<Answer>,
    releases: Semaphore,
    /// Ends with the service.
    gone: watch::Sender<bool>,
}

impl Service {
    /// A service that answers 200.
    pub async fn start() -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// A service at a certain address.
    pub async fn start_at(addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        Self::at(Place::Port { addr, tls: false }, |shared| async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                spawn(stream, &shared);
            }
        })
    }

    /// A service at `localhost` that speaks TLS; with `clients` it wants a certificate of that
    /// authority.
    pub async fn start_tls(certificate: &Certificate, clients: Option<&Certificate>) -> Self {
        let acceptor = TlsAcceptor::from(certificate.server_config(clients));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        Self::at(Place::Port { addr, tls: true }, |shared| async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    match acceptor.accept(stream).into_fallible().await {
                        Ok(stream) => spawn(stream, &shared),
                        // Hears the visitor out, so that no reset overtakes the alert.
                        Err((_, mut stream)) => {
                            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                        }
                    }
                });
            }
        })
    }

    /// A service on a unix socket.
    pub fn start_unix(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let place = Place::Socket(path.display().to_string());
        Self::at(place, |shared| async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                spawn(stream, &shared);
            }
        })
    }

    fn at<F>(place: Place, accept: impl FnOnce(Arc<Shared>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            answers: Mutex::default(),
            usual: Mutex::new(Answer::status(200)),
            releases: Semaphore::new(0),
            gone: watch::Sender::new(false),
        });
        Self {
            place,
            acceptor: tokio::spawn(accept(Arc::clone(&shared))),
            shared,
            taken: 0,
        }
    }

    /// Where it listens, if that is a port.
    pub fn addr(&self) -> SocketAddr {
        match &self.place {
            Place::Port { addr, .. } => *addr,
            Place::Socket(path) => panic!("{path} is no port"),
        }
    }

    /// Its URL, without a path.
    pub fn url(&self) -> String {
        match &self.place {
            Place::Port { addr, tls: false } => format!("http://{addr}"),
            Place::Port { addr, tls: true } => format!("https://localhost:{}", addr.port()),
            Place::Socket(path) => format!("unix:{path}"),
        }
    }

    /// Answers one of the next requests like this; several are used in turn.
    pub fn answer(&self, answer: Answer) {
        self.shared.answers.lock().unwrap().push_back(answer);
    }

    /// Answers like this whenever nothing else is planned.
    pub fn answer_usually(&self, answer: Answer) {
        *self.shared.usual.lock().unwrap() = answer;
    }

    /// Lets one held answer go.
    pub fn release(&self) {
        self.shared.releases.add_permits(1);
    }

    /// Everything it has received so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// How much it has received so far.
    pub fn count(&self) -> usize {
        self.shared.received.lock().unwrap().len()
    }

    /// Looks at everything it has received, without a copy.
    pub fn inspect<T>(&self, look: impl FnOnce(&[Received]) -> T) -> T {
        look(&self.shared.received.lock().unwrap())
    }

    /// Waits for the next request that was not returned yet.
    pub async fn next(&mut self) -> Received {
        let received = eventually("a request at the service", async || {
            self.shared
                .received
                .lock()
                .unwrap()
                .get(self.taken)
                .cloned()
        })
        .await;
        self.taken += 1;
        received
    }

    /// Waits until it has received this many requests.
    pub async fn wait_for(&self, count: usize) {
        let what = format!("{count} requests at the service");
        eventually(what, async || (self.count() >= count).then_some(())).await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.shared.gone.send_replace(true);
    }
}

fn spawn(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: &Arc<Shared>) {
    let (shared, mut gone) = (Arc::clone(shared), shared.gone.subscribe());
    tokio::spawn(async move {
        tokio::select! {
            // A peer that vanishes is part of many tests.
            _ = serve(stream, shared) => {}
            _ = gone.wait_for(|gone| *gone) => {}
        }
    });
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: Arc<Shared>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(message) = wire::read(&mut stream, Kind::Request).await? {
        let answer = shared.answers.lock().unwrap().pop_front();
        let mut answer = answer.unwrap_or_else(|| shared.usual.lock().unwrap().clone());
        if answer.echoes {
            answer.body.clone_from(&message.body);
        }
        shared.received.lock().unwrap().push(received(message));
        if !answer.takes.is_zero() {
            pass(answer.takes).await;
        }
        if answer.held {
            shared.releases.acquire().await.unwrap().forget();
        }
        if answer.trickles {
            return trickle(&mut stream, answer.status).await;
        }
        let mut bytes = format!("HTTP/1.1 {} .\r\n", answer.status);
        for (name, value) in &answer.headers {
            bytes.push_str(&format!("{name}: {value}\r\n"));
        }
        if !answer.parts.is_empty() {
            bytes.push_str("transfer-encoding: chunked\r\n\r\n");
            stream.write_all(bytes.as_bytes()).await?;
            in_parts(&mut stream, &answer.parts, &shared.releases).await?;
            continue;
        }
        if answer.status != 204 {
            bytes.push_str(&format!("content-length: {}\r\n", answer.body.len()));
        }
        bytes.push_str("\r\n");
        let mut bytes = bytes.into_bytes();
        if answer.status != 204 {
            bytes.extend(&answer.body);
        }
        stream.write_all(&bytes).await?;
    }
    Ok(())
}

async fn in_parts(
    stream: &mut (impl AsyncWrite + Unpin),
    parts: &[Vec<u8>],
    releases: &Semaphore,
) -> std::io::Result<()> {
    for part in parts {
        releases.acquire().await.unwrap().forget();
        let mut chunk = format!("{:x}\r\n", part.len()).into_bytes();
        chunk.extend(part);
        chunk.extend(b"\r\n");
        stream.write_all(&chunk).await?;
    }
    stream.write_all(b"0\r\n\r\n").await
}

/// Ends when the caller has had enough.
async fn trickle(stream: &mut (impl AsyncWrite + Unpin), status: u16) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status} .\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut moments = tokio::time::interval(Duration::from_millis(20));
    loop {
        moments.tick().await;
        stream.write_all(b"1\r\nx\r\n").await?;
    }
}

fn received(message: Message) -> Received {
    let mut words = message.start.splitn(3, ' ').map(str::to_owned);
    Received {
        at: Instant::now(),
        method: words.next().unwrap_or_default(),
        target: words.next().unwrap_or_default(),
        headers: message.headers,
        body: message.body,
    }
}
