//! The request of an event as a command for a shell.

use std::fmt::Write as _;

use super::record::Record;
use http::header::HOST;

use crate::forward::{Place, request_headers};

/// A `curl` command that makes the same call again, headers of the relay included.
///
/// # Errors
///
/// Why there is none, for people.
pub(super) fn command(record: &Record) -> Result<String, String> {
    let body = record
        .body
        .as_ref()
        .ok_or("the body is too large to be kept here")?;
    let target = record.service.target();
    let uri = target
        .join(&record.offer.request.target)
        .map_err(|error| error.to_string())?;
    let headers = request_headers(&record.offer).map_err(|error| error.to_string())?;
    let mut command = format!(
        "curl -sS -i -X {}",
        quoted(record.offer.request.method.as_bytes())
    );
    if let Place::Unix { socket } = target.place() {
        let socket = quoted(socket.as_os_str().as_encoded_bytes());
        let _ = write!(command, " \\\n  --unix-socket {socket}");
    }
    let host = record.service.host().map(|host| (&HOST, host));
    for (name, value) in host.into_iter().chain(&headers) {
        // curl counts for itself.
        if name == http::header::CONTENT_LENGTH {
            continue;
        }
        let field = match value.as_bytes() {
            b"" => format!("{name};").into_bytes(),
            value => [name.as_str().as_bytes(), b": ", value].concat(),
        };
        let _ = write!(command, " \\\n  -H {}", quoted(&field));
    }
    if !body.is_empty() {
        if body.contains(&0) {
            return Err("the body holds a zero byte, which no argument can".to_owned());
        }
        // Unlike --data-binary it never reads a file.
        let _ = write!(command, " \\\n  --data-raw {}", quoted(body));
    }
    let _ = write!(command, " \\\n  {}", quoted(uri.to_string().as_bytes()));
    Ok(command)
}

/// One word of a POSIX shell: as it is, between single quotes, or with escapes that bash and zsh know.
fn quoted(bytes: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(byte);
    let is_control = |character: char| character.is_control() && character != '\n';
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(is_plain) => text.to_owned(),
        Ok(text) if !text.chars().any(is_control) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => {
            let escaped = bytes.iter().map(|&byte| match byte {
                b'\'' | b'\\' => format!("\\{}", char::from(byte)),
                b' '..=b'~' => char::from(byte).to_string(),
                _ => format!("\\x{byte:02x}"),
            });
            format!("$'{}'", escaped.collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, sync::Arc};

    use proptest::prelude::*;

    use super::{super::sample::record, *};
    use crate::{forward::Service, inbox::sample::lane};

    #[test]
    fn the_whole_request_is_there() {
        let command = command(&record(1, Some(200))).unwrap();
        assert!(command.starts_with("curl -sS -i -X POST \\\n"), "{command}");
        for part in [
            "-H 'x-github-event: push'",
            "-H 'hookferry-attempt: 1'",
            "--data-raw '{\"zen\":\"it'\\''s\"}'",
            "'http://localhost:3000/hook/a?a=1&b=2'",
        ] {
            assert!(command.contains(part), "{part} in {command}");
        }
    }

    #[test]
    fn a_socket_and_a_host_of_its_own_are_kept() {
        let mut record = record(1, Some(200));
        let mut lane = lane("unix:/run/app.sock:/hook");
        lane.host = Some(http::HeaderValue::from_static("app.corp"));
        record.service = Arc::new(Service::new(&lane, None, Default::default()));
        let command = command(&record).unwrap();
        for part in [
            "--unix-socket /run/app.sock",
            "-H 'host: app.corp'",
            "'http://localhost/hook/a?a=1&b=2'",
        ] {
            assert!(command.contains(part), "{part} in {command}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_reads_the_bytes_back(bytes in proptest::collection::vec(1_u8.., 1..40)) {
            let script = format!("printf %s {}", quoted(&bytes));
            // Only a shell with $'...' can say every byte.
            let Ok(output) = Command::new("bash").env("LC_ALL", "C").args(["-c", &script]).output() else {
                return Ok(());
            };
            prop_assert_eq!(output.stdout, bytes, "{}", script);
        }
    }
}
