//! A request as a text file: request line, header lines, an empty line, the raw body.

use protocol::frame::Headers;

use super::SignedRequest;

/// Reads a request; lines may end in LF or CRLF, the body is taken as it is. `public_url` replaces
/// the address that Host and the request line give.
///
/// # Errors
/// What is missing, in words.
pub fn parse(file: &[u8], public_url: Option<&str>) -> Result<SignedRequest, String> {
    let mut rest = file;
    let first = line(&mut rest).ok_or("the file is empty; start it with `POST /path HTTP/1.1`")?;
    let mut words = first.split(' ');
    let (method, target) = match (words.next(), words.next()) {
        (Some(method), Some(target)) if !method.is_empty() && !target.is_empty() => {
            (method.to_owned(), target.to_owned())
        }
        _ => return Err("the first line must be like `POST /path HTTP/1.1`".to_owned()),
    };
    let mut headers = Headers::default();
    loop {
        let text = line(&mut rest).ok_or("no empty line after the headers")?;
        if text.is_empty() {
            break;
        }
        let (name, value) = text
            .split_once(':')
            .ok_or("a header line has no `:`; is the empty line missing?")?;
        let pair = (
            name.trim().to_owned().into(),
            value.trim().to_owned().into(),
        );
        headers.0.push(pair);
    }
    let url = match public_url {
        Some(url) => match target.split_once('?') {
            Some((_, query)) if !url.contains('?') => format!("{url}?{query}"),
            _ => url.to_owned(),
        },
        None if target.contains("://") => target,
        None => {
            let host = headers.get("host").unwrap_or(b"localhost");
            format!("https://{}{target}", String::from_utf8_lossy(host))
        }
    };
    let body = rest.to_vec();
    Ok(SignedRequest {
        method,
        url,
        headers,
        body,
    })
}

/// The next line without its end; `None` at the end of the file. Bytes that are no UTF-8 become
/// replacement characters: no signature header holds them.
fn line(rest: &mut &[u8]) -> Option<String> {
    if rest.is_empty() {
        return None;
    }
    let end = rest
        .iter()
        .position(|&byte| byte == b'\n')
        .unwrap_or(rest.len());
    let (line, after) = rest.split_at(end);
    *rest = after.get(1..).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Some(String::from_utf8_lossy(line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_line_ends_give_the_same_request() {
        let text = "POST /in/k?a=1 HTTP/1.1\nHost: h.test\nX-A:  b \n\nbody\r\nline";
        let unix = parse(text.as_bytes(), None).unwrap();
        let head_end = text.find("body").unwrap();
        let dos = text[..head_end].replace('\n', "\r\n") + &text[head_end..];
        assert_eq!(parse(dos.as_bytes(), None).unwrap(), unix);
        assert_eq!(unix.url, "https://h.test/in/k?a=1");
        assert_eq!(unix.headers.get("x-a"), Some(b"b".as_slice()));
        assert_eq!(unix.body, b"body\r\nline");
        let moved = parse(text.as_bytes(), Some("https://p.test/x")).unwrap();
        assert_eq!(moved.url, "https://p.test/x?a=1");
        for broken in [
            "",
            "\n",
            "POST\n\n",
            "POST / HTTP/1.1\nX\n\n",
            "POST / HTTP/1.1\nA: b",
        ] {
            assert!(parse(broken.as_bytes(), None).is_err(), "{broken}");
        }
    }
}
