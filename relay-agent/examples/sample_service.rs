//! A service to try an agent with: prints one line per request and answers 200.
//!
//! ```text
//! cargo run -p relay-agent --example sample_service -- 127.0.0.1:3000
//! ```
//!
//! The first line on the standard output is `listening on http://ADDRESS`; without an argument the
//! system chooses the port. `deploy/quickstart.sh` uses it as the service behind the agent.

use std::{convert::Infallible, env, io, io::Write, net::SocketAddr, time::Duration};

use anyhow::Context;
use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// Bytes of a body that are shown.
const SHOWN_BYTES_MAX: usize = 72;

/// How long to wait after accepting failed: out of file descriptors, most likely, and it passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let address = env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let address: SocketAddr = address
        .parse()
        .with_context(|| format!("{address} is not an address such as 127.0.0.1:3000"))?;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    say(&format!("listening on http://{}", listener.local_addr()?))?;

    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            // A peer that hangs up is no concern of a sample.
            let _ = connection.await;
        });
    }
}

/// Reads the whole request, prints what came, and answers 200.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let method = request.method().clone();
    let target = request
        .uri()
        .path_and_query()
        .map_or_else(|| "/".to_owned(), ToString::to_string);
    let event = request.headers().get("hookferry-event-id");
    let event = event
        .and_then(|value| value.to_str().ok())
        .unwrap_or("-")
        .to_owned();

    let body = Start::of(request.into_body()).await;
    let line = format!(
        "{method} {target} {event} {} bytes: {}",
        body.length,
        body.shown()
    );
    if say(&line).is_err() {
        // Whoever reads the lines has gone, and with it the reason to run.
        std::process::exit(0);
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"ok\n"))))
}

/// The start of a body, and how long all of it is.
#[derive(Default)]
struct Start {
    bytes: Vec<u8>,
    length: usize,
}

impl Start {
    async fn of(mut body: Incoming) -> Self {
        let mut start = Self::default();
        while let Some(Ok(frame)) = body.frame().await {
            let Some(data) = frame.data_ref() else {
                continue;
            };
            start.length += data.remaining();
            let room = SHOWN_BYTES_MAX
                .saturating_sub(start.bytes.len())
                .min(data.len());
            start.bytes.extend_from_slice(&data[..room]);
        }
        start
    }

    /// As text, without what could steer a terminal.
    fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        text.chars()
            .map(|character| {
                if character.is_control() {
                    '.'
                } else {
                    character
                }
            })
            .collect()
    }
}

fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}
