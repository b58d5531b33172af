//! What filters see of an event: the values at the places they look at, and nothing else.

use std::{borrow::Cow, cell::Cell, fmt};

use protocol::frame::Headers;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    VALUES_MAX,
    condition::{Condition, Own, Whole},
    number::Number,
    query,
};
use crate::lifecycle::Event;

/// An event as filters may ask about it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'e> {
    /// The method, as received.
    pub method: &'e str,
    /// The path below the source's URL and the query, as received.
    pub target: &'e str,
    /// The header fields.
    pub headers: &'e Headers,
    /// The body.
    pub body: &'e [u8],
    /// Its type, where known.
    pub event_type: Option<&'e str>,
    /// The name of its source.
    pub source: &'e str,
}

impl<'e> Subject<'e> {
    /// An event and the name of its source.
    pub fn of(event: &'e Event, source: &'e str) -> Self {
        Self {
            method: &event.method,
            target: &event.target,
            headers: &event.headers,
            body: &event.body,
            event_type: event.event_type.as_deref(),
            source,
        }
    }
}

/// A value at a place that filters look at.
#[derive(Debug, Clone, PartialEq)]
pub enum Picked<'e> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text of a JSON body.
    Text(Cow<'e, str>),
    /// A text from elsewhere in the request: it may stand for a number or a boolean.
    Untyped(Cow<'e, str>),
    /// A list.
    List(Vec<Picked<'e>>),
    /// Those fields of an object that some filter names.
    Fields(Vec<(&'e str, Picked<'e>)>),
}

/// What became of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyView {
    /// No filter looks at it.
    Unread,
    /// Filters see it.
    Json,
    /// It is no JSON, or has more than [`VALUES_MAX`] values where filters look: they see none.
    NotJson,
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.compare(*other).is_eq()
    }
}

impl Picked<'_> {
    /// A field of an object.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        let Self::Fields(fields) = self else {
            return None;
        };
        fields
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }
}

/// The places that filters look at.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// By name, sorted.
    fields: Vec<(Box<str>, Shape)>,
}

impl Shape {
    /// The places that any of these filters looks at.
    pub fn of<'f>(filters: impl IntoIterator<Item = &'f super::Filter>) -> Self {
        let mut shape = Self::default();
        for filter in filters {
            shape.add(&filter.root);
        }
        shape
    }

    fn add(&mut self, condition: &Condition) {
        for (_, whole) in &condition.whole {
            match whole {
                Whole::Exist(_) | Whole::IsNone(_) => {}
                Whole::Not(inner) => self.add(inner),
                Whole::All(inner) | Whole::Any(inner) => inner.iter().for_each(|it| self.add(it)),
            }
        }
        for (_, own) in &condition.own {
            if let Own::Field(name, inner) = own {
                let at = self.fields.binary_search_by(|(known, _)| known.cmp(name));
                let at = at.unwrap_or_else(|at| {
                    self.fields.insert(at, (name.clone(), Self::default()));
                    at
                });
                self.fields[at].1.add(inner);
            }
        }
    }

    fn find(&self, name: &str) -> Option<(&str, &Self)> {
        let at = self
            .fields
            .binary_search_by(|(known, _)| (**known).cmp(name));
        let (name, shape) = self.fields.get(at.ok()?)?;
        Some((name, shape))
    }

    /// Picks the values out of an event. The body is read only if some filter looks at it.
    pub fn pick<'e>(&'e self, event: &Subject<'e>) -> (Picked<'e>, BodyView) {
        let mut fields = Vec::with_capacity(self.fields.len());
        let mut view = BodyView::Unread;
        let (path, query) = event.target.split_once('?').unwrap_or((event.target, ""));
        let untyped = |text: &'e str| Some(Picked::Untyped(Cow::Borrowed(text)));
        for (name, shape) in &self.fields {
            let value = match &**name {
                "method" => untyped(event.method),
                "path" => untyped(path),
                "type" => event.event_type.and_then(untyped),
                "source" => untyped(event.source),
                "query" => Some(shape.pick_texts(query::pairs(query))),
                "headers" => Some(shape.pick_texts(texts(event.headers))),
                _ => {
                    let body = shape.pick_json(event.body);
                    view = match body {
                        Some(_) => BodyView::Json,
                        None => BodyView::NotJson,
                    };
                    body
                }
            };
            fields.extend(value.map(|value| (&**name, value)));
        }
        (Picked::Fields(fields), view)
    }

    /// Named texts, of which some may repeat.
    fn pick_texts<'e>(
        &'e self,
        pairs: impl Iterator<Item = (Cow<'e, str>, Cow<'e, str>)>,
    ) -> Picked<'e> {
        let mut fields: Vec<(&str, Picked<'e>)> = Vec::with_capacity(self.fields.len());
        for (name, text) in pairs {
            let Some((name, _)) = self.find(&name) else {
                continue;
            };
            let value = Picked::Untyped(text);
            match fields.iter_mut().find(|(known, _)| *known == name) {
                None => fields.push((name, value)),
                Some((_, Picked::List(values))) => values.push(value),
                Some((_, first)) => {
                    let first_value = std::mem::replace(first, Picked::Null);
                    *first = Picked::List(vec![first_value, value]);
                }
            }
        }
        Picked::Fields(fields)
    }

    fn pick_json<'e>(&'e self, body: &'e [u8]) -> Option<Picked<'e>> {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let left = Cell::new(VALUES_MAX);
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let seed = Pick {
            shape: self,
            left: &left,
        };
        let picked = seed.deserialize(&mut deserializer).ok()?;
        deserializer.end().ok()?;
        Some(picked)
    }
}

