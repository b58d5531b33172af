//! The generator: one thread, keep-alive connections, requests that cost it little.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hookferry_tests::sign;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    task::JoinSet,
    time::sleep_until,
};

/// Signed requests as GitHub sends them: one body, and an id of its own in each head.
#[derive(Clone)]
pub(crate) struct Load {
    addr: SocketAddr,
    head: Arc<str>,
    body: Arc<[u8]>,
    run: u64,
}

impl Load {
    /// Requests to one source.
    pub(crate) fn new(addr: SocketAddr, path: &str, secret: &str, body_bytes: usize) -> Self {
        let start = br#"{"ref":"refs/heads/main","padding":""#;
        let mut body = start.to_vec();
        body.resize(body_bytes - 2, b'x');
        body.extend(br#""}"#);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {addr}\r\nUser-Agent: GitHub-Hookshot/bench\r\n\
             Content-Type: application/json\r\nX-GitHub-Event: push\r\nX-Hub-Signature-256: {}\r\n\
             Content-Length: {}\r\nX-GitHub-Delivery: ",
            sign::github(secret, &body),
            body.len(),
        );
        Self {
            addr,
            head: head.into(),
            body: body.into(),
            run: rand::random(),
        }
    }

    fn id(&self, number: usize) -> String {
        format!("{:016x}-{number}", self.run)
    }

    /// Posts as fast as it is answered, for a time; events a second.
    pub(crate) async fn measure(&self, connections: usize, time: Duration) -> f64 {
        let (done, elapsed) = self.flood(connections, usize::MAX, time).await;
        done as f64 / elapsed.as_secs_f64()
    }

    /// Posts this many as fast as they are answered.
    pub(crate) async fn send(&self, connections: usize, count: usize) {
        let (done, _) = self
            .flood(connections, count, Duration::from_secs(60))
            .await;
        assert_eq!(done, count, "the relay was too slow");
    }

    async fn flood(&self, connections: usize, count: usize, time: Duration) -> (usize, Duration) {
        let next = Arc::new(AtomicUsize::new(0));
        let load = self.clone();
        on_a_thread(async move || {
            let started = Instant::now();
            let mut posting = JoinSet::new();
            for _ in 0..connections {
                let (load, next) = (load.clone(), Arc::clone(&next));
                posting.spawn_local(async move {
                    let mut connection = Connection::open(&load).await.unwrap();
                    let mut done = 0;
                    while started.elapsed() < time {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            break;
                        }
                        connection.post(&load, number).await.unwrap();
                        done += 1;
                    }
                    done
                });
            }
            let done: usize = posting.join_all().await.into_iter().sum();
            (done, started.elapsed())
        })
        .await
    }

    /// Posts `count` at `pace` a second, whatever the answers take; returns each id with the time at
    /// which it was due or, where the timer woke late, was sent.
    pub(crate) async fn pace(
        &self,
        connections: usize,
        pace: usize,
        count: usize,
    ) -> Vec<(String, Instant)> {
        let load = self.clone();
        on_a_thread(async move || {
            let started = Instant::now();
            let gap = Duration::from_secs(1) / u32::try_from(pace).unwrap();
            let mut posting = JoinSet::new();
            for first in 0..connections {
                let load = load.clone();
                posting.spawn_local(async move {
                    let mut connection = Connection::open(&load).await.unwrap();
                    let mut sent = Vec::new();
                    for number in (first..count).step_by(connections) {
                        let due = started + gap * u32::try_from(number).unwrap();
                        let at = if Instant::now() < due {
                            sleep_until(due.into()).await;
                            Instant::now()
                        } else {
                            // An answer took so long that this one is late: that counts.
                            due
                        };
                        connection.post(&load, number).await.unwrap();
                        sent.push((load.id(number), at));
                    }
                    sent
                });
            }
            posting.join_all().await.concat()
        })
        .await
    }
}

/// Runs something on a thread of its own, so that it competes with nothing else of this process.
async fn on_a_thread<T: Send + 'static, F: Future<Output = T>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> T {
    let (done, result) = tokio::sync::oneshot::channel();
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        let _ = done.send(local.block_on(&runtime, work()));
    });
    result.await.unwrap()
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(load: &Load) -> io::Result<Self> {
        let stream = TcpStream::connect(load.addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            request: Vec::new(),
            answer: Vec::new(),
        })
    }

    async fn post(&mut self, load: &Load, number: usize) -> io::Result<()> {
        self.request.clear();
        self.request.extend(load.head.as_bytes());
        self.request.extend(load.id(number).as_bytes());
        self.request.extend(b"\r\n\r\n");
        self.request.extend(&*load.body);
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if is_complete(&self.answer) {
                break;
            }
        }
        let answer = String::from_utf8_lossy(&self.answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(())
    }
}

fn is_complete(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length
        .and_then(|text| text.parse().ok())
        .unwrap_or_default();
    answer.len() >= end + 4 + length
}
