//! In which order the deliveries of a destination are made.
//!
//! An ordered destination makes the deliveries of one key one after the other, in the order in which
//! their events were accepted; other keys go on meanwhile. `fifo` is the same with one key for
//! everything. An event without the key a destination asks for belongs to that one key too: a
//! setting that finds nothing makes a destination slow and visibly so, but never loses the order.

use std::{fmt, str::FromStr};

use protocol::frame::Headers;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::json::Pointer;

/// The longest place of a key, in bytes.
const PLACE_BYTES_MAX: usize = 256;

/// The readable form of a key, in bytes.
pub const KEY_TEXT_BYTES_MAX: usize = 64;

/// In which order a destination's deliveries are made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Order {
    /// As soon as possible, side by side.
    #[default]
    None,
    /// One after the other.
    Fifo,
    /// One after the other where the key is the same.
    Key(KeyPlace),
}

/// Where the key of an event stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPlace {
    /// In the first header of this name.
    Header(String),
    /// At this JSON pointer into the body.
    Body(Box<BodyPlace>),
}

/// A JSON pointer with the text it was written as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyPlace {
    text: String,
    pointer: Pointer,
}

/// A text that names no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOrder {
    /// None of the forms.
    #[error("must be none, fifo, key:/JSON/POINTER or key:header:NAME")]
    Form,
    /// A JSON pointer that cannot be one.
    #[error(
        "`{0}` is not a JSON pointer: write it as /data/object/id, with ~1 for / and ~0 for ~ inside a name"
    )]
    Pointer(String),
    /// A name that no header has.
    #[error("`{0}` is not the name of a header")]
    Header(String),
    /// More than anybody needs.
    #[error("a key's place has at most {PLACE_BYTES_MAX} bytes")]
    Long,
}

impl Order {
    /// What an event is ordered by; `None` where nothing is ordered.
    pub fn key_of(&self, headers: &Headers, body: &[u8]) -> Option<OrderKey> {
        match self {
            Self::None => None,
            Self::Fifo => Some(OrderKey::common()),
            Self::Key(KeyPlace::Header(name)) => {
                Some(OrderKey::new(headers.get(name).unwrap_or_default()))
            }
            Self::Key(KeyPlace::Body(place)) => {
                let found = place.pointer.text(body).unwrap_or_default();
                Some(OrderKey::new(found.as_bytes()))
            }
        }
    }

    /// Whether deliveries wait for one another.
    pub fn is_ordered(&self) -> bool {
        *self != Self::None
    }
}

impl FromStr for Order {
    type Err = InvalidOrder;

    fn from_str(text: &str) -> Result<Self, InvalidOrder> {
        match text {
            "none" => return Ok(Self::None),
            "fifo" => return Ok(Self::Fifo),
            _ => {}
        }
        let place = text.strip_prefix("key:").ok_or(InvalidOrder::Form)?;
        if place.len() > PLACE_BYTES_MAX {
            return Err(InvalidOrder::Long);
        }
        if let Some(name) = place.strip_prefix("header:") {
            return match http::HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => Ok(Self::Key(KeyPlace::Header(name.as_str().to_owned()))),
                Err(_) => Err(InvalidOrder::Header(name.to_owned())),
            };
        }
        let invalid = || InvalidOrder::Pointer(place.to_owned());
        let escapes_well = place
            .split('~')
            .skip(1)
            .all(|rest| rest.starts_with(['0', '1']));
        let pointer = Pointer::parse(place)
            .filter(|_| escapes_well)
            .ok_or_else(invalid)?;
        let text = place.to_owned();
        Ok(Self::Key(KeyPlace::Body(Box::new(BodyPlace {
            text,
            pointer,
        }))))
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Fifo => f.write_str("fifo"),
            Self::Key(KeyPlace::Header(name)) => write!(f, "key:header:{name}"),
            Self::Key(KeyPlace::Body(place)) => write!(f, "key:{}", place.text),
        }
    }
}

impl TryFrom<String> for Order {
    type Error = InvalidOrder;

    fn try_from(text: String) -> Result<Self, InvalidOrder> {
        text.parse()
    }
}

impl From<Order> for String {
    fn from(order: Order) -> Self {
        order.to_string()
    }
}

/// What happens to a key when the delivery at its head ends dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDead {
    /// The next one is delivered.
    #[default]
    Continue,
    /// The key stops until somebody resumes it.
    Park,
}

/// The key of an ordered delivery: a digest that compares, and the beginning of its text for people.
#[derive(Clone, PartialEq, Eq)]
pub struct OrderKey {
    /// What tells keys of a destination apart.
    pub digest: KeyDigest,
    /// The beginning of the key, readable. Empty for the common key.
    pub text: Box<str>,
}

impl OrderKey {
    /// The key of everything that has none.
    pub fn common() -> Self {
        Self::new(b"")
    }

    /// The key with this value.
    pub fn new(value: &[u8]) -> Self {
        Self {
            digest: KeyDigest::of(value),
            text: readable(value).into(),
        }
    }
}

/// The text comes from a body or a header, which no log may show.
impl fmt::Debug for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.digest)
    }
}

