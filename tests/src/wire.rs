//! HTTP/1.1 messages as bytes. Written here rather than taken from a library, because a test must
//! send what a library refuses to send, and see what a library would hide.

use std::{fmt, io};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Header fields in the order of the wire, values as bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, Vec<u8>)>);

impl Headers {
    /// The first value of a field, whatever the case of its name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let same = |(other, _): &&(String, Vec<u8>)| other.eq_ignore_ascii_case(name);
        self.0.iter().find(same).map(|(_, value)| value.as_slice())
    }

    /// Every value of a field, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let same = move |(other, _): &&(String, Vec<u8>)| other.eq_ignore_ascii_case(name);
        self.0
            .iter()
            .filter(same)
            .map(|(_, value)| value.as_slice())
    }

    /// The first value of a field as text; empty if there is none.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(self.get(name).unwrap_or_default()).into_owned()
    }
}

/// An answer.
#[derive(Clone)]
pub struct Reply {
    /// Its status code.
    pub status: u16,
    /// Its header fields.
    pub headers: Headers,
    /// Its body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The id of the accepted event; fails the test unless the answer is 200 and names it twice.
    #[track_caller]
    pub fn accepted(&self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        let id = self.headers.text("hookferry-event-id");
        assert!(id.starts_with("evt_"), "{self:?}");
        assert_eq!(self.json()["id"], id.as_str());
        id
    }

    /// Fails the test unless the answer is a problem with this status and code.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.headers.text("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        assert_eq!(self.json()["code"], code, "{self:?}");
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.headers.0.iter();
        let fields =
            fields.map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)));
        write!(
            f,
            "{} {:?} {:?}",
            self.status,
            fields.collect::<Vec<_>>(),
            self.text()
        )
    }
}

/// Which kind of message is read: they differ in where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
}

/// A message with its first line.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) start: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// The first line as its words.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.start.split(' ')
    }

    /// The bytes on the wire, as who has read all of it sends it on: fields that belong to one
    /// connection are gone, and the length is told.
    pub(crate) fn forwarded(&self) -> Vec<u8> {
        const OF_THE_CONNECTION: [&str; 5] = [
            "connection",
            "upgrade",
            "transfer-encoding",
            "content-length",
            "proxy-authorization",
        ];
        let mut bytes = format!("{}\r\n", self.start).into_bytes();
        for (name, value) in &self.headers.0 {
            if !OF_THE_CONNECTION
                .iter()
                .any(|one| name.eq_ignore_ascii_case(one))
            {
                bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
            }
        }
        bytes.extend(format!("Content-Length: {}\r\n\r\n", self.body.len()).into_bytes());
        bytes.extend(&self.body);
        bytes
    }
}

/// Reads one message; `None` if the connection was closed before its first byte.
pub(crate) async fn read(
    stream: &mut (impl AsyncBufRead + Unpin),
    kind: Kind,
) -> io::Result<Option<Message>> {
    loop {
        let Some(start) = line(stream).await? else {
            return Ok(None);
        };
        let start = String::from_utf8_lossy(&start).into_owned();
        let headers = headers(stream).await?;
        if kind == Kind::Response && status(&start) == 100 {
            continue;
        }
        let body = body(stream, kind, &start, &headers).await?;
        return Ok(Some(Message {
            start,
            headers,
            body,
        }));
    }
}

/// Reads the start of an answer, without its body; `None` if the connection was closed without one.
pub(crate) async fn read_head(
    stream: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<Reply>> {
    let Some(start) = line(stream).await? else {
        return Ok(None);
    };
    Ok(Some(Reply {
        status: status(&String::from_utf8_lossy(&start)),
        headers: headers(stream).await?,
        body: Vec::new(),
    }))
}

/// Reads an answer; `None` if the connection was closed without one.
pub(crate) async fn read_reply(
    stream: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<Reply>> {
    let message = read(stream, Kind::Response).await?;
    Ok(message.map(
        |Message {
             start,
             headers,
             body,
         }| Reply {
            status: status(&start),
            headers,
            body,
        },
    ))
}

fn status(start: &str) -> u16 {
    start
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_default()
}

/// One line without its end; `None` at the end of the stream.
async fn line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    match line.as_slice() {
        [rest @ .., b'\r', b'\n'] => Ok(Some(rest.to_vec())),
        _ => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "a line without its end",
        )),
    }
}

async fn headers(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Headers> {
    let mut headers = Vec::new();
    loop {
        let line = line(stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(Headers(headers));
        }
        let colon = line
            .iter()
            .position(|&byte| byte == b':')
            .ok_or(io::ErrorKind::InvalidData)?;
        let name = String::from_utf8_lossy(&line[..colon]).into_owned();
        headers.push((name, line[colon + 1..].trim_ascii().to_vec()));
    }
}

async fn body(
    stream: &mut (impl AsyncBufRead + Unpin),
    kind: Kind,
    start: &str,
    headers: &Headers,
) -> io::Result<Vec<u8>> {
    if headers
        .text("transfer-encoding")
        .eq_ignore_ascii_case("chunked")
    {
        return chunks(stream).await;
    }
    let length = headers
        .get("content-length")
        .map(|value| String::from_utf8_lossy(value).parse::<usize>());
    let bodiless = kind == Kind::Request || matches!(status(start), 204 | 304);
    let mut body = Vec::new();
    match length {
        Some(length) => {
            body.resize(length.map_err(|_| io::ErrorKind::InvalidData)?, 0);
            stream.read_exact(&mut body).await?;
        }
        None if bodiless => {}
        None => {
            stream.read_to_end(&mut body).await?;
        }
    }
    Ok(body)
}

async fn chunks(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let chunk = chunk(stream).await?;
        if chunk.is_empty() {
            return Ok(body);
        }
        body.extend(chunk);
    }
}

/// The next chunk of a body; the last one is empty.
pub(crate) async fn chunk(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let size = line(stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let size = String::from_utf8_lossy(&size).into_owned();
    let size = usize::from_str_radix(&size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut chunk = vec![0; size];
    stream.read_exact(&mut chunk).await?;
    let end = line(stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    if !end.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(chunk)
}
