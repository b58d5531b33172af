//! Frames over single requests. Two connections serve a link: on one a poll is held by the relay until
//! it has something to say, on the other batches of frames go up.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use protocol::{
    frame::ToAgent,
    limits::POLL_HOLD_MAX,
    poll::{AgentPipe, Answer, Farewell},
    session::{Close, CloseCode},
};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::{FAREWELL_MAX, Incoming};
use crate::link::{
    DialError,
    exchange::{Address, Connection, Exchanged},
};

/// How long an answer may take, beside the time that the relay holds a poll.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The pause after a request that failed, and what it grows to.
const REST_MIN: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(2);

/// The shortest time that a poll is held where something in between cuts what takes long.
const HOLD_MIN: Duration = Duration::from_secs(2);

/// A request that failed sooner was not cut because it took long.
const CUT_MIN: Duration = Duration::from_secs(3);

/// A link of the fall-back transport.
#[derive(Debug)]
pub(in crate::link) struct PollSocket {
    pipe: AgentPipe,
    address: Address,
    up: Lane,
    poll: Lane,
    /// How long polls are held.
    hold: Duration,
    /// The link is over, once all frames were read.
    over: Option<Over>,
}

/// One connection: at most one request at a time.
#[derive(Debug, Default)]
struct Lane {
    state: State,
    failures: u32,
}

#[derive(Default)]
enum State {
    #[default]
    New,
    /// The next request may go over this.
    Idle(Connection),
    Busy {
        exchange: Pin<Box<dyn Future<Output = Exchanged> + Send>>,
        since: Instant,
    },
    /// The last request failed.
    Resting(Pin<Box<Sleep>>),
}

#[derive(Debug)]
enum Over {
    Closed(Farewell),
    Gone(String),
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::New => "New",
            Self::Idle(_) => "Idle",
            Self::Busy { .. } => "Busy",
            Self::Resting(_) => "Resting",
        })
    }
}

impl PollSocket {
    /// A link that the relay has opened, and the connection over which it did.
    pub(in crate::link) fn new(
        pipe: AgentPipe,
        address: Address,
        connection: Option<Connection>,
    ) -> Self {
        Self {
            pipe,
            address,
            up: Lane {
                state: connection.map_or(State::New, State::Idle),
                failures: 0,
            },
            poll: Lane::default(),
            hold: POLL_HOLD_MAX,
            over: None,
        }
    }

    pub(super) fn send(&mut self, frame: Bytes) {
        self.pipe.push(frame);
    }