/// The beginning of a key without what would upset a terminal.
fn readable(value: &[u8]) -> String {
    let start = &value[..value.len().min(KEY_TEXT_BYTES_MAX)];
    let cut = start.len() < value.len();
    let text = String::from_utf8_lossy(start);
    let plain = |letter: char| {
        if letter.is_control() {
            '\u{fffd}'
        } else {
            letter
        }
    };
    let mut readable = String::new();
    for letter in text.chars().map(plain) {
        if readable.len() + letter.len_utf8()
            > KEY_TEXT_BYTES_MAX - '…'.len_utf8() * usize::from(cut)
        {
            break;
        }
        readable.push(letter);
    }
    if cut {
        readable.push('…');
    }
    readable
}

/// 64 bits of a key's SHA-256. Two keys that share them are ordered as one: harmless, and nobody's gain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDigest(pub u64);

impl KeyDigest {
    /// The digest of a key's value.
    pub fn of(value: &[u8]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(value));
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key_{:016x}", self.0)
    }
}

impl FromStr for KeyDigest {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix("key_").ok_or(())?;
        if digits.len() != 16 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(());
        }
        u64::from_str_radix(digits, 16).map(Self).map_err(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn order(text: &str) -> Order {
        text.parse().unwrap()
    }

    #[test]
    fn an_order_is_written_as_it_is_read() {
        for text in [
            "none",
            "fifo",
            "key:/data/object/id",
            "key:/",
            "key:/a~1b/~0/0",
            "key:header:x-account",
        ] {
            assert_eq!(order(text).to_string(), text);
            let json = serde_json::to_string(&order(text)).unwrap();
            assert_eq!(serde_json::from_str::<Order>(&json).unwrap(), order(text));
        }
        assert_eq!(order("key:header:X-Account"), order("key:header:x-account"));
    }

    #[test]
    fn what_cannot_be_an_order_is_refused_with_the_place() {
        use InvalidOrder::{Form, Header, Long, Pointer};
        let long = format!("key:/{}", "a".repeat(PLACE_BYTES_MAX));
        for (text, expected) in [
            ("", Form),
            ("FIFO", Form),
            ("/data/id", Form),
            ("key:", Pointer(String::new())),
            ("key:data.id", Pointer("data.id".to_owned())),
            ("key:/a~2", Pointer("/a~2".to_owned())),
            ("key:/a~", Pointer("/a~".to_owned())),
            ("key:header:", Header(String::new())),
            ("key:header:a b", Header("a b".to_owned())),
            (&long, Long),
        ] {
            assert_eq!(text.parse::<Order>(), Err(expected), "{text}");
        }
    }

    #[track_caller]
    fn check(text: &str, body: &str, expected: Option<&str>) {
        let value = |value: &'static [u8]| Bytes::from_static(value);
        let headers = Headers(vec![
            (value(b"X-Account"), value(b"first")),
            (value(b"x-account"), value(b"second")),
            (value(b"x-binary"), value(b"\xff\x00")),
        ]);
        let found = order(text).key_of(&headers, body.as_bytes());
        assert_eq!(
            found,
            expected.map(|key| OrderKey::new(key.as_bytes())),
            "{text}"
        );
    }

    #[test]
    fn the_key_is_what_stands_at_its_place() {
        let body =
            r#"{"data":{"object":{"id":"cus_1","no":42}},"a/b":true,"gone":null,"list":[7]}"#;

        check("none", body, None);
        check("fifo", body, Some(""));
        check("key:/data/object/id", body, Some("cus_1"));
        check("key:/data/object/no", body, Some("42"));
        check(
            "key:/data/object/no",
            r#"{"data":{"object":{"no":"42"}}}"#,
            Some("42"),
        );
        check("key:/a~1b", body, Some("true"));
        check("key:/list/0", body, Some("7"));
        check("key:header:x-account", body, Some("first"));
    }

    #[test]
    fn what_has_no_key_shares_the_common_one() {
        for body in [
            r#"{"gone":null}"#,
            r#"{"gone":{}}"#,
            r#"{"gone":""}"#,
            "{",
            "",
            "\u{0}",
        ] {
            check("key:/gone", body, Some(""));
        }
        check("key:header:x-missing", "", Some(""));
        assert_eq!(OrderKey::common(), OrderKey::new(b""));
    }

    #[test]
    fn a_key_is_readable_and_bounded() {
        let text = |value: &[u8]| OrderKey::new(value).text.into_string();
        assert_eq!(text(b"cus_1"), "cus_1");
        assert_eq!(text(b"a\x1b[31m\n"), "a\u{fffd}[31m\u{fffd}");
        assert_eq!(text(b"\xff"), "\u{fffd}");
        let long = "ä".repeat(1000);
        assert!(text(long.as_bytes()).ends_with("ä…"));
        for bytes in [
            &b"\xff".repeat(64)[..],
            &b"x".repeat(64),
            &b"x".repeat(65),
            long.as_bytes(),
        ] {
            assert!(text(bytes).len() <= KEY_TEXT_BYTES_MAX);
        }
        assert_eq!(text(&b"x".repeat(64)).len(), 64);
        assert_ne!(
            OrderKey::new(&b"x".repeat(65)),
            OrderKey::new(&b"x".repeat(66))
        );
        let shown = format!("{:?}", OrderKey::new(b"secret"));
        assert!(
            !shown.contains("secret") && shown.starts_with("key_"),
            "{shown}"
        );
    }

    #[test]
    fn a_digest_is_written_as_it_is_read() {
        let digest = KeyDigest::of(b"cus_1");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for text in [
            "",
            "key_",
            "key_0",
            "key_+00000000000000f",
            "cus_1",
            "key_00000000000000001",
        ] {
            assert!(text.parse::<KeyDigest>().is_err(), "{text}");
        }
    }
}
