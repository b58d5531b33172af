//! Keeps the raw head of the request that is being read. hyper silently drops `Content-Length` when
//! `Transfer-Encoding` is there too, so that a request on which a proxy and we may disagree looks
//! harmless; the raw head tells.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time,
};

use super::limits::HEAD_BYTES_MAX;

const END: &[u8] = b"\r\n\r\n";

/// The raw head of one request.
#[derive(Debug, Default)]
pub struct Head(Vec<u8>);

impl Head {
    /// Whether it is larger than the relay takes. hyper looks at its buffer only between reads, and
    /// so lets heads of up to twice its limit pass.
    pub fn is_too_large(&self) -> bool {
        self.0.len() >= HEAD_BYTES_MAX
    }

    /// Whether a header field is there, by lower-case name. True also if the head was not seen from
    /// its start (it was pipelined behind another request), since then nobody can tell.
    pub fn may_have(&self, name: &str) -> bool {
        if self.0.is_empty() {
            return true;
        }
        self.0.split(|&byte| byte == b'\n').skip(1).any(|line| {
            let colon = line.iter().position(|&byte| byte == b':');
            colon.is_some_and(|colon| {
                line[..colon]
                    .trim_ascii()
                    .eq_ignore_ascii_case(name.as_bytes())
            })
        })
    }
}

#[derive(Debug)]
enum Recording {
    /// Reading a head.
    Head(Vec<u8>),
    /// The head is complete; body bytes follow.
    Complete(Vec<u8>),
    /// A request is being handled.
    Paused,
}

#[derive(Debug)]
struct Shared {
    recording: Mutex<Recording>,
    first_byte: Notify,
}

/// An I/O stream whose heads are watched.
#[derive(Debug)]
pub(super) struct HeadWatch<T> {
    io: T,
    shared: Arc<Shared>,
    seen_any: bool,
}

/// The other end of a [`HeadWatch`].
#[derive(Debug)]
pub(super) struct Watch(Arc<Shared>);

impl<T> HeadWatch<T> {
    pub(super) fn new(io: T) -> (Self, Watch) {
        let shared = Arc::new(Shared {
            recording: Mutex::new(Recording::Head(Vec::new())),
            first_byte: Notify::new(),
        });
        (
            Self {
                io,
                shared: Arc::clone(&shared),
                seen_any: false,
            },
            Watch(shared),
        )
    }
}

impl Watch {
    /// The head of the request that hyper has just parsed.
    pub(super) fn take(&self) -> Head {
        let mut recording = self
            .0
            .recording
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *recording, Recording::Paused) {
            Recording::Complete(head) => Head(head),
            Recording::Head(start) if start.len() >= HEAD_BYTES_MAX => Head(start),
            Recording::Head(_) | Recording::Paused => Head::default(),
        }
    }

    /// What is read from here on is another head.
    pub(super) fn rearm(&self) {
        *self
            .0
            .recording
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Recording::Head(Vec::new());
    }

    /// Whether a first byte comes within `limit`.
    pub(super) async fn until_first_byte(&self, limit: Duration) -> bool {
        time::timeout(limit, self.0.first_byte.notified())
            .await
            .is_ok()
    }
}

impl Recording {
    fn feed(&mut self, bytes: &[u8]) {
        let Self::Head(head) = self else { return };
        // The end may straddle two reads.
        let searched = head.len().saturating_sub(END.len() - 1);
        head.extend_from_slice(
            &bytes[..bytes.len().min(HEAD_BYTES_MAX.saturating_sub(head.len()))],
        );
        let end = head[searched..]
            .windows(END.len())
            .position(|window| window == END);
        if let Some(end) = end {
            head.truncate(searched + end + END.len());
            *self = Self::Complete(std::mem::take(head));
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for HeadWatch<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        if !new.is_empty() {
            self.shared
                .recording
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .feed(new);
            if !self.seen_any {
                self.seen_any = true;
                self.shared.first_byte.notify_one();
            }
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for HeadWatch<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(reads: &[&[u8]]) -> Head {
        let (_, watch) = HeadWatch::new(tokio::io::empty());
        for read in reads {
            watch.0.recording.lock().unwrap().feed(read);
        }
        watch.take()
    }

    #[test]
    fn finds_fields_by_name_in_any_case() {
        let head = head(&[
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-LENGTH : 3\r\n\r\nTransfer-Encoding: chunked",
        ]);

        assert!(head.may_have("content-length"));
        assert!(head.may_have("host"));
        assert!(!head.may_have("transfer-encoding"), "that is the body");
    }

    #[test]
    fn the_end_may_straddle_reads() {
        let whole = b"GET / HTTP/1.1\r\nA: b\r\n\r\n";
        for cut in 0..whole.len() {
            let head = head(&[&whole[..cut], &whole[cut..]]);
            assert!(head.may_have("a"));
            assert!(!head.may_have("b"));
        }
    }

    #[test]
    fn a_head_over_the_limit_is_seen_although_hyper_takes_it() {
        let long = vec![b'x'; HEAD_BYTES_MAX];
        assert!(head(&[b"GET / HTTP/1.1\r\nA: ", &long, b"\r\n\r\n"]).is_too_large());
        assert!(!head(&[b"GET / HTTP/1.1\r\nA: b\r\n\r\n", &long]).is_too_large());
    }

    #[test]
    fn an_unseen_head_may_have_anything() {
        assert!(head(&[b"GET / HTTP/1.1\r\nA: b\r\n"]).may_have("x"));
    }
}