    pub(super) fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        self.progress_up(cx);
        if !self.pipe.has_room() {
            // A relay that takes nothing is not listened to either.
            self.start_up(cx);
            return Poll::Pending;
        }
        loop {
            if let Some(bytes) = self.pipe.read() {
                return Poll::Ready(match ToAgent::decode(bytes) {
                    Ok(frame) => Incoming::Frame(frame),
                    Err(error) => Incoming::Malformed(error),
                });
            }
            if let Some(farewell) = self.pipe.relay_closed() {
                self.over.get_or_insert(Over::Closed(farewell.clone()));
            }
            match &self.over {
                Some(Over::Closed(farewell)) => {
                    return Poll::Ready(Incoming::Closed {
                        code: farewell.code,
                        reason: farewell.reason.clone(),
                    });
                }
                Some(Over::Gone(reason)) => return Poll::Ready(Incoming::Gone(reason.clone())),
                None => {}
            }
            std::task::ready!(self.progress_poll(cx));
        }
    }

    /// Never ready: what ends the link is told by [`Self::poll_incoming`].
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        self.start_up(cx);
        Poll::Pending
    }

    /// Polls until there is an answer.
    fn progress_poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.poll.is_free(cx) {
                let request = self.pipe.poll(self.hold);
                self.poll
                    .start(&self.address, request, self.hold + ANSWER_MAX);
            }
            let Poll::Ready((exchanged, took)) = self.poll.poll_answer(cx) else {
                return Poll::Pending;
            };
            self.address.cookies.take(exchanged.cookies);
            match exchanged.answer {
                Ok(answer) => {
                    self.poll.succeeded(exchanged.connection);
                    self.take_answer(answer);
                    return Poll::Ready(());
                }
                Err(error) if is_final(&error) => {
                    self.over = Some(over(&error));
                    return Poll::Ready(());
                }
                Err(error) => {
                    if matches!(error, DialError::Exchange(_) | DialError::Status { .. }) {
                        self.hold = shorter(self.hold, took);
                    }
                    self.poll.failed(&error);
                }
            }
        }
    }

    /// Sends what waits, unless a batch is under way.
    fn start_up(&mut self, cx: &mut Context<'_>) {
        loop {
            self.progress_up(cx);
            if self.over.is_some() || !self.up.is_free(cx) {
                return;
            }
            let Some(request) = self.pipe.next_up() else {
                return;
            };
            self.up.start(&self.address, request, ANSWER_MAX);
        }
    }

    /// Takes the answer to the batch that is under way, if there is one.
    fn progress_up(&mut self, cx: &mut Context<'_>) {
        let Poll::Ready((exchanged, _)) = self.up.poll_answer(cx) else {
            return;
        };
        self.address.cookies.take(exchanged.cookies);
        match exchanged.answer {
            Ok(answer) => {
                self.up.succeeded(exchanged.connection);
                self.take_answer(answer);
            }
            Err(error) if is_final(&error) => self.over = Some(over(&error)),
            Err(error) => self.up.failed(&error),
        }
        // Whoever reads may find that it is over, and whoever flushes that the next batch may go.
        cx.waker().wake_by_ref();
    }

    fn take_answer(&mut self, answer: Answer) {
        let taken = match answer {
            Answer::Taken { batch } => self.pipe.taken(batch),
            Answer::Down {
                batch: Some(batch),
                close,
                frames,
            } => self.pipe.take(batch, frames, close),
            Answer::Down { batch: None, .. } | Answer::Opened => Ok(()),
            Answer::Gone(farewell) => {
                self.over.get_or_insert(Over::Closed(farewell));
                Ok(())
            }
        };
        if let Err(violation) = taken {
            self.over = Some(Over::Gone(violation.to_string()));
        }
    }

    pub(super) async fn farewell(mut self, close: Close) -> bool {
        if self.over.is_some() {
            return true;
        }
        self.pipe.close(Farewell::from(&close));
        let said = poll_fn(|cx| {
            self.start_up(cx);
            match self.over.is_some() || self.pipe.has_said_all() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        timeout(FAREWELL_MAX, said).await.is_ok()
    }
}

impl Lane {
    /// Whether a request may be made. If not now, the task is woken when it may.
    fn is_free(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.state {
            State::New | State::Idle(_) => true,
            State::Busy { .. } => false,
            State::Resting(rest) => rest.as_mut().poll(cx).is_ready(),
        }
    }

    fn start(&mut self, address: &Address, request: Bytes, patience: Duration) {
        let connection = match std::mem::take(&mut self.state) {
            State::Idle(connection) => Some(connection),
            State::New | State::Busy { .. } | State::Resting(_) => None,
        };
        let exchange = address.clone().exchange(connection, request, patience);
        self.state = State::Busy {
            exchange: Box::pin(exchange),
            since: Instant::now(),
        };
    }

    /// What came of the request that is under way, and how long it took.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<(Exchanged, Duration)> {
        let State::Busy { exchange, since } = &mut self.state else {
            return Poll::Pending;
        };
        let exchanged = std::task::ready!(exchange.as_mut().poll(cx));
        let took = since.elapsed();
        self.state = State::New;
        Poll::Ready((exchanged, took))
    }

    fn succeeded(&mut self, connection: Option<Connection>) {
        self.failures = 0;
        self.state = connection.map_or(State::New, State::Idle);
    }

    /// Rests before the same is tried again: longer each time, or as long as the relay asks.
    fn failed(&mut self, error: &DialError) {
        let longest = REST_MIN
            .saturating_mul(1 << self.failures.min(5))
            .min(REST_MAX);
        let jittered = longest.mul_f64(rand::random_range(0.5..1.0));
        let asked = error.retry_after().unwrap_or_default().min(REST_MAX);
        self.failures += 1;
        self.state = State::Resting(Box::pin(sleep(jittered.max(asked))));
    }
}

/// How long the next polls are held after one was cut: something in between takes offence at requests
/// that take long.
fn shorter(hold: Duration, took: Duration) -> Duration {
    if took < CUT_MIN || took > hold {
        return hold;
    }
    took.mul_f64(0.75).max(HOLD_MIN)
}

/// Whether the same request would fail again: the relay itself does not want it.
fn is_final(error: &DialError) -> bool {
    let DialError::Status { status, .. } = error else {
        return false;
    };
    error.is_of_relay() && status.is_client_error() && !matches!(status.as_u16(), 408 | 429)
}

/// What it means for the link: the same as a close with the code of that name.
fn over(error: &DialError) -> Over {
    let code = match error {
        DialError::Status { status, .. } if status.as_u16() == 401 => CloseCode::Unauthorised,
        DialError::Status { status, .. } if status.as_u16() == 403 => CloseCode::Forbidden,
        _ => return Over::Gone(error.to_string()),
    };
    Over::Closed(Farewell::from(&Close::new(code, &error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_that_are_cut_become_shorter() {
        let seconds = Duration::from_secs;
        for (took, expected) in [
            (seconds(0), seconds(20)),
            (seconds(2), seconds(20)),
            (seconds(12), seconds(9)),
            (Duration::from_millis(3100), Duration::from_millis(2325)),
            (seconds(30), seconds(20)),
        ] {
            assert_eq!(shorter(seconds(20), took), expected, "{took:?}");
        }
        assert_eq!(shorter(seconds(3), seconds(3)), Duration::from_millis(2250));
        assert_eq!(shorter(HOLD_MIN, HOLD_MIN), HOLD_MIN);
    }
}
