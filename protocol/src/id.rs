//! Identifiers: a three-letter kind and a ULID in lower case, such as
//! `evt_01m84384yvt65ca6cebw018p38`. They sort by the time they were made.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use ulid::Ulid;

/// A text that is not the identifier it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid id: expected {expected}_ and 26 characters of lower-case Crockford base 32")]
pub struct InvalidId {
    expected: &'static str,
}

/// Formats as `kind_ulid`.
fn write_id(f: &mut fmt::Formatter<'_>, kind: &str, value: u128) -> fmt::Result {
    let mut text = [0; ulid::ULID_LEN];
    let text = Ulid(value).array_to_str(&mut text);
    text.make_ascii_lowercase();
    write!(f, "{kind}_{text}")
}

/// Parses `kind_ulid`; upper-case letters are refused so that every id has one spelling.
fn parse_id(kind: &'static str, text: &str) -> Result<u128, InvalidId> {
    let invalid = InvalidId { expected: kind };
    let Some(rest) = text
        .strip_prefix(kind)
        .and_then(|rest| rest.strip_prefix('_'))
    else {
        return Err(invalid);
    };
    if rest.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(invalid);
    }
    match Ulid::from_string(rest) {
        Ok(ulid) => Ok(ulid.0),
        Err(_) => Err(invalid),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// The prefix of the text form.
            pub const KIND: &'static str = $kind;

            /// Wraps the 128 bits of a ULID.
            pub const fn from_u128(value: u128) -> Self {
                Self(value)
            }

            /// The 128 bits of the ULID, as stores keep them.
            pub const fn as_u128(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_id(f, $kind, self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse_id($kind, text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

id! {
    /// An isolated customer of the relay.
    TenantId, "ten"
}
id! {
    /// A public ingress URL of a tenant.
    SourceId, "src"
}
id! {
    /// A named queue of a tenant.
    DestinationId, "dst"
}
id! {
    /// A connection from a source to a destination.
    RouteId, "rte"
}
id! {
    /// A credential.
    TokenId, "tok"
}
id! {
    /// One accepted request.
    EventId, "evt"
}
id! {
    /// The obligation to hand one event to one destination.
    DeliveryId, "dlv"
}
id! {
    /// One replay of a delivery and its outcome.
    AttemptId, "att"
}
id! {
    /// A request of an operator to deliver stored events again.
    ReplayId, "rpl"
}
id! {
    /// One installation of an agent; it outlives connections and, with a journal, restarts.
    AgentId, "agt"
}
id! {
    /// One live connection of an agent.
    SessionId, "ses"
}
id! {
    /// One link of the fall-back transport; its agent draws it at random.
    PipeId, "pip"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_has_one_spelling() {
        let id = EventId::from_u128(0x0192_3456_789a_bcde_f012_3456_789a_bcde);
        let text = id.to_string();

        assert_eq!(text.len(), 30);
        assert_eq!(text.parse(), Ok(id));
        for wrong in [
            text.to_uppercase(),
            text.replace("evt_", "dlv_"),
            text.replace("evt_", ""),
            format!("{text}0"),
            text[..29].to_owned(),
            text.replace(&text[10..11], "u"),
            String::new(),
        ] {
            assert!(wrong.parse::<EventId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn order_of_text_is_order_of_value() {
        let early = DeliveryId::from_u128(1 << 80);
        let late = DeliveryId::from_u128(2 << 80);

        assert!(early < late);
        assert!(early.to_string() < late.to_string());
    }
}
