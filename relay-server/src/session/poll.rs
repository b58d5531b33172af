//! `POST /agent/v1/poll`: the requests of the fall-back transport.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use protocol::{
    id::PipeId,
    limits,
    poll::{self, Answer, Farewell, Upward},
    session::{Close, CloseCode, Violation},
};
use tokio::time;
use tracing::{debug, warn};

use super::{
    Authorised,
    authorised::authorise,
    driver::{Session, SessionContext},
    pipes::{Opened, Pipe, TooMany},
    upgrade::DRAINING_RETRY,
};
use crate::{
    ingress::{BodyDeadlines, BodyError, read_body},
    problem::{Code, Problem},
};

/// When to try again if there are too many links.
const TOO_MANY_RETRY: Duration = Duration::from_secs(10);

/// When to try again if there is no memory for the request.
const NO_MEMORY_RETRY: Duration = Duration::from_secs(1);

/// How long a batch waits until the one before it was read.
const FULL_MAX: Duration = Duration::from_secs(8);

/// Answers one request of the fall-back transport.
pub(crate) async fn poll(
    context: &Arc<SessionContext>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    match answer(context, request).await {
        Ok(body) => respond(body),
        Err(problem) => problem.into_response(),
    }
}

async fn answer(
    context: &Arc<SessionContext>,
    request: Request<Incoming>,
) -> Result<Bytes, Problem> {
    let authorised = authorise(context, &request)?;
    if request.method() != Method::POST {
        return Err(Problem::new(Code::Method).allow(HeaderValue::from_static("POST")));
    }
    let answered = answer_authorised(context, &authorised, request).await;
    context.pipes.prune(authorised.tenant);
    answered
}

async fn answer_authorised(
    context: &Arc<SessionContext>,
    authorised: &Authorised,
    request: Request<Incoming>,
) -> Result<Bytes, Problem> {
    let memory = context.pipes.memory(authorised.tenant);
    let body = read_body(
        request.into_body(),
        limits::POLL_BYTES_MAX as u64,
        &memory,
        BodyDeadlines::default(),
    )
    .await
    .map_err(unread)?;
    let request = poll::Request::decode(body.bytes.clone()).map_err(|error| {
        Problem::new(Code::Request).detail(format!("This is no request of an agent: {error}."))
    })?;
    let link = request.link();
    if let poll::Request::Open { .. } = request {
        return open(context, authorised, link);
    }
    let Some(pipe) = context.pipes.find(authorised, link) else {
        return Ok(gone("there is no such link here").encode());
    };
    let answered = match request {
        poll::Request::Up {
            batch,
            close,
            frames,
            ..
        } => take(&pipe, batch, frames, close).await,
        poll::Request::Poll {
            received, hold_ms, ..
        } => {
            // The request is read; while it is held it needs no memory.
            drop(body);
            hold(&pipe, received, hold_ms).await
        }
        poll::Request::Open { .. } => Ok(Answer::Opened.encode()),
    };
    answered.or_else(|violation| {
        warn!(%link, %violation, "an agent broke the protocol");
        let close = Close::new(CloseCode::Violation, &violation.to_string());
        let farewell = Farewell::from(&close);
        pipe.with(|relay| relay.abandon(farewell.clone()));
        pipe.wake_session();
        Ok(Answer::Gone(farewell).encode())
    })
}

fn open(
    context: &Arc<SessionContext>,
    authorised: &Authorised,
    link: PipeId,
) -> Result<Bytes, Problem> {
    let draining = context.draining.is_cancelled();
    if draining && context.pipes.find(authorised, link).is_none() {
        return Err(Problem::new(Code::ShuttingDown).retry_after(DRAINING_RETRY));
    }
    let silence_max = context.silence_max();
    match context
        .pipes
        .open(authorised, link, silence_max, &context.stop)
    {
        Ok(Opened::New(transport)) => {
            debug!(%link, "an agent opened a link of the fall-back transport");
            let session = Session::new(Arc::clone(context), authorised.clone(), transport);
            context.tasks.spawn(session.run());
        }
        Ok(Opened::Known) => {}
        Err(TooMany) => {
            let detail = "There are too many links of agents that cannot use WebSockets.";
            return Err(Problem::new(Code::Overloaded)
                .detail(detail)
                .retry_after(TOO_MANY_RETRY));
        }
    }
    Ok(Answer::Opened.encode())
}

/// Takes an upward batch, once the one before it was read.
async fn take(
    pipe: &Pipe,
    batch: u64,
    frames: Vec<Bytes>,
    close: Option<Farewell>,
) -> Result<Bytes, Violation> {
    let mut what = Some((frames, close));
    let until = time::Instant::now() + FULL_MAX;
    loop {
        let changed = pipe.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        // Judged and taken in one go: the same batch may be here twice.
        let judged = pipe.with(|relay| {
            let judged = relay.judge(batch)?;
            if let Some((frames, close)) = what.take_if(|_| judged == Upward::Next) {
                relay.take(frames, close);
            }
            Ok(judged)
        })?;
        match judged {
            Upward::Next => {
                pipe.wake_session();
                break;
            }
            Upward::Repeated => break,
            Upward::Full => {}
        }
        if time::timeout_at(until, changed).await.is_err() {
            // Says what was taken so far: the agent sends it again.
            break;
        }
    }
    let batch = pipe.with(|relay| relay.taken());
    Ok(Answer::Taken { batch }.encode())
}

/// Holds a poll until there is something to say.
async fn hold(pipe: &Pipe, received: u64, hold_ms: Option<u64>) -> Result<Bytes, Violation> {
    let asked = hold_ms.map_or(limits::POLL_HOLD_MAX, Duration::from_millis);
    let until = time::Instant::now() + asked.min(limits::POLL_HOLD_MAX);
    let _held = pipe.hold();
    let ticket = pipe.with(|relay| relay.begin_poll(received))?;
    // One that is held already is not any more.
    pipe.wake_requests();
    loop {
        let changed = pipe.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if let Some(answer) = pipe.with(|relay| relay.answer_poll(ticket)) {
            // There is room again, or the last word was said.
            pipe.wake_session();
            return Ok(answer);
        }
        if pipe.with(|relay| relay.is_over()) {
            return Ok(gone("the link has ended").encode());
        }
        if time::timeout_at(until, changed).await.is_err() {
            return Ok(Answer::NOTHING.encode());
        }
    }
}

/// Connect again at once: what was in hand is not lost.
fn gone(why: &str) -> Answer {
    Answer::Gone(Farewell::from(&Close::new(CloseCode::Silent, why)))
}

fn unread(error: BodyError) -> Problem {
    match error {
        BodyError::TooLarge => Problem::new(Code::BodyTooLarge),
        BodyError::TooSlow => Problem::new(Code::Timeout),
        BodyError::NoMemory => Problem::new(Code::Overloaded).retry_after(NO_MEMORY_RETRY),
        BodyError::Broken => Problem::new(Code::Request),
    }
}

fn respond(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
