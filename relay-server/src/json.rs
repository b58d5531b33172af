//! One value out of a JSON document without building the document.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// An RFC 6901 JSON pointer, split into its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pointer(Vec<String>);

impl Pointer {
    /// Parses `/a/0/b`; `None` unless it starts with `/`. A `~` that escapes nothing stands for itself.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let steps = text.strip_prefix('/')?;
        let unescape = |step: &str| step.replace("~1", "/").replace("~0", "~");
        Some(Self(steps.split('/').map(unescape).collect()))
    }

    /// The unescaped steps.
    pub(crate) fn steps(&self) -> &[String] {
        &self.0
    }

    /// The scalar at this place as text: a string unescaped, a number or boolean as written.
    ///
    /// `None` when the document is no JSON or has nothing, null, an object or an array there. Of a
    /// repeated key the last one counts, as in most parsers.
    pub(crate) fn text(&self, document: &[u8]) -> Option<String> {
        let raw = self.raw(document)?.get();
        match raw.as_bytes().first()? {
            b'"' => serde_json::from_str(raw).ok(),
            b'n' | b'{' | b'[' => None,
            _ => Some(raw.to_owned()),
        }
    }

    /// Whether anything but null is at this place.
    pub(crate) fn is_present(&self, document: &[u8]) -> bool {
        self.raw(document).is_some_and(|raw| raw.get() != "null")
    }

    fn raw<'d>(&self, document: &'d [u8]) -> Option<&'d RawValue> {
        let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
        let mut deserializer = serde_json::Deserializer::from_slice(document);
        let found = Step(&self.0).deserialize(&mut deserializer).ok()?;
        deserializer.end().ok()?;
        found
    }
}

/// The rest of a pointer, applied to the value that comes next.
struct Step<'p>(&'p [String]);

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            serde::Deserialize::deserialize(deserializer).map(Some)
        } else {
            deserializer.deserialize_any(self)
        }
    }
}

/// A scalar where the pointer expects a container holds nothing.
macro_rules! nothing {
    ($($visit:ident: $kind:ty),+) => {
        $(fn $visit<E>(self, _: $kind) -> Result<Self::Value, E> { Ok(None) })+
    };
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    nothing!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let Some((first, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        while let Some(wanted) = map.next_key_seed(KeyIs(first))? {
            if wanted {
                found = map.next_value_seed(Step(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let (first, rest) = match self.0.split_first() {
            Some((first, rest)) => (first.parse::<usize>().ok(), rest),
            None => (None, self.0),
        };
        for index in 0.. {
            if Some(index) == first {
                match items.next_element_seed(Step(rest))? {
                    Some(value) => found = value,
                    None => break,
                }
            } else if items.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
        }
        Ok(found)
    }
}

/// Compares a key in place.
struct KeyIs<'k>(&'k str);

impl<'de> DeserializeSeed<'de> for KeyIs<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_whole_parse_finds() {
        let document =
            br#"{"a":{"b":[1,{"c":"x\u00e4\n"}]},"n":1.50,"t":true,"z":null,"a/b":"s","":{"":"e"},
            "d":1,"d":{"e":2}}"#;
        for (pointer, expected) in [
            ("/a/b/1/c", Some("x\u{e4}\n")),
            ("/a/b/0", Some("1")),
            ("/n", Some("1.50")),
            ("/t", Some("true")),
            ("/z", None),
            ("/a~1b", Some("s")),
            ("//", Some("e")),
            ("/a", None),
            ("/a/b/2", None),
            ("/a/b/x", None),
            ("/n/x", None),
            ("/d/e", Some("2")),
            ("/missing", None),
        ] {
            let found = Pointer::parse(pointer).unwrap().text(document);
            assert_eq!(found.as_deref(), expected, "{pointer}");
        }
        assert_eq!(Pointer::parse("a"), None);
    }

    #[test]
    fn a_broken_document_holds_nothing() {
        let pointer = Pointer::parse("/a").unwrap();
        for document in ["", "{", r#"{"a":1"#, r#"{"a":1} x"#, "[", "nul", "\u{feff}"] {
            assert_eq!(pointer.text(document.as_bytes()), None, "{document}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(pointer.text(deep.as_bytes()), None);
    }
}
