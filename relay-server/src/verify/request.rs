//! The request as verification sees it, and how its parts are found.

use std::borrow::Cow;

use protocol::frame::Headers;

use super::refusal::Refusal;
use crate::json::Pointer;

/// A request under verification. All parts are as received; nothing is decoded in advance.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The method, as received.
    pub method: &'a str,
    /// The source's public URL as the provider knows it, followed by the raw rest of the path and
    /// the raw query.
    pub url: &'a str,
    /// All header fields in order.
    pub headers: &'a Headers,
    /// The body as it was on the wire, without transfer coding, content coding kept.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// The value of a header; a repeated header counts only if all its values are equal.
    pub(super) fn header(&self, name: &str) -> Result<Option<&'a [u8]>, Refusal> {
        let headers: &'a Headers = self.headers;
        let mut values = headers
            .0
            .iter()
            .filter(|(candidate, _)| candidate.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_ref());
        let first = values.next();
        if values.any(|other| Some(other) != first) {
            return Err(Refusal::Duplicate {
                what: format!("header:{name}"),
            });
        }
        Ok(first)
    }

    /// The raw query, without the question mark.
    pub(super) fn query(&self) -> &'a str {
        let url = self.url.split_once('#').map_or(self.url, |(url, _)| url);
        url.split_once('?').map_or("", |(_, query)| query)
    }

    /// The URL up to the query.
    pub(super) fn url_no_query(&self) -> &'a str {
        self.url.split(['?', '#']).next().unwrap_or_default()
    }

    /// The raw path of the URL.
    pub(super) fn path(&self) -> &'a str {
        let url = self.url_no_query();
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        rest.find('/').map_or("", |slash| &rest[slash..])
    }

    /// The first decoded value of a query parameter.
    pub(super) fn query_value(&self, name: &str) -> Option<Vec<u8>> {
        pairs(self.query().as_bytes())
            .find(|(key, _)| key == name.as_bytes())
            .map(|(_, value)| value)
    }

    /// The first decoded value of a field of a form: urlencoded, or multipart if the request says so.
    pub(super) fn form_value(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        if let Some(boundary) = self.multipart_boundary() {
            return multipart_field(self.body, &boundary, name).map(Cow::Borrowed);
        }
        pairs(self.body)
            .find(|(key, _)| key == name.as_bytes())
            .map(|(_, value)| Cow::Owned(value))
    }

    /// The scalar at a place of the JSON document; with `field`, the document is inside that field
    /// when the request carries a form.
    pub(super) fn json_text(&self, field: Option<&str>, pointer: &Pointer) -> Option<String> {
        pointer.text(&self.document(field)?)
    }

    pub(super) fn document(&self, field: Option<&str>) -> Option<Cow<'a, [u8]>> {
        match field {
            Some(field) if self.is_form() || self.multipart_boundary().is_some() => {
                self.form_value(field)
            }
            _ => Some(Cow::Borrowed(self.body)),
        }
    }

    pub(super) fn is_form(&self) -> bool {
        self.content_type()
            .starts_with(b"application/x-www-form-urlencoded")
    }

    fn content_type(&self) -> &'a [u8] {
        self.headers.get("content-type").unwrap_or_default()
    }

    fn multipart_boundary(&self) -> Option<Vec<u8>> {
        let content_type = std::str::from_utf8(self.content_type()).ok()?;
        let (kind, parameters) = content_type.split_once(';')?;
        if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
            return None;
        }
        let boundary = parameters.split(';').find_map(|parameter| {
            let (name, value) = parameter.trim().split_once('=')?;
            name.eq_ignore_ascii_case("boundary")
                .then(|| value.trim_matches('"'))
        })?;
        (!boundary.is_empty() && boundary.len() <= 70).then(|| format!("--{boundary}").into_bytes())
    }
}

/// Fields of an urlencoded text in order, decoded to bytes; invalid escapes stay as they are.
pub(super) fn pairs(text: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    text.split(|&byte| byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let mut halves = pair.splitn(2, |&byte| byte == b'=');
            let mut half = || decode(halves.next().unwrap_or_default());
            (half(), half())
        })
}

