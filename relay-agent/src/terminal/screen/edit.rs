//! The request of an event as a text that can be edited, and back.
//!
//! ```text
//! POST /path?query
//! content-type: application/json
//!
//! {"a":1}
//! ```

use std::{
    io::{self, Read, Write},
    process::Command,
};

use bytes::Bytes;
use protocol::frame::{Headers, Offer};

/// A text longer than this is no request that somebody edited, in bytes.
const TEXT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Writes a request down. `None` if it holds what no text can, so that nothing is changed in silence.
pub(super) fn to_text(offer: &Offer, body: &Bytes) -> Option<String> {
    let request = &offer.request;
    let mut text = format!("{} {}\n", request.method, request.target);
    for (name, value) in &request.headers.0 {
        let (name, value) = (
            std::str::from_utf8(name).ok()?,
            std::str::from_utf8(value).ok()?,
        );
        text.push_str(&format!("{name}: {value}\n"));
    }
    text.push('\n');
    text.push_str(std::str::from_utf8(body).ok()?);
    Some(text)
}

/// Reads it back into a copy of the offer.
///
/// # Errors
///
/// What is wrong, with the line.
pub(super) fn from_text(text: &str, offer: &Offer) -> Result<(Box<Offer>, Bytes), String> {
    let (first, mut rest) = text.split_once('\n').unwrap_or((text, ""));
    let (method, target) = first
        .trim_end()
        .split_once(' ')
        .unwrap_or((first.trim_end(), ""));
    if method.is_empty()
        || !method
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return Err(
            "line 1: expected a method, a space, and the path below the source's URL".to_owned(),
        );
    }
    let mut headers = Vec::new();
    for number in 2.. {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let is_last = !rest.contains('\n');
        rest = after;
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            break;
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| format!("line {number}: expected a header field, name: value"))?;
        headers.push((
            Bytes::from(name.to_owned()),
            Bytes::from(value.trim().to_owned()),
        ));
        if is_last {
            break;
        }
    }
    let body = Bytes::from(rest.to_owned());
    let mut edited = Box::new(offer.clone());
    edited.request.method = method.to_owned();
    edited.request.target = target.trim().to_owned();
    edited.request.headers = Headers(headers);
    edited.body_bytes = body.len() as u64;
    Ok((edited, body))
}

/// Lets a person change a text in `$VISUAL`, `$EDITOR` or `vi`. `None` if it came back unchanged.
///
/// # Errors
///
/// The editor cannot be run, or failed.
pub(super) fn in_editor(text: &str) -> io::Result<Option<String>> {
    let editor = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| {
            std::env::var(name)
                .ok()
                .filter(|editor| !editor.trim().is_empty())
        })
        .unwrap_or_else(|| "vi".to_owned());
    // A name that nobody can guess, readable by this user only: the request is nobody else's business.
    let path = std::env::temp_dir().join(format!("hookferry-{:032x}.http", rand::random::<u128>()));
    let guard = Removed(&path);
    private(&path)?.write_all(text.as_bytes())?;
    let mut words = editor.split_whitespace();
    let status = Command::new(words.next().unwrap_or("vi"))
        .args(words)
        .arg(&path)
        .status()?;
    if !status.success() {
        return Err(io::Error::other(format!(
            "the editor {editor:?} ended with {status}"
        )));
    }
    let mut edited = String::new();
    std::fs::File::open(&path)?
        .take(TEXT_BYTES_MAX)
        .read_to_string(&mut edited)?;
    drop(guard);
    Ok((edited != text).then_some(edited))
}

fn private(path: &std::path::Path) -> io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

struct Removed<'a>(&'a std::path::Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        // It holds a request; if it cannot be removed there is nobody left to tell.
        let _ = std::fs::remove_file(self.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::sample::record, *};

    #[test]
    fn what_is_not_changed_comes_back() {
        let record = record(1, Some(200));
        let body = record.body.clone().unwrap();
        let text = to_text(&record.offer, &body).unwrap();
        let (offer, read) = from_text(&text, &record.offer).unwrap();
        assert_eq!(read, body);
        assert_eq!(offer.request, record.offer.request);
    }

    #[test]
    fn mistakes_name_the_line() {
        let offer = record(1, None).offer;
        for (text, expected) in [
            ("", "line 1"),
            ("P(ST /a\n\n", "line 1"),
            ("POST /a\nx: 1\nbroken\n\n", "line 3"),
        ] {
            assert!(
                from_text(text, &offer).unwrap_err().contains(expected),
                "{text:?}"
            );
        }
        let (offer, body) = from_text("PUT /b?x\nA:b", &offer).unwrap();
        assert_eq!(
            (offer.request.method.as_str(), offer.request.target.as_str()),
            ("PUT", "/b?x")
        );
        assert_eq!(offer.request.headers.get("a"), Some(&b"b"[..]));
        assert!(body.is_empty());
    }

    #[test]
    fn bytes_that_are_no_text_are_not_edited() {
        let offer = record(1, None).offer;
        assert!(to_text(&offer, &Bytes::from_static(b"\xff")).is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}", body in "[ -~\n]{0,40}") {
            let offer = record(1, None).offer;
            let _ = from_text(&text, &offer);
            let (_, read) = from_text(&format!("POST /a\nx: y\n\n{body}"), &offer).unwrap();
            prop_assert_eq!(read, body.as_bytes());
        }
    }
}
