//! The servers of the benchmark: one that does nothing, and the service that counts.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Instant,
};

use bytes::Bytes;
use hookferry_tests::eventually;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, runtime};

/// The argument with which this program is the server that does nothing.
pub(crate) const IDLE: &str = "--serve-nothing";

/// hyper as the relay uses it, answering 200 as soon as the body is there, in a process of its own.
pub(crate) struct Idle {
    child: Child,
    addr: SocketAddr,
}

impl Idle {
    pub(crate) async fn start() -> Self {
        let addr = hookferry_tests::ports::free();
        let child = Command::new(std::env::current_exe().unwrap())
            .args([IDLE, &addr.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, addr };
        eventually("the server that does nothing", async || {
            tokio::net::TcpStream::connect(addr).await.ok()
        })
        .await;
        server
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server that does nothing, at the address of the last argument.
pub(crate) async fn serve_idle() {
    let addr: SocketAddr = std::env::args().next_back().unwrap().parse().unwrap();
    let listener = TcpListener::bind(addr).await.unwrap();
    serve(listener, |_| ()).await;
}

async fn serve(
    listener: TcpListener,
    seen: impl Fn(&Request<Incoming>) + Clone + Send + Sync + 'static,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let seen = seen.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            seen(&request);
            async move {
                let _ = request.into_body().collect().await;
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(
                    b"{\"ok\":true}",
                ))))
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}

/// The service: it counts, and notes when each event came first.
pub(crate) struct Counter {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    count: AtomicUsize,
    arrived: Mutex<HashMap<String, Instant>>,
}

impl Counter {
    /// Starts it on a thread of its own.
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let (bound, addr) = mpsc::channel();
        let kept = Arc::clone(&shared);
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                serve(listener, move |request| kept.note(request)).await;
            });
        });
        Self {
            addr: addr.recv().unwrap(),
            shared,
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Requests so far.
    pub(crate) fn count(&self) -> usize {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// When each of the provider's ids came first.
    pub(crate) fn arrived(&self) -> HashMap<String, Instant> {
        self.shared.arrived.lock().unwrap().clone()
    }
}

impl Shared {
    fn note(&self, request: &Request<Incoming>) {
        let now = Instant::now();
        if let Some(id) = request.headers().get("x-github-delivery") {
            let id = String::from_utf8_lossy(id.as_bytes()).into_owned();
            self.arrived.lock().unwrap().entry(id).or_insert(now);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}
