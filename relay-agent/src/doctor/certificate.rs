//! What people want to know of a certificate: whose it is, who signed it, when it is valid. Reads DER
//! (X.690) as far as that needs; whether to trust it is decided elsewhere.

use jiff::{Timestamp, civil, tz::TimeZone};
use ring::digest;

use crate::link::for_people;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const VERSION: u8 = 0xa0;

/// Attributes of a name, the telling ones first: common name, organisation, unit.
const ATTRIBUTES: [[u8; 3]; 3] = [[0x55, 4, 3], [0x55, 4, 10], [0x55, 4, 11]];

/// A certificate, for people. Its texts are fit for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    /// The SHA-256 of the whole, as browsers show it.
    pub(super) fingerprint: String,
}

impl Certificate {
    /// Reads one. Nothing if it is not a certificate.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let mut certificate = Der(Der(der).take(SEQUENCE)?);
        let mut fields = Der(certificate.take(SEQUENCE)?);
        if fields.peek() == Some(VERSION) {
            fields.any()?;
        }
        // Serial number and signature algorithm.
        fields.any()?;
        fields.any()?;
        let issuer = name(fields.take(SEQUENCE)?);
        let mut validity = Der(fields.take(SEQUENCE)?);
        let (not_before, not_after) = (time(validity.any()?)?, time(validity.any()?)?);
        let subject = name(fields.take(SEQUENCE)?);
        let digest = digest::digest(&digest::SHA256, der);
        let bytes = digest.as_ref().iter().map(|byte| format!("{byte:02X}"));
        Some(Self {
            subject,
            issuer,
            not_before,
            not_after,
            fingerprint: bytes.collect::<Vec<_>>().join(":"),
        })
    }
}

/// What is left of a text in DER.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The content of the next element, if it is of this kind.
    fn take(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let (tag, content) = self.any()?;
        (tag == wanted).then_some(content)
    }

    /// Kind and content of the next element.
    fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let shift = |length: u64, byte: &u8| length << 8 | u64::from(*byte);
                let length = bytes.iter().fold(0, shift);
                (usize::try_from(length).ok()?, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }
}

/// A distinguished name: common name, organisation and unit, as far as it has them.
fn name(content: &[u8]) -> String {
    let mut found: [Option<String>; ATTRIBUTES.len()] = Default::default();
    let mut sets = Der(content);
    while let Some(set) = sets.take(SET) {
        let mut pairs = Der(set);
        while let Some(pair) = pairs.take(SEQUENCE) {
            let mut pair = Der(pair);
            let attribute = pair.take(OBJECT_ID);
            let place = ATTRIBUTES
                .iter()
                .position(|known| Some(&known[..]) == attribute);
            if let (Some(place), Some((kind, value))) = (place, pair.any()) {
                found[place].get_or_insert_with(|| text(kind, value));
            }
        }
    }
    let mut parts: Vec<_> = found.into_iter().flatten().collect();
    parts.dedup();
    match parts.is_empty() {
        true => "(no name)".to_owned(),
        false => for_people(&parts.join(", ")),
    }
}

/// A text in one of the forms that names have.
fn text(kind: u8, value: &[u8]) -> String {
    match kind {
        // BMPString
        0x1e => {
            let units = value
                .chunks_exact(2)
                .map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
            char::decode_utf16(units)
                .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        // T61String: in practice Latin-1.
        0x14 => value.iter().copied().map(char::from).collect(),
        _ => String::from_utf8_lossy(value).into_owned(),
    }
}

/// `YYMMDDhhmmssZ` (UTCTime: 1950 to 2049) or `YYYYMMDDhhmmssZ` (GeneralizedTime).
fn time((kind, value): (u8, &[u8])) -> Option<Timestamp> {
    let digits = std::str::from_utf8(value).ok()?.strip_suffix('Z')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match kind {
        0x17 => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: i16 = year.parse().ok()?;
            (year + if year < 50 { 2000 } else { 1900 }, rest)
        }
        0x18 => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 {
        return None;
    }
    let part = |index: usize| rest.get(index * 2..index * 2 + 2)?.parse::<i8>().ok();
    let moment = civil::DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, 0);
    TimeZone::UTC.to_timestamp(moment.ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn a_certificate_is_read() {
        let mut params = CertificateParams::new(["relay.test".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "Pr\u{fc}fer\u{1b}[2J");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Corp");
        params.not_before = date_time_ymd(1999, 12, 31);
        params.not_after = date_time_ymd(2051, 2, 3);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let read = Certificate::read(certificate.der()).unwrap();
        assert_eq!(read.subject, "Pr\u{fc}fer[2J, Corp");
        assert_eq!(read.issuer, read.subject);
        assert_eq!(read.not_before.to_string(), "1999-12-31T00:00:00Z");
        assert_eq!(read.not_after.to_string(), "2051-02-03T00:00:00Z");
        assert_eq!(read.fingerprint.len(), 32 * 3 - 1);

        // Cut anywhere, it is no certificate; wherever a bit is wrong, nothing breaks.
        let der = certificate.der();
        for end in 0..der.len() {
            assert_eq!(Certificate::read(&der[..end]), None);
        }
        for place in 0..der.len() {
            let mut damaged = der.to_vec();
            damaged[place] ^= 0xff;
            let _ = Certificate::read(&damaged);
        }
    }

    #[test]
    fn texts_have_many_forms() {
        assert_eq!(text(0x0c, "\u{fc}".as_bytes()), "\u{fc}");
        assert_eq!(text(0x13, b"a"), "a");
        assert_eq!(text(0x14, b"\xfc"), "\u{fc}");
        assert_eq!(text(0x1e, b"\0a\0\xfc"), "a\u{fc}");
        assert_eq!(text(0x0c, b"\xff"), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Certificate::read(&bytes);
            let _ = name(&bytes);
            let _ = time((0x17, &bytes));
        }
    }
}
