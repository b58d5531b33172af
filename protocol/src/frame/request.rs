//! The webhook as it is relayed.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeSeq};

/// Header fields in the order they were received, repeats kept.
///
/// On the wire a list of `[name, value]` pairs. A value is bytes, not text; each byte becomes the
/// character of the same number (ISO 8859-1), so that any value survives JSON unchanged.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(Bytes, Bytes)>);

impl Headers {
    /// The first value of a header, by name in any case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(candidate, _)| candidate.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_ref())
    }

    /// Every value of a header in order, by name in any case.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |(candidate, _)| candidate.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_ref())
    }

    /// Names and values together, in bytes.
    pub fn bytes_len(&self) -> usize {
        self.0
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }

    /// Drops every field with which names and values together would exceed this many bytes.
    pub fn clip(&mut self, bytes_max: usize) {
        let mut bytes = 0;
        self.0.retain(|(name, value)| {
            let fits = name.len() + value.len() <= bytes_max - bytes;
            if fits {
                bytes += name.len() + value.len();
            }
            fits
        });
    }
}

/// Names only: values hold signatures and credentials.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut pairs = serializer.serialize_seq(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            pairs.serialize_element(&(latin1(name), latin1(value)))?;
        }
        pairs.end()
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = Vec::<(String, String)>::deserialize(deserializer)?;
        let pairs = pairs
            .into_iter()
            .map(|(name, value)| Some((bytes(name)?, bytes(value)?)));
        match pairs.collect() {
            Some(pairs) => Ok(Self(pairs)),
            None => Err(de::Error::custom("a header holds a character above U+00FF")),
        }
    }
}

/// ASCII is borrowed; anything else is widened byte by byte.
fn latin1(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => text.into(),
        _ => bytes
            .iter()
            .map(|&byte| char::from(byte))
            .collect::<String>()
            .into(),
    }
}

fn bytes(text: String) -> Option<Bytes> {
    if text.is_ascii() {
        return Some(text.into());
    }
    text.chars()
        .map(|character| u8::try_from(character).ok())
        .collect::<Option<Vec<u8>>>()
        .map(Bytes::from)
}

/// Everything of a request but its body.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestHead {
    /// The method, as received.
    pub method: String,
    /// The path below the source's URL and the query, exactly as received: empty, or starting with `/` or `?`.
    pub target: String,
    /// All header fields the relay received, hop-by-hop ones included; the agent removes those.
    pub headers: Headers,
}

/// Without the target: queries hold secrets.
impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}