/// Header fields with names in lower case. Bytes that are no text become U+FFFD.
fn texts(headers: &Headers) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    headers.0.iter().map(|(name, value)| {
        let name = match String::from_utf8_lossy(name) {
            name if name.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                Cow::Owned(name.to_ascii_lowercase())
            }
            name => name,
        };
        (name, String::from_utf8_lossy(value))
    })
}

/// Reads one value of a body: of objects only the fields in `shape`.
#[derive(Clone, Copy)]
struct Pick<'e, 'l> {
    shape: &'e Shape,
    /// How many more values may be kept.
    left: &'l Cell<usize>,
}

impl<'e> Pick<'e, '_> {
    fn keep<E: de::Error>(self, value: Picked<'e>) -> Result<Picked<'e>, E> {
        let left = self.left.get().checked_sub(1);
        self.left
            .set(left.ok_or_else(|| E::custom("too many values"))?);
        Ok(value)
    }
}

impl<'e> DeserializeSeed<'e> for Pick<'e, '_> {
    type Value = Picked<'e>;

    fn deserialize<D: Deserializer<'e>>(self, deserializer: D) -> Result<Picked<'e>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'e> Visitor<'e> for Pick<'e, '_> {
    type Value = Picked<'e>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Picked<'e>, E> {
        self.keep(Picked::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Picked<'e>, E> {
        self.keep(Picked::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Picked<'e>, E> {
        self.keep(Picked::Number(Number::Whole(value.into())))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Picked<'e>, E> {
        self.keep(Picked::Number(Number::Whole(value.into())))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Picked<'e>, E> {
        self.keep(Picked::Number(Number::Float(value)))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'e str) -> Result<Picked<'e>, E> {
        self.keep(Picked::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Picked<'e>, E> {
        self.keep(Picked::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'e>>(self, mut items: A) -> Result<Picked<'e>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        self.keep(Picked::List(list))
    }

    fn visit_map<A: MapAccess<'e>>(self, mut map: A) -> Result<Picked<'e>, A::Error> {
        let mut fields: Vec<(&'e str, Picked<'e>)> = Vec::new();
        while let Some(known) = map.next_key_seed(Key(self.shape))? {
            let Some((name, shape)) = known else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = map.next_value_seed(Pick { shape, ..self })?;
            // Of a repeated key the last one counts, as in most parsers.
            match fields.iter_mut().find(|(earlier, _)| *earlier == name) {
                Some((_, earlier)) => *earlier = value,
                None => fields.push((name, value)),
            }
        }
        self.keep(Picked::Fields(fields))
    }
}

/// Finds a key among those that filters name.
struct Key<'e>(&'e Shape);

impl<'e> DeserializeSeed<'e> for Key<'e> {
    type Value = Option<(&'e str, &'e Shape)>;

    fn deserialize<D: Deserializer<'e>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'e> Visitor<'e> for Key<'e> {
    type Value = Option<(&'e str, &'e Shape)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.find(key))
    }
}
