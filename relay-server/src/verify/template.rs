//! What a signature is computed over, and other texts made of parts of a request.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::digest::{SHA256, digest};

use super::{
    refusal::Refusal,
    request::{Request, pairs},
};
use crate::json::Pointer;

/// Text with holes, such as `v0:{timestamp}:{body}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(pub(super) Vec<Part>);

/// One piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(Vec<u8>),
    Body,
    Timestamp,
    Method,
    Url,
    UrlNoQuery,
    Path,
    Secret,
    Var(String),
    From(Place),
    Crc32,
    BodyMd5Base64,
    BodySha256Raw,
    BodySha256Hex,
    FormSortedDedup,
    FormSorted,
    QuerySorted,
}

/// A named place in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Header(String),
    Json(Pointer, String),
    Query(String),
    Form(String),
}

impl Place {
    /// Parses `header:X`, `json:/pointer`, `query:x` or `form:x`.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            _ if rest.is_empty() => Err("name the place, as in `header:X-Signature`"),
            "header" => Ok(Self::Header(rest.to_owned())),
            "query" => Ok(Self::Query(rest.to_owned())),
            "form" => Ok(Self::Form(rest.to_owned())),
            "json" => Pointer::parse(rest)
                .map(|pointer| Self::Json(pointer, rest.to_owned()))
                .ok_or("start the JSON pointer with `/`"),
            _ => Err("use header:, json:, query: or form:"),
        }
    }

    /// The value here; `json_field` is where a form carries the JSON document.
    pub(super) fn value<'a>(
        &self,
        request: &Request<'a>,
        json_field: Option<&str>,
    ) -> Result<Option<Cow<'a, [u8]>>, Refusal> {
        Ok(match self {
            Self::Header(name) => request.header(name)?.map(Cow::Borrowed),
            Self::Json(pointer, _) => request
                .json_text(json_field, pointer)
                .map(|text| Cow::Owned(text.into_bytes())),
            Self::Query(name) => request.query_value(name).map(Cow::Owned),
            Self::Form(name) => request.form_value(name),
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Json(_, pointer) => write!(f, "json:{pointer}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Form(name) => write!(f, "form:{name}"),
        }
    }
}

/// Everything a template may draw from.
pub(super) struct Scope<'a> {
    pub(super) request: &'a Request<'a>,
    /// The URL as the provider may have written it.
    pub(super) url: &'a str,
    pub(super) timestamp: Option<&'a str>,
    pub(super) secret: Option<&'a [u8]>,
    /// Where a form carries the JSON document.
    pub(super) json_field: Option<&'a str>,
    pub(super) missing_as_empty: bool,
}

impl Template {
    /// Parses text with `{holes}`; other braces are text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, hole)) = rest.split_once('{') {
            let Some((name, after)) = hole.split_once('}') else {
                return Err("a `{` without its `}`".to_owned());
            };
            if !before.is_empty() {
                parts.push(Part::Text(before.as_bytes().to_vec()));
            }
            parts.push(part(name)?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.as_bytes().to_vec()));
        }
        Ok(Self(parts))
    }

    pub(super) fn uses(&self, wanted: &Part) -> bool {
        self.0.contains(wanted)
    }

    /// Puts the values of settings into their holes; the name of the first missing one on failure.
    pub(super) fn bind(&mut self, vars: &BTreeMap<String, String>) -> Result<(), String> {
        for part in &mut self.0 {
            if let Part::Var(name) = part {
                let value = vars.get(name).ok_or_else(|| name.clone())?;
                *part = Part::Text(value.as_bytes().to_vec());
            }
        }
        Ok(())
    }

    /// Hands the text over piece by piece, so that a large body is never copied.
    pub(super) fn feed(
        &self,
        scope: &Scope<'_>,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Refusal> {
        let body = scope.request.body;
        for part in &self.0 {
            match part {
                Part::Text(text) => sink(text),
                Part::Body => sink(body),
                Part::Timestamp => match scope.timestamp {
                    Some(timestamp) => sink(timestamp.as_bytes()),
                    None => return Err(Refusal::missing("timestamp")),
                },
                Part::Method => sink(scope.request.method.as_bytes()),
                Part::Url => sink(scope.url.as_bytes()),
                Part::UrlNoQuery => sink(scope.request.url_no_query().as_bytes()),
                Part::Path => sink(scope.request.path().as_bytes()),
                Part::Secret => sink(scope.secret.ok_or(Refusal::NoSecret)?),
                Part::Var(name) => return Err(Refusal::missing(format!("setting {name}"))),
                Part::From(place) => match place.value(scope.request, scope.json_field)? {
                    Some(value) => sink(&value),
                    None if scope.missing_as_empty => {}
                    None => return Err(Refusal::missing(place.to_string())),
                },
                Part::Crc32 => sink(crc32(body).to_string().as_bytes()),
                Part::BodyMd5Base64 if body.is_empty() => {}
                Part::BodyMd5Base64 => {
                    let digest = <md5::Md5 as md5::Digest>::digest(body);
                    sink(BASE64_STANDARD.encode(digest).as_bytes());
                }
                Part::BodySha256Raw => sink(digest(&SHA256, body).as_ref()),
                Part::BodySha256Hex => sink(hex::encode(digest(&SHA256, body)).as_bytes()),
                Part::FormSortedDedup => form_sorted_dedup(scope.request, sink),
                Part::FormSorted => form_sorted(scope.request, sink),
                Part::QuerySorted => sink(query_sorted(scope.request.query()).as_bytes()),
            }
        }
        Ok(())
    }

    /// The text in one piece.
    pub(super) fn render(&self, scope: &Scope<'_>) -> Result<Vec<u8>, Refusal> {
        let mut text = Vec::new();
        self.feed(scope, &mut |piece| text.extend_from_slice(piece))?;
        Ok(text)
    }
}

