//! `send`: asks the relay for a test event. The relay makes and signs it, so that no secret of a
//! provider is needed here.

use std::{fmt, io::Read, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    args,
    config::{Environment, Reach},
    explain::{Code, Failure},
    link::{self, DialError, Dialer, for_people},
    tls::Tls,
};

/// The largest body read from a file or the standard input. The relay takes less than 1 MiB of JSON.
const DATA_BYTES_MAX: u64 = 1024 * 1024;

/// What the relay made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Sent {
    /// The id of the event.
    pub id: String,
    /// What its provider calls this kind of event.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    /// Whether it repeats an earlier event, and so is not delivered again.
    #[serde(default)]
    pub duplicate: bool,
    /// How many destinations it goes to.
    #[serde(default)]
    pub destinations: usize,
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event_type = self.event_type.as_deref().unwrap_or("an event");
        match (self.duplicate, self.destinations) {
            (true, _) => write!(
                f,
                "{event_type} was accepted before; nothing new is delivered"
            ),
            (_, 0) => write!(
                f,
                "sent {event_type}; no route of the source leads anywhere yet"
            ),
            (_, 1) => write!(f, "sent {event_type} to 1 destination"),
            (_, many) => write!(f, "sent {event_type} to {many} destinations"),
        }
    }
}

/// Sends one test event, and returns when the relay has it durably.
///
/// # Errors
///
/// A [`Failure`] that ends the command: exit code 3 if the relay does not accept the token, 4 for a
/// mistake of the configuration, 5 if the relay cannot be reached.
pub fn run(args: &args::Send, environment: &impl Environment) -> Result<Sent, Failure> {
    if args.link.token_stdin && args.data.as_deref() == Some("-") {
        let what = "--token-stdin and --data - both read the standard input";
        return Err(Failure::new(Code::ConfigValue, what).fix("use --token-file, or --data @FILE"));
    }
    let reach = Reach::load(&args.link, environment)?;
    let body = body(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(
                Code::Resources,
                format!("the system gives no thread: {error}"),
            )
        })?;
    let sent = runtime.block_on(ask(reach, body));
    // A name that still resolves must not hold up the end.
    runtime.shutdown_background();
    sent
}

/// What is asked of the relay.
fn body(args: &args::Send) -> Result<Value, Failure> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Option<String>| {
        body.extend(value.map(|value| (name.to_owned(), Value::from(value))));
    };
    set("source", Some(args.source.clone()));
    set("type", args.event.clone());
    set("content_type", args.content_type.clone());
    set("path", args.path.clone());
    match args
        .data
        .as_deref()
        .map(data)
        .transpose()?
        .map(String::from_utf8)
    {
        None => {}
        Some(Ok(text)) => set("body", Some(text)),
        Some(Err(binary)) => set(
            "body_base64",
            Some(BASE64_STANDARD.encode(binary.as_bytes())),
        ),
    }
    Ok(body.into())
}

fn data(text: &str) -> Result<Vec<u8>, Failure> {
    let read = match text.strip_prefix('@') {
        Some(path) => std::fs::File::open(Path::new(path)).and_then(read),
        None if text == "-" => read(std::io::stdin()),
        None => return Ok(text.as_bytes().to_vec()),
    };
    read.map_err(|error| Failure::new(Code::ConfigValue, format!("--data {text}: {error}")))
}