fn decode(text: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let mut decoded = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match (byte, digit(text.get(at)), digit(text.get(at + 1))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                at += 2;
            }
            (b'+', ..) => decoded.push(b' '),
            _ => decoded.push(byte),
        }
    }
    decoded
}

/// The content of the first part with this name. `delimiter` starts with `--`.
fn multipart_field<'b>(body: &'b [u8], delimiter: &[u8], name: &str) -> Option<&'b [u8]> {
    let mut rest = &body[find(body, delimiter)? + delimiter.len()..];
    let wanted = format!("name=\"{name}\"");
    loop {
        let part = rest.strip_prefix(b"\r\n")?;
        let head_len = find(part, b"\r\n\r\n")?;
        let content = &part[head_len + 4..];
        let content_len = find(content, &[b"\r\n", delimiter].concat())?;
        let named = std::str::from_utf8(&part[..head_len]).is_ok_and(|head| {
            head.lines().any(|line| {
                let mut pieces = line.split(';').map(str::trim);
                pieces.next().is_some_and(|first| {
                    first.eq_ignore_ascii_case("content-disposition: form-data")
                }) && pieces.any(|piece| piece == wanted)
            })
        });
        if named {
            return Some(&content[..content_len]);
        }
        rest = &content[content_len + 2 + delimiter.len()..];
    }
}

/// Where `needle` first occurs.
pub(super) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len().max(1))
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        let owned = |text: &str| bytes::Bytes::copy_from_slice(text.as_bytes());
        Headers(pairs.iter().map(|(n, v)| (owned(n), owned(v))).collect())
    }

    #[test]
    fn forms_decode_to_bytes() {
        let found: Vec<_> = pairs(b"a=1%2B+x&&b&c=%zz%f&%41=%ff=").collect();
        let expected: [(&[u8], &[u8]); 4] = [
            (b"a", b"1+ x"),
            (b"b", b""),
            (b"c", b"%zz%f"),
            (b"A", b"\xff="),
        ];
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!((found.0.as_slice(), found.1.as_slice()), expected);
        }
    }

    #[test]
    fn url_parts_stay_raw() {
        let headers = Headers::default();
        let request = |url| Request {
            method: "POST",
            url,
            headers: &headers,
            body: b"",
        };
        let full = request("https://u:p@h:8/a%20b/?x=1?2&y=%41#f");
        assert_eq!(full.path(), "/a%20b/");
        assert_eq!(full.query(), "x=1?2&y=%41");
        assert_eq!(full.url_no_query(), "https://u:p@h:8/a%20b/");
        assert_eq!(full.query_value("y").as_deref(), Some(b"A".as_slice()));
        assert_eq!(request("https://h").path(), "");
        assert_eq!(request("").query(), "");
    }

    #[test]
    fn a_multipart_field_is_found_between_its_delimiters() {
        let headers = headers(&[("Content-Type", "multipart/form-data; boundary=\"xX\"")]);
        let body = b"pre\r\n--xX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--xX\r\n\
            content-disposition: form-data; name=\"json\"; filename=\"j\"\r\nX: y\r\n\r\n{\"k\":2}\r\n--xX--\r\n";
        let request = Request {
            method: "POST",
            url: "",
            headers: &headers,
            body,
        };
        assert_eq!(
            request.form_value("json").as_deref(),
            Some(b"{\"k\":2}".as_slice())
        );
        assert_eq!(request.form_value("b"), None);
        for end in 0..body.len() {
            let _ = Request {
                body: &body[..end],
                ..request
            }
            .form_value("json");
        }
    }

    #[test]
    fn differing_duplicates_are_refused() {
        let twice = headers(&[("A", "1"), ("a", "1"), ("B", "1"), ("b", "2")]);
        let request = Request {
            method: "POST",
            url: "",
            headers: &twice,
            body: b"",
        };
        assert_eq!(request.header("a"), Ok(Some(b"1".as_slice())));
        assert!(matches!(
            request.header("b"),
            Err(Refusal::Duplicate { .. })
        ));
    }
}
