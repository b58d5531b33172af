//! Taking signatures out of the places where providers put them.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    Bound, Refusal, Request,
    rule::{Encoding, Layout, Signed, TimestampFrom},
    template::Place,
};

/// Signatures tried per request: more than any rotation sends.
pub(super) const SIGNATURES_MAX: usize = 16;

/// Longest text of one signature place, in bytes: sixteen RSA signatures of 8192 bits.
const SIGNATURE_TEXT_BYTES_MAX: usize = 32 * 1024;

/// The signatures of a request, and the time that stood beside them.
#[derive(Default)]
pub(super) struct Signatures {
    pub(super) decoded: Vec<Vec<u8>>,
    /// Signatures seen, decodable or not.
    count: usize,
    pub(super) time: Option<String>,
}

impl Signatures {
    pub(super) fn find(
        bound: &Bound,
        signed: &Signed,
        request: &Request<'_>,
    ) -> Result<Self, Refusal> {
        let mut found = Self::default();
        let json_field = bound.rule.spec.json_field.as_deref();
        for place in &signed.places {
            let Some(value) = place.value(request, json_field)? else {
                continue;
            };
            if value.len() > SIGNATURE_TEXT_BYTES_MAX {
                return Err(Refusal::malformed(place.to_string(), "it is too long"));
            }
            let text = std::str::from_utf8(&value)
                .map_err(|_| Refusal::malformed(place.to_string(), "it is not UTF-8"))?;
            found.split(text, signed, place)?;
        }
        if found.count > SIGNATURES_MAX {
            let max = SIGNATURES_MAX;
            return Err(Refusal::TooManySignatures { max });
        }
        let first = || {
            signed
                .places
                .first()
                .map(Place::to_string)
                .unwrap_or_default()
        };
        match (found.decoded.is_empty(), found.count, signed.encoding) {
            (false, ..) => Ok(found),
            (true, 0, _) => Err(Refusal::missing(format!("signature in {}", first()))),
            (true, _, Encoding::Hex) => {
                Err(Refusal::malformed(first(), "expected a signature in hex"))
            }
            (true, ..) => Err(Refusal::malformed(
                first(),
                "expected a signature in base64",
            )),
        }
    }

    fn split(&mut self, value: &str, signed: &Signed, place: &Place) -> Result<(), Refusal> {
        match &signed.layout {
            Layout::Raw { prefix } => {
                if let Some(text) = value.trim_ascii().strip_prefix(prefix.as_str()) {
                    self.push(text, signed.encoding);
                }
            }
            Layout::Positional { item } => {
                let mut items = value.split(*item).map(str::trim_ascii);
                self.capture(items.next().unwrap_or_default(), place)?;
                let texts = items.filter(|item| !item.is_empty());
                texts.for_each(|text| self.push(text, signed.encoding));
            }
            Layout::List { item, pair, keys } => {
                for (key, value) in value.split(*item).filter_map(|item| item.split_once(*pair)) {
                    let (key, value) = (key.trim_ascii(), value.trim_ascii());
                    if keys.iter().any(|wanted| wanted == key) {
                        self.push(value, signed.encoding);
                    } else if signed.captures(key) {
                        self.capture(value, place)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, text: &str, encoding: Encoding) {
        self.count += 1;
        if self.count <= SIGNATURES_MAX {
            self.decoded.extend(decode(text, encoding));
        }
    }

    /// A time that comes twice with different values leaves open which one was signed.
    fn capture(&mut self, time: &str, place: &Place) -> Result<(), Refusal> {
        if self.time.as_ref().is_some_and(|known| known != time) {
            let what = format!("the time in {place}");
            return Err(Refusal::Duplicate { what });
        }
        self.time = Some(time.to_owned());
        Ok(())
    }
}

impl Signed {
    /// Whether the time stands under this key of the signature list.
    fn captures(&self, key: &str) -> bool {
        self.timestamp
            .as_ref()
            .is_some_and(|timestamp| match &timestamp.from {
                TimestampFrom::Capture(wanted) => wanted == key,
                TimestampFrom::Place(_) => false,
            })
    }
}

/// Decodes strictly: whole bytes only, canonical, no blanks.
pub(super) fn decode(text: &str, encoding: Encoding) -> Option<Vec<u8>> {
    let bytes = match encoding {
        Encoding::Hex => hex::decode(text).ok(),
        Encoding::Base64 => BASE64_STANDARD.decode(text).ok(),
        Encoding::Base64Url => {
            let standard = text
                .trim_end_matches('=')
                .replace('-', "+")
                .replace('_', "/");
            base64::prelude::BASE64_STANDARD_NO_PAD
                .decode(standard)
                .ok()
        }
    };
    bytes.filter(|bytes| !bytes.is_empty())
}