fn read(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(DATA_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > DATA_BYTES_MAX {
        let what = format!("it is longer than {DATA_BYTES_MAX} bytes");
        return Err(std::io::Error::other(what));
    }
    Ok(bytes)
}

async fn ask(reach: Reach, body: Value) -> Result<Sent, Failure> {
    let Reach { link, ca_file } = reach;
    let url = format!("{}/agent/v1/send", link.server);
    let during = |failure: Failure| failure.during(format!("sending a test event to {url}"));
    let tls = match link.needs_tls() {
        true => Some(Tls::new(ca_file.as_deref())?),
        false => None,
    };
    let relay_tls = link.tls_to_relay(tls.as_ref())?;
    let path = link.server.send_path();
    let dialer = Dialer::new(link, relay_tls, tls);
    let request = dialer
        .request(Method::POST, &path)
        .header(header::AUTHORIZATION, dialer.authorization())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(|error| Failure::new(Code::ConfigValue, format!("server: {error}")))?;
    let stream = dialer.open().await;
    let stream = stream.map_err(|error| during(error.failure()))?;
    match link::ask(stream, request).await {
        Ok(response) => understand(&response).map_err(during),
        Err(error) => Err(during(Failure::new(error.code(), error.to_string()))),
    }
}

/// The relay's answer, in our words.
fn understand(response: &Response<Option<Vec<u8>>>) -> Result<Sent, Failure> {
    let body = response.body().as_deref().unwrap_or_default();
    if response.status().is_success() {
        return serde_json::from_slice(body)
            .map_err(|_| Failure::new(Code::NotARelay, "what answered is no relay"));
    }
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| {
        problem
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (code, what) = (text("code"), for_people(text("detail")));
    match response.status() {
        StatusCode::NOT_FOUND if code == "E-NOT-FOUND" => {
            let what = "the relay has no such source in the tenant of this token";
            Err(Failure::new(Code::UnknownSource, what))
        }
        status
            if status.is_client_error() && code.starts_with("E-") && is_about_the_test(status) =>
        {
            let what = if what.is_empty() {
                for_people(text("title"))
            } else {
                what
            };
            Err(Failure::new(Code::SendRefused, what))
        }
        _ => Err(DialError::from_response(response).failure()),
    }
}

/// Refusals of the test itself, rather than of the token or for lack of room.
fn is_about_the_test(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::CONFLICT
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;

    use super::*;

    fn args(flags: &[&str]) -> args::Send {
        let command = ["relay-agent", "send", "stripe"];
        let parsed = args::Args::try_parse_from(command.iter().chain(flags)).unwrap();
        let args::Command::Send(args) = parsed.command else {
            panic!("another command");
        };
        args
    }

    #[test]
    fn what_is_asked_of_the_relay() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"\xff\x00").unwrap();
        let from_file = format!("@{}", file.path().display());
        let cases = [
            (&[][..], json!({"source": "stripe"})),
            (
                &["--event", "a.b", "--path", "/x"],
                json!({"source": "stripe", "type": "a.b", "path": "/x"}),
            ),
            (&["--data", "{}"], json!({"source": "stripe", "body": "{}"})),
            (
                &["--data", &from_file],
                json!({"source": "stripe", "body_base64": "/wA="}),
            ),
        ];
        for (flags, expected) in cases {
            assert_eq!(body(&args(flags)).unwrap(), expected, "{flags:?}");
        }
        let missing = body(&args(&["--data", "@/nowhere"])).unwrap_err();
        assert_eq!(missing.code, Code::ConfigValue);
    }

    #[test]
    fn answers_of_the_relay() {
        let problem = |code: &str| json!({"code": code, "title": "t", "detail": "d"}).to_string();
        let cases = [
            (401, problem("E-UNAUTHORISED"), Code::Unauthorised),
            (403, problem("E-FORBIDDEN"), Code::Forbidden),
            (404, problem("E-NOT-FOUND"), Code::UnknownSource),
            (404, problem("E-SOURCE-UNKNOWN"), Code::NotARelay),
            (404, "<html>".to_owned(), Code::NotARelay),
            (409, problem("E-CONFLICT"), Code::SendRefused),
            (422, problem("E-INVALID"), Code::SendRefused),
            (429, problem("E-RATE"), Code::RelayBusy),
            (503, problem("E-STORE-FULL"), Code::RelayBusy),
            (200, "<html>".to_owned(), Code::NotARelay),
        ];
        for (status, body, expected) in cases {
            let response = Response::builder().status(status);
            let response = response.body(Some(body.into_bytes())).unwrap();
            let failure = understand(&response).unwrap_err();
            assert_eq!(failure.code, expected, "{status}");
        }
        let made = json!({"id": "evt_1", "type": "x", "duplicate": false, "destinations": 1});
        let response = Response::new(Some(made.to_string().into_bytes()));
        let sent = understand(&response).unwrap();
        assert_eq!(
            (sent.id.as_str(), sent.to_string().as_str()),
            ("evt_1", "sent x to 1 destination")
        );
    }
}