fn part(name: &str) -> Result<Part, String> {
    Ok(match name {
        "body" => Part::Body,
        "timestamp" => Part::Timestamp,
        "method" => Part::Method,
        "url" => Part::Url,
        "url_no_query" => Part::UrlNoQuery,
        "path" => Part::Path,
        "secret" => Part::Secret,
        "crc32" => Part::Crc32,
        "body_md5_base64" => Part::BodyMd5Base64,
        "body_sha256_raw" => Part::BodySha256Raw,
        "body_sha256_hex" => Part::BodySha256Hex,
        "form_sorted_dedup" => Part::FormSortedDedup,
        "form_sorted" => Part::FormSorted,
        "query_sorted_urlencoded" => Part::QuerySorted,
        _ => match name.split_once(':') {
            Some(("const", text)) => Part::Text(text.as_bytes().to_vec()),
            Some(("var", name)) if !name.is_empty() => Part::Var(name.to_owned()),
            _ => match Place::parse(name) {
                Ok(place) => Part::From(place),
                Err(hint) => return Err(format!("`{{{name}}}` is not a known hole: {hint}")),
            },
        },
    })
}

/// Twilio: names in byte order, each with its values in byte order, equal values once. Other bodies
/// than forms add nothing.
fn form_sorted_dedup(request: &Request<'_>, sink: &mut dyn FnMut(&[u8])) {
    if !request.is_form() {
        return;
    }
    let mut fields: Vec<_> = pairs(request.body).collect();
    fields.sort();
    fields.dedup();
    for (name, value) in &fields {
        sink(name);
        sink(value);
    }
}

/// Mandrill: names in byte order, the last value of each.
fn form_sorted(request: &Request<'_>, sink: &mut dyn FnMut(&[u8])) {
    let fields: BTreeMap<_, _> = pairs(request.body).collect();
    for (name, value) in &fields {
        sink(name);
        sink(value);
    }
}

fn query_sorted(query: &str) -> String {
    let mut fields: Vec<_> = pairs(query.as_bytes()).collect();
    fields.sort();
    let fields = fields
        .iter()
        .map(|(name, value)| format!("{}={}", urlencode(name), urlencode(value)));
    fields.collect::<Vec<_>>().join("&")
}

/// `application/x-www-form-urlencoded` with the unreserved characters of RFC 3986 left alone.
pub(super) fn urlencode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'.' | b'-' | b'~' => {
                text.push(char::from(byte));
            }
            b' ' => text.push('+'),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// CRC-32 as in zlib (not the Castagnoli polynomial).
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = (value >> 1) ^ (0xedb8_8320 * (value & 1));
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, &byte| {
        (crc >> 8) ^ TABLE[((crc ^ u32::from(byte)) & 0xff) as usize]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_is_the_one_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn holes_are_checked() {
        assert!(Template::parse("{body}.{header:X}-{json:/a}").is_ok());
        for wrong in ["{", "{nobody}", "{header:}", "{json:a}", "{var:}", "{}"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn queries_are_sorted_and_encoded_again() {
        assert_eq!(
            query_sorted("b=2&a=x+y&a=%c3%a4~&c"),
            "a=x+y&a=%C3%A4~&b=2&c="
        );
    }
}
